"""How parameters are drawn and named, and what the networks compute from them."""

import math

import chex
import pytest
import torch
from torch import nn
from torch.func import functional_call, vmap

from optinfra import networks, random, tree
from optinfra.networks import initializers
from optinfra.types import ActionSpec, Spec
from tests.cases.networks import KINDS
from tests.examples import SPEC, normal, observed

KEY = random.key(5)
WIDE = (200, 300)  # [fan_out, fan_in], large enough for sharp statistics


def test_kaiming_normal_has_deviation_gain_over_root_fan_in():
    drawn = networks.kaiming_normal(0.2)(KEY, WIDE)
    expected = 0.2 / math.sqrt(300)
    assert abs(drawn.std() / expected - 1) < 4 / math.sqrt(2 * drawn.numel())


@pytest.mark.parametrize(
    ("initializer", "bound"),
    [
        (networks.xavier_uniform(2.0), 2.0 * math.sqrt(6 / 500)),
        (networks.lecun_uniform(), 1 / math.sqrt(300)),
    ],
)
def test_uniform_initializers_fill_their_interval(initializer, bound):
    drawn = initializer(KEY, WIDE)
    assert drawn.abs().max() <= bound
    assert drawn.max() > 0.999 * bound and drawn.min() < -0.999 * bound
    assert abs(drawn.std() / (bound / math.sqrt(3)) - 1) < 0.02


@pytest.mark.parametrize("shape", [(4, 9), (9, 4), (6, 6)])
def test_orthogonal_has_orthonormal_rows_or_columns_times_gain(shape):
    drawn = networks.orthogonal(1.5)(KEY, shape)
    gram = drawn @ drawn.T if shape[0] <= shape[1] else drawn.T @ drawn
    torch.testing.assert_close(gram, 1.5**2 * torch.eye(min(shape)), rtol=0, atol=1e-5)


def test_lecun_uniform_is_what_torch_linear_does():
    torch_layer = nn.Linear(300, 200)
    ours = networks.lecun_uniform()(KEY, WIDE)
    assert abs(ours.std() / torch_layer.weight.std() - 1) < 0.02


def test_actor_critic_names_shapes_and_initial_scales_are_mlagents():
    init = networks.actor_critic(SPEC, hidden_units=256, num_layers=2).init
    weights = init(KEY)
    assert {name: tuple(w.shape) for name, w in weights.items()} == {
        "actor.body.layers.0.weight": (256, 5),
        "actor.body.layers.0.bias": (256,),
        "actor.body.layers.1.weight": (256, 256),
        "actor.body.layers.1.bias": (256,),
        "actor.head.mean.weight": (2, 256),
        "actor.head.mean.bias": (2,),
        "actor.head.log_std": (2,),
        "actor.head.logits.weight": (5, 256),
        "actor.head.logits.bias": (5,),
        "critic.body.layers.0.weight": (256, 5),
        "critic.body.layers.0.bias": (256,),
        "critic.body.layers.1.weight": (256, 256),
        "critic.body.layers.1.bias": (256,),
        "critic.head.heads.extrinsic.weight": (1, 256),
        "critic.head.heads.extrinsic.bias": (1,),
    }
    for name in weights:
        if name.endswith(("bias", "log_std")):
            assert not weights[name].any()
    std = {
        name: w.std().item() * math.sqrt(w.shape[1]) for name, w in weights.items() if w.ndim == 2
    }
    assert std["actor.body.layers.1.weight"] == pytest.approx(1.0, rel=0.02)
    assert std["actor.head.mean.weight"] == pytest.approx(0.2, rel=0.15)
    assert std["actor.head.logits.weight"] == pytest.approx(0.1, rel=0.1)
    bound = math.sqrt(6 / 257)  # Xavier's: one output each
    assert weights["critic.head.heads.extrinsic.weight"].abs().max() == pytest.approx(
        bound, rel=0.05
    )


def test_every_parameter_draws_for_itself():
    weights = networks.actor_critic(SPEC, hidden_units=7, num_layers=3).init(KEY)
    same_shape = [w for name, w in weights.items() if w.shape == (7, 7)]
    assert len(same_shape) == 4
    for i, a in enumerate(same_shape):
        assert all((a != b).all() for b in same_shape[:i])


def test_adding_a_layer_changes_no_other_draw():
    shallow = networks.actor_critic(SPEC, hidden_units=6, num_layers=1).init(KEY)
    deep = networks.actor_critic(SPEC, hidden_units=6, num_layers=2).init(KEY)
    chex.assert_trees_all_equal(shallow, {name: deep[name] for name in shallow})


def test_init_vmaps_to_one_member_per_key():
    init = networks.actor_critic(SPEC, hidden_units=4).init
    keys = random.split(KEY, 3)
    chex.assert_trees_all_close(vmap(init)(keys), tree.stack([init(k) for k in keys]))


def test_constant_fills_with_its_value_in_float32():
    drawn = networks.constant(-0.5)(KEY, (2, 3))
    assert drawn.dtype == torch.float32 and drawn.tolist() == [[-0.5] * 3] * 2


def test_biases_and_deviations_begin_at_zero():
    weights = networks.actor_critic(SPEC, hidden_units=4).init(KEY)
    linear = networks.draw(nn.Linear(3, 2))(KEY)
    zeros = [w for name, w in (weights | linear).items() if name.endswith(("bias", "log_std"))]
    assert len(zeros) == 9 and not any(w.any() for w in zeros)


def test_orthogonal_initialization_reaches_every_weight():
    network = networks.actor_critic(
        SPEC, hidden_units=16, initialization=networks.orthogonal_initialization()
    )
    weights = network.init(KEY)
    gains = {"body.layers.0": math.sqrt(2), "body.layers.1": math.sqrt(2), "mean": 0.01,
             "logits": 0.01, "extrinsic": 1.0}  # fmt: skip
    for name, w in weights.items():
        gain = [g for part, g in gains.items() if f"{part}.weight" in name]
        if gain:
            largest = torch.linalg.matrix_norm(w, ord=2)
            torch.testing.assert_close(largest, torch.tensor(gain[0]), rtol=1e-5, atol=0)


def test_separate_networks_equal_plain_torch_modules():
    weights = networks.actor_critic(SPEC, hidden_units=8, num_layers=2).init(KEY)

    def linear(x, name):
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    obs = (normal(1, 4, 3), normal(2, 4, 2))
    h = {}
    for part in ("actor", "critic"):
        x = torch.cat(obs, -1)
        for layer in (0, 1):
            x = linear(x, f"{part}.body.layers.{layer}")
            x = x * torch.sigmoid(x)
        h[part] = x
    network = networks.actor_critic(SPEC, hidden_units=8, num_layers=2)
    outputs, values = network.policy_and_values(weights, obs)
    close = {"rtol": 1e-5, "atol": 1e-6}
    torch.testing.assert_close(outputs.mean, linear(h["actor"], "actor.head.mean"), **close)
    torch.testing.assert_close(outputs.logits, linear(h["actor"], "actor.head.logits"), **close)
    expected = linear(h["critic"], "critic.head.heads.extrinsic")[:, 0]
    torch.testing.assert_close(values["extrinsic"], expected, **close)


@pytest.mark.parametrize("build", [networks.actor_critic, networks.shared_actor_critic])
def test_one_pass_equals_policy_and_values_apart(build):
    network = build(SPEC, ("extrinsic", "other"), hidden_units=8)
    weights, obs = network.init(KEY), (normal(1, 4, 3), normal(2, 4, 2))
    apart = network.policy(weights, obs), network.values(weights, obs)
    chex.assert_trees_all_equal(network.policy_and_values(weights, obs), apart)
    assert set(apart[1]) == {"extrinsic", "other"}


def test_a_shared_body_is_one_body():
    network = networks.shared_actor_critic(SPEC, hidden_units=8)
    weights, obs = network.init(KEY), (normal(1, 4, 3), normal(2, 4, 2))
    assert not any(name.startswith(("actor.body", "critic.body")) for name in weights)
    other = weights | {"body.layers.0.weight": weights["body.layers.0.weight"] + 1.0}
    assert (
        network.values(weights, obs)["extrinsic"] != network.values(other, obs)["extrinsic"]
    ).all()
    assert (network.policy(weights, obs).mean != network.policy(other, obs).mean).any()


def test_zero_layers_behave_as_one():
    none, one = (networks.actor_critic(SPEC, num_layers=n).init(KEY) for n in (0, 1))
    chex.assert_trees_all_equal(none, one)


def test_describing_a_network_draws_nothing_and_holds_nothing():
    before = torch.get_rng_state()
    module = networks.body(KINDS, 4, 2, encoding=networks.Encoding("match3"))
    assert torch.equal(before, torch.get_rng_state())
    assert all(p.is_meta for p in module.parameters())


def test_foreign_linear_layers_are_drawn_and_run():
    module = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    params = networks.draw(module)(KEY)
    assert set(params) == {"0.weight", "0.bias", "2.weight", "2.bias"}
    assert params["0.weight"].std() > 0 and not params["0.bias"].any()
    assert functional_call(module, params, (torch.zeros(2, 3),)).shape == (2, 1)


def test_a_module_without_initializers_is_refused_by_name():
    module = nn.Sequential(nn.Linear(2, 2), nn.PReLU())
    with pytest.raises(
        TypeError, match=r"`1\.weight` must have an initializer, got none from PReLU"
    ):
        networks.draw(module)


@pytest.mark.parametrize("shape", [(), (2, 3, 4, 5), (0,), (3, 0)])
def test_observations_of_no_kind_are_refused_by_name(shape):
    with pytest.raises(ValueError, match=r"`spec\.obs\[1\]` must be the shape of a vector \[D\]"):
        networks.actor_critic(Spec(((3,), shape), ActionSpec(1)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"goals": (2,)}, r"`spec\.goals` must be indices of vector or image .*, got 2"),
        ({"goals": (1,)}, r"`spec\.goals` must be indices of vector or image .*, got 1"),
        (
            {"goals": (-1,)},
            r"`spec\.goals` must be indices of vector or image .*, got -1",
        ),
        ({"bytes": (0,)}, r"`spec\.bytes` must be indices of image observations, got 0"),
        ({"obs": ()}, r"`spec\.obs` must have an observation, got none"),
    ],
)
def test_what_a_spec_says_of_observations_is_checked(options, message):
    spec = Spec(((3,), (4, 2)), ActionSpec(1))._replace(**options)
    with pytest.raises(ValueError, match=message):
        networks.actor_critic(spec)


@pytest.mark.parametrize(
    ("image", "least"),
    [("simple", 20), ("nature_cnn", 36), ("match3", 5), ("fully_connected", 1), ("resnet", 15)],
)
def test_images_smaller_than_mlagents_asks_for_are_refused(image, least):
    encoding = networks.Encoding(image)
    networks.actor_critic(Spec(((1, least, least),), ActionSpec(1)), encoding=encoding)
    for sides in ((least - 1, least), (least, least - 1)):
        message = (
            f"sides of {least} pixels or more for the encoder '{image}'"
            if least > 1
            else r"must be the shape of a vector"
        )
        with pytest.raises(ValueError, match=message):
            networks.actor_critic(Spec(((1, *sides),), ActionSpec(1)), encoding=encoding)


def test_unknown_names_of_an_encoding_are_refused():
    spec = Spec(((3,),), ActionSpec(1))
    with pytest.raises(ValueError, match=r"`image` must be one of \[.*'simple'\], got 'cnn'"):
        networks.actor_critic(spec, encoding=networks.Encoding("cnn"))
    with pytest.raises(ValueError, match=r"`goal_conditioning` must be one of .*, got 'film'"):
        networks.actor_critic(spec, encoding=networks.Encoding(goal_conditioning="film"))


def test_name_hash_is_stable_across_processes():
    assert initializers.name_hash("actor.body.layers.0.weight") == 0xD6E648C6


# --- what a network computes, with every number chosen ---------------------------------------


def filled(init, seed=3):
    """Parameters without a zero among them, so that each is seen in the outputs."""
    weights = init(KEY)
    return {name: normal(seed + i, *w.shape) for i, (name, w) in enumerate(weights.items())}


def linear(weights, name, x):
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def plain_body(weights, prefix, obs, activation, num_layers):
    x = torch.cat(obs, -1)
    for layer in range(num_layers):
        x = activation(linear(weights, f"{prefix}body.layers.{layer}", x))
    return x


@pytest.mark.parametrize("num_layers", [1, 3])
@pytest.mark.parametrize("activation", [networks.tanh, networks.swish, torch.relu])
@pytest.mark.parametrize("shared", [True, False])
def test_networks_compute_what_their_parameters_say(shared, activation, num_layers):
    build = networks.shared_actor_critic if shared else networks.actor_critic
    streams = ("first", "second")
    network = build(SPEC, streams, hidden_units=4, num_layers=num_layers, activation=activation)
    weights, obs = filled(network.init), (normal(1, 6, 3), normal(2, 6, 2))
    bodies, head = (("", ""), "") if shared else (("actor.", "critic."), "head.")
    to_act, to_judge = (plain_body(weights, b, obs, activation, num_layers) for b in bodies)
    outputs, values = network.policy_and_values(weights, obs)
    close = {"rtol": 1e-5, "atol": 1e-5}
    mean, logits = (linear(weights, f"actor.{head}{part}", to_act) for part in ("mean", "logits"))
    torch.testing.assert_close(outputs.mean, mean, **close)
    torch.testing.assert_close(outputs.logits, logits, **close)
    torch.testing.assert_close(outputs.log_std, weights[f"actor.{head}log_std"].expand(6, -1))
    for stream in streams:
        expected = linear(weights, f"critic.{head}heads.{stream}", to_judge)[:, 0]
        torch.testing.assert_close(values[stream], expected, **close)
    chex.assert_trees_all_equal(network.policy(weights, obs), outputs)
    chex.assert_trees_all_equal(network.values(weights, obs), values)


@pytest.mark.parametrize("rows", [(), (1,), (2, 1, 3)])
@pytest.mark.parametrize("build", [networks.actor_critic, networks.shared_actor_critic])
@pytest.mark.parametrize("action", [ActionSpec(2), ActionSpec(0, (3, 2)), ActionSpec(1, (2,))])
def test_outputs_have_one_row_per_observation_and_width_zero_where_there_is_nothing(
    rows, build, action
):
    network = build(Spec(SPEC.obs, action), hidden_units=4)
    obs = (normal(1, *rows, 3), normal(2, *rows, 2))
    outputs, values = network.policy_and_values(network.init(KEY), obs)
    assert outputs.mean.shape == outputs.log_std.shape == (*rows, action.continuous)
    assert outputs.logits.shape == (*rows, action.choices)
    assert values["extrinsic"].shape == rows


def test_policy_and_values_of_separate_networks_share_no_parameter():
    network = networks.actor_critic(SPEC, hidden_units=4)
    weights, obs = network.init(KEY), (normal(1, 4, 3), normal(2, 4, 2))
    other = filled(network.init)
    new_critic = {n: (other if n.startswith("critic.") else weights)[n] for n in weights}
    chex.assert_trees_all_equal(network.policy(new_critic, obs), network.policy(weights, obs))
    changed = network.values(new_critic, obs)["extrinsic"]
    assert (changed != network.values(weights, obs)["extrinsic"]).all()


def test_initialization_gives_each_part_its_own_initializer():
    numbers = networks.Initialization(*(networks.constant(x) for x in (1.0, 2.0, 3.0)))
    for build in (networks.actor_critic, networks.shared_actor_critic):
        weights = build(SPEC, hidden_units=4, initialization=numbers).init(KEY)
        for name, w in weights.items():
            if name.endswith("weight"):
                part = "body" if "body" in name else name.split(".")[0]
                assert (w == {"body": 1.0, "actor": 2.0, "critic": 3.0}[part]).all(), name


def test_parts_of_ones_own_make_an_actor_critic():
    class Judge(nn.Module):
        def __init__(self, sizes):
            super().__init__()
            self.layer = nn.Linear(sizes, 1)

        def forward(self, x):
            return {"only": self.layer(x[0] if isinstance(x, tuple) else x)[..., 0]}

    class Body(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 4)

        def forward(self, obs):
            return self.layer(obs[0])

    head = networks.PolicyHead(4, ActionSpec(2))
    obs = (normal(0, 5, 3),)
    together = networks.shared(Body(), head, Judge(4))
    weights = together.init(KEY)
    assert {name.split(".")[0] for name in weights} == {"body", "actor", "critic"}
    encoding = linear(weights, "body.layer", obs[0])
    expected = linear(weights, "critic.layer", encoding)[:, 0]
    torch.testing.assert_close(together.values(weights, obs)["only"], expected)
    mean = linear(weights, "actor.mean", encoding)
    torch.testing.assert_close(together.policy(weights, obs).mean, mean)

    apart = networks.separate(nn.Sequential(Body(), head), Judge(3))
    weights = apart.init(KEY)
    assert {name.split(".")[0] for name in weights} == {"actor", "critic"}
    expected = linear(weights, "critic.layer", obs[0])[:, 0]
    torch.testing.assert_close(apart.values(weights, obs)["only"], expected)


def test_images_are_read_once_in_the_layout_of_convolutions():
    obs = observed(3, (4, 2), KINDS)
    seen = networks.seen_once(KINDS, obs)
    for i, (x, y, shape) in enumerate(zip(obs, seen, KINDS.obs)):
        torch.testing.assert_close(y, x / 255 if i in KINDS.bytes else x, rtol=0, atol=1e-7)
        if len(shape) == 3:
            assert y.dtype == torch.float32
            assert y.flatten(0, 1).is_contiguous(memory_format=torch.channels_last)
            assert networks.pixel_by_pixel(y).data_ptr() == y.data_ptr()
        else:
            assert y is x
