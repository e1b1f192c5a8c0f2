"""Values of trajectories: one call for all agents, which ML-Agents values one by one."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch

from benchmarks.harness import Ours, Peer, Task
from benchmarks.ours import STREAM
from benchmarks.timing import Call
from optinfra import random
from optinfra.learners import ppo
from optinfra.lift import compiled
from optinfra.lift.epochs import Stage, unlifted
from optinfra.networks import actor_critic, recurrent_actor_critic
from optinfra.types import ActionSpec, Learner, Spec, Trajectory

STEPS, OBS, ACTIONS, UNITS = 100, 32, 4, 128
MEMORY, SEQUENCE = 128, 64
AGENTS, GROWTH = 64, (1, 16, 256, 4096)
MOST_ONE_BY_ONE = 256  # agents that ML-Agents is asked for: it takes seconds for more
SPEC = Spec(obs=((OBS,),), action=ActionSpec(continuous=ACTIONS))


def tasks(quick: bool) -> Iterator[Task]:
    """The size of record, then the growth with the number of agents."""
    for agents in (2,) if quick else (AGENTS, *GROWTH):
        for memory in (0, MEMORY):
            yield Task(
                f"{agents:,} agent{'s' if agents > 1 else ''}, {STEPS} steps each, "
                f"{f'LSTM of memory {memory}' if memory else 'feed-forward'}",
                ours=[
                    Ours("compiled", partial(valuing, agents, memory, compiled)),
                    Ours("eager", partial(valuing, agents, memory, unlifted)),
                ],
                peers=list(peers(agents, memory)),
            )


def peers(agents: int, memory: int) -> Iterator[Peer]:
    """ML-Agents, as long as it takes no seconds."""
    if agents <= MOST_ONE_BY_ONE:
        sizes: dict[str, Any] = {
            "agents": agents, "steps": STEPS, "obs": OBS, "actions": ACTIONS, "units": UNITS,
            "memory": memory, "sequence": SEQUENCE,
        }  # fmt: skip
        yield Peer("ML-Agents", "mlagents:trajectory_values", sizes)


def learner(memory: int) -> Learner:
    """A learner with or without memory."""
    if not memory:
        return ppo(actor_critic(SPEC, (STREAM,), hidden_units=UNITS), SPEC)
    network = recurrent_actor_critic(SPEC, (STREAM,), hidden_units=UNITS, memory_size=memory)
    return ppo(network, SPEC, sequence_length=SEQUENCE)


def valuing(agents: int, memory: int, stage: Stage) -> Call:
    """Value a whole trajectory of each agent, and pass the memories on."""
    own = learner(memory)
    value = stage(own.trajectory_values)
    params = own.init(random.key(0)).params
    trajectory = Trajectory(
        obs=(torch.randn(STEPS, agents, OBS),),
        memory=own.memories((agents,)).critic,
        terminated=(),
        truncated=(),
        mask=(),
    )
    following, done = (torch.randn(agents, OBS),), torch.zeros(agents, dtype=torch.bool)

    def call() -> None:
        nonlocal trajectory
        valued = value(params, trajectory, following, done)
        trajectory = trajectory._replace(memory=valued.final_memory)

    return call
