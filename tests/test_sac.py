"""Soft actor-critic: losses by hand, masks, streams, memory, and the target's average."""

import math

import chex
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from optinfra import distributions, networks, random, schedules, tree
from optinfra.learners import sac
from optinfra.transforms import scale
from optinfra.types import ActionSpec, Memories, Spec
from tests import examples

KEY = random.key(4)
SEEDS = st.integers(0, 10**6)
KINDS = {
    "continuous": ActionSpec(2),
    "discrete": ActionSpec(0, (3, 2)),
    "hybrid": ActionSpec(2, (3, 2)),
}
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def spec_of(kind):
    return Spec(((3,), (2,)), KINDS[kind])


def learner(kind="hybrid", streams=("extrinsic",), **options):
    """Plain descent with rate 1, so that what changes in the weights is the gradient."""
    options = {"learning_rate": 1.0, "transform": scale(1.0), "normalize": False} | options
    return examples.soft_learner(spec_of(kind), streams, **options)


def batch_of(seed, *rows, kind="hybrid", **options):
    return examples.soft_batch(seed, *rows, spec=spec_of(kind), **options)


def everyone(batch):
    return batch._replace(mask=torch.ones_like(batch.mask))


# --- the losses, row by row ---------------------------------------------------------------------


def by_hand(one, state, batch, kind, monkeypatch=None):
    """All losses of one row at a time, in Python, with the same noise."""
    spec, weights = spec_of(kind), state.params.weights
    network = networks.soft_actor_critic(spec, hidden_units=8, num_layers=1)
    _, key = random.split(state.key).unbind()
    noise = random.normal(key, (len(batch.mask), spec.action.continuous))
    outputs, _ = network.policy(weights, batch.obs, (), None)
    raw = outputs.mean + outputs.log_std.exp() * noise
    actions = torch.tanh(raw)
    log_prob = distributions.gaussian_log_prob(raw, outputs.mean, outputs.log_std)
    log_prob = log_prob - distributions.log_tanh_slope(raw)
    sizes = spec.action.branches
    probs = [torch.softmax(x, -1) for x in outputs.logits.split(sizes, -1)] if sizes else []
    values = network.values(weights, batch.obs, (), None)[0]["extrinsic"]
    following = network.values(state.target, batch.next_obs, (), None)[0]["extrinsic"]
    taken, now = (
        [network.action_values(i, weights, batch.obs, a, None)["extrinsic"] for i in range(2)]
        for a in (batch.action.continuous, actions)
    )
    coef = {name: x.exp() for name, x in state.log_entropy_coef.items()}
    sums = {"q1": 0.0, "q2": 0.0, "value": 0.0, "policy": 0.0}
    rows = [n for n in range(len(batch.mask)) if batch.mask[n]]
    for n in rows:
        onward = 0.0 if batch.terminated[n] else 0.9 * following[n].item()
        y = batch.rewards["extrinsic"][n].item() + onward
        price = sum((coef["continuous"] * log_prob[n]).tolist())
        expected, promised = [], 0.0
        for i in range(2):
            q = [x.tolist() for x in taken[i][n].split(sizes)] if sizes else [taken[i][n].tolist()]
            choice = batch.action.discrete[n].tolist() if sizes else [0]
            mean = sum(x[c] for x, c in zip(q, choice)) / len(q)
            sums[f"q{i + 1}"] += 0.5 * (y - mean) ** 2
            parts = now[i][n].split(sizes) if sizes else [now[i][n]]
            branch = [p[n] for p in probs] if sizes else [torch.ones(1)]
            worths = [(p * x).sum().item() for p, x in zip(branch, parts)]
            expected.append(sum(worths) / len(worths))
            promised = sum(worths) if i == 0 else promised
        heat = [
            (a * (p[n] * torch.log(p[n] + 1e-7)).sum()).item()
            for a, p in zip(coef["discrete"], probs)
        ]
        goal = min(expected) - price - (sum(heat) / len(heat) if heat else 0.0)
        sums["value"] += 0.5 * (goal - values[n].item()) ** 2
        sums["policy"] += price + sum(heat) - promised
    return {f"{name}_loss": x / max(len(rows), 1) for name, x in sums.items()}


@pytest.mark.parametrize("kind", KINDS)
@given(seed=SEEDS)
def test_the_losses_are_the_formulas_row_by_row(kind, seed):
    one, batch = learner(kind), batch_of(seed, 6, kind=kind)
    state = one.init(random.key(seed))
    logs = tree.map(lambda x: x - 0.7 * torch.ones_like(x), state.log_entropy_coef)
    state = state._replace(log_entropy_coef=logs)
    _, stats = one.update(state, batch)
    expected = by_hand(one, state, batch, kind)
    for name, number in expected.items():
        assert stats[name].item() == pytest.approx(number, rel=1e-3, abs=1e-4), name


@given(SEEDS)
def test_each_loss_teaches_its_own_network_alone(seed):
    """Gradients by central differences of the sum of all losses would not tell; these do."""
    one, batch = learner("continuous"), everyone(batch_of(seed, 6, kind="continuous"))
    state = one.init(KEY)
    moved = one.update(state, batch)[0].params.weights
    louder = batch._replace(rewards={"extrinsic": batch.rewards["extrinsic"] + 1.0})
    other = one.update(state, louder)[0].params.weights
    for name, x in state.params.weights.items():
        touched = not torch.equal(moved[name], other[name])
        assert touched == name.startswith("q"), name  # rewards reach the Qs, and they alone
        assert not torch.equal(moved[name], x), name  # everything learns something


def test_the_entropy_coefficients_follow_what_is_aimed_at():
    one, batch = learner("hybrid"), everyone(batch_of(0, 64))
    state = one.init(KEY)
    low, high = (
        state._replace(
            hyper=state.hyper._replace(
                target_entropy=tree.map(
                    lambda x, n=n: torch.full_like(x, n), state.hyper.target_entropy
                )
            )
        )
        for n in (-100.0, 100.0)
    )
    for start, rises in ((low, False), (high, True)):
        after = one.update(start, batch)[0].log_entropy_coef
        for name, x in after.items():
            assert ((x > start.log_entropy_coef[name]) == rises).all(), name
    for kind, sizes in (("continuous", (1, 0)), ("discrete", (0, 2)), ("hybrid", (1, 2))):
        start = learner(kind).init(KEY)
        found = tuple(start.log_entropy_coef[name].numel() for name in ("continuous", "discrete"))
        assert found == sizes
    aims = learner("hybrid", target_entropy_scale=2.0).init(KEY).hyper.target_entropy
    assert aims["continuous"].tolist() == [-4.0]
    torch.testing.assert_close(aims["discrete"], 0.4 * torch.tensor([3.0, 2.0]).log())


# --- what does not count --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@given(seed=SEEDS, number=st.sampled_from([math.nan, math.inf, 3e38]))
def test_a_masked_row_changes_no_bit_whatever_it_holds(kind, seed, number):
    one, batch = learner(kind), batch_of(seed, 7, kind=kind)
    state = one.init(KEY)
    spoilt = examples.spoiled(batch, number, -1)
    spoilt = spoilt._replace(discounts=batch.discounts)
    chex.assert_trees_all_equal(one.update(state, spoilt), one.update(state, batch))


@given(SEEDS)
def test_without_a_row_that_counts_nothing_is_learnt(seed):
    one, batch = learner(), batch_of(seed, 5)
    state = one.init(KEY)
    after, stats = one.update(state, batch._replace(mask=torch.zeros_like(batch.mask)))
    chex.assert_trees_all_equal(after.params.weights, state.params.weights)
    chex.assert_trees_all_equal(after.log_entropy_coef, state.log_entropy_coef)
    assert all(stats[f"{name}_loss"] == 0 for name in ("policy", "value", "q1", "q2"))


# --- streams --------------------------------------------------------------------------------------


@given(SEEDS)
def test_streams_have_heads_discounts_and_ends_of_their_own(seed):
    one = learner("continuous", ("a", "b"), ignore_done={"b"})
    batch = everyone(batch_of(seed, 6, kind="continuous", streams=("a", "b")))
    batch = batch._replace(terminated=torch.ones(6, dtype=torch.bool))
    state = one.init(KEY)
    start = one.update(state, batch)[0].params.weights
    discounts = {"a": batch.discounts["a"] * 0.1, "b": batch.discounts["b"] * 0.1}
    other = one.update(state, batch._replace(discounts=discounts))[0].params.weights
    for name in (f"q{i}.head.heads.{stream}.weight" for i in (1, 2) for stream in "ab"):
        # Everything ends: a discount matters to the stream alone for which nothing does.
        assert torch.equal(start[name], other[name]) == (".a." in name), name


def test_a_stream_that_has_failed_is_left_out_of_every_mean():
    streams, row = ("a", "b"), torch.ones(6, dtype=torch.bool)
    both = learner("hybrid", streams)
    batch = everyone(batch_of(1, 6, streams=streams))._replace(live={"a": row, "b": ~row})
    rewards = {"a": batch.rewards["a"], "b": torch.full((6,), math.nan)}
    state = both.init(KEY)
    after, stats = both.update(state, batch._replace(rewards=rewards))
    alone = learner("hybrid", ("a",))
    expected, alone_stats = alone.update(
        alone.init(KEY),
        batch._replace(rewards={"a": rewards["a"]}, discounts={"a": batch.discounts["a"]},
                       live={"a": row}),
    )  # fmt: skip
    for name, x in expected.params.weights.items():
        assert torch.equal(after.params.weights[name], x), name
    for name, x in after.params.weights.items():
        if ".b." in name:
            assert torch.equal(x, state.params.weights[name]), name
    for name in ("policy_loss", "value_loss", "q1_loss", "q2_loss"):
        assert torch.equal(stats[name], alone_stats[name]), name


def test_streams_must_be_those_of_the_networks():
    with pytest.raises(ValueError, match=r"`rewards` must have the streams of the network"):
        learner(streams=("a",)).update(learner(streams=("a",)).init(KEY), batch_of(0, 5))


# --- the target -----------------------------------------------------------------------------------


@given(SEEDS, st.integers(1, 6), st.floats(0.01, 1.0))
def test_the_target_is_the_weighted_mean_of_all_values_so_far(seed, updates, tau):
    one = learner("continuous", tau=tau, learning_rate=0.01)
    state = one.init(random.key(seed))
    history = [state.params.weights]
    for k in range(updates):
        state, _ = one.update(state, batch_of(seed + k, 5, kind="continuous"))
        history.append(state.params.weights)
    for name, x in state.target.items():
        expected = (1 - tau) ** updates * history[0][name].double()
        for k, weights in enumerate(history[1:], start=1):
            expected = expected + tau * (1 - tau) ** (updates - k) * weights[name].double()
        torch.testing.assert_close(x.double(), expected, rtol=1e-4, atol=1e-6)
    assert all(name.startswith("value.") for name in state.target)


# --- memory ---------------------------------------------------------------------------------------


def remembering(**options):
    return learner("hybrid", memory_size=6, **options)


@given(SEEDS)
def test_flags_that_never_reset_and_none_at_all_differ_in_the_targets_memory_alone(seed):
    """ML-Agents' target goes on from V's memory; with flags it has one of its own."""
    one = remembering()
    batch = everyone(batch_of(seed, 3, 4, memory_size=6))
    state = one.init(KEY)
    flags = torch.zeros(3, 4, dtype=torch.bool)
    plain, flagged = (one.update(state, x)[1] for x in (batch, batch._replace(reset=flags)))
    for name in ("policy_loss", "value_loss"):
        torch.testing.assert_close(plain[name], flagged[name], **CLOSE)


@given(SEEDS, st.integers(1, 3))
def test_after_a_reset_a_sequence_is_as_one_that_begins_there(seed, at):
    """Two halves of a sequence with a reset between are two sequences from empty memories."""
    one = remembering()
    batch = everyone(batch_of(seed, 1, 4, memory_size=6))
    empty = Memories(torch.zeros(1, 6), torch.zeros(1, 6))
    flags = (torch.arange(4) == at)[None]
    state = one.init(KEY)
    noise = random.normal(KEY, (4, 2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(random, "normal", lambda key, shape: noise[: shape[0]])
        _, whole = one.update(state, batch._replace(memory=empty, reset=flags))
        _, first = one.update(
            state,
            tree.map(lambda x: x[:, :at], batch._replace(memory=()))._replace(
                memory=empty, reset=flags[:, :at] & False
            ),
        )
        patch.setattr(random, "normal", lambda key, shape: noise[at : at + shape[0]])
        _, second = one.update(
            state,
            tree.map(lambda x: x[:, at:], batch._replace(memory=()))._replace(
                memory=empty, reset=flags[:, at:] & False
            ),
        )
    for name in ("q1_loss", "q2_loss", "value_loss", "policy_loss"):
        together = (at * first[name] + (4 - at) * second[name]) / 4
        torch.testing.assert_close(whole[name], together, **CLOSE)


@given(SEEDS, st.sampled_from([math.nan, 3e38]))
def test_padding_behind_a_sequence_changes_no_bit(seed, number):
    one, batch = remembering(), batch_of(seed, 3, 4, memory_size=6)
    lengths = torch.tensor([4, 2, 0])
    batch = batch._replace(mask=torch.arange(4) < lengths[:, None])
    spoilt = examples.spoiled(batch._replace(memory=()), number, -1)
    memory = tree.map(lambda x: x.index_fill(0, torch.tensor(2), number), batch.memory)
    spoilt = spoilt._replace(memory=memory, discounts=batch.discounts)
    state = one.init(KEY)
    chex.assert_trees_all_equal(one.update(state, spoilt), one.update(state, batch))


# --- the rest -------------------------------------------------------------------------------------


def test_the_learning_rate_follows_its_schedule_and_noise_its_key():
    one = learner("continuous", learning_rate=schedules.linear(1.0, 0.0, 100))
    batch, state = everyone(batch_of(0, 5, kind="continuous")), one.init(KEY)
    after, stats = one.update(state._replace(steps=torch.tensor(75)), batch)
    assert stats["learning_rate"] == 0.25
    assert not torch.equal(after.key, state.key)
    other, _ = one.update(state._replace(key=random.key(9)), batch)
    same, _ = one.update(state, batch)
    again, _ = one.update(state, batch)
    name = "actor.head.mean.weight"
    assert torch.equal(same.params.weights[name], again.params.weights[name])
    assert not torch.equal(same.params.weights[name], other.params.weights[name])


def test_acting_draws_inside_the_limits_and_the_likeliest_action_is_the_squashed_mean():
    one = learner("hybrid")
    params, obs = one.init(KEY).params, batch_of(0, 50).obs
    act = one.act(params, obs, (), KEY)
    assert act.action.continuous.abs().max() < 1 and act.log_prob.shape == (50, 4)
    chex.assert_trees_all_equal(act.action, act.executed)
    torch.testing.assert_close(
        act.log_prob, one.executed_log_prob(params, obs, act.executed), rtol=1e-3, atol=1e-3
    )
    likeliest = one.greedy(params, obs, ()).action
    for key in random.split(KEY, 5):
        drawn = one.act(params, obs, (), key).action
        assert not torch.equal(drawn.continuous, likeliest.continuous)


def test_a_normaliser_moves_when_it_observes_and_is_used_by_every_network():
    one, batch = learner(normalize=True), batch_of(0, 6)
    state = one.init(KEY)
    seen = one.observe(state, batch.obs, batch.mask)
    assert seen.params.moments[0].steps == 1 + batch.mask.sum()
    after, _ = one.update(seen, batch)
    chex.assert_trees_all_equal(after.params.moments, seen.params.moments)
    plain, shifted = (one.update(s, batch)[1] for s in (state, seen))
    for name in ("policy_loss", "value_loss", "q1_loss", "q2_loss"):
        assert not torch.equal(plain[name], shifted[name]), name


BAD = {
    "tau": ({"tau": 0.0}, r"`tau` must lie in \(0.0, 1.0\], got 0.0"),
    "coef": ({"init_entropy_coef": 0.0}, r"`init_entropy_coef` must lie in \(0.0, inf\), got 0.0"),
    "rate": ({"learning_rate": -1.0}, r"`learning_rate` must lie in \[0.0, inf\), got -1.0"),
}


@pytest.mark.parametrize("name", BAD)
def test_numbers_out_of_range_are_refused(name):
    options, message = BAD[name]
    network = networks.soft_actor_critic(examples.SPEC)
    with pytest.raises(ValueError, match=message):
        sac(network, examples.SPEC, **options)


def test_batches_of_another_form_are_refused_by_name():
    one, batch = learner(), batch_of(0, 5)
    state = one.init(KEY)
    with pytest.raises(TypeError, match=r"`terminated` must have dtype torch.bool"):
        one.update(state, batch._replace(terminated=batch.mask.float()))
    with pytest.raises(
        ValueError, match=r"`rewards\['extrinsic'\]` must have shape \[5\], got \[2\]"
    ):
        one.update(state, batch._replace(rewards={"extrinsic": torch.zeros(2)}))
    with pytest.raises(ValueError, match="`memory` must be given to a learner that remembers"):
        remembering().update(remembering().init(KEY), batch_of(0, 3, 4))
    with pytest.raises(ValueError, match=r"`mask` must have shape \[N, S\], got \[5\]"):
        remembering().update(remembering().init(KEY), batch)
