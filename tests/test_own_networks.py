"""Modules of the user's own in the place of an encoder, a body, or the whole actor and critic."""

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from torch import nn
from torch.func import functional_call

from optinfra import networks, random, testing, transforms, tree
from optinfra.learners import poca, ppo, sac
from optinfra.networks import observations
from optinfra.networks.own import OwnModule
from optinfra.signals import curiosity, gail, rnd
from optinfra.types import ActionSpec, Learner, Spec
from tests import examples, group_cases, own_networks
from tests.examples import normal

KEY = random.key(5)
STREAMS = ("extrinsic", "novelty")
ACTION = ActionSpec(2, (3, 2))
VECTORS = Spec(((3,), (2,)), ACTION)
IMAGES = Spec(((2, 5, 4), (3,), (2, 5, 4), (2,)), ACTION, goals=(3,), bytes=(2,))
M = own_networks.M
SIZES = {"hidden_units": 8, "num_layers": 1}
ENCODER = networks.Encoding("match3", encoder=own_networks.encoder)
BODY = networks.Encoding(body=own_networks.body)


# --- learning -----------------------------------------------------------------------------------


class Own(NamedTuple):
    """A learner with something of one's own in it, and what it learns from."""

    learner: Learner
    batch: Callable  # (seed) -> batch
    parts: set[str]  # first names of its parameters

    def arguments(self, k):
        return self.learner.init(random.key(k)), with_streams(self.batch(100 * k))


def with_streams(batch):
    """The same batch with another stream beside the first."""
    told = {
        name: {stream: x + i for i, stream in enumerate(STREAMS) for x in field.values()}
        for name, field in batch._asdict().items()
        if isinstance(field, dict)
    }
    return batch._replace(**told)


def whole(name):
    """Networks of one's own as a whole."""
    return {
        "separate": own_networks.separate(VECTORS, STREAMS),
        "separate_recurrent": own_networks.recurrent(VECTORS, STREAMS),
        "separate_soft": own_networks.soft(VECTORS, STREAMS),
        "separate_soft with memory": own_networks.soft(VECTORS, STREAMS, M, value_network=False),
        "separate_group": own_networks.group(VECTORS, STREAMS),
    }[name]


def own(name):
    eps = transforms.raveled(transforms.scale_by_adam(eps=1e-3))
    options = {"normalize": True, "transform": eps}
    two, soft = {"actor", "critic"}, {"actor", "value", "q1", "q2"}
    if name == "encoder":
        network = networks.actor_critic(IMAGES, STREAMS, **SIZES, encoding=ENCODER)
        learner = ppo(network, IMAGES, **options)
        return Own(learner, lambda seed: examples.batch(seed, 7, spec=IMAGES), two)
    if name == "encoder with memory and mates":
        network = networks.group_actor_critic(
            IMAGES, STREAMS, memory_size=M, **SIZES, encoding=ENCODER
        )
        learner = poca(network, IMAGES, **options)
        return Own(learner, lambda seed: group_cases.sequences(seed, 3, 4, spec=IMAGES), two)
    if name == "body":
        network = networks.soft_actor_critic(IMAGES, STREAMS, **SIZES, encoding=BODY)
        learner = sac(network, IMAGES, **options)
        return Own(learner, lambda seed: examples.soft_batch(seed, 7, spec=IMAGES), soft)
    make, batch, parts = {
        "separate": (ppo, lambda seed: examples.batch(seed, 7), two),
        "separate_recurrent": (ppo, lambda seed: examples.sequences(seed, 3, 4, M), two),
        "separate_soft": (sac, lambda seed: examples.soft_batch(seed, 7), soft),
        "separate_soft with memory": (
            sac, lambda seed: examples.soft_batch(seed, 3, 4, memory_size=M), soft - {"value"}
        ),
        "separate_group": (poca, lambda seed: group_cases.batch(seed, 7), two),
    }[name]  # fmt: skip
    return Own(make(whole(name), VECTORS, **options), batch, parts)


@pytest.mark.parametrize(
    "name",
    [
        "encoder", "encoder with memory and mates", "body", "separate", "separate_recurrent",
        "separate_soft", "separate_soft with memory", "separate_group",
    ],
)  # fmt: skip
def test_every_weight_of_a_network_of_ones_own_learns_and_an_update_is_pure_and_lifts(name):
    one = own(name)
    state, batch = one.arguments(0)
    after, stats = one.learner.update(state, batch)
    assert all(x.isfinite().all() for x in tree.leaves((after, stats)))
    before = state.params.weights
    assert {full.partition(".")[0] for full in before} == one.parts
    assert [n for n, w in after.params.weights.items() if torch.equal(w, before[n])] == []
    testing.assert_pure(one.learner.update, state, batch)
    testing.assert_lifts(one.learner.update, *(one.arguments(k) for k in range(3)), atol=2e-5)


def test_an_update_with_an_encoder_of_ones_own_compiles_once():
    spec = Spec(((1, 3, 3), (2,)), ActionSpec(1), bytes=(0,))
    network = networks.shared_actor_critic(spec, **SIZES, encoding=ENCODER)
    learner = ppo(network, spec, transform=transforms.scale(1.0))

    def arguments(k):
        return learner.init(random.key(k)), examples.batch(100 * k, 7, spec=spec)

    following = iter([arguments(1), arguments(2)])
    testing.assert_compiles_once(
        learner.update,
        *arguments(0),
        advance=lambda result, _: testing.advance_state(result, next(following)),
    )


def seen(name):
    """A network of one's own, parameters, and what it sees of sequences."""
    network, steps = whole(name), examples.trajectory(0, 4, 3)
    return network, network.init(KEY), steps.obs, steps.terminated


def test_values_that_remember_compile_once():
    network, weights, obs, reset = seen("separate_recurrent")
    testing.assert_compiles_once(network.values, weights, obs, normal(1, 3, M), reset)


def test_action_values_that_remember_compile_once():
    network, weights, obs, reset = seen("separate_soft with memory")

    def judged(*rest):
        return network.action_values_and_memories(1, *rest)

    testing.assert_compiles_once(judged, weights, obs, normal(1, 4, 3, 2), reset)


def test_values_and_baselines_of_groups_compile_once():
    network, weights, obs, _ = seen("separate_group")
    mates = group_cases.mates(1, 4, 3)
    given = weights, obs, mates, torch.tensor(4.0), (), None
    testing.assert_compiles_once(network.values_and_baselines, *given)


def test_a_memory_of_ones_own_is_told_after_each_step_and_goes_on_from_there():
    network, weights, obs, reset = seen("separate_recurrent")
    memory = normal(1, 3, M)
    values, after = network.values_and_memories(weights, obs, memory, reset)
    together, last = network.values(weights, obs, memory, reset)
    testing.assert_trees_close(values, together)
    testing.assert_trees_close(after[-1], last)
    assert set(values) == set(STREAMS) and after.shape == (4, 3, M)
    rest = network.values(weights, tree.take(obs, slice(2, 4)), after[1], reset[2:])[0]
    testing.assert_trees_close(rest, tree.take(together, slice(2, 4)))
    policy, remembered = network.policy(weights, obs, memory, reset)
    assert not torch.equal(remembered, last) and policy.mean.shape == (4, 3, 2)


# --- encoders and bodies ------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [(), (0,), (5,), (2, 1, 3)])
def test_a_module_of_ones_own_sees_rows_whatever_leads_them_and_bytes_as_shares(rows):
    module = own_networks.encoder((2, 5, 4), 8)
    own_module = OwnModule("encoder", module, [(2, 5, 4)], 8)
    image = examples.observation(3, (*rows, 2), Spec(((5, 4),), ACTION, bytes=(0,)), 0)
    assert image.dtype == torch.uint8
    encoded = own_module((image,))
    assert encoded.shape == (*rows, 8)
    expected = module(image.flatten(0, -4) / 255 if rows else image[None] / 255)
    torch.testing.assert_close(encoded.reshape(-1, 8), expected, rtol=1e-6, atol=1e-6)


def test_a_module_of_ones_own_is_tried_before_it_is_drawn_and_may_view_what_it_sees():
    """Lazy layers learn their sizes; images of learners lie in memory pixel by pixel."""

    class Viewed(nn.Module):
        def __init__(self, hidden_units):
            super().__init__()
            self.convolution = nn.LazyConv2d(4, 3)
            self.layer = nn.LazyLinear(hidden_units)

        def forward(self, x):
            y = self.convolution(x)
            return self.layer(y.view(len(y), -1)) + x.view(len(x), -1).mean(1, keepdim=True)

    spec = Spec(((3, 6, 5),), ACTION)
    encoding = networks.Encoding(encoder=lambda shape, hidden_units: Viewed(hidden_units))
    learner = ppo(networks.actor_critic(spec, hidden_units=8, encoding=encoding), spec)
    state = learner.init(KEY)
    after, _ = learner.update(state, examples.batch(0, 7, spec=spec))
    name = "actor.body.encoder.encoders.0.module.layer.weight"
    assert state.params.weights[name].shape == (8, 4 * 4 * 3)
    assert not torch.equal(after.params.weights[name], state.params.weights[name])


def test_an_encoder_of_ones_own_takes_the_place_of_its_observation_alone():
    """Images and vectors of three are encoded anew; the other vectors stay, and their order."""
    spec = Spec(((3,), (2, 5, 4), (2,), (4, 3)), ACTION, goals=(0,))

    def make(shape, hidden_units):
        if shape not in ((3,), (2, 5, 4)):
            return None
        return nn.Sequential(nn.Flatten(), nn.Linear(torch.Size(shape).numel(), hidden_units))

    encoder = observations.ObservationEncoder(spec, 6, encoder=make)
    assert (encoder.width, encoder.goal_width) == (6 + 6 + 2 + observations.SET_WIDTH, 6)
    weights, obs = networks.draw(encoder)(KEY), examples.observed(1, (4,), spec)
    encoded = functional_call(encoder, weights, (obs,))
    for i, place in ((0, slice(0, 6)), (1, slice(6, 12))):
        w, b = (weights[f"encoders.{i}.module.1.{part}"] for part in ("weight", "bias"))
        expected = obs[i].flatten(1) @ w.T + b
        torch.testing.assert_close(encoded.together[:, place], expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(encoded.together[:, 12:14], obs[2])
    assert torch.equal(encoded.goal, encoded.together[:, :6])


def test_a_body_of_ones_own_sees_every_observation_and_last_what_stands_beside_them():
    asked = []

    def make(spec, hidden_units):
        asked.append((spec, hidden_units))
        return own_networks.body(spec, hidden_units)

    encoding = networks.Encoding(body=make)
    body = networks.body(IMAGES, 6, 3, encoding=encoding, beside=2)
    assert asked == [(IMAGES._replace(obs=(*IMAGES.obs, (2,))), 6)]
    obs, beside = examples.observed(1, (4, 3), IMAGES), normal(2, 4, 3, 2)
    weights = networks.draw(body)(KEY)
    ours = functional_call(body, weights, ((*obs, beside),))
    flat = [x.reshape(12, -1) / (255 if i == 2 else 1) for i, x in enumerate((*obs, beside))]
    own_weights = {name.removeprefix("module."): w for name, w in weights.items()}
    theirs = functional_call(body.module, own_weights, tuple(flat))
    torch.testing.assert_close(ours, theirs.view(4, 3, 6), rtol=1e-5, atol=1e-5)
    networks.body(IMAGES, 6, 3, encoding=encoding)
    assert asked[1] == (IMAGES, 6)


def test_layers_of_a_body_of_ones_own_are_not_normalised_for_it():
    with pytest.raises(ValueError, match="`layer_norm` must be False with a body of your own"):
        networks.soft_actor_critic(IMAGES, layer_norm=True, encoding=BODY)


@pytest.mark.parametrize(
    ("make", "got"),
    [
        (lambda shape, h: nn.Linear(3, h - 1), r"got \[2, 7\] from 2 rows\."),
        (lambda shape, h: nn.Linear(4, h), "got RuntimeError: mat1 and mat2 shapes cannot be"),
        (lambda shape, h: nn.Flatten(0), r"got \[6\] from 2 rows"),
        (lambda shape, h: nn.Unflatten(1, (3, 1)), r"got \[2, 3, 1\] from 2 rows"),
        (
            lambda shape, h: nn.Sequential(nn.Linear(3, h), nn.Unflatten(0, (1, 2))),
            r"got \[1, 2, 8\] from 2 rows",
        ),
        (lambda shape, h: nn.Sequential(nn.Linear(3, h), nn.Dropout()), "got TypeError: `1` must"),
        (lambda shape, h: nn.Bilinear(3, 3, h), "got TypeError: .*missing 1 required"),
        (lambda shape, h: nn.LSTM(3, h), "got TypeError: `weight_ih_l0` must have an initializer"),
        (lambda shape, h: nn.MaxPool1d(1, return_indices=True), "got tuple from 2 rows"),
    ],
)
def test_an_encoder_that_does_not_work_is_told_at_once_by_its_observation(make, got):
    spec = Spec(((2,), (3,)), ACTION)
    encoding = networks.Encoding(encoder=lambda shape, h: make(shape, h) if shape == (3,) else None)
    must = r"`encoder of obs\[1\]` must be a module from rows of \(3,\) to \[N, 8\], "
    with pytest.raises(ValueError, match=must + got):
        networks.actor_critic(spec, encoding=encoding, hidden_units=8)
    must = r"`body` must be a module from rows of \(3,\) to \[N, 8\], "
    with pytest.raises(ValueError, match=must + got):
        networks.body(
            Spec(((3,),), ACTION), 8, 1,
            encoding=networks.Encoding(body=lambda spec, h: make(spec.obs, h)),
        )  # fmt: skip


def test_layers_of_ours_and_of_torch_stand_in_one_module():
    """Ours are on the meta device, torch's are not, unless the user says so."""

    def make(shape, hidden_units):
        ours = networks.Linear(shape[0], 5, networks.orthogonal())
        with torch.device("meta"):
            described = nn.Linear(5, 5)
        return nn.Sequential(ours, described, nn.LayerNorm(5), nn.Linear(5, hidden_units))

    network = networks.actor_critic(VECTORS, encoding=networks.Encoding(encoder=make))
    assert all(not w.is_meta for w in network.init(KEY).values())


@pytest.mark.parametrize("encoding", [ENCODER, BODY], ids=["encoder", "body"])
@pytest.mark.parametrize("name", ["curiosity", "rnd", "gail"])
def test_signals_see_by_what_is_ones_own(name, encoding):
    rows = examples.transitions(1, 6, spec=IMAGES)
    options = {"encoding": encoding, **SIZES}
    if name == "gail":
        signal = gail(IMAGES, examples.transitions(2, 9, spec=IMAGES), use_actions=True, **options)
    else:
        signal = {"curiosity": curiosity, "rnd": rnd}[name](IMAGES, **options)
    state = signal.init(KEY)
    after, _ = signal.update(state, rows)
    moved = {n for n, w in after.weights.items() if not torch.equal(w, state.weights[n])}
    assert {n for n in state.weights if ".module." in f".{n}"} <= moved
    assert any(".module." in f".{n}" for n in moved)
    assert signal.evaluate(after, rows).isfinite().all()
    if name != "curiosity":
        assert (signal.evaluate(state, rows)[rows.mask] != 0).all()
