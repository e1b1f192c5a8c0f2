"""Hypothesis strategies for specs, trajectories, transitions and batches, which shrink.

    from hypothesis import given
    from optinfra.testing import strategies

    @given(strategies.trajectories(spec, memory_size=8, padded=True))
    def test_something_of_trajectories(trajectory): ...

Sizes are drawn small. Numbers lie in [−10, 10] and shrink one by one towards 0, then 1, so that
a counterexample has zeros wherever the content does not matter. Tensors lie on the CPU.
"""

import math
from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor

from optinfra import tree
from optinfra.learners import PPOBatch
from optinfra.types import Action, ActionSpec, Key, Obs, PyTree, Spec, Trajectory, Transitions

try:
    from hypothesis import strategies as st
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "`optinfra.testing.strategies` needs hypothesis. Run: pip install 'optinfra[test]'",
        name=error.name,
    ) from error

SIMPLE = torch.tensor(
    [0.0, 1.0, -1.0, 2.0, -2.0, 0.5, -0.5, 3.0, -3.0, 0.1, -0.1, 10.0, -10.0, 1e-3, -1e-3, 0.0]
)
# What a drawn byte stands for, the simplest first, since hypothesis makes bytes smaller.
NUMBERS = torch.cat([SIMPLE.repeat(8), torch.linspace(-2.99, 2.99, 128)])
BYTE = len(NUMBERS)
LONGEST = 2048  # bytes drawn for one tensor; hypothesis gives up beyond 8 KiB of an example
MASKED_EVERY = 4  # about each fourth row does not count
NONE_EVERY = 8  # and about each eighth batch has no row that does
ABSENT_EVERY = 4  # about each fourth entity of a set is absent
JUNK = (math.nan, math.inf, -math.inf, 1e30)
JUNK_BYTE = 255
VECTOR, SET, IMAGE = 1, 2, 3  # how many axes an observation has
MOST_CHANNELS = 2


@st.composite
def specs(
    draw: st.DrawFn,
    *,
    max_obs: int = 3,
    max_width: int = 5,
    max_continuous: int = 3,
    max_branches: int = 2,
    max_choices: int = 4,
    kinds: Collection[str] = ("vector",),
    max_side: int = 4,
    max_entities: int = 3,
    goals: bool = False,
) -> Spec:
    """Draw a spec of observations, with at least one part of an action.

    Args:
      max_obs: ≥ 1, observations.
      max_width: ≥ 1, of a vector or an entity.
      max_continuous: ≥ 1, continuous dimensions; there may be none where there are branches.
      max_branches: ≥ 0, discrete branches.
      max_choices: ≥ 2, choices of each.
      kinds: some of `vector`, `image` and `set`; about half of the images are of bytes.
      max_side: ≥ 1, pixels of an image's side; it has one or two channels.
      max_entities: ≥ 1, of a set.
      goals: whether some of the vectors and images may be goals.
    """
    width, side = st.integers(1, max_width), st.integers(1, max_side)
    shapes = {
        "vector": st.tuples(width),
        "image": st.tuples(st.integers(1, MOST_CHANNELS), side, side),
        "set": st.tuples(st.integers(1, max_entities), width),
    }
    one = st.one_of([shapes[kind] for kind in kinds])
    obs = tuple(draw(st.lists(one, min_size=1, max_size=max_obs)))
    aims = [i for i, shape in enumerate(obs) if goals and len(shape) != SET]
    images = [i for i, shape in enumerate(obs) if len(shape) == IMAGE]
    branches = draw(st.lists(st.integers(2, max_choices), max_size=max_branches))
    continuous = draw(st.integers(0 if branches else 1, max_continuous))
    chosen, in_bytes = (draw(_some_of(each)) for each in (aims, images))
    return Spec(obs, ActionSpec(continuous, tuple(branches)), chosen, in_bytes)


@st.composite
def keys(draw: st.DrawFn) -> Key:
    """Draw a key: any two 32-bit words, `[2]` int64."""
    words = st.integers(0, 2**32 - 1)
    return torch.tensor([draw(words), draw(words)])


@st.composite
def tensors(draw: st.DrawFn, shape: Sequence[int], *, dtype: torch.dtype = torch.float32) -> Tensor:
    """Draw finite numbers in [−10, 10], among them many 0, 1 and their like.

    Args:
      shape: of the tensor. Beyond 2,048 numbers they repeat.
      dtype: of the tensor, a floating one.
    """
    return NUMBERS[draw(_digits(shape, BYTE))].to(dtype)


@st.composite
def observations(draw: st.DrawFn, spec: Spec, rows: Sequence[int]) -> Obs:
    """Draw the observations of a spec, `[*rows, *shape]` each.

    Images are uint8 where the spec says so, and of a set any entities may be absent, all zeros.
    """
    return tuple(
        draw(_bytes((*rows, *shape)) if i in spec.bytes else _floats(rows, shape))
        for i, shape in enumerate(spec.obs)
    )


@st.composite
def ends(draw: st.DrawFn, steps: int, agents: int) -> tuple[Tensor, Tensor]:
    """Draw where episodes end: `terminated` and `truncated`, `[T, B]` bool, never both at once.

    Every agent has a pattern of its own: no end, one at the first or at the last step, two
    back to back, some anywhere, or one at every step.

    Args:
      steps: T ≥ 1.
      agents: B ≥ 1.
    """
    columns = [draw(_episodes(steps)) for _ in range(agents)]
    terminated, truncated = (torch.stack(flags, 1) for flags in zip(*columns))
    return terminated, truncated


@st.composite
def memories(draw: st.DrawFn, rows: Sequence[int], size: int) -> PyTree:
    """Draw recurrent memories, `[*rows, M]`; `()` where `size` M is 0."""
    return draw(tensors((*rows, size))) if size else ()


@st.composite
def trajectories(
    draw: st.DrawFn,
    spec: Spec,
    *,
    min_steps: int = 1,
    max_steps: int = 6,
    min_agents: int = 1,
    max_agents: int = 3,
    memory_size: int = 0,
    padded: bool = False,
    junk: bool = False,
) -> Trajectory:
    """Draw what some agents saw, `[T, B, …]`, with ends of both kinds.

    Args:
      spec: sizes of the observations.
      min_steps: ≥ 1, of T.
      max_steps: of T.
      min_agents: ≥ 1, of B.
      max_agents: of B.
      memory_size: M ≥ 0, of the memory before the first step; 0 for none.
      padded: whether agents have lengths of their own, 1 to T; the mask tells.
      junk: whether the padding holds NaN, an infinity or huge numbers, and maybe flags, where
        otherwise there is 0 and False.
    """
    steps = draw(st.integers(min_steps, max_steps))
    alone = _alone(spec, steps, memory_size, padded, junk)
    # A list, so that hypothesis drops whichever agents a counterexample can do without.
    agents = draw(st.lists(alone, min_size=min_agents, max_size=max_agents))
    over_time = [one._replace(memory=()) for one in agents]
    trajectory = tree.map(lambda *columns: torch.stack(columns, 1), *over_time)
    return trajectory._replace(memory=tree.stack([one.memory for one in agents]))


@st.composite
def batches(
    draw: st.DrawFn,
    spec: Spec,
    *,
    streams: Sequence[str] = ("extrinsic",),
    min_rows: int = 1,
    max_rows: int = 6,
    junk: bool = False,
) -> PPOBatch:
    """Draw rows to update on, `[N, …]`. Each choice is allowed; rows may count or not, even none.

    Args:
      spec: sizes of observations and actions.
      streams: names of the reward streams.
      min_rows: ≥ 1, of N.
      max_rows: of N.
      junk: whether the numbers of rows that do not count are NaN, infinite or huge.
    """
    rows = (draw(st.integers(min_rows, max_rows)),)
    sizes = spec.action
    discrete, action_mask = draw(_choices(sizes.branches, rows))
    floats: dict[str, Any] = {
        "obs": draw(observations(spec, rows)),
        "continuous": draw(tensors((*rows, sizes.continuous))),
        "log_prob": 0.0 - draw(tensors((*rows, sizes.continuous + len(sizes.branches)))).abs(),
        "advantages": draw(tensors(rows)),
        "values": {name: draw(tensors(rows)) for name in streams},
        "returns": {name: draw(tensors(rows)) for name in streams},
    }
    mask = draw(_masks(rows))
    if junk:
        floats = _spoiled(floats, mask, draw(st.sampled_from(JUNK)))
    action = Action(floats.pop("continuous"), discrete)
    return PPOBatch(action=action, action_mask=action_mask, mask=mask, **floats)


@st.composite
def transitions(
    draw: st.DrawFn, spec: Spec, *, min_rows: int = 1, max_rows: int = 6, junk: bool = False
) -> Transitions:
    """Draw steps that were taken, `[N, …]`, with ends of both kinds; rows may count or not.

    Args:
      spec: sizes of observations and actions.
      min_rows: ≥ 1, of N.
      max_rows: of N.
      junk: whether the numbers of rows that do not count are NaN, infinite or huge.
    """
    rows = (draw(st.integers(min_rows, max_rows)),)
    discrete, action_mask = draw(_choices(spec.action.branches, rows))
    terminated, truncated = draw(_episodes(*rows))
    floats: dict[str, Any] = {
        "obs": draw(observations(spec, rows)),
        "next_obs": draw(observations(spec, rows)),
        "continuous": draw(tensors((*rows, spec.action.continuous))).clamp(-1.0, 1.0),
        "rewards": draw(tensors(rows)),
    }
    mask = draw(_masks(rows))
    if junk:
        floats = _spoiled(floats, mask, draw(st.sampled_from(JUNK)))
    action = Action(floats.pop("continuous"), discrete)
    return Transitions(
        action=action,
        terminated=terminated,
        truncated=truncated,
        mask=mask,
        action_mask=action_mask,
        **floats,
    )


@st.composite
def _some_of(draw: st.DrawFn, indices: Sequence[int]) -> tuple[int, ...]:
    """Draw some of these, in their order; hypothesis prefers none."""
    return tuple(i for i in indices if draw(st.booleans()))


@st.composite
def _bytes(draw: st.DrawFn, shape: Sequence[int]) -> Tensor:
    """Draw bytes, `shape` uint8."""
    return draw(_digits(shape, 256)).to(torch.uint8)


@st.composite
def _floats(draw: st.DrawFn, rows: Sequence[int], shape: Sequence[int]) -> Tensor:
    """Draw an observation `[*rows, *shape]`; entities of a set may be absent."""
    x = draw(tensors((*rows, *shape)))
    if len(shape) != SET:
        return x
    present = draw(_digits((*rows, shape[0]), ABSENT_EVERY)) < ABSENT_EVERY - 1
    return torch.where(present[..., None], x, 0.0)


@st.composite
def _digits(draw: st.DrawFn, shape: Sequence[int], base: int) -> Tensor:
    """Draw integers in [0, base), base ≤ 256, all of them at once: `shape` int64."""
    size = math.prod(shape)
    drawn = min(size, LONGEST)
    digits = torch.tensor([*draw(st.binary(min_size=drawn, max_size=drawn))], dtype=torch.int64)
    repeats = -(-size // LONGEST)
    return digits.repeat(repeats)[:size].reshape(tuple(shape)) % base


@st.composite
def _alone(
    draw: st.DrawFn, spec: Spec, steps: int, memory_size: int, padded: bool, junk: bool
) -> Trajectory:
    """Draw what one agent saw, `[T, …]`, in no more than `steps` T steps."""
    length = steps - draw(st.integers(0, steps - 1)) if padded else steps
    obs = draw(observations(spec, (length,)))
    terminated, truncated = draw(_episodes(length))
    memory = draw(memories((), memory_size))
    value, flag = (draw(st.sampled_from(JUNK)), draw(st.booleans())) if junk else (0.0, False)
    return Trajectory(
        obs=tuple(_padded(x, steps, value) for x in obs),
        memory=memory,
        terminated=_padded(terminated, steps, flag),
        truncated=_padded(truncated, steps, False),
        mask=torch.arange(steps) < length if padded else (),
    )


def _padded(x: Tensor, steps: int, value: float) -> Tensor:
    """Fill up to so many steps."""
    blank = x.new_zeros((steps - len(x), *x.shape[1:]))
    return torch.cat([x, _filled(blank, value)])


def _filled(x: Tensor, value: float) -> Tensor:
    """Put a value everywhere; for what bytes cannot hold, the largest byte."""
    return torch.full_like(x, JUNK_BYTE if x.dtype == torch.uint8 and value else value)


@st.composite
def _episodes(draw: st.DrawFn, steps: int) -> tuple[Tensor, Tensor]:
    """Draw where one agent's episodes end: `terminated` and `truncated`, `[T]` bool."""
    flags = torch.zeros(2, steps, dtype=torch.bool)
    for step in draw(_end_steps(steps)):
        flags[draw(st.integers(0, 1)), step] = True
    return flags[0], flags[1]


def _end_steps(steps: int) -> st.SearchStrategy[tuple[int, ...]]:
    """Draw the steps at which one agent's episodes end; hypothesis prefers what comes first."""
    last = steps - 1
    anywhere = st.integers(0, last)
    return st.one_of(
        st.just(()),
        st.just((0,)),
        st.just((last,)),
        st.sets(anywhere, min_size=1).map(lambda drawn: tuple(sorted(drawn))),
        anywhere.map(lambda step: tuple(range(step, min(step + 2, steps)))),
        st.just(tuple(range(steps))),
    )


@st.composite
def _masks(draw: st.DrawFn, rows: Sequence[int]) -> Tensor:
    """Draw which rows count, `[*N]` bool; hypothesis prefers that all do."""
    some = draw(_digits(rows, MASKED_EVERY)) < MASKED_EVERY - 1
    return some & (draw(st.integers(0, NONE_EVERY - 1)) < NONE_EVERY - 1)


@st.composite
def _choices(
    draw: st.DrawFn, branches: Sequence[int], rows: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Draw a choice per branch, `[*N, K]` int64, and what else is allowed, `[*N, choices]` bool."""
    taken = [draw(_digits(rows, size)) for size in branches]
    picked = [torch.arange(size) == x[..., None] for size, x in zip(branches, taken)]
    forbidden = draw(_digits((*rows, sum(branches)), 2)).bool()
    none = torch.zeros(*rows, 0, dtype=torch.int64)
    discrete = torch.stack(taken, -1) if taken else none
    return discrete, torch.cat([none.bool(), *picked], -1) | ~forbidden


def _spoiled(floats: Any, mask: Tensor, value: float) -> Any:
    """Put `value` where the mask, which leads, is False."""
    return tree.where(mask, floats, tree.map(lambda x: _filled(x, value), floats))
