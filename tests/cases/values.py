"""Contract cases of `optinfra.values`; those of a learner's values are with the learner."""

import torch

from optinfra import values
from optinfra.types import Trajectory
from tests import examples
from tests.contracts import Case

NETWORK = examples.recurrent_network()
CRITIC = values.Critic(NETWORK.values, NETWORK.values_and_memories)


def trajectory(k: int) -> Trajectory:
    return examples.trajectory(100 * k, 5, 2, memory=examples.normal(k, 2, 6))


CASES = {
    "trajectory_values": Case(
        values.trajectory_values(CRITIC, sequence_length=2),
        lambda k: (
            NETWORK.init(examples.key(k)),
            trajectory(k),
            examples.batch(k, 2).obs,
            torch.tensor([k == 1, True]),
        ),
    ),
    "rollout_values": Case(
        values.rollout_values(CRITIC),
        lambda k: (NETWORK.init(examples.key(k)), trajectory(k), examples.batch(k, 5, 2).obs),
    ),
    "cuts": Case(values.cuts, lambda k: (trajectory(k),)),
    "resets": Case(values.resets, lambda k: (examples.normal(k, 5, 2) > 0,)),
}
