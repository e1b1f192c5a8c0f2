"""POCA: one update of agents with mates, and values of the trajectories of whole groups."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch

from benchmarks.harness import Ours, Peer, Task
from benchmarks.ours import STREAM, ppo_batch, updating
from benchmarks.timing import Call
from optinfra import random
from optinfra.learners import PPOBatch, poca
from optinfra.lift import compiled
from optinfra.lift.epochs import Stage, unlifted
from optinfra.networks import group_actor_critic
from optinfra.types import Action, ActionSpec, Learner, Mates, Spec, Trajectory

ROWS, OBS, ACTIONS, UNITS = 1024, 32, 4, 128
MATES = (3, 0, 7, 15)  # the first is of record; the others show the growth with a group's size
STEPS, SIZE = 100, 4
GROUPS = (64, 1, 16, 256, 1024)  # likewise
MOST_ONE_BY_ONE = 64  # groups that ML-Agents and eager calls are asked for: more take seconds
SPEC = Spec(obs=((OBS,),), action=ActionSpec(continuous=ACTIONS))


def tasks(quick: bool) -> Iterator[Task]:
    """Updates by the number of mates, then values by the number of groups."""
    for mates in MATES[:2] if quick else MATES:
        yield Task(
            f"update, {ROWS:,} rows with {mates} mates",
            ours=[
                Ours("compiled", partial(update, mates, compiled)),
                Ours("eager", partial(update, mates, unlifted)),
            ],
            peers=[Peer("ML-Agents", "mlagents:poca_update", sizes(rows=ROWS, mates=mates))],
        )
    for groups in (2,) if quick else GROUPS:
        told, small = sizes(groups=groups, size=SIZE, steps=STEPS), groups <= MOST_ONE_BY_ONE
        yield Task(
            f"values of {groups:,} group{'s' if groups > 1 else ''} of {SIZE}, {STEPS} steps each",
            ours=[
                Ours("compiled", partial(valuing, groups, compiled)),
                *([Ours("eager", partial(valuing, groups, unlifted))] if small else []),
            ],
            peers=[Peer("ML-Agents", "mlagents:poca_trajectory_values", told)] if small else [],
        )


def sizes(**own: int) -> dict[str, Any]:
    """What ML-Agents is told."""
    return {"obs": OBS, "actions": ACTIONS, "units": UNITS, **own}


def learner() -> Learner:
    """The learner of this case."""
    return poca(group_actor_critic(SPEC, (STREAM,), hidden_units=UNITS), SPEC)


def mates(*rows: int) -> Mates:
    """Draw mates, all of them present."""
    nothing = torch.zeros(*rows, 0, dtype=torch.int64)
    action = Action(torch.randn(*rows, ACTIONS), nothing)
    return Mates((torch.randn(*rows, OBS),), action, torch.ones(*rows, dtype=torch.bool))


def batch(count: int) -> PPOBatch:
    """Draw a minibatch of agents with so many mates."""
    rows = ppo_batch(SPEC, ROWS)
    return rows._replace(mates=mates(ROWS, count), baselines={STREAM: torch.randn(ROWS)})


def update(count: int, stage: Stage) -> Call:
    """Update with everything that training has."""
    own = learner()
    return updating(stage(own.update), own.init(random.key(0)), batch(count))


def valuing(groups: int, stage: Stage) -> Call:
    """Value the trajectory of each agent of each group, and its baseline, in one call."""
    own = learner()
    value, params = stage(own.trajectory_values), own.init(random.key(0)).params
    agents = (groups, SIZE)
    trajectory = Trajectory(
        obs=(torch.randn(STEPS, *agents, OBS),),
        memory=(),
        terminated=(),
        truncated=(),
        mask=(),
        mates=mates(STEPS, *agents, SIZE - 1),
        next_mates=mates(*agents, SIZE - 1),
    )
    following, done = (torch.randn(*agents, OBS),), torch.zeros(agents, dtype=torch.bool)
    return lambda: value(params, trajectory, following, done)
