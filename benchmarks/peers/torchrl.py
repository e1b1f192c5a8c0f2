"""TorchRL: ClipPPOLoss with torch's Adam, and its two ways to estimate advantages."""

from collections.abc import Callable
from typing import Any

import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import Tensor, nn
from torch.distributions import Independent, Normal
from torchrl.modules import ProbabilisticActor, ValueOperator
from torchrl.objectives import ClipPPOLoss
from torchrl.objectives.value.functional import (
    generalized_advantage_estimate,
    vec_generalized_advantage_estimate,
)


class Gaussian(nn.Module):
    """Mean and scale, the scale independent of the observation."""

    def __init__(self, obs: int, units: int, actions: int) -> None:
        super().__init__()
        self.mean = net(obs, units, actions)
        self.log_std = nn.Parameter(torch.zeros(actions))

    def forward(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        mean = self.mean(obs)
        return mean, self.log_std.exp().expand_as(mean)


def ppo_update(*, rows: int, obs: int, actions: int, units: int) -> Callable[[], Any]:
    """Update on `rows` rows, with the loss's defaults: no clipping of the value loss."""
    actor = ProbabilisticActor(
        TensorDictModule(Gaussian(obs, units, actions), ["observation"], ["loc", "scale"]),
        in_keys=["loc", "scale"],
        distribution_class=lambda loc, scale: Independent(Normal(loc, scale), 1),
        return_log_prob=True,
    )
    critic = ValueOperator(net(obs, units, 1), in_keys=["observation"])
    loss = ClipPPOLoss(actor, critic, clip_epsilon=0.2, entropy_coeff=5e-3)
    optimizer = torch.optim.Adam(loss.parameters(), lr=3e-4)
    batch = TensorDict(
        {
            "observation": torch.randn(rows, obs),
            "action": torch.randn(rows, actions),
            "action_log_prob": torch.randn(rows) - actions,
            "advantage": torch.randn(rows, 1),
            "value_target": torch.randn(rows, 1),
            "state_value": torch.randn(rows, 1),
        },
        [rows],
    )

    def update() -> None:
        losses = loss(batch)
        optimizer.zero_grad()
        total = losses["loss_objective"] + losses["loss_critic"] + losses["loss_entropy"]
        total.backward()
        optimizer.step()

    return update


def gae(*, steps: int, agents: int, vectorized: bool) -> Callable[[], Any]:
    """Estimate the advantages of `[agents, steps, 1]`, its own order."""
    estimate = vec_generalized_advantage_estimate if vectorized else generalized_advantage_estimate
    values, next_values, rewards = torch.randn(3, agents, steps, 1).unbind()
    done = torch.rand(agents, steps, 1) < 0.02
    return lambda: estimate(0.99, 0.95, values, next_values, rewards, done, done)


def net(inputs: int, units: int, outputs: int) -> nn.Sequential:
    """Two hidden layers and an output layer."""
    return nn.Sequential(
        nn.Linear(inputs, units),
        nn.SiLU(),
        nn.Linear(units, units),
        nn.SiLU(),
        nn.Linear(units, outputs),
    )
