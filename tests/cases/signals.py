"""Contract cases of `optinfra.signals`: every signal, in variants that leave no line out."""

import torch

from optinfra.signals import extrinsic
from optinfra.types import Spec, Transitions
from tests import examples, signal_cases
from tests.contracts import Case

EXTRINSIC = extrinsic(add_groupmate_rewards=True)


def transitions(k: int, spec: Spec = signal_cases.SPEC) -> Transitions:
    """Rows of three members; nothing counts of the last one's."""
    rows = examples.transitions(100 * k, 5, 2, spec=spec)
    return rows if k < 2 else rows._replace(mask=torch.zeros_like(rows.mask))


def in_a_group(k: int) -> tuple:
    group, mates = examples.normal(k, 5, 2), examples.normal(k + 10, 5, 2, 3)
    rows = transitions(k)._replace(group_rewards=group, groupmate_rewards=mates)
    return EXTRINSIC.init(examples.key(k)), rows


def cases_of(name: str, functions: tuple[str, ...]) -> dict[str, Case]:
    signal, spec = VARIANTS[name]
    states = [signal_cases.learnt(signal, k, updates=1, spec=spec) for k in range(3)]

    def inputs(k: int) -> tuple:
        return states[k], transitions(k, spec)

    cases = {
        "init": Case(signal.init, lambda k: (examples.key(k),)),
        "evaluate": Case(signal.evaluate, inputs),
        "update": Case(signal.update, inputs, step=True),
    }
    factory, _, variant = name.replace("vail", "gail vail").partition(" ")
    factory, variant = factory.rstrip(","), f" {variant}" if variant else ""
    return {f"{factory}.{function}{variant}": cases[function] for function in functions}


ALL = ("init", "evaluate", "update")
VARIANTS = {
    name: (signal, signal_cases.SPEC) for name, signal in signal_cases.SIGNALS.items()
} | signal_cases.OTHER_ACTIONS
CASES = {
    "extrinsic.init": Case(EXTRINSIC.init, lambda k: (examples.key(k),)),
    "extrinsic.evaluate": Case(EXTRINSIC.evaluate, in_a_group),
    "extrinsic.update": Case(EXTRINSIC.update, in_a_group, step=True, graphs=0),
    **cases_of("curiosity", ("evaluate",)),
    **cases_of("curiosity, normalised", ALL),
    **cases_of("curiosity, discrete", ("evaluate", "update")),
    **cases_of("rnd", ("evaluate",)),
    **cases_of("rnd, normalised", ALL),
    **cases_of("gail", ("evaluate", "update")),
    **cases_of("gail, actions, normalised", ("evaluate", "update")),
    **cases_of("vail, actions, normalised", ALL),
}
