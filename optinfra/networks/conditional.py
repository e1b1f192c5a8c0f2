"""A layer whose weights another network makes of a goal."""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm

from optinfra import random
from optinfra.networks.initializers import Initializer, constant, kaiming_normal
from optinfra.networks.modules import Linear, swish
from optinfra.networks.normed import NORM_EPS

KAIMING_NORMAL = kaiming_normal()


class HyperLinear(nn.Module):
    """y = x·W(g) + b, W `[in, out]` made of a goal g by a network of its own; b is learnt.

        z = norm(swish(L₂ swish(L₁ g))),   W(g) = reshape(L₃ z)
        norm(z) = (z − mean z)/√(var z + 1e-5)

    Args:
      inputs: width of x.
      outputs: width of y, and of the layers L₁ and L₂.
      goal: width of g.

    Source: Ha et al. 2016, https://arxiv.org/abs/1609.09106; sizes and initialisation are
    ML-Agents'.
    """

    def __init__(self, inputs: int, outputs: int, goal: int) -> None:
        super().__init__()
        self.first = Linear(goal, outputs, KAIMING_NORMAL)
        self.second = Linear(outputs, outputs, KAIMING_NORMAL)
        self.weights = Linear(outputs, inputs * outputs, _small(outputs * inputs))
        self.bias = nn.Parameter(torch.empty(outputs, device="meta"))
        self.initializers = {"bias": constant(0.0)}
        self.shape = (inputs, outputs)

    def forward(self, x: Tensor, goal: Tensor) -> Tensor:
        """Map `[*B, in]` and goals `[*B, g]` to `[*B, out]`."""
        z = swish(self.second(swish(self.first(goal))))
        z = layer_norm(z, z.shape[-1:], eps=NORM_EPS)
        weights = self.weights(z).unflatten(-1, self.shape)
        return (x[..., None, :] @ weights).squeeze(-2) + self.bias


def _small(scale: int) -> Initializer:
    """Draw from U(±√(1 / scale))."""
    bound = math.sqrt(1 / scale)
    return lambda key, shape: random.uniform(key, shape, minval=-bound, maxval=bound)
