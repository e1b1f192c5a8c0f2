"""Networks of one's own, as a user's package has them: plain torch; some work and some fail.

`tests.own_networks:encoder` asks for the first.
"""

import math

import torch
from torch import nn

from optinfra import networks
from optinfra.distributions import PolicyOutputs

M = 6  # numbers that those with a memory remember


def encoder(shape, hidden_units):
    """Convolve images, and vectors of four numbers as if they were some; the rest is as usual."""
    if len(shape) == 3:
        channels, height, width = shape
        start = nn.Identity()
    elif shape == (4,):
        channels, height, width = 1, 2, 2
        start = nn.Unflatten(1, (1, 2, 2))
    else:
        return None
    features = 4 * (height - 1) * (width - 1)
    return nn.Sequential(
        start,
        nn.Conv2d(channels, 4, 2),
        nn.GELU(),
        nn.Flatten(),
        nn.LayerNorm(features),
        nn.Linear(features, hidden_units),
    )


class Joined(nn.Module):
    """Read everything as one long vector."""

    def __init__(self, shapes, outputs):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(sum(map(math.prod, shapes)), 8), nn.LayerNorm(8), nn.Tanh(),
            nn.Linear(8, outputs),
        )  # fmt: skip

    def forward(self, *obs):
        return self.layers(torch.cat([x.flatten(1) for x in obs], 1))


def body(spec, hidden_units):
    return Joined(spec.obs, hidden_units)


# --- whole networks -------------------------------------------------------------------------


class Policy(nn.Module):
    """Act by vectors; with `by_state` the deviation depends on what is seen, as SAC has it."""

    def __init__(self, inputs, action, *, by_state=False):
        super().__init__()
        self.sizes = (action.continuous, action.continuous, action.choices)
        self.layers = nn.Sequential(nn.Linear(inputs, 8), nn.Tanh(), nn.Linear(8, sum(self.sizes)))
        self.by_state = by_state

    def forward(self, obs):
        x = torch.cat(obs, -1) if isinstance(obs, tuple) else obs
        mean, log_std, logits = self.layers(x).split(self.sizes, -1)
        return PolicyOutputs(mean, log_std if self.by_state else torch.zeros_like(mean), logits)


class Values(nn.Module):
    """Tell some numbers per stream by vectors; one number stands alone with `squeezed`."""

    def __init__(self, inputs, streams, outputs=1, *, squeezed=True):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(inputs, 8), nn.Tanh())
        self.heads = nn.ModuleDict({name: nn.Linear(8, outputs) for name in streams})
        self.squeezed = squeezed

    def forward(self, obs):
        x = self.body(torch.cat(obs, -1) if isinstance(obs, tuple) else obs)
        told = {name: head(x) for name, head in self.heads.items()}
        return {name: y.squeeze(-1) for name, y in told.items()} if self.squeezed else told


class TanhMemory(nn.Module):
    """m ← tanh(W·[x, m]), from zeros where `reset`; what stands on it sees m."""

    def __init__(self, inputs, head):
        super().__init__()
        self.layer, self.head = nn.Linear(inputs + M, M), head

    def forward(self, obs, memory, reset=None):
        told = []
        for t, x in enumerate(torch.cat(obs, -1)):
            before = memory if reset is None else torch.where(reset[t][..., None], 0.0, memory)
            memory = torch.tanh(self.layer(torch.cat([x, before], -1)))
            told.append(memory)
        return self.head(torch.stack(told)), memory


class MeanOfGroup(nn.Module):
    """Judge a group by the mean of what is seen of each that is present, and done by the mates."""

    def __init__(self, spec, streams):
        super().__init__()
        seen, done = sum(map(math.prod, spec.obs)), spec.action.continuous + spec.action.choices
        self.branches = spec.action.branches
        self.values, self.baselines = Values(seen + 1, streams), Values(seen + done + 1, streams)

    def forward(self, wanted, obs, mates, largest, memory, reset=None, every=False):
        there = mates.present[..., None]
        alone, others = torch.cat(obs, -1), torch.cat(mates.obs, -1)
        share = 2 * (1 + there.sum(-2)) / largest - 1
        told = []
        for each in wanted:
            mine, theirs = alone, others
            if each == "baselines":
                done = self.done(mates.action)
                theirs = torch.cat([others, done], -1)
                blank = done.new_zeros(*done.shape[:-2], done.shape[-1])
                mine = torch.cat([alone, blank], -1)
            total = mine + torch.where(there, theirs, 0.0).sum(-2)
            mean = total / (1 + there.sum(-2))
            judge = self.values if each == "values" else self.baselines
            told.append(judge(torch.cat([mean, share], -1)))
        return tuple(told), memory

    def done(self, action):
        """Lay actions out as numbers: a one for each choice that was taken."""
        columns = [action.continuous]
        for k, size in enumerate(self.branches):
            options = torch.arange(size, device=action.discrete.device)
            columns.append((action.discrete[..., k, None] == options).float())
        return torch.cat(columns, -1)


def width(spec):
    return sum(map(math.prod, spec.obs))


def separate(spec, streams):
    return networks.separate(Policy(width(spec), spec.action), Values(width(spec), streams))


def recurrent(spec, streams):
    inputs = width(spec)
    return networks.separate_recurrent(
        TanhMemory(inputs, Policy(M, spec.action)), TanhMemory(inputs, Values(M, streams)), M
    )


def soft(spec, streams, memory_size=None, *, value_network=True):
    """Two action values, and V at will; each remembers where there is a memory."""
    seen, action = width(spec), spec.action

    def network(inputs, make, *rest, **options):
        if memory_size is None:
            return make(inputs, *rest, **options)
        return TanhMemory(inputs, make(M, *rest, **options))

    outputs = max(action.choices, 1)
    critics = [
        network(seen + action.continuous, Values, streams, outputs, squeezed=False)
        for _ in range(2)
    ]
    value = network(seen, Values, streams, squeezed=False) if value_network else None
    actor = network(seen, Policy, action, by_state=True)
    return networks.separate_soft(action, actor, critics, value, memory_size=memory_size)


def group(spec, streams):
    return networks.separate_group(Policy(width(spec), spec.action), MeanOfGroup(spec, streams))


# --- as settings ask for them ---------------------------------------------------------------


def network(asked):
    trainer, memory = asked.settings.trainer_type, asked.settings.network_settings.memory
    make = {"ppo": recurrent if memory else separate, "sac": soft, "poca": group}[trainer]
    return make(asked.spec, asked.streams)


def always_recurrent(asked):
    return recurrent(asked.spec, asked.streams)


def always_forgetful(asked):
    return separate(asked.spec, asked.streams)


def raising(*_):
    raise LookupError("no layer\ntoday")


def number(*_):
    return 7


def nothing(*_):
    return None


def batch_norm(shape, hidden_units):
    return nn.Sequential(nn.Linear(shape[0], hidden_units), nn.BatchNorm1d(hidden_units))


def narrow(shape, hidden_units):
    return nn.Linear(shape[0], hidden_units - 1)


def confused(shape, hidden_units):
    return nn.Linear(shape[0] + 1, hidden_units)


NO_FUNCTION = 3
