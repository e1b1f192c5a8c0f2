"""Bodies: from observations of every kind to one encoding."""

from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple, TypeAlias

from torch import Tensor, nn

from optinfra.networks.conditional import HyperLinear
from optinfra.networks.initializers import Initializer
from optinfra.networks.modules import KAIMING_NORMAL, Linear, swish
from optinfra.networks.normed import LayerNorm
from optinfra.networks.observations import (
    EncoderFactory,
    ObservationEncoder,
    require_observations,
    side_by_side,
)
from optinfra.networks.own import OwnModule
from optinfra.types import Obs, Spec

GOAL_CONDITIONING = ("hyper", "none")

# (spec, h) -> a module from as many tensors [N, *shape] as the spec has observations to [N, h]
BodyFactory: TypeAlias = Callable[[Spec, int], nn.Module]


class Encoding(NamedTuple):
    """How observations that are no vectors are read, and where a module of one's own takes over.

    Static. docs/networks.md has the protocol of such modules.
    """

    image: str = "simple"  # one of `IMAGE_ENCODERS`
    goal_conditioning: str = "hyper"  # whether goals make the body's last layer: `hyper` or `none`
    encoder: EncoderFactory | None = None  # of single observations
    body: BodyFactory | None = None  # of all of them, in the place of encoders and layers


ENCODING = Encoding()


class Body(nn.Module):
    """Encode observations, then pass them through fully connected layers.

    Goals are seen as all observations are; besides, with `conditional`, the last layer's weights
    are made of them.

    Args:
      encoder: what reads the observations.
      hidden_units: h, width of every layer.
      num_layers: number of layers; 0 behaves as 1.
      activation: after every layer.
      weight: initializer of every layer but a conditional one.
      beside: width of a vector that comes behind the observations, such as an action.
      conditional: whether a goal, if there is one, makes the last layer.
      normed: whether each layer is normalised before its activation.
    """

    def __init__(
        self,
        encoder: ObservationEncoder,
        hidden_units: int,
        num_layers: int,
        activation: Callable[[Tensor], Tensor] = swish,
        weight: Initializer = KAIMING_NORMAL,
        *,
        beside: int = 0,
        conditional: bool = False,
        normed: bool = False,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        widths = [encoder.width + beside] + [hidden_units] * max(num_layers, 1)
        layers: list[nn.Module] = [Linear(a, b, weight) for a, b in pairwise(widths)]
        self.conditional = conditional and encoder.goal_width > 0
        if self.conditional:
            layers[-1] = HyperLinear(widths[-2], hidden_units, encoder.goal_width)
        self.layers = nn.ModuleList(layers)
        self.normed = normed
        self.norms = nn.ModuleList(LayerNorm(hidden_units) for _ in layers if normed)
        self.activation = activation

    def forward(self, obs: Obs) -> Tensor:
        """Map observations `[*B, *shape_i]`, and what stands beside them, to `[*B, h]`."""
        seen = len(self.encoder.spec.obs)
        encoded = self.encoder(obs[:seen])
        x = side_by_side([encoded.together, *obs[seen:]])
        norms = self.norms if self.normed else None
        for i, layer in enumerate(self.layers):
            x = layer(x, encoded.goal) if isinstance(layer, HyperLinear) else layer(x)
            x = self.activation(norms[i](x) if norms is not None else x)
        return x


def body(
    spec: Spec,
    hidden_units: int,
    num_layers: int,
    activation: Callable[[Tensor], Tensor] = swish,
    weight: Initializer = KAIMING_NORMAL,
    encoding: Encoding = ENCODING,
    *,
    beside: int = 0,
    normed: bool = False,
) -> nn.Module:
    """Build ML-Agents' body for observations of every kind, or the user's own.

    Args:
      spec: what is seen.
      hidden_units: h ≥ 1, width of every layer, and of an image's encoding.
      num_layers: of the body.
      activation: after every layer.
      weight: initializer of the layers.
      encoding: how images and goals are read, and the user's own modules.
      beside: width of a vector behind the observations; 0 for none. To a body of the user's own
        it is one more observation.
      normed: whether each layer is normalised before its activation.

    Returns:
      A module from `(*obs, beside)` to `[*B, h]`.

    Raises:
      ValueError: an observation is of no known kind or an image too small, `encoding` names
        nothing known, a module of the user's own does not work, or `normed` is asked of one.
    """
    if encoding.goal_conditioning not in GOAL_CONDITIONING:
        raise ValueError(
            f"`goal_conditioning` must be one of {GOAL_CONDITIONING}, "
            f"got {encoding.goal_conditioning!r}."
        )
    if encoding.body is not None:
        if normed:
            raise ValueError("`layer_norm` must be False with a body of your own, got True.")
        require_observations(spec)
        seen = spec._replace(obs=(*spec.obs, (beside,)) if beside else spec.obs)
        return OwnModule("body", encoding.body(seen, hidden_units), seen.obs, hidden_units)
    return Body(
        ObservationEncoder(spec, hidden_units, encoding.image, encoding.encoder),
        hidden_units,
        num_layers,
        activation,
        weight,
        beside=beside,
        conditional=encoding.goal_conditioning == "hyper",
        normed=normed,
    )
