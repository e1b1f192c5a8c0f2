"""Contract cases of `optinfra.sequences`."""

from functools import partial

from optinfra import sequences
from tests import examples
from tests.contracts import Case


def columns(k: int) -> tuple:
    rollout = examples.rollout(100 * k, 7, 2)
    return ({"obs": rollout.obs, "mask": rollout.mask},)


CASES = {
    "cut": Case(partial(sequences.cut, length=3), columns),
    "cut burn-in": Case(partial(sequences.cut, length=4, burn_in=2), columns),
    "at_starts": Case(
        partial(sequences.at_starts, length=3, burn_in=1),
        lambda k: (examples.normal(k, 7, 2, 5),),
    ),
    "is_warmup": Case(
        partial(sequences.is_warmup, steps=7, burn_in=2), lambda k: (examples.normal(k, 6, 4),)
    ),
}
