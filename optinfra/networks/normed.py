"""Normalisation of features, for critics that are updated often."""

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm

from optinfra.networks.initializers import constant

NORM_EPS = 1e-5  # torch.nn.LayerNorm's


class LayerNorm(nn.Module):
    """y = w·(x − mean x)/√(var x + 1e-5) + b over the features; w `[h]` of ones, b `[h]` of zeros.

    Source: Ba et al. 2016, https://arxiv.org/abs/1607.06450.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(features, device="meta"))
        self.bias = nn.Parameter(torch.empty(features, device="meta"))
        self.initializers = {"weight": constant(1.0), "bias": constant(0.0)}

    def forward(self, x: Tensor) -> Tensor:
        """Map `[*B, h]` to `[*B, h]`."""
        return layer_norm(x, self.weight.shape, self.weight, self.bias, NORM_EPS)
