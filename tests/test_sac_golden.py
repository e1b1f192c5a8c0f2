"""Soft actor-critic against recorded calls of ML-Agents."""

import chex
import pytest
import torch

from optinfra import networks, random, tree
from optinfra.learners import SACBatch, sac
from optinfra.types import Action, Memories
from tests import golden_cases
from tests.golden_cases import BODY, CONTINUOUS, DISCRETE

CASES = ["sac_continuous", "sac_discrete", "sac_recurrent", "sac_streams"]
UPSTREAM_STATS = {
    "policy_loss": "Losses/Policy Loss",
    "value_loss": "Losses/Value Loss",
    "q1_loss": "Losses/Q1 Loss",
    "q2_loss": "Losses/Q2 Loss",
    "learning_rate": "Policy/Learning Rate",
    "continuous_entropy_coef": "Policy/Continuous Entropy Coeff",
    "discrete_entropy_coef": "Policy/Discrete Entropy Coeff",
}
LSTM = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")


def learner(golden):
    meta, hyper = golden.meta, golden.meta["hyperparameters"]
    spec = golden_cases.spec_of(meta)
    network = networks.soft_actor_critic(
        spec,
        tuple(meta["streams"]),
        memory_size=meta["memory_size"] if meta["recurrent"] else None,
        hidden_units=meta["hidden_units"],
        num_layers=meta["num_layers"],
    )
    assert hyper["learning_rate_schedule"] == "constant"
    return sac(
        network,
        spec,
        learning_rate=hyper["learning_rate"],
        tau=hyper["tau"],
        init_entropy_coef=hyper["init_entcoef"],
        normalize=meta["normalize"],
        ignore_done={"curiosity", "rnd"} & set(meta["streams"]),
    )


def network_weights(golden, ours, upstream):
    """One network's parameters under the names they have here."""
    weights = {}
    for layer in range(golden.meta["num_layers"]):
        for part in ("weight", "bias"):
            weights[f"{ours}.body.layers.{layer}.{part}"] = upstream[f"{BODY}.{2 * layer}.{part}"]
    if golden.meta["recurrent"]:
        for part in LSTM:
            weights[f"{ours}.memory.{part}"] = upstream[f"network_body.lstm.lstm.{part}"]
    for part in ("weight", "bias"):
        if ours == "actor" and golden.meta["continuous"]:
            weights[f"actor.head.mean.{part}"] = upstream[f"{CONTINUOUS}.mu.{part}"]
            weights[f"actor.head.log_std.{part}"] = upstream[f"{CONTINUOUS}.log_sigma.{part}"]
        elif ours == "actor":
            branches = range(len(golden.meta["discrete"]))
            weights[f"actor.head.logits.{part}"] = torch.cat(
                [upstream[f"{DISCRETE}.branches.{k}.{part}"] for k in branches]
            )
        else:
            for stream in golden.meta["streams"]:
                head = upstream[f"value_heads.value_heads.{stream}.{part}"]
                weights[f"{ours}.head.heads.{stream}.{part}"] = head
    return weights


def all_weights(golden, moment):
    modules = {
        "actor": "Policy/",
        "value": "Optimizer:value_network/",
        "q1": "Optimizer:q_network/q1_network.",
        "q2": "Optimizer:q_network/q2_network.",
    }
    weights = {}
    for ours, prefix in modules.items():
        weights |= network_weights(golden, ours, golden.tensors(f"{moment}/{prefix}"))
    target = golden.tensors(f"{moment}/Optimizer:target_network/")
    return weights, network_weights(golden, "value", target)


def recorded_batch(golden):
    columns, spec = golden.tensors("batch/"), golden_cases.spec_of(golden.meta)
    streams = golden.meta["streams"]
    count = len(spec.obs)
    mask = columns["masks"].bool()
    has_branches = bool(spec.action.branches)
    action_mask = columns["action_mask"] if has_branches else columns["action_mask"][:, :0]
    batch = SACBatch(
        obs=tuple(columns[f"obs:{i}"] for i in range(count)),
        next_obs=tuple(columns[f"next_obs:{i}"] for i in range(count)),
        action=Action(columns["continuous_action"], columns["discrete_action"].long()),
        action_mask=action_mask.bool(),
        rewards={name: columns[f"rewards:{name}"] for name in streams},
        discounts={name: torch.full(mask.shape, own["gamma"]) for name, own in streams.items()},
        terminated=columns["done"].bool(),
        mask=mask,
    )
    if not golden.meta["recurrent"]:
        return batch
    length = golden.meta["sequence_length"]
    memories = (columns[name][::length] for name in ("memory", "critic_memory"))
    rows = tree.map(lambda x: x.unflatten(0, (-1, length)), batch)
    return rows._replace(memory=Memories(*memories))


@pytest.mark.parametrize("name", CASES)
def test_sac_update_equals_the_recorded_mlagents_calls(name, monkeypatch):
    golden = golden_cases.load(name)
    one = learner(golden)
    state = one.init(random.key(0))
    weights, target = all_weights(golden, "before")
    chex.assert_trees_all_equal_shapes_and_dtypes(state.params.weights, weights)
    chex.assert_trees_all_equal_shapes_and_dtypes(state.target, target)
    state = state._replace(
        params=state.params._replace(weights=weights),
        target=target,
        steps=torch.tensor(golden.meta["step"]),
    )
    batch = recorded_batch(golden)
    if golden.meta["continuous"]:  # of discrete actions nothing is drawn here
        draws = iter(x for _, x in sorted(golden.tensors("draw/").items()))
        monkeypatch.setattr(random, "normal", lambda key, shape: next(draws).reshape(shape))
    for call in range(golden.meta["calls"]):
        state, stats = one.update(state, batch)
        recorded = golden.tensors(f"out/{call}/")
        for ours, upstream in UPSTREAM_STATS.items():
            if ours not in stats:  # ML-Agents reports a coefficient that there is none of
                continue
            expected = recorded[upstream].float()
            torch.testing.assert_close(stats[ours], expected, rtol=1e-5, atol=1e-6)
    weights, target = all_weights(golden, "after")
    chex.assert_trees_all_close(state.params.weights, weights, rtol=0, atol=1e-5)
    chex.assert_trees_all_close(state.target, target, rtol=0, atol=1e-5)
    logs = golden.tensors("out/log_alpha_")
    for part in ("continuous", "discrete"):
        if state.log_entropy_coef[part].numel():
            torch.testing.assert_close(state.log_entropy_coef[part], logs[part], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_golden_parameters_really_move_in_the_recorded_calls(name):
    golden = golden_cases.load(name)
    before, after = (all_weights(golden, moment)[0] for moment in ("before", "after"))
    moved = tree.map(lambda a, b: (a - b).abs().max(), before, after)
    assert min(tree.leaves(moved)) > 1e-4
