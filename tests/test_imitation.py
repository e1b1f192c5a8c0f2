"""Behavioural cloning: recorded numbers, the likelihood by hand, masks, memory, schedules."""

import math

import chex
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.func import vmap

from optinfra import random, schedules, tree
from optinfra.imitation import behavioral_cloning
from optinfra.iteration import iteration
from optinfra.learners import ppo
from optinfra.lift import cloning_epochs, ensemble, members
from optinfra.lift.epochs import unlifted
from optinfra.networks import actor_critic, name_hash
from optinfra.signals import extrinsic, rnd
from optinfra.transforms import sgd
from optinfra.types import Action, ActionSpec, Spec, Transitions
from tests import examples, golden_cases

KEY = random.key(2)
NOW = torch.tensor(0)
LEARNER = examples.learner()
PARAMS = LEARNER.init(KEY).params
REMEMBERING = examples.recurrent_learner()
SEEDS = st.integers(0, 10**6)


def memories(rows, device):
    return REMEMBERING.memories(rows, device).actor


def descent(learner=LEARNER, **options):
    """Plain gradient descent with rate 1: what changes in the weights is the gradient."""
    options = {"learning_rate": 1.0, "transform": sgd(1.0)} | options
    return behavioral_cloning(learner.executed_log_prob, **options)


def step(imitation, batch, params=PARAMS, steps=NOW):
    return imitation.update(imitation.init(KEY, params), params, steps, batch)


# --- the recorded calls -----------------------------------------------------------------------


def recorded_expert(golden):
    columns, spec = golden.tensors("demo/"), golden_cases.spec_of(golden.meta)
    rows = len(columns["done"])
    obs = tuple(columns[f"obs:{i}"] for i in range(len(spec.obs)))
    return Transitions(
        obs=obs,
        next_obs=obs,
        action=Action(torch.zeros(rows, 0), columns["discrete_action"]),
        rewards=columns["environment_rewards"],
        terminated=columns["done"],
        truncated=torch.zeros(rows, dtype=torch.bool),
        mask=torch.ones(rows, dtype=torch.bool),
    )


def test_cloning_equals_the_recorded_mlagents_calls(monkeypatch):
    golden = golden_cases.load("bc_discrete")
    learner, own = golden_cases.ppo_learner(golden), golden.meta["bc"]
    drawn = iter(x for name, x in sorted(golden.tensors("draw/").items()) if "permutation" in name)
    monkeypatch.setattr(random, "permutation", lambda key, rows: next(drawn))
    imitation = cloning_epochs(
        behavioral_cloning(
            learner.executed_log_prob,
            learning_rate=own["strength"] * golden.meta["hyperparameters"]["learning_rate"],
        ),
        recorded_expert(golden),
        num_epochs=own["num_epoch"],
        batch_size=own["batch_size"],
    )
    fresh = learner.init(KEY).params
    params = fresh._replace(weights=golden_cases.ppo_weights(golden, "before"))
    state = imitation.init(KEY, params)
    for call in range(golden.meta["calls"]):
        state, params, stats = imitation.update(state, params, NOW)
        recorded = golden.tensors(f"out/{call}/")["Losses/Pretraining Loss"].float()
        torch.testing.assert_close(stats["pretraining_loss"], recorded, rtol=1e-5, atol=1e-6)
    expected = golden_cases.ppo_weights(golden, "after")
    chex.assert_trees_all_close(params.weights, expected, rtol=0, atol=1e-5)
    moved = tree.map(lambda x, y: (x - y).abs().max(), golden_cases.ppo_weights(golden, "before"),
                     expected)  # fmt: skip
    assert min(x for name, x in moved.items() if name.startswith("actor")) > 1e-4
    assert next(drawn, None) is None


# --- one step ---------------------------------------------------------------------------------


@given(SEEDS, st.booleans())
def test_the_loss_is_the_mean_over_dimensions_plus_that_over_branches(seed, masks_actions):
    batch = examples.transitions(seed, 7)
    batch = batch._replace(mask=batch.mask.index_fill(0, torch.tensor(0), True))
    if masks_actions:
        allowed = examples.normal(seed + 5, 7, 5) > -0.5
        batch = batch._replace(action_mask=allowed)
    _, _, stats = step(descent(), batch)
    log_prob = LEARNER.executed_log_prob(PARAMS, batch.obs, batch.action, batch.action_mask)
    rows = [row for row, counts in zip(log_prob.tolist(), batch.mask.tolist()) if counts]
    by_hand = -sum(sum(row[:2]) / 2 + sum(row[2:]) / 2 for row in rows) / len(rows)
    assert stats["pretraining_loss"].item() == pytest.approx(by_hand, rel=1e-4)


def test_forbidden_choices_have_no_likelihood():
    batch = examples.transitions(1, 3)
    batch = batch._replace(
        action=batch.action._replace(discrete=torch.zeros(3, 2, dtype=torch.int64)),
        action_mask=torch.tensor([True, False, False, True, False]).expand(3, 5),
    )
    log_prob = LEARNER.executed_log_prob(PARAMS, batch.obs, batch.action, batch.action_mask)
    torch.testing.assert_close(log_prob[:, 2:], torch.zeros(3, 2), rtol=0, atol=1e-6)
    open_ = LEARNER.executed_log_prob(PARAMS, batch.obs, batch.action)
    assert (open_[:, 2:] < -0.1).all()


@given(SEEDS, st.sampled_from([math.nan, math.inf, 3e38]))
def test_a_row_that_does_not_count_changes_no_bit(seed, number):
    batch = examples.transitions(seed, 7)
    spoilt = examples.spoiled(batch, number, -1)
    chex.assert_trees_all_equal(step(descent(), spoilt), step(descent(), batch))


def test_only_what_acting_reads_is_learnt():
    _, params, _ = step(descent(), examples.transitions(0, 7))
    moved = {name: not torch.equal(x, params.weights[name]) for name, x in PARAMS.weights.items()}
    assert all(moved[name] == name.startswith("actor") for name in moved)
    chex.assert_trees_all_equal(params.moments, PARAMS.moments)


def test_the_learning_rate_follows_its_schedule_and_at_its_floor_nothing_changes_at_all():
    falling = schedules.linear_to_floor(1.0, schedules.LEARNING_RATE_FLOOR, 100)
    imitation, batch = descent(learning_rate=falling), examples.transitions(0, 7)
    gradients = {}
    for steps in (0, 50, 100, 1000):
        state, params, stats = step(imitation, batch, steps=torch.tensor(steps))
        gradients[steps] = tree.map(torch.sub, PARAMS.weights, params.weights)
        assert stats["pretraining_learning_rate"].item() == pytest.approx(
            max(1 - steps / 100, 0.0), abs=1e-9
        )
    half = tree.map(lambda x: 0.5 * x, gradients[0])
    chex.assert_trees_all_close(gradients[50], half, rtol=1e-3, atol=1e-6)
    for steps in (100, 1000):
        assert not any(x.any() for x in gradients[steps].values())
        chex.assert_trees_all_equal(state, imitation.init(KEY, PARAMS))


def test_the_policy_comes_to_execute_what_the_expert_executed():
    """In the scale of the environment, at a limit of it as well, and with a likely choice."""
    spec = Spec(((2,),), ActionSpec(2, (3,)))
    learner = ppo(actor_critic(spec, hidden_units=16, num_layers=1), spec)
    obs = random.uniform(random.key(1), (64, 2)) * 2 - 1
    wanted = torch.stack([0.8 * obs[:, 0], torch.ones(64)], -1)
    choice = (obs[:, 1:] > 0).long() * 2
    batch = examples.transitions(0, 64, spec=spec)._replace(
        obs=(obs,), action=Action(wanted, choice), mask=torch.ones(64, dtype=torch.bool)
    )
    imitation = cloning_epochs(
        behavioral_cloning(learner.executed_log_prob, learning_rate=1e-2),
        batch, num_epochs=300, batch_size=64,
    )  # fmt: skip
    params = learner.init(KEY).params
    _, params, _ = imitation.update(imitation.init(KEY, params), params, NOW)
    done = learner.greedy(params, (obs,), ()).executed
    assert (done.continuous - wanted).abs().max() < 0.1
    assert (done.discrete == choice).float().mean() > 0.95


# --- memory -----------------------------------------------------------------------------------


@given(SEEDS)
def test_with_memory_a_sequence_is_remembered_from_its_first_step(seed):
    batch = examples.transitions(seed, 3, 5)
    batch = batch._replace(mask=torch.ones(3, 5, dtype=torch.bool))
    params = REMEMBERING.init(KEY).params
    imitation = descent(REMEMBERING, memories=memories)
    _, _, stats = step(imitation, batch, params)
    total = 0.0
    for n in range(3):
        memory = memories((1,), torch.device("cpu"))
        for t in range(5):
            row = tree.map(lambda x, n=n, t=t: x[n, t][None, None], batch)
            args = params, row.obs, row.action, (), memory
            log_prob = REMEMBERING.executed_log_prob(*args)[0, 0]
            total -= (log_prob[:2].mean() + log_prob[2:].mean()).item() / 15
            memory = REMEMBERING.act(params, tree.take(row.obs, 0), memory, KEY).memory
    assert stats["pretraining_loss"].item() == pytest.approx(total, rel=1e-4)


@given(SEEDS, st.integers(0, 4), st.sampled_from([math.nan, 3e38]))
def test_padding_behind_a_sequence_changes_no_bit_and_steps_before_it_warm_up(seed, length, number):
    batch, params = examples.transitions(seed, 2, 5), REMEMBERING.init(KEY).params
    counts = torch.arange(5) < torch.tensor([5, length])[:, None]
    batch = batch._replace(mask=counts)
    imitation = descent(REMEMBERING, memories=memories)
    clean, dirty = (step(imitation, x, params) for x in
                    (batch, examples.spoiled(batch, number, -1)))  # fmt: skip
    chex.assert_trees_all_equal(clean, dirty)
    warm = batch._replace(mask=counts & (torch.arange(5) >= 2))
    other = warm._replace(obs=tree.map(lambda x: x.index_fill(1, torch.tensor(0), 0.7), warm.obs))
    losses = [step(imitation, x, params)[2]["pretraining_loss"] for x in (warm, other)]
    assert losses[0] != losses[1]


# --- whole passes -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "options", "size", "count"),
    [
        ((73,), {"batch_size": 16}, 16, 4),
        ((73,), {"batch_size": 100}, 73, 1),
        ((73,), {"batch_size": 16, "samples_per_update": 40}, 16, 2),
        ((73,), {"batch_size": 16, "samples_per_update": 3}, 16, 1),
        ((73,), {"batch_size": 16, "samples_per_update": 10_000}, 16, 4),
        ((9, 8), {"batch_size": 30}, 3, 3),
        ((9, 8), {"batch_size": 3}, 1, 9),
        ((9, 8), {"batch_size": 16, "samples_per_update": 33}, 2, 2),
    ],
)
def test_an_epoch_goes_through_whole_minibatches_of_an_order_of_its_own(rows, options, size, count):
    expert, seen = examples.transitions(0, *rows), []

    def update(state, params, steps, batch):
        seen.append(batch.obs[0].reshape(len(batch.mask), -1)[:, 0])
        return state, params, {"pretraining_loss": torch.tensor(float(len(seen)))}

    imitation = cloning_epochs(descent()._replace(update=update), expert, num_epochs=3, **options)
    state, _, stats = imitation.update(imitation.init(KEY, PARAMS), PARAMS, NOW)
    assert [len(batch) for batch in seen] == [size] * (3 * count)
    epochs = [torch.cat(seen[k * count : (k + 1) * count]).tolist() for k in range(3)]
    everything = set(expert.obs[0].reshape(rows[0], -1)[:, 0].tolist())
    for epoch in epochs:
        assert len(set(epoch)) == len(epoch) and set(epoch) <= everything
    assert not (epochs[0] == epochs[1] == epochs[2]) or size * count == 1
    assert stats["pretraining_loss"] == (3 * count + 1) / 2
    assert not torch.equal(state.key, KEY)


def test_passes_need_numbers_and_rows():
    expert = examples.transitions(0, 4)
    for options, message in [
        ({"num_epochs": 0}, r"`num_epochs` must lie in \[1, inf\), got 0"),
        ({"batch_size": 0}, r"`batch_size` must lie in \[1, inf\), got 0"),
        ({"samples_per_update": -1}, r"`samples_per_update` must lie in \[0, inf\), got -1"),
    ]:
        with pytest.raises(ValueError, match=message):
            cloning_epochs(descent(), expert, **options)
    with pytest.raises(ValueError, match="`expert` must have at least one row, got 0"):
        cloning_epochs(descent(), tree.take(expert, slice(0)))


def test_an_iteration_imitates_once_after_its_epochs():
    calls = []

    def update(state, params, steps):
        calls.append((params, steps))
        shifted = params._replace(weights=tree.map(lambda x: x + 1, params.weights))
        state = state._replace(key=state.key + 1)
        return state, shifted, {"pretraining_loss": torch.tensor(2.0)}

    imitation = descent()._replace(update=update)
    options = {"num_epochs": 2, "batch_size": 4}
    one = iteration(LEARNER, {"extrinsic": extrinsic()}, imitation=imitation, **options)
    plain = iteration(LEARNER, {"extrinsic": extrinsic()}, **options)
    rollout = examples.rollout(0, 5, 2)
    start = one.init(KEY)
    state, stats = one.update(start, rollout)
    expected, _ = plain.update(plain.init(KEY), rollout)
    ((params, steps),) = calls
    chex.assert_trees_all_equal(params, expected.learner.params)
    assert steps == rollout.mask.sum() and stats["pretraining_loss"] == 2
    assert torch.equal(state.imitation.key, start.imitation.key + 1)
    weights = expected.learner.params.weights
    chex.assert_trees_all_equal(state.learner.params.weights, tree.map(lambda x: x + 1, weights))
    chex.assert_trees_all_equal(start.learner, plain.init(KEY).learner)


def test_imitation_draws_by_a_key_of_its_own_and_changes_no_others_draws():
    signals = {"extrinsic": extrinsic(), "rnd": rnd(examples.SPEC)}
    imitates, plain = (
        iteration(LEARNER, signals, imitation=each, batch_size=4).init(KEY)
        for each in (descent(), None)
    )
    assert plain.imitation == ()
    chex.assert_trees_all_equal(imitates._replace(imitation=()), plain)
    own = random.split(KEY)[1]  # the other half is the learner's
    expected = random.fold_in(own, name_hash(":imitation"))
    assert torch.equal(imitates.imitation.key, expected)


def test_members_imitate_side_by_side_as_each_would_alone():
    expert = examples.transitions(0, 20)

    def passes(stage):
        cloning = behavioral_cloning(LEARNER.executed_log_prob, learning_rate=1e-2)
        return cloning_epochs(cloning, expert, num_epochs=2, batch_size=8, stage=stage)

    keys, alone = random.split(KEY, 3), passes(unlifted)
    params = vmap(lambda key: LEARNER.init(key).params)(keys)
    state = vmap(alone.init)(keys, params)
    steps = torch.zeros(3, dtype=torch.int64)
    many = passes(ensemble).update(state, params, steps)
    for k, member in enumerate(members(many)):
        own = tree.take((state, params, steps), k)
        chex.assert_trees_all_close(member, alone.update(*own), rtol=1e-4, atol=1e-6)
        assert not torch.equal(member[0].key, own[0].key)


# --- likelihood ---------------------------------------------------------------------------------


@given(SEEDS, st.booleans())
def test_what_is_executed_is_as_likely_as_what_was_drawn(seed, remembers):
    """Within the limits a density of the third of what was drawn, and the same choice."""
    learner = REMEMBERING if remembers else LEARNER
    rollout = examples.rollout(seed, 5, 2)
    state = learner.observe(learner.init(KEY), rollout.obs, rollout.mask)
    obs = tree.take(rollout.obs, 0)
    memory = tree.map(lambda x: x + 0.3, memories((2,), obs[0].device)) if remembers else ()
    drawn = learner.act(state.params, obs, memory, random.key(seed))
    time = (lambda x: x[None]) if remembers else (lambda x: x)
    likely = learner.executed_log_prob(
        state.params, tree.map(time, obs), tree.map(time, drawn.executed), (), memory
    ).reshape(2, 4)
    inside = drawn.action.continuous.abs() < 3
    assert inside.any()
    expected = drawn.log_prob[:, :2] + math.log(3)
    torch.testing.assert_close(likely[:, :2][inside], expected[inside], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(likely[:, 2:], drawn.log_prob[:, 2:], rtol=1e-4, atol=1e-4)


@given(SEEDS)
def test_a_policy_that_remembers_is_reset_where_it_is_told_to_be(seed):
    params, batch = REMEMBERING.init(KEY).params, examples.transitions(seed, 4, 2)
    start = memories((2,), torch.device("cpu"))
    reset = torch.tensor([False, False, True, False])[:, None].expand(4, 2)
    args = params, batch.obs, batch.action, ()
    whole = REMEMBERING.executed_log_prob(*args, start, reset)
    halves = [
        REMEMBERING.executed_log_prob(params, *tree.take(args[1:3], part), (), start)
        for part in (slice(0, 2), slice(2, 4))
    ]
    torch.testing.assert_close(whole, torch.cat(halves), rtol=1e-5, atol=1e-5)
    without = REMEMBERING.executed_log_prob(*args, start)
    assert not torch.allclose(whole[2:], without[2:], rtol=0, atol=1e-6)


def test_results_are_detached_where_parameters_require_gradients():
    weights = tree.map(lambda w: w.clone().requires_grad_(), PARAMS.weights)
    batch = examples.transitions(0, 7)
    told = step(descent(), batch, PARAMS._replace(weights=weights))
    assert not any(x.requires_grad for x in tree.leaves(told))
    chex.assert_trees_all_equal(told, step(descent(), batch))


# --- bad input --------------------------------------------------------------------------------


def test_what_cannot_be_imitated_is_refused_by_name():
    good = examples.transitions(0, 4)
    with pytest.raises(ValueError, match=r"`learning_rate` must lie in \[0.0, inf\), got -1.0"):
        behavioral_cloning(LEARNER.executed_log_prob, learning_rate=-1.0)
    with pytest.raises(TypeError, match=r"`mask` must have dtype torch.bool, got torch.float32"):
        step(descent(), good._replace(mask=good.mask.float()))
    floats = good._replace(action=Action(good.action.continuous, good.action.discrete.float()))
    with pytest.raises(TypeError, match=r"`action.discrete` must have dtype torch.int64"):
        step(descent(), floats)
    with pytest.raises(ValueError, match=r"`obs` must begin with the axes \[\*N\] = \[4\]"):
        step(descent(), good._replace(obs=tree.take(good.obs, slice(2))))
    with pytest.raises(ValueError, match="`memory` must be what the policy remembers"):
        step(descent(REMEMBERING), good, REMEMBERING.init(KEY).params)
    with pytest.raises(ValueError, match=r"`mask` must have shape \[N, S\], got \[4\]"):
        step(descent(REMEMBERING, memories=memories), good, REMEMBERING.init(KEY).params)
