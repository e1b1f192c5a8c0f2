"""Contract cases of `optinfra.iteration`."""

from optinfra.iteration import iteration
from optinfra.signals import extrinsic
from tests import examples
from tests.contracts import Case

ITERATION = examples.small_iteration()

REMEMBERING = iteration(
    examples.recurrent_learner(burn_in=1),
    {"extrinsic": extrinsic()},
    num_epochs=1,
    batch_size=8,
    sequence_length=4,
    burn_in=1,
    num_agents=2,
)


def remembered(k: int):
    rollout = examples.rollout(100 * k, 5, 2)
    return rollout._replace(memory=examples.normal(k, 5, 2, 6))


CASES = {
    "iteration.init recurrent": Case(REMEMBERING.init, lambda k: (examples.key(k),)),
    "iteration.update recurrent": Case(
        REMEMBERING.update, lambda k: (REMEMBERING.init(examples.key(k)), remembered(k)), step=True
    ),
    "iteration.init": Case(ITERATION.init, lambda k: (examples.key(k),)),
    "iteration.update": Case(
        ITERATION.update,
        lambda k: (ITERATION.init(examples.key(k)), examples.rollout(100 * k, 5, 2)),
        step=True,
    ),
}
