"""optinfra: reinforcement-learning updates as pure functions on PyTorch."""

from importlib import import_module
from typing import Any

from optinfra.version import VERSION as __version__  # noqa: F401

STATEFUL = ("TorchOptimizer", "TorchPPOOptimizer", "TorchSACOptimizer", "TorchPOCAOptimizer")


def __getattr__(name: str) -> Any:
    """Find ML-Agents' optimizers here too; what they need is loaded when they are asked for."""
    if name in STATEFUL:
        return getattr(import_module("optinfra.mlagents"), name)
    raise AttributeError(f"module 'optinfra' has no attribute {name!r}")
