"""Soft actor-critic's networks: a policy, values, and several independent action values."""

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from optinfra.check import require_integer
from optinfra.distributions import PolicyOutputs
from optinfra.networks.actor_critic import Initialization, Values
from optinfra.networks.bodies import ENCODING, Encoding, body
from optinfra.networks.initializers import Initializer, draw
from optinfra.networks.layers import Remembering, after_each, recurrent_layer
from optinfra.networks.modules import (
    EVEN_CHOICES,
    KAIMING_NORMAL,
    SMALL_MEANS,
    XAVIER_UNIFORM,
    Linear,
    swish,
)
from optinfra.networks.parts import part
from optinfra.networks.soft_values import promised_values
from optinfra.types import ActionSpec, Key, Memories, Obs, Params, PyTree, Spec

LOWEST_LOG_STD, HIGHEST_LOG_STD = -20.0, 2.0  # ML-Agents' bounds of ln σ
ActionValues = dict[str, Tensor]  # [*B, max(choices, 1)] by stream


class SoftActorCritic(NamedTuple):
    """A policy, values V and C ≥ 1 action values Q_i: pure functions and nothing else.

    Observations are `[*B, D_i]`, or with a memory `[S, *B, D_i]`: `memory` `[*B, M]` is then
    what the first step starts from, and where `reset` `[S, *B]` (bool, or None for nowhere) is
    True, a step starts from zeros. Without a memory it is passed on as it is, as `()`.

    Values that have no network of their own are what the least of the Qs promises:

        V(o) = mean_k Σ_j p_kj·min_i Q_i(o, tanh μ)_kj,   without branches  min_i Q_i(o, tanh μ)

    Entropy is no part of them. Their memory is the policy's and those of all Qs, end to end
    `[*B, (1 + C)·M]`: the Qs remember the likeliest actions, whatever was done.
    """

    critics: int  # C
    value_network: bool  # whether V has parameters of its own
    init: Callable[[Key], Params]
    memories: Callable[..., Memories]  # (rows, device=None) -> zeros [*rows, M]; () without
    # (params, obs, memory, reset) -> (outputs [(S,) *B, …], memory after the last step)
    policy: Callable[[Params, Obs, PyTree, Tensor | None], tuple[PolicyOutputs, PyTree]]
    values: Callable[[Params, Obs, PyTree, Tensor | None], tuple[Values, PyTree]]
    # the same with the memory after each step [S, *B, M], no gradient through those
    policy_and_memories: Callable[
        [Params, Obs, PyTree, Tensor | None], tuple[PolicyOutputs, PyTree]
    ]
    values_and_memories: Callable[[Params, Obs, PyTree, Tensor | None], tuple[Values, PyTree]]
    # (i, params, obs, continuous actions [(S,) *B, A], reset, memory=None) -> Q_i; it starts
    # from zeros unless a memory is given
    action_values: Callable[..., ActionValues]
    # (i, params, obs, actions, reset), from zeros, with the memory after each step
    action_values_and_memories: Callable[
        [int, Params, Obs, Tensor, Tensor | None], tuple[ActionValues, PyTree]
    ]


def soft_actor_critic(
    spec: Spec,
    streams: Sequence[str] = ("extrinsic",),
    *,
    critics: int = 2,
    value_network: bool = True,
    layer_norm: bool = False,
    memory_size: int | None = None,
    cell: str = "lstm",
    hidden_units: int = 128,
    num_layers: int = 2,
    activation: Callable[[Tensor], Tensor] = swish,
    initialization: Initialization | None = None,
    encoding: Encoding = ENCODING,
) -> SoftActorCritic:
    """Build ML-Agents' networks of soft actor-critic, or those of later forms.

    Each has a body of its own. A Q reads the continuous action beside the observations and
    has one number per choice of the discrete branches, one in all where there are none.

    Args:
      spec: what is seen and done.
      streams: names of the reward streams.
      critics: C ≥ 1, independent action values.
      value_network: whether V is a network of its own, as in ML-Agents; SAC's second form
        does without.
      layer_norm: whether the Qs' bodies normalise each layer before its activation, so that
        they stand many updates per step.
      memory_size: M, numbers that each network remembers; for an LSTM even. None: nothing.
      cell: `lstm` or `gru`.
      hidden_units: h ≥ 1, width of the bodies' layers.
      num_layers: layers of each body.
      activation: after every layer of the bodies.
      initialization: of the bodies' layers and of the heads, ML-Agents' unless given; `policy` is
        also that of deviations, `values` V's and the Qs'.
      encoding: how images and goals are read, and the user's own modules.

    Returns:
      A `SoftActorCritic` whose parameters are named `actor.…`, `value.…`, `q1.…`, `q2.…`, ….
      What one of them begins with does not depend on which others there are.

    Raises:
      ValueError: an observation is of no known kind or an image too small for its encoder, a
        number is out of range, or `cell` or `encoding` names nothing known.
      TypeError: `critics` is no integer.

    Differs: from DroQ, which also drops some of the Qs' units before each normalisation.
    Source: Haarnoja et al. 2018 (no V), https://arxiv.org/abs/1812.05905; Hiraoka et al. 2022
    (normalised Qs), https://arxiv.org/abs/2110.02034.
    """
    require_integer("critics", critics, 1)
    width, layer = hidden_units, None
    if memory_size is not None:
        width, layer = recurrent_layer(cell, memory_size)

    weights = initialization or Initialization(KAIMING_NORMAL, SMALL_MEANS, XAVIER_UNIFORM)
    choosing = initialization.policy if initialization else EVEN_CHOICES

    def network(head: nn.Module, **options: Any) -> nn.Module:
        sizes = (hidden_units, num_layers, activation, weights.body)
        encoder = body(spec, *sizes, encoding, **options)
        if layer is None:
            return nn.Sequential(OrderedDict(body=encoder, head=head))
        return Remembering(encoder, layer(hidden_units, width), head)

    action = spec.action
    parts = {"actor": network(SquashedHead(width, action, weights.policy, choosing))}
    if value_network:
        parts["value"] = network(StreamHeads(width, streams, weight=weights.values))
    for i in range(critics):
        head = StreamHeads(width, streams, max(action.choices, 1), weights.values)
        parts[f"q{i + 1}"] = network(head, beside=action.continuous, normed=layer_norm)
    names = [f"q{i + 1}" for i in range(critics)]
    return separate_soft(
        action,
        parts["actor"],
        [parts[name] for name in names],
        parts.get("value"),
        memory_size=memory_size,
    )


def separate_soft(
    action: ActionSpec,
    actor: nn.Module,
    critics: Sequence[nn.Module],
    value: nn.Module | None = None,
    *,
    memory_size: int | None = None,
) -> SoftActorCritic:
    """Give the policy, each action value, and V if there is one, a network of the user's own.

    Without a memory a module maps `(obs)` to what follows; with one, `(obs, memory, reset)` to
    that and the memory, in sequences `[S, *B, …]`.

    Args:
      action: sizes.
      actor: to `PolicyOutputs`, before squashing.
      critics: C ≥ 1, each to `{stream: [*B, max(choices, 1)]}`; `obs` is followed by the
        continuous action, where there is one.
      value: to `{stream: [*B, 1]}`; None for SAC's second form.
      memory_size: M of each; None without.

    Returns:
      A `SoftActorCritic` whose parameters are named `actor.…`, `value.…`, `q1.…`, `q2.…`, ….

    Raises:
      ValueError: there is no critic, or two networks share a parameter: a target follows each
        apart.
    """
    require_integer("len(critics)", len(critics), 1)
    modules = {"actor": actor} | ({} if value is None else {"value": value})
    modules |= {f"q{i + 1}": critic for i, critic in enumerate(critics)}
    _require_apart(modules)
    return _soft(nn.ModuleDict(modules), len(critics), memory_size, action)


def _require_apart(modules: Mapping[str, nn.Module]) -> None:
    owners: dict[Tensor, str] = {}
    for name, module in modules.items():
        for parameter in module.parameters():
            if owners.setdefault(parameter, name) != name:
                raise ValueError(
                    f"`{name}` must have parameters of its own, got one of `{owners[parameter]}`. "
                    "Make a new module for each network."
                )


def _soft(
    parts: nn.ModuleDict, critics: int, memory_size: int | None, action: ActionSpec
) -> SoftActorCritic:
    policy = _remembering(parts, "actor", memory_size)
    judges = [
        _reading(action, _remembering(parts, f"q{i + 1}", memory_size)) for i in range(critics)
    ]
    value_network = "value" in parts
    if value_network:
        values = _single(_remembering(parts, "value", memory_size))
    else:
        values = promised_values(policy, judges, action.branches, memory_size)
    of_critic = 1 if value_network else 1 + critics
    nothing = partial(_no_memory, memory_size)

    def memories(rows: Sequence[int], device: torch.device | None = None) -> Memories:
        return Memories(nothing(rows, device), nothing(rows, device, networks=of_critic))

    action_values, action_values_and_memories = _action_values(judges, nothing)
    return SoftActorCritic(
        critics=critics,
        value_network=value_network,
        init=draw(parts),
        memories=memories,
        policy=policy,
        values=values,
        policy_and_memories=partial(policy, every=True),
        values_and_memories=partial(values, every=True),
        action_values=action_values,
        action_values_and_memories=action_values_and_memories,
    )


def _action_values(
    judges: Sequence[Callable[..., Any]], nothing: Callable[..., PyTree]
) -> tuple[Callable[..., ActionValues], Callable[..., tuple[ActionValues, PyTree]]]:
    def action_values(
        i: int,
        params: Params,
        obs: Obs,
        actions: Tensor,
        reset: Tensor | None,
        memory: PyTree | None = None,
    ) -> ActionValues:
        memory = nothing(actions.shape[1:-1], actions.device) if memory is None else memory
        by_stream: ActionValues = judges[i](params, obs, actions, memory, reset)[0]
        return by_stream

    def action_values_and_memories(
        i: int, params: Params, obs: Obs, actions: Tensor, reset: Tensor | None
    ) -> tuple[ActionValues, PyTree]:
        memory = nothing(actions.shape[1:-1], actions.device)
        by_stream, after = judges[i](params, obs, actions, memory, reset, every=True)
        return by_stream, after

    return action_values, action_values_and_memories


def _no_memory(
    memory_size: int | None,
    rows: Sequence[int],
    device: torch.device | None = None,
    networks: int = 1,
) -> PyTree:
    """Make what is remembered by so many networks that have seen nothing."""
    if memory_size is None:
        return ()
    return torch.zeros(*rows, networks * memory_size, device=device)


def _reading(action: ActionSpec, judge: Callable[..., Any]) -> Callable[..., Any]:
    """Let an action value read the continuous action beside the observations."""

    def judged(params: Params, obs: Obs, actions: Tensor, *rest: Any, **options: Any) -> Any:
        return judge(params, (*obs, actions) if action.continuous else obs, *rest, **options)

    return judged


def _single(judge: Callable[..., Any]) -> Callable[..., tuple[Values, PyTree]]:
    """Take the one number that a value network has per stream."""

    def values(*inputs: Any, **options: Any) -> tuple[Values, PyTree]:
        by_stream, memory = judge(*inputs, **options)
        return {name: x.squeeze(-1) for name, x in by_stream.items()}, memory

    return values


def _remembering(
    parts: nn.ModuleDict, name: str, memory_size: int | None
) -> Callable[..., tuple[Any, PyTree]]:
    """Call a part as one that remembers; without a memory it passes one on as it is."""
    call = part(parts, name)
    each = after_each(parts[name], call)

    def run(
        params: Params, obs: Obs, memory: PyTree, reset: Tensor | None, every: bool = False
    ) -> tuple[Any, PyTree]:
        if memory_size is None:
            return call(params, obs), memory
        told: tuple[Any, PyTree] = (each if every else call)(params, obs, memory, reset)
        return told

    return run


class SquashedHead(nn.Module):
    """Turn an encoding into `PolicyOutputs` whose deviation depends on the state.

    Args:
      inputs: h, width of the encoding.
      action: sizes.
      normal: initializer of the weights of means and deviations.
      logits: initializer of the logits' weights.
    """

    def __init__(
        self,
        inputs: int,
        action: ActionSpec,
        normal: Initializer = SMALL_MEANS,
        logits: Initializer = EVEN_CHOICES,
    ) -> None:
        super().__init__()
        self.action = action
        if action.continuous:
            self.mean = Linear(inputs, action.continuous, normal)
            self.log_std = Linear(inputs, action.continuous, normal)
        if action.branches:
            self.logits = Linear(inputs, action.choices, logits)

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
      weight: initializer of the weights.
    """

    def __init__(
        self,
        inputs: int,
        streams: Sequence[str],
        outputs: int = 1,
        weight: Initializer = XAVIER_UNIFORM,
    ) -> None:
        super().__init__()
        self.heads = nn.ModuleDict({name: Linear(inputs, outputs, weight) for name in streams})

    def forward(self, encoding: Tensor) -> dict[str, Tensor]:
        """Map an encoding `[*B, h]` to `[*B, outputs]` per stream."""
        return {name: head(encoding) for name, head in self.heads.items()}
