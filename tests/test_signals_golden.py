"""Reward signals against recorded ML-Agents calls."""

import chex
import pytest
import torch

from optinfra import tree
from tests import signal_cases

CASES = ["curiosity_continuous", "curiosity_hybrid", "rnd", "gail", "gail_actions", "vail"]
STATS = {
    "curiosity_forward_loss": "Losses/Curiosity Forward Loss",
    "curiosity_inverse_loss": "Losses/Curiosity Inverse Loss",
    "rnd_loss": "Losses/RND Loss",
    "gail_loss": "Losses/GAIL Loss",
    "gail_policy_estimate": "Policy/GAIL Policy Estimate",
    "gail_expert_estimate": "Policy/GAIL Expert Estimate",
    "gail_grad_penalty": "Policy/GAIL Grad Mag Loss",
    "gail_beta": "Policy/GAIL Beta",
    "gail_kl_loss": "Losses/GAIL KL Loss",
}
CLOSE = {"rtol": 1e-5, "atol": 1e-6}


@pytest.mark.parametrize("name", CASES)
def test_signal_equals_the_recorded_mlagents_calls(name, monkeypatch):
    golden, signal, state, batch = signal_cases.recorded(name)
    left = signal_cases.replay(monkeypatch, golden)
    expected = golden.tensors("out/")
    before = signal.evaluate(state, batch)
    torch.testing.assert_close(before, at_valid_rows(expected["evaluate_before"], batch), **CLOSE)
    for call in range(golden.meta["calls"]):
        state, stats = signal.update(state, batch)
        upstream = golden.tensors(f"out/{call}/")
        assert {STATS[ours] for ours in stats} == set(upstream)
        for ours, value in stats.items():
            torch.testing.assert_close(value, upstream[STATS[ours]].float(), **CLOSE)
    assert not left  # every recorded draw was asked for
    after = signal.evaluate(state, batch)
    torch.testing.assert_close(after, at_valid_rows(expected["evaluate_after"], batch), **CLOSE)
    for field, recorded in signal_cases.networks(golden, "after").items():
        chex.assert_trees_all_close(getattr(state, field), recorded, rtol=0, atol=1e-5)


def at_valid_rows(recorded, batch):
    """Upstream rewards padding, too."""
    return torch.where(batch.mask, recorded, 0.0)


@pytest.mark.parametrize("name", CASES)
def test_recorded_weights_have_the_names_and_shapes_of_ours(name):
    _, signal, state, _ = signal_cases.recorded(name)
    fresh = signal.init(torch.tensor([0, 1]))
    chex.assert_trees_all_equal_shapes_and_dtypes(fresh, state)


@pytest.mark.parametrize("name", CASES)
def test_recorded_weights_really_move_in_the_recorded_calls(name):
    golden = signal_cases.recorded(name).golden
    before, after = (signal_cases.networks(golden, moment) for moment in ("before", "after"))
    moved = tree.map(lambda a, b: (a - b).abs().max(), before["weights"], after["weights"])
    assert min(tree.leaves(moved)) > 1e-4  # ten times the tolerance of the comparison
