"""Nineteen steps (two chunks and a rest) of two agents; ends of both kinds inside."""

import torch

from optinfra import returns
from tests.contracts import Case

SHAPE = (19, 2)


def _floats(k: int, number: int) -> tuple:
    generator = torch.Generator().manual_seed(k)
    return tuple(torch.randn(number, *SHAPE, generator=generator))


def _ends(k: int) -> tuple:
    uniform = torch.rand(2, *SHAPE, generator=torch.Generator().manual_seed(100 + k))
    return tuple(uniform < 0.2)


def _rate(k: int) -> torch.Tensor:
    return torch.tensor([0.99, 0.9, 0.5])[k]


CASES = {
    "gae": Case(
        lambda *a: returns.gae(*a[:5], discount=a[5], gae_lambda=a[6]),
        lambda k: (*_floats(k, 3), *_ends(k), _rate(k), _rate(2 - k)),
    ),
    "lambda_returns": Case(
        lambda *a: returns.lambda_returns(*a[:4], discount=a[4], trace_lambda=a[5]),
        lambda k: (*_floats(k, 2), *_ends(k), _rate(k), _rate(2 - k)),
    ),
    "discounted_returns": Case(
        lambda *a: returns.discounted_returns(*a[:4], discount=a[4]),
        lambda k: (*_floats(k, 2), *_ends(k), _rate(k)),
    ),
    "vtrace": Case(
        lambda log_ratio, *a: returns.vtrace(
            *a[:5], log_ratio=log_ratio, discount=a[5], clip_rho=a[6], clip_c=a[7]
        ),
        lambda k: (*_floats(k, 4), *_ends(k), _rate(k), 2 * _rate(k), _rate(2 - k)),
    ),
    "retrace": Case(
        lambda log_ratio, *a: returns.retrace(
            *a[:5], log_ratio=log_ratio, discount=a[5], trace_lambda=a[6]
        ),
        lambda k: (*_floats(k, 4), *_ends(k), _rate(k), _rate(2 - k)),
    ),
}
