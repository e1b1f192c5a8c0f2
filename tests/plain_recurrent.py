"""Recurrent networks as one writes them without a library: cells and loops. An oracle."""

import torch
from torch import nn
from torch.distributions import Categorical, Normal
from torch.nn.functional import silu

CELLS = {"lstm": nn.LSTMCell, "gru": nn.GRUCell}
LAYERS = {"lstm": nn.LSTM, "gru": nn.GRU}
STATES = {"lstm": 2, "gru": 1}  # an LSTM remembers h and c
PARTS = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")


def normal(seed, *shape, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=dtype)


def weights(seed, kind, inputs, hidden, dtype=torch.float32, members=()):
    """Parameters of one layer under the names they have in torch.nn, `[*E, …]` each."""
    gates = {"lstm": 4, "gru": 3}[kind] * hidden
    shapes = ((gates, inputs), (gates, hidden), (gates,), (gates,))
    numbers = (
        0.7 * normal(seed + i, *members, *shape, dtype=dtype) for i, shape in enumerate(shapes)
    )
    return dict(zip(PARTS, numbers))


def cell(kind, own):
    """A cell of torch.nn with these parameters, which may require a gradient."""
    made = CELLS[kind](own[PARTS[0]].shape[1], own[PARTS[1]].shape[1], dtype=own[PARTS[0]].dtype)
    for name in PARTS:
        part = name.removesuffix("_l0")
        delattr(made, part)
        setattr(made, part, own[name])
    return made


def after(made, x, memory):
    """One step of a cell from `[D]` and a memory `[M]` to the next memory."""
    if isinstance(made, nn.LSTMCell):
        return torch.cat(made(x, memory.chunk(2)))
    return made(x, memory)


def unrolled(kind, own, x, memory, reset):
    """One row step by step: x `[S, D]`, memory `[M]`; outputs `[S, H]`, memories `[S, M]`."""
    made, outputs, memories = cell(kind, own), [], []
    for t, now in enumerate(x):
        if bool(reset[t]):
            memory = torch.zeros_like(memory)
        memory = after(made, now, memory)
        outputs.append(memory[: len(memory) // STATES[kind]])
        memories.append(memory)
    return torch.stack(outputs), torch.stack(memories)


def unrolled_rows(kind, own, x, memory, reset):
    """Every row by itself: x `[S, *B, D]`; outputs `[S, *B, H]`, memories `[S, *B, M]`."""
    rows = x.shape[1:-1]
    columns = zip(
        x.reshape(len(x), -1, x.shape[-1]).unbind(1),
        memory.reshape(-1, memory.shape[-1]),
        reset.reshape(len(x), -1).unbind(1),
    )
    outputs, memories = zip(*(unrolled(kind, own, *column) for column in columns))
    return tuple(
        torch.stack(y, 1).reshape(len(x), *rows, y[0].shape[-1]) for y in (outputs, memories)
    )


class PlainRecurrent(nn.Module):
    """The architecture of `networks.recurrent_actor_critic` with one layer in each body.

    Parameters have the names they have there, with `_` for `.`.
    """

    def __init__(self, spec, params, kind="lstm"):
        super().__init__()
        self.action, self.kind = spec.action, kind
        for name, x in params.items():
            self.register_parameter(name.replace(".", "_"), nn.Parameter(x.detach().clone()))

    def __getitem__(self, name):
        return getattr(self, name.replace(".", "_"))

    def weights(self, names):
        return {name: self[name].detach().clone() for name in names}

    def own(self, part):
        """Parameters of the layer that remembers."""
        return {name: self[f"{part}.memory.{name}"] for name in PARTS}

    def linear(self, name, x):
        return nn.functional.linear(x, self[f"{name}.weight"], self[f"{name}.bias"])

    def layer(self, part):
        """nn.LSTM or nn.GRU that computes with these very parameters."""
        own = self.own(part)
        made = LAYERS[self.kind](own[PARTS[0]].shape[1], own[PARTS[1]].shape[1])
        return lambda *arguments: torch.func.functional_call(made, own, arguments)

    def encodings(self, part, obs, memory, reset, detached_at=0):
        """One sequence `[S, …]` through body and memory: `[S, H]` and the memory after it.

        The memory that step `detached_at` starts from has no past.
        """
        run, x = self.layer(part), silu(self.linear(f"{part}.body.layers.0", torch.cat(obs, -1)))
        out = []
        for t in range(len(x)):
            if bool(reset[t]):
                memory = torch.zeros_like(memory)
            if t and t == detached_at:
                memory = memory.detach()
            state = tuple(part[None] for part in memory.chunk(STATES[self.kind]))
            _, state = run(x[t : t + 1], state if self.kind == "lstm" else state[0])
            memory = torch.cat([*state] if self.kind == "lstm" else [state], -1)[0]
            out.append(memory[: len(memory) // STATES[self.kind]])
        return torch.stack(out), memory

    def values(self, encodings, stream="extrinsic"):
        return self.linear(f"critic.head.heads.{stream}", encodings)[:, 0]

    def log_probs_and_entropies(self, encodings, action):
        """Of the rows of one sequence: `[S, A + K]` and `[S]`."""
        log_probs, entropies = [], []
        if self.action.continuous:
            density = Normal(
                self.linear("actor.head.mean", encodings), self["actor.head.log_std"].exp()
            )
            log_probs.append(density.log_prob(action.continuous))
            entropies.append(density.entropy().mean(-1))
        if self.action.branches:
            every = self.linear("actor.head.logits", encodings).split(self.action.branches, -1)
            for logits, choice in zip(every, action.discrete.unbind(-1)):
                mass = Categorical(logits=logits)
                log_probs.append(mass.log_prob(choice)[:, None])
                entropies.append(mass.entropy())
        return torch.cat(log_probs, -1), sum(entropies)


def plain_loss(module, batch, normalized, hyper, burn_in):
    """PPO's loss on sequences `[N, S]`, each by itself; only rows that count are looked at."""
    ratios, gains, errors, entropies = [], [], [], []
    for n, counts in enumerate(batch.mask):
        seen = tuple(x[n] for x in normalized)
        own = [
            module.encodings(part, seen, memory[n], batch.reset[n], burn_in)[0]
            for part, memory in zip(("actor", "critic"), batch.memory)
        ]
        action = type(batch.action)(*(x[n] for x in batch.action))
        log_probs, entropy = module.log_probs_and_entropies(own[0], action)
        ratio = (log_probs - batch.log_prob[n]).exp()
        advantage = batch.advantages[n][:, None]
        clipped = ratio.clip(1 - hyper["clip"], 1 + hyper["clip"])
        value, old, target = (
            module.values(own[1]), batch.values["extrinsic"][n], batch.returns["extrinsic"][n],
        )  # fmt: skip
        near = old + (value - old).clip(-hyper["clip"], hyper["clip"])
        error = torch.maximum((target - value) ** 2, (target - near) ** 2)
        for x, kept in (
            (ratios, ratio), (gains, torch.minimum(ratio * advantage, clipped * advantage)),
            (errors, error), (entropies, entropy),
        ):  # fmt: skip
            x.append(kept[counts])
    policy, value = -torch.cat(gains).mean(), torch.cat(errors).mean()
    entropy = torch.cat(entropies).mean()
    total = policy + hyper["value_coef"] * value - hyper["entropy_coef"] * entropy
    return total, {"policy_loss": policy, "value_loss": value, "entropy": entropy}
