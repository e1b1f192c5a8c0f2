"""Observations of any space become vectors, images and sets that say the same."""

import re

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.vector.utils import concatenate, create_empty_array
from hypothesis import example, given
from hypothesis import strategies as st

from optinfra.envs import GymnasiumVector, Reading, make
from optinfra.envs.spaces import encoder
from optinfra.types import Action, ActionSpec

MODES = list(AutoresetMode)
MOST = 3
COIN = spaces.Discrete(2)
VECTOR = spaces.Box(-9, 9, (3,), np.float32)
PICTURE = spaces.Box(0, 255, (5, 6, 3), np.uint8)
GOALS = spaces.Dict(achieved_goal=VECTOR, desired_goal=VECTOR, observation=PICTURE)


def spec_of(space, **reading):
    return encoder(space, Reading(**reading)).spec(ActionSpec(branches=(2,)))


def batched(space, samples):
    """What Gymnasium's vector environments make of observations."""
    return concatenate(space, samples, create_empty_array(space, len(samples)))


def leaves(space, x):
    """Spaces that are no Dict or Tuple, with what an observation has of each, in their order."""
    if isinstance(space, spaces.Dict | spaces.Tuple):
        keys = list(space.spaces) if isinstance(space, spaces.Dict) else range(len(space.spaces))
        for key in keys:
            yield from leaves(space[key], x[key])
    else:
        yield space, x


def flat(space, x):
    return spaces.flatten(space, x).astype(np.float32)


def entities(space, x):
    """The entities of a sequence, one by one."""
    if not space.stack:
        return list(x)
    if isinstance(space.feature_space, spaces.Dict):
        return [{key: x[key][k] for key in x} for k in range(len(x["a"]))]
    return list(x)


# --- what a space becomes -----------------------------------------------------------------


FLAT = [(), (3,), (4, 5), (2, 2, 2, 3)]
CHANNELS_FIRST = [(3, 84, 84), (4, 84, 84), (1, 84, 84), (2, 5, 5), (9, 12, 11), (10, 12, 11)]
CHANNELS_LAST = [
    (84, 84, 3), (84, 84, 4), (84, 84, 1), (10, 10, 6), (2, 3, 4), (3, 4, 4), (4, 3, 4),
    (10, 10, 10), (12, 12, 16), (12, 11, 16), (11, 11, 12), (12, 11, 12),  # no axis tells
]  # fmt: skip


@pytest.mark.parametrize("shape", [*FLAT, *CHANNELS_FIRST, *CHANNELS_LAST])
def test_an_image_is_of_three_axes_and_its_channels_come_first(shape):
    x = np.arange(2 * np.prod(shape, dtype=int), dtype=np.float32).reshape(2, *shape)
    made = encoder(spaces.Box(-np.inf, np.inf, shape))
    (obs,), spec = made.encode(x), made.spec(ActionSpec())
    if shape in FLAT:
        x = x.reshape(2, -1)
    elif shape in CHANNELS_LAST:
        x = np.moveaxis(x, 3, 1)
    np.testing.assert_array_equal(obs, x)
    assert spec.obs == (x.shape[1:],) and spec.bytes == () and obs.dtype == np.float32


@pytest.mark.parametrize(
    ("space", "kept", "is_bytes"),
    [
        (PICTURE, (3, 5, 6), True),
        (spaces.Box(0, 255, (5, 6), np.uint8), (1, 5, 6), True),
        (spaces.Box(0, 255, (7,), np.uint8), (7,), False),
        (spaces.Box(0, 255, (2, 5, 6, 3), np.uint8), (180,), False),
        (spaces.Box(0, 10, (5, 6, 3), np.uint8), (3, 5, 6), False),
        (spaces.Box(1, 255, (5, 6, 3), np.uint8), (3, 5, 6), False),
        (spaces.Box(0, 10, (5, 6), np.uint8), (30,), False),
        (spaces.Box(0, 255, (5, 6, 3), np.int64), (3, 5, 6), False),
        (spaces.Box(0, 1, (5, 6, 3), bool), (3, 5, 6), False),
        (spaces.Box(0, 1, (5, 6, 3), np.float64), (3, 5, 6), False),
        (spaces.MultiBinary((5, 6, 3)), (3, 5, 6), False),
        (spaces.MultiBinary(4), (4,), False),
    ],
)
def test_images_of_bytes_stay_bytes_and_all_else_becomes_floats_in_its_own_numbers(
    space, kept, is_bytes
):
    spec, made = spec_of(space), encoder(space)
    assert spec.obs == (kept,) and spec.bytes == ((0,) if is_bytes else ())
    space.seed(0)
    samples = [space.sample() for _ in range(4)]
    (obs,) = made.encode(np.stack(samples))
    assert obs.dtype == (np.uint8 if is_bytes else np.float32) and obs.shape == (4, *kept)
    for row, x in zip(obs, samples):
        told = np.moveaxis(row, 0, -1) if len(kept) == 3 else row
        np.testing.assert_array_equal(told.ravel(), x.ravel().astype(obs.dtype))


def test_parts_of_dicts_and_tuples_come_in_their_own_order_at_any_depth():
    inner = spaces.Tuple((COIN, spaces.Dict({"target": VECTOR, "board": PICTURE})))
    space = spaces.Dict({"task": inner, "me": spaces.Box(0, 1, (), np.float32)})
    made = encoder(space)
    assert made.names == ("me", "task.0", "task.1.board", "task.1.target")
    spec = made.spec(ActionSpec(2))
    assert spec.obs == ((1,), (2,), (3, 5, 6), (3,)) and spec.bytes == (2,)
    assert spec.action == ActionSpec(2) and spec.goals == ()
    assert encoder(spaces.Dict(b=COIN, a=VECTOR)).names == ("b", "a")
    assert encoder(VECTOR).names == ("obs",)


def test_goals_are_what_gymnasium_calls_so_and_what_is_named():
    assert spec_of(GOALS).goals == (1,)
    assert spec_of(GOALS, goals=("observation",)).goals == (1, 2)
    nested = spaces.Dict(robot=GOALS, task=spaces.Tuple((COIN, VECTOR)), tasks=COIN)
    assert spec_of(nested).goals == (1,)
    assert spec_of(nested, goals=("task",)).goals == (1, 3, 4)
    assert spec_of(nested, goals=("task.1", "robot.observation")).goals == (1, 2, 4)
    whole = spaces.Dict(desired_goal=spaces.Dict(a=COIN, b=VECTOR), undesired_goal=COIN)
    assert spec_of(whole).goals == (0, 1)
    assert spec_of(VECTOR, goals=("obs",)).goals == (0,)


def test_boxes_of_two_axes_are_sets_where_they_are_named():
    crowd = spaces.Box(-9, 9, (4, 2), np.float32)
    space = spaces.Dict(crowd=crowd, others=crowd, me=VECTOR)
    assert spec_of(space, sets=("crowd",)).obs == ((4, 2), (8,), (3,))
    x = np.array([[[1, 2], [0, 0], [3, 4], [0, 0]]], np.float32)
    (obs,) = encoder(crowd, Reading(sets=("obs",))).encode(x)
    np.testing.assert_array_equal(obs, x)
    bytes_ = spaces.Box(0, 255, (4, 2), np.uint8)
    assert spec_of(bytes_, sets=("obs",)) == spec_of(crowd, sets=("obs",))
    (obs,) = encoder(bytes_, Reading(sets=("obs",))).encode(x.astype(np.uint8))
    assert obs.dtype == np.float32 and (obs == x).all()


@pytest.mark.parametrize("stack", [False, True])
def test_an_entity_at_the_origin_is_there_and_an_absent_one_is_all_zeros(stack):
    space = spaces.Sequence(spaces.Box(-1, 1, (2,), np.float32), stack=stack)
    made = encoder(space, Reading(max_entities=3))
    rows = [np.zeros((2, 2), np.float32), np.zeros((0, 2), np.float32), np.ones((3, 2), np.float32)]
    rows = rows if stack else [tuple(row) for row in rows]
    (obs,) = made.encode(tuple(rows))
    assert made.spec(ActionSpec()).obs == ((3, 3),) and obs.dtype == np.float32
    assert obs[0].tolist() == [[0, 0, 1], [0, 0, 1], [0, 0, 0]]
    assert not obs[1].any() and obs[2].tolist() == [[1, 1, 1]] * 3
    assert (obs**2).sum(-1)[0].tolist() == [1, 1, 0]  # beyond 0.01 it is there


def test_sixteen_entities_find_room_unless_told_otherwise():
    assert spec_of(spaces.Sequence(spaces.Discrete(4, start=2))).obs == ((16, 5),)
    made = encoder(spaces.Sequence(spaces.Discrete(4, start=2)), Reading(max_entities=2))
    assert made.encode(((3, 5), ()))[0].tolist() == [
        [[0, 1, 0, 0, 1], [0, 0, 0, 1, 1]],
        [[0] * 5] * 2,
    ]


# --- the same content ---------------------------------------------------------------------


@st.composite
def boxes(draw):
    shape = tuple(draw(st.lists(st.integers(1, 4), max_size=4)))
    if draw(st.booleans()):
        return spaces.Box(0, 255, shape, np.uint8)
    return spaces.Box(-5, 5, shape, draw(st.sampled_from([np.float32, np.float64, np.int64])))


DISCRETE = st.builds(
    lambda n, start: spaces.Discrete(n, start=start), st.integers(1, 4), st.integers(-2, 2)
)
MANY = st.lists(st.integers(1, 3), min_size=1, max_size=3).map(
    lambda ns: spaces.MultiDiscrete(ns, start=[7 - n for n in ns])
)
VECTORS = st.integers(1, 3).map(lambda n: spaces.Box(-5, 5, (n,), np.float32)) | DISCRETE | MANY
SEQUENCES = st.builds(
    lambda inner, stack: spaces.Sequence(inner, stack=stack),
    VECTORS | VECTORS.map(lambda inner: spaces.Dict(a=inner, b=COIN)),
    st.booleans(),
)
SPACES = st.recursive(
    boxes() | DISCRETE | MANY | SEQUENCES | st.just(spaces.MultiBinary(2)),
    lambda inner: (
        st.lists(inner, min_size=1, max_size=3).map(spaces.Tuple)
        | st.dictionaries(st.sampled_from("xyz"), inner, min_size=1, max_size=3).map(spaces.Dict)
    ),
    max_leaves=5,
)


def assert_says(row, space, x):
    """What an observation became says what it was."""
    if isinstance(space, spaces.Sequence):
        there = entities(space, x)
        for k, entity in enumerate(there):
            np.testing.assert_array_equal(row[k, :-1], flat(space.feature_space, entity))
        assert row[:, -1].tolist() == [1] * len(there) + [0] * (len(row) - len(there))
        assert not row[len(there) :].any()
    elif isinstance(space, spaces.Box) and len(space.shape) == 3:
        back = np.moveaxis(row, 0, -1)
        assert space.shape[2] <= 4 and back.shape == space.shape
        np.testing.assert_array_equal(back, x.astype(np.float32))
    else:
        np.testing.assert_array_equal(row.ravel(), flat(space, x))


@given(SPACES, st.integers(0, 999), st.integers(1, 3))
@example(spaces.Tuple((spaces.Sequence(VECTOR), VECTOR)), 5, 2)
def test_every_observation_is_told_whole_alone_as_in_a_batch(space, seed, rows):
    space.seed(seed)
    samples = [space.sample() for _ in range(rows)]
    made = encoder(space, Reading(max_entities=60))
    batch, alone = made.encode(batched(space, samples)), made.encode_rows(samples)
    spec = made.spec(ActionSpec(1))
    for i, (x, y) in enumerate(zip(batch, alone)):
        np.testing.assert_array_equal(x, y)
        assert x.shape == y.shape == (rows, *spec.obs[i])
        assert x.dtype == y.dtype == (np.uint8 if i in spec.bytes else np.float32)
        assert x.flags["C_CONTIGUOUS"]
    for row, sample in enumerate(samples):
        each = list(leaves(space, sample))
        assert len(each) == len(batch) == len(made.names)
        for x, (leaf, told) in zip(batch, each):
            assert_says(x[row], leaf, told)


@given(SPACES)
def test_a_space_has_one_encoder(space):
    assert encoder(space) == encoder(space)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (VECTOR, spaces.Box(-9, 9, (4,), np.float32)),
        (spaces.Discrete(3), spaces.Discrete(3, start=1)),
        (PICTURE, spaces.Box(0, 1, (5, 6, 3), np.float32)),
        (PICTURE, spaces.Box(0, 255, (3, 5, 6), np.uint8)),
        (spaces.Sequence(VECTOR), spaces.Sequence(VECTOR, stack=True)),
        (spaces.Dict(a=COIN), spaces.Dict(b=COIN)),
        (spaces.Dict(goal=COIN), spaces.Dict(desired_goal=COIN)),
    ],
)
def test_spaces_that_are_read_differently_have_different_encoders(one, other):
    assert encoder(one) != encoder(other)


def test_what_is_encoded_shares_no_memory_with_what_it_was():
    shown = {"a": np.zeros((2, 3), np.float32), "b": np.zeros((2, 3, 5, 6), np.uint8),
             "c": np.zeros((2, 5, 6, 1), np.uint8)}  # fmt: skip
    space = spaces.Dict(
        a=VECTOR, b=spaces.Box(0, 255, (3, 5, 6), np.uint8),
        c=spaces.Box(0, 255, (5, 6, 1), np.uint8),
    )  # fmt: skip
    obs = encoder(space).encode(shown)
    for x in shown.values():
        x[:] = 1
    assert not any(x.any() for x in obs)


# --- environments -------------------------------------------------------------------------


SEEN = spaces.Dict(
    crowd=spaces.Sequence(spaces.Box(-100, 100, (2,), np.float32)),
    pair=spaces.Tuple((spaces.Discrete(9), PICTURE)),
    walk=spaces.Box(-100, 100, (3,), np.float32),
)


class Sights(gymnasium.Env):
    """Shows (episode, step) in every way there is, in buffers that it uses again."""

    observation_space, action_space, limit = SEEN, COIN, 4

    def __init__(self):
        self.episode, self.walk = 0, np.zeros(3, np.float32)
        self.picture = np.zeros((5, 6, 3), np.uint8)

    def see(self):
        self.walk[:] = self.episode, self.t, self.drawn
        self.picture[:] = 50 * (self.episode % 5) + self.t
        self.picture[0, 1, 2] = self.t
        crowd = tuple(np.array([self.episode, k], np.float32) for k in range(self.t % 3))
        return {"crowd": crowd, "pair": (self.t, self.picture), "walk": self.walk}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.episode, self.t, self.drawn = self.episode + 1, 0, self.np_random.uniform()
        return self.see(), {}

    def step(self, action):
        self.t += 1
        return self.see(), 1.0, bool(action == 1), self.t == self.limit, {}


class Fresh(Sights):
    """The same, in memory of its own each time: SAME_STEP needs that."""

    def see(self):
        self.walk, self.picture = self.walk.copy(), self.picture.copy()
        return super().see()


def expected(episode, t, drawn):
    """What an agent is to be shown."""
    crowd = np.zeros((MOST, 3), np.float32)
    crowd[: t % 3] = np.reshape([[episode, k, 1] for k in range(t % 3)], (-1, 3))
    picture = np.full((3, 5, 6), 50 * (episode % 5) + t, np.uint8)
    picture[2, 0, 1] = t
    walk = np.array([episode, t, drawn], np.float32)
    return crowd, np.eye(9, dtype=np.float32)[t], picture, walk


def adapter(kind, mode, copies=2, copy=False):
    envs = SyncVectorEnv([kind] * copies, copy=copy, autoreset_mode=mode)
    return GymnasiumVector(envs, Reading(max_entities=MOST))


CHOICES = st.integers(0, 3)  # 1 ends the episode


def act(*choices):
    return Action(np.zeros((len(choices), 0), np.float32), np.array(choices)[:, None])


@given(st.sampled_from(MODES), st.lists(st.tuples(CHOICES, CHOICES), max_size=9))
@example(AutoresetMode.SAME_STEP, [(1, 0), (0, 1), (1, 1)])
def test_every_mode_tells_what_really_followed_of_each_observation(mode, choices):
    envs = adapter(Fresh if mode is AutoresetMode.SAME_STEP else Sights, mode)
    obs = envs.reset(seed=4)
    at, kept = [(1, 0), (1, 0)], []
    for each in choices:
        step = envs.step(act(*(int(c == 1) for c in each)))
        for i, choice in enumerate(each):
            episode, t = at[i]
            drawn = obs[3][i, 2]
            assert_rows(obs, i, expected(episode, t, drawn))
            if not step.mask[i]:
                at[i] = episode + 1, 0
                continue
            ended = choice == 1 or t + 1 == Sights.limit
            assert ended == (step.terminated[i] or step.truncated[i])
            assert_rows(step.next_obs, i, expected(episode, t + 1, drawn))
            begins = ended and mode is not AutoresetMode.NEXT_STEP
            at[i] = (episode + 1, 0) if begins else (episode, t + 1)
        obs = step.obs
        kept.append((step, [x.copy() for x in (*step.obs, *step.next_obs)]))
    for step, copies in kept:
        for x, then in zip((*step.obs, *step.next_obs), copies):
            np.testing.assert_array_equal(x, then)


def assert_rows(obs, row, wanted):
    for x, y in zip(obs, wanted):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(x[row], y)


@pytest.fixture
def sights_id():
    gymnasium.register("tests/Sights-v0", entry_point=Sights, disable_env_checker=True)
    yield "tests/Sights-v0"
    del gymnasium.registry["tests/Sights-v0"]


def test_environments_by_name_are_read_as_told(sights_id):
    envs = make(sights_id, 2, reading=Reading(5, ("walk",), ()))
    assert envs.spec.obs == ((5, 3), (9,), (3, 5, 6), (3,))
    assert (envs.spec.goals, envs.spec.bytes) == ((3,), (2,))
    assert make(sights_id, 1).spec.obs[0] == (16, 3)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning")  # of JAX, where it was imported
def test_processes_of_their_own_show_dicts_images_and_sequences_as_one_process_does(sights_id):
    class Plain(Sights):
        observation_space = spaces.Dict({k: x for k, x in SEEN.items() if k != "crowd"})

        def see(self):
            return {k: x for k, x in super().see().items() if k != "crowd"}

    gymnasium.register("tests/Plain-v0", entry_point=Plain, disable_env_checker=True)
    for env_id in ("tests/Plain-v0", sights_id):
        both = [make(env_id, 2, vectorization=v) for v in ("sync", "async")]
        seen = []
        for envs in both:
            rows = [*envs.reset(seed=1)]
            for t in range(6):
                step = envs.step(act(t % 2, 0))
                rows += [*step.obs, *step.next_obs]
            seen.append(rows)
            envs.close()
        for x, y in zip(*seen):
            assert x.dtype == y.dtype
            np.testing.assert_array_equal(x, y)
    del gymnasium.registry["tests/Plain-v0"]


# --- refusals -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("space", "told"),
    [
        (spaces.Text(3), "`observation_space` must be Box, Discrete or MultiDiscrete, or a Dict"),
        (spaces.Dict(a=spaces.Tuple((COIN, spaces.Text(3)))), "`observation_space.a.1` must be B"),
        (spaces.Sequence(PICTURE), "`observation_space` must be a Sequence of vectors, got Seq"),
        (spaces.Dict(a=spaces.Sequence(spaces.Sequence(COIN))), "`observation_space.a` must be a"),
        (spaces.Dict(a=spaces.Dict()), "must be a space with something to see, got Dict("),
        (spaces.Sequence(spaces.Dict()), "must be a Sequence of vectors, got Sequence(Dict"),
    ],
)  # fmt: skip
def test_a_space_that_cannot_be_read_is_named_with_its_path(space, told):
    with pytest.raises(ValueError, match=re.escape(told)):
        encoder(space)


@pytest.mark.parametrize(
    ("reading", "told"),
    [
        (Reading(goals=("targets",)), "`goals` must name observations, got 'targets'. There are "
                                      "crowd, pair.0, pair.1, walk."),
        (Reading(sets=("pair.2",)), "`sets` must name observations, got 'pair.2'. There are cr"),
        (Reading(goals=("pai",)), "`goals` must name observations, got 'pai'."),
        (Reading(goals=("crowd",)), "`goals` must be vectors or images, got `crowd`, a set."),
        (Reading(sets=("walk",)), "`sets` must be Boxes [N, D], got `walk`, which is none."),
        (Reading(sets=("pair",)), "`sets` must be Boxes [N, D], got `pair.0`, which is none."),
        (Reading(max_entities=0), "`max_entities` must lie in [1, inf), got 0."),
    ],
)  # fmt: skip
def test_a_reading_that_does_not_fit_is_refused(reading, told):
    with pytest.raises(ValueError, match=re.escape(told)):
        encoder(SEEN, reading)


@pytest.mark.parametrize("reading", [Reading(goals=("obs",)), Reading(sets=("obs",))])
@pytest.mark.parametrize("name", ["tensor:CartPole-v1", "tensor:Escape-v0"])
def test_environments_in_tensors_say_themselves_what_is_seen(name, reading):
    with pytest.raises(ValueError, match=f"must be empty for `{name}`, whose spec tells, got"):
        make(name, 1, reading=reading)
    assert make(name, 1, reading=Reading(max_entities=3)).spec.obs


def good(**parts):
    """Two observations of SEEN, batched, some parts of them others."""
    walk, picture = np.zeros((2, 3), np.float32), np.zeros((2, 5, 6, 3), np.uint8)
    return {"crowd": ((), ()), "pair": (np.array([0, 1]), picture), "walk": walk} | parts


NAN = np.array([[0, 0, 0], [0, np.nan, 0]], np.float32)
FAR = (np.zeros(2, np.float32), np.array([0, np.inf], np.float32))


@pytest.mark.parametrize(
    ("batch", "told"),
    [
        (good(walk=NAN), "`obs.walk` of environment 1 must be finite, got nan at position 1."),
        (good(walk=np.zeros((2, 4))), "`obs.walk` of environment 0 must have shape [3], got [4]."),
        (good(walk=[NAN[0], NAN]), "`obs.walk` of environment 1 must have shape [3], got [2, 3]"),
        (good(crowd=((FAR[0],) * 4, ())), "`obs.crowd` of environment 0 must have at most 3 entit"
                                          "ies, got 4. Raise `max_entities`."),
        (good(crowd=((), FAR)), "`obs.crowd` of entity 1 of environment 1 must be finite, got inf"),
        (good(pair=(np.array([0, 9]), good()["pair"][1])), "`obs.pair.0` of environment 1 must "
                                                           "lie in [0] to [8], got [9]."),
        (good(pair=(np.array([0, 1]), np.full((2, 5, 6, 3), 256.0))), "`obs.pair.1` of environm"
         "ent 0 must hold whole numbers from 0 to 255, got 256.0 at position 0."),
        (good(pair=(np.array([0, 1]), np.full((2, 5, 6, 3), 0.5))), "0 to 255, got 0.5 at posit"),
        (good(pair=(np.array([0, 1]), np.full((2, 5, 6, 3), np.nan))), "0 to 255, got nan at po"),
        (good(pair=(np.array([0, 1]), np.full((2, 5, 6, 3), -1))), "0 to 255, got -1 at positio"),
        (good(pair=(np.array([0, 1]),)), "`obs` must have the part 1, got (array([0, 1]),)."),
        ({"walk": NAN}, "`obs` must have the part 'crowd', got {'walk': array("),
    ],
)  # fmt: skip
def test_an_observation_that_is_not_of_its_space_is_named_with_its_environment(batch, told):
    with pytest.raises(ValueError, match=re.escape(told)):
        encoder(SEEN, Reading(max_entities=3)).encode(batch)


def test_bytes_may_come_as_other_whole_numbers():
    made = encoder(spaces.Box(0, 255, (2, 2), np.uint8))
    for shown in ([[0, 255], [7, 1]], [[0.0, 255.0], [7.0, 1.0]]):
        (obs,) = made.encode_rows([shown])
        assert obs.dtype == np.uint8 and obs.tolist() == [[[[0, 255], [7, 1]]]]


def test_a_row_that_lacks_a_part_is_told_with_whose_it_is():
    with pytest.raises(ValueError, match=r"`obs` of agent b must have the part 'walk', got {'cro"):
        rows = [{"crowd": (), "pair": (0, PICTURE.sample()), "walk": NAN[0]}, {"crowd": ()}]
        encoder(spaces.Dict(walk=VECTOR)).encode_rows(rows, lambda row: f"agent {'ab'[row]}")


@pytest.mark.parametrize("mode", MODES)
def test_too_many_entities_after_an_end_are_named_too(mode):
    class Crowded(Fresh):
        def see(self):
            seen = super().see()
            many = self.t == 2 and self.episode == 1 and self.drawn > 0
            return {**seen, "crowd": (np.zeros(2, np.float32),) * (4 if many else 0)}

    envs = GymnasiumVector(
        SyncVectorEnv([Fresh, Crowded], autoreset_mode=mode), Reading(max_entities=MOST)
    )
    envs.reset()
    envs.step(act(0, 0))
    with pytest.raises(ValueError, match=r"`obs\.crowd` of environment 1 must have at most 3 ent"):
        envs.step(act(0, 1))
