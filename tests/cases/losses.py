"""Rows 4 and 5 of six do not count; what they hold in member 2 is not even a number."""

import torch

from optinfra import losses
from tests.contracts import Case

MASK = torch.tensor([True, True, True, True, False, False])
CLIP_RANGE = torch.tensor(0.2)


def _tensor(k: int, seed: int, *shape: int) -> torch.Tensor:
    """Normal numbers; member 2 holds NaN in its last row."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(10 * k + seed))
    return torch.cat([x[:-1], torch.full_like(x[-1:], torch.nan)]) if k == 2 else x


def _policy(k: int) -> tuple:
    return _tensor(k, 0, 6, 3), _tensor(k, 1, 6, 3), _tensor(k, 2, 6), CLIP_RANGE * (k + 1), MASK


def _values(k: int) -> tuple:
    return _tensor(k, 0, 6), _tensor(k, 1, 6), _tensor(k, 2, 6), CLIP_RANGE * (k + 1), MASK


def _streams(k: int) -> tuple:
    xs = {"a": _tensor(k, 0, 6), "b": _tensor(k, 1, 6)}
    return xs, {"a": torch.tensor(k != 2), "b": torch.tensor(k == 1)}


CASES = {
    "live_mean": Case(losses.live_mean, _streams),
    "masked_mean": Case(losses.masked_mean, lambda k: (_tensor(k, 0, 6, 3), MASK)),
    "clipped_surrogate_per_dimension": Case(losses.clipped_surrogate_per_dimension, _policy),
    "clipped_surrogate": Case(losses.clipped_surrogate, _policy),
    "trust_region_value_loss": Case(losses.trust_region_value_loss, _values),
    "squared_value_loss": Case(losses.squared_value_loss, _values),
    "approx_kl": Case(losses.approx_kl, lambda k: (_tensor(k, 0, 6, 3), MASK)),
    "clip_fraction": Case(
        losses.clip_fraction, lambda k: (_tensor(k, 0, 6, 3), CLIP_RANGE * (k + 1), MASK)
    ),
    "explained_variance": Case(
        losses.explained_variance, lambda k: (_tensor(k, 0, 6), _tensor(k, 1, 6), MASK)
    ),
}
