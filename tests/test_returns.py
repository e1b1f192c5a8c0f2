"""Laws of optinfra.returns, and ML-Agents' recorded returns."""

import inspect
import json
from functools import partial
from pathlib import Path

import chex
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.func import grad, vmap

from optinfra.returns import discounted_returns, gae, lambda_returns, retrace, vtrace
from tests.rollouts import (
    FLAGS,
    FLOATS,
    RATES_OF,
    call,
    consistent,
    cuts,
    discounted_returns_by_sum,
    estimate,
    gae_by_double_sum,
    lambda_returns_by_mixture,
    retrace_by_sum,
    rollout,
    rollouts,
    take,
    vtrace_advantages_by_targets,
    vtrace_targets_by_sum,
)

GOLDEN = Path(__file__).parent / "golden" / "returns.npz"
RATES = st.floats(0, 1)
TIGHT = dict(rtol=1e-9, atol=1e-9)
every_estimator = pytest.mark.parametrize("function", RATES_OF, ids=lambda f: f.__name__)


# Definitions


@given(rollouts(), RATES, RATES)
def test_gae_is_the_decayed_sum_of_td_errors_to_the_end_of_the_episode(r, discount, gae_lambda):
    actual = call(gae, r, discount=discount, gae_lambda=gae_lambda)
    chex.assert_trees_all_close(actual, gae_by_double_sum(r, discount, gae_lambda), **TIGHT)


@given(rollouts(), RATES, RATES)
def test_lambda_return_is_the_mixture_of_n_step_returns(r, discount, trace_lambda):
    actual = call(lambda_returns, r, discount=discount, trace_lambda=trace_lambda)
    expected = lambda_returns_by_mixture(r, discount, trace_lambda)
    chex.assert_trees_all_close(actual, expected, **TIGHT)


@given(rollouts(), RATES)
def test_discounted_return_is_the_sum_of_rewards_and_the_bootstrap(r, discount):
    actual = call(discounted_returns, r, discount=discount)
    chex.assert_trees_all_close(actual, discounted_returns_by_sum(r, discount), **TIGHT)


@given(rollouts(), RATES, st.floats(0.1, 3), st.floats(0.1, 3))
def test_vtrace_targets_are_the_sum_of_equation_one(r, discount, clip_rho, clip_c):
    actual = call(vtrace, r, discount=discount, clip_rho=clip_rho, clip_c=clip_c)
    expected = vtrace_targets_by_sum(r, discount, clip_rho, clip_c)
    chex.assert_trees_all_close(actual.targets, expected, **TIGHT)


@given(rollouts(), RATES, st.floats(0.1, 3), st.floats(0.1, 3))
def test_vtrace_advantages_bootstrap_from_the_next_target(r, discount, clip_rho, clip_c):
    r = consistent(r)
    actual = call(vtrace, r, discount=discount, clip_rho=clip_rho, clip_c=clip_c)
    expected = vtrace_advantages_by_targets(r | {"targets": actual.targets}, discount, clip_rho)
    chex.assert_trees_all_close(actual.advantages, expected, **TIGHT)


@given(rollouts(), RATES, RATES)
def test_retrace_is_the_sum_of_equation_three(r, discount, trace_lambda):
    actual = call(retrace, r, discount=discount, trace_lambda=trace_lambda)
    chex.assert_trees_all_close(actual, retrace_by_sum(r, discount, trace_lambda), **TIGHT)


@pytest.mark.parametrize("number", range(4))
def test_returns_are_those_recorded_from_ml_agents(number):
    recorded = np.load(GOLDEN, allow_pickle=False)
    assert json.loads(recorded["meta"].tobytes())["case"] == "returns"
    rewards, values, next_value = (
        torch.from_numpy(recorded[f"batch/{number}/{name}"])
        for name in ("rewards", "values", "next_value")
    )
    discount, trace_lambda = recorded[f"batch/{number}/gamma_lambda"].tolist()
    never = torch.zeros(len(rewards), dtype=torch.bool)
    tail = (torch.cat([values[1:], next_value[None]]), never, never)
    actual = {
        "gae": gae(rewards, values, *tail, discount=discount, gae_lambda=trace_lambda),
        "lambda_return": lambda_returns(
            rewards, *tail, discount=discount, trace_lambda=trace_lambda
        ),
        "discounted": discounted_returns(rewards, *tail, discount=discount),
    }
    expected = {name: torch.from_numpy(recorded[f"out/{number}/{name}"]) for name in actual}
    chex.assert_trees_all_close(actual, expected, rtol=1e-9, atol=1e-9)


# Reductions


@given(rollouts(), RATES)
def test_gae_without_lambda_is_the_td_error(r, discount):
    alive = (~r["terminated"]).double()
    expected = r["rewards"] + discount * alive * r["next_values"] - r["values"]
    chex.assert_trees_all_close(call(gae, r, discount=discount, gae_lambda=0.0), expected, **TIGHT)


@given(rollouts(), RATES)
def test_gae_with_lambda_one_is_monte_carlo_less_the_value(r, discount):
    r = consistent(r)
    expected = call(discounted_returns, r, discount=discount) - r["values"]
    chex.assert_trees_all_close(call(gae, r, discount=discount, gae_lambda=1.0), expected, **TIGHT)


@given(rollouts(), RATES, RATES)
def test_gae_is_the_lambda_return_less_the_value(r, discount, trace_lambda):
    r = consistent(r)
    expected = call(lambda_returns, r, discount=discount, trace_lambda=trace_lambda)
    actual = call(gae, r, discount=discount, gae_lambda=trace_lambda) + r["values"]
    chex.assert_trees_all_close(actual, expected, **TIGHT)


@given(rollouts(), RATES, RATES)
def test_vtrace_on_policy_is_the_lambda_return_with_lambda_clip_c(r, discount, clip_c):
    on_policy = r | {"log_ratio": torch.zeros_like(r["rewards"])}
    actual = call(vtrace, on_policy, discount=discount, clip_c=clip_c)
    expected = call(gae, r, discount=discount, gae_lambda=clip_c) + r["values"]
    chex.assert_trees_all_close(actual.targets, expected, **TIGHT)


@given(rollouts(), RATES)
def test_vtrace_on_policy_has_gae_with_lambda_one_as_advantages(r, discount):
    on_policy = r | {"log_ratio": torch.zeros_like(r["rewards"])}
    actual = call(vtrace, on_policy, discount=discount)
    expected = call(gae, r, discount=discount, gae_lambda=1.0)
    chex.assert_trees_all_close(actual.advantages, expected, **TIGHT)


@given(rollouts(), RATES)
def test_vtrace_of_impossible_actions_leaves_the_values(r, discount):
    never = r | {"log_ratio": torch.full_like(r["rewards"], -torch.inf)}
    actual = call(vtrace, never, discount=discount)
    chex.assert_trees_all_equal(actual.targets, r["values"])
    assert not actual.advantages.any()


@given(rollouts(), RATES, RATES, st.floats(0, 3))
def test_retrace_of_likelier_actions_is_the_lambda_return(r, discount, trace_lambda, log_ratio):
    likelier = r | {
        "action_values": r["values"],
        "log_ratio": torch.full_like(r["rewards"], log_ratio),
    }
    actual = call(retrace, likelier, discount=discount, trace_lambda=trace_lambda)
    expected = call(gae, r, discount=discount, gae_lambda=trace_lambda) + r["values"]
    chex.assert_trees_all_close(actual, expected, **TIGHT)


# Ends: terminated, truncated and the end of the rollout are three things


@every_estimator
@given(cuts())
def test_end_inside_a_rollout_equals_separate_rollouts(function, rollout_and_cut):
    r, cut = rollout_and_cut
    r["truncated"][cut - 1] = True
    apart = torch.cat(
        [estimate(function, take(r, slice(cut))), estimate(function, take(r, slice(cut, None)))]
    )
    chex.assert_trees_all_close(estimate(function, r), apart, **TIGHT)


@every_estimator
def test_end_of_the_rollout_bootstraps_as_a_truncation_does(function):
    r = rollout(3, 9, ends=0.0)
    cut = r | {"truncated": torch.arange(9) == 8}
    chex.assert_trees_all_equal(estimate(function, r), estimate(function, cut))


@every_estimator
@pytest.mark.parametrize("step", [0, 4, 8])
def test_termination_reads_no_next_value(function, step):
    r = rollout(3, 9, ends=0.0)
    r["terminated"][step] = True
    zeroed = r | {"next_values": r["next_values"].clone()}
    r["next_values"][step], zeroed["next_values"][step] = torch.nan, 0.0
    alive = zeroed | {"terminated": torch.zeros(9, dtype=torch.bool),
                      "truncated": torch.arange(9) == step}  # fmt: skip
    chex.assert_trees_all_equal(estimate(function, r), estimate(function, zeroed))
    chex.assert_trees_all_equal(estimate(function, r), estimate(function, alive))


@every_estimator
@pytest.mark.parametrize("step", [0, 4, 8])
def test_truncation_bootstraps_from_its_next_value(function, step):
    """One more of it is worth γ at that step; a termination would ignore it."""
    r = rollout(3, 9, ends=0.0) | {"log_ratio": torch.zeros(9)}
    r["truncated"][step] = True
    more = r | {"next_values": r["next_values"] + (torch.arange(9) == step)}
    gained = estimate(function, more) - estimate(function, r)
    chex.assert_trees_all_close(gained[step], torch.full_like(gained[step], 0.9), **TIGHT)


@every_estimator
@given(rollouts())
def test_step_both_terminated_and_truncated_terminated(function, r):
    both = r | {"truncated": r["terminated"] | r["truncated"]}
    once = r | {"truncated": r["truncated"] & ~r["terminated"]}
    chex.assert_trees_all_equal(estimate(function, both), estimate(function, once))


@every_estimator
@given(rollouts(), st.data())
def test_nothing_after_an_end_reaches_back(function, r, data):
    steps = len(r["rewards"])
    end = data.draw(st.integers(0, steps - 1))
    r["terminated" if data.draw(st.booleans()) else "truncated"][end] = True
    other = rollout(7, steps, r["rewards"].shape[1:])
    mixed = {name: torch.cat([r[name][: end + 1], other[name][end + 1 :]]) for name in r}
    chex.assert_trees_all_close(
        estimate(function, mixed)[: end + 1], estimate(function, r)[: end + 1], **TIGHT
    )


@every_estimator
@given(rollouts(), st.data())
def test_nothing_reaches_forward_whatever_it_holds(function, r, data):
    step = data.draw(st.integers(0, len(r["rewards"]) - 1))
    spoilt = r | {name: r[name].clone() for name in FLOATS}
    for name in FLOATS:
        spoilt[name][step] = torch.nan
    later = slice(step + 1, None)
    chex.assert_trees_all_equal(estimate(function, spoilt)[later], estimate(function, r)[later])


def test_stream_that_ignores_terminations_bootstraps_and_still_ends():
    """ML-Agents' curiosity (Q55): value of the terminal observation, no sum across episodes."""
    r = rollout(3, 9, ends=0.0)
    ended = torch.arange(9) == 4
    ignoring = r | {"terminated": torch.zeros_like(ended), "truncated": ended}
    actual = call(gae, ignoring, discount=0.9, gae_lambda=0.8)
    expected = r["rewards"][4] + 0.9 * r["next_values"][4] - r["values"][4]
    chex.assert_trees_all_close(actual[4], expected, **TIGHT)


# Cutting time


def bootstrapped(head, next_value):
    """The rollout before the cut, its last next value replaced where its episode goes on."""
    goes_on = ~(head["terminated"][-1] | head["truncated"][-1])
    last = torch.where(goes_on, next_value, head["next_values"][-1])
    return head | {"next_values": torch.cat([head["next_values"][:-1], last[None]])}


@given(cuts(), RATES)
def test_discounted_returns_cut_and_bootstrapped_with_the_tail_equal_the_whole(both, discount):
    r, cut = both
    tail = call(discounted_returns, take(r, slice(cut, None)), discount=discount)
    head = bootstrapped(take(r, slice(cut)), tail[0])
    pieces = torch.cat([call(discounted_returns, head, discount=discount), tail])
    chex.assert_trees_all_close(call(discounted_returns, r, discount=discount), pieces, **TIGHT)


@given(cuts(), RATES, RATES)
def test_lambda_returns_cut_and_bootstrapped_with_the_tail_equal_the_whole(
    both, discount, trace_lambda
):
    """What the head bootstraps is what a λ-return makes of the next step: (1 − λ)·V′ + λ·G."""
    r, cut = both
    rates = dict(discount=discount, trace_lambda=trace_lambda)
    tail = call(lambda_returns, take(r, slice(cut, None)), **rates)
    head = take(r, slice(cut))
    follows = (1 - trace_lambda) * head["next_values"][-1] + trace_lambda * tail[0]
    pieces = torch.cat([call(lambda_returns, bootstrapped(head, follows), **rates), tail])
    chex.assert_trees_all_close(call(lambda_returns, r, **rates), pieces, **TIGHT)


@given(cuts(), RATES, RATES)
def test_gae_cut_and_bootstrapped_with_the_tail_equals_the_whole(both, discount, gae_lambda):
    """The carry λ·A of the tail is a surplus of the value that the head bootstraps."""
    r, cut = both
    rates = dict(discount=discount, gae_lambda=gae_lambda)
    tail = call(gae, take(r, slice(cut, None)), **rates)
    head = take(r, slice(cut))
    follows = head["next_values"][-1] + gae_lambda * tail[0]
    pieces = torch.cat([call(gae, bootstrapped(head, follows), **rates), tail])
    chex.assert_trees_all_close(call(gae, r, **rates), pieces, **TIGHT)


@given(cuts(), RATES, RATES)
def test_true_values_have_no_advantage_wherever_the_rollout_is_cut(both, discount, gae_lambda):
    r, cut = both
    true_values = call(discounted_returns, r, discount=discount)
    r = consistent(r | {"values": true_values})
    for part in (slice(None), slice(cut), slice(cut, None)):
        part = take(r, part)
        advantages = call(gae, part, discount=discount, gae_lambda=gae_lambda)
        chex.assert_trees_all_close(advantages, torch.zeros_like(advantages), **TIGHT)


# Axes, rates, accuracy


@every_estimator
@given(rollouts(batches=((3,),)))
def test_columns_do_not_touch_each_other(function, r):
    alone = torch.stack([estimate(function, take(r, (slice(None), j))) for j in range(3)], 1)
    chex.assert_trees_all_close(estimate(function, r), alone, **TIGHT)


@every_estimator
@given(r=rollouts(batches=((3,), (2, 3))))
def test_rates_per_column_equal_vmap_over_columns_and_plain_numbers(function, r):
    rates = torch.tensor([0.5, 0.9, 1.0], dtype=torch.float64)
    columns = r["rewards"].ndim - 1
    whole = estimate(function, r, rates.expand(r["rewards"].shape[1:]))
    mapped = vmap(partial(estimate, function), in_dims=(columns, 0), out_dims=columns)(r, rates)
    single = torch.stack(
        [estimate(function, take(r, (..., j)), rate) for j, rate in enumerate(rates.tolist())],
        columns,
    )
    chex.assert_trees_all_close(mapped, whole, rtol=1e-12, atol=1e-12)
    chex.assert_trees_all_close(single, whole, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("steps", [1, 7, 8, 9, 64, 1000])
def test_float32_stays_within_a_millionth_of_a_float64_loop(steps):
    """γ = 0.999, λ = 0.97, one end in a hundred steps: sums as long as any in practice."""
    r = rollout(steps, steps, (16,), ends=0.005)
    decay = 0.999 * 0.97 * ~(r["terminated"] | r["truncated"])
    delta = r["rewards"] + 0.999 * ~r["terminated"] * r["next_values"] - r["values"]
    expected, advantage = [], torch.zeros(16, dtype=torch.float64)
    for t in reversed(range(steps)):
        advantage = delta[t] + decay[t] * advantage
        expected.insert(0, advantage)
    expected = torch.stack(expected)
    single = {name: x.float() if x.is_floating_point() else x for name, x in r.items()}
    actual = call(gae, single, discount=0.999, gae_lambda=0.97)
    assert actual.dtype == torch.float32
    assert (actual - expected).abs().max() < 1e-6 * expected.abs().max()


def test_gae_hands_its_gradient_back_through_time():
    """∂A₀/∂rₖ is (γλ)ᵏ up to the end of the episode, 0 beyond."""
    r = rollout(0, 12, ends=0.0)
    r["truncated"][9] = True

    def first(rewards):
        return call(gae, r | {"rewards": rewards}, discount=0.9, gae_lambda=0.8)[0]

    steps = torch.arange(12, dtype=torch.float64)
    expected = torch.where(steps <= 9, 0.72**steps, 0.0)
    chex.assert_trees_all_close(grad(first)(r["rewards"]), expected, **TIGHT)


# Bad input


def taken_by(function, names):
    return [name for name in names if name in inspect.signature(function).parameters]


@every_estimator
def test_estimator_names_the_argument_whose_shape_is_wrong(function):
    r = rollout(0, 5, (3,))
    for name in taken_by(function, FLOATS[1:] + FLAGS):
        message = rf"`{name}` must have shape \[T, \*B\] = \[5, 3\], got \[5\]"
        with pytest.raises(ValueError, match=message):
            estimate(function, r | {name: r[name][:, 0]})


@every_estimator
def test_estimator_names_the_rate_whose_shape_is_wrong(function):
    r, rates = rollout(0, 5, (3,)), RATES_OF[function](0.9)
    for name in rates:
        message = rf"`{name}` must have shape \[\*B\] = \[3\], got \[5\]"
        with pytest.raises(ValueError, match=message):
            call(function, r, **(rates | {name: torch.ones(5)}))


@every_estimator
def test_estimator_refuses_flags_that_are_not_boolean(function):
    r = rollout(0, 5, (3,))
    for name in FLAGS:
        with pytest.raises(TypeError, match=rf"`{name}` must have dtype torch\.bool, got"):
            estimate(function, r | {name: r[name].double()})


@every_estimator
@pytest.mark.parametrize(("index", "got"), [(slice(0), r"\[0, 3\]"), ((0, 0), r"\[\]")])
def test_estimator_refuses_a_rollout_without_steps(function, index, got):
    with pytest.raises(ValueError, match=rf"`rewards` must have shape \[T, \*B\] .*got {got}"):
        estimate(function, take(rollout(0, 5, (3,)), index))
