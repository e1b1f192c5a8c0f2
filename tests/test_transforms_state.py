"""States of optinfra.transforms: hyperparameters are leaves, devices and dtypes follow."""

from functools import partial

import chex
import pytest
import torch
from torch.func import grad, vmap

from optinfra import schedules, tree
from optinfra import transforms as t
from tests.cases.transforms import MASK, TRANSFORMS, normals

LR = 2**-7  # exact in float32


SWEEPS = {  # one hyperparameter at a time, the others fixed
    "scale.factor": [t.scale(x) for x in (0.5, -1.0, 2.0)],
    "scale_by_learning_rate": [t.scale_by_learning_rate(x) for x in (0.0, 0.5, 2.0)],
    "schedule.steps": [t.sgd(schedules.linear(1.0, 0.0, n)) for n in (8, 16, 40)],
    "trace.momentum": [t.trace(x) for x in (0.0, 0.5, 0.9)],
    "nesterov.momentum": [t.trace(x, nesterov=True) for x in (0.0, 0.5, 0.9)],
    "adam.b1": [t.scale_by_adam(b1=x) for x in (0.0, 0.5, 0.9)],
    "adam.b2": [t.scale_by_adam(b2=x) for x in (0.0, 0.5, 0.9)],
    "adam.eps": [t.scale_by_adam(eps=x) for x in (1e-8, 0.1, 1.0)],
    "adamw.weight_decay": [t.adamw(0.1, weight_decay=x) for x in (0.0, 0.1, 1.0)],
    "rms.alpha": [t.scale_by_rms(x) for x in (0.0, 0.5, 0.9)],
    "rms.eps": [t.scale_by_rms(eps=x) for x in (1e-8, 0.1, 1.0)],
    "stddev.alpha": [t.scale_by_stddev(x) for x in (0.1, 0.5, 0.9)],
    "stddev.eps": [t.scale_by_stddev(eps=x) for x in (1e-8, 0.1, 1.0)],
    "clip_by_global_norm.max_norm": [t.clip_by_global_norm(x) for x in (0.1, 0.5, 1.0)],
    "clip_by_value.limit": [t.clip_by_value(x) for x in (0.0, 0.5, 1.0)],
    "add_decayed_weights": [t.add_decayed_weights(x) for x in (0.0, 0.1, 1.0)],
    "masked": [t.masked(t.adam(x), MASK) for x in (0.0, 0.1, 1.0)],
    "skip_nonfinite": [t.skip_nonfinite(t.adam(x)) for x in (0.0, 0.1, 1.0)],
    "raveled": [t.raveled(t.adam(x)) for x in (0.0, 0.1, 1.0)],
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", SWEEPS)
def test_swept_hyperparameter_equals_a_loop(name, dtype):
    """The same gradients for all members, so that the hyperparameter alone tells them apart."""
    members, cast = SWEEPS[name], partial(tree.map, lambda x: x.to(dtype))
    params = cast(normals(0))
    states = [member.init(params) for member in members]
    swept = tree.stack(states)
    for step in range(5):
        grads = cast(normals(10 + step))
        pairs = [m.update(state, grads, params) for m, state in zip(members, states)]
        states = [state for state, _ in pairs]
        swept, updates = vmap(members[0].update, (0, None, None))(swept, grads, params)
        expected = tree.stack([u for _, u in pairs])
        chex.assert_trees_all_close(updates, expected, rtol=1e-5, atol=1e-6)
    first, second, third = (tree.take(expected["head"], k) for k in range(3))
    assert not torch.equal(first, second) and not torch.equal(second, third)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_state_lies_where_the_parameters_lie(name):
    """The meta device stands for any other: an operation across devices raises."""
    transform = TRANSFORMS[name](1)
    params = tree.map(lambda x: x.to("meta"), normals(0))
    state = transform.init(params)
    state, updates = transform.update(state, params, params)
    assert all(x.is_meta for x in tree.leaves((state, updates)))


@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_updates_and_moments_keep_the_dtype_of_the_parameters(name, dtype):
    transform = TRANSFORMS[name](1)
    params = tree.map(lambda x: x.to(dtype), normals(0))
    before = transform.init(params)
    after, updates = transform.update(before, params, params)
    chex.assert_trees_all_equal_shapes_and_dtypes(before, after)
    assert all(u.dtype == dtype for u in tree.leaves(updates))


@pytest.mark.parametrize("name", sorted(set(TRANSFORMS) - {"masked"}))
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_state_keeps_its_dtypes_beside_a_wider_leaf(name, dtype):
    """A 0-d leaf is promoted by a 0-d hyperparameter that is wider."""
    transform = TRANSFORMS[name](1)
    params = {"log_scale": torch.tensor(0.5, dtype=dtype), "x": torch.ones(2, dtype=torch.float64)}
    before = transform.init(params)
    after, updates = transform.update(before, params, params)
    chex.assert_trees_all_equal_shapes_and_dtypes(before, after)
    new_params = t.apply_updates(params, updates)
    chex.assert_trees_all_equal_shapes_and_dtypes(params, new_params)


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        (torch.float64, torch.float64),
        (torch.float32, torch.float32),
        (torch.bfloat16, torch.float32),
    ],
)
def test_hyperparameters_are_as_wide_as_the_parameters_and_at_least_float32(dtype, expected):
    hyper = t.scale_by_adam().init({"x": torch.zeros(2, dtype=dtype)}).hyper
    assert {x.dtype for x in hyper} == {expected} and {x.shape for x in hyper} == {()}


def test_an_update_can_be_differentiated_by_a_hyperparameter():
    transform = t.adam(LR, eps=1e-3)
    params = tree.map(torch.Tensor.double, normals(0))

    def length(b1):
        scaling, rate = transform.init(params)
        state = (scaling._replace(hyper=scaling.hyper._replace(b1=b1)), rate)
        for step in range(4):
            grads = tree.map(torch.Tensor.double, normals(10 + step))
            state, updates = transform.update(state, grads, params)
        return t.global_norm(updates)

    b1, h = torch.tensor(0.7, dtype=torch.float64), 1e-6
    expected = (length(b1 + h) - length(b1 - h)) / (2 * h)
    chex.assert_trees_all_close(grad(length)(b1), expected, rtol=1e-6)


def test_learning_rate_is_a_leaf_that_can_be_replaced():
    transform, grads = t.scale_by_learning_rate(0.5), {"x": torch.ones(2)}
    state = transform.init(grads)
    state = state._replace(schedule=state.schedule._replace(value=torch.tensor(0.25)))
    assert torch.equal(transform.update(state, grads, grads)[1]["x"], torch.full((2,), -0.25))


def test_schedule_sees_the_number_of_updates_before_this_one():
    transform, grads = t.scale_by_schedule(schedules.linear(4.0, 0.0, 4)), {"x": torch.ones(())}
    state, seen = transform.init(grads), []
    for _ in range(6):
        state, updates = transform.update(state, grads, grads)
        seen.append(updates["x"].item())
    assert seen == [4.0, 3.0, 2.0, 1.0, 0.0, 0.0] and state.step == 6
