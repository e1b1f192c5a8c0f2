"""Soft actor-critic's networks: a policy, values, and several independent action values."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from optinfra.check import require_integer
from optinfra.distributions import PolicyOutputs
from optinfra.networks.actor_critic import Values, vector_body
from optinfra.networks.initializers import draw
from optinfra.networks.modules import (
    EVEN_CHOICES,
    SMALL_MEANS,
    XAVIER_UNIFORM,
    Linear,
    swish,
)
from optinfra.networks.parts import part
from optinfra.networks.recurrent import Remembering, recurrent_layer
from optinfra.types import ActionSpec, Key, Memories, Obs, Params, PyTree, Spec

LOWEST_LOG_STD, HIGHEST_LOG_STD = -20.0, 2.0  # ML-Agents' bounds of ln σ
ActionValues = dict[str, Tensor]  # [*B, max(choices, 1)] by stream


class SoftActorCritic(NamedTuple):
    """A policy, values V and C ≥ 1 action values Q_i: pure functions and nothing else.

    Observations are `[*B, D_i]`, or with a memory `[S, *B, D_i]`: `memory` `[*B, M]` is then
    what the first step starts from, and where `reset` `[S, *B]` (bool, or None for nowhere) is
    True, a step starts from zeros. Without a memory it is passed on as it is, as `()`.
    """

    critics: int  # C
    init: Callable[[Key], Params]
    memories: Callable[..., Memories]  # (rows, device=None) -> zeros [*rows, M]; () without
    # (params, obs, memory, reset) -> (outputs [(S,) *B, …], memory after the last step)
    policy: Callable[[Params, Obs, PyTree, Tensor | None], tuple[PolicyOutputs, PyTree]]
    values: Callable[[Params, Obs, PyTree, Tensor | None], tuple[Values, PyTree]]
    # the same with the memory after each step [S, *B, M], no gradient through those
    values_and_memories: Callable[[Params, Obs, PyTree, Tensor | None], tuple[Values, PyTree]]
    # (i, params, obs, continuous actions [(S,) *B, A], reset) -> Q_i; memories start from zeros
    action_values: Callable[[int, Params, Obs, Tensor, Tensor | None], ActionValues]


def soft_actor_critic(
    spec: Spec,
    streams: Sequence[str] = ("extrinsic",),
    *,
    critics: int = 2,
    memory_size: int | None = None,
    cell: str = "lstm",
    hidden_units: int = 128,
    num_layers: int = 2,
    activation: Callable[[Tensor], Tensor] = swish,
) -> SoftActorCritic:
    """Build ML-Agents' networks of soft actor-critic for vector observations.

    Each has a body of its own. A Q reads the continuous action beside the observations and
    has one number per choice of the discrete branches, one in all where there are none.

    Args:
      spec: sizes; every observation has one axis.
      streams: names of the reward streams.
      critics: C ≥ 1, independent action values.
      memory_size: M, numbers that each network remembers; for an LSTM even. None: nothing.
      cell: `lstm` or `gru`.
      hidden_units: h ≥ 1, width of the bodies' layers.
      num_layers: layers of each body.
      activation: after every layer of the bodies.

    Returns:
      A `SoftActorCritic` whose parameters are named `actor.…`, `value.…`, `q1.…`, `q2.…`, ….

    Raises:
      ValueError: an observation is no vector, a number is out of range, or `cell` is unknown.
      TypeError: `critics` is no integer.
    """
    require_integer("critics", critics, 1)
    acted = spec._replace(obs=(*spec.obs, (spec.action.continuous,)))
    body = partial(
        vector_body,
        hidden_units=hidden_units,
        num_layers=num_layers,
        activation=activation,
        initialization=None,
    )
    encoding, layer = hidden_units, None
    if memory_size is not None:
        encoding, layer = recurrent_layer(cell, memory_size)

    def network(seen: Spec, head: nn.Module) -> nn.Module:
        if layer is None:
            return _Forgetting(body(seen), head)
        return Remembering(body(seen), layer(hidden_units, encoding), head)

    sees_actions = bool(spec.action.continuous)
    heads = max(spec.action.choices, 1)
    parts = nn.ModuleDict(
        {
            "actor": network(spec, SquashedHead(encoding, spec.action)),
            "value": network(spec, StreamHeads(encoding, streams)),
            **{
                f"q{i + 1}": network(
                    acted if sees_actions else spec, StreamHeads(encoding, streams, heads)
                )
                for i in range(critics)
            },
        }
    )
    return _soft(parts, critics, memory_size, sees_actions)


def _soft(
    parts: nn.ModuleDict, critics: int, memory_size: int | None, sees_actions: bool
) -> SoftActorCritic:
    policy, values = part(parts, "actor"), part(parts, "value")
    judges = [part(parts, f"q{i + 1}") for i in range(critics)]

    def memories(rows: Sequence[int], device: torch.device | None = None) -> Memories:
        if memory_size is None:
            return Memories((), ())
        return Memories(*(torch.zeros(*rows, memory_size, device=device) for _ in range(2)))

    def single_values(
        params: Params, obs: Obs, memory: PyTree, reset: Tensor | None
    ) -> tuple[Values, PyTree]:
        by_stream, memory = values(params, obs, memory, reset)
        return {name: x.squeeze(-1) for name, x in by_stream.items()}, memory

    def values_and_memories(
        params: Params, obs: Obs, memory: PyTree, reset: Tensor | None
    ) -> tuple[Values, PyTree]:
        by_stream, after = values(params, obs, memory, reset, every=True)
        return {name: x.squeeze(-1) for name, x in by_stream.items()}, after

    def action_values(
        i: int, params: Params, obs: Obs, actions: Tensor, reset: Tensor | None
    ) -> ActionValues:
        seen = (*obs, actions) if sees_actions else obs
        memory = memories(obs[0].shape[1:-1], obs[0].device).critic
        by_stream: ActionValues = judges[i](params, seen, memory, reset)[0]
        return by_stream

    return SoftActorCritic(
        critics=critics,
        init=draw(parts),
        memories=memories,
        policy=policy,
        values=single_values,
        values_and_memories=values_and_memories,
        action_values=action_values,
    )


class _Forgetting(nn.Module):
    """A body, then a head, under these names; a memory is passed on as it is."""

    def __init__(self, body: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.body, self.head = body, head

    def forward(
        self, obs: Obs, memory: PyTree, reset: Tensor | None = None, every: bool = False
    ) -> tuple[Any, PyTree]:
        """Map observations `[*B, D_i]`; whether a step is reset changes nothing."""
        del reset, every
        return self.head(self.body(obs)), memory


class SquashedHead(nn.Module):
    """Turn an encoding into `PolicyOutputs` whose deviation depends on the state.

    Args:
      inputs: h, width of the encoding.
      action: sizes.
    """

    def __init__(self, inputs: int, action: ActionSpec) -> None:
        super().__init__()
        self.action = action
        if action.continuous:
            self.mean = Linear(inputs, action.continuous, SMALL_MEANS)
            self.log_std = Linear(inputs, action.continuous, SMALL_MEANS)
        if action.branches:
            self.logits = Linear(inputs, action.choices, EVEN_CHOICES)

    def forward(self, encoding: Tensor) -> PolicyOutputs:
        """Map an encoding `[*B, h]` to the distribution of the next action, before squashing."""
        nothing = encoding[..., :0]
        mean, log_std, logits = nothing, nothing, nothing
        if self.action.continuous:
            mean = self.mean(encoding)
            log_std = self.log_std(encoding).clamp(LOWEST_LOG_STD, HIGHEST_LOG_STD)
        if self.action.branches:
            logits = self.logits(encoding)
        return PolicyOutputs(mean, log_std, logits)


class StreamHeads(nn.Module):
    """Some numbers per reward stream from one encoding.

    Args:
      inputs: h, width of the encoding.
      streams: names; each head's parameters carry its stream's name.
      outputs: numbers per stream.
    """

    def __init__(self, inputs: int, streams: Sequence[str], outputs: int = 1) -> None:
        super().__init__()
        self.heads = nn.ModuleDict(
            {name: Linear(inputs, outputs, XAVIER_UNIFORM) for name in streams}
        )

    def forward(self, encoding: Tensor) -> dict[str, Tensor]:
        """Map an encoding `[*B, h]` to `[*B, outputs]` per stream."""
        return {name: head(encoding) for name, head in self.heads.items()}
