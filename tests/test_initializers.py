"""What torch's layers and a user's modules begin with, and which are no pure functions."""

import chex
import pytest
import torch
from torch import nn
from torch.func import vmap

from optinfra import networks, random, testing, tree
from optinfra.learners import ppo
from optinfra.types import ActionSpec, Spec
from tests import examples
from tests.examples import normal

KEY = random.key(5)
ACTION = ActionSpec(2, (3, 2))

# --- how torch's layers are drawn ---------------------------------------------------------------

LAYERS = {
    "linear": lambda: nn.Linear(300, 50),
    "conv1d": lambda: nn.Conv1d(12, 60, 7),
    "conv2d": lambda: nn.Conv2d(12, 40, (5, 3)),
    "conv2d in groups": lambda: nn.Conv2d(12, 60, 5, groups=3),
    "conv3d": lambda: nn.Conv3d(6, 30, (2, 3, 4)),
    "embedding": lambda: nn.Embedding(80, 60),
    "embedding of nothing": lambda: nn.Embedding(80, 60, padding_idx=2),
    "attention": lambda: nn.MultiheadAttention(60, 4),
    "attention over others": lambda: nn.MultiheadAttention(60, 4, kdim=30, vdim=90),
    "layer norm": lambda: nn.LayerNorm((4, 5)),
    "group norm": lambda: nn.GroupNorm(2, 8),
    "rms norm": lambda: nn.RMSNorm(7),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_of_torch_is_drawn_as_torch_draws_it(name):
    """Two samples are of one distribution, by Kolmogorov and Smirnov; zeros and ones are equal."""
    torch.manual_seed(0)
    layer = LAYERS[name]()
    theirs = dict(layer.named_parameters())
    drawn = networks.draw(layer)(KEY)
    assert {n: w.shape for n, w in drawn.items()} == {n: w.shape for n, w in theirs.items()}
    for full, ours in drawn.items():
        expected = theirs[full].detach()
        if name == "linear" and full == "bias":
            expected = torch.zeros_like(ours)  # on purpose
        if (expected == expected.flatten()[0]).all():
            assert torch.equal(ours, expected), full
            continue
        if "nothing" in name:
            assert not ours[2].any() and not expected[2].any()
        assert_of_one_distribution(ours, expected, full)


def assert_of_one_distribution(ours, theirs, name):
    assert ours.unique().numel() > 0.9 * ours.numel(), name
    n, (xs, ys) = ours.numel(), (x.flatten().sort().values.contiguous() for x in (ours, theirs))
    points = torch.cat([xs, ys])
    apart = (torch.searchsorted(xs, points) - torch.searchsorted(ys, points)).abs().max() / n
    assert apart < 1.95 * (2 / n) ** 0.5, name  # one in a thousand
    if n > 1000:
        assert abs(ours.std() / theirs.std() - 1) < 4 / n**0.5, name


# --- held weights -------------------------------------------------------------------------------


def test_a_pretrained_module_begins_with_its_weights_whatever_the_key():
    module = networks.pretrained(nn.Sequential(nn.Linear(3, 4), nn.PReLU(), nn.GroupNorm(2, 4)))
    module.requires_grad_(False)
    held = {name: x.clone() for name, x in module.named_parameters()}
    init = networks.draw(module)
    chex.assert_trees_all_equal(init(KEY), held)
    chex.assert_trees_all_equal(init(random.key(9)), held)
    drawn = vmap(init)(random.split(KEY, 3))
    chex.assert_trees_all_equal(drawn, tree.stack([held] * 3))
    init(KEY)["0.weight"].zero_()
    chex.assert_trees_all_equal(dict(module.named_parameters()), held)


def test_a_pretrained_encoder_stands_in_policy_and_values_and_learns():
    held = networks.pretrained(nn.Linear(3, 8))
    spec = Spec(((3,),), ACTION)
    encoding = networks.Encoding(encoder=lambda shape, h: held)
    learner = ppo(networks.actor_critic(spec, hidden_units=8, encoding=encoding), spec)
    state = learner.init(KEY)
    (name,) = [n for n in state.params.weights if n.endswith("module.weight")]
    assert torch.equal(state.params.weights[name], held.weight)
    after, _ = learner.update(state, examples.batch(0, 7, spec=spec))
    assert not torch.equal(after.params.weights[name], held.weight)


def test_what_holds_nothing_is_not_pretrained():
    with torch.device("meta"):
        module = nn.Sequential(nn.Tanh(), nn.Linear(2, 2))
    with pytest.raises(ValueError, match=r"`1\.weight` must hold values, got .* meta device"):
        networks.pretrained(module)


# --- what is refused ----------------------------------------------------------------------------

BATCHED = r"must be a pure function of single rows, got {}, which normalises over a batch"
DRAWS = r"must be a pure function of single rows, got {}, which draws by itself"


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (nn.BatchNorm1d(3), BATCHED.format("BatchNorm1d")),
        (nn.BatchNorm2d(3, affine=False), BATCHED.format("BatchNorm2d")),
        (nn.BatchNorm1d(3, track_running_stats=False).eval(), BATCHED.format("BatchNorm1d")),
        (nn.InstanceNorm1d(3, track_running_stats=True), "which keeps running statistics"),
        (nn.Dropout(0.1), DRAWS.format("Dropout")),
        (nn.AlphaDropout(), DRAWS.format("AlphaDropout")),
        (nn.MultiheadAttention(4, 2, dropout=0.1), DRAWS.format("MultiheadAttention")),
    ],
)
def test_what_is_no_function_of_single_rows_is_refused_by_name(module, message):
    with pytest.raises(TypeError, match=rf"^`1\.0` .*{message}"):
        networks.draw(nn.Sequential(nn.Tanh(), nn.Sequential(module)))
    with pytest.raises(TypeError, match=r"^`module` must be"):
        networks.draw(module)


def test_the_same_modules_are_taken_where_they_are_pure():
    frozen = nn.BatchNorm1d(3)
    for k in range(20):
        frozen(normal(k, 50, 3) + 3)
    taken = nn.Sequential(
        networks.pretrained(frozen.eval()), nn.Dropout(0.0), nn.Dropout(0.5).eval(),
        nn.InstanceNorm1d(3), nn.MultiheadAttention(4, 2, dropout=0.1).eval(),
    )  # fmt: skip
    init, x = networks.draw(taken), normal(2, 4, 3)
    normalise = networks.whole(taken[0])
    weights = {n.removeprefix("0."): w for n, w in init(KEY).items() if n.startswith("0.")}
    together = normalise(weights, x)
    torch.testing.assert_close(together, frozen(x))
    assert together.mean() < -1
    testing.assert_pure(normalise, weights, x)
    testing.assert_lifts(normalise, *((weights, normal(k, 4, 3)) for k in range(3)))
