"""Contract cases of `optinfra.rollout`."""

from optinfra.rollout import transitions
from tests import examples
from tests.contracts import Case

CASES = {
    "transitions": Case(transitions, lambda k: (examples.rollout(100 * k, 5, 2),), graphs=0),
}
