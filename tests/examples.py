"""Small learners, batches and rollouts that several tests use."""

import torch

from optinfra import networks, random, tree
from optinfra.iteration import Rollout, iteration
from optinfra.learners import PPOBatch, SACBatch, ppo, sac
from optinfra.signals import extrinsic
from optinfra.types import Action, ActionSpec, Memories, Spec, Trajectory, Transitions

SPEC = Spec(obs=((3,), (2,)), action=ActionSpec(2, (3, 2)))
STREAMS = ("extrinsic",)


def network(build=networks.actor_critic, spec=SPEC):
    return build(spec, STREAMS, hidden_units=8, num_layers=1)


def learner(spec=SPEC, **options):
    return ppo(network(spec=spec), spec, **({"learning_rate": 1e-2, "normalize": True} | options))


def recurrent_network(build=networks.recurrent_actor_critic, spec=SPEC, **options):
    sizes = {"memory_size": 6, "hidden_units": 8, "num_layers": 1}
    return build(spec, STREAMS, **(sizes | options))


def recurrent_learner(spec=SPEC, cell="lstm", **options):
    settings = {"learning_rate": 1e-2, "normalize": True, "sequence_length": 4} | options
    return ppo(recurrent_network(spec=spec, cell=cell), spec, **settings)


def key(k):
    return torch.tensor([3 * k, 7 * k + 1])


def normal(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def action(seed, rows, spec=SPEC):
    sizes = spec.action
    return Action(
        normal(seed, *rows, sizes.continuous),
        (normal(seed + 1, *rows, len(sizes.branches)) > 0).long(),
    )


def observed(seed, rows, spec=SPEC):
    """What is seen in rows `[*rows]`: some entities of a set are absent, bytes are bytes."""
    return tuple(observation(seed + i, rows, spec, i) for i in range(len(spec.obs)))


def observation(seed, rows, spec, i):
    shape = spec.obs[i]
    x = normal(seed, *rows, *shape)
    if i in spec.bytes:
        return (60 * x + 128).clamp(0, 255).to(torch.uint8)
    if len(shape) == 2:
        return torch.where(normal(seed + 7, *rows, shape[0], 1) > -0.5, x, 0.0)
    return x


def executed(action):
    """The action as PPO lets an environment take it."""
    return Action(action.continuous.clamp(-3, 3) / 3, action.discrete)


def transitions(seed, *rows, spec=SPEC):
    """Steps taken `[*N]` of random numbers, with ends of both kinds; about a quarter masked."""
    obs = observed(seed, rows, spec)
    return Transitions(
        obs=obs,
        next_obs=observed(seed + 70, rows, spec),
        action=executed(action(seed + 10, rows, spec)),
        rewards=normal(seed + 80, *rows),
        terminated=normal(seed + 81, *rows) > 1.3,
        truncated=normal(seed + 82, *rows) > 1.3,
        mask=normal(seed + 60, *rows) > -0.7,
    )


def batch(seed, *rows, spec=SPEC):
    """Rows of random numbers; about a quarter of them masked."""
    width = spec.action.continuous + len(spec.action.branches)
    return PPOBatch(
        obs=observed(seed, rows, spec),
        action=action(seed + 10, rows, spec),
        action_mask=torch.ones(*rows, spec.action.choices, dtype=torch.bool),
        log_prob=normal(seed + 20, *rows, width) * 0.1 - 1.0,
        advantages=normal(seed + 30, *rows),
        values={name: normal(seed + 40, *rows) for name in STREAMS},
        returns={name: normal(seed + 50, *rows) for name in STREAMS},
        mask=normal(seed + 60, *rows) > -0.7,
    )


def sequences(seed, count, length, memory_size=6, spec=SPEC):
    """Sequences `[N, S]` of random numbers, with resets in them and memories to start from."""
    return batch(seed, count, length, spec=spec)._replace(
        memory=Memories(*(normal(seed + 90 + i, count, memory_size) for i in range(2))),
        reset=normal(seed + 92, count, length) > 1.0,
    )


def trajectory(seed, *rows, memory=(), mask=(), spec=SPEC):
    """What agents saw `[T, *B]`, with ends of both kinds in it."""
    return Trajectory(
        obs=observed(seed, rows, spec),
        memory=memory,
        terminated=normal(seed + 81, *rows) > 1.3,
        truncated=normal(seed + 82, *rows) > 1.3,
        mask=mask,
    )


def rollout(seed, *rows, spec=SPEC):
    """A rollout `[T, *B]` of random numbers with ends of both kinds in it."""
    flat = batch(seed, *rows, spec=spec)
    return Rollout(
        obs=flat.obs,
        next_obs=observed(seed + 70, rows, spec),
        action=flat.action,
        executed=executed(flat.action),
        action_mask=flat.action_mask,
        log_prob=flat.log_prob,
        rewards=normal(seed + 80, *rows),
        terminated=normal(seed + 81, *rows) > 1.3,
        truncated=normal(seed + 82, *rows) > 1.3,
        mask=flat.mask,
    )


def small_iteration(**options):
    return iteration(
        learner(),
        {"extrinsic": extrinsic()},
        **({"num_epochs": 2, "batch_size": 4} | options),
    )


def stacked(make, *seeds):
    return tree.stack([make(seed) for seed in seeds])


def state(k, learner=None):
    return (learner or globals()["learner"]()).init(random.key(k))


def spoiled(rows, worst_float, worst_choice):
    """The same rows where they count, and in the others what no formula survives."""

    def spoil(x):
        worst = {torch.bool: x.logical_not(), torch.int64: x.new_full((), worst_choice)}
        masked = ~rows.mask.reshape(rows.mask.shape + (1,) * (x.ndim - rows.mask.ndim))
        return torch.where(masked, worst.get(x.dtype, torch.tensor(worst_float)), x)

    return tree.map(spoil, rows)._replace(mask=rows.mask)


def double(xs):
    """In float64, so that a law can be tight; what is no float stays."""
    return tree.map(lambda x: x.double() if x.is_floating_point() else x, xs)


def soft_learner(spec=SPEC, streams=STREAMS, *, memory_size=None, normalize=True, **options):
    network = networks.soft_actor_critic(
        spec, streams, memory_size=memory_size, hidden_units=8, num_layers=1
    )
    return sac(network, spec, normalize=normalize, **options)


def soft_batch(seed, *rows, spec=SPEC, streams=STREAMS, memory_size=None):
    """Transitions of random numbers for SAC; sequences `[N, S]` with a memory."""
    seen = transitions(seed, *rows, spec=spec)
    batch = SACBatch(
        obs=seen.obs,
        next_obs=seen.next_obs,
        action=seen.action,
        action_mask=torch.ones(*rows, spec.action.choices, dtype=torch.bool),
        rewards={name: normal(seed + 40, *rows) for name in streams},
        discounts={name: torch.full(rows, 0.9) for name in streams},
        terminated=seen.terminated,
        mask=seen.mask,
    )
    if memory_size is None:
        return batch
    memories = (normal(seed + 90 + i, rows[0], memory_size) for i in range(2))
    return batch._replace(memory=Memories(*memories))
