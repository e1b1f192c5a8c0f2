"""Networks with a memory: LSTM and GRU layers, and a policy and values that remember.

A memory belongs to one agent. Whoever runs a sequence passes in the memory it starts from
and is given the one it ends with; nothing is remembered anywhere else.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from optinfra import random, tree
from optinfra.check import require_dtype, require_shape, require_trailing
from optinfra.distributions import PolicyOutputs
from optinfra.networks.actor_critic import (
    ActorCritic,
    Initialization,
    Values,
    body_weight,
    heads,
)
from optinfra.networks.bodies import ENCODING, Encoding, body
from optinfra.networks.cells import CELLS
from optinfra.networks.initializers import Initializer, draw, xavier_uniform
from optinfra.networks.modules import swish
from optinfra.networks.parts import part
from optinfra.networks.unroll import keep_whole_in_graphs, unroll
from optinfra.types import Key, Memories, Obs, Params, PyTree, Spec

FORGET_BIAS = 1.0  # of both biases, so that a young memory keeps what it holds, as in ML-Agents


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


# --- layers -------------------------------------------------------------------------------


class Recurrent(nn.Module):
    """What LSTM and GRU have in common; parameters are named and laid out as torch.nn's.

    Args:
      inputs: D, width of the inputs.
      hidden_units: H, width of the outputs.
    """

    cell: str
    # One step, from `[*B, D]` and `[*B, M]` to the next memory; H of it are the output.
    step: Callable[[Tensor, Tensor], Tensor]

    def __init__(self, inputs: int, hidden_units: int) -> None:
        super().__init__()
        keep_whole_in_graphs()
        gates = CELLS[self.cell].gates

        def parameter(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(gates * hidden_units, *shape, device="meta"))

        self.hidden_units = hidden_units
        self.memory_size = CELLS[self.cell].states * hidden_units  # M
        self.weight_ih_l0, self.weight_hh_l0 = parameter(inputs), parameter(hidden_units)
        self.bias_ih_l0, self.bias_hh_l0 = parameter(), parameter()
        weight, bias = by_gate(gates, xavier_uniform()), self.bias
        self.initializers = {
            "weight_ih_l0": weight, "weight_hh_l0": weight, "bias_ih_l0": bias, "bias_hh_l0": bias,
        }  # fmt: skip

    def forward(
        self, x: Tensor, memory: Tensor, reset: Tensor | None = None, every: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Run a sequence.

        Args:
          x: `[S, *B, D]`, S ≥ 1.
          memory: `[*B, M]` before the first step.
          reset: `[S, *B]` bool; steps where it is True start from zeros, whatever came before.
          every: whether to return the memory after each step, without gradient.

        Returns:
          Outputs `[S, *B, H]`; the memory after the last step `[*B, M]`, or `[S, *B, M]`.

        Raises:
          ValueError: a shape disagrees.
          TypeError: `reset` is not bool.
        """
        rows = x.shape[1:-1]
        require_trailing("x", x, self.weight_ih_l0.shape[1:])
        require_shape("memory", memory, (*rows, self.memory_size), "*B, M")
        if reset is not None:
            require_dtype("reset", reset, torch.bool)
            require_shape("reset", reset, x.shape[:-1], "S, *B")
        if len(x) == 1 and not every:
            if reset is not None:
                memory = torch.where(reset[0][..., None], 0.0, memory)
            memory = self.step(x[0], memory)
            return memory[None, ..., : self.hidden_units], memory
        weights = (self.weight_ih_l0, self.weight_hh_l0, self.bias_ih_l0, self.bias_hh_l0)
        steps, count = len(x), math.prod(rows)
        columns = [
            x.reshape(steps, count, x.shape[-1]), memory.reshape(count, self.memory_size),
            *weights,
        ]  # fmt: skip
        flags = None if reset is None else reset.reshape(1, steps, count)
        outputs, memories, _ = unroll(self.cell, every, *(part[None] for part in columns), flags)
        outputs, memories = (
            y[0].reshape(y.shape[1], *rows, y.shape[-1]) for y in (outputs, memories)
        )
        return outputs, memories.detach() if every else memories[0]

    @staticmethod
    def bias(key: Key, shape: tuple[int, ...]) -> Tensor:
        """Draw both biases: zeros."""
        return torch.zeros(shape, device=key.device)


class LSTM(Recurrent):
    """Long short-term memory; a memory is [h; c], M = 2·H. Gates come in the order i, f, g, o.

    Source: Hochreiter & Schmidhuber 1997; the formula is torch.nn.LSTM's.
    """

    cell = "lstm"

    def step(self, x: Tensor, memory: Tensor) -> Tensor:
        """Take one step."""
        h, c = memory.chunk(2, -1)
        z = nn.functional.linear(x, self.weight_ih_l0, self.bias_ih_l0)
        z = z + nn.functional.linear(h, self.weight_hh_l0, self.bias_hh_l0)
        i, f, g, o = z.chunk(4, -1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        return torch.cat([o.sigmoid() * c.tanh(), c], -1)

    @staticmethod
    def bias(key: Key, shape: tuple[int, ...]) -> Tensor:
        """Draw both biases: zeros, and ones for the forget gate (two in sum, as in ML-Agents)."""
        i, f, g, o = torch.zeros(shape, device=key.device).chunk(4)
        return torch.cat([i, f + FORGET_BIAS, g, o])


class GRU(Recurrent):
    """Gated recurrent unit; a memory is h, M = H. Gates come in the order r, z, n.

    Source: Cho et al. 2014, https://arxiv.org/abs/1406.1078; the formula is torch.nn.GRU's.
    """

    cell = "gru"

    def step(self, x: Tensor, memory: Tensor) -> Tensor:
        """Take one step."""
        from_x = nn.functional.linear(x, self.weight_ih_l0, self.bias_ih_l0)
        from_h = nn.functional.linear(memory, self.weight_hh_l0, self.bias_hh_l0)
        (r, z, n), (own_r, own_z, own_n) = from_x.chunk(3, -1), from_h.chunk(3, -1)
        z = (z + own_z).sigmoid()
        n = (n + (r + own_r).sigmoid() * own_n).tanh()
        return (1 - z) * n + z * memory


LAYERS: dict[str, type[Recurrent]] = {"lstm": LSTM, "gru": GRU}


def by_gate(gates: int, initializer: Initializer) -> Initializer:
    """Draw each gate's block of a weight by itself, as ML-Agents does."""

    def init(key: Key, shape: tuple[int, ...]) -> Tensor:
        block = (shape[0] // gates, *shape[1:])
        return torch.cat([initializer(each, block) for each in random.split(key, gates).unbind()])

    return init


class Remembering(nn.Module):
    """A body, then a memory, then a head, under these names.

    Args:
      body: `(obs) -> [S, *B, h]`.
      memory: an `LSTM` or `GRU` of such inputs.
      head: `(encoding [S, *B, H]) -> outputs`.
    """

    def __init__(self, body: nn.Module, memory: Recurrent, head: nn.Module) -> None:
        super().__init__()
        self.body, self.memory, self.head = body, memory, head

    def forward(
        self, obs: Obs, memory: Tensor, reset: Tensor | None = None, every: bool = False
    ) -> tuple[Any, Tensor]:
        """Run a sequence of observations `[S, *B, D_i]`; see `Recurrent.forward`."""
        encoding, memory = self.memory(self.body(obs), memory, reset, every)
        return self.head(encoding), memory


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


def recurrent_layer(cell: str, memory_size: int) -> tuple[int, type[Recurrent]]:
    """Tell H and the kind of the layer that remembers so much."""
    if cell not in LAYERS:
        raise ValueError(f"`cell` must be one of {sorted(LAYERS)}, got {cell!r}.")
    states = CELLS[cell].states
    if memory_size < states or memory_size % states:
        raise ValueError(f"`memory_size` must be a multiple of {states}, got {memory_size}.")
    return memory_size // states, LAYERS[cell]


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


def after_each(
    module: nn.Module, run: Callable[..., tuple[Any, PyTree]]
) -> Callable[..., tuple[Any, PyTree]]:
    """Make what a recurrent module computes tell the memory after each step."""
    return partial(run, every=True) if isinstance(module, Remembering) else step_by_step(run)


def step_by_step(
    run: Callable[[Params, Obs, PyTree, Tensor | None], tuple[Any, PyTree]],
) -> Callable[[Params, Obs, PyTree, Tensor | None], tuple[Any, PyTree]]:
    """Run a sequence by single steps: the same outputs, and the memory after each step."""

    def every(params: Params, obs: Obs, memory: PyTree, reset: Tensor | None) -> tuple[Any, PyTree]:
        outputs, memories = [], []
        for t in range(len(obs[0])):
            now = None if reset is None else reset[t : t + 1]
            output, memory = run(params, tree.take(obs, slice(t, t + 1)), memory, now)
            outputs.append(output)
            memories.append(memory)
        together = tree.map(lambda *xs: torch.cat(xs), *outputs)
        return together, tree.map(Tensor.detach, tree.stack(memories))

    return every


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
