"""Generalised advantage estimates."""

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from benchmarks.harness import Ours, Peer, Task
from benchmarks.timing import Call
from optinfra.lift import compiled
from optinfra.lift.epochs import Stage, unlifted
from optinfra.returns import gae

SHAPES = ((128, 64), (1024, 64), (128, 1024), (64, 4096))
QUICK_SHAPES = ((16, 8),)
DISCOUNT, GAE_LAMBDA, END = 0.99, 0.95, 0.02


def tasks(quick: bool) -> Iterator[Task]:
    """Each library in the order of axes that it prefers."""
    for steps, agents in QUICK_SHAPES if quick else SHAPES:
        sizes = {"steps": steps, "agents": agents}
        yield Task(
            f"{steps:,} steps of {agents:,} agents",
            ours=[
                Ours("compiled", partial(estimate, steps, agents, compiled)),
                Ours("eager", partial(estimate, steps, agents, unlifted)),
            ],
            peers=[
                Peer("rlax", "rlax:gae", sizes),
                Peer("TorchRL vec", "torchrl:gae", sizes | {"vectorized": True}),
                Peer("TorchRL loop", "torchrl:gae", sizes | {"vectorized": False}),
            ],
        )


def estimate(steps: int, agents: int, stage: Stage) -> Call:
    """Estimate where 2 % of the steps terminate."""
    rewards, values, next_values = torch.randn(3, steps, agents).unbind()
    terminated = torch.rand(steps, agents) < END
    truncated = torch.zeros_like(terminated)

    def advantages(*rollout: Tensor) -> Tensor:
        return gae(*rollout, discount=DISCOUNT, gae_lambda=GAE_LAMBDA)

    return partial(stage(advantages), rewards, values, next_values, terminated, truncated)
