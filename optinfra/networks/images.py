"""Encoders of images: small convolutional networks, ML-Agents' by their names there.

An image is `[C, H, W]`: floats as they are, or uint8, which count as 255ths.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, leaky_relu, max_pool2d

from optinfra.check import require_trailing
from optinfra.networks.initializers import kaiming_normal, uniform_by_inputs
from optinfra.networks.modules import Linear, relu, swish
from optinfra.types import Obs, Spec

IMAGE = 3  # axes of an image: channels, height, width
BRIGHTEST = 255.0  # what a byte's largest number stands for is 1
DENSE = kaiming_normal(1.41)  # ML-Agents' gain of the layer behind the convolutions
POOLING, POOLING_STRIDE = 3, 2


def as_floats(x: Tensor) -> Tensor:
    """Read an observation as floats: bytes as x / 255, anything else as it is.

    Args:
      x: of any shape.

    Returns:
      The same shape, without unit.
    """
    return x.to(torch.float32) / BRIGHTEST if x.dtype == torch.uint8 else x


def pixel_by_pixel(x: Tensor) -> Tensor:
    """Read images `[*B, C, H, W]` as floats that lie in memory as convolutions are computed.

    What lies so already stays. Done once, before several networks see the same images, it spares
    a copy for each: a compiler would make one for every convolution, and one on the way back.
    """
    return as_floats(x).movedim(-3, -1).contiguous().movedim(-1, -3)


def seen_once(spec: Spec, obs: Obs) -> Obs:
    """Read the images among observations, once for all networks that see them.

    Args:
      spec: of the observations.
      obs: `[*B, *shape_i]` each.

    Returns:
      The same shapes; images as floats.
    """
    images = [i for i, shape in enumerate(spec.obs) if len(shape) == IMAGE]
    if not images:
        return obs
    return tuple(pixel_by_pixel(x) if i in images else x for i, x in enumerate(obs))


class Conv(nn.Module):
    """Convolve `[N, C, H, W]` with a square kernel; weight `[out, in, k, k]`, bias `[out]`.

    Both are drawn from U(±1/√(in·k²)), as torch.nn.Conv2d does.
    """

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int = 1, padding: int = 0
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs, kernel, kernel, device="meta"))
        self.bias = nn.Parameter(torch.empty(outputs, device="meta"))
        self.stride, self.padding = stride, padding
        draw = uniform_by_inputs(inputs * kernel * kernel)
        self.initializers = {"weight": draw, "bias": draw}

    def forward(self, x: Tensor) -> Tensor:
        """Map `[N, in, H, W]` to `[N, out, H′, W′]`, H′ = ⌊(H + 2·padding − k) / stride⌋ + 1."""
        return conv2d(x, self.weight, self.bias, self.stride, self.padding)

    def size(self, side: int) -> int:
        """Tell how long a side of so many pixels becomes."""
        kernel = self.weight.shape[-1]
        return (side + 2 * self.padding - kernel) // self.stride + 1


class ImageEncoder(nn.Module):
    """Encode images `[*B, C, H, W]` as `[*B, h]`: convolutions, then one dense layer.

    Args:
      convolutions: what turns `[N, C, H, W]` into features, applied in this order.
      shape: (C, H, W).
      features: numbers that the convolutions make of an image.
      hidden_units: h.
      activation: after the dense layer.
    """

    def __init__(
        self,
        convolutions: Sequence[nn.Module],
        shape: tuple[int, ...],
        features: int,
        hidden_units: int,
        activation: Callable[[Tensor], Tensor] = leaky_relu,
    ) -> None:
        super().__init__()
        self.shape = shape
        self.convolutions = nn.ModuleList(convolutions)
        self.dense = Linear(features, hidden_units, DENSE)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """Map images `[*B, C, H, W]`, float or uint8, to `[*B, h]`.

        Raises:
          ValueError: the last three axes are not the encoder's.
        """
        require_trailing("x", x, self.shape)
        rows = x.shape[: x.ndim - len(self.shape)]
        features = pixel_by_pixel(x).reshape(-1, *self.shape)
        for layer in self.convolutions:
            features = layer(features)
        encoding = self.activation(self.dense(features.flatten(1)))
        return encoding.reshape(*rows, encoding.shape[-1])


class Rectified(nn.Module):
    """A convolution, then a leaky rectifier of slope 0.01."""

    def __init__(self, conv: Conv) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor) -> Tensor:
        """Map `[N, in, H, W]` to `[N, out, H′, W′]`."""
        return leaky_relu(self.conv(x))


class ResidualBlock(nn.Module):
    """y = x + conv(swish(conv(swish(x)))), 3×3 kernels that keep the size.

    Source: He et al. 2016, https://arxiv.org/abs/1603.05027, with another activation.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = Conv(channels, channels, 3, padding=1)
        self.second = Conv(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map `[N, C, H, W]` to the same shape."""
        return x + self.second(swish(self.first(swish(x))))


class ResidualStack(nn.Module):
    """A 3×3 convolution, a maximum over 3×3 pixels every second one, two residual blocks.

    Source: Espeholt et al. 2018, figure 3, https://arxiv.org/abs/1802.01561.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = Conv(inputs, outputs, 3, padding=1)
        self.blocks = nn.ModuleList(ResidualBlock(outputs) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """Map `[N, in, H, W]` to `[N, out, ⌊(H − 3) / 2⌋ + 1, ⌊(W − 3) / 2⌋ + 1]`."""
        x = max_pool2d(self.conv(x), POOLING, POOLING_STRIDE)
        for block in self.blocks:
            x = block(x)
        return x

    @staticmethod
    def size(side: int) -> int:
        """Tell how long a side of so many pixels becomes."""
        return (side - POOLING) // POOLING_STRIDE + 1


class Swish(nn.Module):
    """y = x·σ(x)."""

    def forward(self, x: Tensor) -> Tensor:
        """Map any shape to itself."""
        return swish(x)


def simple(shape: tuple[int, ...], hidden_units: int) -> ImageEncoder:
    """Build ML-Agents' `simple` encoder: 16 of 8×8 every 4, 32 of 4×4 every 2; 20 pixels or more.

    Args:
      shape: (C, H, W).
      hidden_units: h.

    Returns:
      An `ImageEncoder`.

    Raises:
      ValueError: a side is too short.
    """
    return _plain("simple", shape, hidden_units, [(16, 8, 4), (32, 4, 2)])


def nature_cnn(shape: tuple[int, ...], hidden_units: int) -> ImageEncoder:
    """Build the `nature_cnn` encoder: three convolutions; 36 pixels a side or more. See `simple`.

    Source: Mnih et al. 2015, https://doi.org/10.1038/nature14236.
    """
    return _plain("nature_cnn", shape, hidden_units, [(32, 8, 4), (64, 4, 2), (64, 3, 1)])


def match3(shape: tuple[int, ...], hidden_units: int) -> ImageEncoder:
    """Build the `match3` encoder of boards: 35 and 144 of 3×3; 5 cells or more. See `simple`.

    Source: Gudmundsson et al. 2018, https://doi.org/10.1109/CIG.2018.8490442.
    """
    return _plain("match3", shape, hidden_units, [(35, 3, 1), (144, 3, 1)])


def fully_connected(shape: tuple[int, ...], hidden_units: int) -> ImageEncoder:
    """Build an encoder without convolutions: one dense layer on all pixels. See `simple`."""
    _require_image("fully_connected", shape)
    channels, height, width = shape
    return ImageEncoder((), shape, channels * height * width, hidden_units)


def resnet(shape: tuple[int, ...], hidden_units: int) -> ImageEncoder:
    """Build the `resnet` encoder: stacks of 16, 32 and 32; 15 pixels or more. See `simple`.

    Source: Espeholt et al. 2018, figure 3, https://arxiv.org/abs/1802.01561.
    """
    _require_image("resnet", shape)
    channels, height, width = shape
    stacks = [ResidualStack(a, b) for a, b in pairwise((channels, 16, 32, 32))]
    for _ in stacks:
        height, width = ResidualStack.size(height), ResidualStack.size(width)
    features = 32 * height * width
    return ImageEncoder((*stacks, Swish()), shape, features, hidden_units, relu)


SMALLEST_SIDES: Mapping[str, int] = {
    "simple": 20, "nature_cnn": 36, "match3": 5, "fully_connected": 1, "resnet": 15,
}  # fmt: skip
IMAGE_ENCODERS: Mapping[str, Callable[[tuple[int, ...], int], ImageEncoder]] = {
    "simple": simple,
    "nature_cnn": nature_cnn,
    "match3": match3,
    "fully_connected": fully_connected,
    "resnet": resnet,
}


def _plain(
    name: str, shape: tuple[int, ...], hidden_units: int, layers: Sequence[tuple[int, int, int]]
) -> ImageEncoder:
    """Build convolutions of so many channels, of such kernels, at such strides."""
    _require_image(name, shape)
    inputs, height, width = shape
    convolutions: list[Any] = []
    for outputs, kernel, stride in layers:
        conv = Conv(inputs, outputs, kernel, stride)
        inputs, height, width = outputs, conv.size(height), conv.size(width)
        convolutions.append(Rectified(conv))
    return ImageEncoder(convolutions, shape, inputs * height * width, hidden_units)


def _require_image(name: str, shape: tuple[int, ...]) -> None:
    least = SMALLEST_SIDES[name]
    if len(shape) != 3 or min(shape[1:]) < least:
        raise ValueError(
            f"`shape` must be (C, H, W) with sides of {least} pixels or more for the encoder "
            f"{name!r}, got {tuple(shape)}. `match3` takes sides from 5 on, `fully_connected` any."
        )
