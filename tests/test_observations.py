"""Observations of several kinds side by side, and those of one shape at once."""

import torch
from torch import nn
from torch.func import functional_call, grad, vmap

from optinfra import networks, random, testing, tree
from optinfra.networks import observations
from optinfra.types import ActionSpec, Spec
from tests import examples
from tests.examples import normal

KEY = random.key(5)
ACTION = ActionSpec(2, (3, 2))

# --- observations of one shape ------------------------------------------------------------------


def alike(count=3):
    """Encoders of one architecture, each with parameters of its own, and an image for each."""
    modules = [networks.match3((2, 5, 6), 7) for _ in range(count)]
    parts = nn.ModuleDict({str(i): module for i, module in enumerate(modules)})
    return parts, networks.draw(parts)(KEY), [normal(i, 4, 2, 5, 6) for i in range(count)]


def encoded(parts, encode):
    """A function of parameters and images, which encodes them in one way."""

    class All(nn.Module):
        def __init__(self):
            super().__init__()
            self.parts = parts

        def forward(self, images):
            return torch.stack(encode(list(self.parts.values()), images))

    module = All()
    return lambda weights, images: functional_call(
        module, {f"parts.{n}": w for n, w in weights.items()}, (images,)
    )


def test_images_of_one_shape_are_encoded_at_once_as_they_are_one_by_one():
    parts, weights, images = alike()
    together, apart = (encoded(parts, f) for f in (observations.encode_at_once, one_by_one))
    close = {"rtol": 1e-5, "atol": 1e-5}
    testing.assert_trees_close(together(weights, images), apart(weights, images), **close)
    slopes = [grad(lambda w, f=f: f(w, images).sin().sum())(weights) for f in (together, apart)]
    testing.assert_trees_close(*slopes, **close)
    members = tree.stack([weights, tree.map(torch.neg, weights)])
    lifted = [vmap(f, in_dims=(0, None))(members, images) for f in (together, apart)]
    testing.assert_trees_close(*lifted, **close)
    testing.assert_compiles_once(together, weights, images)


def one_by_one(modules, images):
    return [module(x) for module, x in zip(modules, images)]


def test_images_of_one_shape_and_type_are_encoded_at_once_but_on_a_cpu(monkeypatch):
    """On a CPU convolutions in groups are slower than one after the other."""
    spec = Spec(((1, 5, 5), (3,), (1, 5, 6), (1, 5, 5), (1, 5, 5)), ACTION, bytes=(4,))
    network = networks.actor_critic(spec, hidden_units=6, encoding=networks.Encoding("match3"))
    calls, at_once = [], observations.encode_at_once

    def counting(modules, inputs):
        calls.append(len(modules))
        return at_once(modules, inputs)

    monkeypatch.setattr(observations, "encode_at_once", counting)
    given = network.init(KEY), examples.observed(1, (4,), spec)
    network.policy_and_values(*given)
    assert calls == []
    outputs, _ = network.policy_and_values(*tree.map(lambda x: x.to("meta"), given))
    assert calls == [2, 2] and outputs.mean.shape == (4, 2)  # once in each body
