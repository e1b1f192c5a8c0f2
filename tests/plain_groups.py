"""Networks of a group as one writes them down: one agent, one head, one pair at a time.

In float64, from the formulas, on the weights by their names; an absent mate is left out.
"""

import math

import torch

from optinfra.types import Action, Mates
from tests import examples

HEADS, EPS = 4, 1e-5


def linear(w, name, x):
    return w[f"{name}.weight"] @ x + w[f"{name}.bias"]


def swish(x):
    return x / (1 + torch.exp(-x))


def norm(x):
    centred = x - x.mean()
    return centred / ((centred**2).mean() + EPS).sqrt()


def related(w, prefix, embeddings):
    """Every entity after it has looked at all, before the pooling."""
    entities = [norm(x) for x in embeddings]
    width = len(entities[0])
    looks = [linear(w, f"{prefix}qkv", x).split(width) for x in entities]
    out = []
    for query, _, _ in looks:
        heads = []
        for head in range(HEADS):
            of = slice(head * width // HEADS, (head + 1) * width // HEADS)
            weights = [torch.exp(query[of] @ key[of] / math.sqrt(width)) for _, key, _ in looks]
            seen = [weight * value[of] for weight, (_, _, value) in zip(weights, looks)]
            heads.append(sum(seen) / sum(weights))
        out.append(torch.cat(heads))
    return [norm(linear(w, f"{prefix}out", y) + x) for x, y in zip(entities, out)]


def pooled(w, prefix, embeddings):
    return sum(related(w, prefix, embeddings)) / (len(embeddings) + 1e-7)


def flat(action, branches):
    """One agent's action as numbers: `[A]` and `[K]` to `[A + N]`."""
    numbers = list(action.continuous)
    for choice, choices in zip(action.discrete, branches):
        numbers += [torch.tensor(float(j == int(choice))).double() for j in range(choices)]
    return torch.stack(numbers)


def remembered(w, prefix, x, memory):
    """One step of an LSTM or a GRU, told apart by the number of gates."""
    parts = (w[f"{prefix}.{name}_l0"] for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
    ih, hh, bias_ih, bias_hh = parts
    if len(ih) // hh.shape[1] == 3:
        (r, z, n), (own_r, own_z, own_n) = (
            y.chunk(3) for y in (ih @ x + bias_ih, hh @ memory + bias_hh)
        )
        z = torch.sigmoid(z + own_z)
        h = (1 - z) * torch.tanh(n + torch.sigmoid(r + own_r) * own_n) + z * memory
        return h, h
    h, c = memory.chunk(2)
    i, f, g, o = (ih @ x + bias_ih + hh @ h + bias_hh).chunk(4)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    h = torch.sigmoid(o) * torch.tanh(c)
    return h, torch.cat([h, c])


def judged(w, spec, wanted, obs, mates, largest, memory, activation=swish):
    """One step of one agent: `values` or `baselines` by stream, and what is remembered."""
    here = [j for j, present in enumerate(mates.present) if bool(present)]
    seen = [torch.cat([x[j] for x in mates.obs]) for j in here]
    entities = [activation(linear(w, "critic.observed.layer", torch.cat(obs)))]
    for j, x in zip(here, seen):
        name = "critic.observed.layer"
        if wanted == "baselines":
            action = Action(mates.action.continuous[j], mates.action.discrete[j])
            name, x = "critic.acted.layer", torch.cat([x, flat(action, spec.action.branches)])
        entities.append(activation(linear(w, name, x)))
    x, layer = pooled(w, "critic.attention.", entities), 0
    while f"critic.body.layers.{layer}.weight" in w:
        x, layer = activation(linear(w, f"critic.body.layers.{layer}", x)), layer + 1
    if "critic.memory.weight_ih_l0" in w:
        x, memory = remembered(w, "critic.memory", x, memory)
    x = torch.cat([x, (2 * (1 + len(here)) / largest - 1).reshape(1)])
    prefix, suffix = "critic.head.heads.", ".weight"
    streams = [
        name.removeprefix(prefix).removesuffix(suffix)
        for name in w
        if name.startswith(prefix) and name.endswith(suffix)
    ]
    return {stream: linear(w, prefix + stream, x)[0] for stream in streams}, memory


def judged_rows(w, spec, wanted, obs, mates, largest, activation=swish):
    """Rows `[N, …]` without memory, each by itself: `[N]` by stream."""
    rows = [
        judged(w, spec, wanted, *row_of(obs, mates, n), largest, (), activation)[0]
        for n in range(len(obs[0]))
    ]
    return {stream: torch.stack([row[stream] for row in rows]) for stream in rows[0]}


def judged_sequence(w, spec, wanted, obs, mates, largest, memory, reset):
    """Steps `[S, …]` of one agent: `[S]` by stream, and the memory after each `[S, M]`."""
    steps, memories = [], []
    for t in range(len(obs[0])):
        if bool(reset[t]):
            memory = torch.zeros_like(memory)
        by_stream, memory = judged(w, spec, wanted, *row_of(obs, mates, t), largest, memory)
        steps.append(by_stream)
        memories.append(memory)
    together = {stream: torch.stack([step[stream] for step in steps]) for stream in steps[0]}
    return together, torch.stack(memories)


def row_of(obs, mates, n):
    action = Action(mates.action.continuous[n], mates.action.discrete[n])
    mates = Mates(tuple(x[n] for x in mates.obs), action, mates.present[n])
    return tuple(x[n] for x in obs), mates


# --- what the networks are given ----------------------------------------------------------------


def obs_and_mates(seed, *rows, mates=3, spec=examples.SPEC, sizes=None):
    """Observations `[*B, D_i]` and mates `[*B, G, …]`; `sizes` `[*B]` tells how many are there.

    Those present stand at places drawn at random.
    """
    obs = tuple(examples.normal(seed + i, *rows, *shape) for i, shape in enumerate(spec.obs))
    others = tuple(
        examples.normal(seed + 20 + i, *rows, mates, *shape) for i, shape in enumerate(spec.obs)
    )
    slots = (*rows, mates)
    choices = [
        (10 * examples.normal(seed + 40 + k, *slots)).long().abs() % n
        for k, n in enumerate(spec.action.branches)
    ]
    discrete = torch.stack(choices, -1) if choices else torch.zeros(*slots, 0, dtype=torch.int64)
    action = Action(examples.normal(seed + 30, *slots, spec.action.continuous), discrete)
    order = examples.normal(seed + 50, *slots).argsort(-1).argsort(-1)
    if sizes is None:
        sizes = torch.arange(math.prod(rows)).reshape(rows) % (mates + 1)
    return obs, Mates(others, action, order < sizes[..., None])
