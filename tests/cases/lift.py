"""Contract cases of `optinfra.lift`: of the lifts that make a step of their own."""

import torch

from optinfra.imitation import behavioral_cloning
from optinfra.lift import cloning_epochs, epochs
from tests import examples
from tests.cases.learners import PPO, STATES, rows
from tests.contracts import Case

ON_ROLLOUTS = epochs(PPO, num_epochs=2, batch_size=4)
CLONING = cloning_epochs(
    behavioral_cloning(PPO.executed_log_prob),
    examples.transitions(5, 7),
    num_epochs=2,
    batch_size=3,
)


def policy(k: int):
    params = STATES[k].params
    return CLONING.init(examples.key(k), params), params, torch.tensor(10 * k)


CASES = {
    "epochs.update": Case(ON_ROLLOUTS.update, lambda k: (STATES[k], rows(k)), step=True),
    "cloning_epochs.update": Case(CLONING.update, policy, step=True),
}
