"""Random network distillation: what has been seen often is easy to foretell."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from optinfra import moments, random
from optinfra.losses import masked_mean
from optinfra.moments import Running, normalize_vectors
from optinfra.networks import ENCODING, Encoding, body, draw, whole
from optinfra.signals.learning import (
    adam_without_accidents,
    descended,
    fresh_moments,
    observed,
    require_numbers,
    settled,
    sweepable,
    taken_in,
)
from optinfra.signals.rows import blanked, require_obs
from optinfra.types import (
    Key,
    Obs,
    Params,
    PyTree,
    Signal,
    Spec,
    Stats,
    Transform,
    Transitions,
)


class RND(NamedTuple):
    """Everything that random network distillation learns, and the numbers that may be swept."""

    strength: Tensor  # [] float32, factor on the reward
    gamma: Tensor  # [] float32 in [0, 1], discount of the stream
    learning_rate: Tensor  # [] float32, η
    weights: Params  # of the network that learns
    target: Params  # of the one that never does, by the same names
    opt: PyTree  # state of the transform
    moments: Running  # one per vector observed; () without a normaliser
    reward_moments: PyTree  # Moments of the rewards seen in updates; () if not normalised


def rnd(
    spec: Spec,
    *,
    strength: float = 1.0,
    gamma: float = 0.99,
    learning_rate: float = 1e-4,
    hidden_units: int = 128,
    num_layers: int = 2,
    normalize: bool = False,
    normalize_reward: bool = False,
    transform: Transform | None = None,
    encoding: Encoding = ENCODING,
) -> Signal:
    """Reward observations whose random features a second network has not yet learnt.

        reward = Σ (f(s) − f*(s))²        divided by σ with `normalize_reward`
        L = mean Σ (f(s) − f*(s))²

    f* is drawn once and stays, f is trained towards it; σ² is the running variance of the
    rewards seen in updates, 1 before the first. Both networks see through one normaliser,
    which moves in updates only, before the loss. Means are over valid rows; without one an
    update changes nothing.

    Args:
      spec: sizes of observations.
      strength: factor that the iteration puts on the reward.
      gamma: γ in [0, 1], discount per step.
      learning_rate: η ≥ 0.
      hidden_units: h ≥ 1, width of the layers of both networks.
      num_layers: of both.
      normalize: whether observations pass a running normaliser first.
      normalize_reward: whether rewards are measured in running standard deviations.
      transform: gradient to direction, uphill and without the learning rate; Adam with
        non-finite steps skipped unless given.
      encoding: how images and goals are read, and the user's own modules.

    Returns:
      A `Signal` over `RND` and `Transitions` `[*N]`. Stats: `rnd_loss` `[]`. A stream of it
      ignores `done`: see `learners.ppo`.

    Raises:
      ValueError: a number is out of range; or, from the functions, a shape disagrees.
      TypeError: a size is no integer; or, from the functions, the mask is not bool.

    Differs: from ML-Agents, which has a normaliser for each network that moves whenever a
    reward is evaluated, and counts padding. From the paper, which divides by the running
    deviation of returns.
    Source: Burda et al. 2018, https://arxiv.org/abs/1810.12894; ML-Agents,
    https://github.com/Unity-Technologies/ml-agents/blob/release_22/ml-agents/mlagents/trainers/torch_entities/components/reward_providers/rnd_reward_provider.py.
    """
    require_numbers(strength, gamma, learning_rate, hidden_units, num_layers)
    network = body(spec, hidden_units, num_layers, encoding=encoding)
    rule = _Rule(
        spec=spec,
        draw=draw(network),
        encode=whole(network),
        transform=transform or adam_without_accidents(),
        numbers=(strength, gamma, learning_rate),
        normalize=normalize,
        normalize_reward=normalize_reward,
    )
    return Signal(
        init=lambda key: _init(rule, key),
        evaluate=lambda state, batch: _evaluate(rule, state, batch),
        update=lambda state, batch: _update(rule, state, batch),
    )


class _Rule(NamedTuple):
    """What is static about one random network distillation."""

    spec: Spec
    draw: Callable[[Key], Params]
    encode: Callable[..., Tensor]
    transform: Transform
    numbers: tuple[float, float, float]
    normalize: bool
    normalize_reward: bool


def _init(rule: _Rule, key: Key) -> RND:
    key_weights, key_target = random.split(key).unbind()
    weights = rule.draw(key_weights)
    strength, gamma, learning_rate = sweepable(rule.numbers, key.device)
    return RND(
        strength=strength,
        gamma=gamma,
        learning_rate=learning_rate,
        weights=weights,
        target=rule.draw(key_target),
        opt=rule.transform.init(weights),
        moments=fresh_moments(rule.spec, rule.normalize, key.device),
        reward_moments=moments.init((), device=key.device) if rule.normalize_reward else (),
    )


def _evaluate(rule: _Rule, state: RND, batch: Transitions) -> Tensor:
    reward = _errors(rule, state, state.moments, _obs(rule, batch), state.weights)
    if rule.normalize_reward:
        seen = state.reward_moments
        reward = reward / (seen.squared_deviations / seen.steps).sqrt()
    return torch.where(batch.mask, reward, 0.0)


def _update(rule: _Rule, state: RND, batch: Transitions) -> tuple[RND, Stats]:
    obs = _obs(rule, batch)
    running = observed(state.moments, obs, batch.mask)

    def loss(weights: Params) -> tuple[Tensor, Tensor]:
        errors = _errors(rule, state, running, obs, weights)
        return masked_mean(errors, batch.mask), errors

    opt, weights, rewards = descended(
        rule.transform, state.opt, state.weights, state.learning_rate, loss
    )
    learnt = state._replace(weights=weights, opt=opt, moments=running)
    if rule.normalize_reward:
        learnt = learnt._replace(reward_moments=taken_in(state.reward_moments, rewards, batch.mask))
    return settled(batch.mask, learnt, state), {"rnd_loss": masked_mean(rewards, batch.mask)}


def _obs(rule: _Rule, batch: Transitions) -> Obs:
    require_obs("obs", rule.spec, batch.obs, batch.mask)
    return blanked(batch.mask, batch.obs)


def _errors(rule: _Rule, state: RND, running: Running, obs: Obs, weights: Params) -> Tensor:
    """Compute how far `weights` are from the target in each row, `[*N]`."""
    seen = normalize_vectors(running, obs)
    return (rule.encode(weights, seen) - rule.encode(state.target, seen)).square().sum(-1)
