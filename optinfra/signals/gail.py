"""Imitation by an adversary: reward is what a discriminator takes for the expert's."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import grad

from optinfra import random
from optinfra.losses import masked_mean
from optinfra.moments import Running, normalize_vectors
from optinfra.networks import (
    ENCODING,
    Encoding,
    Linear,
    as_floats,
    body,
    constant,
    draw,
    kaiming_normal,
    whole,
    xavier_uniform,
)
from optinfra.signals.learning import (
    adam_without_accidents,
    descended,
    finite_or,
    fresh_moments,
    observed,
    require_numbers,
    settled,
    sweepable,
)
from optinfra.signals.rows import (
    blanked,
    flat_action,
    require_action,
    require_flag,
    require_obs,
)
from optinfra.types import (
    Key,
    Params,
    PyTree,
    Signal,
    Spec,
    Stats,
    Transform,
    Transitions,
)

EPS = 1e-7  # ML-Agents' guard of logarithms and roots
PENALTY_WEIGHT = 10.0
SMALL_ESTIMATES = xavier_uniform(0.2)  # ML-Agents' gain, so that early estimates are near ½
CODE_SIZE = 128  # width of VAIL's bottleneck
SMALL_CODES = kaiming_normal(0.1)  # ML-Agents' gain
BETA_STEP = 5e-4  # by which β follows the excess of information
INFORMATION = 0.5  # nats that the code may hold
ENDS = 1  # what is told of an episode's end is one number beside the action

Inputs = tuple[Tensor, ...]  # [N, D_i] each: observations, then flat actions and ends if used


class GAIL(NamedTuple):
    """Everything that the discriminator learns, and the numbers that may be swept."""

    strength: Tensor  # [] float32, factor on the reward
    gamma: Tensor  # [] float32 in [0, 1], discount of the stream
    learning_rate: Tensor  # [] float32, η
    weights: Params
    opt: PyTree  # state of the transform
    moments: Running  # one per vector observed; () without a normaliser
    beta: PyTree  # [] float32 ≥ 0, price of information; () without VAIL
    key: Key


def gail(
    spec: Spec,
    expert: Transitions,
    *,
    strength: float = 1.0,
    gamma: float = 0.99,
    learning_rate: float = 3e-4,
    use_actions: bool = False,
    use_vail: bool = False,
    hidden_units: int = 128,
    num_layers: int = 2,
    normalize: bool = False,
    transform: Transform | None = None,
    encoding: Encoding = ENCODING,
) -> Signal:
    """Reward what a discriminator D takes for the expert's.

        reward = −ln(1 − D(x)·(1 − 1e-7))
        L_D = −mean (ln(D(x_e) + 1e-7) + ln(1 − D(x) + 1e-7))
        L_penalty = 10 · mean (√(‖∇D(x̂)‖² + 1e-7) − 1)²,   x̂ = u·x + (1 − u)·x_e
        L = L_D + L_penalty

    Each row meets an expert's row, drawn with replacement, and each element of x̂ has a u
    of its own, uniform in [0, 1). ∇ is that by all observations, one norm a row. A pair
    counts if the policy's row does: appending masked rows changes nothing.

    With VAIL, D reads a noisy code z = μ(x) + σ·ε (evaluated at μ(x)), which may hold only
    so much information:

        KL = −mean Σ_z (1 + ln σ² − ½μ(x_e)² − ½μ(x)² − σ²)
        β ← max(0, β + 5e-4·(KL − ½)),   then   L = L_D + β·(KL − ½) + L_penalty

    Args:
      spec: sizes of observations and actions.
      expert: `[*N]`, what the expert did; its actions in the scale of the batches', both as
        executed. Masked rows are left out. Best on the device where the state will live:
        from another one it is copied in every update.
      strength: factor that the iteration puts on the reward.
      gamma: γ in [0, 1], discount per step.
      learning_rate: η ≥ 0.
      use_actions: whether D sees actions, and which steps ended an episode, too.
      use_vail: whether D reads a code of bounded information.
      hidden_units: h ≥ 1, width of the layers of D.
      num_layers: of D.
      normalize: whether observations pass a running normaliser first, which learns from the
        expert's rows of each update before the loss.
      transform: gradient to direction, uphill and without the learning rate; Adam with
        non-finite steps skipped unless given.
      encoding: how images and goals are read, and the user's own modules.

    Returns:
      A `Signal` over `GAIL` and `Transitions` `[*N]`. Stats, `[]`: `gail_loss` (L_D),
      `gail_policy_estimate` and `gail_expert_estimate` (means of D), `gail_grad_penalty`;
      with VAIL also `gail_beta` and `gail_kl_loss`.

    Raises:
      ValueError: a number is out of range, the expert has no valid row, or one that is not
        finite; or a shape disagrees, also from the functions.
      TypeError: a size is no integer, a flag is not bool or a choice not int64.

    Differs: from ML-Agents, which penalises the gradient by the first observation only and
    counts padding.
    Source: Ho & Ermon 2016, https://arxiv.org/abs/1606.03476; Gulrajani et al. 2017 (the
    penalty), https://arxiv.org/abs/1704.00028; Peng et al. 2018 (VAIL),
    https://arxiv.org/abs/1810.00821; ML-Agents' constants,
    https://github.com/Unity-Technologies/ml-agents/blob/release_22/ml-agents/mlagents/trainers/torch_entities/components/reward_providers/gail_reward_provider.py.
    """
    require_numbers(strength, gamma, learning_rate, hidden_units, num_layers)
    acted = spec.action.continuous + spec.action.choices + ENDS if use_actions else 0
    encoder = body(spec, hidden_units, num_layers, encoding=encoding, beside=acted)
    network = _Discriminator(encoder, len(spec.obs), hidden_units, use_vail)
    rule = _Rule(
        spec=spec,
        draw=draw(network),
        discriminate=whole(network),
        transform=transform or adam_without_accidents(),
        numbers=(strength, gamma, learning_rate),
        use_actions=use_actions,
        use_vail=use_vail,
        normalize=normalize,
    )
    examples = _examples(rule, expert)
    return Signal(
        init=lambda key: _init(rule, key),
        evaluate=lambda state, batch: _evaluate(rule, state, batch),
        update=lambda state, batch: _update(rule, examples, state, batch),
    )


class _Discriminator(nn.Module):
    """Tell how likely an input is the expert's, at will by way of a code."""

    def __init__(self, body: nn.Module, seen: int, hidden_units: int, use_vail: bool) -> None:
        super().__init__()
        self.body, self.seen = body, seen
        if use_vail:
            self.code = Linear(hidden_units, CODE_SIZE, SMALL_CODES)
            self.sigma = nn.Parameter(torch.empty(CODE_SIZE, device="meta"))
        self.output = Linear(CODE_SIZE if use_vail else hidden_units, 1, SMALL_ESTIMATES)
        self.use_vail = use_vail
        self.initializers = {"sigma": constant(1.0)}

    def forward(self, x: Inputs, noise: Tensor | None) -> tuple[Tensor, Tensor]:
        """Map inputs to D `[*N]` and what it was read from, μ `[*N, 128]` with VAIL."""
        if acted := x[self.seen :]:
            x = *x[: self.seen], torch.cat(acted, -1)
        hidden = self.body(x)
        if self.use_vail:
            hidden = self.code(hidden)
        mean = hidden
        if noise is not None:
            hidden = mean + noise * self.sigma
        return torch.sigmoid(self.output(hidden).squeeze(-1)), mean


class _Rule(NamedTuple):
    """What is static about one discriminator."""

    spec: Spec
    draw: Callable[[Key], Params]
    discriminate: Callable[..., tuple[Tensor, Tensor]]
    transform: Transform
    numbers: tuple[float, float, float]
    use_actions: bool
    use_vail: bool
    normalize: bool


class _Pairs(NamedTuple):
    """The policy's rows and the expert's, and all that was drawn for them."""

    policy: Inputs
    expert: Inputs
    mixed: Inputs  # x̂
    noise: PyTree  # [2·N, 128] of policy and expert; () without VAIL
    mixed_noise: PyTree  # [N, 128]; () without VAIL
    mask: Tensor  # [N] bool, True where the policy's row counts


def _init(rule: _Rule, key: Key) -> GAIL:
    key, key_weights = random.split(key).unbind()
    weights = rule.draw(key_weights)
    strength, gamma, learning_rate = sweepable(rule.numbers, key.device)
    return GAIL(
        strength=strength,
        gamma=gamma,
        learning_rate=learning_rate,
        weights=weights,
        opt=rule.transform.init(weights),
        moments=fresh_moments(rule.spec, rule.normalize, key.device),
        beta=torch.zeros((), device=key.device) if rule.use_vail else (),
        key=key,
    )


def _evaluate(rule: _Rule, state: GAIL, batch: Transitions) -> Tensor:
    x = _normalized(rule, state.moments, _inputs(rule, batch))
    estimate, _ = rule.discriminate(state.weights, x, None)
    reward = -torch.log(1 - estimate * (1 - EPS))
    return torch.where(batch.mask, reward, 0.0)


def _update(rule: _Rule, examples: Inputs, state: GAIL, batch: Transitions) -> tuple[GAIL, Stats]:
    key, pairs = _draw_pairs(rule, examples, state.key, batch)
    obs = pairs.expert[: len(rule.spec.obs)]
    running = observed(state.moments, obs, pairs.mask)
    loss = partial(_loss, rule, running, state.beta, pairs)
    opt, weights, (stats, beta) = descended(
        rule.transform, state.opt, state.weights, state.learning_rate, loss
    )
    learnt = state._replace(weights=weights, opt=opt, moments=running)
    if rule.use_vail:
        learnt = learnt._replace(beta=finite_or(beta, state.beta))
    return settled(pairs.mask, learnt, state)._replace(key=key), stats


def _examples(rule: _Rule, expert: Transitions) -> Inputs:
    """Check the expert's rows and keep the valid ones, `[N_e, D_i]` each."""
    examples = tuple(x[expert.mask] for x in _inputs(rule, expert))
    if not len(examples[0]):
        raise ValueError("`expert` must have at least one valid row, got none.")
    if not all(x.isfinite().all() for x in examples):
        raise ValueError("`expert` must be finite in its valid rows, got NaN or infinity.")
    return examples


def _inputs(rule: _Rule, batch: Transitions) -> Inputs:
    """Check a batch and give what D reads of it, `[*N, D_i]` each, blank where masked."""
    require_obs("obs", rule.spec, batch.obs, batch.mask)
    if not rule.use_actions:
        return blanked(batch.mask, batch.obs)
    require_action(rule.spec, batch.action, batch.mask)
    require_flag("terminated", batch.terminated, batch.mask)
    require_flag("truncated", batch.truncated, batch.mask)
    obs, action, done = blanked(
        batch.mask, (batch.obs, batch.action, batch.terminated | batch.truncated)
    )
    flat = flat_action(rule.spec.action, action)
    return *obs, flat, done[..., None].to(flat.dtype)


def _normalized(rule: _Rule, running: Running, x: Inputs) -> Inputs:
    """Normalise the observations among the inputs; actions and ends stay."""
    n = len(rule.spec.obs)
    return *normalize_vectors(running, x[:n]), *x[n:]


def _draw_pairs(rule: _Rule, examples: Inputs, key: Key, batch: Transitions) -> tuple[Key, _Pairs]:
    """Draw an expert's row for each of the policy's, what mixes them, and VAIL's noise."""
    mask = batch.mask.flatten()
    rows = mask.shape[0]
    policy = tuple(as_floats(x.flatten(0, batch.mask.ndim - 1)) for x in _inputs(rule, batch))
    noises = 3 if rule.use_vail else 0
    key, key_rows, *keys = random.split(key, 2 + len(policy) + noises).unbind()

    chosen = random.randint(key_rows, (rows,), 0, len(examples[0]))
    known = (each.to(mask.device)[chosen] for each in examples)
    expert = tuple(as_floats(row).to(x) for row, x in zip(known, policy))
    noise: PyTree = ()
    if rule.use_vail:
        noise = torch.cat([random.normal(keys.pop(0), (rows, CODE_SIZE)) for _ in range(2)])
    mixed = tuple(
        _mixed(random.uniform(own, x.shape), x, e) for own, x, e in zip(keys, policy, expert)
    )
    mixed_noise = random.normal(keys[-1], (rows, CODE_SIZE)) if rule.use_vail else ()
    return key, _Pairs(policy, expert, mixed, noise, mixed_noise, mask)


def _mixed(u: Tensor, x: Tensor, expert: Tensor) -> Tensor:
    return u * x + (1 - u) * expert


def _loss(
    rule: _Rule, running: Running, beta: PyTree, pairs: _Pairs, weights: Params
) -> tuple[Tensor, tuple[Stats, PyTree]]:
    """Compute L, and beside it the stats and the new β."""
    both = tuple(torch.cat(xs) for xs in zip(pairs.policy, pairs.expert))
    noise = pairs.noise if rule.use_vail else None
    estimates, means = rule.discriminate(weights, _normalized(rule, running, both), noise)
    policy, expert = estimates.chunk(2)
    surprise = -(torch.log(expert + EPS) + torch.log(1 - policy + EPS))
    discriminator_loss = masked_mean(surprise, pairs.mask)
    penalty = PENALTY_WEIGHT * _penalty(rule, running, pairs, weights)
    stats = {
        "gail_loss": discriminator_loss,
        "gail_policy_estimate": masked_mean(policy, pairs.mask),
        "gail_expert_estimate": masked_mean(expert, pairs.mask),
        "gail_grad_penalty": penalty,
    }
    total = discriminator_loss + penalty
    if not rule.use_vail:
        return total, (stats, ())
    divergence = masked_mean(_divergence(weights["sigma"], *means.chunk(2)), pairs.mask)
    excess = divergence - INFORMATION
    # ML-Agents' gradient already has the new β, and so has ours.
    beta = (beta + BETA_STEP * excess.detach()).clamp(min=0)
    stats |= {"gail_beta": beta, "gail_kl_loss": divergence}
    return total + beta * excess, (stats, beta)


def _divergence(sigma: Tensor, policy: Tensor, expert: Tensor) -> Tensor:
    """Measure `[N]`, in nats, what codes of means `[N, 128]` tell beyond a standard normal."""
    variance = sigma.square()
    told = 1 + variance.log() - variance - 0.5 * (policy.square() + expert.square())
    return -told.sum(-1)


def _penalty(rule: _Rule, running: Running, pairs: _Pairs, weights: Params) -> Tensor:
    """Compute mean (‖∇D(x̂)‖ − 1)²: how far D is from rising by one per unit of distance."""
    n = len(rule.spec.obs)
    noise = pairs.mixed_noise if rule.use_vail else None

    def total_estimate(obs: Inputs) -> Tensor:
        x = _normalized(rule, running, (*obs, *pairs.mixed[n:]))
        return rule.discriminate(weights, x, noise)[0].sum()

    slopes = grad(total_estimate)(pairs.mixed[:n])
    squares = torch.stack([slope.flatten(1).square().sum(-1) for slope in slopes]).sum(0)
    return masked_mean(((squares + EPS).sqrt() - 1).square(), pairs.mask)
