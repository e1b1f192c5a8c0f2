"""Gradients by plain autograd, and by `torch.func` where something transforms the caller."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import func
from torch.testing import assert_close

from optinfra import tree
from optinfra.gradients import grad_and_value

WEIGHTS = {
    "a": torch.tensor([0.5, -1.5, 2.0]),
    "deep": ({"b": torch.tensor([[1.0, 2.0], [3.0, -4.0]])}, torch.tensor(0.25)),
    "unread": torch.ones(2, 3),
}


def loss(weights):
    (inner, scale) = weights["deep"]
    value = (weights["a"].sin() * scale).sum() + inner["b"].square().mean().sqrt()
    return value, {"scale": scale * 2, "rows": torch.tensor(3)}


def alone(weights):
    return loss(weights)[0]


@given(shift=st.floats(-2, 2), scale=st.floats(0.1, 3))
def test_it_tells_what_torch_func_does(shift, scale):
    weights = tree.map(lambda x: x * scale + shift, WEIGHTS)
    assert_close(
        grad_and_value(loss, has_aux=True)(weights),
        func.grad_and_value(loss, has_aux=True)(weights),
        rtol=1e-6,
        atol=1e-7,
    )
    assert_close(
        grad_and_value(alone)(weights), func.grad_and_value(alone)(weights), rtol=1e-6, atol=1e-7
    )


def test_it_tells_the_derivative():
    weights = torch.tensor([1.0, 2.0, -3.0])
    gradient, value = grad_and_value(lambda w: (w**3).sum())(weights)
    assert gradient.tolist() == [3.0, 12.0, 27.0] and value.item() == -18.0


def test_what_is_not_read_gets_zeros():
    gradient, _ = grad_and_value(loss, has_aux=True)(WEIGHTS)
    assert torch.equal(gradient["unread"], torch.zeros(2, 3))
    gradient, value = grad_and_value(lambda weights: torch.tensor(7.0))(WEIGHTS)
    assert value == 7 and not any(x.any() for x in tree.leaves(gradient))
    assert tree.map(lambda x: x.shape, gradient) == tree.map(lambda x: x.shape, WEIGHTS)


@pytest.mark.parametrize("enabled", [True, False])
def test_nothing_carries_a_graph_and_the_weights_are_left_alone(enabled):
    weights = tree.map(lambda x: x.clone().requires_grad_(), WEIGHTS)
    with torch.set_grad_enabled(enabled):
        told = grad_and_value(loss, has_aux=True)(weights)
    assert not any(x.requires_grad for x in tree.leaves(told))
    assert all(x.grad is None and x.requires_grad for x in tree.leaves(weights))
    assert tree.leaves(told[0])[0].any()


def test_plain_autograd_does_it_where_nothing_transforms_the_caller():
    seen = []

    def watched(weights):
        seen.append(torch._C._functorch.is_gradtrackingtensor(weights))
        return weights.square().sum()

    grad_and_value(watched)(torch.ones(2))
    func.vmap(grad_and_value(watched))(torch.ones(3, 2))
    func.grad(lambda w: grad_and_value(watched)(w)[0].sum())(torch.ones(2))
    with torch.inference_mode():
        grad_and_value(watched)(torch.ones(2))
    assert seen == [False, True, True, True]


def test_it_composes():
    def gradient(w):
        return grad_and_value(lambda w: (w**3).sum())(w)[0]

    w = torch.tensor([[1.0, 2.0], [-3.0, 0.5]])
    assert_close(func.vmap(gradient)(w), 3 * w**2, rtol=1e-6, atol=1e-7)
    assert_close(func.grad(lambda w: gradient(w).sum())(w), 6 * w, rtol=1e-6, atol=1e-7)
    with torch.inference_mode():
        assert_close(gradient(w), 3 * w**2, rtol=1e-6, atol=1e-7)
    whole = torch.compile(gradient, backend="aot_eager", fullgraph=True)
    assert_close(whole(w), 3 * w**2, rtol=1e-6, atol=1e-7)


def test_tensors_made_in_inference_mode_are_weights_and_constants_like_others():
    with torch.inference_mode():
        w, x = torch.tensor([1.0, -2.0]), torch.tensor([3.0, 5.0])
    assert grad_and_value(lambda w: (w**2).sum())(w)[0].tolist() == [2.0, -4.0]
    assert grad_and_value(lambda w: (w * x).sum())(torch.ones(2))[0].tolist() == [3.0, 5.0]


def test_a_loss_that_is_no_scalar_is_refused():
    with pytest.raises(ValueError, match=r"`loss` must give a scalar, got shape \[1\]"):
        grad_and_value(lambda w: w.sum()[None])(torch.ones(3))


def test_what_goes_wrong_in_a_loss_is_told():
    def refusing(w):
        raise RuntimeError("no such rows")

    with pytest.raises(RuntimeError, match="no such rows"):
        grad_and_value(refusing)(torch.ones(3))


def test_a_loss_that_itself_differentiates():
    def penalty(weights):
        slope = func.grad(lambda x: (weights * x**2).sum())(torch.tensor([1.0, 2.0]))
        return slope.square().sum()

    gradient, value = grad_and_value(penalty)(torch.tensor([1.0, -1.0]))
    # slope 2wx, so the penalty is Σ 4w²x² and its gradient 8wx²
    assert value.item() == 20.0 and gradient.tolist() == [8.0, -32.0]
