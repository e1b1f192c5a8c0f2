"""Curiosity: what an agent cannot foresee of the consequences of its actions is worth seeing."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from optinfra.losses import masked_mean
from optinfra.moments import Running, normalize_vectors
from optinfra.networks import (
    ENCODING,
    Encoding,
    Linear,
    body,
    draw,
    kaiming_normal,
    part,
    swish,
    xavier_uniform,
)
from optinfra.signals.learning import (
    adam_without_accidents,
    descended,
    fresh_moments,
    observed,
    require_numbers,
    settled,
    sweepable,
)
from optinfra.signals.rows import blanked, flat_action, require_action, require_obs
from optinfra.types import (
    ActionSpec,
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

PREDICTOR_UNITS = 256  # width of the hidden layer of both predictors
LOSS_FACTOR = 10.0
FORWARD_SHARE = 0.2  # of the loss; the rest is the inverse model's
PROB_EPS = 1e-10  # inside the logarithm of a predicted choice


class Curiosity(NamedTuple):
    """Everything that curiosity learns, and the numbers that may be swept."""

    strength: Tensor  # [] float32, factor on the reward
    gamma: Tensor  # [] float32 in [0, 1], discount of the stream
    learning_rate: Tensor  # [] float32, η
    weights: Params
    opt: PyTree  # state of the transform
    moments: Running  # one per vector observed; () without a normaliser
    updated: Tensor  # [] bool, True once there was something to learn from


def curiosity(
    spec: Spec,
    *,
    strength: float = 1.0,
    gamma: float = 0.99,
    learning_rate: float = 3e-4,
    hidden_units: int = 128,
    num_layers: int = 2,
    normalize: bool = False,
    transform: Transform | None = None,
    encoding: Encoding = ENCODING,
) -> Signal:
    """Reward transitions that a model of their own kind does not foresee.

        reward = min(½ Σ (φ(s′) − f(φ(s), a))², 1/|strength|)
        L_forward = mean ½ Σ (φ(s′) − f(φ(s), a))²
        L_inverse = mean Σ (a − g(φ(s), φ(s′)))²  −  mean Σ_k ln(p_k(a_k) + 1e-10)
        L = 10 · (0.2 · L_forward + 0.8 · L_inverse)

    φ encodes observations, f foresees the next encoding, and g tells from both encodings
    which action lay between: so φ keeps what the agent has an influence on. The reward is 0
    until the first update. Means are over valid rows; without one an update changes nothing.

    Args:
      spec: sizes of observations and actions.
      strength: factor that the iteration puts on the reward; the product is at most 1. Where
        it is 0 nothing is clipped.
      gamma: γ in [0, 1], discount per step.
      learning_rate: η ≥ 0.
      hidden_units: h ≥ 1, width of φ's layers.
      num_layers: of φ.
      normalize: whether observations pass a running normaliser first, which learns from the
        valid rows of each update before the loss.
      transform: gradient to direction, uphill and without the learning rate; Adam with
        non-finite steps skipped unless given.
      encoding: how images and goals are read, and the user's own modules.

    Returns:
      A `Signal` over `Curiosity` and `Transitions` `[*N]`. Stats: `curiosity_forward_loss`,
      `curiosity_inverse_loss`, `[]`. A stream of it ignores `done`: see `learners.ppo`.

    Raises:
      ValueError: a number is out of range; or, from the functions, a shape disagrees.
      TypeError: a size is no integer; or, from the functions, the mask is not bool or a
        choice not int64.

    Differs: from ML-Agents, whose normaliser of curiosity never learns, which divides by
    zero at strength 0, turns its weights to NaN without a valid row, and forgets in a
    checkpoint whether it was ever updated.
    Source: Pathak et al. 2017, https://arxiv.org/abs/1705.05363; ML-Agents' constants,
    https://github.com/Unity-Technologies/ml-agents/blob/release_22/ml-agents/mlagents/trainers/torch_entities/components/reward_providers/curiosity_reward_provider.py.
    """
    require_numbers(strength, gamma, learning_rate, hidden_units, num_layers)
    width = spec.action.continuous + spec.action.choices
    parts = nn.ModuleDict(
        {
            "encoder": body(spec, hidden_units, num_layers, encoding=encoding),
            "forward_model": _ForwardModel(hidden_units, width),
            "inverse_model": _InverseModel(hidden_units, spec.action),
        }
    )
    rule = _Rule(
        spec=spec,
        draw=draw(parts),
        encode=part(parts, "encoder"),
        foresee=part(parts, "forward_model"),
        infer=part(parts, "inverse_model"),
        transform=transform or adam_without_accidents(),
        numbers=(strength, gamma, learning_rate),
        normalize=normalize,
    )
    return Signal(
        init=lambda key: _init(rule, key),
        evaluate=lambda state, batch: _evaluate(rule, state, batch),
        update=lambda state, batch: _update(rule, state, batch),
    )


class _ForwardModel(nn.Module):
    """Foresee the next encoding from this one and the action."""

    def __init__(self, encoding: int, action: int) -> None:
        super().__init__()
        self.hidden = Linear(encoding + action, PREDICTOR_UNITS, kaiming_normal())
        self.output = Linear(PREDICTOR_UNITS, encoding, xavier_uniform())

    def forward(self, encoding: Tensor, action: Tensor) -> Tensor:
        """Map `[*N, h]` and `[*N, A + choices]` to `[*N, h]`."""
        return self.output(swish(self.hidden(torch.cat((encoding, action), -1))))


class _InverseModel(nn.Module):
    """Tell which action lies between two encodings."""

    def __init__(self, encoding: int, action: ActionSpec) -> None:
        super().__init__()
        self.hidden = Linear(2 * encoding, PREDICTOR_UNITS, kaiming_normal())
        if action.continuous:
            self.continuous = Linear(PREDICTOR_UNITS, action.continuous, xavier_uniform())
        if action.branches:
            self.logits = Linear(PREDICTOR_UNITS, action.choices, xavier_uniform())
        self.action = action

    def forward(self, encodings: Tensor) -> tuple[Tensor, Tensor]:
        """Map `[*N, 2, h]` to an action `[*N, A]` and logits `[*N, choices]`."""
        hidden = swish(self.hidden(encodings.flatten(-2)))
        nothing = hidden[..., :0]
        continuous = self.continuous(hidden) if self.action.continuous else nothing
        return continuous, self.logits(hidden) if self.action.branches else nothing


class _Rule(NamedTuple):
    """What is static about one curiosity."""

    spec: Spec
    draw: Callable[[Key], Params]
    encode: Callable[..., Tensor]
    foresee: Callable[..., Tensor]
    infer: Callable[..., tuple[Tensor, Tensor]]
    transform: Transform
    numbers: tuple[float, float, float]
    normalize: bool


class _Rows(NamedTuple):
    """What is read of a batch, blank where it does not count."""

    obs: Obs  # [*N, D_i] each
    next_obs: Obs  # [*N, D_i] each
    action: Tensor  # [*N, A + choices]


def _init(rule: _Rule, key: Key) -> Curiosity:
    weights = rule.draw(key)
    strength, gamma, learning_rate = sweepable(rule.numbers, key.device)
    return Curiosity(
        strength=strength,
        gamma=gamma,
        learning_rate=learning_rate,
        weights=weights,
        opt=rule.transform.init(weights),
        moments=fresh_moments(rule.spec, rule.normalize, key.device),
        updated=torch.zeros((), dtype=torch.bool, device=key.device),
    )


def _evaluate(rule: _Rule, state: Curiosity, batch: Transitions) -> Tensor:
    rows = _rows(rule, batch)
    encodings = _encodings(rule, state.weights, state.moments, rows)
    surprise = _surprise(rule, state.weights, encodings, rows.action)
    reward = torch.minimum(surprise, 1 / state.strength.abs())
    return torch.where(batch.mask & state.updated, reward, 0.0)


def _update(rule: _Rule, state: Curiosity, batch: Transitions) -> tuple[Curiosity, Stats]:
    rows = _rows(rule, batch)
    running = observed(state.moments, rows.obs, batch.mask)
    loss = partial(_loss, rule, running, rows, batch.mask)
    opt, weights, stats = descended(
        rule.transform, state.opt, state.weights, state.learning_rate, loss
    )
    learnt = state._replace(
        weights=weights, opt=opt, moments=running, updated=torch.ones_like(state.updated)
    )
    return settled(batch.mask, learnt, state), stats


def _rows(rule: _Rule, batch: Transitions) -> _Rows:
    require_obs("obs", rule.spec, batch.obs, batch.mask)
    require_obs("next_obs", rule.spec, batch.next_obs, batch.mask)
    require_action(rule.spec, batch.action, batch.mask)
    obs, next_obs, action = blanked(batch.mask, (batch.obs, batch.next_obs, batch.action))
    return _Rows(obs, next_obs, flat_action(rule.spec.action, action))


def _encodings(rule: _Rule, weights: Params, running: Running, rows: _Rows) -> Tensor:
    """Encode what was seen and what followed, `[*N, 2, h]`, in one pass of φ."""
    axis = rows.action.ndim - 1
    both = tuple(torch.stack(pair, axis) for pair in zip(rows.obs, rows.next_obs))
    return rule.encode(weights, normalize_vectors(running, both))


def _surprise(rule: _Rule, weights: Params, encodings: Tensor, action: Tensor) -> Tensor:
    """Compute the error of foresight `[*N]`: ½ Σ (φ(s′) − f(φ(s), a))²."""
    now, following = encodings.unbind(-2)
    return 0.5 * (following - rule.foresee(weights, now, action)).square().sum(-1)


def _loss(
    rule: _Rule, running: Running, rows: _Rows, mask: Tensor, weights: Params
) -> tuple[Tensor, Stats]:
    encodings = _encodings(rule, weights, running, rows)
    forward_loss = masked_mean(_surprise(rule, weights, encodings, rows.action), mask)
    continuous, logits = rule.infer(weights, encodings)
    inverse_loss = masked_mean(_inverse_errors(rule.spec.action, rows, continuous, logits), mask)
    total = LOSS_FACTOR * (FORWARD_SHARE * forward_loss + (1 - FORWARD_SHARE) * inverse_loss)
    return total, {"curiosity_forward_loss": forward_loss, "curiosity_inverse_loss": inverse_loss}


def _inverse_errors(spec: ActionSpec, rows: _Rows, continuous: Tensor, logits: Tensor) -> Tensor:
    """Add squared errors of the dimensions and surprises of the branches up, `[*N]`."""
    taken, choices = rows.action[..., : spec.continuous], rows.action[..., spec.continuous :]
    errors = (taken - continuous).square().sum(-1)
    if not spec.branches:
        return errors
    probs = torch.cat([torch.softmax(x, -1) for x in logits.split(spec.branches, -1)], -1)
    return errors - (torch.log(probs + PROB_EPS) * choices).sum(-1)
