"""optinfra: reinforcement-learning updates as pure functions on PyTorch."""

from optinfra.version import VERSION as __version__  # noqa: F401
