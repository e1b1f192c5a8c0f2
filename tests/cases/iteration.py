"""Contract cases of `optinfra.iteration`."""

from tests import examples
from tests.contracts import Case

ITERATION = examples.small_iteration()

CASES = {
    "iteration.init": Case(ITERATION.init, lambda k: (examples.key(k),)),
    "iteration.update": Case(
        ITERATION.update,
        lambda k: (ITERATION.init(examples.key(k)), examples.rollout(100 * k, 5, 2)),
        step=True,
    ),
}
