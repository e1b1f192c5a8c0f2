"""Exported policies: onnxruntime does what the learner does, under ML-Agents' names."""

import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from statistics import NormalDist

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from optinfra import cli, export, networks, tree
from optinfra.distributions import PolicyOutputs, branches_mode, mask_logits
from optinfra.export import ExportError, write
from optinfra.learners import ppo
from optinfra.networks import Encoding
from optinfra.train.trained import newest
from optinfra.types import ActionSpec, Spec
from tests import examples
from tests.commands import assert_refused, optinfra, trained
from tests.export_cases import (
    ACTIONS,
    CELLS,
    UNITY,
    VECTORS,
    M,
    Policy,
    exported,
    interface,
    learner_of,
    lived,
    policy,
    recorded_interface,
)
from tests.onnx_cases import ran, session

CLOSE = {"atol": 1e-5, "rtol": 1e-5}
STEPS = 4
# Draws by which distributions are told apart, and how seldom that may go wrong: the bound below
# holds whatever is drawn, so that each comparison fails once in 10⁷ runs of another seed.
DRAWS, RARELY = 100_000, 1e-7
FARTHEST = math.sqrt(math.log(2 / RARELY) / (2 * DRAWS))


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    """Commands run where nothing is, and leave the handler of SIGTERM as it was."""
    monkeypatch.chdir(tmp_path)
    handler = signal.getsignal(signal.SIGTERM)
    onnxruntime.set_seed(1)
    yield
    signal.signal(signal.SIGTERM, handler)


def assert_does_the_same(one: Policy, rows, seed=0):
    """The likeliest actions, step after step, and what is remembered of each."""
    memory = one.memory(seed, rows)
    for step in range(STEPS if tree.leaves(memory) else 1):
        obs = examples.observed(seed + 10 * step, (rows,), one.spec)
        act = one.learner.greedy(one.params, obs, memory)
        results = one.run(obs, memory=memory)
        sizes = one.spec.action
        if sizes.continuous:
            likeliest = results["deterministic_continuous_actions"]
            torch.testing.assert_close(likeliest, act.executed.continuous, **CLOSE)
        if sizes.branches:
            assert torch.equal(results["deterministic_discrete_actions"], act.executed.discrete)
        if tree.leaves(memory):
            torch.testing.assert_close(results["recurrent_out"][:, 0], act.memory, **CLOSE)
            memory = results["recurrent_out"][:, 0]  # the next step starts from what came out


# --- what it does -------------------------------------------------------------------------


@pytest.mark.parametrize("memory", [False, True])
@pytest.mark.parametrize("actions", ACTIONS)
@pytest.mark.parametrize("trainer", CELLS)
def test_the_likeliest_actions_and_the_memory_are_the_learners(trainer, actions, memory):
    one = policy(trainer, actions, memory)
    for rows, seed in ((1, 0), (3, 500)):
        assert_does_the_same(one, rows, seed)


def test_the_moments_matter():
    """Without the normaliser the same weights do something else: the test above sees moments."""
    one = policy("ppo", "continuous")
    assert one.params.moments and not policy("sac", "continuous").params.moments
    obs = examples.observed(0, (3,), one.spec)
    blank = one.params._replace(moments=one.learner.init(torch.tensor([0, 0])).params.moments)
    other = one.learner.greedy(blank, obs, ()).executed.continuous
    assert not torch.allclose(one.run(obs)["deterministic_continuous_actions"], other, atol=1e-2)


@pytest.mark.parametrize("trainer", ["ppo", "sac"])
def test_a_memory_is_one_rows_alone(trainer):
    one = policy(trainer, "continuous", True)
    obs, memory = examples.observed(3, (3,), one.spec), one.memory(4, 3)
    together = one.run(obs, memory=memory)["recurrent_out"]
    for row in range(3):
        alone = one.run(tuple(x[row : row + 1] for x in obs), memory=memory[row : row + 1])
        torch.testing.assert_close(alone["recurrent_out"][0], together[row], **CLOSE)


SEEN = {
    "image": Spec(((2, 20, 23), (3,)), ActionSpec(2, (3, 2)), bytes=(0,)),
    "floats": Spec(((1, 36, 40),), ActionSpec(2)),
    "sets": Spec(((3, 2), (20, 3), (4,)), ActionSpec(2)),
    "sets alone": Spec(((4, 3),), ActionSpec(0, (3, 2))),
    "goal": Spec(((4,), (2,)), ActionSpec(2, (3, 2)), goals=(1,)),
    "all": Spec(
        ((2, 6, 6), (4, 3), (2,), (2, 6, 6), (3,)), ActionSpec(2, (3, 2)), goals=(3, 4), bytes=(0,)
    ),
}
SIGHTS = [
    ("image", "ppo", None, Encoding(image="simple")),
    ("sets", "ppo", "lstm", Encoding()),
    ("goal", "sac", "gru", Encoding(goal_conditioning="none")),
    ("all", "poca", None, Encoding(image="match3")),
]
MORE_SIGHTS = [
    ("image", "ppo", None, Encoding(image="resnet")),
    ("floats", "ppo", None, Encoding(image="nature_cnn")),
    ("image", "sac", None, Encoding(image="fully_connected")),
    ("sets alone", "poca", None, Encoding()),
    ("goal", "ppo", None, Encoding()),
    ("all", "sac", "lstm", Encoding(image="match3")),
]


@pytest.mark.parametrize(
    "seen, trainer, cell, encoding",
    [*SIGHTS, *(pytest.param(*row, marks=pytest.mark.thorough) for row in MORE_SIGHTS)],
)
def test_images_sets_and_goals_are_seen_as_by_the_learner(seen, trainer, cell, encoding):
    spec = SEEN[seen]
    one = exported(learner_of(trainer, spec, cell=cell, normalize=True, encoding=encoding), spec)
    for rows, seed in ((1, 0), (3, 100), (3, 200)):
        assert_does_the_same(one, rows, seed)
    inputs = {name: shape for name, _, shape in interface(one.model)[0]}
    assert [inputs[f"obs_{i}"] for i in range(len(spec.obs))] == [["batch", *s] for s in spec.obs]
    assert {node.op_type for node in one.model.graph.node} <= UNITY


def test_entities_that_are_absent_or_broken_do_not_count():
    spec = SEEN["sets"]
    one = exported(learner_of("ppo", spec), spec)
    small, large, vector = examples.observed(5, (4,), spec)
    small[0], large[1], large[2, 3:] = 0.0, 0.0, 0.0
    small[3, 0] = torch.tensor([0.05, 0.05])  # Σ features² below 0.01
    large[3, 1] = math.nan
    obs = (small, large, vector)
    likeliest = one.learner.greedy(one.params, obs, ()).executed.continuous
    assert likeliest.isfinite().all()
    results = one.run(obs)["deterministic_continuous_actions"]
    torch.testing.assert_close(results, likeliest, **CLOSE)


class Own(nn.Module):
    """An actor that somebody wrote: no builder of ours has made a part of it."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.GELU(), nn.Linear(8, 3))
        self.spread = nn.Parameter(torch.zeros(2))
        self.initializers = {"spread": networks.constant(0.0)}
        self.register_buffer("scale", torch.tensor([1.0, 0.5, 2.0]))

    def forward(self, obs):
        x = torch.cat([obs[0], obs[1].flatten(-2)], -1)
        y = self.inner(x) * self.scale
        mean = y[..., :2] + obs[1].amax(-2).tanh()
        return PolicyOutputs(mean, self.spread.expand(mean.shape), y[..., 2:] * torch.arange(3.0))


class Judge(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 1)

    def forward(self, obs):
        return {"extrinsic": self.layer(obs[0]).squeeze(-1)}


def test_a_network_of_ones_own_is_exported():
    spec = Spec(((2,), (2, 2)), ActionSpec(2, (3,)))
    one = exported(ppo(networks.separate(Own(), Judge()), spec), spec)
    for rows in (1, 3):
        assert_does_the_same(one, rows)


class Deciding(nn.Module):
    """A body that looks at what it is given in Python."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 8)

    def forward(self, *obs):
        x = torch.cat(obs, -1)
        return self.layer(x if x.mean() > 0 else -x)


def test_a_network_that_decides_in_python_is_refused():
    learner = learner_of("ppo", VECTORS, encoding=Encoding(body=lambda *_: Deciding()))
    with pytest.raises(ExportError, match="it decides in Python by what it is given"):
        export.policy(learner, lived(learner, VECTORS), VECTORS)


def test_a_memory_of_several_tensors_is_refused():
    learner = policy("ppo", "hybrid", True).learner
    memories = learner.memories

    def apart(*arguments, **options):
        both = memories(*arguments, **options)
        return both._replace(actor=both.actor.chunk(2, -1))

    with pytest.raises(ExportError, match="memory must be one tensor"):
        export.policy(learner._replace(memories=apart), None, VECTORS)


# --- masks and draws ----------------------------------------------------------------------


@pytest.mark.parametrize("trainer, memory", [("ppo", False), ("sac", True), ("poca", False)])
def test_what_a_mask_forbids_is_never_chosen(trainer, memory):
    one = policy(trainer, "hybrid", memory)
    rows = 4_000
    obs, remembered = examples.observed(1, (rows,), one.spec), one.memory(2, rows)
    mask = examples.normal(9, rows, 5) > 0.3
    mask[::4] = torch.tensor([False, False, True, True, False])
    for branch in (slice(0, 3), slice(3, 5)):  # something is allowed in every branch
        mask[~mask[:, branch].any(-1), branch.start] = True
    results = one.run(obs, mask, remembered)
    outputs, _ = one.learner.policy(one.params, obs, remembered)
    likeliest = branches_mode(mask_logits(outputs.logits, mask), (3, 2))
    assert torch.equal(results["deterministic_discrete_actions"], likeliest)
    for name in ("discrete_actions", "deterministic_discrete_actions"):
        for branch, part in enumerate(mask.split([3, 2], -1)):
            chosen = results[name][:, branch : branch + 1]
            assert part.gather(-1, chosen).all(), name
    drawn = results["discrete_actions"]
    assert torch.equal(drawn[::4], torch.tensor([2, 0]).expand(rows // 4, 2))
    assert (drawn != likeliest).any(), "drawn and likeliest choices are two things"


def test_where_everything_is_forbidden_every_choice_is_alike():
    """As in ML-Agents, where such a branch is uniform."""
    one = policy("ppo", "discrete")
    obs = tuple(x.expand(DRAWS, -1) for x in examples.observed(1, (1,), one.spec))
    results = one.run(obs, torch.tensor([False] * 3 + [True] * 2).expand(DRAWS, 5))
    counts = torch.bincount(results["discrete_actions"][:, 0], minlength=3)
    assert (counts / DRAWS - 1 / 3).abs().max() < FARTHEST
    assert not results["deterministic_discrete_actions"][:, 0].any()


@pytest.mark.parametrize("trainer, memory", [("ppo", False), ("sac", False), ("poca", True)])
def test_continuous_actions_are_drawn_from_the_policy(trainer, memory):
    """Of a policy's executed actions: their distribution, and that dimensions and rows are apart.

    P(sup |F_n − F| > d) ≤ 2·exp(−2·n·d²) whatever F is, steps of clipped actions included.
    """
    one = policy(trainer, "continuous", memory)
    obs = tuple(x.expand(DRAWS, -1) for x in examples.observed(1, (1,), one.spec))
    remembered = tree.map(lambda x: x.expand(DRAWS, -1), one.memory(2, 1))
    outputs, _ = one.learner.policy(one.params, obs, remembered)
    results = one.run(obs, memory=remembered)
    drawn = results["continuous_actions"].double()
    assert drawn.abs().max() <= 1.0
    grid = torch.linspace(-1, 0.999, 200, dtype=torch.float64)
    raw = grid.atanh() if trainer == "sac" else 3 * grid
    for i in range(2):
        normal = NormalDist(outputs.mean[0, i].item(), outputs.log_std[0, i].exp().item())
        expected = torch.tensor([normal.cdf(x) for x in raw.clamp(-1e9, 1e9).tolist()])
        found = (drawn[:, i : i + 1] <= grid).double().mean(0)
        assert (found - expected).abs().max() < FARTHEST
    inside = (drawn.abs() < 1).all(-1)
    ranks = drawn[inside].argsort(0).argsort(0).double()
    seldom = NormalDist().inv_cdf(1 - RARELY / 2) / math.sqrt(len(ranks) - 2)
    apart = torch.corrcoef(torch.stack([ranks[:, 0], ranks[:, 1]]))[0, 1]
    following = torch.corrcoef(torch.stack([ranks[:-1, 0], ranks[1:, 0]]))[0, 1]
    assert max(apart.abs(), following.abs()) < seldom
    again = one.run(obs, memory=remembered)
    assert not torch.equal(again["continuous_actions"], results["continuous_actions"])


@pytest.mark.parametrize("trainer, memory", [("ppo", False), ("sac", True)])
def test_discrete_actions_are_drawn_from_the_policy(trainer, memory):
    """Each share of the joint choices, by Hoeffding's bound; the branches are independent."""
    one = policy(trainer, "hybrid", memory)
    obs = tuple(x.expand(DRAWS, -1) for x in examples.observed(3, (1,), one.spec))
    remembered = tree.map(lambda x: x.expand(DRAWS, -1), one.memory(2, 1))
    mask = torch.tensor([True, False, True, True, True])
    outputs, _ = one.learner.policy(one.params, obs, remembered)
    first, second = mask_logits(outputs.logits, mask)[0].split([3, 2])
    expected = torch.outer(first.softmax(-1), second.softmax(-1)).flatten()
    drawn = one.run(obs, mask.expand(DRAWS, 5), remembered)["discrete_actions"]
    counts = torch.bincount(2 * drawn[:, 0] + drawn[:, 1], minlength=6)
    assert (counts / DRAWS - expected).abs().max() < FARTHEST
    assert counts[expected == 0].sum() == 0 and (expected > 10 * FARTHEST).sum() >= 2


# --- what it is ---------------------------------------------------------------------------


@pytest.mark.parametrize("memory", [False, True])
@pytest.mark.parametrize("actions", ACTIONS)
@pytest.mark.parametrize("trainer", CELLS)
def test_names_dtypes_and_shapes_are_those_of_mlagents(trainer, actions, memory):
    one = policy(trainer, actions, memory)
    assert interface(one.model) == recorded_interface(one.spec.obs, actions, memory)
    assert {node.op_type for node in one.model.graph.node} <= UNITY
    assert [(x.domain, x.version) for x in one.model.opset_import] == [("", 9)]
    assert one.model.ir_version == 4
    results = one.run(examples.observed(0, (2,), one.spec), memory=one.memory(0, 2))
    assert results["version_number"].tolist() == [3.0]
    assert results["memory_size"].tolist() == [float(M if memory else 0)]
    if actions != "discrete":
        assert results["continuous_action_output_shape"].tolist() == [2.0]
    if actions != "continuous":
        assert results["discrete_action_output_shape"].tolist() == [[3.0, 2.0]]


def test_only_the_actor_is_in_the_file():
    one = policy("poca", "hybrid", True)
    names = [x.name for x in one.model.graph.initializer]
    assert len(set(names)) == len(names)
    assert not [name for name in names if "critic" in name or "largest" in name]
    weights = {name for name in names if name.startswith("params/weights/")}
    assert all(name.startswith("params/weights/actor.") for name in weights) and weights
    read = {name for node in one.model.graph.node for name in node.input}
    assert set(names) <= read, "every constant is read by something"


def test_observations_that_a_network_ignores_are_inputs_all_the_same():
    """Unity looks for one input of each sensor."""
    spec = Spec(((2,), (2, 2)), ActionSpec(2))

    class Blind(nn.Module):
        def __init__(self):
            super().__init__()
            self.mean = nn.Linear(2, 2)

        def forward(self, obs):
            mean = self.mean(obs[0])
            return PolicyOutputs(mean, torch.zeros_like(mean), mean[..., :0])

    one = exported(ppo(networks.separate(Blind(), Judge()), spec), spec)
    assert [name for name, *_ in interface(one.model)[0]] == ["obs_0", "obs_1"]
    assert_does_the_same(one, 3)


# --- files --------------------------------------------------------------------------------


def test_a_saved_policy_is_what_was_exported(tmp_path):
    one = policy("ppo", "hybrid")
    export.save(tmp_path / "new" / "a.onnx", one.model)
    assert os.listdir(tmp_path / "new") == ["a.onnx"]
    assert onnx.load(tmp_path / "new" / "a.onnx") == one.model
    with pytest.raises(ValueError, match=r"`path` must end in .onnx, got a.txt"):
        export.save(tmp_path / "a.txt", one.model)


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_what_was_there_stays_where_writing_fails(tmp_path, monkeypatch, step):
    file = tmp_path / "a.onnx"
    file.write_bytes(b"mine")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(write.os, step, full)
    with pytest.raises(ExportError, match=r"a.onnx: cannot be written: no space left on device\."):
        export.save(file, policy("ppo", "hybrid").model)
    assert os.listdir(tmp_path) == ["a.onnx"] and file.read_bytes() == b"mine"


# --- the command --------------------------------------------------------------------------

NORMALIZED = ("--set", "network_settings.normalize=true")
REMEMBERING = (*NORMALIZED, "--set", "network_settings.memory={memory_size: 4, sequence_length: 4}")
FULL = "version_number, memory_size, discrete_actions, discrete_action_output_shape, "


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A small run."""
    return trained(tmp_path_factory.mktemp("runs") / "run", *NORMALIZED)


@pytest.mark.parametrize(
    "env, trainer, given",
    [
        ("tensor:CartPole-v1", "ppo", REMEMBERING),
        ("tensor:Pendulum-v1", "sac", NORMALIZED),
        ("tensor:Escape-v0", "poca", NORMALIZED),
        pytest.param(  # a goal, a set, bytes, a number
            "tests.tiny_envs:tiny/Sights-v0", "ppo", NORMALIZED, marks=pytest.mark.thorough
        ),
    ],
)
def test_a_run_is_exported_as_it_was_learnt(tmp_path, env, trainer, given):
    small = ("--set", "network_settings.hidden_units=4", "--set", "env_settings.num_envs=4")
    where = ("--env", env, "--steps", 64, "--seed", 1, "--run-dir", "run")
    begun = optinfra("train", "--trainer", trainer, *small, *given, *where)
    assert begun.code == 0, begun
    assert optinfra("export", "run", "policy.onnx").code == 0
    learnt = newest(Path("run"), 1, stochastic=False, seed=0, device=torch.device("cpu"))
    learnt.source.close()
    model = onnx.load("policy.onnx")
    one = Policy(learnt.learner, learnt.params, learnt.spec, model, session(model))
    for rows in (1, 3):
        assert_does_the_same(one, rows)


def test_export_says_what_it_wrote(run):
    done = optinfra("export", run, "new/a.onnx")
    assert (done.code, done.err) == (0, "")
    assert done.out == (
        f"new/a.onnx: obs_0, action_masks to {FULL}deterministic_discrete_actions; "
        "policy of step 64\n"
    )
    given = {"obs_0": np.zeros((5, 4), np.float32), "action_masks": np.ones((5, 2), np.float32)}
    drawn = ran(onnxruntime.InferenceSession("new/a.onnx"), given)["discrete_actions"]
    assert drawn.shape == (5, 1)


def test_a_file_is_overwritten_only_by_force(run, tmp_path):
    file = tmp_path / "a.onnx"
    file.write_bytes(b"mine")
    assert_refused(optinfra("export", run, file), f"{file}: exists already", "--force")
    assert file.read_bytes() == b"mine"
    assert optinfra("export", run, file, "--force").code == 0
    onnx.checker.check_model(onnx.load(file))


@pytest.mark.parametrize(
    "arguments, told",
    [
        (("run", "a.txt"), "a.txt: a policy's name must end in .onnx."),
        (("nothing", "a.onnx"), "nothing: holds no run"),
        (("run", "folder.onnx"), "folder.onnx: is a folder"),
        (("run", "file/a.onnx"), "file/a.onnx: cannot be written: "),
        (("run",), "required: FILE"),
    ],
)
def test_export_refuses_in_one_line(run, tmp_path, arguments, told):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.onnx").mkdir()
    (tmp_path / "run").symlink_to(run)
    assert_refused(optinfra("export", *arguments), told)
    assert sorted(os.listdir(tmp_path)) == ["file", "folder.onnx", "run"]


def test_what_cannot_be_exported_is_told(run, monkeypatch):
    def refuse(*_):
        raise ExportError("The policy does `sort`, which cannot be exported.")

    monkeypatch.setattr(export, "policy", refuse)
    told = f"{run}: cannot be exported: The policy does `sort`"
    assert_refused(optinfra("export", run, "a.onnx"), told)


def test_ctrl_c_leaves_what_was_there(run, tmp_path, monkeypatch):
    file = tmp_path / "a.onnx"
    file.write_bytes(b"mine")
    monkeypatch.setattr(write.os, "fsync", lambda *_: signal.raise_signal(signal.SIGINT))
    done = optinfra("export", run, file, "--force")
    assert (done.code, done.out, done.err) == (cli.INTERRUPTED, "", "Interrupted.\n")
    assert os.listdir(tmp_path) == ["a.onnx"] and file.read_bytes() == b"mine"


def test_without_onnx_the_command_tells_what_to_install(run):
    code = "import sys; sys.modules['onnx'] = None; from optinfra.cli import main; sys.exit(main())"
    arguments = [sys.executable, "-c", code, "export", str(run), "a.onnx"]
    done = subprocess.run(arguments, capture_output=True, text=True, env=os.environ, check=False)
    assert done.returncode == 1
    assert (
        done.stderr == "error: `optinfra.export` needs onnx. Run: pip install 'optinfra[export]'\n"
    )
