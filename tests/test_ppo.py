"""PPO against recorded ML-Agents calls, and the laws of its update."""

import chex
import pytest
import torch

from optinfra import random, tree
from optinfra.moments import Moments
from tests import golden_cases

CASES = [
    "ppo_continuous", "ppo_discrete", "ppo_hybrid", "ppo_shared_normalized", "ppo_recurrent",
    "ppo_streams",
]  # fmt: skip
UPSTREAM_STATS = {
    "policy_loss": "Losses/Policy Loss",
    "value_loss": "Losses/Value Loss",
    "learning_rate": "Policy/Learning Rate",
    "clip_range": "Policy/Epsilon",
    "entropy_coef": "Policy/Beta",
}


def recorded_moments(golden):
    policy = golden.tensors("before/Policy/network_body.processors.")
    return tuple(
        Moments(
            policy[f"{i}.normalizer.normalization_steps"],
            policy[f"{i}.normalizer.running_mean"],
            policy[f"{i}.normalizer.running_variance"],
        )
        for i in range(len(golden.meta["obs"]) if golden.meta["normalize"] else 0)
    )


def recorded_start(golden):
    learner = golden_cases.ppo_learner(golden)
    fresh = learner.init(random.key(0))
    weights = golden_cases.ppo_weights(golden, "before")
    chex.assert_trees_all_equal_shapes_and_dtypes(fresh.params.weights, weights)
    moments = recorded_moments(golden)
    chex.assert_trees_all_equal_shapes(fresh.params.moments, moments)
    params = fresh.params._replace(weights=weights, moments=moments)
    return learner, fresh._replace(params=params, steps=torch.tensor(golden.meta["step"]))


@pytest.mark.parametrize("name", CASES)
def test_ppo_update_equals_the_recorded_mlagents_calls(name):
    golden = golden_cases.load(name)
    learner, state = recorded_start(golden)
    batch = golden_cases.ppo_batch(golden)
    for call in range(golden.meta["calls"]):
        state, stats = learner.update(state, batch)
        recorded = golden.tensors(f"out/{call}/")
        stats["policy_loss"] = stats["policy_loss"].abs()  # as upstream reports it
        for ours, upstream in UPSTREAM_STATS.items():
            expected = recorded[upstream].float()
            torch.testing.assert_close(stats[ours], expected, rtol=1e-5, atol=1e-6)
    expected = golden_cases.ppo_weights(golden, "after")
    chex.assert_trees_all_close(state.params.weights, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_golden_parameters_really_move_in_the_recorded_calls(name):
    golden = golden_cases.load(name)
    before, after = (golden_cases.ppo_weights(golden, moment) for moment in ("before", "after"))
    moved = tree.map(lambda a, b: (a - b).abs().max(), before, after)
    assert min(tree.leaves(moved)) > 1e-4  # ten times the tolerance of the comparison
