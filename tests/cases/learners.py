"""Contract cases of `optinfra.learners`, of what they act and value with, and of their lifts."""

import torch

from optinfra import networks, random
from optinfra.iteration import Rollout
from optinfra.learners import PPOBatch
from optinfra.lift import epochs
from optinfra.signals import extrinsic
from optinfra.types import ActionSpec, Spec
from tests import examples
from tests.contracts import Case

PPO = examples.learner()
STATES = [PPO.init(random.key(k)) for k in range(3)]
CONTINUOUS = Spec(((4,),), ActionSpec(2))
PPO_CONTINUOUS = examples.learner(CONTINUOUS, normalize=False)
ON_ROLLOUTS = epochs(PPO, num_epochs=2, batch_size=4)
ITERATION = examples.small_iteration()
SIGNAL = extrinsic()
SHARED = examples.network(networks.shared_actor_critic)


def rows(k: int) -> PPOBatch:
    return examples.batch(100 * k, 9)


def rollout(k: int) -> Rollout:
    return examples.rollout(100 * k, 5, 2)


def obs(k: int):
    return rows(k).obs


CASES = {
    "ppo.init": Case(PPO.init, lambda k: (examples.key(k),)),
    "ppo.act": Case(PPO.act, lambda k: (STATES[k].params, obs(k), (), examples.key(k))),
    "ppo.greedy": Case(PPO.greedy, lambda k: (STATES[k].params, obs(k), ())),
    "ppo.observe": Case(PPO.observe, lambda k: (STATES[k], obs(k), rows(k).mask)),
    "ppo.values": Case(PPO.values, lambda k: (STATES[k].params, obs(k))),
    "ppo.update": Case(PPO.update, lambda k: (STATES[k], rows(k)), step=True),
    "ppo.update continuous": Case(
        PPO_CONTINUOUS.update,
        lambda k: (
            PPO_CONTINUOUS.init(random.key(k)),
            examples.batch(100 * k, 9, spec=CONTINUOUS),
        ),
        step=True,
    ),
    "ppo.trajectory_values": Case(
        PPO.trajectory_values,
        lambda k: (
            STATES[k].params,
            examples.batch(100 * k, 6, 3),
            examples.batch(100 * k + 1, 3).obs,
            torch.tensor([True, False, k == 1]),
        ),
    ),
    "epochs.update": Case(ON_ROLLOUTS.update, lambda k: (STATES[k], rows(k)), step=True),
    "iteration.init": Case(ITERATION.init, lambda k: (examples.key(k),)),
    "iteration.update": Case(
        ITERATION.update, lambda k: (ITERATION.init(examples.key(k)), rollout(k)), step=True
    ),
    "extrinsic.init": Case(SIGNAL.init, lambda k: (examples.key(k),)),
    "extrinsic.evaluate": Case(
        SIGNAL.evaluate, lambda k: (SIGNAL.init(examples.key(k)), rollout(k))
    ),
    "extrinsic.update": Case(
        SIGNAL.update, lambda k: (SIGNAL.init(examples.key(k)), rollout(k)), step=True, graphs=0
    ),
    "shared.init": Case(SHARED.init, lambda k: (examples.key(k),)),
    "shared.policy": Case(SHARED.policy, lambda k: (SHARED.init(examples.key(k)), obs(k))),
    "shared.values": Case(SHARED.values, lambda k: (SHARED.init(examples.key(k)), obs(k))),
    "shared.policy_and_values": Case(
        SHARED.policy_and_values, lambda k: (SHARED.init(examples.key(k)), obs(k))
    ),
}
