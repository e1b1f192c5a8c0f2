"""Continuous dimensions and discrete branches side by side."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from optinfra import random
from optinfra.check import require_trailing
from optinfra.distributions.branches import (
    branches_entropy,
    branches_log_prob,
    branches_mode,
    branches_sample,
)
from optinfra.distributions.gaussian import (
    ACTION_LIMIT,
    clipped_gaussian_log_prob,
    gaussian_entropy,
    gaussian_log_prob,
    gaussian_sample,
    tanh_gaussian_log_prob,
    tanh_gaussian_sample,
)
from optinfra.types import Action, ActionSpec, Key


class PolicyOutputs(NamedTuple):
    """What an actor says of its next action. A part the spec does not have has width 0."""

    mean: Tensor  # [*B, A]
    log_std: Tensor  # [*B, A]
    logits: Tensor  # [*B, N], the branches' logits one after another


class Distribution(NamedTuple):
    """The distribution of an action spec: pure functions and nothing else."""

    sample: Callable[[PolicyOutputs, Key], tuple[Action, Tensor]]  # with log_prob [*B, A + K]
    mode: Callable[[PolicyOutputs], Action]
    log_prob: Callable[[PolicyOutputs, Action], Tensor]  # [*B, A + K]
    entropy: Callable[[PolicyOutputs], Tensor]  # [*B], in nats
    executed: Callable[[Action], Action]  # what the environment takes, in [−1, 1]
    executed_log_prob: Callable[[PolicyOutputs, Action], Tensor]  # [*B, A + K], of what it takes


def hybrid(spec: ActionSpec) -> Distribution:
    """Put a diagonal Gaussian and categorical branches side by side, as ML-Agents does.

    Log-probabilities have one column per continuous dimension, then one per branch. The
    entropy is the mean over the dimensions plus the sum over the branches. The continuous
    part is drawn unbounded and executed as clip(a, ±3)/3.

    Args:
      spec: sizes; at least one dimension or branch.

    Returns:
      A `Distribution` whose functions take and give tensors of width 0 for a part that
      `spec` does not have.

    Raises:
      ValueError: `spec` is empty or a size is not positive; or, from `log_prob`, the width
        of an action is not the spec's.
    """
    continuous, sizes = spec.continuous > 0, spec.branches
    if min(spec.continuous, *sizes, 0) < 0 or 0 in sizes or not (continuous or sizes):
        raise ValueError(f"`spec` must have a dimension or a branch, all sizes ≥ 1, got {spec}.")

    def mode(outputs: PolicyOutputs) -> Action:
        if not sizes:
            return Action(outputs.mean, _no_choices(outputs))
        return Action(outputs.mean, branches_mode(outputs.logits, sizes))

    def sample(outputs: PolicyOutputs, key: Key) -> tuple[Action, Tensor]:
        if continuous and sizes:
            key_continuous, key_discrete = random.split(key).unbind()
        else:
            key_continuous = key_discrete = key
        raw, choices = outputs.mean, _no_choices(outputs)
        if continuous:
            raw = gaussian_sample(outputs.mean, outputs.log_std, key_continuous)
        if sizes:
            choices = branches_sample(outputs.logits, sizes, key_discrete)
        action = Action(raw, choices)
        return action, log_prob(outputs, action)

    def log_prob(outputs: PolicyOutputs, action: Action) -> Tensor:
        return _per_column(spec, gaussian_log_prob, outputs, action)

    def executed_log_prob(outputs: PolicyOutputs, action: Action) -> Tensor:
        return _per_column(spec, clipped_gaussian_log_prob, outputs, action)

    def entropy(outputs: PolicyOutputs) -> Tensor:
        parts = []
        if continuous:
            parts.append(gaussian_entropy(outputs.log_std).mean(-1))
        if sizes:
            parts.append(branches_entropy(outputs.logits, sizes).sum(-1))
        return sum(parts[1:], parts[0])

    def executed(action: Action) -> Action:
        limited = action.continuous.clamp(-ACTION_LIMIT, ACTION_LIMIT) / ACTION_LIMIT
        return Action(limited, action.discrete)

    return Distribution(sample, mode, log_prob, entropy, executed, executed_log_prob)


def squashed(spec: ActionSpec) -> Distribution:
    """Put a tanh-squashed Gaussian and categorical branches side by side, as ML-Agents' SAC does.

    Like `hybrid`, but the continuous part is drawn inside [−1, 1] and executed as it is. The
    entropy is that of the Gaussian before squashing, as in ML-Agents.

    Args:
      spec: sizes; at least one dimension or branch.

    Returns:
      A `Distribution`; `sample` draws the continuous part by one `random.normal` `[*B, A]`.

    Raises:
      ValueError: `spec` is empty or a size is not positive; or, from `log_prob`, the width
        of an action is not the spec's.
    """
    raw = hybrid(spec)
    continuous, sizes = spec.continuous > 0, spec.branches

    def mode(outputs: PolicyOutputs) -> Action:
        action = raw.mode(outputs)
        return Action(torch.tanh(action.continuous), action.discrete)

    def sample(outputs: PolicyOutputs, key: Key) -> tuple[Action, Tensor]:
        key_continuous, key_discrete = random.split(key).unbind()
        inside, choices, columns = outputs.mean, _no_choices(outputs), []
        if continuous:
            drawn = tanh_gaussian_sample(outputs.mean, outputs.log_std, key_continuous)
            inside, log_prob_inside = drawn
            columns.append(log_prob_inside)
        if sizes:
            choices = branches_sample(outputs.logits, sizes, key_discrete)
            columns.append(branches_log_prob(outputs.logits, choices, sizes))
        return Action(inside, choices), torch.cat(columns, -1)

    def log_prob(outputs: PolicyOutputs, action: Action) -> Tensor:
        return _per_column(spec, tanh_gaussian_log_prob, outputs, action)

    def executed(action: Action) -> Action:
        return action

    return Distribution(sample, mode, log_prob, raw.entropy, executed, log_prob)


def _per_column(
    spec: ActionSpec,
    density: Callable[[Tensor, Tensor, Tensor], Tensor],
    outputs: PolicyOutputs,
    action: Action,
) -> Tensor:
    """Log-probability `[*B, A + K]`: a density per dimension, then the branches' choices."""
    columns = []
    if spec.continuous:
        # A narrower action would be broadcast without a word.
        require_trailing("action.continuous", action.continuous, (spec.continuous,))
        columns.append(density(action.continuous, outputs.mean, outputs.log_std))
    if spec.branches:
        columns.append(branches_log_prob(outputs.logits, action.discrete, spec.branches))
    return torch.cat(columns, -1) if len(columns) > 1 else columns[0]


def _no_choices(outputs: PolicyOutputs) -> Tensor:
    return outputs.mean.new_zeros((*outputs.mean.shape[:-1], 0), dtype=torch.int64)
