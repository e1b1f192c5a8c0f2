"""Fetch: one of several things is asked for, and another one taken is worth nothing."""

from typing import NamedTuple

import torch
from torch import Tensor

from optinfra import random
from optinfra.check import require_integer, require_number, require_shape
from optinfra.envs.environment import Env, EnvStep
from optinfra.types import Action, ActionSpec, Key, Obs, Spec

THINGS = 4  # things of different kinds that lie in the room
SIZE = 5  # cells along each side of the room
TIME_LIMIT = 20  # steps; the longest of the shortest ways takes 8, and taking one more
MOVES = 5  # up, down, left, right, take
BEST_RETURN = 1.0  # of whoever takes what is asked for
CHANCE_RETURN = 0.09477  # of uniformly random moves
IGNORANT_RETURN = 1.0 / THINGS  # the most without the goal, whatever the policy; 1 / `things`


class FetchState(NamedTuple):
    """Where somebody stands in a room, what lies in it, and what is asked for."""

    place: Tensor  # [2] int64 in [0, size), row and column; row 0 is at the top
    things: Tensor  # [K, 2] int64, where each kind lies: no two in one cell
    asked: Tensor  # [] int64 in [0, K), the kind to be taken
    steps: Tensor  # [] int64, steps of this episode so far


def fetch(
    *,
    things: int = THINGS,
    size: int = SIZE,
    time_limit: int = TIME_LIMIT,
    shown: bool = True,
) -> Env:
    """Take of some things the one that is asked for.

        place ← clip(place + move_a, 0, size − 1)
        taken_k = a is to take, and thing k lies at place
        terminated = something is taken,  r = whether it is what is asked for
        truncated = steps ≥ limit

    Two observations: a vector `[2 · things]` = the ways to all things, (thing_k − place) /
    size, and the goal `[things]` = onehot(asked). One discrete branch: up, down, left, right,
    take. Only the start is random. What is asked for is drawn apart from everything else, each
    kind as likely, and nothing but the goal shows it before the end. Without the goal a policy
    thus takes the same thing whichever is asked for, and earns 1 / `things` at most.

    Args:
      things: K in [2, size²], things in the room, of a kind each.
      size: ≥ 2, cells along each side of the room.
      time_limit: ≥ 1, steps after which an episode is truncated; below 2 · size − 1 some
        starts allow nothing.
      shown: whether the goal is observed; else the ways to all things are all that is.

    Returns:
      An `Env` over `FetchState`.

    Raises:
      ValueError: a number is out of range; an action has not one discrete branch.
      TypeError: `things` or `size` is no integer.

    Differs: in MiniGrid's Fetch the agent sees what lies before it, and is told by a sentence.
    Source: Chevalier-Boisvert et al. 2023, Fetch, https://arxiv.org/abs/2306.13831.
    """
    require_integer("size", size, low=2)
    require_integer("things", things, low=2)
    require_number("things", things, high=size * size)
    require_number("time_limit", time_limit, low=1)

    def observe(state: FetchState) -> Obs:
        ways = (state.things - state.place).to(torch.float32) / size
        kinds = torch.arange(things, device=ways.device)
        goal = (kinds == state.asked).to(torch.float32)
        return (ways.flatten(), goal) if shown else (ways.flatten(),)

    def reset(key: Key) -> tuple[FetchState, Obs]:
        place_key, things_key, asked_key = random.split(key, 3).unbind()
        cells = random.permutation(things_key, size * size)[:things]
        asked = random.randint(asked_key, (), 0, things)
        state = FetchState(
            place=random.randint(place_key, (2,), 0, size),
            things=torch.stack([cells // size, cells % size], dim=-1),
            asked=asked,
            steps=torch.zeros_like(asked),
        )
        return state, observe(state)

    def step(state: FetchState, action: Action, key: Key) -> EnvStep:
        del key  # nothing is random but the start
        require_shape("action.discrete", action.discrete, (1,), "K")
        up, down, left, right, take = (action.discrete[0] == a for a in range(MOVES))
        move = torch.stack([down.long() - up.long(), right.long() - left.long()])
        place = (state.place + move).clamp(0, size - 1)
        taken = take & (state.things == place).all(-1)
        kinds = torch.arange(things, device=place.device)
        reward = (taken & (kinds == state.asked)).any().to(torch.float32)
        state = state._replace(place=place, steps=state.steps + 1)
        return EnvStep(state, observe(state), reward, taken.any(), state.steps >= time_limit)

    obs: tuple[tuple[int, ...], ...] = ((2 * things,), (things,))
    spec = Spec(obs, ActionSpec(branches=(MOVES,)), goals=(1,))
    return Env(spec if shown else spec._replace(obs=obs[:1], goals=()), reset, step)
