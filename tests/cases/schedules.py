"""Cases of `optinfra.schedules`."""

import torch

from optinfra import schedules
from tests.contracts import Case

SCHEDULES = {  # by name: member k of a sweep
    "constant": lambda k: schedules.constant(0.5 + k),
    "linear": lambda k: schedules.linear(1.0 + k, 0.1 * k, 10 + k),
    "linear_to_floor": lambda k: schedules.linear_to_floor(0.05 + 0.1 * k, 0.1, 10 + k),
    "cosine": lambda k: schedules.cosine(1.0 + k, 0.1 * k, 10 + k),
    "piecewise_constant": lambda k: schedules.piecewise_constant(
        1.0 + k, {2 + k: 0.5, 6: 0.1 * (k + 1)}
    ),
    "warmup": lambda k: schedules.warmup(schedules.linear(1.0 + k, 0.0, 9), 3 + k),
    "join": lambda k: schedules.join(
        [
            schedules.constant(1.0 + k),
            schedules.linear(2.0, 3.0 + k, 4),
            schedules.cosine(2.0, k, 3),
        ],
        [1 + k, 4 + k],
    ),
}


def case(make):
    return Case(make(0).value, lambda k: (make(k).init(), torch.tensor(2 + 2 * k)))


CASES = {f"{name}.value": case(make) for name, make in SCHEDULES.items()}
