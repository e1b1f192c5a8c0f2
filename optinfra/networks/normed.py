"""Bodies whose layers are normalised, for critics that are updated often."""

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm

from optinfra.networks.initializers import constant
from optinfra.networks.modules import VectorBody
from optinfra.types import Obs

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


class NormedBody(nn.Module):
    """Normalise what each layer of a body gives before its activation.

    Args:
      body: its layers keep their names, and with them their draws.
      hidden_units: h, their width.
    """

    def __init__(self, body: VectorBody, hidden_units: int) -> None:
        super().__init__()
        self.layers, self.activation = body.layers, body.activation
        self.norms = nn.ModuleList(LayerNorm(hidden_units) for _ in body.layers)

    def forward(self, obs: Obs) -> Tensor:
        """Map observations `[*B, D_i]` to an encoding `[*B, h]`."""
        x = torch.cat(obs, -1) if len(obs) > 1 else obs[0]
        for layer, norm in zip(self.layers, self.norms):
            x = self.activation(norm(layer(x)))
        return x
