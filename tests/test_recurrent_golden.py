"""Recurrent networks and trajectory values against recorded ML-Agents calls."""

import pytest
import torch

from optinfra import random
from optinfra.distributions import hybrid, mask_logits
from optinfra.testing import assert_trees_close
from optinfra.types import Memories, Trajectory
from optinfra.values import Critic, rollout_values
from tests import examples, golden_cases

CLOSE = {"rtol": 1e-5, "atol": 1e-6}


def test_a_recurrent_network_equals_the_recorded_one():
    golden = golden_cases.load("net_recurrent")
    network = golden_cases.network_of(golden.meta)
    weights = golden_cases.ppo_weights(golden, "before")
    batch = golden_cases.ppo_batch(golden)
    obs = tuple(x.movedim(1, 0) for x in batch.obs)
    outputs, _ = network.policy(weights, obs, batch.memory.actor, None)
    values, memory = network.values(weights, obs, batch.memory.critic, None)
    logits = mask_logits(outputs.logits, batch.action_mask.movedim(1, 0))
    outputs = outputs._replace(logits=logits)
    distribution = hybrid(golden_cases.spec_of(golden.meta).action)
    action = type(batch.action)(*(x.movedim(1, 0) for x in batch.action))
    recorded = golden.tensors("out/")

    def in_rows(x):  # [S, N, …] to the recorded order of rows
        return x.movedim(0, 1).flatten(0, 1)

    log_probs = in_rows(distribution.log_prob(outputs, action))
    torch.testing.assert_close(log_probs, recorded["log_probs"], **CLOSE)
    entropy = in_rows(distribution.entropy(outputs))
    torch.testing.assert_close(entropy, recorded["entropy"], **CLOSE)
    torch.testing.assert_close(in_rows(values["extrinsic"]), recorded["value/extrinsic"], **CLOSE)
    torch.testing.assert_close(memory, recorded["critic_memory"][0], **CLOSE)


@pytest.mark.parametrize("padding", [None, 0, 7])  # None: the trajectory has no flags at all
@pytest.mark.parametrize("name", ["values_feedforward", "values_recurrent"])
def test_trajectory_values_equal_the_recorded_ones_of_one_agent_in_order(name, padding):
    golden = golden_cases.load(name)
    learner = golden_cases.ppo_learner(golden)
    params = learner.init(random.key(0)).params
    params = params._replace(weights=golden_cases.ppo_weights(golden, "before"))
    memory = learner.memories((1,)).critic
    length = golden.meta["sequence_length"]
    for obs, following, done, recorded in golden_cases.trajectories(golden):
        steps = len(obs[0])
        trajectory = padded(Trajectory(obs, memory, *no_ends(steps), ()), padding)
        out = learner.trajectory_values(
            params, trajectory, tuple(x[None] for x in following), done[None]
        )
        for stream in golden.meta["streams"]:
            value = out.values[stream][:steps, 0]
            torch.testing.assert_close(value, recorded[f"value/{stream}"], **CLOSE)
            bootstrap = out.bootstrap[stream][0]
            torch.testing.assert_close(bootstrap, recorded[f"next_value/{stream}"], **CLOSE)
        if golden.meta["recurrent"]:
            starts = out.memories[: -(-steps // length), 0]
            torch.testing.assert_close(starts, recorded["memory"][::length], **CLOSE)
            assert (out.final_memory == 0).all() == done
        memory = out.final_memory


def no_ends(steps):
    return (torch.zeros(steps, 1, dtype=torch.bool) for _ in range(2))


def padded(trajectory, padding):
    """One agent's trajectory `[T, 1]`, with so many rows of rubbish behind it."""
    obs = tuple(x[:, None] for x in trajectory.obs)
    if padding is None:
        return trajectory._replace(obs=obs, terminated=(), truncated=())
    if not padding:
        return trajectory._replace(obs=obs)
    steps = len(obs[0])
    rubbish = tuple(torch.full((padding, *x.shape[1:]), torch.nan) for x in obs)
    ends = torch.cat([trajectory.terminated, torch.ones(padding, 1, dtype=torch.bool)])
    return trajectory._replace(
        obs=tuple(torch.cat(pair) for pair in zip(obs, rubbish)),
        terminated=ends,
        truncated=ends,
        mask=torch.arange(steps + padding)[:, None] < steps,
    )


def test_a_recorded_memory_is_of_one_agent():
    """What the recordings would not show: memories are told apart by their part."""
    batch = golden_cases.ppo_batch(golden_cases.load("ppo_recurrent"))
    assert isinstance(batch.memory, Memories)
    assert (batch.memory.actor != batch.memory.critic).any()


def test_a_critic_tells_its_memories_step_by_step_where_it_has_no_other_way():
    network, trajectory = examples.recurrent_network(), examples.trajectory(0, 5, 2)
    trajectory = trajectory._replace(memory=examples.normal(1, 2, 6))
    params, following = network.init(random.key(0)), examples.batch(2, 5, 2).obs
    valued = [
        rollout_values(critic)(params, trajectory, following)
        for critic in (Critic(network.values), Critic(network.values, network.values_and_memories))
    ]
    assert_trees_close(*valued, **CLOSE)
