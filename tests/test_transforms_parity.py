"""Recipes of optinfra.transforms move the parameters as torch.optim and optax do."""

import math
from functools import partial

import chex
import jax
import numpy as np
import optax
import pytest
import torch

from optinfra import schedules, tree
from optinfra import transforms as t

UPDATES = 200
LR = 2**-7  # exact in float32


def params_at_start(dtype, scale=1.0):
    generator = torch.Generator().manual_seed(1)
    shapes = {"weight": (6, 5), "bias": (7,), "dead": (3,)}
    draws = {k: torch.randn(shape, generator=generator) for k, shape in shapes.items()}
    return tree.map(lambda x: (scale * x).to(dtype), draws)


def grads_at(step, dtype):
    """Signs and sizes (1e-3 to 10) change; some coordinates are rare, late, small or zero."""
    generator = torch.Generator().manual_seed(100 + step)
    size = 10 ** (4 * torch.rand((), generator=generator) - 3)
    weight = size * torch.randn(6, 5, generator=generator)
    weight[0, :2] = 0.0
    late, rare = float(step >= UPDATES // 4), float(step % 3 == 0)
    parts = torch.tensor([1e-4, 1e-2, 1.0, 1e2, 1.0, late, rare])
    bias = size * torch.randn(7, generator=generator) * parts
    return {k: x.to(dtype) for k, x in dict(weight=weight, bias=bias, dead=torch.zeros(3)).items()}


def displacement(transform, start, updates=UPDATES):
    params, state = start, transform.init(start)
    dtype = start["weight"].dtype
    for step in range(updates):
        state, deltas = transform.update(state, grads_at(step, dtype), params)
        params = t.apply_updates(params, deltas)
    return {k: (params[k] - start[k]).double() for k in start}


def torch_displacement(optimizer, start, rate=lambda step: LR, **settings):
    params = tree.map(lambda p: p.clone().requires_grad_(), start)
    optimizer = optimizer(params.values(), **settings)
    for step in range(UPDATES):
        optimizer.param_groups[0]["lr"] = rate(step)
        for name, g in grads_at(step, start["weight"].dtype).items():
            params[name].grad = g
        optimizer.step()
    return {k: (params[k].detach() - start[k]).double() for k in start}


def optax_displacement(transform, start):
    step_once = jax.jit(transform.update)
    with jax.enable_x64(True):  # in float32 its 1 − βᵗ alone is off by up to 7e-6
        arrays = lambda xs: {k: jax.numpy.asarray(x.numpy()) for k, x in xs.items()}
        first = params = arrays(start)
        state = transform.init(params)
        for step in range(UPDATES):
            updates, state = step_once(arrays(grads_at(step, torch.float64)), state, params)
            params = optax.apply_updates(params, updates)
        return {k: torch.tensor(np.asarray(params[k] - first[k])) for k in start}


def decayed(weight_decay, transform):
    return t.chain(t.add_decayed_weights(weight_decay), transform)


PARITY = {  # ours, torch.optim's class and settings
    "adam": (t.adam(LR), torch.optim.Adam, {}),
    "adam_fast": (t.adam(LR, 0.5, 0.9, 1e-3), torch.optim.Adam, dict(betas=(0.5, 0.9), eps=1e-3)),
    "adam_b1_0": (t.adam(LR, 0.0, 0.99), torch.optim.Adam, dict(betas=(0.0, 0.99))),
    "adam_l2": (decayed(0.1, t.adam(LR)), torch.optim.Adam, dict(weight_decay=0.1)),
    "adamw": (t.adamw(LR), torch.optim.AdamW, {}),
    "adamw_strong": (t.adamw(LR, weight_decay=0.3), torch.optim.AdamW, dict(weight_decay=0.3)),
    "sgd": (t.sgd(LR), torch.optim.SGD, {}),
    "sgd_momentum": (t.sgd(LR, 0.9), torch.optim.SGD, dict(momentum=0.9)),
    "sgd_nesterov": (
        t.sgd(LR, 0.8, nesterov=True), torch.optim.SGD, dict(momentum=0.8, nesterov=True)
    ),
    "sgd_l2": (
        decayed(0.1, t.sgd(LR, 0.9)), torch.optim.SGD, dict(momentum=0.9, weight_decay=0.1)
    ),
    "rmsprop": (t.rmsprop(LR), torch.optim.RMSprop, {}),
    "rmsprop_momentum": (
        t.rmsprop(LR, 0.95, 1e-4, momentum=0.7),
        torch.optim.RMSprop,
        dict(alpha=0.95, eps=1e-4, momentum=0.7),
    ),
    "rmsprop_centered": (
        t.centered_rmsprop(LR, 0.9, 1e-5, momentum=0.3),
        torch.optim.RMSprop,
        dict(alpha=0.9, eps=1e-5, momentum=0.3, centered=True),
    ),
    "rmsprop_centered_defaults": (
        t.centered_rmsprop(LR), torch.optim.RMSprop, dict(centered=True)
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PARITY)
def test_recipe_displaces_every_parameter_as_torch_optim_does(name):
    """Element by element, in float64."""
    ours, optimizer, settings = PARITY[name]
    start = params_at_start(torch.float64)
    expected = torch_displacement(optimizer, start, **settings)
    chex.assert_trees_all_close(displacement(ours, start), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", PARITY)
def test_recipe_in_float32_stays_with_torch_optim_in_float64(name):
    """In norm. From zero: elsewhere rounding p + u costs torch.optim and us more than 1e-6."""
    ours, optimizer, settings = PARITY[name]
    expected = torch_displacement(optimizer, params_at_start(torch.float64, 0.0), **settings)
    actual = displacement(ours, params_at_start(torch.float32, 0.0))
    error = t.global_norm(tree.map(torch.sub, actual, expected)) / t.global_norm(expected)
    assert error < 1e-6


HALVING = {50: 0.5, 100: 0.25, 150: 4.0}
SCHEDULED = {
    "adamw": (t.adamw, torch.optim.AdamW, {}),
    "sgd": (partial(t.sgd, momentum=0.9), torch.optim.SGD, dict(momentum=0.9)),
    "rmsprop": (partial(t.rmsprop, momentum=0.9), torch.optim.RMSprop, dict(momentum=0.9)),
    "centered_rmsprop": (
        partial(t.centered_rmsprop, momentum=0.9),
        torch.optim.RMSprop,
        dict(momentum=0.9, centered=True),
    ),
}


@pytest.mark.parametrize("name", SCHEDULED)
def test_recipe_with_a_schedule_follows_torch_optim_whose_rate_is_changed(name):
    """A change of rate acts at once, on the momentum gathered before it too."""
    recipe, optimizer, settings = SCHEDULED[name]
    start = params_at_start(torch.float64)
    rate = lambda step: LR * math.prod(scale for at, scale in HALVING.items() if step >= at)
    expected = torch_displacement(optimizer, start, rate, **settings)
    actual = displacement(recipe(schedules.piecewise_constant(LR, HALVING)), start)
    chex.assert_trees_all_close(actual, expected, rtol=1e-9, atol=1e-12)


OPTAX = {
    "adam": (t.adam(LR), optax.adam(LR)),
    "adam_fast": (t.adam(LR, 0.5, 0.9, 1e-3), optax.adam(LR, 0.5, 0.9, 1e-3)),
    "adamw": (t.adamw(LR, weight_decay=0.3), optax.adamw(LR, weight_decay=0.3)),
    "sgd_momentum": (t.sgd(LR, 0.9), optax.sgd(LR, 0.9)),
    "sgd_nesterov": (t.sgd(LR, 0.8, nesterov=True), optax.sgd(LR, 0.8, nesterov=True)),
    "rmsprop": (
        t.rmsprop(LR, 0.9, 1e-4, momentum=0.5),
        optax.rmsprop(LR, 0.9, 1e-4, eps_in_sqrt=False, momentum=0.5),
    ),
    "centered_rmsprop": (
        t.chain(t.scale_by_stddev(0.9, 1e-4), t.scale(-LR)),
        optax.chain(optax.scale_by_stddev(0.9, 1e-4, eps_in_sqrt=False), optax.scale(-LR)),
    ),
    "clipped": (
        t.chain(t.clip_by_global_norm(0.5), t.clip_by_value(0.1), t.sgd(LR)),
        optax.chain(optax.clip_by_global_norm(0.5), optax.clip(0.1), optax.sgd(LR)),
    ),
    "scheduled": (
        t.adam(schedules.warmup(schedules.linear(LR, 1e-4, 150), 20)),
        optax.adam(
            optax.join_schedules(
                [optax.linear_schedule(0.0, LR, 20), optax.linear_schedule(LR, 1e-4, 150)], [20]
            )
        ),
    ),
}


@pytest.mark.parametrize("name", OPTAX)
def test_recipe_displaces_every_parameter_as_optax_does(name):
    ours, theirs = OPTAX[name]
    start = params_at_start(torch.float64)
    expected = optax_displacement(theirs, start)
    atol = 1e-8 if name == "scheduled" else 1e-12  # the value of a schedule is a float32
    chex.assert_trees_all_close(displacement(ours, start), expected, rtol=1e-6, atol=atol)


def test_bias_correction_is_exact_after_many_updates():
    """u = 1 for ever under g = 1: m and v are the weights they are divided by."""
    transform, grads = t.scale_by_adam(0.9, 0.9999, 1e-12), {"x": torch.ones(1)}
    state = transform.init(grads)
    for _ in range(500):
        state, updates = transform.update(state, grads, grads)
        assert abs(updates["x"] - 1) < 3e-6


def test_centered_rmsprop_of_a_constant_gradient_is_finite():
    """torch.optim takes the root of v − m², which rounds below zero."""
    transform, grads = t.scale_by_stddev(0.9), {"x": torch.full((50,), 0.1).cumsum(0)}
    state = transform.init(grads)
    for _ in range(300):
        state, updates = transform.update(state, grads, grads)
    assert updates["x"].isfinite().all()
