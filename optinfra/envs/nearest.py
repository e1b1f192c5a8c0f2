"""Nearest: of a changing number of targets the nearest is to be reached first."""

from typing import NamedTuple

import torch
from torch import Tensor

from optinfra import random, tree
from optinfra.check import require_integer, require_number, require_shape
from optinfra.envs.environment import Env, EnvStep
from optinfra.types import Action, ActionSpec, Key, Obs, Spec

TARGETS = 6  # most that are there at once
ROUNDS = 5  # targets reached in an episode
TIME_LIMIT = 40  # steps; a round takes at most 8
SPEED = 0.25  # furthest way in one step along either axis; the plane is 2 wide
REACH = 0.15  # from so near a target is reached
ARRIVAL_PROB = 0.5  # of a new target in an empty place, when one was reached
BEST_RETURN = 1.0  # of whoever goes straight to the nearest, in every episode
CHANCE_RETURN = 0.057  # of moves drawn uniformly; ± 0.001, of 65,536 episodes


class NearestState(NamedTuple):
    """An agent in a plane and the targets around it, in an order that is drawn at every step."""

    place: Tensor  # [2] in [−1, 1], where the agent is
    origin: Tensor  # [2] in [−1, 1], where it was when this round began
    targets: Tensor  # [N, 2] in [−1, 1]
    present: Tensor  # [N] bool, False where no target is
    reached: Tensor  # [] int64, targets reached in this episode so far
    steps: Tensor  # [] int64, steps of this episode so far


def nearest(
    *,
    targets: int = TARGETS,
    rounds: int = ROUNDS,
    time_limit: int = TIME_LIMIT,
    flat: bool = False,
) -> Env:
    """Go to the nearest of some targets, again and again: another one costs what it would earn.

        place ← clip(place + 0.25·a, −1, 1)
        touched = present and ‖target − place‖ ≤ 0.15
        due = present and ‖target − origin‖ is the least
        r = +1 / rounds where one is touched that is due, −1 / rounds where only others are
        where one is touched:  origin ← place, the touched ones vanish, and in each empty
            slot a new one appears with probability 1/2, one at least where none is left
        terminated = `rounds` times something was touched,  truncated = steps ≥ limit

    Two observations: a vector `[4]` = (place, origin − place) and a set `[targets, 3]` of
    (target − place, 1), zeros where none is; one action `[2]`. An episode begins with 1 to
    `targets` targets, each number as likely. The slots are shuffled at every step: order tells
    nothing. On the straight way to the nearest it stays the nearest, and is touched first: with
    8 steps to a round whoever takes that way has the best return in every episode.

    Args:
      targets: N ≥ 1, the most that are there at once.
      rounds: ≥ 1, targets to be reached.
      time_limit: ≥ 1, steps after which an episode is truncated.
      flat: whether the set is shown as a vector `[targets · 3]`, to be read without attention.

    Returns:
      An `Env` over `NearestState`.

    Raises:
      ValueError: a number is too small; an action has not two continuous dimensions.
      TypeError: `targets` or `rounds` is no integer.

    Source: after the entities of Baker et al. 2019, https://arxiv.org/abs/1909.07528, and
      ML-Agents' Sorter, https://github.com/Unity-Technologies/ml-agents.
    """
    require_integer("targets", targets, low=1)
    require_integer("rounds", rounds, low=1)
    require_number("time_limit", time_limit, low=1)

    def observe(state: NearestState) -> Obs:
        itself, others = seen(state)
        return itself, (others.flatten() if flat else others)

    def reset(key: Key) -> tuple[NearestState, Obs]:
        place_key, number_key, targets_key, order_key = random.split(key, 4).unbind()
        place = scattered(place_key, 1)[0]
        number = random.randint(number_key, (), 1, targets + 1)
        zero = torch.zeros_like(number)
        state = NearestState(
            place=place,
            origin=place,
            targets=scattered(targets_key, targets),
            present=torch.arange(targets, device=key.device) < number,
            reached=zero,
            steps=zero,
        )
        state = shuffled(order_key, state)
        return state, observe(state)

    def step(state: NearestState, action: Action, key: Key) -> EnvStep:
        require_shape("action.continuous", action.continuous, (2,), "A")
        arrival_key, order_key = random.split(key).unbind()
        place = (state.place + SPEED * action.continuous.clamp(-1.0, 1.0)).clamp(-1.0, 1.0)
        touched = state.present & (distances(state.targets, place) <= REACH)
        right, ends = (touched & due(state)).any(), touched.any()
        state = state._replace(place=place, steps=state.steps + 1)
        state = tree.where(ends, next_round(arrival_key, state, touched), state)
        state = shuffled(order_key, state)
        reward = (2 * right.to(place.dtype) - 1) * ends / rounds
        terminated, truncated = state.reached >= rounds, state.steps >= time_limit
        return EnvStep(state, observe(state), reward, terminated, truncated)

    others = (3 * targets,) if flat else (targets, 3)
    return Env(Spec(obs=((4,), others), action=ActionSpec(continuous=2)), reset, step)


def seen(state: NearestState) -> tuple[Tensor, Tensor]:
    """Show an agent itself `[4]` and the targets `[N, 3]`."""
    itself = torch.cat([state.place, state.origin - state.place])
    ways = state.targets - state.place
    there = torch.cat([ways, torch.ones_like(ways[:, :1])], dim=1)
    return itself, torch.where(state.present[:, None], there, 0.0)


def distances(targets: Tensor, place: Tensor) -> Tensor:
    """Tell how far targets `[N, 2]` are from a place `[2]`: `[N]`."""
    return (targets - place).square().sum(-1).sqrt()


def due(state: NearestState) -> Tensor:
    """Tell which target is to be reached in this round: `[N]` bool, one but for ties."""
    far = torch.where(state.present, distances(state.targets, state.origin), torch.inf)
    return state.present & (far == far.min())


def next_round(key: Key, state: NearestState, touched: Tensor) -> NearestState:
    """Begin a round: what was touched `[N]` is gone, and new targets may have come."""
    number = touched.shape[0]
    places_key, arrival_key = random.split(key).unbind()
    left = state.present & ~touched
    comes = ~left & random.bernoulli(arrival_key, ARRIVAL_PROB, (number,))
    first = torch.arange(number, device=key.device) == 0
    comes = comes | (first & ~(left | comes).any())
    return state._replace(
        origin=state.place,
        targets=torch.where(comes[:, None], scattered(places_key, number), state.targets),
        present=left | comes,
        reached=state.reached + 1,
    )


def shuffled(key: Key, state: NearestState) -> NearestState:
    """Put the targets in another order."""
    order = random.permutation(key, state.present.shape[0])
    return state._replace(targets=state.targets[order], present=state.present[order])


def scattered(key: Key, number: int) -> Tensor:
    """Draw places anywhere in the plane: `[number, 2]`."""
    return random.uniform(key, (number, 2), minval=-1.0, maxval=1.0)
