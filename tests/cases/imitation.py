"""Contract cases of `optinfra.imitation`."""

import torch

from optinfra import schedules
from optinfra.imitation import behavioral_cloning
from tests import examples
from tests.cases.learners import PPO, RECURRENT, STATES
from tests.contracts import Case

CLONING = behavioral_cloning(PPO.executed_log_prob, learning_rate=schedules.linear(1e-2, 0.0, 100))
LSTM = RECURRENT["lstm"]
REMEMBERING = behavioral_cloning(
    LSTM.executed_log_prob, memories=lambda rows, device: LSTM.memories(rows, device).actor
)


def policy(k: int):
    return CLONING.init(examples.key(k), STATES[k].params), STATES[k].params


def remembering(k: int):
    params = LSTM.init(examples.key(k)).params
    return REMEMBERING.init(examples.key(k), params), params


CASES = {
    "behavioral_cloning.init": Case(CLONING.init, lambda k: (examples.key(k), STATES[k].params)),
    "behavioral_cloning.update": Case(
        CLONING.update,
        lambda k: (*policy(k), torch.tensor(40 * k), examples.transitions(100 * k, 9)),
        step=True,
    ),
    "behavioral_cloning.update with memory": Case(
        REMEMBERING.update,
        lambda k: (*remembering(k), torch.tensor(40 * k), examples.transitions(100 * k, 3, 4)),
        step=True,
    ),
}
