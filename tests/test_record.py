"""Recording a policy: whole episodes as they were, in a file that is whole or not there."""

import os
import re
import signal

import pytest
import torch
from torch.func import vmap

from optinfra import checkpoint, cli, demos, random
from optinfra.demos import write
from optinfra.envs import cartpole
from optinfra.envs.cartpole import CartPoleState
from optinfra.train import folders, record
from optinfra.train.errors import RunError
from optinfra.train.evaluate import evaluate
from tests.commands import TENSOR_CARTPOLE, assert_refused, optinfra, trained

CPU = torch.device("cpu")
COUNTDOWN = "tests.tiny_envs:tiny/Countdown-v0"
RECURRENT = ("--set", "network_settings.memory={memory_size: 4, sequence_length: 4}")


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    """Commands run where nothing is, and leave the handler of SIGTERM as it was."""
    monkeypatch.chdir(tmp_path)
    handler = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, handler)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A small run."""
    return trained(tmp_path_factory.mktemp("runs") / "run")


def recorded(folder, episodes=5, *, stochastic=False, seed=0):
    """What was recorded, and what the recorder said of it."""
    file = folder / f"of_{episodes}_{stochastic}_{seed}.demo"
    options = {"stochastic": stochastic, "seed": seed, "device": CPU, "force": True}
    said = record.record(folder, file, episodes=episodes, **options)
    return demos.load(file), said


def returns(columns):
    """The return of each episode."""
    episodes = int(columns.episode.max()) + 1
    return [columns.rewards[columns.episode == k].sum().item() for k in range(episodes)]


@pytest.mark.parametrize(
    "env, stochastic, episodes",
    [
        (TENSOR_CARTPOLE, False, 3),
        (TENSOR_CARTPOLE, True, 18),
        ("CartPole-v1", True, 3),
        ("CartPole-v1", False, 18),
    ],
)
def test_recorded_returns_are_those_of_an_evaluation(tmp_path, env, stochastic, episodes):
    folder = trained(tmp_path / "run", env=env)
    loaded, said = recorded(folder, episodes, stochastic=stochastic, seed=3)
    options = {"stochastic": stochastic, "seed": 3, "device": CPU}
    evaluation = evaluate(folder, episodes=episodes, **options)
    assert returns(loaded.demonstrations) == list(evaluation.returns)
    assert said.mean == pytest.approx(evaluation.mean) and said.steps == evaluation.steps
    assert said.pairs == len(loaded.demonstrations.rewards) == sum(evaluation.returns) + episodes


def test_what_was_recorded_happens_again_in_the_environment(run):
    """Every transition is one of the environment's: observation, action, reward and end fit."""
    loaded, _ = recorded(run, stochastic=True)
    env = cartpole()
    assert loaded.spec == env.spec
    steps = demos.taken(loaded.demonstrations)
    assert steps.action.discrete.unique().tolist() == [0, 1]
    columns = (*steps.obs[0].unbind(1), torch.zeros(len(steps.rewards), dtype=torch.int64))
    keys = random.split(random.key(0), len(steps.rewards))
    then = vmap(env.step)(CartPoleState(*columns), steps.action, keys)
    torch.testing.assert_close(then.obs[0], steps.next_obs[0])
    assert torch.equal(then.terminated, steps.terminated) and not steps.truncated.any()
    assert torch.equal(then.reward, steps.rewards)


@pytest.mark.parametrize("truncates", [False, True])
def test_each_episode_ends_with_its_final_observation_and_the_flag_of_its_end(tmp_path, truncates):
    given = ("--set", f"optinfra.env_kwargs={{truncates: {str(truncates).lower()}}}")
    loaded, _ = recorded(trained(tmp_path / "run", *given, env=COUNTDOWN), episodes=6)
    columns = loaded.demonstrations
    begun = 0
    for k in range(6):
        rows = columns.episode == k
        seen, length = columns.obs[0][rows][:, 0].tolist(), int(rows.sum())
        assert seen == [float(step) for step in range(length)] and length in (3, 4, 5)
        assert columns.rewards[rows].tolist() == [0.0] + [1.0] * (length - 1)
        assert rows.nonzero()[0] == begun
        begun += length
        last = [False] * (length - 1) + [True]
        never = [False] * length
        assert columns.terminated[rows].tolist() == (never if truncates else last)
        assert columns.truncated[rows].tolist() == (last if truncates else never)
    assert columns.action_mask.all()


def test_continuous_actions_are_recorded_as_executed(tmp_path):
    given = ("--set", "optinfra.env_kwargs={time_limit: 7}")
    folder = trained(tmp_path / "run", *given, env="tensor:Pendulum-v1")
    loaded, _ = recorded(folder, 40, stochastic=True)
    columns = loaded.demonstrations
    share = demos.taken(columns).action.continuous
    assert share.abs().max() <= 1.0 and 0.2 < share.std() < 0.5  # a third of σ = 1, clipped
    assert columns.truncated.sum() == 40 and len(columns.rewards) == 40 * 8


@pytest.mark.parametrize("env", [TENSOR_CARTPOLE, "CartPole-v1"])
def test_a_policy_that_remembers_is_recorded_as_it_is_evaluated(tmp_path, env):
    folder = trained(tmp_path / "run", *RECURRENT, env=env)
    loaded, _ = recorded(folder, 4)
    evaluation = evaluate(folder, episodes=4, stochastic=False, seed=0, device=CPU)
    assert returns(loaded.demonstrations) == list(evaluation.returns)


def test_recording_twice_gives_the_same_file_and_another_seed_another(run):
    for seed in (0, 1):
        recorded(run, 2, stochastic=True, seed=seed)
    first, other = ((run / f"of_2_True_{seed}.demo").read_bytes() for seed in (0, 1))
    recorded(run, 2, stochastic=True, seed=0)
    assert (run / "of_2_True_0.demo").read_bytes() == first != other


# --- the command --------------------------------------------------------------------------


@pytest.mark.parametrize("stochastic", [False, True])
def test_record_says_what_it_wrote(run, tmp_path, stochastic):
    options = ("--stochastic",) if stochastic else ()
    done = optinfra("record", run, "--episodes", 3, tmp_path / "new" / "a.demo", *options)
    assert (done.code, done.err) == (0, "")
    columns = demos.load(tmp_path / "new" / "a.demo").demonstrations
    mean = sum(returns(columns)) / 3
    kind = "drawn" if stochastic else "likeliest"
    assert done.out == (
        f"{tmp_path}/new/a.demo: 3 episodes, {len(columns.rewards)} pairs, "
        f"mean return {mean:.1f}, {kind} actions, policy of step 64\n"
    )


def test_record_takes_ten_episodes_unless_told(run):
    assert optinfra("record", run, "a.demo").out.startswith("a.demo: 10 episodes, ")


def test_a_file_is_overwritten_only_by_force(run, tmp_path):
    file = tmp_path / "a.demo"
    file.write_bytes(b"mine")
    assert_refused(optinfra("record", run, file), f"{file}: exists already", "--force")
    assert file.read_bytes() == b"mine"
    assert optinfra("record", run, file, "--episodes", 1, "--force").code == 0
    assert len(returns(demos.load(file).demonstrations)) == 1


@pytest.mark.parametrize(
    "arguments, told",
    [
        (("run", "a.txt"), "a.txt: a recording's name must end in .demo."),
        (("nothing", "a.demo"), "nothing: holds no run"),
        (("run", "a.demo", "--episodes", "0"), "expected a whole number ≥ 1"),
        (("run", "a.demo", "--device", "warp"), "device warp: cannot be used here"),
        (("run", "file/a.demo"), "file/a.demo: cannot be written: "),
        (("run",), "required: FILE"),
    ],
)
def test_record_refuses_in_one_line(run, tmp_path, arguments, told):
    (tmp_path / "file").write_text("")
    (tmp_path / "run").symlink_to(run)
    assert_refused(optinfra("record", *arguments), told)
    assert sorted(os.listdir(tmp_path)) == ["file", "run"]


def test_what_cannot_be_recorded_is_told(run, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise ValueError("`action.continuous` must be finite, got a number that is not.")

    monkeypatch.setattr(demos, "save", refuse)
    told = re.escape(f"{run}: cannot be recorded: `action.continuous` must be finite")
    with pytest.raises(RunError, match=told):
        recorded(run)


def test_the_newest_policy_is_recorded(tmp_path):
    folder = trained(tmp_path / "run", "--set", "checkpoint_interval=16", steps=48)
    assert len(list((folder / folders.CHECKPOINTS).iterdir())) > 1
    assert recorded(folder)[1].steps == checkpoint.step_of(folders.newest_checkpoint(folder)) == 48


# --- Ctrl-C -------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["collecting", "writing"])
def test_ctrl_c_leaves_what_was_there(run, tmp_path, monkeypatch, where):
    file = tmp_path / "a.demo"
    file.write_bytes(b"mine")

    def interrupt(*_, **__):
        signal.raise_signal(signal.SIGINT)

    target = (record, "_demonstrations") if where == "collecting" else (write, "_pair")
    monkeypatch.setattr(*target, interrupt)
    done = optinfra("record", run, file, "--force", "--episodes", 1)
    assert (done.code, done.out, done.err) == (cli.INTERRUPTED, "", "Interrupted.\n")
    assert os.listdir(tmp_path) == ["a.demo"] and file.read_bytes() == b"mine"


def test_a_final_pair_has_no_action_and_everything_allowed(run):
    columns = recorded(run)[0].demonstrations
    ended = columns.terminated | columns.truncated
    assert not columns.action.discrete[ended].any() and columns.action_mask[ended].all()
