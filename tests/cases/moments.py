"""Members differ in rows and in which of them count: all, some, none."""

import torch

from optinfra import moments
from tests.contracts import Case

MASKS = torch.tensor([[True] * 5, [True, False, True, True, False], [False] * 5])


def _rows(k: int, *shape: int) -> torch.Tensor:
    k = k % 3
    x = torch.randn(5, *shape, generator=torch.Generator().manual_seed(k))
    return 1.0 + 2.0 * torch.where(MASKS[k].reshape(5, *(1,) * len(shape)), x, torch.nan)


def _state(k: int) -> moments.Moments:
    seen = torch.randn(9, 2, 3, generator=torch.Generator().manual_seed(7 + k))
    return moments.update(moments.init((2, 3)), seen, torch.ones(9, dtype=torch.bool))


def _step(state: moments.Moments, x: torch.Tensor, mask: torch.Tensor) -> tuple:
    return moments.update(state, x, mask), ()


def _of_vectors(k: int) -> tuple:
    shapes = ((2,), (3, 4, 4), (3,))
    running = moments.init_vectors(shapes)
    seen = tuple(torch.nan_to_num(_rows(k + i, *shape)) for i, shape in enumerate(shapes))
    return moments.update_vectors(running, seen, MASKS[0]), seen, MASKS[k]


CASES = {
    "init_vectors": Case(
        lambda like: moments.init_vectors(((2,), (3, 4, 4)), like.device), lambda k: (MASKS[k],)
    ),
    "update_vectors": Case(
        lambda running, obs, mask: (moments.update_vectors(running, obs, mask), ()),
        _of_vectors,
        step=True,
    ),
    "normalize_vectors": Case(moments.normalize_vectors, lambda k: _of_vectors(k)[:2]),
    "init": Case(lambda like: moments.init((2, 3), device=like.device), lambda k: (MASKS[k],)),
    "update": Case(_step, lambda k: (_state(k), _rows(k, 2, 3), MASKS[k]), step=True),
    "normalize": Case(moments.normalize, lambda k: (_state(k), _rows(0, 2, 3) * k)),
    "mean_and_variance": Case(moments.mean_and_variance, lambda k: (_rows(k), MASKS[k])),
    "standardize": Case(moments.standardize, lambda k: (_rows(k), MASKS[k])),
}
