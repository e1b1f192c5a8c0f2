"""Distributions against torch.distributions, and what masks and sizes promise."""

import math

import chex
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch.distributions import Categorical, Normal, TanhTransform, TransformedDistribution

from optinfra import distributions, random
from optinfra.distributions import PolicyOutputs, hybrid
from optinfra.types import Action, ActionSpec

MODERATE = st.floats(-3, 3, width=32)
WIDE = st.floats(-1, 2, width=32)  # ln σ for which the guards of 1e-7 are below the tolerances
NOTHING = torch.zeros(5, 0)


def floats(draw, *shape, elements=MODERATE):
    return torch.from_numpy(draw(arrays(np.float32, shape, elements=elements)))


@st.composite
def gaussians(draw):
    return floats(draw, 4, 3), floats(draw, 4, 3), floats(draw, 4, 3, elements=WIDE)


@given(gaussians())
def test_gaussian_log_prob_is_the_log_density(args):
    x, mean, log_std = args
    oracle = Normal(mean, log_std.exp()).log_prob(x)
    torch.testing.assert_close(
        distributions.gaussian_log_prob(x, mean, log_std), oracle, rtol=1e-4, atol=1e-5
    )


def test_gaussian_log_prob_has_mlagents_guards_exactly():
    std, x = 1e-3, 2e-3
    got = distributions.gaussian_log_prob(
        torch.tensor([x]), torch.tensor([0.0]), torch.tensor([math.log(std)])
    )
    expected = -(x**2) / (2 * std**2 + 1e-7) - math.log(std + 1e-7) - 0.5 * math.log(2 * math.pi)
    assert got.item() == pytest.approx(expected, rel=1e-6)
    assert got.item() != pytest.approx(Normal(0.0, std).log_prob(torch.tensor(x)).item(), rel=1e-3)


@given(gaussians())
def test_gaussian_entropy_is_the_differential_entropy(args):
    _, mean, log_std = args
    oracle = Normal(mean, log_std.exp()).entropy()
    torch.testing.assert_close(
        distributions.gaussian_entropy(log_std), oracle, rtol=1e-4, atol=1e-5
    )


def test_gaussian_sample_has_the_mean_and_deviation_it_was_given():
    rows = 20_000
    mean, log_std = torch.tensor([1.0, -2.0]), torch.tensor([0.5, -1.0])
    drawn = distributions.gaussian_sample(
        mean.expand(rows, 2), log_std.expand(rows, 2), random.key(3)
    )
    error = log_std.exp() / math.sqrt(rows)  # of the mean; of the deviation it is 1/√2 of that
    assert ((drawn.mean(0) - mean).abs() < 4 * error).all()
    assert ((drawn.std(0) - log_std.exp()).abs() < 4 * error).all()


@given(gaussians())
def test_tanh_gaussian_log_prob_is_the_transformed_density(args):
    x, mean, log_std = args
    squashed = torch.tanh(x)
    base = Normal(mean, log_std.exp())
    oracle = TransformedDistribution(base, [TanhTransform(cache_size=1)])
    torch.testing.assert_close(
        distributions.tanh_gaussian_log_prob(squashed.double(), mean.double(), log_std.double()),
        oracle.log_prob(squashed.double()),
        rtol=1e-4,
        atol=1e-3,
    )


@given(gaussians(), st.integers(0, 2**32 - 1))
def test_tanh_gaussian_sample_comes_with_its_own_log_prob(args, seed):
    _, mean, log_std = (x.double() / 3 for x in args)
    x, log_prob = distributions.tanh_gaussian_sample(mean, log_std, random.key(seed))
    assert (x.abs() <= 1).all()
    inside = x.abs() < 1 - 1e-5  # nearer to ±1 the draw has lost the digits atanh would need
    again = distributions.tanh_gaussian_log_prob(x, mean, log_std)
    torch.testing.assert_close(log_prob[inside], again[inside], rtol=1e-3, atol=1e-3)


def test_tanh_gaussian_log_prob_is_finite_at_the_ends():
    x = torch.tensor([-1.0, 1.0])
    assert distributions.tanh_gaussian_log_prob(x, torch.zeros(2), torch.zeros(2)).isfinite().all()


@given(st.data())
def test_branches_are_independent_categoricals(data):
    sizes = tuple(data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=3)))
    logits = floats(data.draw, 5, sum(sizes))
    choices = torch.stack(
        [
            torch.tensor(data.draw(st.lists(st.integers(0, n - 1), min_size=5, max_size=5)))
            for n in sizes
        ],
        -1,
    )
    oracles = [Categorical(logits=branch) for branch in logits.split(sizes, -1)]
    log_prob = torch.stack([o.log_prob(c) for o, c in zip(oracles, choices.unbind(-1))], -1)
    entropy = torch.stack([o.entropy() for o in oracles], -1)
    mode = torch.stack([branch.argmax(-1) for branch in logits.split(sizes, -1)], -1)
    close = {"rtol": 1e-4, "atol": 1e-4}  # ln(p + 1e-7) for p down to e⁻⁶/4
    torch.testing.assert_close(
        distributions.branches_log_prob(logits, choices, sizes), log_prob, **close
    )
    torch.testing.assert_close(distributions.branches_entropy(logits, sizes), entropy, **close)
    assert torch.equal(distributions.branches_mode(logits, sizes), mode)
    probs = torch.stack([o.probs.max(-1).values for o in oracles], -1)
    torch.testing.assert_close(
        distributions.branches_log_prob(logits, mode, sizes), probs.log(), **close
    )


def test_branches_sample_follows_the_probabilities():
    rows, sizes = 20_000, (2, 3)
    logits = torch.tensor([0.0, 1.0, -1.0, 0.5, 2.0])
    drawn = distributions.branches_sample(logits.expand(rows, 5), sizes, random.key(1))
    for branch, choices in zip(logits.split(sizes), drawn.unbind(-1)):
        p = torch.softmax(branch, -1)
        frequency = torch.bincount(choices, minlength=len(branch)) / rows
        assert ((frequency - p).abs() < 4 * (p * (1 - p) / rows).sqrt()).all()
    joint = (drawn[:, 0] == 1).float() * (drawn[:, 1] == 2)
    p = torch.softmax(logits[:2], -1)[1] * torch.softmax(logits[2:], -1)[2]
    assert abs(joint.mean() - p) < 4 * (p * (1 - p) / rows).sqrt()  # branches draw apart


@given(st.data())
def test_a_forbidden_choice_is_never_drawn_and_weighs_nothing(data):
    sizes = (3, 2)
    logits = floats(data.draw, 64, 5)
    mask = torch.tensor([True, False, True, False, True])
    masked = distributions.mask_logits(logits, mask.expand(64, 5))
    drawn = distributions.branches_sample(masked, sizes, random.key(data.draw(st.integers(0, 99))))
    assert (drawn[:, 0] != 1).all() and (drawn[:, 1] == 1).all()
    left = torch.cat([logits[:, [0, 2]], logits[:, [4]]], -1)
    torch.testing.assert_close(
        distributions.branches_entropy(masked, sizes),
        distributions.branches_entropy(left, (2, 1)),
    )


def test_a_branch_without_allowed_choice_is_uniform():
    masked = distributions.mask_logits(torch.tensor([[5.0, 1.0]]), torch.zeros(1, 2).bool())
    torch.testing.assert_close(torch.softmax(masked, -1), torch.tensor([[0.5, 0.5]]))


@given(st.data())
def test_hybrid_is_its_parts_side_by_side(data):
    spec = ActionSpec(2, (3, 2))
    outputs = PolicyOutputs(*(floats(data.draw, 5, width) for width in (2, 2, 5)))
    both = hybrid(spec)
    action, log_prob = both.sample(outputs, random.key(data.draw(st.integers(0, 99))))
    continuous = distributions.gaussian_log_prob(action.continuous, outputs.mean, outputs.log_std)
    discrete = distributions.branches_log_prob(outputs.logits, action.discrete, (3, 2))
    assert torch.equal(log_prob, torch.cat([continuous, discrete], -1))
    entropy = distributions.gaussian_entropy(outputs.log_std).mean(-1)
    entropy = entropy + distributions.branches_entropy(outputs.logits, (3, 2)).sum(-1)
    torch.testing.assert_close(both.entropy(outputs), entropy)
    chex.assert_trees_all_equal(both.mode(outputs).continuous, outputs.mean)


@pytest.mark.parametrize("spec", [ActionSpec(2), ActionSpec(0, (3,)), ActionSpec(1, (2, 2))])
def test_hybrid_gives_parts_of_width_zero_where_the_spec_has_none(spec):
    outputs = PolicyOutputs(
        torch.zeros(5, spec.continuous),
        torch.zeros(5, spec.continuous),
        torch.zeros(5, spec.choices),
    )
    policy = hybrid(spec)
    for action in (policy.sample(outputs, random.key(0))[0], policy.mode(outputs)):
        assert action.continuous.shape == (5, spec.continuous)
        assert action.discrete.shape == (5, len(spec.branches))
        assert action.discrete.dtype == torch.int64
        width = spec.continuous + len(spec.branches)
        assert policy.log_prob(outputs, action).shape == (5, width)
    assert policy.entropy(outputs).shape == (5,)


def test_executed_actions_are_clipped_to_three_and_scaled_to_one():
    raw = torch.tensor([[-9.0, -3.0, 0.3, 3.0, 4.0]])
    done = hybrid(ActionSpec(5)).executed(Action(raw, torch.zeros(1, 0).long()))
    torch.testing.assert_close(done.continuous, torch.tensor([[-1.0, -1.0, 0.1, 1.0, 1.0]]))


@pytest.mark.parametrize("spec", [ActionSpec(), ActionSpec(-1, (2,)), ActionSpec(0, (2, 0))])
def test_hybrid_refuses_an_impossible_spec(spec):
    with pytest.raises(ValueError, match="`spec` must have a dimension or a branch"):
        hybrid(spec)


def test_branches_log_prob_takes_memory_proportional_to_the_rows():
    rows, width = 4096, 8
    logits, choices = torch.zeros(rows, width), torch.zeros(rows, 1).long()
    with torch.profiler.profile(profile_memory=True) as profile:
        distributions.branches_log_prob(logits, choices, (width,))
    allocated = sum(max(event.self_cpu_memory_usage, 0) for event in profile.events())
    assert allocated < 20 * rows * width * 4  # ML-Agents' gather takes rows² floats, 64 MiB here


@pytest.mark.parametrize(
    ("name", "logits", "choices"),
    [("logits", (5, 4), (5, 2)), ("choices", (5, 5), (5, 3))],
)
def test_branches_log_prob_names_the_argument_whose_shape_is_wrong(name, logits, choices):
    with pytest.raises(ValueError, match=rf"`{name}` must have shape \[\*B"):
        distributions.branches_log_prob(torch.zeros(logits), torch.zeros(choices).long(), (3, 2))


# --- guards, keys and checks, one by one ------------------------------------------------------


def test_gaussian_entropy_has_mlagents_guard_exactly():
    log_std = torch.tensor([-9.0, -8.0])
    variance = torch.exp(2 * log_std.double())
    expected = 0.5 * torch.log(2 * math.pi * math.e * variance + 1e-7)
    torch.testing.assert_close(
        distributions.gaussian_entropy(log_std).double(), expected, rtol=1e-5, atol=0
    )


def test_a_gaussian_of_hardly_any_deviation_has_a_finite_log_prob():
    got = distributions.gaussian_log_prob(*(torch.tensor([x]) for x in (0.5, 0.0, -60.0)))
    expected = -(0.5**2) / 1e-7 - math.log(1e-7) - 0.5 * math.log(2 * math.pi)
    assert got.item() == pytest.approx(expected, rel=1e-5)


def test_an_impossible_choice_has_mlagents_guard_as_its_probability():
    logits = torch.tensor([[0.0, -200.0]])
    got = distributions.categorical_log_probs(logits)
    assert got[0, 0].item() == pytest.approx(math.log1p(1e-7), abs=1e-7)
    assert got[0, 1].item() == pytest.approx(math.log(1e-7), rel=1e-6)
    taken = distributions.branches_log_prob(logits, torch.tensor([[1]]), (2,))
    assert taken.item() == got[0, 1].item()


@pytest.mark.parametrize("logits", [[0.0, -200.0, 5.0], [0.3, 0.2, 0.1]])
def test_branches_entropy_has_mlagents_guard_exactly(logits):
    p = torch.softmax(torch.tensor(logits, dtype=torch.float64), -1)
    expected = -(p * torch.log(p + 1e-7)).sum()
    got = distributions.branches_entropy(torch.tensor([logits], dtype=torch.float64), (3,))
    assert got.item() == pytest.approx(expected.item(), rel=1e-12)
    unguarded = -(p * p.clamp(min=1e-300).log()).sum()
    assert got.item() != pytest.approx(unguarded.item(), rel=1e-8)


def test_a_forbidden_choice_is_as_unlikely_as_in_mlagents():
    masked = distributions.mask_logits(torch.tensor([[50.0, 1.0]]), torch.tensor([[True, False]]))
    assert masked.tolist() == [[50.0, -1e8]]


def test_log_tanh_slope_is_exact_where_the_slope_vanishes():
    u = torch.tensor([-20.0, -1.0, 0.0, 0.5, 20.0], dtype=torch.float64)
    expected = -2 * torch.log(torch.cosh(u))
    torch.testing.assert_close(distributions.log_tanh_slope(u), expected, rtol=1e-10, atol=1e-12)


def test_each_branch_draws_with_its_own_key():
    logits, key = torch.zeros(64, 6), random.key(4)
    drawn = distributions.branches_sample(logits, (3, 3), key)
    for k, choices in enumerate(drawn.unbind(-1)):
        expected = random.categorical(random.fold_in(key, k), logits[:, :3])
        assert torch.equal(choices, expected)
    alone = distributions.branches_sample(logits[:, :3], (3,), key)
    assert torch.equal(alone[:, 0], random.categorical(key, logits[:, :3]))


def test_the_parts_of_a_hybrid_action_draw_with_keys_of_their_own():
    outputs = PolicyOutputs(torch.zeros(64, 2), torch.zeros(64, 2), torch.zeros(64, 3))
    key = random.key(8)
    action, _ = hybrid(ActionSpec(2, (3,))).sample(outputs, key)
    continuous, discrete = random.split(key).unbind()
    assert torch.equal(action.continuous, random.normal(continuous, (64, 2)))
    assert torch.equal(action.discrete[:, 0], random.categorical(discrete, outputs.logits))
    alone, _ = hybrid(ActionSpec(2)).sample(outputs._replace(logits=torch.zeros(64, 0)), key)
    assert torch.equal(alone.continuous, random.normal(key, (64, 2)))


def test_the_mode_takes_the_likeliest_choice_of_each_branch():
    outputs = PolicyOutputs(
        torch.tensor([[0.5]]), torch.zeros(1, 1), torch.tensor([[0.0, 2.0, 1.0, -1.0, 3.0]])
    )
    mode = hybrid(ActionSpec(1, (3, 2))).mode(outputs)
    assert mode.continuous.tolist() == [[0.5]] and mode.discrete.tolist() == [[1, 1]]


def test_a_narrower_action_is_refused_and_not_broadcast():
    outputs = PolicyOutputs(torch.zeros(5, 2), torch.zeros(5, 2), torch.zeros(5, 3))
    narrow = Action(torch.zeros(5, 1), torch.zeros(5, 1).long())
    message = r"`action\.continuous` must have shape \[\*B, 2\], got \[5, 1\]"
    with pytest.raises(ValueError, match=message):
        hybrid(ActionSpec(2, (3,))).log_prob(outputs, narrow)


def test_executing_an_action_keeps_its_choices():
    action = Action(torch.zeros(2, 1), torch.tensor([[1, 0], [2, 1]]))
    assert hybrid(ActionSpec(1, (3, 2))).executed(action).discrete is action.discrete


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: distributions.mask_logits(x, torch.ones(5, 3).bool()), "`action_mask`"),
        (lambda x: distributions.branches_entropy(x, (3, 2)), "`logits`"),
        (lambda x: distributions.branches_sample(x, (3, 2), random.key(0)), "`logits`"),
        (lambda x: distributions.branches_mode(x, (3, 2)), "`logits`"),
    ],
)
def test_branches_of_another_width_are_refused_by_name(call, message):
    with pytest.raises(ValueError, match=message + r" must have shape \[\*B"):
        call(torch.zeros(5, 4))


# --- the scale in which an action is executed ---------------------------------------------------


def test_log_normal_cdf_is_that_of_torch_far_out_too():
    z = torch.cat([torch.linspace(-60, 12, 4001), torch.tensor([-1.0, -1e4, 1e4])])
    expected = torch.special.log_ndtr(z.double())
    torch.testing.assert_close(
        distributions.log_normal_cdf(z).double(), expected, rtol=2e-6, atol=1e-6
    )
    slope = torch.func.vmap(torch.func.grad(distributions.log_normal_cdf))(z)
    z = z.double().requires_grad_()
    (expected,) = torch.autograd.grad(torch.special.log_ndtr(z).sum(), z)
    torch.testing.assert_close(slope.double(), expected, rtol=1e-5, atol=1e-6)


def test_log_normal_cdf_keeps_its_digits_where_it_is_all_but_zero():
    z = torch.linspace(-1, 9, 1001)
    actual, expected = distributions.log_normal_cdf(z), torch.special.log_ndtr(z.double())
    torch.testing.assert_close(actual.double(), expected, rtol=1e-4, atol=0)


def test_the_likelihood_at_a_limit_is_finite_where_the_deviation_is_none():
    args = torch.tensor([1.0]), torch.zeros(1), torch.tensor([-200.0])
    slopes = torch.func.grad(lambda *args: distributions.clipped_gaussian_log_prob(*args).sum())
    assert distributions.clipped_gaussian_log_prob(*args).isfinite() and slopes(*args).isfinite()


@given(st.floats(-6, 6), st.floats(-2, 1.5))
def test_the_likelihood_of_executed_actions_adds_up_to_one(mean, log_std):
    """Density between the limits, probability at them."""
    x = torch.linspace(-1, 1, 20001, dtype=torch.float64)
    mean, log_std = (torch.full_like(x, number) for number in (mean, log_std))
    likelihood = distributions.clipped_gaussian_log_prob(x, mean, log_std).exp()
    inside = torch.trapezoid(likelihood[1:-1], x[1:-1])
    inside = inside + 1e-4 * (likelihood[1] + likelihood[-2])  # the two ends of the integral
    assert (inside + likelihood[0] + likelihood[-1]).item() == pytest.approx(1, abs=1e-3)


def test_the_likelihood_at_a_limit_is_the_share_of_draws_that_are_clipped_to_it():
    mean, log_std = torch.tensor([2.0, -4.0]), torch.tensor([0.5, 1.0])
    draws = random.normal(random.key(0), (200_000, 2)) * log_std.exp() + mean
    for limit in (-1.0, 1.0):
        share = ((draws / 3).clamp(-1, 1) == limit).float().mean(0)
        there = distributions.clipped_gaussian_log_prob(torch.full((2,), limit), mean, log_std)
        torch.testing.assert_close(there.exp(), share, rtol=0, atol=0.005)


@given(gaussians())
def test_between_the_limits_an_executed_actions_density_is_three_times_the_raw_ones(args):
    x, mean, log_std = args
    executed = 0.99 * x / 3
    expected = distributions.gaussian_log_prob(3 * executed, mean, log_std) + math.log(3)
    actual = distributions.clipped_gaussian_log_prob(executed, mean, log_std)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


def test_a_hybrids_executed_likelihood_has_both_parts_side_by_side():
    parts, action = hybrid(ActionSpec(2, (3, 2))), Action(torch.rand(5, 2), torch.ones(5, 2).long())
    outputs = PolicyOutputs(torch.randn(5, 2), torch.zeros(5, 2), torch.randn(5, 5))
    columns = parts.executed_log_prob(outputs, action)
    raw = parts.log_prob(outputs, Action(3 * action.continuous, action.discrete))
    torch.testing.assert_close(columns[:, :2], raw[:, :2] + math.log(3), rtol=1e-5, atol=1e-5)
    assert torch.equal(columns[:, 2:], raw[:, 2:])
    with pytest.raises(ValueError, match=r"`action.continuous` must have shape"):
        parts.executed_log_prob(outputs, Action(action.continuous[:, :1], action.discrete))
