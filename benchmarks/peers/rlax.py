"""rlax's returns, jitted and vmapped."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import rlax


def gae(*, steps: int, agents: int) -> Callable[[], Any]:
    """Estimate the advantages of `[steps, agents]`; the other order is slower for it."""
    keys = jax.random.split(jax.random.key(0), 3)
    rewards = jax.random.normal(keys[0], (steps, agents))
    discounts = 0.99 * (jax.random.uniform(keys[1], (steps, agents)) > 0.02)
    values = jax.random.normal(keys[2], (steps + 1, agents))

    @jax.jit
    @partial(jax.vmap, in_axes=1, out_axes=1)
    def estimate(rewards: jax.Array, discounts: jax.Array, values: jax.Array) -> jax.Array:
        return rlax.truncated_generalized_advantage_estimation(rewards, discounts, 0.95, values)

    return lambda: estimate(rewards, discounts, values).block_until_ready()
