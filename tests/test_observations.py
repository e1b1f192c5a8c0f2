"""Observations of several kinds side by side, and those of one shape at once."""

import math

import pytest
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


def made(module, weights, *given):
    """Run an encoder with the names that its own parameters have in `weights`."""
    return functional_call(module, weights, given)


# --- kinds side by side -------------------------------------------------------------------------


def test_each_image_is_read_by_its_own_encoder_and_all_stand_in_their_order():
    """Images of one shape are encoded together, and go back to where each belongs."""
    spec = Spec(((1, 5, 5), (2,), (1, 5, 5), (1, 6, 5), (1, 5, 5)), ACTION, goals=(4, 1))
    encoder = observations.ObservationEncoder(spec, 6, "match3")
    weights, obs = networks.draw(encoder)(KEY), examples.observed(1, (4,), spec)
    parts = []
    for i, x in enumerate(obs):
        own = f"encoders.{i}."
        held = {n.removeprefix(own): w for n, w in weights.items() if n.startswith(own)}
        parts.append(made(networks.match3(spec.obs[i], 6), held, x) if held else x)
    seen = made(encoder, weights, obs)
    testing.assert_trees_close(seen.together, torch.cat(parts, -1))
    testing.assert_trees_close(seen.goal, torch.cat([parts[4], parts[1]], -1))
    at_once = made(encoder, *tree.map(lambda x: x.to("meta"), (weights, obs)))
    assert tree.map(lambda x: x.shape, at_once) == tree.map(lambda x: x.shape, seen)


@pytest.mark.parametrize("goals", [(-1,), (2,), (0.0,)])
def test_a_goal_is_told_by_its_place(goals):
    spec = Spec(((3,), (2,)), ACTION, goals=goals)
    with pytest.raises(ValueError, match=r"`spec\.goals` must be indices of vector or image"):
        networks.actor_critic(spec)


def test_a_body_of_ones_own_is_of_known_kinds_too():
    encoding = networks.Encoding(body=lambda spec, h: nn.Identity())
    with pytest.raises(ValueError, match=r"`spec\.obs\[0\]` must be the shape of a vector"):
        networks.actor_critic(Spec(((2, 2, 2, 2),), ACTION), encoding=encoding, hidden_units=2)


# --- entities -----------------------------------------------------------------------------------


def sets(shapes=((5, 2),), fixed=3):
    """An encoder of sets with weights, and what it sees besides."""
    module = observations.SetEncoder(shapes, fixed)
    return module, networks.draw(module)(KEY), normal(2, 4, fixed)


@pytest.mark.parametrize(
    ("entity", "present"),
    [
        ((0.0, 0.0), False),
        ((0.05, -0.08), False),  # Σ features² = 0.0089
        ((0.07, 0.07), False),  # 0.0098
        ((0.0, 0.0999), False),
        ((0.0020000000949949026, 0.09997999668121338), True),  # 0.01, all bits of it
        ((0.0, -0.1001), True),
        ((0.08, 0.065), True),  # 0.0106
        ((0.15, 0.0), True),
        ((math.nan, 1.0), False),
    ],
)
def test_an_entity_is_absent_whose_squares_add_up_to_less_than_a_hundredth(entity, present):
    module, weights, fixed = sets()
    entities = normal(1, 4, 5, 2)
    entities[:, 3] = 0.0
    without = made(module, weights, [entities], fixed)
    entities[:, 3] = torch.tensor(entity)
    seen = made(module, weights, [entities], fixed)
    assert seen.isfinite().all()
    assert (seen != without).any(-1).tolist() == [present] * 4


def test_sets_of_several_kinds_are_one_and_what_is_seen_besides_is_seen_by_all():
    """Entities of all sets look at one another: neither order nor the sets' borders matter."""
    module, weights, fixed = sets(((3, 2), (2, 2)))
    first, second = normal(1, 4, 3, 2), normal(3, 4, 2, 2)
    seen = made(module, weights, [first, second], fixed)
    close = {"rtol": 1e-5, "atol": 1e-5}
    turned = made(module, weights, [first.flip(1), second.flip(1)], fixed)
    testing.assert_trees_close(turned, seen, **close)
    alike = weights | {
        f"embeddings.1.layer.{part}": weights[f"embeddings.0.layer.{part}"]
        for part in ("weight", "bias")
    }
    one = made(module, alike, [first, second], fixed)
    other = made(module, alike, [torch.cat([first[:, :1], second], 1), first[:, 1:]], fixed)
    testing.assert_trees_close(other, one, **close)
    for changed in ([first + 1, second], [first, second + 1]):
        assert (made(module, weights, changed, fixed) != seen).any(-1).all()
    assert (made(module, weights, [first, second], fixed + 1) != seen).any(-1).all()


def test_each_set_is_embedded_by_weights_of_its_own_and_knows_who_is_there():
    module, weights, fixed = sets(((3, 2), (2, 2)))
    first, second = torch.zeros(4, 3, 2), normal(3, 4, 2, 2)
    seen = made(module, weights, [first, second], fixed)
    for i, changes in ((0, False), (1, True)):  # nobody is in the first
        name = f"embeddings.{i}.layer.bias"
        other = made(module, weights | {name: weights[name] + 1}, [first, second], fixed)
        assert (other != seen).any(-1).tolist() == [changes] * 4
    alone, _, _ = sets(((2, 2),))
    held = {n.replace("embeddings.1", "embeddings.0"): w for n, w in weights.items()
            if "embeddings.0" not in n}  # fmt: skip
    testing.assert_trees_close(made(alone, held, [second], fixed), seen, rtol=1e-5, atol=1e-5)


# --- what they begin with -----------------------------------------------------------------------


def scale(w, expected, kind):
    """How a weight is spread beside what is expected: 1 where it is so."""
    largest = math.sqrt(3) if kind == "uniform" else math.inf
    assert w.numel() > 500 and w.abs().max() <= largest * expected * (1 + 1e-6)
    assert abs(w.mean()) < 4 * expected / w.numel() ** 0.5
    return (w.std() / expected).item()


@pytest.mark.parametrize(
    ("image", "side"),
    [("simple", 20), ("nature_cnn", 36), ("match3", 6), ("resnet", 15), ("fully_connected", 8)],
)
def test_image_encoders_begin_as_mlagents_do(image, side):
    """Convolutions as torch's, U(±1/√fan_in); the dense layer N(0, 1.41² / fan_in), no bias."""
    module = networks.IMAGE_ENCODERS[image]((5, side, side), 128)
    weights = networks.draw(module)(KEY)
    assert not weights["dense.bias"].any()
    dense = weights["dense.weight"]
    assert scale(dense, 1.41 / dense.shape[1] ** 0.5, "normal") == pytest.approx(1, rel=0.05)
    for name, w in weights.items():
        if name.startswith("convolutions") and name.endswith("weight"):
            bound = w[0].numel() ** -0.5
            assert scale(w, bound / 3**0.5, "uniform") == pytest.approx(1, rel=0.05), name
            bias = weights[name.removesuffix("weight") + "bias"]
            assert 0.5 * bound < bias.abs().max() <= bound and bias.min() < 0 < bias.max()


def test_what_makes_weights_of_goals_begins_as_mlagents_does():
    """The weights it makes are drawn from U(±√(1 / (inputs·outputs))), the layers before He's."""
    weights = networks.draw(networks.HyperLinear(30, 20, 40))(KEY)
    small = (1 / (30 * 20)) ** 0.5
    spread = scale(weights["weights.weight"], small / 3**0.5, "uniform")
    assert spread == pytest.approx(1, rel=0.05)
    assert scale(weights["first.weight"], 40**-0.5, "normal") == pytest.approx(1, rel=0.1)
    assert not any(w.any() for name, w in weights.items() if name.endswith("bias"))


def test_what_sets_see_besides_begins_as_small_as_attention():
    weights = sets(fixed=9)[1]
    spread = scale(weights["itself.weight"], (0.125 / 128) ** 0.5, "normal")
    assert spread == pytest.approx(1, rel=0.1)
    assert not weights["itself.bias"].any()


# --- observations of one shape ------------------------------------------------------------------


def alike(count=2):
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
