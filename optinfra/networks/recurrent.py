"""A policy and values that remember."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from optinfra.distributions import PolicyOutputs
from optinfra.networks.actor_critic import (
    ActorCritic,
    Initialization,
    Values,
    body_weight,
    heads,
)
from optinfra.networks.bodies import ENCODING, Encoding, body
from optinfra.networks.initializers import draw
from optinfra.networks.layers import Remembering, after_each, recurrent_layer
from optinfra.networks.modules import swish
from optinfra.networks.parts import part
from optinfra.types import Key, Memories, Obs, Params, PyTree, Spec


class RecurrentActorCritic(NamedTuple):
    """A policy and values over sequences: pure functions and nothing else.

    Observations are `[S, *B, D_i]`, `memory` `[*B, M]` is what the first step starts from, and
    where `reset` `[S, *B]` (bool, or None for nowhere) is True, a step starts from zeros.
    """

    init: Callable[[Key], Params]
    memories: Callable[..., Memories]  # (rows, device=None) -> zeros [*rows, M]
    # (params, obs, memory, reset) -> ([S, *B, …], memory after the last step [*B, M])
    policy: Callable[[Params, Obs, PyTree, Tensor | None], tuple[PolicyOutputs, PyTree]]
    values: Callable[[Params, Obs, PyTree, Tensor | None], tuple[Values, PyTree]]
    # the same with the memory after each step [S, *B, M], no gradient through those
    values_and_memories: Callable[[Params, Obs, PyTree, Tensor | None], tuple[Values, PyTree]]
    # (params, obs, memories, reset), both from the same observations, without what they remember
    policy_and_values: Callable[
        [Params, Obs, Memories, Tensor | None], tuple[PolicyOutputs, Values]
    ]


def recurrent_actor_critic(
    spec: Spec,
    streams: Sequence[str] = ("extrinsic",),
    *,
    memory_size: int = 128,
    cell: str = "lstm",
    hidden_units: int = 128,
    num_layers: int = 2,
    activation: Callable[[Tensor], Tensor] = swish,
    initialization: Initialization | None = None,
    encoding: Encoding = ENCODING,
) -> RecurrentActorCritic:
    """Build ML-Agents' recurrent actor and critic.

    Each has a body, an LSTM behind it and a memory of its own.

    Args:
      spec: what is seen and done.
      streams: names of the reward streams.
      memory_size: M ≥ 1, numbers that an agent remembers; for an LSTM even, M = 2·H.
      cell: `lstm` or `gru`.
      hidden_units: h ≥ 1, width of the bodies' layers.
      num_layers: layers of each body.
      activation: after every layer of the bodies.
      initialization: of bodies and heads, ML-Agents' unless given.
      encoding: how images and goals are read, and the user's own modules.

    Raises:
      ValueError: an observation is of no known kind or an image too small for its encoder,
        `encoding` or `cell` names nothing known, or `memory_size` does not fit the cell.
    """
    hidden, layer = recurrent_layer(cell, memory_size)
    actor, critic = heads(spec, streams, hidden, initialization)
    weight = body_weight(initialization)
    encoder = partial(body, spec, hidden_units, num_layers, activation, weight, encoding)
    return separate_recurrent(
        Remembering(encoder(), layer(hidden_units, hidden), actor),
        Remembering(encoder(), layer(hidden_units, hidden), critic),
        memory_size,
    )


def shared_recurrent_actor_critic(
    spec: Spec,
    streams: Sequence[str] = ("extrinsic",),
    *,
    memory_size: int = 128,
    cell: str = "lstm",
    hidden_units: int = 128,
    num_layers: int = 2,
    activation: Callable[[Tensor], Tensor] = swish,
    initialization: Initialization | None = None,
    encoding: Encoding = ENCODING,
) -> RecurrentActorCritic:
    """Build `recurrent_actor_critic` with one body and layer for both."""
    hidden, layer = recurrent_layer(cell, memory_size)
    actor, critic = heads(spec, streams, hidden, initialization)
    weight = body_weight(initialization)
    encoder = body(spec, hidden_units, num_layers, activation, weight, encoding)
    remembering = Remembering(encoder, layer(hidden_units, hidden), nn.Identity())
    return shared_recurrent(remembering, actor, critic)


def separate_recurrent(
    actor: nn.Module, critic: nn.Module, memory_size: int
) -> RecurrentActorCritic:
    """Give the policy and the values a recurrent network each.

    Args:
      actor: `(obs, memory, reset) -> (PolicyOutputs, memory)`.
      critic: `(obs, memory, reset) -> ({stream: [S, *B]}, memory)`.
      memory_size: M of either.

    Returns:
      A `RecurrentActorCritic` whose parameters are named `actor.…` and `critic.…`.
    """
    parts = nn.ModuleDict({"actor": actor, "critic": critic})
    policy, values = part(parts, "actor"), part(parts, "critic")
    return _recurrent(draw(parts), memory_size, policy, values, after_each(critic, values))


def shared_recurrent(
    encoder: Remembering, actor: nn.Module, critic: nn.Module
) -> RecurrentActorCritic:
    """Let the policy and the values share a body and a layer that remembers.

    What they remember is not shared: each has a memory of its own, as in ML-Agents.

    Args:
      encoder: whose head passes its input on.
      actor: `(encoding) -> PolicyOutputs`.
      critic: `(encoding) -> {stream: [S, *B]}`.

    Returns:
      A `RecurrentActorCritic` whose parameters are named `encoder.…`, `actor.…` and `critic.…`.
    """
    parts = nn.ModuleDict({"encoder": encoder, "actor": actor, "critic": critic})
    encode = part(parts, "encoder")

    def through(head: str, every: bool) -> Callable[..., Any]:
        judge = part(parts, head)

        def run(
            params: Params, obs: Obs, memory: PyTree, reset: Tensor | None
        ) -> tuple[Any, PyTree]:
            encoding, memory = encode(params, obs, memory, reset, every=every)
            return judge(params, encoding), memory

        return run

    size = encoder.memory.memory_size
    policy, values = through("actor", False), through("critic", False)
    return _recurrent(draw(parts), size, policy, values, through("critic", True))


def _recurrent(
    init: Callable[[Key], Params],
    memory_size: int,
    policy: Callable[..., tuple[PolicyOutputs, PyTree]],
    values: Callable[..., tuple[Values, PyTree]],
    values_and_memories: Callable[..., tuple[Values, PyTree]],
) -> RecurrentActorCritic:
    def memories(rows: Sequence[int], device: torch.device | None = None) -> Memories:
        return Memories(*(torch.zeros(*rows, memory_size, device=device) for _ in range(2)))

    def policy_and_values(
        params: Params, obs: Obs, memories: Memories, reset: Tensor | None
    ) -> tuple[PolicyOutputs, Values]:
        outputs, _ = policy(params, obs, memories.actor, reset)
        return outputs, values(params, obs, memories.critic, reset)[0]

    return RecurrentActorCritic(
        init, memories, policy, values, values_and_memories, policy_and_values
    )


def without_memory(network: ActorCritic) -> RecurrentActorCritic:
    """See a memoryless network as one whose memory is empty."""

    def policy(
        params: Params, obs: Obs, memory: PyTree, reset: Tensor | None
    ) -> tuple[PolicyOutputs, PyTree]:
        return network.policy(params, obs), memory

    def values(
        params: Params, obs: Obs, memory: PyTree, reset: Tensor | None
    ) -> tuple[Values, PyTree]:
        return network.values(params, obs), memory

    def memories(rows: Sequence[int], device: torch.device | None = None) -> Memories:
        return Memories((), ())

    def policy_and_values(
        params: Params, obs: Obs, memories: Memories, reset: Tensor | None
    ) -> tuple[PolicyOutputs, Values]:
        return network.policy_and_values(params, obs)

    return RecurrentActorCritic(network.init, memories, policy, values, values, policy_and_values)
