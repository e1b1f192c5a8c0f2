"""What SAC's action values are fitted to and asked: what was done, and what might have been."""

from collections.abc import Collection
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from optinfra import tree
from optinfra.distributions import PolicyOutputs, mask_logits
from optinfra.learners import soft_losses
from optinfra.learners.acting import Acting, normalized
from optinfra.learners.soft import SACBatch, check_streams, reset_of
from optinfra.networks import SoftActorCritic
from optinfra.types import Obs, Params, PyTree


class Draws(NamedTuple):
    """What one update draws."""

    noise: Tensor  # [*N, A], ε of ã
    next_noise: PyTree = ()  # [*N, A], ε of ã′; () with a value network
    critics: PyTree = ()  # [M] int64, which Qs the targets ask; () where they ask all


def targets(
    following: dict[str, Tensor], batch: SACBatch, ignore_done: Collection[str]
) -> dict[str, Tensor]:
    """Compute y = r + γ·(1 − terminated)·v′ `[*N]` by stream, v′ being what follows."""
    check_streams(following, batch)
    found = {}
    for name, value in following.items():
        ended = torch.zeros_like(batch.mask) if name in ignore_done else batch.terminated
        onward = torch.where(ended, 0.0, batch.discounts[name] * value)
        found[name] = batch.rewards[name] + onward
    return found


def by_value_network(
    acting: Acting, network: SoftActorCritic, state: Any, batch: SACBatch
) -> dict[str, Tensor]:
    """Compute V̄(o′) `[*N]` by stream, with what is remembered by then."""
    next_obs = normalized(acting, state.params, batch.next_obs)
    values = network.values
    if not acting.recurrent:
        return values(state.target, next_obs, (), None)[0]
    obs = normalized(acting, state.params, batch.obs)
    if not isinstance(batch.reset, Tensor):
        # As in ML-Agents: V reads the first observation, and its target goes on from there.
        first = tree.take(obs, slice(1))
        _, memory = values(state.params.weights, first, batch.memory.critic, None)
        return values(state.target, next_obs, memory, None)[0]
    _, after = network.values_and_memories(state.target, obs, batch.memory.critic, batch.reset)
    return tree.take(values(state.target, _alone(next_obs), after, None)[0], 0)


def by_action_values(
    acting: Acting, network: SoftActorCritic, state: Any, batch: SACBatch, draws: Draws
) -> dict[str, Tensor]:
    """Compute min_i Q̄_i(o′, ã′) − α·log π(ã′ | o′) `[*N]` by stream, over the Qs drawn.

    With a memory, policy and Qs have seen the steps that were taken, and o′ is one step more.
    """
    obs, next_obs = (normalized(acting, state.params, x) for x in (batch.obs, batch.next_obs))
    batch = batch._replace(obs=obs, next_obs=next_obs)
    target, number = _asked(state.target, network.critics, draws.critics)
    outputs = _next_outputs(acting, network, state.params.weights, batch)
    drawn = soft_losses.drawn_from(acting.spec.action, outputs, draws.next_noise)

    def next_q(i: int) -> dict[str, Tensor]:
        if not acting.recurrent:
            return network.action_values(i, target, next_obs, drawn.action, None)
        _, after = network.action_values_and_memories(
            i, target, obs, batch.action.continuous, reset_of(batch)
        )
        return _one_step_on(network, i, target, next_obs, drawn.action, after)

    coefs = {name: x.exp() for name, x in state.log_entropy_coef.items()}
    q = [next_q(i) for i in range(number)]
    return soft_losses.soft_values(acting.spec.action, q, drawn, coefs)


def instead(
    network: SoftActorCritic, weights: Params, obs: Obs, batch: SACBatch, actions: Tensor
) -> list[dict[str, Tensor]]:
    """Compute Q_i `[*N, …]` of other actions at each step, after the steps that were taken.

    Were the other actions remembered in their place, each would also be judged by what it
    makes the Qs believe at later steps, and a policy would learn to deceive them.
    """
    taken, reset = batch.action.continuous, reset_of(batch)

    def judged(i: int) -> dict[str, Tensor]:
        _, after = network.action_values_and_memories(i, weights, obs, taken, reset)
        before = tree.map(partial(_before, reset), after)
        return _one_step_on(network, i, weights, obs, actions, before)

    return [judged(i) for i in range(network.critics)]


def _one_step_on(
    network: SoftActorCritic, i: int, weights: Params, obs: Obs, actions: Tensor, memory: PyTree
) -> dict[str, Tensor]:
    """Compute Q_i of steps `[S, N]` each of which follows a memory of its own."""
    alone = _alone((*obs, actions))
    q: dict[str, Tensor] = network.action_values(i, weights, alone[:-1], alone[-1], None, memory)
    return tree.take(q, 0)


def _before(reset: Tensor | None, after: Tensor) -> Tensor:
    """Turn what is remembered after each step into that before it; at first it is empty."""
    before = torch.cat([torch.zeros_like(after[:1]), after[:-1]])
    return before if reset is None else before.masked_fill(reset[..., None], 0.0)


def _next_outputs(
    acting: Acting, network: SoftActorCritic, weights: Params, batch: SACBatch
) -> PolicyOutputs:
    """Ask the policy what it would do at o′."""
    if acting.recurrent:
        _, after = network.policy_and_memories(
            weights, batch.obs, batch.memory.actor, reset_of(batch)
        )
        outputs, _ = network.policy(weights, _alone(batch.next_obs), after, None)
        outputs = tree.take(outputs, 0)
    else:
        outputs, _ = network.policy(weights, batch.next_obs, (), None)
    if not isinstance(batch.next_action_mask, Tensor):
        return outputs
    return outputs._replace(logits=mask_logits(outputs.logits, batch.next_action_mask))


def _alone(obs: Obs) -> Obs:
    """See each step as a sequence of its own: `[S, N, D_i]` becomes `[1, S, N, D_i]`."""
    alone: Obs = tree.map(lambda x: x[None], obs)
    return alone


def _asked(target: Params, critics: int, chosen: PyTree) -> tuple[Params, int]:
    """Give the weights of the Qs that were drawn, under the names of the first of all, and M."""
    if not isinstance(chosen, Tensor):
        return target, critics
    asked: Params = {}
    for name in target:
        first, _, own = name.partition(".")
        if first == "q1":
            alike = torch.stack([target[f"q{i + 1}.{own}"] for i in range(critics)])
            asked |= {f"q{m + 1}.{own}": x for m, x in enumerate(alike[chosen].unbind())}
    return asked, len(chosen)
