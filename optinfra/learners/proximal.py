"""What the learners that clip their policy's steps have in common: PPO and POCA."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from optinfra import tree
from optinfra.check import require_number
from optinfra.distributions import mask_logits
from optinfra.gradients import grad_and_value
from optinfra.learners.acting import Acting
from optinfra.learners.batch import PPOBatch, live_rows
from optinfra.losses import (
    approx_kl,
    clip_fraction,
    explained_variance,
    live_mean,
    masked_mean,
)
from optinfra.schedules import constant
from optinfra.transforms import global_norm
from optinfra.types import Params, PyTree, Schedule, Stats, Transform

Clipped = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]  # (new, old, aim, ε, mask)


class PPOHyper(NamedTuple):
    """What may differ from member to member of an ensemble."""

    learning_rate: PyTree  # state of its schedule
    clip_range: PyTree  # state of its schedule
    entropy_coef: PyTree  # state of its schedule
    value_coef: Tensor  # [] float32


class Scheduled(NamedTuple):
    """The scheduled hyperparameters: their schedules, or their values at one moment."""

    learning_rate: Any
    clip_range: Any
    entropy_coef: Any


class Policy(NamedTuple):
    """What there is to say of a policy on a batch."""

    loss: Tensor  # [], of its surrogate
    entropy: Tensor  # []
    stats: Stats


def scheduled(
    learning_rate: Schedule | float, clip_range: Schedule | float, entropy_coef: Schedule | float
) -> Scheduled:
    """Make schedules of what are none."""
    return Scheduled(
        _as_schedule("learning_rate", learning_rate),
        _as_schedule("clip_range", clip_range, open_low=True),
        _as_schedule("entropy_coef", entropy_coef),
    )


def init_hyper(schedules: Scheduled, value_coef: float, device: torch.device) -> PPOHyper:
    """Begin."""
    hyper = PPOHyper(
        learning_rate=schedules.learning_rate.init(),
        clip_range=schedules.clip_range.init(),
        entropy_coef=schedules.entropy_coef.init(),
        value_coef=torch.tensor(value_coef, dtype=torch.float32),
    )
    moved: PPOHyper = tree.map(lambda x: x.to(device), hyper)
    return moved


def at(schedules: Scheduled, hyper: PPOHyper, steps: Tensor) -> Scheduled:
    """Tell the values of what is scheduled."""
    pairs = zip(schedules, hyper)  # the last of `hyper` is not scheduled
    return Scheduled(*(schedule.value(own, steps) for schedule, own in pairs))


def judge_policy(
    acting: Acting, surrogate: Clipped, outputs: Any, batch: PPOBatch, clip_range: Tensor
) -> Policy:
    """Compute the surrogate's loss and the entropy of a policy `[*N, …]` on a batch."""
    outputs = outputs._replace(logits=mask_logits(outputs.logits, batch.action_mask))
    log_prob = acting.distribution.log_prob(outputs, batch.action)
    entropy = masked_mean(acting.distribution.entropy(outputs), batch.mask)
    loss = surrogate(log_prob, batch.log_prob, batch.advantages, clip_range, batch.mask)
    log_ratio = log_prob - batch.log_prob
    stats = {
        "policy_loss": loss,
        "entropy": entropy,
        "approx_kl": approx_kl(log_ratio, batch.mask),
        "clip_fraction": clip_fraction(log_ratio, clip_range, batch.mask),
    }
    return Policy(loss, entropy, stats)


def fit_loss(
    loss: Clipped,
    values: Mapping[str, Tensor],
    old: Mapping[str, Tensor],
    batch: PPOBatch,
    clip_range: Tensor,
) -> Tensor:
    """Average over live streams how far values are from the returns."""
    rows = live_rows(batch)
    losses = {
        name: loss(values[name], old[name], batch.returns[name], clip_range, mask)
        for name, mask in rows.items()
    }
    return live_mean(losses, {name: mask.any() for name, mask in rows.items()})


def explained(values: Mapping[str, Tensor], batch: PPOBatch) -> Tensor:
    """Average over live streams how much of the returns values explain."""
    rows = live_rows(batch)
    shares = {
        name: explained_variance(values[name], batch.returns[name], mask)
        for name, mask in rows.items()
    }
    return live_mean(shares, {name: mask.any() for name, mask in rows.items()})


def descend(
    transform: Transform,
    loss: Callable[[Params], tuple[Tensor, Stats]],
    weights: Params,
    opt: PyTree,
    now: Scheduled,
) -> tuple[Params, PyTree, Stats]:
    """Take one step down a loss with statistics: weights, the transform's state, statistics."""
    grads, (_, stats) = grad_and_value(loss, has_aux=True)(weights)
    grads = tree.row_major(grads)  # those of convolutions come as these are computed
    opt, directions = transform.update(opt, grads, weights)
    weights = tree.map(lambda w, u: w - now.learning_rate * u, weights, directions)
    return weights, opt, stats | {"grad_norm": global_norm(grads)} | now._asdict()


def _as_schedule(name: str, value: Schedule | float, *, open_low: bool = False) -> Schedule:
    if isinstance(value, Schedule):
        return value
    require_number(name, value, 0.0, open_low=open_low)
    return constant(value)
