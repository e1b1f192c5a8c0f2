"""Runs with groups: from settings to functions, what goes on, and what is refused."""

from random import Random

import pytest
import torch

from optinfra import cli, envs, random, settings, tree
from optinfra.envs import escape
from optinfra.iteration import iteration
from optinfra.learners import poca, ppo
from optinfra.losses import squared_value_loss, trust_region_value_loss
from optinfra.networks import actor_critic, group_actor_critic, tanh
from optinfra.schedules import linear_to_floor
from optinfra.settings import SettingsError
from optinfra.signals import extrinsic
from optinfra.testing import assert_trees_close, assert_trees_equal
from optinfra.train import build, evaluate, folders, loop
from optinfra.train.collect_groups import group_collector
from optinfra.train.errors import RunError
from optinfra.train.names import tag
from optinfra.transforms import chain, clip_by_global_norm, scale_by_adam, skip_nonfinite
from tests.commands import TENSOR_CARTPOLE, assert_refused, leaves, optinfra, rows, steps_of
from tests.runs import CtrlC, assert_went_on_bit_for_bit, saved_steps
from tests.settings_cases import CONFIGS

CPU = torch.device("cpu")
ESCAPE = "tensor:Escape-v0"
CREW = "pettingzoo:tests.test_pettingzoo"
ROOM = {"agents": 3, "rows": 1, "columns": 3, "time_limit": 12}
# 2 groups of 3 for 4 steps, then 2 minibatches.
SMALL_POCA = {
    "trainer_type": "poca",
    "hyperparameters.batch_size": 12,
    "hyperparameters.buffer_size": 24,
    "hyperparameters.num_epoch": 1,
    "network_settings.hidden_units": 8,
    "network_settings.num_layers": 1,
    "env_settings.num_envs": 2,
    "env_settings.seed": 1,
    "summary_freq": 40,
    "checkpoint_interval": 60,
    "max_steps": 120,
    "optinfra.env": ESCAPE,
    "optinfra.env_kwargs": "{agents: 3, rows: 1, columns: 3, time_limit: 12}",
}
REMEMBERING = "network_settings.memory={sequence_length: 3, memory_size: 4}"
CURIOUS = "reward_signals={extrinsic: {}, curiosity: {}, rnd: {}}"
SELFISH = "trainer_type=ppo"


def small_poca(*assignments):
    lines = [f"{path}={value}" for path, value in SMALL_POCA.items()]
    return settings.load(settings.override("", [*lines, *assignments]))


def trained(folder, *assignments, resume=False):
    run = small_poca(*assignments)
    where = {"resumed" if resume else "chosen": folder}
    return loop.train(run, settings.choose_behavior(run)[0], device=CPU, **where)


def prepared(*assignments):
    run = small_poca(*assignments)
    return loop.prepare(run, settings.choose_behavior(run)[0], CPU)


def first_iterations(*assignments, times=2):
    """State, stats, place and last rollout after some iterations."""
    training = prepared(*assignments)
    state, place = training.start.iteration, training.start.source
    for _ in range(times):
        place, rollout, _ = training.source.collect(place, state.learner.params)
        state, stats = training.iteration.update(state, rollout)
    return state, stats, place, rollout


# --- from settings to functions -----------------------------------------------------------


def assert_is_built(learner, signal, *assignments, **parts):
    """What the settings describe does what is put together by hand, from the start on."""
    env = escape(**ROOM)
    one = iteration(learner, {"extrinsic": signal}, **parts)
    collecting = group_collector(
        env, learner.act, num_envs=2, num_steps=4,
        remember=lambda rows, device: learner.memories(rows, device).actor,
    )  # fmt: skip
    keys = random.split(random.key(1)).unbind()
    state, place = one.init(keys[0]), collecting.init(keys[1])
    for _ in range(2):
        place, (rollout, _) = collecting.collect(place, state.learner.params)
        state, stats = one.update(state, rollout)
    built = first_iterations(*assignments)
    # An optimizer may hold its leaves one by one or in one row: compare what is learnt.
    both = [
        {name: x for name, x in tree.named_leaves(learnt).items() if "opt/" not in name}
        for learnt in (built[:3], (state, stats, place))
    ]
    assert_trees_close(*both, rtol=1e-3, atol=1e-5)


def test_the_defaults_are_ml_agents_poca():
    spec = escape().spec
    learner = poca(
        group_actor_critic(spec, hidden_units=8, num_layers=1),
        spec,
        learning_rate=linear_to_floor(3e-4, 1e-10, 120),
        clip_range=linear_to_floor(0.2, 0.1, 120),
        entropy_coef=linear_to_floor(5e-3, 1e-5, 120),
        value_loss=trust_region_value_loss,
    )
    signal = extrinsic(gamma=0.99, strength=1.0, add_groupmate_rewards=True)
    assert_is_built(learner, signal, gae_lambda=0.95, num_epochs=1, batch_size=12)


def test_settings_of_every_kind_are_built_as_they_say():
    spec = escape().spec
    network = group_actor_critic(
        spec, hidden_units=12, num_layers=2, activation=tanh, memory_size=6, cell="gru"
    )
    learner = poca(
        network,
        spec,
        learning_rate=0.1,
        clip_range=0.3,
        entropy_coef=0.02,
        transform=skip_nonfinite(chain(clip_by_global_norm(0.05), scale_by_adam())),
        value_loss=squared_value_loss,
        normalize=True,
        sequence_length=3,
    )
    assert_is_built(
        learner,
        extrinsic(gamma=0.9, strength=0.5, add_groupmate_rewards=True),
        "hyperparameters.learning_rate=0.1",
        "hyperparameters.learning_rate_schedule=constant",
        "hyperparameters.epsilon=0.3",
        "hyperparameters.beta=0.02",
        "hyperparameters.lambd=0.8",
        "hyperparameters.num_epoch=3",
        "hyperparameters.batch_size=6",
        "network_settings.hidden_units=12",
        "network_settings.num_layers=2",
        "network_settings.normalize=true",
        "network_settings.memory={sequence_length: 3, memory_size: 6}",
        "reward_signals.extrinsic.gamma=0.9",
        "reward_signals.extrinsic.strength=0.5",
        "time_horizon=2",
        "optinfra.recurrent_cell=gru",
        "optinfra.max_grad_norm=0.05",
        "optinfra.activation=tanh",
        "optinfra.value_clipping=false",
        gae_lambda=0.8,
        time_horizon=2,
        num_epochs=3,
        batch_size=6,
        sequence_length=3,
        num_agents=(2, 3),
    )


HONOURED = [
    "hyperparameters.learning_rate_schedule=constant",
    "hyperparameters.epsilon=0.15",
    "hyperparameters.epsilon_schedule=constant",
    "hyperparameters.beta=0.1",
    "hyperparameters.beta_schedule=constant",
    "optinfra.value_clipping=false",
]


def test_every_setting_that_is_honoured_makes_a_difference_of_its_own():
    outcomes = {}
    # Policy and values move by more than epsilon.
    fast = ("hyperparameters.learning_rate=0.3", "hyperparameters.num_epoch=3")
    for assignment in ("max_steps=120", *HONOURED):
        learnt, *_ = first_iterations(*fast, assignment)
        weights = torch.cat([x.flatten() for x in tree.leaves(learnt.learner.params)])
        same = outcomes.setdefault(tuple(weights.tolist()), assignment)
        assert same == assignment, f"{assignment} does what {same} does"


def test_ppo_takes_each_agent_of_a_group_by_itself():
    spec = escape().spec
    learner = ppo(
        actor_critic(spec, hidden_units=8, num_layers=1),
        spec,
        learning_rate=linear_to_floor(3e-4, 1e-10, 120),
        clip_range=linear_to_floor(0.2, 0.1, 120),
        entropy_coef=linear_to_floor(5e-3, 1e-5, 120),
    )
    assert_is_built(learner, extrinsic(), SELFISH, num_epochs=1, batch_size=12)


@pytest.mark.parametrize("trainer, expected", [("poca", 5.0), ("ppo", 2.0)])
def test_only_poca_rewards_an_agent_for_what_its_mates_get(trainer, expected):
    """Each gets 0, 1 or 2 of its own, on the mean 1, with its mates' 3, and the group's."""
    training = prepared(f"trainer_type={trainer}")
    state = training.start.iteration
    _, rollout, _ = training.source.collect(training.start.source, state.learner.params)
    paid = torch.arange(3.0).expand(rollout.mask.shape)
    everybody = torch.ones_like(rollout.mask)
    group = rollout.group._replace(rewards=torch.full_like(paid, 2.0 if trainer == "poca" else 1.0))
    _, stats = training.iteration.update(
        state, rollout._replace(rewards=paid, mask=everybody, group=group)
    )
    assert stats["extrinsic_reward"] == expected


def test_a_buffer_is_filled_by_the_agents_of_all_groups_together():
    for groups, buffer, steps in ((2, 24, 4), (2, 25, 5), (1, 24, 8), (9, 12, 1)):
        given = (f"env_settings.num_envs={groups}", f"hyperparameters.buffer_size={buffer}")
        *_, rollout = first_iterations(*given, times=1)
        assert rollout.mask.shape == (steps, groups, 3)


@pytest.mark.parametrize("memory", [(), (REMEMBERING,)], ids=["", "recurrent"])
def test_curiosity_and_rnd_learn_beside_poca(memory):
    before = prepared(CURIOUS, *memory).start.iteration
    after, stats, *_ = first_iterations(CURIOUS, *memory)
    for name in ("curiosity_forward_loss", "rnd_loss", "curiosity_reward", "rnd_reward"):
        assert stats[name].isfinite() and stats[name] > 0
    for name in ("curiosity", "rnd"):
        old, new = (tree.named_leaves(state.signals[name]) for state in (before, after))
        assert [leaf for leaf in old if not torch.equal(old[leaf], new[leaf])]
        assert after.failures[name] == 0
    assert set(stats) >= {"baseline_loss", "value_loss", "policy_loss", "extrinsic_reward"}


# --- runs ---------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["poca", "ppo"])
def whole(request, tmp_path_factory):
    """A run that nothing interrupted, how it was made, and how many lines it took."""
    given = {"poca": (REMEMBERING, CURIOUS), "ppo": (SELFISH,)}[request.param]
    folder = tmp_path_factory.mktemp("runs") / "whole"
    with CtrlC() as counting:
        trained(folder, *given)
    return folder, given, counting.lines


@pytest.mark.parametrize("moment", range(2))
def test_a_run_goes_on_bit_for_bit_wherever_ctrl_c_hit_it(tmp_path, whole, moment):
    folder, given, lines = whole
    with CtrlC(Random(moment).randint(1, lines), times=1 + moment % 2):
        outcome = trained(tmp_path / "run", *given)
    assert outcome.interrupted == (outcome.steps < 120)
    assert saved_steps(tmp_path / "run")[-1] == outcome.steps
    trained(tmp_path / "run", *given, resume=True)
    assert_went_on_bit_for_bit(tmp_path / "run", folder)


def test_steps_are_those_of_agents_and_a_checkpoint_knows_the_largest_group(whole):
    folder, given, _ = whole
    held, last = leaves(folder), rows(folder)[-1]
    assert 120 <= int(held["iteration/learner/steps"]) == steps_of(folder)[-1] < 120 + 24
    if SELFISH in given:
        assert not [name for name in held if name.endswith("largest")]
        return
    assert held["iteration/learner/params/largest"] == 3.0
    assert float(last["baseline_loss"]) > 0
    assert held["iteration/memory"].shape == (2, 3, 8)
    assert held["source/acting/memory"].shape == (2, 3, 4)


def test_the_returns_of_groups_are_counted_once(tmp_path):
    """A group that leaves is paid 1, however many they are; nobody else is."""
    outcome = trained(tmp_path / "run", "max_steps=400")
    told = [row for row in rows(tmp_path / "run") if row["episode_return_max"]]
    last = told[-1]
    assert max(float(row["episode_return_max"]) for row in told) == 1.0
    assert min(float(row["episode_return_min"]) for row in told) == 0.0
    assert outcome.episodes == int(last["episodes"]) >= 400 / 3 / 12
    assert 1 < float(last["episode_length"]) <= 12


def test_tensorboard_calls_the_baselines_loss_as_ml_agents_does():
    assert tag("baseline_loss") == "Losses/Baseline Loss"


def evaluated(folder, episodes, **options):
    given = {"stochastic": False, "seed": 0, "device": CPU} | options
    return evaluate.evaluate(folder, episodes=episodes, **given)


def test_evaluating_counts_whole_episodes_of_groups(whole):
    folder, *_ = whole
    results = [evaluated(folder, 14, stochastic=True, seed=seed) for seed in (0, 0, 1)]
    assert results[0] == results[1] != results[2]
    for result in results:
        assert len(result.returns) == 14 and {*result.returns} <= {0.0, 1.0}
        assert result.steps == saved_steps(folder)[-1]


def test_every_lane_of_an_evaluation_contributes_equally(tmp_path, monkeypatch):
    """18 copies are 16 at most: two of them are asked for a second episode."""
    trained(tmp_path / "run", "max_steps=20")
    made = []
    original = loop.TensorGroupSource.collect

    def collect(self, state, params):
        after = original(self, state, params)
        made.append((self.lanes, after[2]))
        return after

    monkeypatch.setattr(loop.TensorGroupSource, "collect", collect)
    result = evaluated(tmp_path / "run", 18, stochastic=True)
    ((lanes, ended),) = made
    returns = [[e.total_reward for e in ended if e.env == lane] for lane in range(lanes)]
    shares = [2, 2, *[1] * 14]
    assert lanes == 16
    assert result.returns == tuple(x for own, n in zip(returns, shares) for x in own[:n])


def test_groups_are_not_recorded(whole, tmp_path):
    folder, *_ = whole
    done = optinfra("record", folder, "--episodes", 2, tmp_path / "a.demo")
    assert_refused(done, "its agents act in groups, and a demonstration is of a single agent.")
    assert list(tmp_path.iterdir()) == []


# --- PettingZoo ---------------------------------------------------------------------------


CROWD = (f"optinfra.env={CREW}", "optinfra.env_kwargs={}")


def test_a_pettingzoo_run_goes_on_with_the_learning_and_new_episodes(tmp_path, capsys, monkeypatch):
    pytest.importorskip("pettingzoo", reason="needs pettingzoo")
    seeds, reset = [], envs.PettingZooGroups.reset
    monkeypatch.setattr(
        envs.PettingZooGroups,
        "reset",
        lambda self, seed=None: (seeds.append(seed), reset(self, seed))[1],
    )
    folder = tmp_path / "run"
    outcome = trained(folder, *CROWD, REMEMBERING, "max_steps=60")
    assert "new episodes" not in capsys.readouterr().out and outcome.episodes > 0
    held = leaves(folder)
    assert held["iteration/memory"].shape == (6, 3, 8)  # two copies of three groups
    assert held["iteration/learner/params/largest"] == 3.0
    assert set(held) >= {"source/key"}
    trained(folder, *CROWD, REMEMBERING, "max_steps=60", resume=True)
    assert capsys.readouterr().out.count(loop.NEW_EPISODES) == 1
    assert_trees_equal(*(tree.map(torch.nan_to_num, x) for x in (leaves(folder), held)))
    assert trained(folder, *CROWD, REMEMBERING, "max_steps=120", resume=True).steps >= 120
    assert seeds == [1, 1 + outcome.steps, 1 + outcome.steps]
    result = evaluated(folder, 7, stochastic=True, seed=5)
    assert len(result.returns) == 7 and seeds[-1] == 5


def test_two_copies_of_three_groups_of_three_fill_a_buffer(tmp_path):
    pytest.importorskip("pettingzoo", reason="needs pettingzoo")
    *_, rollout = first_iterations(*CROWD, "hyperparameters.buffer_size=37", times=1)
    assert rollout.mask.shape == (3, 6, 3)


def test_environments_are_closed_however_a_run_ends(tmp_path, monkeypatch):
    pytest.importorskip("pettingzoo", reason="needs pettingzoo")
    from tests.test_pettingzoo import Crew

    closed = []
    monkeypatch.setattr(Crew, "close", lambda self: closed.append(True))
    trained(tmp_path / "run", *CROWD, "max_steps=20")
    assert len(closed) == 2
    evaluated(tmp_path / "run", 3, stochastic=True)
    assert len(closed) == 2 + 2 + 3
    done = optinfra("record", tmp_path / "run", "--episodes", 2, tmp_path / "a.demo")
    assert_refused(done, "its agents act in groups")
    assert len(closed) == 7 + 2 + 2


# --- what is refused ----------------------------------------------------------------------

UNFIT = [
    (("optinfra.env=tensor:CartPole-v1",), "tensor:CartPole-v1: trainer_type poca learns from "
     "groups, and here is a single agent. Use trainer_type ppo, or an environment of groups, "
     "such as tensor:Escape-v0."),
    (("optinfra.env=CartPole-v1",), "CartPole-v1: trainer_type poca learns from groups"),
    (("trainer_type=sac", "hyperparameters={batch_size: 4}"), "tensor:Escape-v0: trainer_type sac "
     "does not learn from groups yet. Use trainer_type poca, or ppo, which takes each agent by "
     "itself."),
    (("network_settings.hidden_units=6",), "`hidden_units` must be a multiple of 4, got 6."),
]  # fmt: skip


@pytest.mark.parametrize("given, message", UNFIT)
def test_what_does_not_fit_together_is_refused_in_words(tmp_path, given, message):
    lines = {path: value for path, value in SMALL_POCA.items() if path.count("kwargs") == 0}
    if "trainer_type=sac" in given:
        lines = {path: x for path, x in lines.items() if not path.startswith("hyper")}
    run = settings.load(settings.override("", [*(f"{k}={v}" for k, v in lines.items()), *given]))
    with pytest.raises(RunError) as error:
        loop.train(run, settings.choose_behavior(run)[0], device=CPU, chosen=tmp_path / "run")
    assert message in str(error.value)
    assert not (tmp_path / "run").exists()


def test_poca_is_trained_and_what_it_cannot_is_refused_with_it():
    run = settings.load(CONFIGS / "DungeonEscape.yaml")
    assert settings.require_supported(run, "DungeonEscape") == ()
    own = run.optinfra.model_copy(update={"initialization": "orthogonal", "burn_in": 2})
    with pytest.raises(SettingsError) as error:
        settings.require_supported(run.model_copy(update={"optinfra": own}), "DungeonEscape")
    assert error.value.problems == (
        "optinfra.initialization = \"orthogonal\": POCA's networks begin as ML-Agents' do.",
        "optinfra.burn_in = 2: POCA learns from all steps of a sequence.",
    )


def test_a_real_file_is_honoured():
    run = settings.load(CONFIGS / "DungeonEscape.yaml")
    name, behavior = settings.choose_behavior(run)
    learner = build.learner(escape().spec, behavior, run.optinfra)
    held = learner.init(random.key(0))
    assert held.hyper.entropy_coef.value == torch.tensor(0.01)
    assert name == "DungeonEscape"
    assert held.params.weights["actor.body.layers.0.weight"].shape == (256, 10)


# --- the command --------------------------------------------------------------------------


@pytest.fixture
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("_elsewhere")
def test_the_command_trains_groups_and_evaluates_them(tmp_path):
    small = [
        part
        for path, value in SMALL_POCA.items()
        if path not in ("trainer_type", "optinfra.env")
        for part in ("--set", f"{path}={value}")
    ]
    done = optinfra("train", "--trainer", "poca", *small)
    assert (done.code, done.err) == (0, ""), done
    folder = tmp_path / "results" / "Escape-v0-1"
    assert done.out.endswith("checkpoints lie in results/Escape-v0-1.\n")
    recorded = folders.settings_of(folder)
    assert recorded.optinfra.env == ESCAPE
    assert settings.choose_behavior(recorded)[1].trainer_type == "poca"
    told = optinfra("evaluate", folder, "--episodes", 4, "--stochastic")
    assert told.code == 0 and "4 episodes, drawn actions" in told.out


def test_shipped_configurations_of_poca_are_found_and_can_be_trained():
    assert cli._shipped(ESCAPE, "poca").name == "Escape-v0.poca.yaml"
    assert cli._shipped("pettingzoo:mpe2.simple_spread_v3", "poca").name == "default.poca.yaml"
    for name in ("Escape-v0.poca.yaml", "default.poca.yaml"):
        run = settings.load(cli._shipped(ESCAPE, "poca").with_name(name))
        behavior, own = settings.choose_behavior(run)
        assert own.trainer_type == "poca" and settings.require_supported(run, behavior) == ()
    refused = optinfra("train", "--trainer", "poca", "--env", TENSOR_CARTPOLE)
    assert_refused(refused, "trainer_type poca learns from groups")
