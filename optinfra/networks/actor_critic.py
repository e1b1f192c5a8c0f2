"""Policy and values of one agent, as pure functions of named parameters."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

from torch import Tensor, nn

from optinfra.distributions import PolicyOutputs
from optinfra.networks.bodies import ENCODING, Encoding, body
from optinfra.networks.initializers import Initializer, draw, orthogonal
from optinfra.networks.modules import KAIMING_NORMAL, PolicyHead, ValueHeads, swish
from optinfra.networks.parts import part
from optinfra.types import Key, Obs, Params, Spec

Values = dict[str, Tensor]  # [*B] by stream


class ActorCritic(NamedTuple):
    """A policy and a value function: pure functions and nothing else."""

    init: Callable[[Key], Params]
    policy: Callable[[Params, Obs], PolicyOutputs]
    values: Callable[[Params, Obs], Values]
    policy_and_values: Callable[
        [Params, Obs], tuple[PolicyOutputs, Values]
    ]  # one pass where shared


def separate(actor: nn.Module, critic: nn.Module) -> ActorCritic:
    """Give the policy and the values a network each.

    Args:
      actor: `(obs) -> PolicyOutputs`.
      critic: `(obs) -> {stream: [*B]}`.

    Returns:
      An `ActorCritic` whose parameters are named `actor.…` and `critic.…`.
    """
    parts = nn.ModuleDict({"actor": actor, "critic": critic})
    policy, values = part(parts, "actor"), part(parts, "critic")

    def policy_and_values(params: Params, obs: Obs) -> tuple[PolicyOutputs, Values]:
        return policy(params, obs), values(params, obs)

    return ActorCritic(draw(parts), policy, values, policy_and_values)


def shared(body: nn.Module, actor: nn.Module, critic: nn.Module) -> ActorCritic:
    """Let the policy and the values share one body.

    Args:
      body: `(obs) -> encoding [*B, h]`.
      actor: `(encoding) -> PolicyOutputs`.
      critic: `(encoding) -> {stream: [*B]}`.

    Returns:
      An `ActorCritic` whose parameters are named `body.…`, `actor.…` and `critic.…`.
    """
    parts = nn.ModuleDict({"body": body, "actor": actor, "critic": critic})
    encode, act, judge = part(parts, "body"), part(parts, "actor"), part(parts, "critic")

    def policy_and_values(params: Params, obs: Obs) -> tuple[PolicyOutputs, Values]:
        encoding = encode(params, obs)
        return act(params, encoding), judge(params, encoding)

    return ActorCritic(
        init=draw(parts),
        policy=lambda params, obs: act(params, encode(params, obs)),
        values=lambda params, obs: judge(params, encode(params, obs)),
        policy_and_values=policy_and_values,
    )


class Initialization(NamedTuple):
    """How the weights of each part are drawn. Static."""

    body: Initializer
    policy: Initializer
    values: Initializer


def orthogonal_initialization(
    body: float = math.sqrt(2), policy: float = 0.01, values: float = 1.0
) -> Initialization:
    """Draw orthogonal weights, with the gains of PPO implementations unless told.

    Args:
      body: gain of the bodies' layers.
      policy: gain of what gives means, deviations and logits.
      values: gain of what gives values or action values.

    Source: Andrychowicz et al. 2020, section 3.2, https://arxiv.org/abs/2006.05990.
    """
    return Initialization(*map(orthogonal, (body, policy, values)))


def actor_critic(
    spec: Spec,
    streams: Sequence[str] = ("extrinsic",),
    *,
    hidden_units: int = 128,
    num_layers: int = 2,
    activation: Callable[[Tensor], Tensor] = swish,
    initialization: Initialization | None = None,
    encoding: Encoding = ENCODING,
) -> ActorCritic:
    """Build ML-Agents' actor and critic, with a body each.

    Args:
      spec: what is seen and done.
      streams: names of the reward streams.
      hidden_units: h ≥ 1, width of the bodies' layers.
      num_layers: layers of each body.
      activation: after every layer of the bodies.
      initialization: ML-Agents' unless given.
      encoding: how images and goals are read, and the user's own modules.

    Raises:
      ValueError: an observation is of no known kind or an image too small for its encoder, or
        `encoding` names nothing known.
    """
    actor, critic = heads(spec, streams, hidden_units, initialization)
    weight = body_weight(initialization)
    encoder = partial(body, spec, hidden_units, num_layers, activation, weight, encoding)
    return separate(_Chain(body=encoder(), head=actor), _Chain(body=encoder(), head=critic))


def shared_actor_critic(
    spec: Spec,
    streams: Sequence[str] = ("extrinsic",),
    *,
    hidden_units: int = 128,
    num_layers: int = 2,
    activation: Callable[[Tensor], Tensor] = swish,
    initialization: Initialization | None = None,
    encoding: Encoding = ENCODING,
) -> ActorCritic:
    """Build `actor_critic` with one body for both: ML-Agents' `shared_critic`."""
    actor, critic = heads(spec, streams, hidden_units, initialization)
    weight = body_weight(initialization)
    encoder = body(spec, hidden_units, num_layers, activation, weight, encoding)
    return shared(encoder, actor, critic)


def body_weight(initialization: Initialization | None) -> Initializer:
    """Tell how a body's layers are drawn: as ML-Agents does unless told."""
    return initialization.body if initialization else KAIMING_NORMAL


def heads(
    spec: Spec, streams: Sequence[str], hidden_units: int, initialization: Initialization | None
) -> tuple[nn.Module, nn.Module]:
    """Build what stands on the bodies: the policy's head and the values'."""
    if initialization is None:
        return PolicyHead(hidden_units, spec.action), ValueHeads(hidden_units, streams)
    policy, values = initialization.policy, initialization.values
    actor = PolicyHead(hidden_units, spec.action, policy, policy)
    return actor, ValueHeads(hidden_units, streams, values)


class _Chain(nn.Module):
    """A body, then a head, under these names."""

    def __init__(self, body: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.body, self.head = body, head

    def forward(self, obs: Obs) -> Any:
        return self.head(self.body(obs))
