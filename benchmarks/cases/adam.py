"""Functional Adam."""

import math
from collections.abc import Iterator
from functools import partial

import torch

from benchmarks.cases.ppo_update import network
from benchmarks.harness import Ours, Peer, Task
from benchmarks.ours import like, shapes, updating
from benchmarks.timing import Call
from optinfra import random
from optinfra.lift import compiled
from optinfra.lift.epochs import Stage, unlifted
from optinfra.transforms import adam, apply_updates, raveled
from optinfra.types import Params, PyTree, Transform

LEARNING_RATE = 3e-4


def tasks(quick: bool) -> Iterator[Task]:
    """One step over all parameters, applied; a caller may also keep them as one vector."""
    del quick
    params = network().init(random.key(0))
    vector = {"all": torch.cat([p.reshape(-1) for p in params.values()])}
    sizes = {"shapes": shapes(params)}
    count = sum(math.prod(shape) for shape in sizes["shapes"])
    plain, flat = adam(LEARNING_RATE), raveled(adam(LEARNING_RATE))
    yield Task(
        f"{count:,} parameters in {len(sizes['shapes'])} tensors",
        ours=[
            Ours("compiled", partial(step, plain, compiled, params)),
            Ours("compiled, raveled", partial(step, flat, compiled, params)),
            Ours("compiled, one vector", partial(step, plain, compiled, vector)),
            Ours("eager", partial(step, plain, unlifted, params)),
            Ours("eager, raveled", partial(step, flat, unlifted, params)),
            Ours("eager, one vector", partial(step, plain, unlifted, vector)),
        ],
        peers=[
            Peer("torch fused", "torch:adam", sizes | {"fused": True}),
            Peer("torch foreach", "torch:adam", sizes | {"fused": False}),
            Peer("TorchOpt", "torchopt:adam", sizes),
            Peer("optax", "jax:adam", sizes),
        ],
    )


def step(transform: Transform, stage: Stage, params: Params) -> Call:
    """Step from parameters and state to the next ones."""

    def update(place: tuple[Params, PyTree], grads: Params) -> tuple[PyTree, tuple[()]]:
        params, state = place
        state, updates = transform.update(state, grads, params)
        return (apply_updates(params, updates), state), ()

    return updating(stage(update), (params, transform.init(params)), like(params))
