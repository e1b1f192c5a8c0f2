"""Contract cases of `optinfra.lift`: of the one lift that makes a step of its own."""

from optinfra.lift import epochs
from tests.cases.learners import PPO, STATES, rows
from tests.contracts import Case

ON_ROLLOUTS = epochs(PPO, num_epochs=2, batch_size=4)

CASES = {
    "epochs.update": Case(ON_ROLLOUTS.update, lambda k: (STATES[k], rows(k)), step=True),
}
