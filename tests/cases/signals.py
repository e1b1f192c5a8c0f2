"""Contract cases of `optinfra.signals`."""

from optinfra.signals import extrinsic
from tests import examples
from tests.contracts import Case

SIGNAL = extrinsic()


def rollout(k: int):
    return SIGNAL.init(examples.key(k)), examples.rollout(100 * k, 5, 2)


CASES = {
    "extrinsic.init": Case(SIGNAL.init, lambda k: (examples.key(k),)),
    "extrinsic.evaluate": Case(SIGNAL.evaluate, rollout),
    "extrinsic.update": Case(SIGNAL.update, rollout, step=True, graphs=0),
}
