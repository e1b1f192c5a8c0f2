"""The losses of soft actor-critic, of what the policy would do now."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from optinfra.distributions import PolicyOutputs, gaussian_log_prob, log_tanh_slope
from optinfra.learners.soft import SACBatch
from optinfra.losses import live_mean, masked_mean
from optinfra.networks import branch_probs, expected_value
from optinfra.types import ActionSpec

PROB_EPS = 1e-7  # ML-Agents' guard against log 0


class Drawn(NamedTuple):
    """What the policy would do now."""

    action: Tensor  # [*N, A], ã
    log_prob: Tensor  # [*N, A] per dimension
    probs: Tensor  # [*N, choices]
    log_probs: Tensor  # [*N, choices]


def drawn_from(spec: ActionSpec, outputs: PolicyOutputs, noise: Tensor) -> Drawn:
    """Draw μ + σ·ε and squash it; of choices take the probabilities. ε `[*N, A]` is `noise`."""
    raw = outputs.mean + outputs.log_std.exp() * noise
    log_prob = gaussian_log_prob(raw, outputs.mean, outputs.log_std) - log_tanh_slope(raw)
    probs = branch_probs(outputs.logits, spec.branches)
    return Drawn(torch.tanh(raw), log_prob, probs, torch.log(probs + PROB_EPS))


def q_loss(
    spec: ActionSpec,
    batch: SACBatch,
    q: dict[str, Tensor],
    targets: dict[str, Tensor],
    rows: dict[str, Tensor],
    live: dict[str, Tensor],
) -> Tensor:
    """Fit one action value to its targets, in the mean over the branches' choices taken."""
    sizes = spec.branches
    losses = {}
    for name, x in q.items():
        chosen = x
        if sizes:
            choices = batch.action.discrete.unbind(-1)
            parts = zip(x.split(sizes, -1), choices)
            chosen = torch.cat([part.gather(-1, choice[..., None]) for part, choice in parts], -1)
        losses[name] = _half_square(targets[name].detach() - chosen.mean(-1), rows[name])
    return live_mean(losses, live)


def value_loss(
    spec: ActionSpec,
    values: dict[str, Tensor],
    q: list[dict[str, Tensor]],
    drawn: Drawn,
    coefs: dict[str, Tensor],
    rows: dict[str, Tensor],
    live: dict[str, Tensor],
) -> Tensor:
    """Fit V to what the policy can expect: the least of the Qs, and entropy."""
    price = _price(spec, drawn, coefs)
    losses = {}
    for name, value in values.items():
        expected = [expected_value(one[name], drawn.probs, spec.branches) for one in q]
        least = torch.stack(expected).amin(0)
        losses[name] = _half_square((least - price).detach() - value, rows[name])
    return live_mean(losses, live)


def soft_values(
    spec: ActionSpec, q: Sequence[dict[str, Tensor]], drawn: Drawn, coefs: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Compute E[min_i Q_i − α·log π] `[*N]` by stream: exact over choices, drawn over the rest."""
    price = _price(spec, drawn, coefs)
    return {
        name: expected_value(x, drawn.probs, spec.branches) - price for name, x in least(q).items()
    }


def least(q: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Take the least of several action values, number by number."""
    return {name: torch.stack([one[name] for one in q]).amin(0) for name in q[0]}


def mean(q: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Average several action values."""
    return {name: torch.stack([one[name] for one in q]).mean(0) for name in q[0]}


def policy_loss(
    spec: ActionSpec,
    q: dict[str, Tensor],
    drawn: Drawn,
    coefs: dict[str, Tensor],
    live: dict[str, Tensor],
    mask: Tensor,
) -> Tensor:
    """Seek what an action value promises, and entropy; it counts once, whatever the actions."""
    promised = live_mean(q, live)
    price = (coefs["continuous"] * drawn.log_prob).sum(-1)
    if not spec.branches:
        return masked_mean(price - promised.squeeze(-1), mask)
    branches = coefs["discrete"] * _expected_log_probs(spec, drawn)
    worth = _by_branch(spec, drawn.probs * promised)
    return masked_mean(price + (branches - worth).sum(-1), mask)


def entropy_loss(
    spec: ActionSpec, logs: dict[str, Tensor], aim: dict[str, Tensor], drawn: Drawn, mask: Tensor
) -> tuple[Tensor, Tensor]:
    """Raise ln α where the policy's entropy lies below what is aimed at; and that entropy."""
    losses, entropies = [], []
    if spec.continuous:
        log_prob = drawn.log_prob.sum(-1).detach()
        losses.append(
            masked_mean(logs["continuous"] * (log_prob[..., None] + aim["continuous"]), mask)
        )
        entropies.append(-masked_mean(log_prob, mask))
    if spec.branches:
        log_prob = _expected_log_probs(spec, drawn).detach()
        losses.append(masked_mean(logs["discrete"] * (log_prob + aim["discrete"]), mask))
        entropies.append(-masked_mean(log_prob.sum(-1), mask))
    return -sum(losses[1:], losses[0]), sum(entropies[1:], entropies[0])


def _price(spec: ActionSpec, drawn: Drawn, coefs: dict[str, Tensor]) -> Tensor:
    """α·log π `[*N]`: in sum over dimensions, expected and in the mean over branches."""
    price = (coefs["continuous"] * drawn.log_prob).sum(-1)
    if spec.branches:
        price = price + (coefs["discrete"] * _expected_log_probs(spec, drawn)).mean(-1)
    return price


def _half_square(errors: Tensor, mask: Tensor) -> Tensor:
    """Average ½·error²; blank first, for a NaN that is squared has a NaN for a slope."""
    return 0.5 * masked_mean(torch.where(mask, errors, 0.0).square(), mask)


def _expected_log_probs(spec: ActionSpec, drawn: Drawn) -> Tensor:
    """Σ p·log p of each branch, `[*N, K]`."""
    return _by_branch(spec, drawn.probs * drawn.log_probs)


def _by_branch(spec: ActionSpec, x: Tensor) -> Tensor:
    """Sum over the choices of each branch: `[*N, choices]` becomes `[*N, K]`."""
    return torch.stack([part.sum(-1) for part in x.split(spec.branches, -1)], -1)
