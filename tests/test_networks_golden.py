"""ML-Agents' networks for images, sets and goals: recorded weights, inputs and outputs."""

import pytest
import torch

from optinfra import random
from optinfra.distributions import hybrid, mask_logits
from tests import golden_cases

CLOSE = {"rtol": 1e-5, "atol": 1e-6}
CASES = [
    "net_attention", "net_attention_only", "net_fully_connected", "net_goal_hyper",
    "net_goal_none", "net_match3", "net_nature_cnn", "net_resnet", "net_simple_cnn",
]  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_log_probs_entropy_and_values_equal_the_recorded_ones(name):
    golden = golden_cases.load(name)
    network = golden_cases.network_of(golden.meta)
    weights = golden_cases.ppo_weights(golden, "before")
    batch = golden_cases.ppo_batch(golden)
    outputs, values = network.policy_and_values(weights, batch.obs)
    outputs = outputs._replace(logits=mask_logits(outputs.logits, batch.action_mask))
    distribution = hybrid(golden_cases.spec_of(golden.meta).action)
    recorded = golden.tensors("out/")
    log_probs = distribution.log_prob(outputs, batch.action)
    torch.testing.assert_close(log_probs, recorded["log_probs"], **CLOSE)
    torch.testing.assert_close(distribution.entropy(outputs), recorded["entropy"], **CLOSE)
    torch.testing.assert_close(values["extrinsic"], recorded["value/extrinsic"], **CLOSE)


@pytest.mark.parametrize("name", CASES)
def test_every_weight_has_a_recorded_one_of_its_shape(name):
    golden = golden_cases.load(name)
    recorded = golden_cases.ppo_weights(golden, "before")
    drawn = golden_cases.network_of(golden.meta).init(random.key(0))
    assert {k: w.shape for k, w in recorded.items()} == {k: w.shape for k, w in drawn.items()}
