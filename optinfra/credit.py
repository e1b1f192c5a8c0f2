"""What the steps of a rollout earn, stream by stream: advantages and returns."""

from collections.abc import Mapping
from functools import reduce
from operator import or_
from typing import NamedTuple

import torch
from torch import Tensor

from optinfra.learners import PPOBatch
from optinfra.losses import live_mean, masked_mean
from optinfra.returns import gae, lambda_returns
from optinfra.rollout import Group, Rollout, mates_of
from optinfra.signals.faults import Judged
from optinfra.types import PyTree, RolloutValues, Stats


class Seen(NamedTuple):
    """A rollout without what is no transition, and what the learner says of it."""

    rollout: Rollout
    valued: RolloutValues
    resets: PyTree  # [T, *B] bool, steps that start from an empty memory; () without one


class Rule(NamedTuple):
    """How rewards become advantages. Static."""

    time_horizon: int | None  # steps after which they are cut and bootstrapped
    ignore_done: frozenset[str]  # streams for which an episode's end is none


def _cuts(rollout: Rollout, time_horizon: int | None) -> Tensor:
    """Mark `[T, *B]` where advantages are cut and bootstrapped, terminations apart.

    There are three reasons: the episode was cut, the horizon, and that the next row is no
    transition. Without the last one, the value of that row would flow into the step before.
    """
    at_the_end = torch.zeros_like(rollout.mask[:1])
    cuts = rollout.truncated | torch.cat([~rollout.mask[1:], at_the_end])
    if time_horizon is not None:
        step = torch.arange(1, rollout.mask.shape[0] + 1, device=rollout.mask.device)
        at_horizon = step % time_horizon == 0
        cuts = cuts | at_horizon.reshape(-1, *[1] * (rollout.mask.ndim - 1))
    return cuts


def weigh(
    rule: Rule,
    gammas: Mapping[str, Tensor],
    rate: Tensor,
    seen: Seen,
    judged: Mapping[str, Judged],
) -> tuple[PPOBatch, Stats]:
    """Turn rewards into advantages and returns, stream by stream.

    Where the learner has baselines, an agent is credited with what its group got after all:
    advantages are λ-returns less the baseline, and both values and baselines are fitted to the
    returns. Nothing follows but the group's own end; an agent that left before is paid by what
    its mates were still worth.

    Args:
      rule: what is static.
      gammas: γ `[]` of each stream.
      rate: λ `[]`.
      seen: a rollout `[T, *B]` and its values.
      judged: rewards of each stream.

    Returns:
      What the learner learns from, `[T, *B]`, and per stream the means of reward and value.

    Raises:
      ValueError: the learner has baselines and the rollout no groups.
    """
    rollout, valued = seen.rollout, seen.valued
    earned = {
        name: _earned(rule, seen, name, own.rewards, gamma=gammas[name], rate=rate)
        for name, own in judged.items()
    }
    stats = {}
    for name, own in judged.items():
        stats[f"{name}_reward"] = masked_mean(own.rewards, rollout.mask)
        stats[f"{name}_value"] = masked_mean(valued.values[name], rollout.mask)
    live = {name: own.live for name, own in judged.items()}
    # Where none is live there is nothing to learn, and NaN lets the learner's transform skip it.
    nothing = ~reduce(or_, live.values())
    mean = live_mean({name: advantages for name, (advantages, _) in earned.items()}, live)
    batch = PPOBatch(
        obs=rollout.obs,
        action=rollout.action,
        action_mask=rollout.action_mask,
        log_prob=rollout.log_prob,
        advantages=torch.where(nothing, torch.nan, mean),
        values=valued.values,
        returns={name: returns for name, (_, returns) in earned.items()},
        mask=rollout.mask,
        live={name: own.expand(rollout.mask.shape) for name, own in live.items()},
    )
    if valued.baselines:
        batch = batch._replace(mates=mates_of(rollout)[0], baselines=valued.baselines)
    return batch, stats


def _earned(
    rule: Rule, seen: Seen, name: str, rewards: Tensor, *, gamma: Tensor, rate: Tensor
) -> tuple[Tensor, Tensor]:
    """Compute advantages and returns `[T, *B]` of one stream."""
    rollout, valued = seen.rollout, seen.valued
    cuts, ends = _cuts(rollout, rule.time_horizon), rollout.terminated
    if isinstance(rollout.group, Group) and valued.baselines:
        cuts, ends = cuts | ends, ends & rollout.group.ended
    if name in rule.ignore_done:
        cuts, ends = cuts | ends, torch.zeros_like(ends)
    values, following = valued.values[name], valued.next_values[name]
    if valued.baselines:
        returns = lambda_returns(rewards, following, ends, cuts, discount=gamma, trace_lambda=rate)
        return returns - valued.baselines[name], returns
    advantages = gae(rewards, values, following, ends, cuts, discount=gamma, gae_lambda=rate)
    return advantages, advantages + values
