"""The peers: which libraries there are, what they need, and how to provide it.

One module per library. Its functions are named after the cases, take sizes as keyword
arguments and return the call to be timed. They import neither optinfra nor one another, so
that any interpreter which has the library can run them.
"""

from typing import NamedTuple

ML_AGENTS = "OPTINFRA_BENCH_MLAGENTS"
PEERS = "OPTINFRA_BENCH_PEERS"


class Library(NamedTuple):
    """A library to compare with."""

    title: str
    modules: tuple[str, ...]  # must be importable
    packages: tuple[str, ...]  # what pip installs to have them; their versions are reported
    variable: str  # environment variable with an interpreter that has them


LIBRARIES = {
    "jax": Library("JAX", ("jax", "optax"), ("jax", "optax"), PEERS),
    "mlagents": Library("ML-Agents", ("mlagents",), ("mlagents==1.1.0", "torch"), ML_AGENTS),
    "rlax": Library("rlax", ("rlax", "jax"), ("rlax", "jax"), PEERS),
    "stable_baselines3": Library(
        "SB3",
        ("stable_baselines3", "gymnasium"),
        ("stable-baselines3", "gymnasium", "torch"),
        PEERS,
    ),
    "sb3_contrib": Library(
        "SB3-contrib",
        ("sb3_contrib", "stable_baselines3", "gymnasium"),
        ("sb3-contrib", "stable-baselines3", "gymnasium", "torch"),
        PEERS,
    ),
    "torch": Library("torch", ("torch",), ("torch",), PEERS),
    "torchopt": Library("TorchOpt", ("torchopt",), ("torchopt", "torch"), PEERS),
    "torchrl": Library(
        "TorchRL", ("torchrl", "tensordict"), ("torchrl", "tensordict", "torch"), PEERS
    ),
}
