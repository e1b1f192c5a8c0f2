"""Networks of a group against recorded calls of ML-Agents' POCA."""

import pytest
import torch

from optinfra import random, tree
from optinfra.distributions import hybrid, mask_logits
from optinfra.losses import clipped_surrogate_per_dimension, trust_region_value_loss
from optinfra.types import Action, Mates
from tests import golden_cases
from tests.group_weights import group_network, group_params, recorded_mates, recorded_params

CLOSE = {"rtol": 1e-5, "atol": 1e-6}
RECORDED = ["poca_continuous", "poca_discrete", "poca_recurrent"]


MOMENTS = [(name, moment) for name in RECORDED for moment in ("before", "after")]


@pytest.mark.parametrize("name, moment", [*MOMENTS, ("values_poca_recurrent", "before")])
def test_recorded_parameters_come_and_go_under_their_names(name, moment):
    golden = golden_cases.load(name)
    params, largest = group_params(golden, moment)
    drawn = group_network(golden.meta).init(random.key(0))
    assert {n: x.shape for n, x in params.items()} == {n: x.shape for n, x in drawn.items()}
    recorded, back = golden.tensors(f"{moment}/"), recorded_params(golden.meta, params, largest)
    described = {n for n in recorded if "network_body" in n or "value_heads" in n
                 or "action_model" in n}  # fmt: skip
    assert back.keys() == described
    for n in described:
        assert torch.equal(back[n].to(recorded[n]), recorded[n])


def largest_of(stored, *presents):
    return torch.stack([stored, *(1 + x.sum(-1).max().float() for x in presents)]).max()


@pytest.mark.parametrize("name", RECORDED)
def test_losses_of_a_first_update_are_the_recorded_ones(name):
    golden = golden_cases.load(name)
    meta, columns, out = golden.meta, golden.tensors("batch/"), golden.tensors("out/0/")
    net, (params, stored) = group_network(meta), group_params(golden, "before")
    obs, mates = (columns["obs:0"], columns["obs:1"]), recorded_mates(meta, columns)
    assert torch.equal(mates.present.sum(-1), columns["group_count"])
    largest = largest_of(stored, mates.present, recorded_mates(meta, columns, True).present)
    actor = memory = ()
    if meta["recurrent"]:
        length = meta["sequence_length"]
        obs, mates = tree.map(lambda x: x.unflatten(0, (-1, length)).transpose(0, 1), (obs, mates))
        starts = (columns[n][::length] for n in ("memory", "critic_memory", "poca_baseline_memory"))
        actor, *critic = starts
        memory = torch.cat(critic, -1)
    values, baselines, _ = net.values_and_baselines(params, obs, mates, largest, memory, None)
    outputs, _ = net.policy(params, obs, actor, None)
    if meta["recurrent"]:
        rows = (values, baselines, outputs)
        values, baselines, outputs = tree.map(lambda x: x.transpose(0, 1).flatten(0, 1), rows)
    mask, clip = columns["masks"].bool(), out["Policy/Epsilon"].float()
    returns = columns["returns:extrinsic"]
    for judged, old, what in (
        (values, returns, "Value"), (baselines, columns["baselines:extrinsic"], "Baseline"),
    ):  # fmt: skip
        ours = trust_region_value_loss(judged["extrinsic"], old, returns, clip, mask)
        torch.testing.assert_close(ours, out[f"Losses/{what} Loss"].float(), **CLOSE)
    spec = golden_cases.spec_of(meta)
    if spec.action.branches:
        masked = mask_logits(outputs.logits, columns["action_mask"].bool())
        outputs = outputs._replace(logits=masked)
    action = Action(columns["continuous_action"], columns["discrete_action"].long())
    log_prob = hybrid(spec.action).log_prob(outputs, action)
    old = torch.cat([columns["continuous_log_probs"], columns["discrete_log_probs"]], -1)
    loss = clipped_surrogate_per_dimension(log_prob, old, columns["advantages"], clip, mask)
    torch.testing.assert_close(loss.abs(), out["Losses/Policy Loss"].float(), **CLOSE)


def test_values_and_baselines_of_trajectories_are_the_recorded_ones():
    golden = golden_cases.load("values_poca_recurrent")
    meta, length = golden.meta, golden.meta["sequence_length"]
    net, (params, stored) = group_network(meta), group_params(golden, "before")
    memory, half = net.memories((1,)).critic, meta["memory_size"]
    for k, (steps, done) in enumerate(meta["trajectories"]):
        columns, recorded = golden.tensors(f"batch/{k}/"), golden.tensors(f"out/{k}/")
        obs = tuple(columns[f"obs:{i}"][:, None] for i in range(2))
        mates = tree.map(lambda x: x[:, None], recorded_mates(meta, columns))
        last = tuple(columns[f"next_obs_last:{i}"][None, None] for i in range(2))
        others = tuple(columns[f"next_group_obs_last:{i}"][None, None] for i in range(2))
        there = ~others[0][..., 0].isnan()
        following = Mates(others, tree.map(lambda x: x[:1], mates.action), there)
        stored = largest_of(stored, mates.present, there)
        ours, starts = [], []
        for start in range(0, steps, length):
            part = tree.take((obs, mates), slice(start, start + length))
            starts.append(memory[0])
            *judged, memory = net.values_and_baselines(params, *part, stored, memory, None)
            ours.append(judged)
        value, _ = net.values(params, last, following, stored, memory[:, :half], None)
        values, baselines = tree.map(lambda *xs: torch.cat(xs)[:, 0], *ours)
        for judged, name in ((values, "value"), (baselines, "baseline")):
            torch.testing.assert_close(judged["extrinsic"], recorded[f"{name}/extrinsic"], **CLOSE)
        starts = torch.stack(starts)
        both = torch.cat([recorded["memory"], recorded["baseline_memory"]], -1)
        torch.testing.assert_close(starts, both[::length], **CLOSE)
        if not done:
            expected = recorded["next_value/extrinsic"]
            torch.testing.assert_close(value["extrinsic"][0, 0], expected, **CLOSE)
