"""Escape: one of a group must give itself up before the others can leave."""

from typing import NamedTuple

import torch
from torch import Tensor

from optinfra import random
from optinfra.check import require_integer, require_number, require_trailing
from optinfra.envs.groups import GroupEnv, GroupStep
from optinfra.types import Action, ActionSpec, Key, Obs, Spec

AGENTS = 3  # agents of a group
ROWS, COLUMNS = 3, 5  # cells of the grid
TIME_LIMIT = 40  # steps; the longest of the shortest ways takes 12
BEST_RETURN = 1.0  # of a group that leaves
CHANCE_RETURN = 0.07775  # of uniformly random moves: as often they leave in time
MOVES = 5  # stay, up, down, left, right
SEEN = 10  # numbers that an agent sees


class EscapeState(NamedTuple):
    """Where the agents of a group stand, and what became of the guard and the key."""

    places: Tensor  # [A, 2] int64, row and column of each agent; row 0 is at the top
    present: Tensor  # [A] bool, False for who has given itself up
    guard: Tensor  # [2] int64, where the guard stands or has fallen
    door: Tensor  # [2] int64
    stands: Tensor  # [] bool, the guard
    carries: Tensor  # [A] bool, who has the key: one agent or none
    steps: Tensor  # [] int64, steps of this episode so far


def escape(
    *,
    agents: int = AGENTS,
    rows: int = ROWS,
    columns: int = COLUMNS,
    time_limit: int = TIME_LIMIT,
    shared: bool = True,
) -> GroupEnv:
    """Leave through a locked door, whose key a guard stands on who falls with whoever attacks.

        D . . . .        D the door, in any row of the first column
        . a a . .        a agents, anywhere between
        . . . a G        G the guard, in any row of the last column

        placeᵢ ← placeᵢ + move_aᵢ where that is not outside, else it stays
        while the guard stands: the first i at its place is removed, and the guard has fallen
        once it has fallen: the first i at its place carries the key from then on
        r_group = terminated = the carrier is at the door,  rᵢ = 0,  truncated = steps ≥ limit
        where not shared: rᵢ = whether i is the carrier at the door,  r_group = 0

    One observation `[10]` each, without what mates do but for the key: own place, the ways to
    the guard's place and to the door (as shares of rows and columns), and whether the guard
    stands, the key lies there, it is one's own, it is a mate's. One discrete branch: stay, up,
    down, left, right. Where two come at once, the one in the lower slot is first. Only the
    start is random. In every group that leaves exactly one agent has given itself up, and is gone
    when the group is paid. A group that hurries needs at most 2 · (`rows` + `columns`) − 4
    steps: under a lower `time_limit` some starts allow no escape.

    Args:
      agents: A ≥ 2, agents of the group.
      rows: ≥ 1, of the grid.
      columns: ≥ 3, of the grid.
      time_limit: ≥ 1, steps after which an episode is truncated.
      shared: whether the group is paid; else the agent that leaves with the key, alone.

    Returns:
      A `GroupEnv` over `EscapeState`.

    Raises:
      ValueError: a number is too small; an action has not one discrete branch for each agent.
      TypeError: `agents`, `rows` or `columns` is no integer.

    Differs: ML-Agents' Dungeon Escape lets the monster walk and win, and shows rays, not places.
    Source: Cohen et al. 2021, Dungeon Escape, https://arxiv.org/abs/2111.05992.
    """
    require_integer("agents", agents, low=2)
    require_integer("rows", rows, low=1)
    require_integer("columns", columns, low=3)
    require_number("time_limit", time_limit, low=1)
    lowest = torch.tensor([[0, 1]] * agents + [[0, columns - 1], [0, 0]])
    beyond = torch.tensor([[rows, columns - 1]] * agents + [[rows, columns], [rows, 1]])

    def reset(key: Key) -> tuple[EscapeState, Obs, Tensor]:
        drawn = random.randint(key, (agents + 2, 2), lowest, beyond)
        present = torch.ones(agents, dtype=torch.bool, device=key.device)
        state = EscapeState(
            places=drawn[:agents],
            present=present,
            guard=drawn[agents],
            door=drawn[agents + 1],
            stands=torch.ones((), dtype=torch.bool, device=key.device),
            carries=torch.zeros_like(present),
            steps=torch.zeros((), dtype=torch.int64, device=key.device),
        )
        return state, observe(state, present, rows, columns), present

    def step(state: EscapeState, action: Action, key: Key) -> GroupStep:
        del key  # nothing is random but the start
        require_trailing("action.discrete", action.discrete, (agents, 1))
        after = advance(state, action.discrete[..., 0], rows, columns)
        leaves = after.carries & at(after.door, after.places)
        left = leaves.any(-1)
        paid = leaves.to(torch.float32)
        return GroupStep(
            state=after,
            obs=observe(after, state.present, rows, columns),
            reward=torch.zeros_like(paid) if shared else paid,
            group_reward=left.to(torch.float32) if shared else paid.new_zeros(()),
            present=after.present,
            terminated=left,
            truncated=after.steps >= time_limit,
        )

    return GroupEnv(Spec(((SEEN,),), ActionSpec(branches=(MOVES,))), agents, reset, step)


def observe(state: EscapeState, seeing: Tensor, rows: int, columns: int) -> Obs:
    """What is seen `[A, 10]` by those who are `seeing` `[A]`; the others see zeros."""
    places = state.places
    ways = [place[..., None, :] - places for place in (state.guard, state.door)]
    size = torch.tensor([rows, columns] * 3, device=places.device)
    shares = torch.cat([places, *ways], dim=-1).to(torch.float32) / size
    stands, carried = state.stands[..., None], state.carries.any(-1, keepdim=True)
    fate = (stands, ~stands & ~carried, state.carries, carried & ~state.carries)
    known = torch.stack(torch.broadcast_tensors(*fate), dim=-1)
    return (torch.where(seeing[..., None], torch.cat([shares, known], dim=-1), 0.0),)


def advance(state: EscapeState, choice: Tensor, rows: int, columns: int) -> EscapeState:
    """Let those who are present move by their `choice` `[A]`, and see what comes of it."""
    up, down, left, right = (((choice == a) & state.present).long() for a in range(1, MOVES))
    row = (state.places[..., 0] + down - up).clamp(0, rows - 1)
    column = (state.places[..., 1] + right - left).clamp(0, columns - 1)
    places = torch.stack([row, column], dim=-1)
    reached = state.present & at(state.guard, places)
    lies = ~state.stands & ~state.carries.any(-1)
    removed = first(reached & state.stands[..., None])
    return state._replace(
        places=places,
        present=state.present & ~removed,
        stands=state.stands & ~removed.any(-1),
        carries=state.carries | first(reached & lies[..., None]),
        steps=state.steps + 1,
    )


def at(place: Tensor, places: Tensor) -> Tensor:
    """Tell who of some agents `[*B, A, 2]` is at a place `[*B, 2]`."""
    return (places == place[..., None, :]).all(-1)


def first(candidates: Tensor) -> Tensor:
    """Keep of the candidates `[*B, A]` the one in the lowest slot."""
    return candidates & (candidates.cumsum(-1) == 1)
