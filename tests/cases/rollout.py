"""Contract cases of `optinfra.rollout`."""

from optinfra.rollout import blanked, mates_of, transitions
from tests import examples, group_cases
from tests.contracts import Case

CASES = {
    "transitions": Case(transitions, lambda k: (examples.rollout(100 * k, 5, 2),), graphs=0),
    "transitions of groups": Case(transitions, lambda k: (group_cases.rollout(100 * k, 5, 2, 3),)),
    "blanked": Case(blanked, lambda k: (group_cases.rollout(100 * k, 5, 2, 3),)),
    "mates_of": Case(mates_of, lambda k: (group_cases.rollout(100 * k, 5, 2, 3),)),
}
