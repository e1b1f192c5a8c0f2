"""Contract cases of `optinfra.distributions`."""

import torch

from optinfra import distributions
from optinfra.distributions import PolicyOutputs, hybrid
from optinfra.types import Action, ActionSpec
from tests.contracts import Case

SIZES = (3, 2)
HYBRID = hybrid(ActionSpec(2, SIZES))


def wave(k, *shape):
    """Smooth numbers in [−1, 1] that differ from member to member."""
    size = torch.Size(shape).numel()
    return torch.sin(torch.arange(size, dtype=torch.float32) * (k + 1) + k).reshape(shape)


def key(k):
    return torch.tensor([k, 7 * k + 1])


def outputs(k):
    return PolicyOutputs(wave(k, 4, 2), wave(k + 3, 4, 2), wave(k + 5, 4, 5))


def choices(k):
    return torch.tensor([[0, 1], [2, 0], [1, 1], [k, 0]])


def action(k):
    return Action(wave(k + 9, 4, 2), choices(k))


SQUASHED = distributions.squashed(ActionSpec(2, SIZES))


def squashed_action(k):
    return Action(0.9 * wave(k + 9, 4, 2), choices(k))


CASES = {
    "squashed.sample": Case(SQUASHED.sample, lambda k: (outputs(k), key(k))),
    "squashed.mode": Case(SQUASHED.mode, lambda k: (outputs(k),)),
    "squashed.log_prob": Case(SQUASHED.log_prob, lambda k: (outputs(k), squashed_action(k))),
    "squashed.entropy": Case(SQUASHED.entropy, lambda k: (outputs(k),)),
    "squashed.executed": Case(SQUASHED.executed, lambda k: (squashed_action(k),), graphs=0),
    "squashed.executed_log_prob": Case(
        SQUASHED.executed_log_prob, lambda k: (outputs(k), squashed_action(k))
    ),
    "gaussian_log_prob": Case(
        distributions.gaussian_log_prob, lambda k: (wave(k, 4, 2), *outputs(k)[:2])
    ),
    "clipped_gaussian_log_prob": Case(
        distributions.clipped_gaussian_log_prob,
        lambda k: ((2 * wave(k, 4, 2)).clamp(-1, 1), *outputs(k)[:2]),
    ),
    "log_normal_cdf": Case(distributions.log_normal_cdf, lambda k: (20 * wave(k, 7),)),
    "gaussian_entropy": Case(distributions.gaussian_entropy, lambda k: (wave(k, 4, 2),)),
    "gaussian_sample": Case(distributions.gaussian_sample, lambda k: (*outputs(k)[:2], key(k))),
    "log_tanh_slope": Case(distributions.log_tanh_slope, lambda k: (10 * wave(k, 7),)),
    "tanh_gaussian_sample": Case(
        distributions.tanh_gaussian_sample, lambda k: (*outputs(k)[:2], key(k))
    ),
    "tanh_gaussian_log_prob": Case(
        distributions.tanh_gaussian_log_prob, lambda k: (0.9 * wave(k, 4, 2), *outputs(k)[:2])
    ),
    "mask_logits": Case(
        distributions.mask_logits, lambda k: (wave(k, 4, 5), wave(k + 1, 4, 5) > 0)
    ),
    "categorical_log_probs": Case(distributions.categorical_log_probs, lambda k: (wave(k, 4, 5),)),
    "branches_log_prob": Case(
        lambda logits, taken: distributions.branches_log_prob(logits, taken, SIZES),
        lambda k: (wave(k, 4, 5), choices(k)),
    ),
    "branches_entropy": Case(
        lambda logits: distributions.branches_entropy(logits, SIZES), lambda k: (wave(k, 4, 5),)
    ),
    "branches_sample": Case(
        lambda logits, key: distributions.branches_sample(logits, SIZES, key),
        lambda k: (wave(k, 4, 5), key(k)),
    ),
    "branches_mode": Case(
        lambda logits: distributions.branches_mode(logits, SIZES), lambda k: (wave(k, 4, 5),)
    ),
    "hybrid.sample": Case(HYBRID.sample, lambda k: (outputs(k), key(k))),
    "hybrid.mode": Case(HYBRID.mode, lambda k: (outputs(k),)),
    "hybrid.log_prob": Case(HYBRID.log_prob, lambda k: (outputs(k), action(k))),
    "hybrid.entropy": Case(HYBRID.entropy, lambda k: (outputs(k),)),
    "hybrid.executed_log_prob": Case(
        HYBRID.executed_log_prob, lambda k: (outputs(k), HYBRID.executed(action(k)))
    ),
    "hybrid.executed": Case(HYBRID.executed, lambda k: (action(k),)),
}
