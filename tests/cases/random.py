"""Cases of `optinfra.random`: keys vary, and every other tensor argument with them."""

import torch

from optinfra import random
from tests.contracts import Case

KEYS = random.split(random.key(5), 3)
LOGITS = torch.linspace(-2, 2, 24).reshape(3, 2, 4)
SCALES = torch.tensor([1.0, 2.5, 40.0])


def alone(k):
    return (KEYS[k],)


CASES = {
    "key": Case(lambda like: random.key(-7, like.device), alone),
    "split": Case(lambda key: random.split(key, 5), alone),
    "fold_in": Case(random.fold_in, lambda k: (KEYS[k], torch.tensor(10**k))),
    "fold_in number": Case(lambda key: random.fold_in(key, 9), alone),
    "bits": Case(lambda key: random.bits(key, (2, 3)), alone),
    "uniform": Case(lambda key: random.uniform(key, (2, 3)), alone),
    "uniform between": Case(
        lambda key, low, high: random.uniform(key, (2, 3), minval=low, maxval=high),
        lambda k: (KEYS[k], -SCALES[k], SCALES * (k + 1)),
    ),
    "normal": Case(lambda key: random.normal(key, (4, 3)), alone),
    "gumbel": Case(lambda key: random.gumbel(key, (4, 3)), alone),
    "randint": Case(
        lambda key, low, high: random.randint(key, (5, 3), low, high),
        lambda k: (KEYS[k], torch.tensor(-k), torch.tensor([1, 10**k, 10 ** (3 * k)])),
    ),
    "randint between numbers": Case(lambda key: random.randint(key, (9,), -3, 7), alone),
    "bernoulli": Case(random.bernoulli, lambda k: (KEYS[k], torch.linspace(0, 1, 6) / (k + 1))),
    "bernoulli of a number": Case(lambda key: random.bernoulli(key, 0.4, (9,)), alone),
    "categorical": Case(random.categorical, lambda k: (KEYS[k], LOGITS[k])),
    "categorical along axis 0": Case(
        lambda key, logits: random.categorical(key, logits, axis=0),
        lambda k: (KEYS[k], LOGITS[k]),
    ),
    "permutation": Case(lambda key: random.permutation(key, 7), alone),
    "permutation of two rounds": Case(lambda key: random.permutation(key, 1700), alone),
    "orthogonal": Case(lambda key: random.orthogonal(key, 4, 3), alone),
    "orthogonal wide": Case(lambda key: random.orthogonal(key, 2, 5), alone),
}
