"""Contract cases of `optinfra.credit`."""

from functools import partial

import torch

from optinfra.credit import Rule, Seen, weigh
from optinfra.signals.faults import Judged
from optinfra.types import RolloutValues
from tests import examples, group_cases
from tests.contracts import Case

ROWS = (6, 2, 3)


def arguments(k: int, *, groups: bool) -> tuple:
    rollout = group_cases.rollout(100 * k, *ROWS)
    values, following, baselines, rewards = (
        {"a": examples.normal(100 * k + i, *ROWS)} for i in range(4)
    )
    valued = RolloutValues(values, following, (), (), baselines if groups else ())
    judged = {"a": Judged(rewards["a"], torch.tensor(k != 1))}
    gammas, rate = {"a": torch.tensor(0.9 + 0.01 * k)}, torch.tensor(0.8 - 0.1 * k)
    return gammas, rate, Seen(rollout, valued, ()), judged


CASES = {
    f"weigh {name}": Case(
        partial(weigh, Rule(time_horizon=4, ignore_done=frozenset())),
        partial(arguments, groups=groups),
    )
    for name, groups in (("by baselines", True), ("by values", False))
}
