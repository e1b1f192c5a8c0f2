"""Small learners of groups, their batches and rollouts, as several tests use them."""

import torch

from optinfra import networks, tree
from optinfra.learners import poca
from optinfra.rollout import Group
from optinfra.types import Action, Mates, Memories, Trajectory
from tests import examples
from tests.examples import SPEC, STREAMS, normal

SLOTS = 3  # of mates
M = 6


def network(memory_size=None, spec=SPEC, streams=STREAMS):
    return networks.group_actor_critic(
        spec, streams, memory_size=memory_size, hidden_units=8, num_layers=1
    )


def learner(memory_size=None, spec=SPEC, streams=STREAMS, **options):
    settings = {"learning_rate": 1e-2, "normalize": True, "sequence_length": 4} | options
    return poca(network(memory_size, spec, streams), spec, **settings)


def mates(seed, *rows, slots=SLOTS, spec=SPEC):
    """Mates of random numbers; about a third are absent."""
    rows = (*rows, slots)
    return Mates(
        obs=examples.observed(seed, rows, spec),
        action=examples.action(seed + 10, rows, spec),
        present=normal(seed + 20, *rows) > -0.4,
    )


def with_absent(mates, number, choice):
    """The same mates, and in the place of absent ones what no formula survives."""

    def spoil(x):
        absent = ~mates.present.reshape(*mates.present.shape, *(1,) * (x.ndim - mates.present.ndim))
        return torch.where(absent, x.new_full((), number if x.is_floating_point() else choice), x)

    return mates._replace(
        obs=tuple(map(spoil, mates.obs)), action=Action(*map(spoil, mates.action))
    )


def batch(seed, *rows, slots=SLOTS, spec=SPEC):
    """Rows of random numbers with mates; about a quarter of them masked."""
    return examples.batch(seed, *rows, spec=spec)._replace(
        mates=mates(seed + 100, *rows, slots=slots, spec=spec),
        baselines={name: normal(seed + 130, *rows) for name in STREAMS},
    )


def sequences(seed, count, length, spec=SPEC):
    """Sequences `[N, S]` with resets in them, and memories of policy, values and baselines."""
    memory = Memories(normal(seed + 90, count, M), normal(seed + 91, count, 2 * M))
    reset = normal(seed + 92, count, length) > 1.0
    return batch(seed, count, length, spec=spec)._replace(memory=memory, reset=reset)


def trajectory(seed, *rows, memory=(), mask=()):
    """What agents and their mates saw `[T, *B]`, with ends of both kinds in it."""
    seen = examples.trajectory(seed, *rows, memory=memory, mask=mask)
    return Trajectory(*seen[:5], mates(seed + 200, *rows), mates(seed + 300, *rows))


def rollout(seed, steps, groups, agents, spec=SPEC):
    """A rollout `[T, B, A]` in which agents come, leave and end together.

    A step where the group ends ends the episode of each agent that is there.
    """
    rows = (steps, groups, agents)
    one = examples.rollout(seed, *rows, spec=spec)
    ended = (normal(seed + 400, steps, groups, 1) > 1.0).expand(rows)
    mask = normal(seed + 401, *rows) > -0.8
    terminated = (one.terminated | ended) & mask
    left = terminated & ~ended
    group = Group(
        rewards=normal(seed + 402, steps, groups, 1).expand(rows).clone(),
        ended=ended.clone(),
        next_mask=mask & ~left,
    )
    return one._replace(terminated=terminated, mask=mask, group=group)


def double(xs):
    return examples.double(xs)


def permuted(mates, order):
    """The same mates in another order."""
    index = torch.tensor(order)
    axis = mates.present.ndim - 1
    return tree.map(lambda x: x.index_select(axis, index), mates)
