"""PPO as one writes it without a library: modules, an optimizer, loops over rows. An oracle."""

import math

import torch
from torch import nn
from torch.nn.functional import silu

GUARD = 1e-7  # ML-Agents' in every logarithm and division of its distributions


class PlainActorCritic(nn.Module):
    """The architecture of `networks.actor_critic` with one layer in each body."""

    def __init__(self, spec, streams, hidden_units):
        super().__init__()
        self.action = spec.action
        inputs, sizes = sum(size for (size,) in spec.obs), spec.action
        self.actor_body = nn.Linear(inputs, hidden_units)
        self.critic_body = nn.Linear(inputs, hidden_units)
        if sizes.continuous:
            self.mean = nn.Linear(hidden_units, sizes.continuous)
            self.log_std = nn.Parameter(torch.zeros(sizes.continuous))
        if sizes.branches:
            self.logits = nn.Linear(hidden_units, sum(sizes.branches))
        self.heads = nn.ModuleDict({name: nn.Linear(hidden_units, 1) for name in streams})

    def load(self, weights):
        """Copy weights that have the library's names."""
        own = {name: weights[library_name(name)] for name in self.state_dict()}
        self.load_state_dict(own)

    def weights(self):
        """Parameters under the library's names."""
        return {library_name(name): p.detach().clone() for name, p in self.named_parameters()}

    def log_probs_and_entropy(self, obs, continuous, discrete, allowed):
        """Of one row: a list of log-probabilities, dimensions first, and one number."""
        hidden = silu(self.actor_body(obs))
        log_probs, entropy = [], 0.0
        if self.action.continuous:
            means, stds = self.mean(hidden), self.log_std.exp()
            for a, mean, std in zip(continuous, means, stds):
                density = -((a - mean) ** 2) / (2 * std**2 + GUARD)
                log_probs.append(density - torch.log(std + GUARD) - math.log(2 * math.pi) / 2)
                spread = torch.log(2 * math.pi * math.e * std**2 + GUARD) / 2
                entropy = entropy + spread / self.action.continuous
        start = 0
        for size, choice in zip(self.action.branches, discrete):
            logits = self.logits(hidden)[start : start + size]
            p = torch.softmax(logits - 1e8 * ~allowed[start : start + size], -1)
            log_probs.append(torch.log(p[choice] + GUARD))
            entropy = entropy - (p * torch.log(p + GUARD)).sum()
            start += size
        return log_probs, entropy

    def values(self, obs):
        """One number per stream."""
        hidden = silu(self.critic_body(obs))
        return {name: head(hidden)[0] for name, head in self.heads.items()}


def library_name(name):
    part, rest = name.split(".", 1) if "." in name else (name, "")
    return {
        "actor_body": f"actor.body.layers.0.{rest}",
        "critic_body": f"critic.body.layers.0.{rest}",
        "mean": f"actor.head.mean.{rest}",
        "logits": f"actor.head.logits.{rest}",
        "log_std": "actor.head.log_std",
        "heads": f"critic.head.heads.{rest}",
    }[part]


class PlainNormalizer:
    """Remembers every row it has seen, and one of zeros with a squared deviation of 1."""

    def __init__(self):
        self.rows = []

    def __call__(self, row):
        seen = torch.stack([torch.zeros_like(row), *self.rows])
        mean = seen.mean(0)
        variance = (((seen - mean) ** 2).sum(0) + 1.0) / len(seen)
        return ((row - mean) / variance.sqrt()).clip(-5.0, 5.0)


def plain_gae(rewards, values, next_values, terminated, truncated, mask, gamma, lam, horizon=None):
    """Advantages of one column of Python numbers, from its last step to its first."""
    steps, following = len(rewards), 0.0
    advantages = [0.0] * steps
    for t in reversed(range(steps)):
        ends = terminated[t] or truncated[t] or t == steps - 1 or not mask[t + 1]
        if horizon is not None and (t + 1) % horizon == 0:
            ends = True
        bootstrap = 0.0 if terminated[t] else next_values[t]
        delta = rewards[t] + gamma * bootstrap - values[t]
        advantages[t] = delta + (0.0 if ends else gamma * lam * following)
        following = advantages[t]
    return advantages


def plain_policy_loss(log_probs, old_log_probs, advantage, clip, joint):
    """Of one row; a mean over dimensions unless their ratio is a joint one."""
    differences = [new - old for new, old in zip(log_probs, old_log_probs)]
    if joint:
        differences = [sum(differences)]
    gains = []
    for difference in differences:
        ratio = torch.exp(difference)
        inside = min(max(ratio, torch.tensor(1 - clip)), torch.tensor(1 + clip))
        gains.append(min(ratio * advantage, inside * advantage))
    return -sum(gains) / len(gains)


def plain_value_loss(value, old_value, target, clip, clipped):
    """Of one row and stream."""
    error = (target - value) ** 2
    if not clipped:
        return error
    moved = old_value + min(max(value - old_value, torch.tensor(-clip)), torch.tensor(clip))
    return max(error, (target - moved) ** 2)
