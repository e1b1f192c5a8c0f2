"""Layers and heads, on the meta device: they describe and hold nothing."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, silu

from optinfra.distributions import PolicyOutputs
from optinfra.networks.initializers import (
    Initializer,
    constant,
    kaiming_normal,
    xavier_uniform,
)
from optinfra.types import ActionSpec

swish = silu
relu = torch.relu
tanh = torch.tanh
KAIMING_NORMAL = kaiming_normal()
XAVIER_UNIFORM = xavier_uniform()
SMALL_MEANS = kaiming_normal(0.2)  # ML-Agents' gain, so that early actions are small
EVEN_CHOICES = kaiming_normal(0.1)  # ML-Agents' gain, so that early choices are even


class Linear(nn.Module):
    """y = x·Wᵀ + b, with a chosen initializer for W `[out, in]` and zeros for b `[out]`."""

    def __init__(self, inputs: int, outputs: int, weight: Initializer) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs, device="meta"))
        self.bias = nn.Parameter(torch.empty(outputs, device="meta"))
        self.initializers = {"weight": weight, "bias": constant(0.0)}

    def forward(self, x: Tensor) -> Tensor:
        """Map `[*B, in]` to `[*B, out]`."""
        return linear(x, self.weight, self.bias)


class PolicyHead(nn.Module):
    """Turn an encoding into `PolicyOutputs`; the deviation does not depend on the state.

    Args:
      inputs: h, width of the encoding.
      action: sizes.
      mean: initializer of the means' weights.
      logits: initializer of the logits' weights.
    """

    def __init__(
        self,
        inputs: int,
        action: ActionSpec,
        mean: Initializer = SMALL_MEANS,
        logits: Initializer = EVEN_CHOICES,
    ) -> None:
        super().__init__()
        self.action = action
        if action.continuous:
            self.mean = Linear(inputs, action.continuous, mean)
            self.log_std = nn.Parameter(torch.empty(action.continuous, device="meta"))
        if action.branches:
            self.logits = Linear(inputs, action.choices, logits)
        self.initializers = {"log_std": constant(0.0)}

    def forward(self, encoding: Tensor) -> PolicyOutputs:
        """Map an encoding `[*B, h]` to the distribution of the next action."""
        nothing = encoding[..., :0]
        mean, log_std, logits = nothing, nothing, nothing
        if self.action.continuous:
            mean = self.mean(encoding)
            log_std = self.log_std.expand(mean.shape)
        if self.action.branches:
            logits = self.logits(encoding)
        return PolicyOutputs(mean, log_std, logits)


class ValueHeads(nn.Module):
    """One value per reward stream from one encoding.

    Args:
      inputs: h, width of the encoding.
      streams: names; each head's parameters carry its stream's name.
      weight: initializer of the heads' weights.
    """

    def __init__(
        self, inputs: int, streams: Sequence[str], weight: Initializer = XAVIER_UNIFORM
    ) -> None:
        super().__init__()
        self.heads = nn.ModuleDict({name: Linear(inputs, 1, weight) for name in streams})

    def forward(self, encoding: Tensor) -> dict[str, Tensor]:
        """Map an encoding `[*B, h]` to one value `[*B]` per stream."""
        return {name: head(encoding).squeeze(-1) for name, head in self.heads.items()}
