"""The adapter tells, of any Gymnasium environment, what really followed each action."""

import sys

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from hypothesis import given
from hypothesis import strategies as st

from optinfra.envs import Env, Episode, GymnasiumVector, make
from optinfra.envs.spaces import decoder, encoder
from optinfra.types import Action, ActionSpec, Spec

MODES = list(AutoresetMode)
LIMIT = 4


class Walk(gymnasium.Env):
    """Sees (episode, step, what was drawn); dies of action 1, is cut after LIMIT steps."""

    observation_space = spaces.Box(-100, 100, (3,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self):
        self.episode = 0
        self.buffer = np.zeros(3, np.float32)  # one for ever, as fast environments do

    def see(self, *values):
        self.buffer[:] = values
        return self.buffer

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.episode, self.t = self.episode + 1, 0
        self.drawn = self.np_random.uniform()
        return self.see(self.episode, 0, self.drawn), {}

    def step(self, action):
        assert self.t < LIMIT, "stepped beyond its end"
        self.t += 1
        obs = self.see(self.episode, self.t, self.drawn)
        return obs, 0.5 + self.t, bool(action == 1), self.t == LIMIT, {"of_no_use": 3}


class Told(gymnasium.Env):
    """Shows what it is told to, and remembers the actions it got."""

    def __init__(self, observation_space, action_space, shown, reward=1.0):
        self.observation_space, self.action_space = observation_space, action_space
        self.shown, self.reward, self.got = shown, reward, []

    def reset(self, *, seed=None, options=None):
        return self.observation_space.sample() if self.shown is None else self.shown[0], {}

    def step(self, action):
        self.got.append(action)
        return self.shown[len(self.got)], self.reward, False, False, {}


@pytest.fixture
def walk_id():
    gymnasium.register("tests/Walk-v0", entry_point=Walk, disable_env_checker=True)
    yield "tests/Walk-v0"
    del gymnasium.registry["tests/Walk-v0"]


def fresh_walk():
    """A walk that gives every observation memory of its own: SAME_STEP needs that."""
    return gymnasium.wrappers.TransformObservation(Walk(), np.copy, Walk.observation_space)


def vector(*envs, mode=AutoresetMode.SAME_STEP):
    return GymnasiumVector(
        SyncVectorEnv([lambda env=env: env for env in envs], copy=False, autoreset_mode=mode)
    )


def act(*choices):
    return Action(np.zeros((len(choices), 0), np.float32), np.array(choices)[:, None])


def move(*shares):
    return Action(np.array(shares, np.float32), np.zeros((len(shares), 0), np.int64))


BOX = spaces.Box(-1, 1, (1,), np.float32)
COIN = spaces.Discrete(2)
ZEROS = np.zeros((9, 1), np.float32)


# What follows an action


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.DISABLED])
def test_a_step_that_ends_episodes_shows_their_last_and_the_next_first_observation(mode):
    envs = vector(fresh_walk(), fresh_walk(), mode=mode)
    envs.reset(seed=0)
    envs.step(act(0, 0))
    step = envs.step(act(1, 0))
    assert step.next_obs[0][:, :2].tolist() == [[1, 2], [1, 2]]
    assert step.obs[0][:, :2].tolist() == [[2, 0], [1, 2]]
    assert step.terminated.tolist() == [True, False] and not step.truncated.any()
    assert step.reward.tolist() == [2.5, 2.5] and step.mask.all()
    assert step.episodes == (Episode(env=0, total_reward=4.0, length=2),)


def test_next_step_autoreset_masks_the_step_that_ignores_its_action():
    envs = vector(fresh_walk(), fresh_walk(), mode=AutoresetMode.NEXT_STEP)
    envs.reset(seed=0)
    end, dummy, after = (envs.step(act(*choices)) for choices in ((1, 0), (1, 0), (0, 0)))
    assert end.mask.all() and end.terminated.tolist() == [True, False]
    assert end.obs[0][:, :2].tolist() == end.next_obs[0][:, :2].tolist() == [[1, 1], [1, 1]]
    assert end.episodes == (Episode(0, 1.5, 1),)
    assert dummy.mask.tolist() == [False, True] and dummy.reward.tolist() == [0.0, 2.5]
    assert not dummy.terminated.any() and not dummy.truncated.any() and dummy.episodes == ()
    assert dummy.obs[0][:, :2].tolist() == [[2, 0], [1, 2]]
    assert after.mask.all() and after.obs[0][:, :2].tolist() == [[2, 1], [1, 3]]


class Careless(gymnasium.vector.VectorEnv):
    """Tells nonsense of steps and rows that are none, in buffers it uses again."""

    def __init__(self, mode="NextStep"):
        self.num_envs, self.t = 2, 0
        self.metadata = {"autoreset_mode": mode}
        self.single_observation_space, self.single_action_space = BOX, COIN
        self.told = np.zeros(2), np.zeros(2, bool), np.zeros(2, bool)

    def reset(self, *, seed=None, options=None):
        assert options is None or options["reset_mask"].tolist() == [True, False]
        return np.array([[0], [-9 if options else 0]], np.float32), {}

    def step(self, actions):
        reward, terminated, truncated = self.told
        self.t += 1
        reward[:], terminated[:], truncated[:] = self.t, [True, False], [self.t > 1, False]
        return np.full((2, 1), self.t, np.float32), *self.told, {}


def test_nothing_that_is_told_of_a_dummy_step_counts():
    envs = GymnasiumVector(Careless())
    envs.reset()
    end, dummy, second = (envs.step(act(0, 0)) for _ in range(3))
    assert dummy.reward.tolist() == [0, 2] and not dummy.terminated.any()
    assert not dummy.truncated.any() and dummy.mask.tolist() == [False, True]
    assert end.reward.tolist() == [1, 1], "holds a buffer of the environment"
    assert end.terminated.tolist() == [True, False] and end.truncated.tolist() == [False, False]
    assert second.episodes == (Episode(0, 3.0, 1),)


def test_a_reset_of_ended_environments_changes_no_other():
    envs = GymnasiumVector(Careless("Disabled"))
    envs.reset()
    step = envs.step(act(0, 0))
    assert step.obs[0].tolist() == [[0], [1]] and step.next_obs[0].tolist() == [[1], [1]]
    assert step.mask.all()


class Keeper(Careless):
    """Hands out the array it goes on to use."""

    def step(self, actions):
        _, *told, _ = super().step(actions)
        self.seen = np.array([[5], [6]], np.float32)
        final = np.array([np.array([7], np.float32), None], object)
        return self.seen, *told, {"final_obs": final}


def test_nothing_is_written_into_what_the_environment_hands_out():
    envs = GymnasiumVector(Keeper("SameStep"))
    envs.reset()
    step = envs.step(act(0, 0))
    assert step.next_obs[0].tolist() == [[7], [6]] and step.obs[0].tolist() == [[5], [6]]
    assert envs._envs.seen.tolist() == [[5], [6]]


def by_hand(policy, seed, steps):
    """The transitions of one walk, stepped and reset by hand, and its episodes."""
    env, transitions, episodes, total = Walk(), [], [], 0.0
    obs = env.reset(seed=seed)[0].copy()
    for _ in range(steps):
        following, reward, terminated, truncated, _ = env.step(policy(obs))
        total += reward
        transitions.append((obs, following.copy(), reward, terminated, truncated))
        obs = following.copy()
        if terminated or truncated:
            episodes.append((total, env.t))
            obs, total = env.reset()[0].copy(), 0.0
    return transitions, episodes


@given(mode=st.sampled_from(MODES), seed=st.integers(0, 999), deaths=st.sets(st.integers(0, 11)))
def test_every_mode_yields_the_transitions_of_stepping_by_hand(mode, seed, deaths):
    # What was drawn differs between environments, and so do the ends of their episodes.
    policy = lambda obs: int(int(obs[0] * LIMIT + obs[1] + 97 * obs[2]) % 12 in deaths)
    envs = vector(*(fresh_walk() for _ in range(3)), mode=mode)
    (obs,) = envs.reset(seed=seed)
    seen, episodes = [[], [], []], [[], [], []]
    for _ in range(20):
        step = envs.step(act(*(policy(row) for row in obs)))
        flags = step.reward, step.terminated, step.truncated
        for i in np.flatnonzero(step.mask):
            seen[i].append((obs[i], step.next_obs[0][i], *(flag[i] for flag in flags)))
        for episode in step.episodes:
            episodes[episode.env].append(episode[1:])
        (obs,) = step.obs
    for i in range(3):
        expected, ended = by_hand(policy, seed + i, len(seen[i]))
        for actual, wanted in zip(seen[i], expected):
            for a, b in zip(actual, wanted):
                np.testing.assert_allclose(a, b, rtol=1e-6)
        assert episodes[i] == ended
        dummies = 20 - len(seen[i])
        assert dummies <= len(ended) and (dummies == 0 or mode is AutoresetMode.NEXT_STEP)


def test_final_observations_survive_an_environment_that_writes_into_one_buffer(walk_id):
    envs = make(walk_id, 2)
    envs.reset(seed=0)
    for _ in range(LIMIT):
        step = envs.step(act(0, 0))
    assert step.truncated.all() and step.mask.all() and not step.terminated.any()
    assert step.next_obs[0][:, :2].tolist() == [[1, LIMIT]] * 2
    assert step.obs[0][:, :2].tolist() == [[2, 0]] * 2


def test_what_was_returned_never_changes_afterwards(walk_id):
    envs = make(walk_id, 2)
    kept = [envs.reset(seed=0)]
    for t in range(6):
        step = envs.step(act(t % 2, 0))
        kept += [step.obs, step.next_obs, step[2:6]]
    copies = [[x.copy() for x in arrays] for arrays in kept]
    for _ in range(6):
        envs.step(act(1, 0))
    envs.reset()
    for arrays, then in zip(kept, copies):
        assert all((x == y).all() for x, y in zip(arrays, then))
        assert all(x.dtype == np.float32 for x in arrays if x.dtype != bool)


def test_reset_seeds_each_environment_apart_and_forgets_what_was_under_way():
    envs = vector(fresh_walk(), fresh_walk())
    first = envs.reset(seed=3)[0]
    envs.step(act(0, 0))
    second = envs.reset(seed=3)[0]
    assert (first[:, 2] == second[:, 2]).all() and first[0, 2] != first[1, 2]
    assert envs.reset()[0][0, 2] != first[0, 2]
    assert envs.step(act(1, 0)).episodes == (Episode(0, 1.5, 1),)


def test_reset_ends_the_wait_for_a_dummy_step():
    envs = vector(fresh_walk(), mode=AutoresetMode.NEXT_STEP)
    envs.reset()
    envs.step(act(1))
    envs.reset()
    assert envs.step(act(0)).mask.all()


def test_the_mode_is_that_of_the_environment_whatever_a_younger_one_wrote_into_its_class():
    envs = SyncVectorEnv([fresh_walk], autoreset_mode=AutoresetMode.SAME_STEP)
    envs.metadata["autoreset_mode"] = AutoresetMode.NEXT_STEP  # as Gymnasium < 1.4 does
    envs = GymnasiumVector(envs)
    envs.reset()
    step = envs.step(act(1))
    assert step.next_obs[0][0, 1] == 1 and step.obs[0][0, 1] == 0


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning")  # of JAX, where it was imported
def test_processes_of_their_own_step_as_one_process_does():
    both = [make("Pendulum-v1", 2, vectorization=v) for v in ("sync", "async")]
    seen = []
    for envs in both:
        rows = [envs.reset(seed=1)]
        for t in range(202):
            step = envs.step(move([0.1], [0.3 - t / 200]))
            rows += [step.obs, step.next_obs, step[2:6]]
        seen.append(rows)
        envs.close()
    flat = [[x for arrays in rows for x in arrays] for rows in seen]
    for x, y in zip(*flat):
        np.testing.assert_array_equal(x, y)


# Gymnasium's vectorised CartPole


@pytest.mark.parametrize("env_id", ["CartPole-v0", "CartPole-v1"])
@pytest.mark.filterwarnings("ignore:.*out of date")
def test_the_vectorised_cartpole_is_the_single_one(env_id):
    envs, single = make(env_id, 4), gymnasium.make(env_id)
    inner = envs._envs
    assert type(inner).__name__ == "CartPoleVectorEnv"
    (obs,) = envs.reset(seed=0)
    single.reset()
    rng, lengths, starts = np.random.default_rng(0), np.zeros(4, int), []
    truncated = terminated = 0
    for _ in range(1100):
        # Two environments balance and meet the time limit, two fall.
        balance = obs[:, 2] + 0.3 * obs[:, 3] + 0.05 * obs[:, 0] + 0.1 * obs[:, 1] > 0
        choices = np.where(np.arange(4) < 2, balance, rng.integers(0, 2, 4)).astype(int)
        before = inner.state.T.copy()
        step = envs.step(act(*choices))
        lengths += step.mask
        for i in np.flatnonzero(step.mask):
            single.unwrapped.state = before[i]
            single.unwrapped.steps_beyond_terminated = None
            single._elapsed_steps = lengths[i] - 1
            expected = single.step(int(choices[i]))
            np.testing.assert_allclose(step.next_obs[0][i], expected[0], rtol=1e-6, atol=1e-7)
            actual = step.reward[i], step.terminated[i], step.truncated[i]
            assert actual == expected[1:4]
        starts += [row for row, real in zip(step.obs[0], step.mask) if not real]
        lengths[step.terminated | step.truncated] = 0
        truncated, terminated = truncated + step.truncated.sum(), terminated + step.terminated.sum()
        (obs,) = step.obs
    assert truncated >= 2 and terminated > 20
    assert (np.abs(starts) <= 0.05).all() and np.std(starts) > 0.02


# Spaces


def test_actions_keep_the_start_of_their_space():
    envs = [Told(BOX, spaces.Discrete(3, start=5), ZEROS) for _ in range(2)]
    adapter = vector(*envs)
    assert adapter.spec == Spec(obs=((1,),), action=ActionSpec(branches=(3,)))
    adapter.reset()
    adapter.step(act(0, 2))
    assert [env.got for env in envs] == [[5], [7]]


@pytest.mark.parametrize("shape", [(4,), (2, 2)])
def test_branches_of_multidiscrete_keep_their_order_and_their_start(shape):
    many, start = np.array([2, 3, 4, 5]).reshape(shape), np.array([1, -1, 0, 7]).reshape(shape)
    envs = [Told(BOX, spaces.MultiDiscrete(many, start=start), ZEROS) for _ in range(2)]
    adapter = vector(*envs)
    assert adapter.spec.action == ActionSpec(branches=(2, 3, 4, 5))
    adapter.reset()
    adapter.step(Action(np.zeros((2, 0)), np.array([[0, 1, 2, 3], [1, 2, 0, 4]])))
    got = [env.got[0].ravel().tolist() for env in envs]
    assert got == [[1, 0, 2, 10], [2, 1, 0, 11]]
    assert all(env.action_space.contains(env.got[0]) for env in envs)


def test_actions_may_be_tensors():
    env = Told(BOX, spaces.Box(-3, 3, (1,), np.float32), ZEROS)
    adapter = vector(env)
    adapter.reset()
    action = Action(torch.tensor([[0.5]]), torch.zeros(1, 0, dtype=torch.int64))
    adapter.step(action)
    assert env.got[0].tolist() == [1.5]


BOUNDS = st.tuples(st.floats(-1e3, 1e3, width=32), st.floats(0.0078125, 1e3, width=32))


@given(st.lists(BOUNDS, min_size=4, max_size=4), st.data())
def test_continuous_actions_are_scaled_to_their_bounds_and_back(bounds, data):
    low = np.array([b[0] for b in bounds], np.float64)
    space = spaces.Box(
        low.reshape(2, 2), (low + [b[1] for b in bounds]).reshape(2, 2), (2, 2), np.float64
    )
    share = np.array([data.draw(st.floats(-1, 1)) for _ in range(4)])
    made = decoder(space, 3)
    rows = np.stack([share, -np.ones(4), np.ones(4)])
    scaled = made.decode(Action(rows, np.zeros((3, 0))))
    assert made.spec == ActionSpec(continuous=4) and scaled.shape == (3, 2, 2)
    assert all(space.contains(row) for row in scaled)
    np.testing.assert_allclose(scaled[1], space.low, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(scaled[2], space.high, rtol=1e-9, atol=1e-9)
    back = 2 * (scaled - space.low) / (space.high - space.low) - 1
    np.testing.assert_allclose(back[0].ravel(), share, atol=1e-7)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rounding_carries_no_action_beyond_its_bound(dtype):
    space = spaces.Box(np.float32(-0.1), np.float32(0.7), (1,), np.float32)
    rows = np.array([[-1.0], [1.0], [1.0000001]], dtype)
    scaled = decoder(space, 3).decode(Action(rows, np.zeros((3, 0))))
    assert all(space.contains(row) for row in scaled) and scaled.dtype == np.float32


def test_discrete_observations_become_one_hot():
    space = spaces.Discrete(3, start=-1)
    envs = vector(*(Told(space, COIN, shown) for shown in ([-1, 0], [1, -1])))
    assert envs.spec.obs == ((3,),)
    assert envs.reset()[0].tolist() == [[1, 0, 0], [0, 0, 1]]
    (obs,) = envs.step(act(0, 0)).obs
    assert obs.tolist() == [[0, 1, 0], [1, 0, 0]] and obs.dtype == np.float32


def test_multidiscrete_observations_become_one_hot_component_after_component():
    made = encoder(spaces.MultiDiscrete([[2, 3]], start=[[0, 4]]))
    assert made.spec(ActionSpec()).obs == ((5,),)
    (obs,) = made.encode(np.array([[[0, 6]], [[1, 4]]]))
    assert obs.tolist() == [[1, 0, 0, 0, 1], [0, 1, 1, 0, 0]] and obs.dtype == np.float32


def test_final_observations_of_a_discrete_space_are_told_too():
    class Chain(gymnasium.Env):
        observation_space, action_space = spaces.Discrete(5), COIN

        def reset(self, *, seed=None, options=None):
            self.at = 1
            return self.at, {}

        def step(self, action):
            self.at += 1 + int(action)
            return self.at, 0.0, self.at > 2, False, {}

    for mode in MODES:
        envs = vector(Chain(), Chain(), mode=mode)
        envs.reset()
        step = envs.step(act(1, 0))
        assert step.next_obs[0].argmax(1).tolist() == [3, 2]


# Names


def test_names_lead_to_environments():
    assert isinstance(make("tensor:CartPole-v1", 4), Env)
    assert make("tensor:Pendulum-v1", 4).spec.action.continuous == 1
    envs = make("Pendulum-v1", 3)
    assert isinstance(envs, GymnasiumVector) and envs.num_envs == 3
    assert envs.spec == Spec(obs=((3,),), action=ActionSpec(continuous=1))


def test_the_vectorisation_can_be_chosen():
    assert isinstance(make("CartPole-v1", 2, vectorization="sync")._envs, SyncVectorEnv)


@pytest.mark.parametrize(
    ("name", "close"),
    [("CartPole-v9", "CartPole-v1"), ("CARTPOLE-V1", "CartPole-v1"), ("Cart-Pole", "CartPole-v1"),
     ("tensor:CartPole", "tensor:CartPole-v1"), ("tensor:pendulum-v1", "tensor:Pendulum-v1"),
     ("gymnasium:Pendulun-v1", "Pendulum-v1")],
)  # fmt: skip
def test_an_unknown_name_is_refused_with_close_ones(name, close):
    with pytest.raises(ValueError, match="`env` must be the name of a registered") as caught:
        make(name, 1)
    assert repr(name) in str(caught.value) and close in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_name_like_no_other_is_refused_with_a_way_to_import_its_package():
    with pytest.raises(ValueError, match=r"got 'ALE/Zaxxon'. One that another package registers"):
        make("ALE/Zaxxon", 1)


def test_a_package_in_the_name_is_imported_and_its_absence_told():
    assert make("gymnasium:Pendulum-v1", 1).num_envs == 1
    with pytest.raises(ModuleNotFoundError, match=r"needs the package `no_such`.*install no_such"):
        make("no_such:Thing-v0", 1)


def test_without_gymnasium_the_extra_to_install_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'optinfra\[train\]'"):
        make("CartPole-v1", 1)
    assert isinstance(make("tensor:CartPole-v1", 1), Env)


def test_what_an_environment_lacks_is_named_with_its_extra():
    gymnasium.register("tests/Lost-v0", entry_point="gymnasium.envs.mujoco.no_such:Env")
    try:
        with pytest.raises(ModuleNotFoundError) as caught:
            make("tests/Lost-v0", 1)
    finally:
        del gymnasium.registry["tests/Lost-v0"]
    message = str(caught.value)
    assert message.startswith("`tests/Lost-v0` cannot be made: ") and "\n" not in message
    assert message.endswith("pip install 'gymnasium[mujoco]'")


def test_numbers_and_ways_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match=r"`num_envs` must lie in \[1, inf\), got 0"):
        make("CartPole-v1", 0)
    with pytest.raises(ValueError, match=r"`vectorization` must be one of .*, got 'both'"):
        make("CartPole-v1", 1, vectorization="both")


# Refusals


@pytest.mark.parametrize(
    ("seen", "done", "message"),
    [(spaces.Text(3), COIN, r"`observation_space` must be Box.* got Text\("),
     (BOX, spaces.Tuple((COIN, BOX)), r"`action_space` must be a float Box.* got Tuple\("),
     (BOX, spaces.Box(0, 9, (1,), np.int64), r"`action_space` must be a float Box.* got Box\("),
     (BOX, spaces.Box(-np.inf, 1, (2,)), r"must have finite bounds in every dimension, got Box"),
     (BOX, spaces.Box(-3.4e38, 3.4e38, (1,)), "must have finite bounds in every dimension")],
)  # fmt: skip
def test_a_space_that_is_not_supported_is_named(seen, done, message):
    with pytest.raises(ValueError, match=message):
        vector(Told(seen, done, None))


def test_what_is_no_vector_environment_is_refused():
    with pytest.raises(TypeError, match=r"`envs` must be a gymnasium\.vector\.VectorEnv, got Walk"):
        GymnasiumVector(Walk())


def test_an_environment_that_does_not_say_how_it_resets_is_refused():
    with pytest.raises(ValueError, match="AutoresetMode, got None"):
        GymnasiumVector(Careless(mode=None))


def test_a_final_observation_that_is_missing_is_named():
    adapter = GymnasiumVector(Careless(AutoresetMode.SAME_STEP))
    adapter.reset()
    with pytest.raises(ValueError, match="`info` must hold `final_obs` where an episode ends"):
        adapter.step(act(0, 0))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_an_observation_that_is_not_finite_is_named_with_its_environment(bad):
    space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    good, ill = np.zeros((3, 2), np.float32), np.array([[0, 0], [1, bad], [bad, 0]], np.float32)
    envs = vector(*(Told(space, COIN, shown) for shown in (good, good, ill)))
    envs.reset()
    with pytest.raises(ValueError, match=f"`obs` of environment 2 must be finite, got {bad} at p"):
        envs.step(act(0, 0, 0))
    with pytest.raises(ValueError, match=r"environment 0 must be finite, got .* at position 1"):
        vector(Told(space, COIN, ill[1:])).reset()


@pytest.mark.parametrize("mode", MODES)
def test_a_final_observation_that_is_not_finite_is_refused(mode):
    class Broken(Walk):
        def step(self, action):
            _, reward, *_ = super().step(action)
            return np.array([0, np.nan, 0]), reward, False, True, {}

    envs = vector(fresh_walk(), Broken(), mode=mode)
    envs.reset()
    with pytest.raises(ValueError, match="`obs` of environment 1 must be finite, got nan at pos"):
        envs.step(act(0, 0))


def test_a_reward_that_is_not_finite_is_named_with_its_environment():
    envs = vector(*(Told(BOX, COIN, ZEROS, reward) for reward in (1.0, np.nan)))
    envs.reset()
    with pytest.raises(ValueError, match="`reward` of environment 1 must be finite, got nan"):
        envs.step(act(0, 0))


def test_an_observation_outside_its_space_is_named_with_its_environment():
    envs = vector(*(Told(spaces.Discrete(3), COIN, shown) for shown in ([0, 0], [1, 3])))
    envs.reset()
    with pytest.raises(
        ValueError, match=r"`obs` of environment 1 must lie in \[0\] to \[2\], got \[3"
    ):
        envs.step(act(0, 0))


@pytest.mark.parametrize(
    ("space", "action", "message"),
    [(COIN, act(0), r"`action\.discrete` must have shape \[2, 1\], got \[1, 1\]"),
     (COIN, move([0.1], [0.2]), r"`action\.discrete` must have shape \[2, 1\], got \[2, 0\]"),
     (BOX, act(0, 1), r"`action\.continuous` must have shape \[2, 1\], got \[2, 0\]")],
)  # fmt: skip
def test_an_action_of_the_wrong_shape_is_refused(space, action, message):
    envs = vector(Told(BOX, space, ZEROS), Told(BOX, space, ZEROS))
    envs.reset()
    with pytest.raises(ValueError, match=message):
        envs.step(action)
