"""POCA against recorded ML-Agents calls: updates, and values of trajectories in order."""

import chex
import pytest
import torch

from optinfra import random, tree
from optinfra.learners import poca
from optinfra.schedules import BETA_FLOOR, EPSILON_FLOOR, LEARNING_RATE_FLOOR, linear_to_floor
from optinfra.types import Memories, Trajectory
from tests import golden_cases
from tests.group_weights import group_network, group_params, recorded_mates
from tests.test_ppo import UPSTREAM_STATS

CASES = ["poca_continuous", "poca_discrete", "poca_recurrent"]
STATS = UPSTREAM_STATS | {"baseline_loss": "Losses/Baseline Loss"}
CLOSE = {"rtol": 1e-5, "atol": 1e-6}


def recorded_learner(golden):
    meta, hyper = golden.meta, golden.meta["hyperparameters"]

    def decay(initial, floor):
        return linear_to_floor(initial, floor, meta["max_steps"])

    return poca(
        group_network(meta),
        golden_cases.spec_of(meta),
        learning_rate=decay(hyper["learning_rate"], LEARNING_RATE_FLOOR),
        clip_range=decay(hyper["epsilon"], EPSILON_FLOOR),
        entropy_coef=decay(hyper["beta"], BETA_FLOOR),
        sequence_length=meta["sequence_length"],
    )


def recorded_start(golden):
    learner = recorded_learner(golden)
    weights, largest = group_params(golden, "before")
    fresh = learner.init(random.key(0))
    params = fresh.params._replace(weights=weights, largest=largest.reshape(()))
    return learner, fresh._replace(params=params, steps=torch.tensor(golden.meta["step"]))


def recorded_batch(golden):
    columns, meta = golden.tensors("batch/"), golden.meta
    rows = golden_cases.ppo_batch(golden)
    mates = recorded_mates(meta, columns)
    baselines = {name: columns[f"baselines:{name}"] for name in meta["streams"]}
    if meta["recurrent"]:
        length = meta["sequence_length"]
        mates, baselines = tree.map(lambda x: x.unflatten(0, (-1, length)), (mates, baselines))
        baseline_memory = columns["poca_baseline_memory"][::length]
        critic = torch.cat([rows.memory.critic, baseline_memory], -1)
        rows = rows._replace(memory=Memories(rows.memory.actor, critic))
    return rows._replace(mates=mates, baselines=baselines)


@pytest.mark.parametrize("name", CASES)
def test_poca_update_equals_the_recorded_mlagents_calls(name):
    golden = golden_cases.load(name)
    learner, state = recorded_start(golden)
    batch = recorded_batch(golden)
    for call in range(golden.meta["calls"]):
        state, stats = learner.update(state, batch)
        recorded = golden.tensors(f"out/{call}/")
        stats["policy_loss"] = stats["policy_loss"].abs()  # as upstream reports it
        for ours, upstream in STATS.items():
            torch.testing.assert_close(
                stats[ours], recorded[upstream].float(), rtol=1e-5, atol=1e-6
            )
    expected, largest = group_params(golden, "after")
    chex.assert_trees_all_close(state.params.weights, expected, rtol=0, atol=1e-5)
    assert state.params.largest == largest > 1
    before, _ = group_params(golden, "before")
    moved = tree.map(lambda a, b: (a - b).abs().max(), before, expected)
    assert min(tree.leaves(moved)) > 1e-4  # ten times the tolerance of the comparison


def test_trajectory_values_equal_the_recorded_ones_of_one_agent_in_order():
    golden = golden_cases.load("values_poca_recurrent")
    learner, state = recorded_start(golden)
    params, length = state.params, golden.meta["sequence_length"]
    memory = learner.memories((1,)).critic
    for k, (obs, following, done, recorded) in enumerate(golden_cases.trajectories(golden)):
        columns = golden.tensors(f"batch/{k}/")
        now, later = tree.map(
            lambda x: x[:, None],
            (recorded_mates(golden.meta, columns), recorded_next_mates(golden, columns)),
        )
        one = Trajectory(
            tuple(x[:, None] for x in obs), memory, (), (), (), now, tree.take(later, 0)
        )
        out = learner.trajectory_values(params, one, tuple(x[None] for x in following), done[None])
        torch.testing.assert_close(
            out.values["extrinsic"][:, 0], recorded["value/extrinsic"], **CLOSE
        )
        torch.testing.assert_close(
            out.baselines["extrinsic"][:, 0], recorded["baseline/extrinsic"], **CLOSE
        )
        torch.testing.assert_close(
            out.bootstrap["extrinsic"][0], recorded["next_value/extrinsic"], **CLOSE
        )
        starts = torch.cat([recorded[name][::length] for name in ("memory", "baseline_memory")], -1)
        torch.testing.assert_close(out.memories[:, 0], starts, **CLOSE)
        memory = out.final_memory
        assert (memory == 0).all() == done


def recorded_next_mates(golden, columns):
    """The mates of what followed the last step, led by an axis of one step."""
    last = {
        f"group_obs:{i}": columns[f"next_group_obs_last:{i}"][None]
        for i in range(len(golden.meta["obs"]))
    }
    slots = last["group_obs:0"].shape[:2]
    width = golden.meta["continuous"]
    return recorded_mates(
        golden.meta, last | {"group_continuous_action": torch.zeros(*slots, width)}
    )
