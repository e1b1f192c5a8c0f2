"""Trajectories of small recurrent critics, agent by agent, that several tests use."""

import torch
from hypothesis import strategies as st

from optinfra import networks, random, tree
from optinfra.testing import strategies
from optinfra.types import ActionSpec, RolloutValues, Spec, TrajectoryValues
from optinfra.values import Critic, rollout_values, trajectory_values
from tests.plain_recurrent import normal

SPEC = Spec(obs=((2,), (1,)), action=ActionSpec(1))
M = 4
KIND = st.sampled_from(["lstm", "gru"])
LENGTHS = st.one_of(st.none(), st.integers(1, 7))
SEEDS = st.integers(0, 999)
CLOSE = {"rtol": 1e-5, "atol": 1e-6}
TIGHT = {"rtol": 1e-6, "atol": 1e-6}
STREAMS = ("extrinsic", "curious")
NETWORKS = {
    kind: networks.recurrent_actor_critic(
        SPEC, STREAMS, memory_size=M, cell=kind, hidden_units=5, num_layers=1
    )
    for kind in ("lstm", "gru")
}
CRITICS = {kind: Critic(n.values, n.values_and_memories) for kind, n in NETWORKS.items()}
PARAMS = {kind: n.init(random.key(3)) for kind, n in NETWORKS.items()}
OF_VALUES = TrajectoryValues(1, 0, 1, 0)  # axes of agents
OF_ROLLOUTS = RolloutValues(1, 1, 1, 0)
ALONE = strategies.trajectories(SPEC, memory_size=M, max_agents=1, max_steps=7)
WHOLE = strategies.trajectories(SPEC, memory_size=M, max_steps=7)
PADDED = strategies.trajectories(SPEC, memory_size=M, max_steps=7, padded=True, junk=True)
EITHER = st.one_of(WHOLE, PADDED)


def valued(kind, trajectory, next_obs, done, **options):
    run = trajectory_values(CRITICS[kind], **options)
    return run(PARAMS[kind], trajectory, next_obs, done)


def valued_rollout(kind, trajectory, next_obs):
    return rollout_values(CRITICS[kind])(PARAMS[kind], trajectory, next_obs)


def following(seed, *rows):
    return tuple(normal(seed + i, *rows, *shape) for i, shape in enumerate(SPEC.obs))


def lengths_of(trajectory):
    if isinstance(trajectory.mask, tuple):
        return [len(trajectory.terminated)] * trajectory.terminated.shape[1]
    return trajectory.mask.sum(0).tolist()


def over(trajectory):
    """Whether the last step of each agent, padding apart, ended its episode by itself."""
    last = [(n - 1, b) for b, n in enumerate(lengths_of(trajectory))]
    return torch.stack([trajectory.terminated[index] for index in last])


def agent(trajectory, b, start=0, stop=None):
    """One agent's steps, padding left out: `[T, 1, …]`."""
    stop = lengths_of(trajectory)[b] if stop is None else stop
    rows = trajectory._replace(memory=(), mask=())
    return tree.map(lambda x: x[start:stop, b : b + 1], rows)._replace(
        memory=trajectory.memory[b : b + 1]
    )


def one(x, b):
    return tree.map(lambda y: y[b : b + 1], x)
