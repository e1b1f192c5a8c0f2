"""Strategies draw what they say, all that is interesting of it, and shrink to little."""

from collections import Counter
from random import Random

import torch
from hypothesis import find, given, settings
from hypothesis import strategies as st

from optinfra import random, tree
from optinfra.learners import PPOBatch
from optinfra.networks.observations import require_observations
from optinfra.testing import strategies
from optinfra.types import ActionSpec, Spec, Transitions
from tests import examples

SPEC = examples.SPEC
SIMPLEST = Spec(obs=((1,),), action=ActionSpec(1))
SIZES = st.tuples(st.integers(1, 5), st.integers(0, 3))


def found(strategy, condition=lambda _: True, tries=300):
    """The simplest one, where one is met among so many."""
    return find(strategy, condition, settings=settings(max_examples=tries), random=Random(0))


def times_drawn(strategy, kinds, tries):
    """How many of so many examples are of which kind."""
    drawn = Counter(dict.fromkeys(kinds, 0))

    @settings(max_examples=tries)
    @given(strategy)
    def look(example):
        drawn.update(name for name, is_such in kinds.items() if is_such(example))

    look()
    return drawn


# --- specs, keys, numbers -----------------------------------------------------------------


@given(strategies.specs())
def test_a_spec_lies_within_its_bounds_and_has_an_action(spec):
    assert 1 <= len(spec.obs) <= 3
    assert all(len(shape) == 1 and 1 <= shape[0] <= 5 for shape in spec.obs)
    assert 0 <= spec.action.continuous <= 3
    assert len(spec.action.branches) <= 2
    assert all(2 <= size <= 4 for size in spec.action.branches)
    assert spec.action.continuous or spec.action.branches


@given(
    strategies.specs(max_obs=1, max_width=2, max_continuous=1, max_branches=1, max_choices=2),
    strategies.specs(max_branches=0),
)
def test_a_specs_bounds_are_arguments(small, continuous):
    assert small.obs in (((1,),), ((2,),))
    assert small.action in (ActionSpec(1), ActionSpec(0, (2,)), ActionSpec(1, (2,)))
    assert continuous.action.branches == ()


SPECS = {
    "several observations": lambda spec: len(spec.obs) == 3 and spec.obs[0] != spec.obs[1],
    "a wide observation": lambda spec: (5,) in spec.obs,
    "only branches": lambda spec: spec.action.continuous == 0,
    "only continuous": lambda spec: spec.action == ActionSpec(3),
    "both": lambda spec: spec.action.continuous and len(spec.action.branches) == 2,
    "a wide branch": lambda spec: 4 in spec.action.branches,
}


def test_specs_of_every_kind_are_drawn():
    assert min(times_drawn(strategies.specs(), SPECS, 200).values()) >= 1


def test_what_is_drawn_shrinks_to_the_simplest():
    assert found(strategies.specs()) == SIMPLEST
    assert found(strategies.keys()).tolist() == [0, 0]
    assert not torch.stack(found(strategies.ends(3, 2))).any()
    trajectory = found(strategies.trajectories(SPEC, memory_size=2, padded=True, junk=True))
    assert trajectory.mask.tolist() == [[True]]
    assert found(strategies.trajectories(SPEC, min_steps=3, padded=True)).mask.all()
    batch = found(strategies.batches(SPEC))
    assert batch.mask.tolist() == [True] and batch.action_mask.all()
    for x in tree.leaves((trajectory._replace(mask=()), batch._replace(mask=(), action_mask=()))):
        assert len(x) == 1 and not x.any()


@given(strategies.keys())
def test_a_key_is_one(key):
    assert key.shape == (2,) and key.dtype == torch.int64
    assert ((key >= 0) & (key < 2**32)).all()
    assert random.normal(key, (2,)).isfinite().all()


@given(st.data(), st.lists(st.integers(0, 4), max_size=3), st.sampled_from(["float32", "float64"]))
def test_tensors_are_finite_and_moderate(data, shape, name):
    dtype = getattr(torch, name)
    x = data.draw(strategies.tensors(shape, dtype=dtype))
    assert x.shape == tuple(shape) and x.dtype == dtype
    assert (x.abs() <= 10).all()


def test_tensors_shrink_number_by_number():
    x = found(strategies.tensors((3, 4)), lambda x: x[1, 2] > 0 and x[2, 3] < -1)
    assert x.count_nonzero() == 2 and (x[1, 2], x[2, 3]) == (1.0, -2.0)
    assert (
        found(strategies.tensors((2,)), lambda x: 2 < x[0] < 2.5 and x[1] == 0.1).isfinite().all()
    )


@settings(max_examples=5)
@given(strategies.tensors((3, 1000)))
def test_large_tensors_repeat(x):
    assert torch.equal(x.flatten()[2048:], x.flatten()[: 3000 - 2048])


@given(SIZES, st.data())
def test_memories_have_a_row_each_or_are_the_empty_tree(sizes, data):
    rows, size = sizes
    memory = data.draw(strategies.memories((rows, 2), size))
    assert memory.shape == (rows, 2, size) if size else memory == ()


EVERY_KIND = strategies.specs(kinds=("vector", "image", "set"), goals=True)
SEES_ALL = Spec(((2, 3, 3), (3, 2), (2,), (1, 2, 2)), ActionSpec(1), goals=(2,), bytes=(0,))


@given(EVERY_KIND)
def test_a_spec_of_every_kind_says_what_its_observations_are(spec):
    require_observations(spec)
    assert all(len(shape) in (1, 2, 3) and max(shape) <= 5 for shape in spec.obs)
    assert all(shape[0] <= 2 and max(shape) <= 4 for shape in spec.obs if len(shape) == 3)
    assert all(shape[0] <= 3 for shape in spec.obs if len(shape) == 2)


KINDS = {
    "an image of bytes": lambda spec: len(spec.bytes) > 0,
    "an image of floats": lambda spec: any(
        len(shape) == 3 and i not in spec.bytes for i, shape in enumerate(spec.obs)
    ),
    "a set beside a vector": lambda spec: {1, 2} <= {len(shape) for shape in spec.obs},
    "a vector as a goal": lambda spec: any(len(spec.obs[i]) == 1 for i in spec.goals),
    "an image as a goal": lambda spec: any(len(spec.obs[i]) == 3 for i in spec.goals),
    "no goal": lambda spec: not spec.goals,
}


def test_specs_of_every_kind_of_observation_are_drawn():
    assert min(times_drawn(EVERY_KIND, KINDS, 200).values()) >= 1
    assert found(EVERY_KIND) == SIMPLEST
    only = strategies.specs(kinds=("set",), max_entities=2, max_width=1)
    assert found(only, lambda spec: len(spec.obs) == 2).obs == ((1, 1), (1, 1))


@given(strategies.observations(SEES_ALL, (4, 2)))
def test_images_of_bytes_are_uint8_and_all_else_floats(obs):
    assert [x.shape for x in obs] == [(4, 2, *shape) for shape in SEES_ALL.obs]
    dtypes = [torch.uint8, torch.float32, torch.float32, torch.float32]
    assert [x.dtype for x in obs] == dtypes
    assert all((x.abs() <= 10).all() for x in obs[1:])


def some_absent(obs):
    return (obs[1] == 0).all(-1)


SIGHTS = {
    "an absent entity among others": lambda obs: (
        some_absent(obs)[..., 1] & ~some_absent(obs)[..., [0, 2]].any(-1)
    ).any(),
    "nobody": lambda obs: some_absent(obs).all(-1).any(),
    "everybody": lambda obs: not some_absent(obs).any(),
    "black": lambda obs: (obs[0] == 0).any(),
    "white": lambda obs: (obs[0] == 255).any(),
}


def test_sights_of_every_kind_are_drawn():
    assert min(times_drawn(strategies.observations(SEES_ALL, (3,)), SIGHTS, 300).values()) >= 1
    assert not any(x.any() for x in found(strategies.observations(SEES_ALL, (3,))))


@given(strategies.trajectories(SEES_ALL, padded=True, junk=True))
def test_padding_of_bytes_is_white_where_that_of_floats_is_junk(trajectory):
    picture, *floats = trajectory.obs
    assert picture.dtype == torch.uint8 and (picture[~trajectory.mask] == 255).all()
    assert all(junk_only(x[~trajectory.mask]) for x in floats)


@given(strategies.trajectories(SEES_ALL, padded=True))
def test_padding_without_junk_is_zeros_of_every_dtype(trajectory):
    assert not any(x[~trajectory.mask].any() for x in trajectory.obs)


@given(strategies.observations(SPEC, (4, 2)))
def test_observations_have_the_shapes_of_the_spec(obs):
    assert [x.shape for x in obs] == [(4, 2, 3), (4, 2, 2)]


# --- ends ---------------------------------------------------------------------------------


@given(st.tuples(st.integers(1, 5), st.integers(1, 3)), st.data())
def test_an_end_is_of_one_kind(sizes, data):
    terminated, truncated = data.draw(strategies.ends(*sizes))
    for flag in (terminated, truncated):
        assert flag.shape == sizes and flag.dtype == torch.bool
    assert not (terminated & truncated).any()


def steps(flags):
    """The steps with which episodes of the second agent end."""
    return (flags[0] | flags[1])[:, 1].nonzero().flatten().tolist()


PATTERNS = {
    "none": lambda flags: steps(flags) == [],
    "the first step": lambda flags: steps(flags) == [0],
    "the last step": lambda flags: steps(flags) == [23],
    "two back to back": lambda flags: steps(flags) in [[t, t + 1] for t in range(23)],
    "some": lambda flags: (
        0 < len(steps(flags)) < 24 and 0 < steps(flags)[0] < steps(flags)[-1] < 23
    ),
    "all": lambda flags: len(steps(flags)) == 24,
}
MIXTURES = {
    "all by truncation": lambda flags: flags[1].all(0).any(),
    "one kind after the other": lambda flags: flags[1][2, 0] and flags[0][3, 0],
    "one kind beside the other": lambda flags: flags[0][3, 0] and flags[1][3, 1],
    "one agent's": lambda flags: (flags[0] | flags[1]).any(0).tolist() == [False, True],
}


def test_every_pattern_of_ends_is_drawn_often_and_every_mixture():
    assert min(times_drawn(strategies.ends(24, 2), PATTERNS, 100).values()) >= 5
    assert min(times_drawn(strategies.ends(4, 2), MIXTURES, 300).values()) >= 1


# --- trajectories ---------------------------------------------------------------------------


@given(strategies.specs(), st.integers(0, 3), st.data())
def test_a_trajectory_has_the_shapes_of_the_spec(spec, size, data):
    trajectory = data.draw(strategies.trajectories(spec, memory_size=size, max_steps=4))
    steps, agents = rows = trajectory.terminated.shape
    assert 1 <= steps <= 4 and 1 <= agents <= 3
    assert [x.shape for x in trajectory.obs] == [(*rows, *shape) for shape in spec.obs]
    assert trajectory.truncated.shape == rows and trajectory.mask == ()
    assert trajectory.memory.shape == (agents, size) if size else trajectory.memory == ()
    assert not (trajectory.terminated & trajectory.truncated).any()
    assert all((x.abs() <= 10).all() for x in trajectory.obs)


@given(strategies.trajectories(SPEC, min_steps=3, max_steps=4, min_agents=2, max_agents=2))
def test_a_trajectorys_sizes_are_arguments(trajectory):
    assert trajectory.terminated.shape in ((3, 2), (4, 2))


@given(st.booleans(), st.data())
def test_padding_comes_last_and_is_zeros_or_junk(junk, data):
    trajectory = data.draw(strategies.trajectories(SPEC, padded=True, junk=junk))
    mask = trajectory.mask
    assert mask.shape == trajectory.terminated.shape and mask.dtype == torch.bool
    assert mask[0].all() and not (mask[1:] & ~mask[:-1]).any()
    assert not (trajectory.terminated & trajectory.truncated).any()
    for x in trajectory.obs:
        assert (x[mask].abs() <= 10).all()
        assert junk_only(x[~mask]) if junk else not x[~mask].any()
    if not junk:
        assert not (trajectory.terminated | trajectory.truncated)[~mask].any()


def junk_only(x):
    return ~(x.abs() <= 1e29).any()


PADDING = {
    "three lengths": lambda t: len({*t.mask.sum(0).tolist()}) == 3,
    "none": lambda t: t.mask.all() and len(t.mask) > 1,
    "all but one step": lambda t: t.mask.sum(0).min() == 1 and len(t.mask) >= 4,
    "NaN": lambda t: t.obs[0].isnan().any(),
    "infinity": lambda t: t.obs[0].isinf().any(),
    "an end in it": lambda t: (t.terminated & ~t.mask).any(),
    "an end before it": lambda t: (t.truncated & t.mask & ~following(t.mask))[:-1].any(),
}


def test_padding_of_every_kind_is_drawn():
    drawn = strategies.trajectories(SPEC, padded=True, junk=True)
    assert min(times_drawn(drawn, PADDING, 200).values()) >= 1


def following(mask):
    return torch.cat([mask[1:], torch.zeros_like(mask[:1])])


# --- batches --------------------------------------------------------------------------------


@given(strategies.specs(), st.data())
def test_a_batch_fits_its_spec_and_takes_allowed_choices(spec, data):
    batch = data.draw(strategies.batches(spec, streams=("a", "b"), max_rows=5))
    assert isinstance(batch, PPOBatch)
    rows, sizes = len(batch.mask), spec.action
    assert 1 <= rows <= 5
    assert [x.shape for x in batch.obs] == [(rows, *shape) for shape in spec.obs]
    assert batch.action.continuous.shape == (rows, sizes.continuous)
    assert batch.action.discrete.shape == (rows, len(sizes.branches))
    assert batch.action_mask.shape == (rows, sizes.choices)
    assert batch.log_prob.shape == (rows, sizes.continuous + len(sizes.branches))
    assert (batch.log_prob <= 0).all()
    assert batch.values.keys() == batch.returns.keys() == {"a", "b"}
    assert all(x.isfinite().all() for x in tree.leaves(batch) if x.is_floating_point())
    begin = 0
    for branch, size in enumerate(sizes.branches):
        choice = batch.action.discrete[:, branch : branch + 1]
        assert ((choice >= 0) & (choice < size)).all()
        assert batch.action_mask[:, begin : begin + size].gather(1, choice).all()
        begin += size


@given(strategies.batches(SPEC, min_rows=2, max_rows=3, junk=True), strategies.keys())
def test_a_batch_is_one_to_learn_from(batch, key):
    learner = examples.learner()
    state, stats = learner.update(learner.init(key), batch)
    assert all(x.isfinite().all() for x in tree.leaves((state, stats)) if x.is_floating_point())
    for x in tree.leaves((batch.obs, batch.advantages, batch.returns, batch.action.continuous)):
        assert junk_only(x[~batch.mask]) and (x[batch.mask].abs() <= 10).all()


BATCHES = {
    "no row counts": lambda b: not b.mask.any(),
    "some rows count": lambda b: b.mask.any() and not b.mask.all(),
    "all rows count": lambda b: b.mask.all() and len(b.mask) >= 4,
    "some is allowed": lambda b: b.action_mask.all(1).any() and not b.action_mask.all(),
    "one is allowed": lambda b: (b.action_mask.sum(1) == len(SPEC.action.branches)).any(),
    "the last is taken": lambda b: (b.action.discrete == torch.tensor([2, 1])).all(1).any(),
    "NaN": lambda b: b.obs[0].isnan().any(),
}


def test_batches_of_every_kind_are_drawn():
    assert min(times_drawn(strategies.batches(SPEC, junk=True), BATCHES, 200).values()) >= 1


@given(strategies.batches(SEES_ALL, junk=True))
def test_rows_of_bytes_that_do_not_count_are_white(batch):
    picture, *floats = batch.obs
    assert picture.dtype == torch.uint8 and (picture[~batch.mask] == 255).all()
    assert all(junk_only(x[~batch.mask]) for x in floats)
    assert not batch.mask.any() or batch.obs[1][batch.mask].isfinite().all()


# --- transitions ----------------------------------------------------------------------------


@given(EVERY_KIND, st.data())
def test_transitions_fit_their_spec(spec, data):
    steps = data.draw(strategies.transitions(spec, min_rows=2, max_rows=4))
    rows, sizes = len(steps.mask), spec.action
    assert isinstance(steps, Transitions) and 2 <= rows <= 4
    for obs in (steps.obs, steps.next_obs):
        assert [x.shape for x in obs] == [(rows, *shape) for shape in spec.obs]
        assert [i for i, x in enumerate(obs) if x.dtype == torch.uint8] == list(spec.bytes)
    assert steps.action.continuous.shape == (rows, sizes.continuous)
    assert (steps.action.continuous.abs() <= 1).all()
    assert steps.action.discrete.shape == (rows, len(sizes.branches))
    assert steps.action_mask.shape == (rows, sizes.choices)
    for flag in (steps.terminated, steps.truncated, steps.mask):
        assert flag.shape == (rows,) and flag.dtype == torch.bool
    assert not (steps.terminated & steps.truncated).any() and steps.rewards.isfinite().all()


@given(strategies.transitions(SEES_ALL, junk=True))
def test_transitions_that_do_not_count_hold_junk(steps):
    for x in tree.leaves((steps.obs[1:], steps.next_obs[1:], steps.rewards)):
        assert junk_only(x[~steps.mask]) and (x[steps.mask].abs() <= 10).all()
    assert (steps.next_obs[0][~steps.mask] == 255).all()


STEPS = {
    "terminated": lambda steps: steps.terminated.any(),
    "truncated": lambda steps: steps.truncated.any(),
    "masked": lambda steps: steps.mask.any() and not steps.mask.all(),
    "apart": lambda steps: (steps.obs[2] != steps.next_obs[2]).any(),
}


def test_transitions_of_every_kind_are_drawn_and_shrink():
    assert min(times_drawn(strategies.transitions(SEES_ALL), STEPS, 100).values()) >= 1
    steps = found(strategies.transitions(SEES_ALL))
    assert steps.mask.tolist() == [True]
    assert not any(x.any() for x in tree.leaves(steps._replace(mask=(), action_mask=())))
