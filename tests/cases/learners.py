"""Contract cases of `optinfra.learners`."""

import torch

from optinfra import random
from optinfra.learners import PPOBatch
from optinfra.types import ActionSpec, Spec
from tests import examples
from tests.contracts import Case

PPO = examples.learner()
STATES = [PPO.init(random.key(k)) for k in range(3)]
CONTINUOUS = Spec(((4,),), ActionSpec(2))
PPO_CONTINUOUS = examples.learner(CONTINUOUS, normalize=False)


def rows(k: int) -> PPOBatch:
    return examples.batch(100 * k, 9)


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
}
