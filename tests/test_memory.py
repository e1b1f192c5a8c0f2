"""Laws of optinfra.memory: a row changes by what names it, and by nothing else."""

import math

import chex
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.func import grad, vmap

from optinfra import memory, tree

SEEDS = st.integers(0, 2**31 - 1)
AGENTS = st.integers(1, 6)
STRANGE = torch.tensor([math.nan, math.inf, -math.inf, -0.0])


def memories(seed, *rows):
    """Two parts; numbers that arithmetic would not leave alone are among them."""
    generator = torch.Generator().manual_seed(seed)
    normal = torch.randn(*rows, 3, generator=generator)
    strange = STRANGE[torch.randint(len(STRANGE), normal.shape, generator=generator)]
    mixed = torch.where(torch.rand(normal.shape, generator=generator) < 0.3, strange, normal)
    counts = torch.randint(-9, 9, (*rows, 2, 2), generator=generator)
    return {"hidden": mixed, "cell": (counts, normal.double())}


def bits(tree_of_tensors):
    """What `==` cannot tell: NaN from NaN, 0 from −0."""
    words = {torch.float32: torch.int32, torch.float64: torch.int64, torch.int64: torch.int64}
    return [x.contiguous().view(words[x.dtype]).tolist() for x in tree.leaves(tree_of_tensors)]


def row(tree_of_tensors, n):
    return bits(tree.take(tree_of_tensors, slice(n, n + 1)))


def distinct(seed, agents):
    """Some of the rows, in any order."""
    generator = torch.Generator().manual_seed(seed)
    some = int(torch.randint(agents + 1, (), generator=generator))
    return torch.randperm(agents, generator=generator)[:some]


@given(AGENTS, SEEDS)
def test_memories_begin_as_zeros_of_the_kind_of_one(agents, seed):
    one = memories(seed)
    begun = memory.zeros(one, agents)
    expected = tree.map(lambda x: torch.zeros((agents, *x.shape), dtype=x.dtype), one)
    chex.assert_trees_all_equal_shapes_and_dtypes(begun, expected)
    assert bits(begun) == bits(expected)


@given(AGENTS, SEEDS)
def test_what_is_written_is_read_and_other_rows_stay_bit_for_bit(agents, seed):
    before, index = memories(seed, agents), distinct(seed, agents)
    values = memories(seed + 1, len(index))
    after = memory.write(before, index, values)
    assert bits(memory.read(after, index)) == bits(values)
    for n in set(range(agents)) - set(index.tolist()):
        assert row(after, n) == row(before, n)


@given(AGENTS, SEEDS, st.lists(st.integers(0, 100), max_size=8))
def test_a_reading_holds_the_rows_it_names_in_their_order(agents, seed, wanted):
    held, wanted = memories(seed, agents), [n % agents for n in wanted]
    values = memory.read(held, torch.tensor(wanted, dtype=torch.int64))
    assert [row(values, k) for k in range(len(wanted))] == [row(held, n) for n in wanted]


@given(AGENTS, SEEDS)
def test_a_reading_and_a_writing_share_nothing_with_what_they_were_given(agents, seed):
    held = memories(seed, agents)
    every = torch.arange(agents)
    written = memory.write(held, every, held)
    for copy in (memory.read(held, every), written, memory.reset(held, torch.zeros(agents) > 0)):
        for x, y in zip(tree.leaves(copy), tree.leaves(held)):
            assert x.untyped_storage().data_ptr() != y.untyped_storage().data_ptr()


@given(AGENTS, SEEDS)
def test_a_reset_makes_the_past_irrelevant_and_leaves_other_rows_bit_for_bit(agents, seed):
    before, ended = memories(seed, agents), torch.zeros(agents, dtype=torch.bool)
    ended[distinct(seed, agents)] = True
    after = memory.reset(before, ended)
    begun = memory.zeros(memories(seed), 1)
    for n in range(agents):
        assert row(after, n) == (bits(begun) if ended[n] else row(before, n))
    chex.assert_trees_all_equal_shapes_and_dtypes(after, before)


def test_a_reset_takes_as_many_leading_axes_as_it_is_told():
    held = memories(0, 2, 3)
    ended = torch.tensor([[True, False, False], [False, True, True]])
    flat = memory.reset(tree.map(lambda x: x.flatten(0, 1), held), ended.flatten())
    assert bits(memory.reset(held, ended)) == bits(tree.map(lambda x: x.unflatten(0, (2, 3)), flat))
    one = memory.reset(tree.take(held, (0, 1)), ended[0, 1])
    assert bits(one) == bits(tree.take(held, (0, 1)))


def test_gradients_reach_the_rows_that_count_and_no_other():
    held, values = torch.randn(4, 3), torch.randn(2, 3)
    weights = torch.randn(4, 3)
    index, ended = torch.tensor([3, 1]), torch.tensor([True, False, False, True])

    def written(held, values):
        return (weights * memory.write(held, index, values)).sum()

    to_held, to_values = grad(written, argnums=(0, 1))(held, values)
    kept = torch.tensor([1.0, 0.0, 1.0, 0.0])[:, None]
    chex.assert_trees_all_equal((to_held, to_values), (kept * weights, weights[index]))
    to_reset = grad(lambda x: (weights * memory.reset(x, ended)).sum())(held)
    chex.assert_trees_all_equal(to_reset, torch.where(ended[:, None], 0.0, weights))
    twice = torch.tensor([2, 2])
    to_read = grad(lambda x: (weights[:2] * memory.read(x, twice)).sum())(held)
    expected = torch.zeros(4, 3).index_copy(0, twice[:1], weights[:2].sum(0, keepdim=True))
    torch.testing.assert_close(to_read, expected)


def test_no_gradient_passes_a_reset_from_what_is_not_finite():
    spoilt = torch.tensor([[math.nan, math.inf], [1.0, 2.0]])
    ended = torch.tensor([True, False])
    slope = grad(lambda x: memory.reset(x, ended).square().sum())(spoilt)
    assert slope.tolist() == [[0.0, 0.0], [2.0, 4.0]]


@pytest.mark.parametrize("shared", [0, 1, 2])
def test_members_may_share_memories_or_rows_or_values(shared):
    """What has no member axis must not be written into, nor refused."""
    given = [torch.randn(5, 4, 3), torch.tensor([[0, 2]] * 5), torch.randn(5, 2, 3)]
    given[shared] = given[shared][0]
    dims = [None if n == shared else 0 for n in range(3)]
    take = lambda k: [x if d is None else x[k] for x, d in zip(given, dims)]
    lifted = vmap(memory.write, in_dims=tuple(dims))(*given)
    chex.assert_trees_all_equal(lifted, torch.stack([memory.write(*take(k)) for k in range(5)]))
    slopes = grad(lambda *x: memory.write(*x).square().sum())
    lifted = vmap(slopes, in_dims=tuple(dims))(*given)
    chex.assert_trees_all_equal(lifted, torch.stack([slopes(*take(k)) for k in range(5)]))


def test_a_policy_without_memory_has_the_empty_tree():
    index = torch.tensor([0, 1])
    assert memory.zeros((), 3) == memory.read((), index) == memory.write((), index, ()) == ()
    assert memory.reset((), torch.tensor([True])) == ()


HELD = {"hidden": torch.zeros(4, 3)}
INDEX = torch.tensor([0, 1])
REFUSED = [
    (lambda: memory.zeros(HELD, -1), ValueError, r"`agents` must lie in \[0, inf\), got -1\."),
    (lambda: memory.read(HELD, INDEX[0]), ValueError, r"`index` must have shape \[K\], got \[\]\."),
    (lambda: memory.read(HELD, INDEX > 0), TypeError, r"`index` must have dtype torch\.int64, got"),
    (lambda: memory.read(HELD, -INDEX), IndexError, "out of range"),
    (lambda: memory.write(HELD, INDEX[None], HELD), ValueError, r"`index` must have shape \[K\]"),
    (lambda: memory.write(HELD, -INDEX, {"hidden": torch.zeros(2, 3)}), IndexError, "-1 is out of"),
    (lambda: memory.write(HELD, INDEX, HELD), ValueError,
     r"`values` must have shape \[K, …\] = \[2, 3\], got \[4, 3\]\."),
    (lambda: memory.write(HELD, INDEX, {"hidden": torch.zeros(2, 1)}), ValueError, r"got \[2, 1\]"),
    (lambda: memory.write(HELD, INDEX, {"hidden": torch.zeros(2, 3).double()}), TypeError,
     r"`values` must have dtype torch\.float32, got torch\.float64\."),
    (lambda: memory.write(HELD, INDEX, {"cell": torch.zeros(2, 3)}), ValueError,
     r"`values` must have the structure .*hidden.*, got .*cell"),
    (lambda: memory.reset(HELD, torch.zeros(4)), TypeError, r"`ended` must have dtype torch\.bool"),
    (lambda: memory.reset(HELD, torch.zeros(1) > 0), ValueError,
     r"`memories` must begin with the axes \[\*N\] = \[1\], got \[4, 3\]\."),
]  # fmt: skip


@pytest.mark.parametrize(("call", "error", "message"), REFUSED)
def test_what_does_not_fit_is_refused_by_name(call, error, message):
    with pytest.raises(error, match=message):
        call()
