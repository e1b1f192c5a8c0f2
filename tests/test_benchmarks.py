"""The benchmarks' arithmetic, their turns, and that a missing peer is named. Nothing is timed."""

import ast
import importlib
import json
import subprocess
import sys

import pytest
import torch

from benchmarks import harness, interpreters, report, timing
from benchmarks.__main__ import main
from benchmarks.cases import CASES, MODULES
from benchmarks.harness import MILLISECONDS, MORE_MILLISECONDS, STEPS_PER_SECOND, Plan, Side, Task
from benchmarks.interpreters import MissingPeer, Worker, Workers, interpreter_of
from benchmarks.peers import LIBRARIES, PEERS, Library

QUICK = Plan(rounds=2, round_seconds=1e-4)
NOWHERE = Library("Nowhere", ("no_such_module",), ("no-such-package",), PEERS)


def side(seconds, work=1, name="a side"):
    return Side(name, work, 0.0, None, {}, 1, seconds)


class Fake:
    """A clock whose calls take as long as they are told to."""

    def __init__(self, name, seconds, log):
        self.name, self.seconds, self.log = name, seconds, log
        self.first_seconds = 0.0

    def seconds_per_call(self, calls):
        self.log.append((self.name, calls))
        return self.seconds


def peer_that_prints():
    """Run by a worker: noise on both outputs, before and while it is timed."""
    print("noise", flush=True)
    return lambda: subprocess.run([sys.executable, "-c", "print('more noise')"], check=True)


def peer_that_fails():
    raise ValueError("it does not like these sizes")


def peer_that_holds(mebibytes):
    """Fill so much memory, and let go of it."""
    return lambda: b"x" * (mebibytes * 2**20)


def peer_that_dies():
    import os

    print("the last words", file=sys.stderr, flush=True)
    os._exit(3)


# arithmetic


def test_comparison_pairs_the_rounds_before_it_takes_the_median():
    # A load that triples both sides in one round changes no ratio; medians apart would be 2/2.
    ours, peer = side([1.0, 6.0, 2.0, 2.0, 1.0]), side([2.0, 12.0, 4.0, 2.0, 1.0])
    assert harness.comparison(ours, peer, MILLISECONDS).median == 0.5


def test_spread_leaves_a_tenth_of_the_rounds_out_at_either_end():
    assert harness.summary([float(i) for i in range(11)]) == (5.0, 1.0, 9.0)
    assert harness.summary([3.0, 1.0]) == pytest.approx((2.0, 1.2, 2.8))
    assert harness.summary([7.0]) == (7.0, 7.0, 7.0)


def test_rates_count_the_work_of_each_side_by_itself():
    ours, peer = side([2.0], work=600), side([1.0], work=100)
    assert harness.values(ours, STEPS_PER_SECOND) == [300.0]
    assert harness.comparison(ours, peer, STEPS_PER_SECOND).median == 3.0
    assert harness.comparison(ours, peer, MORE_MILLISECONDS).median == pytest.approx(-20 / 3)


@pytest.mark.parametrize(
    ("x", "text"),
    [(0.0123456, "0.0123"), (1.5, "1.50"), (123.4, "123"), (12345.6, "12,346"), (0.0, "0.00")],
)
def test_numbers_are_shown_to_three_digits(x, text):
    assert report.shown(x) == text


# turns


def test_sides_take_turns_in_every_round():
    log = []
    clocks = [Fake("ours", 0.5, log), Fake("peer", 1.0, log)]
    measured = harness.alternate(clocks, Plan(rounds=3, round_seconds=2.0))
    assert measured == [(4, [0.5] * 3), (2, [1.0] * 3)]
    assert log[-6:] == [("ours", 4), ("peer", 2)] * 3


@pytest.mark.parametrize(("seconds", "calls"), [(10.0, 1), (0.3, 3), (0.001, 1000), (1e-9, 10_000)])
def test_calls_fill_a_round_as_far_as_they_may(seconds, calls):
    assert harness.calls_per_round(Fake("", seconds, []), 1.0) == calls


def test_a_second_call_that_compiles_again_does_not_pass_for_a_slow_one():
    clock = Fake("", 0.01, [])
    waits = iter([2.5])
    clock.seconds_per_call = lambda calls: next(waits, clock.seconds)
    assert harness.calls_per_round(clock, 1.0) == 100


def test_timer_wakes_before_short_calls_and_tells_the_seconds_of_one(monkeypatch):
    now, called = [0.0], []

    def call():
        called.append(now[0])
        now[0] += 5.0 if len(called) == 1 else 0.5

    monkeypatch.setattr(timing, "perf_counter", lambda: now[0])
    timer = timing.Timer(call)
    assert timer.first_seconds == 5.0
    assert timer.seconds_per_call(4) == 0.5 and len(called) == 1 + 1 + 4
    assert timer.seconds_per_call(1) == 0.5 and len(called) == 6 + 1


def test_every_side_keeps_its_own_rounds(monkeypatch):
    class FakePeer(Fake):
        threads, versions = 7, {"peer": "1.0"}

        def __init__(self, peer, workers):
            super().__init__(peer.name, float(peer.name), [])

        def forget(self):
            pass

    monkeypatch.setattr(harness, "Timer", lambda seconds: Fake("", seconds, []))
    monkeypatch.setattr(harness, "_PeerTimer", FakePeer)
    task = Task(
        "four sides",
        ours=[harness.Ours("a", lambda: 1.0), harness.Ours("b", lambda: 2.0)],
        peers=[harness.Peer("3", "x:y"), harness.Peer("4", "x:y")],
    )
    result = harness.run(task, QUICK, Workers())
    assert [side.seconds for side in result.ours] == [[1.0] * 2, [2.0] * 2]
    assert [side.seconds for side in result.peers] == [[3.0] * 2, [4.0] * 2]


# peers


def test_missing_library_is_named_with_its_variable(monkeypatch):
    monkeypatch.setitem(LIBRARIES, "nowhere", NOWHERE)
    monkeypatch.delenv(PEERS, raising=False)
    with pytest.raises(
        MissingPeer, match=rf"^no no_such_module here; set {PEERS}=.*no-such-package"
    ):
        interpreter_of("nowhere")


def test_interpreter_that_lacks_the_library_is_named(monkeypatch):
    monkeypatch.setitem(LIBRARIES, "nowhere", NOWHERE)
    monkeypatch.setenv(PEERS, sys.executable)
    with pytest.raises(MissingPeer, match=rf"^{PEERS}={sys.executable}: has no no_such_module$"):
        interpreter_of("nowhere")


def test_interpreter_that_does_not_run_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(LIBRARIES, "nowhere", NOWHERE)
    monkeypatch.setenv(PEERS, str(tmp_path / "python"))
    with pytest.raises(MissingPeer, match="is no Python interpreter that runs"):
        interpreter_of("nowhere")


def test_worker_survives_noise_and_failures_and_tells_of_its_death():
    worker = Worker(sys.executable)
    here = "tests.test_benchmarks"
    try:
        told = worker.prepare(f"{here}:peer_that_prints", {}, ("torch",))
        assert told["number"] == 0 and told["versions"]["torch"]
        assert worker.seconds_per_call(0, calls=1) > 0
        with pytest.raises(MissingPeer, match=r"^ValueError: it does not like these sizes$"):
            worker.prepare(f"{here}:peer_that_fails", {})
        assert worker.alive
        with pytest.raises(MissingPeer, match=r"its process ended: .*the last words"):
            worker.prepare(f"{here}:peer_that_dies", {})
    finally:
        worker.close()
    assert not worker.alive


def test_worker_tells_the_largest_memory_of_its_process():
    here, worker = "tests.test_benchmarks", Worker(sys.executable)
    try:
        little = worker.prepare(f"{here}:peer_that_holds", {"mebibytes": 1})["number"]
        much = worker.prepare(f"{here}:peer_that_holds", {"mebibytes": 200})["number"]
        before, peak = (worker.peak_mebibytes(number, 1) for number in (little, much))
        again = worker.peak_mebibytes(little, 1)
    finally:
        worker.close()
    assert 150 < peak - before < 250 and abs(again - before) < 50


def test_missing_peer_is_told_beside_the_others(monkeypatch):
    monkeypatch.setitem(LIBRARIES, "nowhere", NOWHERE)
    monkeypatch.delenv(PEERS, raising=False)
    task = Task(
        "nothing",
        ours=[harness.Ours("ours", lambda: lambda: None)],
        peers=[harness.Peer("Nowhere", "nowhere:nothing")],
    )
    with Workers() as workers:
        result = harness.run(task, QUICK, workers)
    assert not result.peers and len(result.ours[0].seconds) == QUICK.rounds
    assert "not run: Nowhere: no no_such_module here; set" in report.table(result)


# cases


@pytest.mark.parametrize("name", CASES)
def test_every_peer_of_a_case_is_written(name):
    for task in importlib.import_module(MODULES[name]).tasks(quick=True):
        assert task.ours and task.peers
        for peer in task.peers:
            library, function = peer.function.split(":")
            assert LIBRARIES[library].modules
            source = (interpreters.ROOT / f"benchmarks/peers/{library}.py").read_text("utf-8")
            (found,) = (
                node
                for node in ast.parse(source).body
                if isinstance(node, ast.FunctionDef) and node.name == function
            )
            known = dict(zip((a.arg for a in found.args.kwonlyargs), found.args.kw_defaults))
            needed = {name for name, default in known.items() if default is None}
            assert needed <= set(peer.arguments) <= set(known)
            json.dumps(dict(peer.arguments))


@pytest.fixture
def own_threads(monkeypatch):
    """Whatever threads a test chooses, the next one has the old ones."""
    for name in interpreters.thread_variables(1):
        monkeypatch.setenv(name, "1")
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_one_case_runs_and_keeps_its_rounds(own_threads, monkeypatch, capsys, tmp_path):
    gae = importlib.import_module(MODULES["gae"])
    (task,) = gae.tasks(quick=True)
    eager = task._replace(ours=[side for side in task.ours if side.name == "eager"], peers=[
        harness.Peer("torch fused", "torch:adam", {"shapes": [[2, 3]], "fused": True})
    ])  # fmt: skip
    monkeypatch.setattr(gae, "tasks", lambda quick: [eager])
    path = tmp_path / "rounds.json"
    arguments = ["gae", "--quick", "--rounds", "2", "--threads", "3", "--json", str(path)]
    assert main(arguments) == 0
    out = capsys.readouterr().out
    for text in (task.name, "processor", "load average", "commit", "÷ torch fused", "peers: torch"):
        assert text in out
    kept = json.loads(path.read_text("utf-8"))
    (result,) = kept["results"]
    assert kept["quick"] and kept["about"]["torch"]
    sides = [*result["ours"], *result["peers"]]
    assert [(len(side["seconds"]), side["threads"]) for side in sides] == [(2, 3), (2, 3)]


def test_help_names_every_case_and_loads_no_torch():
    code = (
        "import sys\nfrom benchmarks.__main__ import main\n"
        "try:\n    main(['--help'])\nfinally:\n    assert 'torch' not in sys.modules"
    )
    command = [sys.executable, "-c", code]
    run = subprocess.run(command, cwd=interpreters.ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    for text in (*CASES, "OPTINFRA_BENCH_MLAGENTS", PEERS):
        assert text in run.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gea"], "no case 'gea'; did you mean gae?"),
        (["zzz"], "no case 'zzz'; known: ppo_update, adam"),
        (["--rounds", "0"], "must be at least 1, got 0"),
    ],
)
def test_wrong_arguments_are_refused_in_one_line(arguments, message, capsys):
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    assert message in capsys.readouterr().err
