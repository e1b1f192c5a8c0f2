"""Catch: a ball falls, and a paddle is to be below it; all that is seen is an image."""

from typing import NamedTuple

import torch
from torch import Tensor

from optinfra import random
from optinfra.check import require_integer, require_shape
from optinfra.envs.environment import Env, EnvStep
from optinfra.types import Action, ActionSpec, Key, Obs, Spec

ROWS, COLUMNS = 10, 10  # pixels of the image
BRIGHT = 255  # the byte of the ball and of the paddle; all others are 0
BEST_RETURN = 1.0  # of whoever catches every ball
CHANCE_RETURN = 2.0 / COLUMNS - 1.0  # of whoever does not look; 2 / columns − 1 with others


class CatchState(NamedTuple):
    """Where a ball falls and where the paddle stands in the lowest row."""

    ball: Tensor  # [] int64 in [0, columns)
    paddle: Tensor  # [] int64 in [0, columns)
    steps: Tensor  # [] int64, steps of this episode so far: the row of the ball, 0 is at the top


def catch(*, rows: int = ROWS, columns: int = COLUMNS) -> Env:
    """Catch a ball that falls a row with each step; bsuite's `catch`.

        paddle ← clip(paddle + a − 1, 0, columns − 1),   row ← row + 1
        terminated = row is the lowest,   r = +1 where terminated and paddle = ball, −1 where
        terminated and not, else 0

    One observation, an image `[1, rows, columns]` of bytes, 255 at the ball and at the paddle;
    one discrete branch: left, stay, right. The ball begins anywhere in the first row, the
    paddle at `columns` // 2. An episode has `rows` − 1 steps. Columns are equally likely:
    whoever does not look at the ball earns 2 / `columns` − 1.

    Args:
      rows: ≥ 2, pixels from top to bottom; below `columns` // 2 + 1 some balls are out of reach.
      columns: ≥ 2, pixels from left to right.

    Returns:
      An `Env` over `CatchState`.

    Raises:
      ValueError: `rows` or `columns` is too small; an action has not one discrete branch.
      TypeError: `rows` or `columns` is no integer.

    Differs: bsuite's has 5 columns, and shows floats of 1.
    Source: Osband et al. 2020, catch, https://arxiv.org/abs/1908.03568.
    """
    require_integer("rows", rows, low=2)
    require_integer("columns", columns, low=2)

    def observe(state: CatchState) -> Obs:
        device = state.ball.device
        row = torch.arange(rows, device=device)[:, None]
        column = torch.arange(columns, device=device)
        ball = (row == state.steps) & (column == state.ball)
        paddle = (row == rows - 1) & (column == state.paddle)
        return (((ball | paddle) * BRIGHT).to(torch.uint8)[None],)

    def reset(key: Key) -> tuple[CatchState, Obs]:
        ball = random.randint(key, (), 0, columns)
        state = CatchState(ball, torch.full_like(ball, columns // 2), torch.zeros_like(ball))
        return state, observe(state)

    def step(state: CatchState, action: Action, key: Key) -> EnvStep:
        del key  # nothing is random but the start
        require_shape("action.discrete", action.discrete, (1,), "K")
        paddle = (state.paddle + action.discrete[0] - 1).clamp(0, columns - 1)
        state = CatchState(state.ball, paddle, state.steps + 1)
        terminated = state.steps >= rows - 1
        caught = (paddle == state.ball).to(torch.float32)
        reward = (2 * caught - 1) * terminated
        return EnvStep(state, observe(state), reward, terminated, torch.zeros_like(terminated))

    spec = Spec(((1, rows, columns),), ActionSpec(branches=(3,)), bytes=(0,))
    return Env(spec, reset, step)
