"""Every draw equals JAX's, wherever it runs."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch._dynamo.testing import CompileCounter
from torch.func import vmap

from optinfra import random

WORDS = st.integers(0, 2**32 - 1)
KEYS = st.tuples(WORDS, WORDS)  # both words drawn: the keys of a long chain of splits
INT32 = st.integers(-(2**31), 2**31 - 1)
# Few of them, for JAX compiles each anew.
SHAPES = st.sampled_from([(), (2, 0), (2, 3, 4), (300,)])
KEY = random.split(random.key(11), 2)[1]
MANTISSAS = 2**23
GRID = np.unique(  # of the 2²³ mantissas a uniform draw can have: both ends, and every 31st
    np.r_[0:5000, 0:MANTISSAS:31, MANTISSAS - 5000 : MANTISSAS]
)


def pair(words):
    """The key of two words, ours and JAX's."""
    theirs = jax.random.wrap_key_data(jnp.array(words, dtype=jnp.uint32))
    return torch.tensor(words, dtype=torch.int64), theirs


def assert_equal(ours, theirs, dtype=torch.int64, atol=0.0):
    theirs = np.asarray(theirs)
    assert ours.dtype == dtype
    assert tuple(ours.shape) == theirs.shape
    np.testing.assert_allclose(ours.numpy(), theirs, rtol=0, atol=atol)


def fixed_grid(monkeypatch):
    """Let `bits` go through all of GRID; returns the uniform draws that JAX makes of it."""
    monkeypatch.setattr(random, "bits", lambda key, shape: torch.from_numpy(GRID) << 9)
    return (GRID * 2.0**-23).astype(np.float32)


# --- keys and bits -------------------------------------------------------------------------


def test_fold_in_gives_the_published_threefry_vector():
    # Random123, kat_vectors: threefry2x32, 20 rounds, counter 0, key 0.
    # https://github.com/DEShawResearch/random123/blob/main/tests/kat_vectors
    key = random.fold_in(random.key(0), 0)
    assert key.tolist() == [0x6B200159, 0x99BA4EFE]


@given(st.integers(-(2**63), 2**63 - 1))
@example(2**32)
@example(2**63 - 1)
@example(-1)
def test_key_equals_jax_for_every_64_bit_seed(seed):
    assert_equal(random.key(seed), jax.random.key_data(jax.random.key(seed)))


@given(KEYS, st.sampled_from([0, 1, 2, 3, 1000]))
def test_split_equals_jax(words, num):
    ours, theirs = pair(words)
    assert_equal(random.split(ours, num), jax.random.key_data(jax.random.split(theirs, num)))


def test_split_makes_two_keys_by_default():
    assert torch.equal(random.split(KEY), random.split(KEY, 2))


@given(KEYS, WORDS)
def test_fold_in_equals_jax(words, data):
    ours, theirs = pair(words)
    expected = jax.random.key_data(jax.random.fold_in(theirs, data))
    assert_equal(random.fold_in(ours, data), expected)
    assert_equal(random.fold_in(ours, torch.tensor(data)), expected)


@given(KEYS, INT32)
def test_fold_in_wraps_a_tensor_as_jax_does(words, data):
    ours, theirs = pair(words)
    expected = jax.random.key_data(jax.random.fold_in(theirs, jnp.int32(data)))
    assert_equal(random.fold_in(ours, torch.tensor(data, dtype=torch.int32)), expected)
    assert_equal(random.fold_in(ours, torch.tensor(data + 2**32)), expected)


@given(KEYS, SHAPES)
@example((2**32 - 1, 2**32 - 1), (300,))
def test_bits_equal_jax(words, shape):
    ours, theirs = pair(words)
    assert_equal(random.bits(ours, shape), jax.random.bits(theirs, shape))


@given(KEYS)
def test_a_chain_of_splits_and_folds_equals_jax(words):
    ours, theirs = pair(words)
    for step in range(4):
        ours, theirs = random.split(ours, 3)[2], jax.random.split(theirs, 3)[2]
        ours, theirs = random.fold_in(ours, step), jax.random.fold_in(theirs, step)
    assert_equal(random.bits(ours, (5,)), jax.random.bits(theirs, (5,)))


@given(KEYS, st.integers(1, 50))
def test_split_gives_keys_that_differ_and_do_not_depend_on_their_number(words, num):
    key = torch.tensor(words)
    keys = random.split(key, num)
    assert len({key, *(tuple(k) for k in keys.tolist())}) == num + 1
    assert torch.equal(keys, random.split(key, num + 3)[:num])


@given(KEYS, WORDS, WORDS)
def test_fold_in_separates_keys_by_their_data(words, one, other):
    key = torch.tensor(words)
    same = torch.equal(random.fold_in(key, one), random.fold_in(key, other))
    assert same == (one == other)


# --- real numbers --------------------------------------------------------------------------


@given(KEYS, SHAPES)
def test_uniform_equals_jax(words, shape):
    ours, theirs = pair(words)
    assert_equal(random.uniform(ours, shape), jax.random.uniform(theirs, shape), torch.float32)


# XLA rounds to zero what lies below the smallest normal float32, between two steps as well.
FLOATS = st.floats(-1e6, 1e6, width=32).filter(lambda x: x == 0 or abs(x) > 1e-30)


@given(KEYS, SHAPES, FLOATS, FLOATS)
@example((1, 2), (300,), 0.5, 0.5)
@example((1, 2), (300,), 0.0, 3.0)
@example((1, 2), (300,), -1.0, 1.0)
@example((1, 2), (300,), 1.0, -1.0)
@example((1, 2), (300,), 1e-30, 1.0)
def test_uniform_between_numbers_equals_jax(words, shape, low, high):
    ours, theirs = pair(words)
    drawn = random.uniform(ours, shape, minval=low, maxval=high)
    expected = jax.random.uniform(theirs, shape, minval=low, maxval=high)
    assert_equal(drawn, expected, torch.float32)


@given(KEYS, st.lists(FLOATS, min_size=7, max_size=7))
def test_uniform_between_tensors_equals_jax(words, bounds):
    ours, theirs = pair(words)
    low = np.array(bounds[:4], dtype=np.float32)
    high = low[:3, None] + np.abs(np.array(bounds[4:], dtype=np.float32))[:, None]
    expected = jax.random.uniform(theirs, (2, 3, 4), minval=low, maxval=high)
    low, high = torch.from_numpy(low), torch.from_numpy(high)
    drawn = random.uniform(ours, (2, 3, 4), minval=low, maxval=high)
    assert_equal(drawn, expected, torch.float32)


def test_uniform_rounds_its_bounds_to_float32_before_it_subtracts():
    low, high = 0.1, 16777217.3
    expected = jax.random.uniform(pair(KEY.tolist())[1], (300,), minval=low, maxval=high)
    assert_equal(random.uniform(KEY, (300,), minval=low, maxval=high), expected, torch.float32)


@given(KEYS, SHAPES)
def test_normal_equals_jax_to_2e_6(words, shape):
    ours, theirs = pair(words)
    expected = jax.random.normal(theirs, shape)
    assert_equal(random.normal(ours, shape), expected, torch.float32, atol=2e-6)


def test_normal_equals_jax_to_2e_6_out_to_the_ends_of_its_range(monkeypatch):
    u = fixed_grid(monkeypatch)
    low = np.nextafter(np.float32(-1), np.float32(0))
    u = np.maximum(low, u * np.float32(2) + low)  # jax.random.normal: uniform in [low, 1)
    expected = np.float32(np.sqrt(2)) * jax.jit(jax.lax.erf_inv)(u)
    assert_equal(random.normal(KEY, u.shape), expected, torch.float32, atol=2e-6)
    assert np.ptp(expected) > 10.6


@given(KEYS, SHAPES)
def test_gumbel_equals_jax(words, shape):
    ours, theirs = pair(words)
    expected = jax.random.gumbel(theirs, shape)
    assert_equal(random.gumbel(ours, shape), expected, torch.float32, atol=2e-6)


def test_gumbel_equals_jax_out_to_the_ends_of_its_range(monkeypatch):
    u = fixed_grid(monkeypatch)
    u = np.maximum(u, np.finfo(np.float32).tiny)
    expected = jax.jit(lambda u: -jnp.log(-jnp.log(u)))(u)
    assert_equal(random.gumbel(KEY, u.shape), expected, torch.float32, atol=2e-6)
    assert np.isfinite(expected).all()


@pytest.mark.parametrize(("rows", "columns"), [(5, 5), (6, 3), (3, 6), (1, 4), (0, 3), (3, 0)])
def test_orthogonal_equals_jax_and_is_orthonormal(rows, columns):
    ours, theirs = pair((3, 4))
    drawn = random.orthogonal(ours, rows, columns)
    expected = jax.random.orthogonal(theirs, rows, m=columns)
    assert_equal(drawn, expected, torch.float32, atol=2e-6)
    product = drawn @ drawn.mT if rows <= columns else drawn.mT @ drawn
    assert torch.allclose(product, torch.eye(min(rows, columns)), atol=1e-6)


# --- choices -------------------------------------------------------------------------------


@given(KEYS, SHAPES, INT32, INT32)
@example((1, 2), (300,), 0, 2**16)
@example((1, 2), (300,), 0, 2**16 + 1)
@example((1, 2), (300,), 0, 2**16 - 1)
@example((1, 2), (300,), -(2**31), 2**31 - 1)
@example((1, 2), (300,), 4, 4)
def test_randint_equals_jax(words, shape, low, high):
    ours, theirs = pair(words)
    expected = jax.random.randint(theirs, shape, low, high)
    assert_equal(random.randint(ours, shape, low, high), expected)


@given(KEYS, st.integers(-5, 5), st.lists(st.integers(0, 70_000), min_size=4, max_size=4))
def test_randint_between_tensors_equals_jax_and_stays_in_range(words, low, spans):
    ours, theirs = pair(words)
    high = low + np.array(spans, dtype=np.int32)
    expected = jax.random.randint(theirs, (2, 3, 4), low, high)
    low, high = torch.tensor(low, dtype=torch.int32), torch.from_numpy(high)
    drawn = random.randint(ours, (2, 3, 4), low, high)
    assert_equal(drawn, expected)
    assert ((drawn >= low) & (drawn < high.clamp(min=low + 1))).all()


def test_randint_up_to_two_to_the_31_takes_in_the_largest_int32():
    ours, theirs = pair((5, 6))
    expected = jax.random.randint(theirs, (50,), -(2**31), jnp.uint32(2**31))
    assert_equal(random.randint(ours, (50,), -(2**31), 2**31), expected)


def test_randint_clips_tensors_to_int32():
    limits = random.randint(KEY, (50,), -(2**31), 2**31)
    beyond = random.randint(KEY, (50,), torch.tensor(-(2**40)), torch.tensor(2**40))
    assert torch.equal(beyond, limits)
    above = random.randint(KEY, (50,), torch.tensor(2**40), torch.tensor(2**41))
    assert (above == 2**31 - 1).all()


@given(KEYS, SHAPES, st.floats(0, 1, width=32))
@example((1, 2), (300,), 0.0)
@example((1, 2), (300,), 1.0)
def test_bernoulli_equals_jax(words, shape, p):
    ours, theirs = pair(words)
    expected = jax.random.bernoulli(theirs, p, shape)
    assert_equal(random.bernoulli(ours, p, shape), expected, torch.bool)


@given(KEYS, st.lists(st.floats(0, 1, width=32), min_size=3, max_size=3))
def test_bernoulli_takes_its_shape_from_p(words, p):
    ours, theirs = pair(words)
    p = np.array(p, dtype=np.float32)
    drawn = random.bernoulli(ours, torch.from_numpy(p))
    assert_equal(drawn, jax.random.bernoulli(theirs, p), torch.bool)
    drawn = random.bernoulli(ours, torch.from_numpy(p), (2, 3))
    assert_equal(drawn, jax.random.bernoulli(theirs, p, (2, 3)), torch.bool)


def test_bernoulli_compares_in_float32():
    u = random.uniform(KEY).item()
    assert not random.bernoulli(KEY, u + 1e-12)  # rounds to u, and u < u is false


LOGITS = st.lists(st.floats(-20, 20, width=32) | st.just(-np.inf), min_size=24, max_size=24).map(
    lambda values: np.array(values, dtype=np.float32).reshape(2, 3, 4)
)


@given(KEYS, LOGITS, st.sampled_from([-1, 0, 1, 2]))
@example((1, 2), np.full((2, 3, 4), -np.inf, dtype=np.float32), -1)
def test_categorical_equals_jax(words, logits, axis):
    ours, theirs = pair(words)
    drawn = random.categorical(ours, torch.from_numpy(logits), axis)
    assert_equal(drawn, jax.random.categorical(theirs, logits, axis))


@given(KEYS, LOGITS)
def test_categorical_never_draws_an_excluded_choice(words, logits):
    logits = torch.from_numpy(logits)
    drawn = random.categorical(torch.tensor(words), logits)
    taken = logits.gather(-1, drawn[..., None])[..., 0]
    assert ((taken > -torch.inf) | (logits == -torch.inf).all(-1)).all()


@given(KEYS, st.sampled_from([0, 1, 3, 1625, 1626]))
def test_permutation_equals_jax_and_holds_every_number_once(words, n):
    ours, theirs = pair(words)
    drawn = random.permutation(ours, n)
    assert_equal(drawn, jax.random.permutation(theirs, n))
    assert torch.equal(drawn.sort().values, torch.arange(n))


def test_permutation_keeps_the_order_of_equal_bits(monkeypatch):
    monkeypatch.setattr(random, "bits", lambda key, shape: torch.zeros(shape, dtype=torch.int64))
    assert torch.equal(random.permutation(KEY, 1000), torch.arange(1000))


# --- where it runs -------------------------------------------------------------------------


def test_uniform_maps_over_keys_and_bounds_apart_and_together():
    keys, highs = random.split(KEY, 3), torch.tensor([1.0, 7.0, 0.1, -2.0])

    def draw(key, high):
        return random.uniform(key, (5,), minval=-2.0, maxval=high)

    looped = torch.stack([torch.stack([draw(key, high) for high in highs]) for key in keys])
    table = vmap(vmap(draw, in_dims=(None, 0)), in_dims=(0, None))(keys, highs)
    assert torch.equal(table, looped)
    assert torch.equal(vmap(draw)(keys, highs[:3]), looped[range(3), range(3)])


@pytest.mark.thorough
@pytest.mark.inductor
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
def test_compiled_and_mapped_draws_equal_eager_ones():
    def draw(key, high):
        shape = (6, 5)  # one for all: then the three share their bits, and compile fast
        bounded = random.uniform(key, shape, minval=-0.3, maxval=high)
        return random.bits(key, shape), bounded, random.normal(key, shape)

    keys, highs = random.split(KEY, 2), torch.tensor([37.7, 70_000.1])
    # The threshold spares inductor nine tenths of its work on the 20 rounds.
    options = {"realize_opcount_threshold": 8}
    compiled = torch.compile(vmap(draw), fullgraph=True, options=options)(keys, highs)
    for member in range(2):
        bits, bounded, normal = draw(keys[member], highs[member])
        assert torch.equal(compiled[0][member], bits)
        assert torch.equal(compiled[1][member], bounded)
        torch.testing.assert_close(compiled[2][member], normal, rtol=0, atol=2e-6)


def everything(key, bound):
    """One draw of every kind."""
    exact = (
        random.split(key, 3),
        random.fold_in(key, bound.to(torch.int64)),
        random.bits(key, (6, 5)),
        random.uniform(key, (6, 5)),
        random.uniform(key, (6, 5), minval=-0.3, maxval=bound),
        random.randint(key, (6, 5), -3, bound.to(torch.int64)),
        random.bernoulli(key, bound / 100, (20,)),
        random.permutation(key, 1700),
    )
    close = random.normal(key, (60, 5)), random.gumbel(key, (60, 5)), random.orthogonal(key, 3, 5)
    return exact, close


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_draws_on_cuda_equal_those_on_cpu():
    arguments = KEY, torch.tensor(37.7)
    drawn = everything(*(x.cuda() for x in arguments))
    for place, tolerance in ((0, 0.0), (1, 2e-6)):
        for ours, theirs in zip(drawn[place], everything(*arguments)[place]):
            assert ours.is_cuda
            torch.testing.assert_close(ours.cpu(), theirs, rtol=0, atol=tolerance)


def test_draws_follow_the_device_of_their_key():
    key = random.key(1, device="meta")
    drawn = everything(key, torch.tensor(3.0, device="meta"))
    bounds = (
        random.uniform(key, (2,), minval=-1.0),
        random.uniform(key, (2,), minval=torch.zeros(2), maxval=torch.ones(2)),
        random.randint(key, (2,), 0, 3),
        random.randint(key, (2,), torch.zeros(2).long(), torch.ones(2).long()),
        random.bernoulli(key, 0.5),
        random.bernoulli(key, torch.zeros(2)),
        random.fold_in(key, 3),
    )
    for x in (key, *drawn[0], *drawn[1], *bounds):
        assert x.device.type == "meta"


def test_draws_do_not_depend_on_the_default_dtype():
    expected = everything(KEY, torch.tensor(3.0))
    torch.set_default_dtype(torch.float64)
    try:
        actual = everything(KEY, torch.tensor(3.0, dtype=torch.float32))
    finally:
        torch.set_default_dtype(torch.float32)
    for ours, theirs in zip(sum(actual, ()), sum(expected, ())):
        assert ours.dtype == theirs.dtype
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    "draw",
    [
        random.fold_in,
        random.split,
        lambda key, number: random.randint(key, (3,), -1, number),
        lambda key, number: random.normal(key, (number, 2)),
    ],
    ids=["fold_in", "split", "randint", "normal"],
)
def test_changing_integers_compile_at_most_twice(draw):
    torch._dynamo.reset()
    counter = CompileCounter()
    compiled = torch.compile(draw, backend=counter, fullgraph=True)
    for number in range(3, 8):
        assert torch.equal(compiled(KEY, number), draw(KEY, number))
    assert counter.frame_count <= 2


# --- what is refused -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "draw",
    [
        random.split,
        partial(random.fold_in, data=1),
        partial(random.bits, shape=(2,)),
        random.uniform,
        random.normal,
        random.gumbel,
        partial(random.randint, shape=(2,), minval=0, maxval=2),
        partial(random.bernoulli, p=0.5),
        partial(random.categorical, logits=torch.zeros(2)),
        partial(random.permutation, n=3),
        partial(random.orthogonal, rows=2, columns=2),
    ],
)
def test_what_is_no_key_is_refused(draw):
    with pytest.raises(ValueError, match=r"`key` must have shape \[2\], got \[3, 2\]\."):
        draw(random.split(KEY, 3))
    with pytest.raises(TypeError, match=r"`key` must have dtype torch.int64, got torch.int32\."):
        draw(KEY.to(torch.int32))


MISTAKES = {
    "`seed` must lie in [-9223372036854775808, 9223372036854775807], got 9223372036854775808.":
        lambda: random.key(2**63),
    "`num` must lie in [0, 4294967296], got -1.": lambda: random.split(KEY, -1),
    "`n` must lie in [0, 4294967296], got -1.": lambda: random.permutation(KEY, -1),
    "`data` must lie in [0, 4294967295], got -1.": lambda: random.fold_in(KEY, -1),
    "`data` must lie in [0, 4294967295], got 4294967296.": lambda: random.fold_in(KEY, 2**32),
    "`data` must have shape [], got [2].": lambda: random.fold_in(KEY, torch.tensor([1, 2])),
    "`shape` must hold sizes of at least 0 and at most 2³² elements, got [3, -1].":
        lambda: random.normal(KEY, (3, -1)),
    "`shape` must hold sizes of at least 0 and at most 2³² elements, got [-3, -1].":
        lambda: random.bits(KEY, (-3, -1)),
    "`shape` must hold sizes of at least 0 and at most 2³² elements, got [65536, 65537].":
        lambda: random.bits(KEY, (65536, 65537)),
    "`minval` must broadcast to `shape` = [2, 3], got [2].":
        lambda: random.uniform(KEY, (2, 3), minval=torch.zeros(2)),
    "`maxval` must broadcast to `shape` = [2, 1], got [2, 3].":
        lambda: random.uniform(KEY, (2, 1), maxval=torch.zeros(2, 3)),
    "`maxval` must broadcast to `shape` = [], got [1].":
        lambda: random.randint(KEY, (), 0, torch.tensor([3])),
    "`minval` must broadcast to `shape` = [3], got [2].":
        lambda: random.randint(KEY, (3,), torch.tensor([0, 0]), 3),
    "`minval` must lie in [-2147483648, 2147483647], got 2147483648.":
        lambda: random.randint(KEY, (), 2**31, 2**31),
    "`maxval` must lie in [-2147483648, 2147483648], got 2147483649.":
        lambda: random.randint(KEY, (), 0, 2**31 + 1),
    "`p` must broadcast to `shape` = [3], got [2].":
        lambda: random.bernoulli(KEY, torch.zeros(2), (3,)),
}  # fmt: skip


@pytest.mark.parametrize("message", MISTAKES)
def test_a_wrong_value_is_named(message):
    with pytest.raises(ValueError) as error:
        MISTAKES[message]()
    assert str(error.value) == message


def test_integers_of_another_dtype_are_refused():
    expected = "must have dtype torch.int64 or torch.int32, got torch.float32."
    with pytest.raises(TypeError, match=f"`data` {expected}"):
        random.fold_in(KEY, torch.tensor(1.0))
    with pytest.raises(TypeError, match=f"`minval` {expected}"):
        random.randint(KEY, (2,), torch.tensor(1.0), 3)
    with pytest.raises(TypeError, match=f"`maxval` {expected}"):
        random.randint(KEY, (2,), 1, torch.tensor(3.0))
