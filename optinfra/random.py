"""Splittable random keys: Threefry-2x32, with JAX's semantics and JAX's bits.

A key is a `[2]` int64 tensor that holds two 32-bit words, high word first. The same key
gives the same draw: use a key once, and `split` it before. What is drawn lives on its device.

`jax.random.key_data(k)`, cast to int64, is the same key as k; every function equals the
one of its name in `jax.random` with `jax_threefry_partitionable` (JAX's default).
Words live in int64 and are masked: torch has no uint32 arithmetic on CPU.
To compile, pass `options={"realize_opcount_threshold": 8}`: torch 2.13's inductor then spends
1 s of CPU on a draw, else 13 (it expands shared subexpressions of the 20 rounds before that).

Source: Salmon et al. 2011, Parallel random numbers, https://doi.org/10.1145/2063384.2063405;
JAX's design of keys, https://docs.jax.dev/en/latest/jep/263-prng.html.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from optinfra.check import require_dtype, require_shape
from optinfra.types import Key

WORD_BITS = 32
WORD = (1 << WORD_BITS) - 1  # mask of the low word
INT32_MIN, INT32_MAX = -(1 << 31), (1 << 31) - 1

ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))  # Salmon et al. 2011, table 4
PARITY = 0x1BD11BDA  # upper half of the key parity constant of Threefish
SCHEDULES = 5  # key injections, one after every four of the 20 rounds

MANTISSA_BITS = 23  # of float32: a uniform draw is a multiple of 2⁻²³
LOWEST = -1.0 + 2.0**-24  # the float32 after −1

# Coefficients of erf⁻¹(x)/x, highest power first: Giles 2010, single precision.
CENTRAL = (2.81022636e-08, 3.43273939e-07, -3.5233877e-06, -4.39150654e-06, 0.00021858087,
           -0.00125372503, -0.00417768164, 0.246640727, 1.50140941)  # fmt: skip
TAIL = (-0.000200214257, 0.000100950558, 0.00134934322, -0.00367342844, 0.00573950773,
        -0.0076224613, 0.00943887047, 1.00167406, 2.83297682)  # fmt: skip
CENTRAL_BELOW, CENTRAL_SHIFT, TAIL_SHIFT = 5.0, 2.5, 3.0  # where each holds, and around what

SHUFFLE_EXPONENT = 3  # JAX's: with chance < 1/n any two of n share their bits in every round


def _hash(key: Tensor, counter: Tensor | int) -> tuple[Tensor, Tensor]:
    """Encrypt the counter (0, c) with the key: Threefry-2x32, 20 rounds.

        x₀ ← x₀ + x₁        x₁ ← rotl(x₁, r) ⊕ x₀        four times, then
        x₀ ← x₀ + k_{i}     x₁ ← x₁ + k_{i+1} + i        for i = 1 … 5

    Args:
      key: `[*E, 2]`. Axes before the last broadcast against `counter`.
      counter: c in [0, 2³²), a number or `[*B]` int64.

    Returns:
      x₀, x₁, the broadcast of `[*E]` and `[*B]` each; right in their low 32 bits, to be masked.
    """
    k0, k1 = key.unbind(-1)
    k = (k0, k1, k0 ^ k1 ^ PARITY)
    x0, x1 = k0, k1 + counter
    for i in range(1, SCHEDULES + 1):
        for r in ROTATIONS[(i - 1) % 2]:
            # Masked once a round, where the right shift needs it: nothing reaches bit 63.
            x1 = x1 & WORD
            x0 = x0 + x1
            x1 = torch.add(x1 >> (WORD_BITS - r), x1, alpha=1 << r) ^ x0
        x0 = x0 + k[i % 3]
        x1 = x1 + (k[(i + 1) % 3] + i)
    return x0, x1


def _counters(key: Key, shape: Sequence[int]) -> Tensor:
    """Check key and shape, and number the elements of `shape` in row-major order."""
    require_shape("key", key, (2,))
    require_dtype("key", key, torch.int64)
    size = math.prod(shape)
    if any(axis < 0 for axis in shape) or size > WORD + 1:
        expected = "hold sizes of at least 0 and at most 2³² elements"
        raise ValueError(f"`shape` must {expected}, got {list(shape)}.")
    return torch.arange(size, device=key.device).reshape(tuple(shape))


def _require_int(name: str, x: int, low: int, high: int) -> None:
    # Not `check.require_number`: its math.isfinite breaks the graph at a symbolic integer.
    if not low <= x <= high:
        raise ValueError(f"`{name}` must lie in [{low}, {high}], got {x}.")


def _require_broadcast(name: str, x: float | Tensor, shape: Sequence[int]) -> None:
    """Raise ValueError unless `x` broadcasts to `shape` without enlarging it."""
    axes = tuple(x.shape) if isinstance(x, Tensor) else ()
    pairs = zip(reversed(axes), reversed(shape))
    if len(axes) > len(shape) or any(a not in (1, b) for a, b in pairs):
        raise ValueError(f"`{name}` must broadcast to `shape` = {list(shape)}, got {list(axes)}.")


def key(seed: int, device: torch.device | str | None = None) -> Key:
    """Make a key from a seed.

    Equals `jax.random.key(seed)` as JAX is by default, with x64 off: the seed is reduced
    to its low 32 bits and the high word is 0. Seeds that differ by a multiple of 2³² give
    one key. (With x64 on, JAX puts the high 32 bits of the seed into the high word.)

    Args:
      seed: integer in [−2⁶³, 2⁶³).
      device: where the key lives, and all that is drawn from it.

    Returns:
      `[2]` int64.

    Raises:
      ValueError: `seed` does not fit into 64 bits.
    """
    _require_int("seed", seed, -(1 << 63), (1 << 63) - 1)
    return torch.tensor([0, seed & WORD], dtype=torch.int64, device=device)


def split(key: Key, num: int = 2) -> Tensor:
    """Make `num` independent keys of one. Do not use that one again.

    Args:
      key: `[2]` int64.
      num: number of keys, at least 0.

    Returns:
      `[num, 2]` int64. The first n of them do not depend on `num`.

    Raises:
      ValueError: `key` is not `[2]`, or `num` is negative; TypeError: `key` is not int64.
    """
    _require_int("num", num, 0, WORD + 1)
    return torch.stack(_hash(key, _counters(key, (num,))), -1) & WORD


def fold_in(key: Key, data: int | Tensor) -> Key:
    """Make a key of a key and a number: of the step, of the member, of a name's checksum.

    Args:
      key: `[2]` int64.
      data: integer in [0, 2³²), or `[]` int64 or int32, of which the low 32 bits count.

    Returns:
      `[2]` int64.

    Raises:
      ValueError: a shape is wrong, or the number out of range; TypeError: a dtype is wrong.
    """
    require_shape("key", key, (2,))
    require_dtype("key", key, torch.int64)
    if isinstance(data, Tensor):
        require_shape("data", data, ())
        require_dtype("data", data, torch.int64, torch.int32)
        data = data.to(torch.int64) & WORD
    else:
        _require_int("data", data, 0, WORD)
    return torch.stack(_hash(key, data), -1) & WORD


def bits(key: Key, shape: Sequence[int]) -> Tensor:
    """Draw 32 random bits per element.

    Args:
      key: `[2]` int64.
      shape: sizes of `*B`; 0 is a size.

    Returns:
      `[*B]` int64 in [0, 2³²), uniform.

    Raises:
      ValueError: `key` is not `[2]`, or `shape` is none; TypeError: `key` is not int64.
    """
    x0, x1 = _hash(key, _counters(key, shape))
    return (x0 ^ x1) & WORD


def uniform(
    key: Key,
    shape: Sequence[int] = (),
    *,
    minval: float | Tensor = 0.0,
    maxval: float | Tensor = 1.0,
) -> Tensor:
    """Draw uniformly from [minval, maxval).

        x = max(minval, u·(maxval − minval) + minval),   u = ⌊bits / 2⁹⌋ · 2⁻²³

    Args:
      key: `[2]` int64.
      shape: sizes of `*B`.
      minval: number or tensor that broadcasts to `[*B]`.
      maxval: number or tensor that broadcasts to `[*B]`; rounding can reach it.

    Returns:
      `[*B]` float32.

    Raises:
      ValueError: a bound does not broadcast to `shape`, or as in `bits`.
    """
    _require_broadcast("minval", minval, shape)
    _require_broadcast("maxval", maxval, shape)
    u = (bits(key, shape) >> (WORD_BITS - MANTISSA_BITS)).to(torch.float32) * 2.0**-MANTISSA_BITS
    bounded = isinstance(minval, Tensor) or isinstance(maxval, Tensor)
    if not bounded and (minval, maxval) == (0.0, 1.0):
        return u  # what the formula gives, ten operations earlier
    low = torch.as_tensor(minval, dtype=torch.float32, device=key.device)
    high = torch.as_tensor(maxval, dtype=torch.float32, device=key.device)
    # XLA rounds product and sum once (a fused multiply-add). In float64 the product is exact.
    x = u.double() * (high - low).double() + low.double()
    return torch.maximum(low, x.to(torch.float32))


def normal(key: Key, shape: Sequence[int] = ()) -> Tensor:
    """Draw from the standard normal distribution, within ±5.42.

        x = √2 · erf⁻¹(u),   u uniform in (−1, 1)

    Args:
      key: `[2]` int64.
      shape: sizes of `*B`.

    Returns:
      `[*B]` float32, at most 2e-6 from JAX's.

    Raises:
      ValueError, TypeError: as in `bits`.
    """
    return math.sqrt(2.0) * _erfinv(uniform(key, shape) * 2.0 + LOWEST)


def _erfinv(x: Tensor) -> Tensor:
    """Invert the error function on float32 in (−1, 1), with XLA's approximation and rounding.

        w = −log(1 − x²)
        erf⁻¹(x) = x · p(w − 2.5) if w < 5, else x · q(√w − 3)

    `torch.erfinv` leads up to 2.2e-5 away from JAX's normals: XLA rounds x² in float32.

    Source: Giles 2010, single precision, https://people.maths.ox.ac.uk/gilesm/files/gems_erfinv.pdf.
    """
    w = -torch.log1p(-x * x)
    central = _polynomial(CENTRAL, w - CENTRAL_SHIFT)
    tail = _polynomial(TAIL, w.sqrt() - TAIL_SHIFT)
    return x * torch.where(w < CENTRAL_BELOW, central, tail)


def _polynomial(coefficients: Sequence[float], x: Tensor) -> Tensor:
    """Evaluate a polynomial by Horner's rule, highest power first."""
    value = coefficients[0] * x + coefficients[1]
    for coefficient in coefficients[2:]:
        value = value * x + coefficient
    return value


def gumbel(key: Key, shape: Sequence[int] = ()) -> Tensor:
    """Draw from the standard Gumbel distribution, in [−4.5, 16].

        x = −log(−log(u)),   u uniform in (0, 1)

    Args:
      key: `[2]` int64.
      shape: sizes of `*B`.

    Returns:
      `[*B]` float32; `argmax(logits + x)` is a draw of the categorical distribution.

    Raises:
      ValueError, TypeError: as in `bits`.
    """
    return -torch.log(-torch.log(uniform(key, shape).clamp(min=torch.finfo(torch.float32).tiny)))


def randint(key: Key, shape: Sequence[int], minval: int | Tensor, maxval: int | Tensor) -> Tensor:
    """Draw integers from [minval, maxval).

        n = maxval − minval,   x = minval + (h·2³² + l) mod n,   h, l 32 random bits each

    Args:
      key: `[2]` int64.
      shape: sizes of `*B`.
      minval: integer in [−2³¹, 2³¹), or tensor of them that broadcasts to `[*B]`.
      maxval: integer in [−2³¹, 2³¹], likewise; if ≤ `minval`, x = minval. Tensors are clipped.

    Returns:
      `[*B]` int64. A value is too likely by at most the fraction n/2³² (n ≤ 2¹⁶: n/2⁶⁴).

    Raises:
      ValueError: a bound is out of range or does not broadcast to `shape`, or as in `bits`.
      TypeError: a bound is a tensor of another dtype than int64 or int32.

    Differs: beyond n = 2¹⁶ JAX's int32 arithmetic loses h, and so do we, to be equal.
    """
    low = _integer_bound("minval", minval, shape, INT32_MAX).to(key.device)
    high = _integer_bound("maxval", maxval, shape, INT32_MAX + 1).to(key.device)
    counters = _counters(key, shape)
    # Both draws in one pass over a leading axis of two keys.
    keys = split(key).reshape(2, *(1 for _ in shape), 2)
    x0, x1 = _hash(keys, counters)
    span = (high - low).clamp(min=1)
    upper, lower = (((x0 ^ x1) & WORD) % span).unbind()
    half = torch.remainder(1 << WORD_BITS // 2, span)
    multiplier = (half * half & WORD) % span  # 2³² mod n; 0 where n > 2¹⁶, the mask's doing
    return low + (upper * multiplier + lower) % span


def _integer_bound(name: str, x: int | Tensor, shape: Sequence[int], largest: int) -> Tensor:
    """Check a bound of `randint` and give it as int64 tensor; clip what cannot be checked."""
    _require_broadcast(name, x, shape)
    if isinstance(x, Tensor):
        require_dtype(name, x, torch.int64, torch.int32)
        return x.to(torch.int64).clamp(INT32_MIN, largest)
    _require_int(name, x, INT32_MIN, largest)
    return torch.tensor(x)


def bernoulli(key: Key, p: float | Tensor, shape: Sequence[int] | None = None) -> Tensor:
    """Toss coins: true with probability p.

    Args:
      key: `[2]` int64.
      p: probability in [0, 1], a number or a float tensor that broadcasts to `[*B]`.
      shape: sizes of `*B`; by default the shape of `p`.

    Returns:
      `[*B]` bool, u < p with u uniform in [0, 1).

    Raises:
      ValueError: `p` does not broadcast to `shape`, or as in `bits`.
    """
    p = torch.as_tensor(p, dtype=torch.float32, device=key.device)
    shape = p.shape if shape is None else shape
    _require_broadcast("p", p, shape)
    return uniform(key, shape) < p


def categorical(key: Key, logits: Tensor, axis: int = -1) -> Tensor:
    """Draw one index per row, with probabilities softmax(logits).

        x = argmaxₖ (logitsₖ + gₖ),   g standard Gumbel

    Args:
      key: `[2]` int64.
      logits: `[*B, K]` float, K ≥ 1, not necessarily normalised. −inf is never drawn,
        unless the whole row is −inf: then it is index 0.
      axis: the axis of the K choices, wherever it is.

    Returns:
      `[*B]` int64 in [0, K).

    Raises:
      ValueError, TypeError: as in `bits`.

    Source: Maddison et al. 2014, the Gumbel-max trick, https://arxiv.org/abs/1411.0030.
    """
    return torch.argmax(logits + gumbel(key, logits.shape), dim=axis)


def permutation(key: Key, n: int) -> Tensor:
    """Draw an order of n elements: sort by random bits, so often that equal bits do not matter.

    Args:
      key: `[2]` int64.
      n: number of elements, at least 0.

    Returns:
      `[n]` int64, the numbers 0 … n − 1 shuffled.

    Raises:
      ValueError: `key` is not `[2]`, or `n` is negative; TypeError: `key` is not int64.
    """
    _require_int("n", n, 0, WORD + 1)
    order = _counters(key, (n,))
    for _ in range(math.ceil(SHUFFLE_EXPONENT * math.log(max(1, n)) / math.log(WORD))):
        key, sort_key = split(key).unbind()
        order = order[torch.sort(bits(sort_key, (n,)), stable=True).indices]
    return order


def orthogonal(key: Key, rows: int, columns: int) -> Tensor:
    """Draw a matrix with orthonormal rows or columns, whichever are fewer, uniformly.

        Z = QR,   W = Q · diag(sign(diag R)),   Z standard normal

    Args:
      key: `[2]` int64.
      rows: number of rows.
      columns: number of columns.

    Returns:
      `[rows, columns]` float32: WWᵀ = I if rows ≤ columns, WᵀW = I if columns ≤ rows.

    Raises:
      ValueError, TypeError: as in `bits`.

    Source: Mezzadri 2007, section 5, https://arxiv.org/abs/math-ph/0609050.
    """
    q, r = torch.linalg.qr(normal(key, (max(rows, columns), min(rows, columns))))
    # A strided view instead of `diagonal`, whose lowering in torch 2.13's inductor warns.
    w = q * r.flatten()[:: r.shape[0] + 1].sign()
    return w.mT if rows < columns else w
