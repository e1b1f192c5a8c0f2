"""JAX and optax: the same arithmetic, jitted."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

CLIP, VALUE_COEF = 0.2, 0.5
Net = list[tuple[jax.Array, jax.Array]]  # weights and biases, layer by layer
Call = Callable[[], Any]


def ppo_update(*, rows: int, obs: int, actions: int, units: int) -> Call:
    """Update a Gaussian policy and its critic. Two losses are its stats, where ours are ten."""
    keys = jax.random.split(jax.random.key(0), 8)
    params = {
        "actor": net(keys[0], obs, units, actions),
        "critic": net(keys[1], obs, units, 1),
        "log_std": jnp.zeros(actions),
    }
    normal = jax.random.normal
    batch = {
        "obs": normal(keys[2], (rows, obs)),
        "action": normal(keys[3], (rows, actions)),
        "log_prob": normal(keys[4], (rows, actions)) - 1,
        "advantages": normal(keys[5], (rows,)),
        "values": normal(keys[6], (rows,)),
        "returns": normal(keys[7], (rows,)),
    }

    def loss(params: Any, batch: Any) -> Any:
        mean, log_std = applied(params["actor"], batch["obs"], jax.nn.silu), params["log_std"]
        z = (batch["action"] - mean) / jnp.exp(log_std)
        log_prob = -0.5 * z**2 - log_std - 0.5 * math.log(2 * math.pi)
        ratio = jnp.exp(log_prob.sum(-1) - batch["log_prob"].sum(-1))
        entropy = (log_std + 0.5 * math.log(2 * math.pi * math.e)).mean()
        return total(params, batch, ratio, entropy, jax.nn.silu, entropy_coef=5e-3)

    return updating(jax.jit(step(loss, optax.adam(3e-4))), params, optax.adam(3e-4).init, batch)


def ensemble(*, members: int, rows: int, obs: int, actions: int, units: int) -> Call:
    """Update many categorical policies and their critics at once."""
    optimizer = optax.chain(optax.clip_by_global_norm(0.5), optax.adam(2.5e-4, eps=1e-5))
    normal = jax.random.normal

    def init(key: jax.Array) -> Any:
        actor, critic = jax.random.split(key)
        return {"actor": net(actor, obs, units, actions), "critic": net(critic, obs, units, 1)}

    def drawn(key: jax.Array) -> Any:
        keys = jax.random.split(key, 6)
        return {
            "obs": normal(keys[0], (rows, obs)),
            "action": jax.random.randint(keys[1], (rows,), 0, actions),
            "log_prob": 0.1 * normal(keys[2], (rows,)) - math.log(actions),
            "advantages": normal(keys[3], (rows,)),
            "values": normal(keys[4], (rows,)),
            "returns": normal(keys[5], (rows,)),
        }

    def loss(params: Any, batch: Any) -> Any:
        log_probs = jax.nn.log_softmax(applied(params["actor"], batch["obs"], jnp.tanh))
        log_prob = (log_probs * jax.nn.one_hot(batch["action"], actions)).sum(-1)
        ratio = jnp.exp(log_prob - batch["log_prob"])
        entropy = -(jnp.exp(log_probs) * log_probs).sum(-1).mean()
        return total(params, batch, ratio, entropy, jnp.tanh, entropy_coef=0.01)

    keys = jax.random.split(jax.random.key(0), members)
    update = jax.jit(jax.vmap(step(loss, optimizer)))
    return updating(update, jax.vmap(init)(keys), jax.vmap(optimizer.init), jax.vmap(drawn)(keys))


def adam(*, shapes: list[list[int]]) -> Call:
    """Apply Adam to parameters of these shapes."""
    keys = jax.random.split(jax.random.key(0), len(shapes))
    params = [jax.random.normal(key, shape) for key, shape in zip(keys, shapes)]
    grads = [jax.random.normal(key, shape) for key, shape in zip(keys[::-1], shapes)]
    optimizer = optax.adam(3e-4)

    @jax.jit
    def update(params: Any, state: Any, grads: Any) -> Any:
        updates, state = optimizer.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), ()

    return updating(update, params, optimizer.init, grads)


def random(*, draw: str, shape: list[int]) -> Call:
    """Draw by `jax.random`, which uses the same Threefry."""
    draws = {
        "uniform": lambda key: jax.random.uniform(key, shape),
        "normal": lambda key: jax.random.normal(key, shape),
        "split": lambda key: jax.random.split(key, shape[0]),
    }
    drawn, key = jax.jit(draws[draw]), jax.random.PRNGKey(0)
    return lambda: drawn(key).block_until_ready()


def net(key: jax.Array, inputs: int, units: int, outputs: int) -> Net:
    """Two hidden layers and an output layer."""
    sizes = [inputs, units, units, outputs]
    keys = jax.random.split(key, len(sizes) - 1)
    return [
        (jax.random.normal(k, (n, m)) / math.sqrt(n), jnp.zeros(m))
        for k, n, m in zip(keys, sizes, sizes[1:])
    ]


def applied(layers: Net, x: jax.Array, activation: Callable[[jax.Array], jax.Array]) -> jax.Array:
    """Run a network."""
    *hidden, (weight, bias) = layers
    for w, b in hidden:
        x = activation(x @ w + b)
    return x @ weight + bias


def total(
    params: Any, batch: Any, ratio: Any, entropy: Any, activation: Any, *, entropy_coef: float
) -> Any:
    """PPO's loss with both losses clipped, and its parts."""
    advantages, old, returns = batch["advantages"], batch["values"], batch["returns"]
    clipped = jnp.clip(ratio, 1 - CLIP, 1 + CLIP)
    policy_loss = -jnp.minimum(ratio * advantages, clipped * advantages).mean()
    values = applied(params["critic"], batch["obs"], activation).squeeze(-1)
    near = old + jnp.clip(values - old, -CLIP, CLIP)
    value_loss = jnp.maximum((values - returns) ** 2, (near - returns) ** 2).mean()
    loss = policy_loss + VALUE_COEF * value_loss - entropy_coef * entropy
    return loss, {"policy_loss": policy_loss, "value_loss": value_loss}


def step(loss: Callable[[Any, Any], Any], optimizer: Any) -> Callable[[Any, Any, Any], Any]:
    """One gradient step."""

    def update(params: Any, state: Any, batch: Any) -> Any:
        (_, stats), grads = jax.value_and_grad(loss, has_aux=True)(params, batch)
        updates, state = optimizer.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), stats

    return update


def updating(update: Callable[[Any, Any, Any], Any], params: Any, init: Any, batch: Any) -> Call:
    """Update again and again, each time from where the last one ended."""
    place = (params, init(params))

    def call() -> None:
        nonlocal place
        place, _ = jax.block_until_ready(update(*place, batch))

    return call
