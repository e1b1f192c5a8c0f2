"""Networks of a group of agents: one policy for all, a value of the group, a baseline of each.

An agent's row holds its own observations and those of its mates, of whom any number may be absent.
"""

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from optinfra.check import require_dtype, require_shape
from optinfra.distributions import PolicyOutputs
from optinfra.networks.actor_critic import Values, heads
from optinfra.networks.attention import (
    HEADS,
    EntityEmbedding,
    Projected,
    ResidualSelfAttention,
    stretch,
)
from optinfra.networks.bodies import ENCODING, Body, Encoding, body
from optinfra.networks.initializers import draw, kaiming_normal
from optinfra.networks.layers import Recurrent, Remembering, recurrent_layer
from optinfra.networks.modules import KAIMING_NORMAL, ValueHeads, swish
from optinfra.networks.observations import ObservationEncoder
from optinfra.networks.parts import part
from optinfra.types import Action, ActionSpec, Key, Mates, Memories, Obs, Params, PyTree, Spec

BODY_VARIANCE = 0.125  # of ML-Agents' body behind attention, over fan_in and width
AGENT_COUNT = 1  # what is known of a group's size is one number beside the encoding
VALUES, BASELINES = "values", "baselines"

# (params, obs, mates, largest, memory, reset) -> ([(S,) *B] by stream, memory)
Judge = Callable[[Params, Obs, Mates, Tensor, PyTree, Tensor | None], tuple[Values, PyTree]]


class GroupActorCritic(NamedTuple):
    """A policy of an agent, values of its group, baselines of it: pure functions and nothing else.

    The value sees the observations of all agents. The baseline sees what the mates did as well,
    but not what the agent itself did: the difference is what its action was worth.

    Observations are `[*B, D_i]`, mates `[*B, G, …]` in any order; what an absent one holds, be it
    NaN, changes nothing. With a memory both are led by time, `[S, *B, …]`: `memory` `[*B, M]` is
    then what the first step starts from, and where `reset` `[S, *B]` (bool, or None for nowhere)
    is True, a step starts from zeros. Without one it is passed on as it is, as `()`.

    `largest` `[]` is the number of agents n_max that counts as large, at least that of any group:
    with n agents present, the heads are told 2·n / n_max − 1. The row's own agent is present.
    """

    init: Callable[[Key], Params]
    # (rows, device=None) -> actor's [*rows, M]; critic's [*rows, 2M], the value's, the baseline's
    memories: Callable[..., Memories]
    # (params, obs, memory, reset) -> (outputs [(S,) *B, …], memory after the last step)
    policy: Callable[[Params, Obs, PyTree, Tensor | None], tuple[PolicyOutputs, PyTree]]
    values: Judge  # the mates' actions are not read
    baselines: Judge
    # the same with the memory after each step [S, *B, M], no gradient through those
    values_and_memories: Judge
    baselines_and_memories: Judge
    # (params, obs, mates, largest, memory [*B, 2M], reset) -> (values, baselines, memory): both
    # in one pass, in which the agent's own observation is embedded once
    values_and_baselines: Callable[
        [Params, Obs, Mates, Tensor, PyTree, Tensor | None], tuple[Values, Values, PyTree]
    ]


def group_actor_critic(
    spec: Spec,
    streams: Sequence[str] = ("extrinsic",),
    *,
    memory_size: int | None = None,
    cell: str = "lstm",
    hidden_units: int = 128,
    num_layers: int = 2,
    activation: Callable[[Tensor], Tensor] = swish,
    encoding: Encoding = ENCODING,
) -> GroupActorCritic:
    """Build ML-Agents' actor and critic of POCA.

    The actor is `actor_critic`'s. The critic encodes what each agent sees, all by one encoder,
    embeds each agent as an entity, by that or by that and its action, relates the entities by
    self-attention, pools those present, and passes the result through a body and, with a memory,
    a layer that remembers. Values and baselines share all parameters and remember apart.

    Args:
      spec: what is seen and done.
      streams: names of the reward streams.
      memory_size: M, numbers that each of actor, value and baseline remembers; for an LSTM even.
        None: nothing.
      cell: `lstm` or `gru`.
      hidden_units: h, a multiple of 4, width of the bodies' layers and of the embeddings.
      num_layers: layers of each body.
      activation: after every layer of the bodies and after the embeddings.
      encoding: how images and goals are read, and the user's own modules. A body of one's own is
        the actor's; to the critic goals are observations as others are, as in ML-Agents.

    Returns:
      A `GroupActorCritic` whose parameters are named `actor.…` and `critic.…`.

    Raises:
      ValueError: an observation is of no known kind or an image too small for its encoder, a
        number is out of range, or `cell` or `encoding` names nothing known.

    Differs: from ML-Agents, where n_max is kept in the network and raised by whatever is
    evaluated, and where absent mates are told by NaN.
    Source: Cohen et al. 2021, section 4, https://arxiv.org/abs/2111.05992.
    """
    if hidden_units < HEADS or hidden_units % HEADS:
        raise ValueError(f"`hidden_units` must be a multiple of {HEADS}, got {hidden_units}.")
    width, layer = hidden_units, None
    if memory_size is not None:
        width, layer = recurrent_layer(cell, memory_size)
    sizes = (hidden_units, num_layers, activation)
    own = body(spec, *sizes, KAIMING_NORMAL, encoding)
    head, _ = heads(spec, streams, width, None)
    actor: nn.Module = nn.Sequential(OrderedDict(body=own, head=head))
    if layer is not None:
        actor = Remembering(own, layer(hidden_units, width), head)
    encoder = ObservationEncoder(spec, hidden_units, encoding.image, encoding.encoder)
    related = ObservationEncoder(spec._replace(obs=((hidden_units,),), goals=(), bytes=()), 0)
    done = spec.action.continuous + spec.action.choices
    gain = math.sqrt(BODY_VARIANCE / hidden_units)
    weight = kaiming_normal(gain)
    critic = GroupCritic(
        encoder,
        observed=EntityEmbedding(encoder.width, hidden_units, activation),
        acted=EntityEmbedding(encoder.width + done, hidden_units, activation),
        attention=ResidualSelfAttention(hidden_units, HEADS),
        body=Body(related, *sizes, weight),
        memory=None if layer is None else layer(hidden_units, width),
        head=ValueHeads(width + AGENT_COUNT, streams),
    )
    return separate_group(actor, critic, memory_size=memory_size)


def separate_group(
    actor: nn.Module, critic: nn.Module, *, memory_size: int | None = None
) -> GroupActorCritic:
    """Give the policy of an agent and the values of its group networks of the user's own.

    Args:
      actor: `(obs) -> PolicyOutputs`, or with a memory `(obs, memory, reset) -> (outputs, memory)`
        in sequences `[S, *B, …]`.
      critic: called as `GroupCritic` is.
      memory_size: M of each of actor, value and baseline; None without.

    Returns:
      A `GroupActorCritic` whose parameters are named `actor.…` and `critic.…`.
    """
    parts = nn.ModuleDict({"actor": actor, "critic": critic})
    act, judge = part(parts, "actor"), part(parts, "critic")

    def memories(rows: Sequence[int], device: torch.device | None = None) -> Memories:
        if memory_size is None:
            return Memories((), ())
        sizes = Memories(memory_size, 2 * memory_size)
        return Memories(*(torch.zeros(*rows, size, device=device) for size in sizes))

    def policy(
        params: Params, obs: Obs, memory: PyTree, reset: Tensor | None
    ) -> tuple[PolicyOutputs, PyTree]:
        if memory_size is None:
            return act(params, obs), memory
        outputs, memory = act(params, obs, memory, reset)
        return outputs, memory

    def alone(wanted: str, every: bool) -> Judge:
        def judged(
            params: Params,
            obs: Obs,
            mates: Mates,
            largest: Tensor,
            memory: PyTree,
            reset: Tensor | None,
        ) -> tuple[Values, PyTree]:
            given = (obs, mates, largest, memory, reset)
            (by_stream,), memory = judge(params, (wanted,), *given, every=every)
            return by_stream, memory

        return judged

    def values_and_baselines(
        params: Params,
        obs: Obs,
        mates: Mates,
        largest: Tensor,
        memory: PyTree,
        reset: Tensor | None,
    ) -> tuple[Values, Values, PyTree]:
        given = (obs, mates, largest, memory, reset)
        (values, baselines), memory = judge(params, (VALUES, BASELINES), *given)
        return values, baselines, memory

    return GroupActorCritic(
        init=draw(parts),
        memories=memories,
        policy=policy,
        values=alone(VALUES, every=False),
        baselines=alone(BASELINES, every=False),
        values_and_memories=alone(VALUES, every=True),
        baselines_and_memories=alone(BASELINES, every=True),
        values_and_baselines=values_and_baselines,
    )


class GroupCritic(nn.Module):
    """Values of groups and baselines of their agents, with the same parameters.

    Args:
      encoder: reads what an agent sees.
      observed: embeds agents of whom the observations are known.
      acted: embeds agents of whom the action is known as well.
      attention: relates and pools the embedded agents.
      body: what follows.
      memory: what remembers, if anything does.
      head: values of an encoding and the agent count.
    """

    def __init__(
        self,
        encoder: ObservationEncoder,
        *,
        observed: EntityEmbedding,
        acted: EntityEmbedding,
        attention: ResidualSelfAttention,
        body: Body,
        memory: Recurrent | None,
        head: ValueHeads,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.observed, self.acted = observed, acted
        self.attention, self.body, self.memory, self.head = attention, body, memory, head

    def forward(
        self,
        wanted: tuple[str, ...],
        obs: Obs,
        mates: Mates,
        largest: Tensor,
        memory: PyTree,
        reset: Tensor | None = None,
        every: bool = False,
    ) -> tuple[tuple[Values, ...], PyTree]:
        """Judge groups in C ways.

        Args:
          wanted: C of `values` and `baselines`.
          obs: `[(S,) *B, D_i]` each.
          mates: `[(S,) *B, G, …]`; actions are read by baselines only.
          largest: n_max `[]`.
          memory: `[*B, C·M]`, one's after the other's; `()` without.
          reset: `[S, *B]` bool; steps where it is True start from zeros.
          every: whether to return the memory after each step, without gradient.

        Returns:
          C times values `[(S,) *B]` by stream; the memory after the last step `[*B, C·M]`, or
          `[S, *B, C·M]`.

        Raises:
          ValueError: a shape disagrees.
          TypeError: `mates.present` or `reset` is not bool.
        """
        _check(self.encoder.spec, obs, mates, largest)
        entities, present = self.entities(wanted, obs, mates)
        size = mates.present.shape[-1] + 1
        starts = {BASELINES: 0, VALUES: present.shape[-1] - size}
        pooled = [
            self.attention.pool(
                stretch(entities, starts[each], size), present.narrow(-1, starts[each], size)
            )
            for each in wanted
        ]
        encoding = self.body((torch.stack(pooled, -2),))
        if self.memory is not None:
            encoding, memory = _remembered(self.memory, encoding, memory, reset, every)
        agents = 1 + mates.present.to(encoding.dtype).sum(-1)
        share = (2 * agents / largest - 1)[..., None, None].expand(*encoding.shape[:-1], 1)
        by_stream = self.head(torch.cat([encoding, share], -1))
        apart = ({name: x[..., c] for name, x in by_stream.items()} for c in range(len(wanted)))
        return tuple(apart), memory

    def entities(self, wanted: tuple[str, ...], obs: Obs, mates: Mates) -> tuple[Projected, Tensor]:
        """Embed and project every agent as often as it is seen, and tell which are present.

        Where both are wanted, the mates stand once before the agent itself, with their actions,
        and once behind it, without. Hence a baseline is of the first 1 + G, a value of the last.
        """
        others = mates.present
        own, seen = self.encoder(_of_all(obs, mates)).together.split([1, others.shape[-1]], -2)
        itself = others.new_ones(*others.shape[:-1], 1)
        embedded, present = [], []
        if BASELINES in wanted:
            action = self.encoder.spec.action
            _check_action(action, mates.action, others)
            done = _flat(mates.action, action.branches, seen.dtype)
            known = torch.cat([seen, done], -1)
            embedded, present = [self.acted(known, others)], [others]
        if VALUES in wanted:
            own, itself = torch.cat([own, seen], -2), torch.cat([itself, others], -1)
        embedded, present = [*embedded, self.observed(own, itself)], [*present, itself]
        return self.attention.project(torch.cat(embedded, -2)), torch.cat(present, -1)


def _remembered(
    layer: Recurrent, encoding: Tensor, memory: Tensor, reset: Tensor | None, every: bool
) -> tuple[Tensor, Tensor]:
    """Run `[S, *B, C, h]` through the layer that remembers, each of C with a memory of its own."""
    *rows, ways = encoding.shape[1:-1]
    require_shape("memory", memory, (*rows, ways * layer.memory_size), "*B, C·M")
    if reset is not None:
        require_shape("reset", reset, encoding.shape[:-2], "S, *B")
        reset = reset[..., None].expand(encoding.shape[:-1])
    apart = memory.unflatten(-1, (ways, layer.memory_size))
    encoding, memory = layer(encoding, apart, reset, every)
    return encoding, memory.flatten(-2)


def _of_all(obs: Obs, mates: Mates) -> Obs:
    """Line up what agents and their mates see, `[*B, 1 + G, …]`; blank where one is absent."""
    rows = mates.present.ndim - 1
    lined_up = []
    for own, seen in zip(obs, mates.obs):
        there = mates.present.reshape(*mates.present.shape, *(1,) * (own.ndim - rows))
        lined_up.append(torch.cat([own.unsqueeze(rows), torch.where(there, seen, 0)], rows))
    return tuple(lined_up)


def _flat(action: Action, branches: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Lay actions out as numbers `[*B, A + N]`: continuous ones, then choices as one of so many."""
    chosen = [
        (action.discrete[..., k, None] == torch.arange(choices, device=action.discrete.device))
        for k, choices in enumerate(branches)
    ]
    return torch.cat([action.continuous.to(dtype), *(each.to(dtype) for each in chosen)], -1)


def _check(spec: Spec, obs: Obs, mates: Mates, largest: Tensor) -> None:
    require_dtype("mates.present", mates.present, torch.bool)
    require_shape("largest", largest, ())
    for name, given in (("obs", obs), ("mates.obs", mates.obs)):
        if len(given) != len(spec.obs):
            raise ValueError(f"`{name}` must have {len(spec.obs)} observations, got {len(given)}.")
    rows = obs[0].shape[: obs[0].ndim - len(spec.obs[0])]
    size = mates.present.shape[-1] if mates.present.ndim > len(rows) else 0
    slots = (*rows, size)
    require_shape("mates.present", mates.present, slots, "*B, G")
    for i, shape in enumerate(spec.obs):
        require_shape(f"obs[{i}]", obs[i], (*rows, *shape), "*B, D")
        require_shape(f"mates.obs[{i}]", mates.obs[i], (*slots, *shape), "*B, G, D")


def _check_action(sizes: ActionSpec, action: Action, present: Tensor) -> None:
    continuous, discrete = sizes.continuous, len(sizes.branches)
    slots = present.shape
    require_shape("mates.action.continuous", action.continuous, (*slots, continuous), "*B, G, A")
    require_shape("mates.action.discrete", action.discrete, (*slots, discrete), "*B, G, K")
