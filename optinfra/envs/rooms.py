"""Rooms: the only reward lies many rooms away from the start."""

from typing import NamedTuple

import torch
from torch import Tensor

from optinfra.check import require_integer, require_number, require_trailing
from optinfra.envs.environment import Env, EnvStep
from optinfra.types import Action, ActionSpec, Key, Obs, Spec

NUM_ROOMS = 6  # rooms in a row
ROOM_SIZE = 5  # cells along each side of a room
TIME_LIMIT = 100  # steps; the shortest way takes 58
BEST_RETURN = 1.0  # of whoever reaches the goal
CHANCE_RETURN = 2.165e-12  # of uniformly random moves: so rarely they see the goal


class RoomsState(NamedTuple):
    """Where somebody stands in the rooms."""

    row: Tensor  # [] int64 in [0, room_size), 0 is at the top
    column: Tensor  # [] int64 in [0, num_rooms · (room_size + 1) − 1), the walls' columns included
    steps: Tensor  # [] int64, steps of this episode so far


def rooms(
    *, num_rooms: int = NUM_ROOMS, room_size: int = ROOM_SIZE, time_limit: int = TIME_LIMIT
) -> Env:
    """Walk from the first of some rooms to the far corner of the last, where the reward lies.

        S . . . . # . . . . . o . . . . . # . . . . . o . . . . . # . . . . G
        . . . . . # . . . . . # . . . . . # . . . . . # . . . . . # . . . . .
        . . . . . # . . . . . # . . . . . # . . . . . # . . . . . # . . . . .
        . . . . . # . . . . . # . . . . . # . . . . . # . . . . . # . . . . .
        . . . . . o . . . . . # . . . . . o . . . . . # . . . . . o . . . . .

        cell ← cell + move_a where that is no wall and not outside, else it stays
        r = terminated = cell is the goal,  truncated = steps ≥ limit

    One observation `[room_size + num_rooms · (room_size + 1) − 1]` = (onehot(row),
    onehot(column)), one discrete branch: up, down, left, right. Doors o in the walls # are at
    the bottom and at the top by turns; the goal G is in the last column, where one more would
    be. Nothing is random. The shortest way has 2 · `num_rooms` · `room_size` − 2 steps: under
    a lower `time_limit` nobody earns anything. `step` also takes states and actions with
    leading axes.

    Args:
      num_rooms: ≥ 1, rooms in a row.
      room_size: ≥ 2, cells along each side of a room.
      time_limit: ≥ 1, steps after which an episode is truncated.

    Returns:
      An `Env` over `RoomsState`.

    Raises:
      ValueError: a number is too small; an action has not one discrete branch.
      TypeError: `num_rooms` or `room_size` is no integer.

    Differs: MiniGrid's MultiRoom draws its rooms anew and shows what lies before the agent.
    Source: Chevalier-Boisvert et al. 2023, MultiRoom, https://arxiv.org/abs/2306.13831; doors
      as in the four rooms of Sutton, Precup & Singh 1999,
      https://doi.org/10.1016/S0004-3702(99)00052-1.
    """
    require_integer("num_rooms", num_rooms, low=1)
    require_integer("room_size", room_size, low=2)
    require_number("time_limit", time_limit, low=1)
    stride = room_size + 1  # columns from one wall to the next
    rows, columns = room_size, num_rooms * stride - 1

    def door(column: Tensor) -> Tensor:
        """Row of the door in the wall at the right end of the room that has this column."""
        return torch.where(column // stride % 2 == 0, rows - 1, 0)

    def observe(state: RoomsState) -> Obs:
        row = torch.arange(rows, device=state.row.device) == state.row[..., None]
        column = torch.arange(columns, device=state.row.device) == state.column[..., None]
        return (torch.cat([row, column], dim=-1).to(torch.float32),)

    def reset(key: Key) -> tuple[RoomsState, Obs]:
        state = RoomsState(*torch.zeros(3, dtype=torch.int64, device=key.device).unbind())
        return state, observe(state)

    def step(state: RoomsState, action: Action, key: Key) -> EnvStep:
        del key  # nothing is random
        require_trailing("action.discrete", action.discrete, (1,))
        up, down, left, right = ((action.discrete[..., 0] == a).long() for a in range(4))
        row = (state.row + down - up).clamp(0, rows - 1)
        column = (state.column + right - left).clamp(0, columns - 1)
        wall = (column % stride == room_size) & (row != door(column))
        row = torch.where(wall, state.row, row)
        column = torch.where(wall, state.column, column)
        state = RoomsState(row, column, state.steps + 1)
        terminated = (column == columns - 1) & (row == door(column))
        truncated = state.steps >= time_limit
        return EnvStep(state, observe(state), terminated.to(torch.float32), terminated, truncated)

    return Env(Spec(obs=((rows + columns,),), action=ActionSpec(branches=(4,))), reset, step)
