"""Recurrent PPO: its update against plain torch, and what sequences may and may not change."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from optinfra import moments, random, transforms, tree
from optinfra.lift import epochs
from optinfra.testing import assert_trees_close, assert_trees_equal
from optinfra.types import Memories
from tests import examples
from tests.plain_recurrent import PlainRecurrent, plain_loss

SPEC, M = examples.SPEC, 6
RATE, CLIP, VALUE_COEF, ENTROPY_COEF = 0.1, 0.3, 0.7, 0.02
HYPER = {"clip": CLIP, "value_coef": VALUE_COEF, "entropy_coef": ENTROPY_COEF}
KIND, SEEDS = st.sampled_from(["lstm", "gru"]), st.integers(0, 999)
WORST = st.sampled_from([math.nan, math.inf, -math.inf, 3e38])
ALGEBRA = {"rtol": 1e-9, "atol": 1e-9}  # of laws in float64
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def learner(kind="lstm", **options):
    """Plain descent: w ← w − η·∇L, so that a factor shows."""
    descent = {"learning_rate": RATE, "transform": transforms.scale(1.0), "clip_range": CLIP}
    coefficients = {"value_coef": VALUE_COEF, "entropy_coef": ENTROPY_COEF}
    return examples.recurrent_learner(cell=kind, **(descent | coefficients | options))


LEARNER = {(kind, k): learner(kind, burn_in=k) for kind in ("lstm", "gru") for k in (0, 1, 2, 3)}


def started(kind, seed, made=None):
    """A state whose normaliser has seen something."""
    made = made or LEARNER[kind, 0]
    rows = tuple(2 + 3 * x for x in examples.batch(seed + 7, 20).obs)
    return made.observe(made.init(random.key(seed)), rows, torch.ones(20, dtype=torch.bool))


def sequences(seed, count, length, burn_in=0, **options):
    """Sequences in which some steps warm up, some do not count, some come after an end."""
    batch = examples.sequences(seed, count, length)
    early = (torch.arange(length) < burn_in).expand(count, length)
    later = torch.arange(count)[:, None] > 0
    warmup = early & later
    mask = batch.mask & ~warmup
    mask = mask | (torch.arange(count)[:, None] + torch.arange(length) == length - 1)
    return batch._replace(mask=mask & ~warmup, warmup=warmup, **options)


def plainly_normalized(running, x):
    variance = running.squared_deviations / running.steps
    return ((x - running.mean) / variance.sqrt()).clip(-5.0, 5.0)


def plainly_seen(state, batch):
    """Observations, zeros where a step neither counts nor warms up, after the normaliser."""
    looked_at = (batch.mask | batch.warmup)[..., None]
    return [
        plainly_normalized(running, x * looked_at)
        for running, x in zip(state.params.moments, batch.obs)
    ]


# --- against plain torch ------------------------------------------------------------------------


@given(KIND, SEEDS, st.integers(1, 4), st.integers(1, 5), st.integers(0, 3))
def test_an_update_is_that_of_plain_torch_sequence_by_sequence(kind, seed, count, length, k):
    burn_in = min(k, length - 1)
    state, batch = started(kind, seed), sequences(seed, count, length, burn_in)
    after, stats = LEARNER[kind, burn_in].update(state, batch)

    plain = PlainRecurrent(SPEC, state.params.weights, kind)
    loss, expected = plain_loss(plain, batch, plainly_seen(state, batch), HYPER, burn_in)
    optimizer = torch.optim.SGD(plain.parameters(), lr=RATE)
    loss.backward()
    norm = torch.stack([p.grad.norm() for p in plain.parameters()]).norm()
    optimizer.step()
    assert_trees_close(after.params.weights, plain.weights(state.params.weights), **CLOSE)
    expected = tree.map(torch.Tensor.detach, expected | {"grad_norm": norm})
    assert_trees_close({name: stats[name] for name in expected}, expected, **CLOSE)
    unmoved = after._replace(params=after.params._replace(weights=state.params.weights))
    assert_trees_equal(unmoved, state)


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_three_updates_with_adam_are_those_of_torchs_adam(kind):
    made = learner(kind, learning_rate=1e-3, burn_in=1, transform=transforms.scale_by_adam())
    state = examples.double(started(kind, 1, made))
    plain = PlainRecurrent(SPEC, state.params.weights, kind).double()
    optimizer = torch.optim.Adam(plain.parameters(), lr=1e-3)
    for seed in (1, 2, 3):
        batch = examples.double(sequences(seed, 3, 4, 1))
        optimizer.zero_grad()
        plain_loss(plain, batch, plainly_seen(state, batch), HYPER, 1)[0].backward()
        optimizer.step()
        state, _ = made.update(state, batch)
    assert_trees_close(state.params.weights, plain.weights(state.params.weights), **CLOSE)


# --- what does not count --------------------------------------------------------------------------


def spoilt(batch, rows, number):
    """The same where `rows` `[N, S]` is False, and elsewhere what no formula survives."""
    columns = batch._replace(memory=(), reset=(), warmup=(), mask=())
    worst = tree.map(
        lambda x: {torch.bool: ~x, torch.int64: torch.full_like(x, -1)}[x.dtype]
        if not x.is_floating_point() else torch.full_like(x, number), columns,
    )  # fmt: skip
    columns = tree.where(rows, worst, columns)
    kept = {name: getattr(batch, name) for name in ("memory", "reset", "warmup", "mask")}
    return columns._replace(**kept)


@given(KIND, SEEDS, st.integers(1, 4), st.integers(0, 3), WORST)
def test_a_step_that_does_not_count_changes_no_bit_whatever_it_holds(kind, seed, length, k, number):
    """Losses, statistics, gradients; of one that warms up only the observation is looked at."""
    burn_in = min(k, length - 1)
    update, state = LEARNER[kind, burn_in].update, started(kind, seed)
    batch = sequences(seed, 3, length, burn_in)
    of_no_use = spoilt(batch, ~batch.mask, number)
    seen = tree.where(batch.warmup, batch.obs, of_no_use.obs)
    clean, dirty = update(state, batch), update(state, of_no_use._replace(obs=seen))
    assert_trees_equal(dirty, clean)
    assert all(x.isfinite().all() for x in tree.leaves(dirty))


@given(KIND, SEEDS, st.integers(1, 4), st.integers(1, 3), WORST, st.booleans())
def test_padding_behind_a_sequence_and_sequences_of_padding_change_nothing(
    kind, seed, length, more, number, reset
):
    state = examples.double(started(kind, seed))
    batch = examples.double(sequences(seed, 3, length))
    update = LEARNER[kind, 0].update

    def longer(x):
        return torch.cat([x, x.new_zeros((3, more, *x.shape[2:]))], 1)

    kept = {"memory": batch.memory}
    padded = tree.map(longer, batch._replace(memory=()))._replace(**kept)
    padded = spoilt(padded, ~padded.mask, number)
    padded = padded._replace(reset=padded.reset | (~padded.mask & reset))
    within = padded.reset[:, :length]
    same = batch._replace(reset=within)
    assert_trees_close(update(state, padded), update(state, same), **ALGEBRA)

    def more_of_them(x):
        return torch.cat([x, torch.full_like(x, False if x.dtype == torch.bool else 2)])

    others = tree.map(more_of_them, batch)
    unknown = tree.map(lambda x: torch.full_like(x, number), batch.memory)
    memory = tree.map(lambda x, y: torch.cat([x, y]), batch.memory, unknown)
    others = others._replace(memory=memory)
    assert_trees_close(update(state, others), update(state, batch), **ALGEBRA)


@given(KIND, SEEDS, st.integers(0, 2), st.permutations(range(4)))
def test_the_order_of_sequences_changes_nothing(kind, seed, burn_in, order):
    batch = examples.double(sequences(seed, 4, 4, burn_in))
    state, update = examples.double(started(kind, seed)), LEARNER[kind, burn_in].update
    moved = update(state, tree.take(batch, torch.tensor(order)))
    assert_trees_close(moved, update(state, batch), **ALGEBRA)


@given(KIND, SEEDS, st.data())
def test_a_sequence_with_a_reset_is_two_sequences(kind, seed, data):
    """The second one starts from nothing; each is padded to the length of both."""
    at = data.draw(st.integers(1, 4))
    batch = examples.double(sequences(seed, 1, 5))
    batch.reset[0, at] = True
    first, second = batch.mask & (torch.arange(5) < at), batch.mask & (torch.arange(5) >= at)
    apart = tree.map(lambda x: torch.cat([x, x.roll(-at, 1)]), batch._replace(memory=()))
    apart = apart._replace(
        mask=torch.cat([first, second.roll(-at, 1)]),
        reset=torch.cat([batch.reset, batch.reset.roll(-at, 1) & (torch.arange(5) > 0)]),
        memory=tree.map(lambda x: torch.cat([x, torch.zeros_like(x)]), batch.memory),
    )
    state, update = examples.double(started(kind, seed)), LEARNER[kind, 0].update
    assert_trees_close(update(state, apart), update(state, batch), **ALGEBRA)


@given(KIND, SEEDS)
def test_memories_reach_the_part_they_belong_to_and_no_other(kind, seed):
    state, update, batch = started(kind, seed), LEARNER[kind, 0].update, sequences(seed, 8, 3)
    batch = batch._replace(reset=torch.zeros_like(batch.reset), mask=torch.ones_like(batch.mask))
    _, before = update(state, batch)
    moved = tree.map(lambda x: x + 1, batch.memory)
    for part, stat, other in (
        ("actor", "policy_loss", "value_loss"), ("critic", "value_loss", "policy_loss"),
    ):  # fmt: skip
        memory = batch.memory._replace(**{part: getattr(moved, part)})
        _, stats = update(state, batch._replace(memory=memory))
        assert stats[stat] != before[stat] and stats[other] == before[other]


# --- burn-in --------------------------------------------------------------------------------------


@given(KIND, SEEDS, st.integers(1, 3), st.integers(1, 3))
def test_a_burn_in_is_a_start_from_the_memory_it_leads_to(kind, seed, k, more):
    """So no gradient flows into the steps before, nor into the memory they began with."""
    made, state = LEARNER[kind, k], examples.double(started(kind, seed))
    batch = examples.double(examples.sequences(seed, 3, k + more))
    early = (torch.arange(k + more) < k).expand_as(batch.mask)
    batch = batch._replace(mask=~early, warmup=early)
    network = examples.recurrent_network(cell=kind)
    seen = tuple(plainly_normalized(*each) for each in zip(state.params.moments, batch.obs))
    seen, reset = (tree.map(lambda x: x.movedim(1, 0)[:k], y) for y in (seen, batch.reset))
    weights = state.params.weights
    memory = Memories(
        network.policy(weights, seen, batch.memory.actor, reset)[1],
        network.values(weights, seen, batch.memory.critic, reset)[1],
    )
    short = tree.map(lambda x: x[:, k:], batch._replace(memory=(), warmup=()))
    expected = LEARNER[kind, 0].update(state, short._replace(memory=memory))
    assert_trees_close(made.update(state, batch), expected, **ALGEBRA)


@given(KIND, SEEDS, st.integers(1, 3))
def test_what_is_seen_while_warming_up_reaches_the_memory(kind, seed, k):
    update, state = LEARNER[kind, k].update, started(kind, seed)
    batch = examples.sequences(seed, 8, k + 1)
    early = (torch.arange(k + 1) < k).expand_as(batch.mask)
    batch = batch._replace(mask=~early, reset=torch.zeros_like(early), warmup=early)
    other = batch._replace(obs=tuple(x.clone() for x in batch.obs))
    other.obs[0][:, k - 1] += 1.0
    _, before = update(state, batch)
    for changed, differs in ((other, True), (other._replace(warmup=()), False)):
        _, stats = update(state, changed)
        base = before if differs else update(state, batch._replace(warmup=()))[1]
        assert (stats["policy_loss"] != base["policy_loss"]) == differs
        assert (stats["value_loss"] != base["value_loss"]) == differs


# --- acting ---------------------------------------------------------------------------------------


@given(KIND, SEEDS, st.integers(1, 4))
def test_acting_step_by_step_remembers_what_the_update_recomputes(kind, seed, steps):
    """With the memory passed on, every ratio of the first update is 1."""
    made, state = LEARNER[kind, 0], started(kind, seed)
    batch = examples.sequences(seed, 3, steps)
    memory, acts = batch.memory.actor, []
    for t in range(steps):
        memory = torch.where(batch.reset[:, t, None], 0.0, memory)
        obs, key = tuple(x[:, t] for x in batch.obs), random.key(t)
        act = made.act(state.params, obs, memory, key)
        likeliest = made.greedy(state.params, obs, memory)
        assert torch.equal(likeliest.memory, act.memory) and act.memory.shape == (3, M)
        memory = act.memory
        acts.append(act)
    acts = tree.map(lambda *xs: torch.stack(xs, 1), *acts)
    batch = batch._replace(
        action=acts.action, log_prob=acts.log_prob, mask=torch.ones_like(batch.mask)
    )
    _, stats = made.update(state, batch)
    assert stats["clip_fraction"] == 0.0 and stats["approx_kl"].abs() < 1e-6
    expected = -batch.advantages.mean()
    torch.testing.assert_close(stats["policy_loss"], expected, rtol=1e-4, atol=1e-5)


# --- epochs ---------------------------------------------------------------------------------------


def shown(batch, **options):
    """The minibatches that epochs make of a batch."""
    seen = []

    def update(state, minibatch):
        seen.append(minibatch)
        return state, {"nothing": torch.zeros(())}

    made = LEARNER["lstm", 0]
    lifted = epochs(made._replace(update=update), **({"num_epochs": 1} | options))
    lifted.update(made.init(random.key(0)), batch)
    return seen


@given(st.integers(1, 6), st.integers(1, 4), st.integers(1, 24), st.integers(1, 2))
def test_epochs_shuffle_whole_sequences_and_take_as_many_as_fit(count, length, size, num_epochs):
    per_batch = max(size // length, 1)
    batch = sequences(3, count, length, min(1, length - 1))
    number = torch.arange(count)[:, None].expand(count, length)
    batch = batch._replace(log_prob=number[..., None].float().expand_as(batch.log_prob))
    if count < per_batch:
        with pytest.raises(ValueError, match=f"`batch` must have at least {per_batch} rows"):
            shown(batch, batch_size=size)
        return
    seen = shown(batch, batch_size=size, num_epochs=num_epochs)
    assert len(seen) == num_epochs * (count // per_batch)
    standard = batch._replace(advantages=moments.standardize(batch.advantages, batch.mask))
    visited = []
    for minibatch in seen:
        rows = minibatch.log_prob[:, 0, 0].long()
        assert len(rows) == per_batch
        assert_trees_equal(minibatch, tree.take(standard, rows))
        visited += rows.tolist()
    per_epoch = len(visited) // num_epochs
    for epoch in range(num_epochs):
        part = visited[epoch * per_epoch : (epoch + 1) * per_epoch]
        assert len(set(part)) == len(part)


@given(SEEDS, WORST)
def test_advantages_are_normalised_over_the_steps_that_count(seed, number):
    batch = sequences(seed, 5, 4, 2)
    batch = batch._replace(advantages=torch.where(batch.mask, batch.advantages, number))
    (minibatch,) = shown(batch, batch_size=20)
    counted, valid = minibatch.advantages[minibatch.mask], batch.advantages[batch.mask]
    expected = (valid - valid.mean()) / valid.std(unbiased=False)
    torch.testing.assert_close(counted.sort().values, expected.sort().values, **CLOSE)
    assert (minibatch.advantages[~minibatch.mask] == 0).all()


# --- what it refuses ------------------------------------------------------------------------------


def test_sequences_of_the_wrong_kind_are_named():
    state, batch = started("lstm", 0), sequences(0, 3, 4)
    for k, wrong, error, message in [
        (0, {"memory": ()}, ValueError, "`memory` and `reset` must be given to a learner that"),
        (0, {"reset": ()}, ValueError, "`memory` and `reset` must be given to a learner that"),
        (0, {"memory": batch.memory._replace(actor=())}, ValueError, "`memory` and `reset` must"),
        (0, {"memory": batch.memory._replace(critic=())}, ValueError, "`memory` and `reset` must"),
        (0, {"reset": batch.reset.float()}, TypeError, "`reset` must have dtype torch.bool"),
        (0, {"warmup": batch.mask.long()}, TypeError, "`warmup` must have dtype torch.bool"),
        (0, {"reset": batch.reset[:, :3]}, ValueError, r"`reset` must have shape \[N, S\]"),
        (0, {"warmup": batch.mask[:2]}, ValueError, r"`warmup` must have shape \[N, S\]"),
        (0, {"memory": tree.map(lambda x: x[:1], batch.memory)}, ValueError, r"`memory` must"),
        (0, {"memory": tree.map(lambda x: x[:, :4], batch.memory)}, ValueError, r"`memory` must"),
        (0, {"mask": batch.mask[0]}, ValueError, r"`mask` must have shape \[N, S\] with S > 0"),
    ]:  # fmt: skip
        with pytest.raises(error, match=message):
            LEARNER["lstm", k].update(state, batch._replace(**wrong))
    with pytest.raises(ValueError, match=r"\[N, S\] with S > 3, got \[3, 3\]"):
        LEARNER["lstm", 3].update(state, sequences(0, 3, 3))
    for k, error in ((-1, ValueError), (0.5, TypeError)):
        with pytest.raises(error, match="`burn_in` must"):
            learner(burn_in=k)


def test_a_policy_that_remembers_asks_for_its_memory():
    made, obs = LEARNER["lstm", 0], examples.batch(0, 3).obs
    params = made.init(random.key(0)).params
    for call in (lambda m: made.act(params, obs, m, random.key(0)),
                 lambda m: made.greedy(params, obs, m)):  # fmt: skip
        with pytest.raises(ValueError, match=r"`memory` must be what the policy remembers"):
            call(())
        with pytest.raises(ValueError, match=r"`memory` must have shape .* = \[3, 6\]"):
            call(torch.zeros(1, M))


def test_values_of_single_sequences_take_memory_and_reset():
    made, batch = LEARNER["gru", 0], examples.sequences(0, 3, 4)
    params = started("gru", 0).params
    obs, reset = (tree.map(lambda x: x.movedim(1, 0), y) for y in (batch.obs, batch.reset))
    values = made.values(params, obs, batch.memory.critic, reset)
    plain = PlainRecurrent(SPEC, params.weights, "gru")
    seen = [plainly_normalized(*each) for each in zip(params.moments, obs)]
    for b in range(3):
        own = tuple(x[:, b] for x in seen)
        encodings, _ = plain.encodings("critic", own, batch.memory.critic[b], reset[:, b])
        assert_trees_close(values["extrinsic"][:, b], plain.values(encodings).detach(), **CLOSE)


def test_a_learner_without_memory_has_none():
    made = examples.learner()
    assert made.memories((3,)) == Memories((), ())
    assert [x.shape for x in LEARNER["lstm", 0].memories((2, 3))] == [(2, 3, M)] * 2
