"""Reporting: names, metrics, the progress display and pictures of `optinfra.train`."""

import csv
import io
import math
import os
import re
import signal
import struct
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from rich.console import Console

from optinfra.train import metrics as metrics_module
from optinfra.train.metrics import EpisodeWindow, MetricsWriter, read_metrics
from optinfra.train.names import tag, tagged
from optinfra.train.plots import learning_curve
from optinfra.train.progress import Progress, Snapshot, as_frame, as_line

finite = st.floats(-1e6, 1e6, allow_nan=False, width=32)
MANY = [(float(i % 7), i) for i in range(1, 251)]  # more than the window holds
episodes = st.lists(st.tuples(finite, st.integers(1, 1000)), max_size=250)
words = st.from_regex(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", fullmatch=True)


# --------------------------------------------------------------------------------------- names


@pytest.mark.parametrize(
    "name, expected",
    [
        ("policy_loss", "Losses/Policy Loss"),
        ("value_loss", "Losses/Value Loss"),
        ("learning_rate", "Policy/Learning Rate"),
        ("clip_range", "Policy/Epsilon"),
        ("entropy_coef", "Policy/Beta"),
        ("entropy", "Policy/Entropy"),
        ("extrinsic_reward", "Policy/Extrinsic Reward"),
        ("gail_value", "Policy/Gail Value Estimate"),
        ("episode_return_mean", "Environment/Cumulative Reward"),
        ("episode_length", "Environment/Episode Length"),
        ("approx_kl", "Diagnostics/Approximate KL"),
        ("clip_fraction", "Diagnostics/Clip Fraction"),
        ("explained_variance", "Diagnostics/Explained Variance"),
        ("grad_norm", "Diagnostics/Gradient Norm"),
        ("steps_per_second", "Diagnostics/Steps Per Second"),
    ],
)
def test_tag_is_upstreams_where_it_has_one(name, expected):
    assert tag(name) == expected


@given(st.lists(words, min_size=2, max_size=2, unique=True))
def test_tags_of_different_names_differ(names):
    first, second = map(tag, names)
    assert first != second
    assert re.fullmatch(r"(Losses|Policy|Environment|Diagnostics)/\S.*", first)


@given(st.dictionaries(words | st.just("policy_loss"), finite))
def test_tagging_renames_and_takes_the_sign_of_the_policy_loss_alone(stats):
    expected = {tag(name): x for name, x in stats.items() if name != "policy_loss"}
    if "policy_loss" in stats:
        expected["Losses/Policy Loss"] = abs(stats["policy_loss"])
    assert tagged(stats) == expected


# -------------------------------------------------------------------------------------- window


def window_of(ended, state=None):
    window = EpisodeWindow(state)
    for total_return, length in ended:
        window.add(total_return, length)
    return window


@given(episodes)
@example(MANY)
def test_window_mean_is_of_the_last_hundred_returns(ended):
    window = window_of(ended)
    expected = np.mean([r for r, _ in ended[-100:]]) if ended else math.nan
    np.testing.assert_allclose(window.mean, expected, rtol=1e-9, atol=1e-6)
    assert window.episodes == len(ended)


@given(episodes, episodes)
def test_window_drains_what_happened_since_the_last_time(before, since):
    window = window_of(before)
    window.drain()
    for total_return, length in since:
        window.add(total_return, length)
    drained = window.drain()
    returns, lengths = ([x[i] for x in since] or [math.nan] for i in (0, 1))
    expected = [window.mean, np.mean(returns), min(returns), max(returns), np.mean(lengths)]
    np.testing.assert_allclose(list(drained.values()), expected, rtol=1e-9, atol=1e-6)
    assert list(drained) == list(metrics_module.EPISODE_COLUMNS)


@given(episodes, episodes, st.booleans())
@example(MANY, MANY[:30], True)
@example(MANY, [], False)
def test_window_goes_on_from_its_state_bit_for_bit(before, after, drained):
    window = window_of(before)
    if drained:
        window.drain()
    state = window.state()
    restored = window_of(after, state)
    for total_return, length in after:
        window.add(total_return, length)
    np.testing.assert_equal([restored.mean, restored.episodes], [window.mean, window.episodes])
    np.testing.assert_equal(restored.drain(), window.drain())
    empty = EpisodeWindow().state()
    assert [(x.shape, x.dtype) for x in state] == [(x.shape, x.dtype) for x in empty]


def test_window_state_is_independent_of_what_follows():
    window = window_of([(1.0, 1)])
    state = window.state()
    window.add(5.0, 1)
    assert EpisodeWindow(state).mean == 1.0
    assert torch.isnan(state.returns).sum() == 99


@pytest.mark.parametrize("returns", [(math.nan, 1.0), (1.0, math.nan)])
def test_window_shows_a_return_that_is_not_a_number(returns):
    window = window_of([(r, 1) for r in returns])
    assert math.isnan(window.mean)
    assert math.isnan(EpisodeWindow(window.state()).mean)
    drained = window.drain()
    assert all(math.isnan(drained[f"episode_return_{x}"]) for x in ("mean", "min", "max"))


# ------------------------------------------------------------------------------------- metrics


class Clock:
    """Seconds that pass when told so."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


def write_rows(directory, steps, stats=lambda i: {"policy_loss": -float(i)}, start_steps=0):
    clock = Clock()
    with MetricsWriter(directory, start_steps=start_steps, clock=clock) as writer:
        for i in steps:
            clock.now += 2.0
            writer.write(i, window_of([(float(i), 3)]), stats(i))
    return directory / "metrics.csv"


rows_of_stats = st.lists(
    st.dictionaries(st.sampled_from("abcd"), st.floats(width=32), max_size=4), max_size=6
)


@given(rows_of_stats)
@example([{"b": 1.0}, {"a": math.nan}, {"b": -math.inf}])
def test_metrics_read_what_was_written_whatever_columns_a_row_brings(rows):
    with fresh_directory() as directory:
        path = write_rows(directory, range(len(rows)), lambda i: rows[i])
        read = read_metrics(path)
    names = {name for row in rows for name in row}
    assert set(read) - set(metrics_module.COLUMNS) == names
    for name in names:
        expected = [row.get(name, math.nan) for row in rows]
        np.testing.assert_allclose(read[name], expected, rtol=1e-6)
    if rows:
        np.testing.assert_array_equal(read["steps"], np.arange(len(rows)))
        np.testing.assert_allclose(read["seconds"], 2.0 * np.arange(1, len(rows) + 1))


@contextmanager
def fresh_directory():
    """A folder for one example of hypothesis, without disk syncs: they cost 10 ms each."""
    with TemporaryDirectory() as directory, pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield Path(directory)


def test_metrics_columns_are_fixed_ones_then_sorted_stats(tmp_path):
    path = write_rows(tmp_path, [10], lambda _: {"z": 1.0, "a": 2.0})
    header, row = path.read_text().splitlines()
    assert header == (
        "steps,seconds,episodes,mean_return,episode_return_mean,episode_return_min,"
        "episode_return_max,episode_length,steps_per_second,a,z"
    )
    assert row == "10,2,1,10,10,10,10,3,5,2,1"


def test_metrics_keep_every_digit_of_the_steps(tmp_path):
    path = write_rows(tmp_path, [123_456_789_012, np.int64(123_456_789_013)])
    assert read_metrics(path)["steps"].tolist() == [123_456_789_012, 123_456_789_013]


def test_metrics_rate_is_of_the_time_since_the_last_row(tmp_path):
    path = write_rows(tmp_path, [100, 104, 124])
    assert read_metrics(path)["steps_per_second"].tolist() == [50.0, 2.0, 10.0]


def test_metrics_are_on_disk_while_the_writer_is_open(tmp_path):
    writer = MetricsWriter(tmp_path)
    for i in (1, 2):
        writer.write(i, EpisodeWindow(), {"loss": 0.5})
        assert read_metrics(tmp_path / "metrics.csv")["steps"].tolist() == list(range(1, i + 1))
        assert len(scalars(tmp_path)["Diagnostics/Loss"]) == i
    writer.__exit__()


@given(st.data())
def test_metrics_cut_anywhere_lose_only_the_row_that_is_cut(data):
    with fresh_directory() as directory:
        path = write_rows(directory, [10, 20, 30])
        whole = path.read_bytes()
        cut = data.draw(st.integers(0, len(whole)))
        path.write_bytes(whole[:cut])
        complete = max(whole[:cut].count(b"\n") - 1, 0)
        read = read_metrics(path)
        assert read.get("steps", np.zeros(0)).tolist() == [10, 20, 30][:complete]
        write_rows(directory, [40], start_steps=30)
        assert read_metrics(path)["steps"].tolist() == [*[10, 20, 30][:complete], 40]
        assert path.read_bytes().splitlines()[1:-1] == whole.splitlines()[1 : 1 + complete]


@given(st.integers(0, 45))
@example(20)
def test_metrics_resumed_drop_later_rows_and_keep_the_others_as_they_are(resumed):
    with fresh_directory() as directory:
        path = write_rows(directory, [10, 20, 30, 40])
        before = path.read_text().splitlines()
        write_rows(directory, [resumed + 7], lambda _: {"new": 1.0}, start_steps=resumed)
        read, after = read_metrics(path), path.read_text().splitlines()
    kept = [i for i in (10, 20, 30, 40) if i <= resumed]
    assert read["steps"].tolist() == [*kept, resumed + 7]
    assert read["new"].tolist()[-1] == 1.0 and np.isnan(read["new"][:-1]).all()
    assert ("policy_loss" in read) == bool(kept)
    assert [row.removesuffix(",") for row in after[1:-1]] == before[1 : 1 + len(kept)]
    assert read["seconds"][-1] == 2.0 * len(kept) + 2.0
    assert read["steps_per_second"][-1] == 3.5


def test_metrics_replacement_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = write_rows(tmp_path, [10, 20])
    before = path.read_text()

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        MetricsWriter(tmp_path, start_steps=10)
    assert path.read_text() == before
    assert not list(tmp_path.glob("*.tmp"))


@pytest.mark.parametrize(
    "text, message",
    [
        ("steps,seconds\n1,2\n3\n", r"metrics\.csv` must have 2 cells in line 3, got 1\."),
        (
            "steps,seconds\n1,two\n",
            r"metrics\.csv` must hold numbers in line 2, got \['1', 'two'\]",
        ),
        ("time,loss\n1,2\n", r"must have the columns steps and seconds, got \['time', 'loss'\]\."),
    ],
)
def test_metrics_that_are_damaged_are_refused_and_left_alone(tmp_path, text, message):
    (tmp_path / "metrics.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        MetricsWriter(tmp_path)
    assert (tmp_path / "metrics.csv").read_text() == text
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.csv"]


def test_metrics_refuse_a_stat_named_like_a_column(tmp_path):
    with pytest.raises(ValueError, match=r"`stats` must .* columns', got \['seconds', 'steps'\]"):
        write_rows(tmp_path, [1], lambda _: {"steps": 1.0, "seconds": 2.0, "loss": 3.0})


def test_metrics_are_plain_csv(tmp_path):
    path = write_rows(tmp_path, [1, 2], lambda i: {"a, quoted": 1.0, "b": 2.0})
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["a, quoted"] for row in rows] == ["1", "1"]
    assert read_metrics(path)["a, quoted"].tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    "module, use",
    [
        ("tensorboard.compat.proto.event_pb2", lambda path: MetricsWriter(path)),
        ("rich.console", lambda path: Progress(10)),
        ("matplotlib.figure", lambda path: learning_curve({"a": path / "metrics.csv"}, path / "p")),
    ],
)
def test_missing_package_is_named_with_the_extra_that_brings_it(tmp_path, monkeypatch, module, use):
    path = write_rows(tmp_path, [1])
    before = path.read_text()
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'optinfra\[train\]'"):
        use(tmp_path)
    assert path.read_text() == before


# --------------------------------------------------------------------------------- tensorboard


def scalars(directory):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(directory))
    events.Reload()
    return {
        name: [(x.step, x.value) for x in events.Scalars(name)] for name in events.Tags()["scalars"]
    }


def test_events_hold_every_row_under_upstreams_names(tmp_path):
    with MetricsWriter(tmp_path) as writer:
        writer.write(10, EpisodeWindow(), {"policy_loss": -0.5, "value_loss": 2.0})
        writer.write(20, window_of([(7.0, 3)]), {"policy_loss": 0.25, "value_loss": math.nan})
    shown = scalars(tmp_path)
    assert shown["Losses/Policy Loss"] == [(10, 0.5), (20, 0.25)]
    assert shown["Environment/Cumulative Reward"] == [(20, 7.0)]  # none had ended at step 10
    assert [step for step, _ in shown["Losses/Value Loss"]] == [10, 20]
    assert math.isnan(shown["Losses/Value Loss"][1][1])
    assert not {"Diagnostics/Steps", "Diagnostics/Seconds"} & set(shown)


def test_events_after_the_step_of_the_resumption_are_forgotten(tmp_path):
    write_rows(tmp_path, [10, 20, 30])
    write_rows(tmp_path, [25, 35], lambda i: {"policy_loss": 0.5}, start_steps=20)
    assert scalars(tmp_path)["Losses/Policy Loss"] == [(10, 10), (20, 20), (25, 0.5), (35, 0.5)]
    assert len(list(tmp_path.glob("events.out.tfevents.*"))) == 2


# ------------------------------------------------------------------------------------ progress


class Terminal(io.StringIO):
    """A stream with an encoding."""

    def __init__(self, encoding="utf-8"):
        super().__init__()
        self._encoding = encoding

    @property
    def encoding(self):
        return self._encoding


def console(terminal, stream=None):
    return Console(
        file=stream or Terminal(),
        force_terminal=terminal,
        width=80,
        height=24,
        legacy_windows=False,
        _environ={"TERM": "xterm"},
    )


SNAPSHOT = Snapshot(
    steps=245_760,
    total_steps=500_000,
    rate=12_345.6,
    mean_return=312.44,
    stats={"policy_loss": -0.00314159, "value_loss": 12.3456, "entropy": 0.6},
    elapsed=3725.9,
    note="compiling",
)


def test_line_says_it_all():
    assert as_line(SNAPSHOT) == (
        "245,760 / 500,000 steps (49 %), steps/s 12,346, mean return 312.4, "
        "policy loss -0.003142, value loss 12.35, elapsed 1:02:05, left 0:00:20"
    )


def test_line_leaves_out_what_is_unknown_and_shows_what_is_not_a_number():
    nothing = Snapshot(0, 10, math.nan, math.nan, {}, 0.0, "")
    assert as_line(nothing) == "0 / 10 steps (0 %), elapsed 0:00:00"
    diverged = nothing._replace(stats={"policy_loss": math.nan})
    assert as_line(diverged) == "0 / 10 steps (0 %), policy loss nan, elapsed 0:00:00"


def text_of(frame):
    return ["".join(text for text, _ in line) for line in frame]


def test_frame_shows_a_bar_a_table_and_the_note():
    assert text_of(as_frame(SNAPSHOT, 80)) == [
        "━━━━━━━━━━━━━━━━━━━━━━━────────────────────────   245,760 / 500,000 steps (49 %)",
        "  steps/s   mean return   policy loss   value loss     elapsed        left",
        "   12,346         312.4     -0.003142        12.35     1:02:05     0:00:20",
        "compiling",
    ]


@given(
    st.integers(1, 200),
    st.integers(0, 10**9),
    st.integers(1, 10**9),
    st.floats(-1e30, 1e30),
    st.floats(0, 1e6),
    st.booleans(),
)
@example(width=30, steps=0, total=1, number=0.0, rate=5e-324, unicode=True)
@example(width=80, steps=999, total=1000, number=0.0, rate=1.0, unicode=True)
def test_frame_fits_any_width_and_its_bar_is_as_full_as_the_run(
    width, steps, total, number, rate, unicode
):
    snapshot = SNAPSHOT._replace(steps=steps, total_steps=total, mean_return=number, rate=rate)
    lines = text_of(as_frame(snapshot, width, unicode=unicode))
    if width >= 30:
        assert max(map(len, lines)) <= width
        assert all(line.strip() for line in lines)
    done, ahead = "━─" if unicode else "=-"
    if length := lines[0].count(done) + lines[0].count(ahead):
        assert length >= 10
        assert lines[0].count(done) == math.floor(min(steps / total, 1.0) * length)
    full = "(100 %)" in lines[0]
    assert full == (steps >= total) or width < 60


def test_frame_keeps_the_length_of_its_bar_for_the_whole_run():
    lengths = {
        as_frame(SNAPSHOT._replace(steps=steps), 80)[0][0][0].count("━")
        + as_frame(SNAPSHOT._replace(steps=steps), 80)[0][1][0].count("─")
        for steps in (0, 9, 99_999, 499_999, 500_000)
    }
    assert len(lengths) == 1


@given(
    st.floats(100.0, 1e5),
    st.floats(0.01, 3.0),
    st.floats(0.0, 100.0),
    st.integers(0, 10**6),
)
def test_rate_is_that_of_the_last_seconds_without_the_first_iteration(
    rate, period, compiling, start
):
    clock = Clock()
    seen = []
    progress = Progress(10**9, start, console(False), clock=clock)
    clock.now += compiling
    for i in range(1, 60):
        clock.now += period
        progress.update(start + int(i * period * rate), 0.0, {})
        seen.append(progress._snapshot().rate)
    assert seen[-1] == pytest.approx(rate, rel=0.1)
    assert math.isnan(seen[0])


def test_rate_forgets_what_was_long_ago():
    clock = Clock()
    progress = Progress(10**9, 0, console(False), clock=clock)
    steps = 0
    for rate in (1000, 100):
        for _ in range(30):
            clock.now += 1.0
            steps += rate
            progress.update(steps, 0.0, {})
    assert progress._snapshot().rate == pytest.approx(100)


def plain_lines(stream):
    text = stream.getvalue()
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", text), "a control character"
    return text.splitlines()


def test_plain_output_is_one_line_at_either_end_and_one_every_five_seconds_between():
    stream, clock = Terminal(), Clock()
    with Progress(1000, 0, console(False, stream), clock=clock) as progress:
        for i in range(1, 121):
            clock.now += 0.1
            progress.update(i, 1.0, {"policy_loss": 0.5})
        assert len(plain_lines(stream)) == 3
        progress.update(121, 1.0, {"policy_loss": 0.5})
    lines = plain_lines(stream)
    assert [int(line.split()[0]) for line in lines] == [0, 50, 100, 121]
    assert all("policy loss 0.5" in line for line in lines[1:])


def test_plain_output_repeats_no_last_line():
    stream, clock = Terminal(), Clock()
    with Progress(10, 0, console(False, stream), clock=clock) as progress:
        clock.now += 6.0
        progress.update(10, 1.0, {})
    assert len(plain_lines(stream)) == 2


def test_plain_output_prints_a_note_at_once_and_once():
    stream = Terminal()
    with Progress(10, 0, console(False, stream)) as progress:
        progress.note("compiling the update …")
        assert plain_lines(stream)[1:] == ["compiling the update …"]
        for _ in range(3):
            progress.note("")
            progress.note("compiling the update …")
        progress.print("[red]odd[/red] :smile: " + "x" * 200)
        assert plain_lines(stream)[2:] == ["[red]odd[/red] :smile: " + "x" * 200]


def test_plain_output_has_a_last_line_after_an_error():
    stream = Terminal()
    with pytest.raises(KeyboardInterrupt), Progress(10, 0, console(False, stream)) as progress:
        progress.update(7, 1.0, {})
        raise KeyboardInterrupt
    assert plain_lines(stream)[-1].startswith("7 / 10 steps (70 %)")


def test_output_without_unicode_still_works():
    stream = Terminal("ascii")
    with Progress(10, 0, console(True, stream)) as progress:
        progress.note("compiling …")
        progress.print("naïve")
    assert stream.getvalue().isascii()
    assert "compiling ?" in stream.getvalue() and "na?ve" in stream.getvalue()


def test_dumb_terminal_gets_plain_lines(monkeypatch):
    stream = Terminal()
    dumb = Console(file=stream, force_terminal=True, _environ={"TERM": "dumb"})
    with Progress(10, 0, dumb):
        pass
    assert plain_lines(stream)[0].startswith("0 / 10 steps")


HIDE, SHOW = "\x1b[?25l", "\x1b[?25h"


@pytest.mark.parametrize("error", [None, RuntimeError, KeyboardInterrupt])
def test_live_display_leaves_the_terminal_as_it_was(error):
    stream = Terminal()
    before = sys.stdout, sys.stderr
    try:
        with Progress(10, 0, console(True, stream)) as progress:
            assert "0 / 10 steps" in stream.getvalue(), "shown at once"
            progress.note("compiling …")
            assert "compiling …" in stream.getvalue(), "noted at once"
            progress.update(7, 1.0, {})
            if error:
                raise error
    except (RuntimeError, KeyboardInterrupt) as raised:
        assert type(raised) is error
    text = stream.getvalue()
    assert HIDE in text and text.rfind(SHOW) > text.rfind(HIDE)
    assert "7 / 10 steps (70 %)" in text[text.rfind("compiling") - 800 :], "the last state stays"
    assert (sys.stdout, sys.stderr) == before


def interrupt(*_):
    raise KeyboardInterrupt


@pytest.mark.parametrize("method", ["refresh", "stop"])
def test_live_display_interrupted_at_its_start_or_end_shows_the_cursor(monkeypatch, method):
    from rich.live import Live

    stream = Terminal()
    monkeypatch.setattr(Live, method, interrupt)  # the first is called at the start
    with pytest.raises(KeyboardInterrupt), Progress(10, 0, console(True, stream)) as progress:
        pass
    text = stream.getvalue()
    assert HIDE in text and text.rfind(SHOW) > text.rfind(HIDE)
    if method == "stop":
        monkeypatch.undo()
        progress._screen.stop()  # ends the thread that draws


def test_live_display_is_alive_while_nothing_is_reported():
    stream = Terminal()
    with Progress(10, 0, console(True, stream)):
        drawn = len(stream.getvalue())
        deadline = time.monotonic() + 10.0
        while len(stream.getvalue()) == drawn and time.monotonic() < deadline:
            time.sleep(0.02)
        assert len(stream.getvalue()) > drawn


def test_live_display_leaves_streams_alone_that_go_into_files(capsys):
    stream = Terminal()
    with Progress(10, 0, console(True, stream)):
        print("to a file")
        print("also", file=sys.stderr)
    out, err = capsys.readouterr()
    assert (out, err) == ("to a file\n", "also\n")
    assert "also" not in stream.getvalue()


@pytest.mark.parametrize("terminal", [True, False])
def test_update_costs_next_to_nothing_when_nothing_is_drawn(terminal):
    calls = 2000
    with Progress(calls, 0, console(terminal)) as progress:
        stats = {"policy_loss": 0.1}
        took = []
        for i in range(calls):
            began = time.perf_counter()
            progress.update(i, 1.0, stats)
            took.append(time.perf_counter() - began)
    assert sorted(took)[calls // 2] < 100e-6


@pytest.mark.parametrize("total", [0, -5])
def test_progress_refuses_a_run_without_steps(total):
    with pytest.raises(ValueError, match=rf"`total_steps` must lie in \[1, inf\), got {total}\."):
        Progress(total)


RUN_UNDER_A_TERMINAL = """
import time
from optinfra.train.progress import Progress
with Progress(10) as progress:
    progress.note("compiling")
    while True:
        time.sleep(0.01)
"""


@pytest.mark.skipif(os.name != "posix", reason="pseudo-terminals are POSIX's")
def test_ctrl_c_on_a_real_terminal_shows_the_cursor_again():
    reader, terminal = os.openpty()
    child = subprocess.Popen(
        [sys.executable, "-c", RUN_UNDER_A_TERMINAL],
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        env=os.environ | {"TERM": "xterm"},
    )
    os.close(terminal)
    text, interrupted = b"", False
    while part := read_or_end(reader):
        text += part
        if b"compiling" in text and not interrupted:
            child.send_signal(signal.SIGINT)
            interrupted = True
    os.close(reader)
    assert child.wait(30) != 0 and b"KeyboardInterrupt" in text
    assert text.rfind(SHOW.encode()) > text.rfind(HIDE.encode()) >= 0


def read_or_end(reader):
    try:
        return os.read(reader, 4096)
    except OSError:  # Linux says so when the other end is closed
        return b""


# --------------------------------------------------------------------------------------- plots


def write_run(directory, returns, step=1000):
    """One row per entry of `returns`, which lists the episodes that ended before it."""
    directory.mkdir()
    window = EpisodeWindow()
    with MetricsWriter(directory, clock=Clock()) as writer:
        for i, ended in enumerate(returns, start=1):
            for total_return in ended:
                window.add(total_return, 1)
            writer.write(i * step, window, {})
    return directory / "metrics.csv"


@pytest.fixture
def figures(monkeypatch):
    """The figures that are saved."""
    from matplotlib.figure import Figure

    saved = []
    original = Figure.savefig

    def savefig(self, *args, **kwargs):
        saved.append(self)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", savefig)
    return saved


def size_of_png(path):
    data = path.read_bytes()
    assert data.startswith(b"\x89PNG\r\n\x1a\n") and data.endswith(b"IEND\xaeB`\x82")
    return struct.unpack(">II", data[16:24])


def test_curve_is_the_mean_return_against_steps_from_the_first_episode_on(tmp_path, figures):
    path = write_run(tmp_path / "a", [[], [], [10.0], [20.0, 40.0], []])
    learning_curve({"a run": path}, tmp_path / "curve.png")
    assert size_of_png(tmp_path / "curve.png") == (800, 500)
    (axes,) = figures[0].axes
    (line,) = axes.lines
    np.testing.assert_array_equal(line.get_xdata(), [1000, 2000, 3000, 4000, 5000])
    np.testing.assert_allclose(line.get_ydata(), [np.nan, np.nan, 10, 70 / 3, 70 / 3], rtol=1e-6)
    (band,) = axes.collections
    low, high = band.get_datalim(axes.transData).get_points()[:, 1]
    assert (low, high) == (10.0, 40.0)
    assert axes.get_xlabel() == "environment steps" and "sum of rewards" in axes.get_ylabel()
    assert axes.get_xlim()[0] == 0 and axes.get_xlim()[1] >= 5000


def test_band_is_a_moving_average_of_worst_and_best_episodes(tmp_path, figures):
    generator = np.random.default_rng(0)
    returns = generator.normal(size=(100, 3)).round(3)
    path = write_run(tmp_path / "a", returns.tolist())
    learning_curve({"a": path}, tmp_path / "curve.png")
    (band,) = figures[0].axes[0].collections
    x, y = band.get_paths()[0].vertices.T
    expected = {
        (1000.0 * (i + 1), round(float(of(returns, 1)[max(i - 4, 0) : i + 5].mean()), 4))
        for i in range(100)
        for of in (np.min, np.max)
    }
    assert {(a, round(b, 4)) for a, b in zip(x.tolist(), y.tolist())} == expected


@pytest.mark.parametrize("number", [1, 3, 4, 11, 25])
@pytest.mark.parametrize("length", [5, 40, 200])
def test_curves_of_many_runs_stay_apart_and_inside_the_picture(tmp_path, figures, number, length):
    path = write_run(tmp_path / "a", [[1.0, 2.0], [3.0]])
    labels = [f"{i:03d}".rjust(length, "_") for i in range(number)]
    learning_curve({label: path for label in labels}, tmp_path / "curve.png")
    figure = figures[0]
    (axes,), (legend,) = figure.axes, figure.legends
    assert len({tuple(line.get_color()) for line in axes.lines}) == number == len(axes.lines)
    assert len(axes.collections) == (number if number <= 3 else 0)
    shown = [text.get_text().strip() for text in legend.get_texts()]
    assert [text[-3:] for text in shown[:number]] == [label[-3:] for label in labels]
    assert length > 92 or shown[:number] == labels
    frame = figure.bbox
    for part in (axes.yaxis.label, axes.xaxis.label, legend):
        box = part.get_window_extent()
        assert (
            frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 <= box.y1 <= frame.y1
        )
    assert not legend.get_window_extent().overlaps(axes.get_tightbbox())
    assert axes.get_window_extent().height >= 300
    assert size_of_png(tmp_path / "curve.png")[0] == 800


def test_curve_of_one_row_is_a_point(tmp_path, figures):
    path = write_run(tmp_path / "a", [[5.0]])
    learning_curve({"a": path}, tmp_path / "curve.png")
    (line,) = figures[0].axes[0].lines
    assert line.get_marker() == "o"
    assert not np.isnan(line.get_ydata()).any()


def test_curve_of_a_run_without_an_ended_episode_says_so(tmp_path, figures):
    path = write_run(tmp_path / "a", [[], []])
    learning_curve({"a": path}, tmp_path / "curve.png")
    assert [text.get_text() for text in figures[0].axes[0].texts] == ["no episode has ended yet"]


def test_label_with_dollars_is_no_formula_and_one_with_an_underscore_not_hidden(tmp_path, figures):
    path = write_run(tmp_path / "a", [[5.0]])
    learning_curve({r"_cost $\frac$": path}, tmp_path / "curve.png")
    shown = figures[0].legends[0].get_texts()[0]
    assert shown.get_text() == r" _cost \$\frac\$"


def test_curve_needs_neither_pyplot_nor_other_global_state(tmp_path, monkeypatch):
    import matplotlib

    before = dict(matplotlib.rcParams)
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    learning_curve({"a": write_run(tmp_path / "a", [[5.0]])}, tmp_path / "curve.png")
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize(
    "text, message",
    [
        ("", r"`runs\['a'\]` must have at least one row, got none in .*metrics\.csv"),
        (
            "steps,mean_return,episode_return_min,episode_return_max\n",
            r"`runs\['a'\]` must have at least one row, got none in .*metrics\.csv",
        ),
        ("steps,seconds\n1,2\n", r"`runs\['a'\]` must have the columns \['mean_return', .*got"),
    ],
)
def test_curve_refuses_a_file_without_rows_and_keeps_the_old_picture(tmp_path, text, message):
    (tmp_path / "metrics.csv").write_text(text)
    (tmp_path / "curve.png").write_text("old")
    with pytest.raises(ValueError, match=message):
        learning_curve({"a": tmp_path / "metrics.csv"}, tmp_path / "curve.png")
    assert (tmp_path / "curve.png").read_text() == "old"


def test_curve_refuses_no_run_at_all_and_a_missing_file(tmp_path):
    with pytest.raises(ValueError, match=r"`runs` must have at least one run, got none\."):
        learning_curve({}, tmp_path / "curve.png")
    with pytest.raises(FileNotFoundError, match=r"nowhere\.csv"):
        learning_curve({"a": tmp_path / "nowhere.csv"}, tmp_path / "curve.png")
