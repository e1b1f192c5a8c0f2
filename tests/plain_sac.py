"""Soft actor-critic without a value network, step by step in float64: what the pure one must be.

Written from the formulas, on the weights by their names, and sharing no code with them.
"""

import math
from typing import NamedTuple

import torch

CONSTANTS = {"variance": 1e-7, "std": 1e-7, "prob": 1e-7, "norm": 1e-5}  # guards, as documented
FORBIDDEN = -1e8


class Choice(NamedTuple):
    """What the policy would do in one state."""

    action: torch.Tensor  # [A]
    log_prob: torch.Tensor  # []
    probs: list  # [n_k] each
    heats: list  # Σ p·log p of each branch


# --- networks -------------------------------------------------------------------------------


def encoded(w, part, x, memory):
    layer = 0
    while f"{part}.body.layers.{layer}.weight" in w:
        x = w[f"{part}.body.layers.{layer}.weight"] @ x + w[f"{part}.body.layers.{layer}.bias"]
        norm = f"{part}.body.norms.{layer}"
        if f"{norm}.weight" in w:
            x = (x - x.mean()) / (x.var(unbiased=False) + CONSTANTS["norm"]).sqrt()
            x = w[f"{norm}.weight"] * x + w[f"{norm}.bias"]
        x = x / (1 + torch.exp(-x))
        layer += 1
    if f"{part}.memory.weight_ih_l0" not in w:
        return x, memory
    ih, hh, bias_ih, bias_hh = (
        w[f"{part}.memory.{name}_l0"] for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    )
    h, c = memory.chunk(2)
    i, f, g, o = (ih @ x + bias_ih + hh @ h + bias_hh).chunk(4)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    h = torch.sigmoid(o) * torch.tanh(c)
    return h, torch.cat([h, c])


def headed(w, name, x):
    return w[f"{name}.weight"] @ x + w[f"{name}.bias"]


def policy(w, obs, memory):
    """Mean, ln σ and logits (None where there is no such part), and what is remembered."""
    x, memory = encoded(w, "actor", torch.cat(obs), memory)
    mean = log_std = logits = None
    if "actor.head.mean.weight" in w:
        mean = headed(w, "actor.head.mean", x)
        log_std = headed(w, "actor.head.log_std", x).clamp(-20, 2)
    if "actor.head.logits.weight" in w:
        logits = headed(w, "actor.head.logits", x)
    return (mean, log_std, logits), memory


def judged(w, i, obs, action, memory):
    """What Q_i says, by stream."""
    x, memory = encoded(w, f"q{i}", torch.cat([*obs, action]), memory)
    prefix, suffix = f"q{i}.head.heads.", ".weight"
    names = [n.removeprefix(prefix).removesuffix(suffix) for n in w
             if n.startswith(prefix) and n.endswith(suffix)]  # fmt: skip
    return {name: headed(w, prefix + name, x) for name in names}, memory


def choice(spec, outputs, noise, allowed):
    mean, log_std, logits = outputs
    action, log_prob, probs, heats = noise[:0], noise.new_zeros(()), [], []
    if mean is not None:
        std = log_std.exp()
        u = mean + std * noise
        action = torch.tanh(u)
        density = -((u - mean) ** 2) / (2 * std**2 + CONSTANTS["variance"])
        density = density - torch.log(std + CONSTANTS["std"]) - 0.5 * math.log(2 * math.pi)
        log_prob = (density - torch.log(1 - torch.tanh(u) ** 2)).sum()
    if logits is not None:
        logits = torch.where(allowed, logits, torch.full_like(logits, FORBIDDEN))
        probs = [branch.exp() / branch.exp().sum() for branch in logits.split(spec.branches)]
        heats = [(p * torch.log(p + CONSTANTS["prob"])).sum() for p in probs]
    return Choice(action, log_prob, probs, heats)


# --- losses ---------------------------------------------------------------------------------


def worths(spec, q, choice):
    """What each branch's choices are worth; without branches the one number there is."""
    if not spec.branches:
        return [q[0]]
    return [(p * part).sum() for p, part in zip(choice.probs, q.split(spec.branches))]


def row_losses(spec, w, target, logs, aim, row, memories, draws, subset, seeks):
    """Losses of one step as sums over streams of what counts, and the memories after it."""
    frozen = {name: x.detach() for name, x in w.items()}
    coefs = {name: x.detach().exp() for name, x in logs.items()}
    critics, K = len(memories["taken"]), max(len(spec.branches), 1)
    outputs, memories["actor"] = policy(w, row["obs"], memories["actor"])
    now = choice(spec, outputs, draws[0], row["allowed"])
    following, _ = policy(frozen, row["next_obs"], memories["actor"].detach())
    then = choice(spec, following, draws[1], row["next_allowed"])
    price = sum(coefs["continuous"] * then.log_prob) + sum(
        a * heat / K for a, heat in zip(coefs["discrete"], then.heats)
    )
    taken, promised, onward = [], [], []
    for i in range(critics):
        before = memories["taken"][i]
        promised.append(judged(frozen, i + 1, row["obs"], now.action, before.detach())[0])
        q, memories["taken"][i] = judged(w, i + 1, row["obs"], row["action"], before)
        taken.append(q)
        _, memories["target"][i] = judged(
            target, i + 1, row["obs"], row["action"], memories["target"][i]
        )
        onward.append(judged(target, i + 1, row["next_obs"], then.action, memories["target"][i])[0])
    losses = {f"q{i + 1}": 0.0 for i in range(critics)} | {"policy": 0.0}
    for name in row["live"]:
        least = torch.stack([onward[i][name] for i in subset]).amin(0)
        v = sum(worths(spec, least, then)) / K - price
        y = row["reward"][name] + (0.0 if row["ended"][name] else row["discount"][name] * v)
        for i, q in enumerate(taken):
            parts = q[name].split(spec.branches) if spec.branches else [q[name]]
            mean = sum(part[c] for part, c in zip(parts, row["choices"] or [0])) / K
            losses[f"q{i + 1}"] += 0.5 * (y.detach() - mean) ** 2 / len(row["live"])
        sought = torch.stack([q[name] for q in promised])
        sought = sought.amin(0) if seeks == "least" else sought.mean(0)
        losses["policy"] -= sum(worths(spec, sought, now)) / len(row["live"])
    losses["policy"] += sum(coefs["continuous"] * now.log_prob)
    losses["policy"] += sum(a * heat for a, heat in zip(coefs["discrete"], now.heats))
    losses["coefs"] = -sum(logs["continuous"] * (now.log_prob.detach() + aim["continuous"]))
    heated = zip(logs["discrete"], now.heats, aim["discrete"])
    losses["coefs"] -= sum(log * (heat.detach() + goal) / K for log, heat, goal in heated)
    return losses


def losses(spec, w, target, logs, aim, sequences, draws, subset, seeks):
    """Means over the rows that count.

    Args:
      spec: of the actions.
      w, target, logs, aim: weights by name, those of the target, ln α and its aims.
      sequences: lists of rows; each row a dict, the first with what the policy remembers.
      draws: one pair (ε of ã, ε of ã′) per row of all sequences, in their order.
      subset: which Qs the targets ask.
      seeks: what the policy's loss has of the Qs, their `least` or their `mean`.
    """
    critics = len({name.partition(".")[0] for name in target})
    draws, sums, counted = iter(draws), {}, 0
    for rows in sequences:
        remembered = rows[0]["memory"]
        empty = torch.zeros_like(remembered)
        memories = {"actor": remembered} | {name: [empty] * critics for name in ("taken", "target")}
        for row in rows:
            if row["reset"]:
                memories = {"actor": empty} | {
                    name: [empty] * critics for name in ("taken", "target")
                }
            found = row_losses(
                spec, w, target, logs, aim, row, memories, next(draws), subset, seeks
            )
            if row["counts"]:
                counted += 1
                sums = {name: sums.get(name, 0.0) + x for name, x in found.items()}
    return {name: x / counted for name, x in sums.items()}
