"""MinAtar's games for Gymnasium, which looks for no plugins, and a network that sees them."""

from minatar.gym import register_envs
from torch import nn

register_envs()


def encoder(shape, width):
    """Convolve with 16 kernels of 3×3, as MinAtar's own DQN and actor-critic do."""
    channels, height, breadth = shape
    return nn.Sequential(
        nn.Conv2d(channels, 16, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16 * (height - 2) * (breadth - 2), width),
        nn.ReLU(),
    )
