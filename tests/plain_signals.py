"""The losses of the reward signals written down once more, with autograd and without masks.

Rows that do not count are not there at all; weights are a plain dict, as the state has it.
"""

import torch


def encoded(weights, prefix, x):
    """Fully connected layers with swish after each."""
    layer = 0
    while f"{prefix}layers.{layer}.weight" in weights:
        x = affine(weights, f"{prefix}layers.{layer}", x)
        x = x / (1 + torch.exp(-x))
        layer += 1
    return x


def affine(weights, name, x):
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def swish(x):
    return x * torch.sigmoid(x)


def normalizer(rows):
    """What a fresh normaliser makes of anything once it has seen `rows`: one more row of 0
    counts, and a variance of 1 with it."""
    n = len(rows) + 1
    mean = rows.sum(0) / n
    variance = (1 + (rows**2).sum(0) - n * mean**2) / n
    return lambda x: torch.clip((x - mean) / variance**0.5, -5, 5)


def one_hots(choices, sizes):
    return [torch.eye(size, dtype=torch.float64)[choices[:, k]] for k, size in enumerate(sizes)]


def foresight_errors(weights, now, following, flat):
    """Half the squared distance between the next encoding and what is foreseen, a row each."""
    f = "forward_model"
    hidden = swish(affine(weights, f"{f}.hidden", torch.cat([now, flat], 1)))
    return ((following - affine(weights, f"{f}.output", hidden)) ** 2).sum(1) / 2


def curiosity_losses(weights, obs, next_obs, action, sizes):
    """Forward and inverse loss of rows that all count."""
    now, following = (encoded(weights, "encoder.", x) for x in (obs, next_obs))
    hots = one_hots(action.discrete, sizes)
    flat = torch.cat([action.continuous, *hots], 1)
    forward_loss = foresight_errors(weights, now, following, flat).mean()
    hidden = swish(affine(weights, "inverse_model.hidden", torch.cat([now, following], 1)))
    guess = affine(weights, "inverse_model.continuous", hidden)
    inverse_loss = ((action.continuous - guess) ** 2).sum(1).mean()
    logits = affine(weights, "inverse_model.logits", hidden).split(list(sizes), 1)
    for logit, hot in zip(logits, hots):
        probs = torch.exp(logit) / torch.exp(logit).sum(1, keepdim=True)
        inverse_loss = inverse_loss - torch.log((probs * hot).sum(1) + 1e-10).mean()
    return forward_loss, inverse_loss


def rnd_errors(weights, target, obs):
    return ((encoded(weights, "", obs) - encoded(target, "", obs)) ** 2).sum(1)


def estimate(weights, x, noise=None):
    """The discriminator's estimate, and the mean of the code."""
    hidden = encoded(weights, "body.", x)
    if "sigma" in weights:
        hidden = affine(weights, "code", hidden)
    mean = hidden
    if noise is not None:
        hidden = mean + weights["sigma"] * noise
    return torch.sigmoid(affine(weights, "output", hidden)[:, 0]), mean


def gail_losses(weights, policy, expert, mixed, look, noises):
    """Loss of the discriminator, penalty and divergence.

    Each of the first three is (observations, rest), rest possibly of width 0; `look` is the
    normaliser; `noises` are those of policy, expert and mixture, or three Nones.
    """
    estimates, means = [], []
    for (obs, rest), noise in zip((policy, expert), noises):
        d, mean = estimate(weights, torch.cat([look(obs), rest], 1), noise)
        estimates.append(d)
        means.append(mean)
    d_policy, d_expert = estimates
    loss = -(torch.log(d_expert + 1e-7) + torch.log(1 - d_policy + 1e-7)).mean()
    obs = mixed[0].clone().requires_grad_()
    d, _ = estimate(weights, torch.cat([look(obs), mixed[1]], 1), noises[2])
    (slope,) = torch.autograd.grad(d.sum(), obs, create_graph=True)
    penalty = 10 * ((torch.sqrt((slope**2).sum(1) + 1e-7) - 1) ** 2).mean()
    divergence = None
    if "sigma" in weights:
        s = weights["sigma"]
        halves = (means[0] ** 2 + means[1] ** 2) / 2
        divergence = -(1 + torch.log(s**2) - halves - s**2).sum(1).mean()
    return loss, penalty, divergence, d_policy.mean(), d_expert.mean()
