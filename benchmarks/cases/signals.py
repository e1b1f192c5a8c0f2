"""Reward signals on one minibatch."""

from collections.abc import Iterator
from functools import partial

import torch

from benchmarks.harness import Ours, Peer, Task
from benchmarks.ours import updating
from benchmarks.timing import Call
from optinfra import random
from optinfra.lift import compiled
from optinfra.lift.epochs import Stage, unlifted
from optinfra.signals import curiosity, gail, rnd
from optinfra.types import Action, ActionSpec, Signal, Spec, Transitions

ROWS, EXPERT_ROWS = 1024, 5000
OBS, ACTIONS, UNITS = 32, 4, 128
SPEC = Spec(obs=((OBS,),), action=ActionSpec(continuous=ACTIONS))
NAMES = {"curiosity": "curiosity", "gail": "GAIL", "rnd": "RND"}


def tasks(quick: bool) -> Iterator[Task]:
    """Learning, then rewarding, signal by signal."""
    del quick
    sizes = {
        "rows": ROWS, "obs": OBS, "actions": ACTIONS, "units": UNITS, "expert_rows": EXPERT_ROWS,
    }  # fmt: skip
    for name, title in NAMES.items():
        for work, ours in (("update", update), ("evaluate", evaluate)):
            yield Task(
                f"{title}: {work}",
                ours=[
                    Ours("compiled", partial(ours, name, compiled)),
                    Ours("eager", partial(ours, name, unlifted)),
                ],
                peers=[Peer("ML-Agents", f"mlagents:signal_{work}", {"signal": name, **sizes})],
            )


def signal(name: str) -> Signal:
    """A signal with ML-Agents' defaults."""
    if name == "gail":
        return gail(SPEC, transitions(EXPERT_ROWS), hidden_units=UNITS)
    return {"curiosity": curiosity, "rnd": rnd}[name](SPEC, hidden_units=UNITS)


def transitions(rows: int) -> Transitions:
    """Random rows, none of them masked."""
    nowhere = torch.zeros(rows, dtype=torch.bool)
    choices = torch.zeros(rows, 0, dtype=torch.int64)
    return Transitions(
        obs=(torch.randn(rows, OBS),),
        next_obs=(torch.randn(rows, OBS),),
        action=Action(torch.randn(rows, ACTIONS), choices),
        rewards=torch.zeros(rows),
        terminated=nowhere,
        truncated=nowhere,
        mask=~nowhere,
    )


def update(name: str, stage: Stage) -> Call:
    """Update again and again."""
    own = signal(name)
    return updating(stage(own.update), own.init(random.key(0)), transitions(ROWS))


def evaluate(name: str, stage: Stage) -> Call:
    """Evaluate one state."""
    own = signal(name)
    state, batch, evaluated = own.init(random.key(0)), transitions(ROWS), stage(own.evaluate)
    return lambda: evaluated(state, batch)
