"""Runs that see images, sets and goals: what is collected, kept, recorded and learnt from."""

import chex
import numpy as np
import pytest
import torch

from optinfra import demos, random, replay, settings
from optinfra.envs import Env, EnvStep
from optinfra.rollout import transitions
from optinfra.train import loop, signals
from optinfra.train.collect import collector
from optinfra.types import Act, Action, ActionSpec, Spec
from tests.commands import SMALL, SMALL_SETTINGS, assert_refused, leaves, optinfra
from tests.runs import saved_steps

CPU = torch.device("cpu")
SIGHTS = "tests.tiny_envs:tiny/Sights-v0"
SEEN = Spec(((2,), (4, 3), (3, 20, 21), (1,)), ActionSpec(0, (2,)), goals=(0,), bytes=(2,))
OFF_POLICY = {
    "trainer_type": "sac",
    "hyperparameters.steps_per_update": 4,
    "hyperparameters.buffer_init_steps": 8,
    "hyperparameters.buffer_size": 64,
    "hyperparameters.batch_size": 8,
    "hyperparameters.save_replay_buffer": "true",
    "optinfra.sac.replay_memory": 0,  # in files
}
ON_POLICY = {key: x for key, x in SMALL_SETTINGS.items() if "size" in key or "epoch" in key}


def run_of(**assignments):
    chosen = (
        {"trainer_type": "ppo", **ON_POLICY}
        | {
            "network_settings.hidden_units": 4,
            "network_settings.normalize": "true",
            "env_settings.num_envs": 4,
            "env_settings.seed": 1,
            "summary_freq": 32,
            "checkpoint_interval": 32,
            "max_steps": 64,
            "optinfra.env": SIGHTS,
            "optinfra.max_entities": 4,
        }
        | assignments
    )
    if chosen["trainer_type"] == "sac":
        chosen.pop("hyperparameters.num_epoch")
    return settings.load(settings.override("", [f"{path}={x}" for path, x in chosen.items()]))


def prepared(**assignments):
    run = run_of(**assignments)
    return loop.prepare(run, settings.choose_behavior(run)[0], CPU)


def begin(folder, resumed=None, **assignments):
    run, place = run_of(**assignments), {"chosen": folder}
    if resumed:
        place = {"resumed": folder}
    return loop.train(run, settings.choose_behavior(run)[0], device=CPU, **place)


def assert_shown(obs):
    """Every observation tells of one and the same step."""
    goal, dots, picture, (step) = obs
    number = step[..., 0]
    assert goal.dtype == dots.dtype == step.dtype == torch.float32
    assert picture.dtype == torch.uint8 and ((goal >= 2) & (goal <= 4)).all()
    assert torch.equal(picture[..., 2, 0, 1].float(), 200 + number)
    assert (picture.flatten(-3) > 0).sum(-1).unique().tolist() == [1]
    assert torch.equal(dots[..., 2].sum(-1), number)
    assert torch.equal(dots[..., 1], number[..., None] * dots[..., 2])
    assert torch.equal(dots[..., 0].sum(-1), number * (number - 1) / 2)


def test_rollouts_hold_what_was_shown_images_in_bytes():
    training = prepared()
    place = training.start.source
    for _ in range(3):
        params = training.start.iteration.learner.params
        place, rollout, _ = training.source.collect(place, params)
        for obs in (rollout.obs, rollout.next_obs):
            assert [x.shape[2:] for x in obs] == list(SEEN.obs)
            assert_shown(obs)
        followed = rollout.next_obs[3] == rollout.obs[3] + 1
        assert followed[rollout.mask].all() and rollout.obs[3].max() >= 2
    training.source.close()


def test_a_row_of_nothing_is_of_the_dtypes_of_what_is_seen():
    row = signals.blank(SEEN)
    for obs in (row.obs, row.next_obs):
        assert [(tuple(x.shape), x.dtype) for x in obs] == [
            ((1, *shape), torch.uint8 if i == 2 else torch.float32)
            for i, shape in enumerate(SEEN.obs)
        ]


def paint(state):
    return (state[None], torch.full((1, 2, 2), 250, dtype=torch.uint8) + state.to(torch.uint8))


def test_tensor_environments_may_show_bytes():
    spec = Spec(((1,), (1, 2, 2)), ActionSpec(1), bytes=(1,))

    def step(state, action, key):
        return EnvStep(state + 1, paint(state + 1), state, state >= 3, state < 0)

    def still(params, obs, memory, key):
        rows = len(obs[0])
        action = Action(torch.zeros(rows, 1), torch.zeros(rows, 0, dtype=torch.int64))
        return Act(action, action, torch.zeros(rows, 1), ())

    env = Env(spec, lambda key: (torch.zeros(()), paint(torch.zeros(()))), step)
    collecting = collector(env, still, num_envs=2, num_steps=9)
    _, (rollout, _) = collecting.collect(collecting.init(random.key(0)), ())
    for obs in (rollout.obs, rollout.next_obs):
        assert obs[1].dtype == torch.uint8
        assert torch.equal(obs[1].float(), 250 + obs[0][..., None, None].expand(9, 2, 1, 2, 2))
    assert rollout.obs[0][:, 0, 0].tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 0]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A run that has seen all kinds of things, and a recording of what its policy saw."""
    folder = tmp_path_factory.mktemp("sights")
    begin(folder / "run")
    done = optinfra("record", folder / "run", "--episodes", 3, folder / "a.demo")
    assert done.code == 0, done.err
    return folder


def test_a_recording_is_read_as_what_the_environment_showed(recorded):
    spec, columns = demos.load(recorded / "a.demo", SEEN)
    assert spec == SEEN and columns.episode.max() == 2
    assert_shown(columns.obs)
    assert demos.load(recorded / "a.demo").spec == SEEN._replace(bytes=())


EVERY_SIGNAL = (
    "{{extrinsic: {{}}, curiosity: {{}}, rnd: {{}}, gail: {{demo_path: {0}, use_actions: true}}}}"
)


@pytest.mark.parametrize("trainer", ["ppo", pytest.param("sac", marks=pytest.mark.thorough)])
def test_every_signal_and_imitation_learn_from_what_is_seen(recorded, tmp_path, trainer):
    demo = recorded / "a.demo"
    given = {
        "reward_signals": EVERY_SIGNAL.format(demo),
        "behavioral_cloning": f"{{demo_path: {demo}}}",
        "network_settings.memory": "{sequence_length: 4, memory_size: 4}",
        "max_steps": 32,
    }
    if trainer == "sac":
        given |= OFF_POLICY | {"optinfra.sac.prefill_replay": demo}
    outcome = begin(tmp_path / "run", **given)
    assert outcome.steps == 32 and saved_steps(tmp_path / "run")[-1] == 32
    learnt = {name: x for name, x in leaves(tmp_path / "run").items() if "window" not in name}
    assert not [name for name, x in learnt.items() if not x.isfinite().all()]


def test_replay_holds_bytes_and_a_run_goes_on_with_them(tmp_path):
    begin(tmp_path / "run", **OFF_POLICY)
    training = prepared(**OFF_POLICY)
    store = training.replay.open(tmp_path / "files")
    (saved,) = (tmp_path / "run" / "replay").iterdir()
    store.load(saved)
    assert len(store) >= 40
    drawn = replay.sample(store.view(), random.key(0), 50)
    assert_shown(drawn.obs), assert_shown(drawn.next_obs)
    pixels = 3 * 20 * 21
    assert 2 * pixels < store.nbytes / store.capacity < 2 * pixels + 300
    before = leaves(tmp_path / "run")
    outcome = begin(tmp_path / "run", resumed=True, **OFF_POLICY | {"max_steps": 96})
    assert outcome.steps == 96
    with pytest.raises(AssertionError):
        chex.assert_trees_all_equal(before, leaves(tmp_path / "run"))


def test_a_rollouts_transitions_are_of_its_dtypes():
    training = prepared(**OFF_POLICY)
    _, rollout, _ = training.source.collect(
        training.start.source, training.start.iteration.learner.params
    )
    training.replay.store.add(transitions(rollout))
    drawn = replay.sample_sequences(training.replay.store.view(), random.key(0), 5, 3)
    assert drawn.transitions.obs[2].dtype == torch.uint8
    training.source.close()


def pair_of_agents():
    import pettingzoo
    from gymnasium import spaces

    class Pair(pettingzoo.ParallelEnv):
        """Two agents see how many steps went by; one leaves early."""

        possible_agents = ("agent_0", "agent_1")
        space = spaces.Dict(
            {
                "desired_goal": spaces.Box(0, 9, (1,), np.float32),
                "dots": spaces.Sequence(spaces.Discrete(4)),
                "picture": spaces.Box(0, 255, (20, 20), np.uint8),
            }
        )

        def observation_space(self, agent):
            return self.space

        def action_space(self, agent):
            return spaces.Discrete(2)

        def see(self, agents):
            goal, picture = np.ones(1, np.float32), np.full((20, 20), 200 + self.t, np.uint8)
            dots = tuple(range(self.t))
            return {a: {"desired_goal": goal, "dots": dots, "picture": picture} for a in agents}

        def reset(self, seed=None, options=None):
            self.agents, self.t = list(self.possible_agents), 0
            return self.see(self.agents), {}

        def step(self, actions):
            self.t += 1
            acting = self.agents
            left = {a: self.t == 3 or (a == "agent_1" and self.t == 2) for a in acting}
            self.agents = [a for a in acting if not left[a]]
            never = dict.fromkeys(acting, False)
            return self.see(acting), dict.fromkeys(acting, 1.0), left, never, {}

    return Pair()


parallel_env = pair_of_agents  # what `pettingzoo:tests.test_train_observations` makes


@pytest.mark.parametrize("trainer", ["poca", "ppo"])
def test_groups_learn_from_images_sets_and_goals(tmp_path, trainer):
    pytest.importorskip("pettingzoo", reason="needs pettingzoo")
    own = {"trainer_type": trainer, "optinfra.env": "pettingzoo:tests.test_train_observations"}
    training = prepared(**own)
    place, absent = training.start.source, []
    for _ in range(3):
        place, rollout, _ = training.source.collect(place, training.start.iteration.learner.params)
        goal, dots, picture = rollout.next_obs
        assert picture.dtype == torch.uint8 and dots.shape[3:] == (4, 5)
        there = goal[..., 0] > 0  # an absent agent is shown zeros
        expected = torch.where(there, 200 + dots[..., 4].sum(-1), 0.0)[..., None, None, None]
        assert torch.equal(picture.float(), expected.expand(picture.shape))
        absent.append(~there)
    assert torch.cat(absent).any() and not torch.cat(absent).all()
    outcome = begin(tmp_path / "run", **own | {"max_steps": 32})
    assert outcome.steps >= 32


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("optinfra.goals=[target]", "`goals` must name observations, got 'target'. There are des"),
        ("optinfra.sets=[step]", "`sets` must be Boxes [N, D], got `step`, which is none."),
        ("optinfra.max_entities=0", "optinfra.max_entities: expected a whole number"),
        ("optinfra.goals=target", "optinfra.goals: expected"),
        ("optinfra.max_entities=1", "must have at most 1 entities, got 2. Raise `max_entities`."),
    ],
)
def test_readings_that_do_not_fit_are_told_in_a_line(tmp_path, setting, told):
    given = ("--env", SIGHTS, "--steps", 64, "--set", setting, "--run-dir", tmp_path / "run")
    assert_refused(optinfra("train", *SMALL, *given), told)


def test_settings_say_which_observations_are_goals():
    goals = {"optinfra.goals": "[step, picture]", "optinfra.max_entities": 7}
    env = loop.made(run_of(**goals), 1)
    assert env.spec.goals == (0, 2, 3) and env.spec.obs[1] == (7, 3)
    assert np.issubdtype(env.reset()[2].dtype, np.uint8)
