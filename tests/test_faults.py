"""Signals that raise, or give what is not finite: the rest goes on as if they were not there."""

import math
from typing import NamedTuple

import chex
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.func import vmap

from optinfra import random, tree
from optinfra.iteration import iteration
from optinfra.learners import ppo
from optinfra.learners.batch import live_rows
from optinfra.lift import ensemble, members
from optinfra.networks import actor_critic
from optinfra.signals import extrinsic
from optinfra.signals.faults import (
    Report,
    judge,
    learn,
    learns_nothing,
    mean_report,
    no_progress,
    no_reward,
    require_state,
)
from optinfra.types import Signal
from tests import examples

KEY = random.key(3)
NUMBERS = [math.nan, math.inf, -math.inf]
KINDS = ["raise", *map(str, NUMBERS)]


class OtherState(NamedTuple):
    strength: Tensor
    gamma: Tensor
    weights: Tensor
    key: Tensor


def other(number: float = 0.0, raises: bool = False, where: str = "evaluate") -> Signal:
    """A signal that learns, draws, and adds `number` to its rewards, or to what it learns."""
    spoils = {"evaluate": torch.zeros(()), "update": torch.zeros(())}
    spoils[where] = torch.tensor(number)

    def fail(function):
        if raises and where == function:
            raise LookupError("no such reward")

    def init(key):
        return OtherState(torch.tensor(0.5), torch.tensor(0.9), random.normal(key, (3,)), key)

    def evaluate(state, batch):
        fail("evaluate")
        return (batch.obs[0] @ state.weights).square() + spoils["evaluate"]

    def update(state, batch):
        fail("update")
        key, draw = random.split(state.key).unbind()
        step = 0.1 * random.normal(draw, (3,)) * batch.mask.sum()
        state = state._replace(weights=state.weights + step + spoils["update"], key=key)
        return state, {"other_loss": step.mean()}

    return Signal(init, evaluate, update)


def catching(name, function, otherwise):
    def call(*arguments):
        try:
            return function(*arguments)
        except LookupError:
            return otherwise(*arguments)

    return call


def composed(signals, streams=None, **options):
    learner = ppo(
        actor_critic(examples.SPEC, tuple(streams or signals), hidden_units=8, num_layers=1),
        examples.SPEC,
        normalize=True,
    )
    return iteration(
        learner, signals, **({"num_epochs": 2, "batch_size": 4, "guard": catching} | options)
    )


def faulty(kind: str, where: str = "evaluate") -> Signal:
    return other(raises=True, where=where) if kind == "raise" else other(float(kind), where=where)


ROLLOUTS = [examples.rollout(100 * k, 6, 2) for k in range(3)]


def run(one, state=None):
    state, stats = one.init(KEY) if state is None else state, []
    for rollout in ROLLOUTS:
        state, now = one.update(state, rollout)
        stats.append(now)
    return state, stats


def without(tree_of_weights, name):
    return {path: x for path, x in tree_of_weights.items() if name not in path}


# --- in an iteration ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_all_but_a_signal_that_fails_is_bit_for_bit_as_without_it(kind):
    """Two good streams, one of which learns and draws, beside one that fails."""
    good = {"extrinsic": extrinsic(), "good": other()}
    alone, alone_stats = run(composed(good))
    beside, stats = run(composed({"extrinsic": extrinsic(), "bad": faulty(kind), "good": other()}))
    chex.assert_trees_all_equal(
        without(beside.learner.params.weights, "bad"), alone.learner.params.weights
    )
    chex.assert_trees_all_equal(beside.learner.params.moments, alone.learner.params.moments)
    for name in good:
        chex.assert_trees_all_equal(beside.signals[name], alone.signals[name])
    shared = set(alone_stats[-1]) - {"grad_norm"}  # one more head: another order of its sum
    for now, before in zip(stats, alone_stats):
        chex.assert_trees_all_equal(*({name: s[name] for name in shared} for s in (now, before)))
    assert [now["bad_failures"].item() for now in stats] == [1, 2, 3]
    assert stats[-1]["good_failures"] == 0


def test_a_signal_that_fails_in_another_precision_rounds_nothing():
    one = faulty("nan")
    double = one._replace(evaluate=lambda state, batch: one.evaluate(state, batch).double())
    good = {"extrinsic": extrinsic(), "good": other()}
    alone, _ = run(composed(good))
    beside, _ = run(composed({**good, "bad": double}))
    expected = alone.learner.params.weights
    chex.assert_trees_all_equal(without(beside.learner.params.weights, "bad"), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_a_signal_that_fails_stays_as_it_was_and_so_does_its_head(kind):
    one = composed({"extrinsic": extrinsic(), "bad": faulty(kind)})
    start = one.init(KEY)
    end, _ = run(one, start)
    chex.assert_trees_all_equal(end.signals["bad"], start.signals["bad"])
    heads = [
        {path: x for path, x in state.learner.params.weights.items() if "bad" in path}
        for state in (start, end)
    ]
    assert len(heads[0]) == 2
    chex.assert_trees_all_equal(*heads)


@pytest.mark.parametrize("kind", KINDS)
def test_whichever_way_a_signal_fails_in_the_middle_of_a_run_the_rest_is_the_same(kind):
    names = ("extrinsic", "it")
    middle, _ = run(composed(dict(zip(names, (extrinsic(), other())))))
    assert middle.failures["it"] == 0
    end, stats = run(composed(dict(zip(names, (extrinsic(), faulty(kind))))), middle)
    nan, _ = run(composed(dict(zip(names, (extrinsic(), faulty("nan"))))), middle)
    chex.assert_trees_all_equal(end, nan)
    chex.assert_trees_all_equal(end.signals["it"], middle.signals["it"])
    assert end.failures["it"] == 3 and end.failures["extrinsic"] == 0
    assert all(stat.isfinite() for now in stats for stat in now.values())


@pytest.mark.parametrize("kind", KINDS)
def test_a_signal_whose_update_fails_still_rewards_but_does_not_learn(kind):
    one = composed({"extrinsic": extrinsic(), "it": faulty(kind, "update")})
    start = one.init(KEY)
    state, stats = one.update(start, ROLLOUTS[0])
    chex.assert_trees_all_equal(state.signals["it"], start.signals["it"])
    assert stats["it_failures"] == 1 and stats["it_reward"] != 0
    frozen = other()._replace(update=learns_nothing)
    expected, _ = composed({"extrinsic": extrinsic(), "it": frozen}).update(start, ROLLOUTS[0])
    chex.assert_trees_all_equal(state.learner, expected.learner)


def test_a_signal_that_recovers_goes_on_from_where_it_stood():
    one, names = composed({"extrinsic": extrinsic(), "it": other()}), ("extrinsic", "it")
    bad = composed(dict(zip(names, (extrinsic(), faulty("nan")))))
    state, _ = one.update(one.init(KEY), ROLLOUTS[0])
    failed, _ = bad.update(state, ROLLOUTS[1])
    after, stats = one.update(failed, ROLLOUTS[2])
    assert stats["it_failures"] == 1 and stats["it_reward"] != 0
    assert not torch.equal(after.signals["it"].weights, state.signals["it"].weights)


def test_failures_are_a_members_own():
    """Of three members one has weights that are not finite."""
    one = composed({"extrinsic": extrinsic(), "it": other()})
    keys = random.split(KEY, 3)
    start = vmap(one.init)(keys)
    weights = start.signals["it"].weights.clone()
    weights[1] = math.nan
    start = tree.replace(start, {"signals/it/weights": weights})
    rollouts = tree.stack(ROLLOUTS)
    many, stats = ensemble(one).update(start, rollouts)
    assert stats["it_failures"].tolist() == [0, 1, 0]
    assert many.failures["it"].tolist() == [0, 1, 0]
    for k, (member, alone) in enumerate(zip(members(many), members(start))):
        expected, _ = one.update(alone, ROLLOUTS[k])
        expected, member = (s._replace(signals={}) if k == 1 else s for s in (expected, member))
        chex.assert_trees_all_close(member, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["sound", "raise"])
def test_members_are_lifted_function_by_function_as_well(kind):
    """With the stage inside of the guard, an exception is caught for all members at once."""
    it = other() if kind == "sound" else faulty("raise")
    one = composed({"extrinsic": extrinsic(), "it": it})
    lifted = composed({"extrinsic": extrinsic(), "it": it}, stage=ensemble)
    start = vmap(one.init)(random.split(KEY, 3))
    many, stats = lifted.update(start, tree.stack(ROLLOUTS))
    assert stats["it_failures"].tolist() == [kind == "raise"] * 3
    for k, (member, alone) in enumerate(zip(members(many), members(start))):
        expected, _ = one.update(alone, ROLLOUTS[k])
        chex.assert_trees_all_close(member, expected, rtol=1e-4, atol=1e-5)


def test_a_signal_that_has_nothing_to_learn_is_not_asked_to():
    asked = []

    def telling(name, function, otherwise):
        asked.append((name, otherwise))
        return function

    composed({"extrinsic": extrinsic(), "it": other()}, guard=telling)
    assert sorted(asked, key=str) == sorted(
        [("extrinsic", no_reward), ("it", no_reward), ("it", no_progress)], key=str
    )


FORMS = {
    "shape": lambda state: state._replace(weights=torch.ones(1)),
    "dtype": lambda state: state._replace(weights=state.weights.double()),
    "structure": lambda state: {"weights": state.weights},
    "discount": lambda state: state._replace(gamma=torch.full((1,), 0.9)),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_signal_that_changes_the_form_of_its_state_does_not_learn(form):
    broken = other()._replace(update=lambda state, batch: (FORMS[form](state), {}))
    with pytest.raises((ValueError, TypeError)):
        learn(broken)(broken.init(KEY), torch.tensor(True), examples.transitions(0, 5))

    def catching(name, function, otherwise):
        def call(*arguments):
            try:
                return function(*arguments)
            except (ValueError, TypeError):
                return otherwise(*arguments)

        return call

    one = composed({"extrinsic": extrinsic(), "it": broken}, guard=catching)
    start = one.init(KEY)
    end, stats = run(one, start)
    chex.assert_trees_all_equal(end.signals["it"], start.signals["it"])
    assert stats[-1]["it_failures"] == 3


def test_stats_of_a_signal_hide_no_others_and_need_not_be_the_same_every_time():
    updates = []

    def update(state, batch):
        updates.append(batch)
        name = "loss" if len(updates) % 2 else "value_loss"
        said = {name: torch.tensor(77.0), "it_extra": torch.tensor(len(updates))}
        return state, said | {"failures": torch.tensor(9.0), "reward": torch.tensor(9.0)}

    names = ("extrinsic", "it")
    _, expected = run(composed(dict(zip(names, (extrinsic(), other())))))
    _, stats = run(composed(dict(zip(names, (extrinsic(), other()._replace(update=update))))))
    new = {"it_loss", "it_value_loss", "it_extra"}
    assert set(stats[0]) - set(expected[0]) == new
    assert (stats[0]["it_loss"], stats[0]["it_extra"]) == (77, 3.5)  # of six updates
    for name in set(expected[0]) - {"it_other_loss"}:
        assert torch.equal(stats[0][name], expected[0][name]), name


def test_a_reward_that_is_not_finite_in_a_row_that_does_not_count_is_no_failure():
    rollout = ROLLOUTS[0]
    assert not rollout.mask.all()
    one = composed({"extrinsic": extrinsic()})
    dirty = rollout._replace(rewards=torch.where(rollout.mask, rollout.rewards, math.nan))
    _, stats = one.update(one.init(KEY), dirty)
    assert stats["extrinsic_failures"] == 0


def test_without_a_guard_an_exception_ends_the_iteration():
    signals = {"extrinsic": extrinsic(), "bad": faulty("raise")}
    learner = ppo(actor_critic(examples.SPEC, tuple(signals), hidden_units=8), examples.SPEC)
    one = iteration(learner, signals, batch_size=4)
    with pytest.raises(LookupError, match="no such reward"):
        one.update(one.init(KEY), ROLLOUTS[0])


# --- the parts --------------------------------------------------------------------------------


@given(st.integers(0, 10**6), st.integers(0, 11), st.sampled_from(NUMBERS))
def test_one_number_that_is_not_finite_among_the_rewards_is_a_failure(seed, row, number):
    batch = examples.transitions(seed, 12)
    state = other().init(KEY)
    spoilt = batch.rewards.clone()
    spoilt[row] = number
    plain = other()._replace(evaluate=lambda state, batch: batch.rewards)  # masks nothing itself
    out = judge(plain)(state, batch._replace(rewards=spoilt))
    assert out.live == (not batch.mask[row])
    expected = torch.where(batch.mask, 0.5 * batch.rewards, 0.0)
    assert torch.equal(out.rewards, expected if out.live else torch.zeros(12))


def test_a_discount_that_is_not_finite_spoils_no_other_stream():
    one, alone = (
        composed({"extrinsic": extrinsic(), "it": other()}),
        composed({"extrinsic": extrinsic()}),
    )
    start = tree.replace(one.init(KEY), {"signals/it/gamma": torch.tensor(math.nan)})
    (end, stats), (expected, _) = run(one, start), run(alone)
    assert stats[-1]["it_failures"] == 3
    weights = without(end.learner.params.weights, "heads.it")
    chex.assert_trees_all_equal(weights, expected.learner.params.weights)
    assert all(x.isfinite().all() for x in end.learner.params.weights.values())


@given(st.integers(0, 10**6))
def test_a_row_in_which_a_stream_has_failed_counts_for_nothing_but_its_value(seed):
    learner, batch = examples.learner(), examples.batch(seed, 12)
    state, live = learner.init(KEY), examples.normal(seed + 1, 12) > 0
    spoilt = torch.where(live, batch.returns["extrinsic"], math.nan)
    out, stats = learner.update(
        state, batch._replace(returns={"extrinsic": spoilt}, live={"extrinsic": live})
    )
    assert all(x.isfinite().all() for x in tree.leaves((out, stats)))
    _, fewer = learner.update(state, batch._replace(mask=batch.mask & live))
    _, all_rows = learner.update(state, batch)
    for name in ("value_loss", "explained_variance"):
        torch.testing.assert_close(stats[name], fewer[name])
    assert torch.equal(stats["policy_loss"], all_rows["policy_loss"])
    rows = live_rows(batch._replace(live={"extrinsic": live}))
    assert torch.equal(rows["extrinsic"], batch.mask & live)


def test_a_learner_refuses_by_name_what_cannot_tell_which_stream_has_failed():
    learner, batch = examples.learner(), examples.batch(0, 4)
    rows = batch.mask
    for live, error, message in [
        (
            {"extrinsic": rows.float()},
            TypeError,
            r"`live\['extrinsic'\]` must have dtype torch.bool",
        ),
        ({"extrinsic": rows[:2]}, ValueError, r"`live\['extrinsic'\]` must have shape \[4\], got"),
        (
            {"other": rows},
            ValueError,
            r"`live` must have the streams of the network, \['extrinsic'\]",
        ),
    ]:
        with pytest.raises(error, match=message):
            learner.update(learner.init(KEY), batch._replace(live=live))


def test_a_discount_or_a_strength_that_is_not_finite_is_a_failure():
    batch = examples.transitions(0, 5)
    state = other().init(KEY)
    assert judge(other())(state, batch).live
    for field in ("gamma", "strength"):
        assert not judge(other())(state._replace(**{field: torch.tensor(math.nan)}), batch).live


def test_rewards_of_another_shape_are_refused():
    wrong = extrinsic()._replace(evaluate=lambda state, batch: batch.rewards[:2])
    with pytest.raises(ValueError, match=r"`rewards` must have shape \[\*N\] = \[5\], got \[2\]"):
        judge(wrong)(other().init(KEY), examples.transitions(0, 5))


def test_rewards_come_in_the_precision_of_the_environments():
    batch, whole = examples.transitions(0, 5), torch.arange(5)
    for rewards in (whole, whole.double(), whole.bool(), whole.half().requires_grad_()):
        signal = other()._replace(evaluate=lambda state, batch, x=rewards: x)
        out = judge(signal)(other().init(KEY), batch)
        assert out.rewards.dtype == torch.float32 and out.live and not out.rewards.requires_grad
        assert torch.equal(out.rewards, torch.where(batch.mask, 0.5 * rewards.float(), 0.0))


def test_an_update_leaves_no_graph_behind():
    def update(state, batch):
        weights = state.weights.clone().requires_grad_() * 2
        return state._replace(weights=weights), {"loss": weights.sum()}

    signal, live = other()._replace(update=update), torch.tensor(True)
    after, report = learn(signal)(signal.init(KEY), live, examples.transitions(0, 5))
    assert not any(x.requires_grad for x in tree.leaves((after, report)))


def test_a_stat_is_one_number():
    signal = other()._replace(update=lambda state, batch: (state, {"loss": torch.ones(2)}))
    with pytest.raises(ValueError, match=r"`loss` must have shape \[\], got \[2\]"):
        learn(signal)(signal.init(KEY), torch.tensor(True), examples.transitions(0, 5))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gamma": 0.9}, r"have a state with the field `gamma`, a tensor \[\], got 0.9"),
        ({"strength": torch.ones(1)}, r"field `strength`, a tensor \[\], got tensor\(\[1.\]\)"),
        ({"weights": 3}, "have a state of tensors, got 3"),
    ],
)
def test_a_signals_state_is_refused_at_the_beginning(changes, message):
    broken = other()._replace(init=lambda key: other().init(key)._replace(**changes))
    with pytest.raises(TypeError, match=r"`signals\['it'\]` must .*" + message):
        composed({"extrinsic": extrinsic(), "it": broken}).init(KEY)
    with pytest.raises(TypeError, match="field `strength`, a tensor \\[\\], got None"):
        require_state("it", ())


@pytest.mark.parametrize("spoilt", ["state", "stats", "live"])
def test_an_update_counts_only_where_all_of_it_is_finite(spoilt):
    number = torch.tensor(math.inf)

    def update(state, batch):
        weights = state.weights + (number if spoilt == "state" else 1.0)
        loss = number if spoilt == "stats" else torch.tensor(1.0)
        return state._replace(weights=weights), {"loss": loss}

    state, live = other().init(KEY), torch.tensor(spoilt != "live")
    batch = examples.transitions(0, 5)
    after, report = learn(other()._replace(update=update))(state, live, batch)
    assert report.failed
    chex.assert_trees_all_equal(after, state)
    number, expected = torch.tensor(2.0), 2.0 if spoilt == "state" else 1.0
    after, report = learn(other()._replace(update=update))(state, torch.tensor(True), batch)
    assert not report.failed and torch.equal(after.weights, state.weights + expected)


def test_what_stands_for_an_exception_has_the_shapes_of_a_result():
    batch = examples.transitions(0, 4, 2)
    state = other().init(KEY)
    assert tree.structure(no_reward(state, batch)) == tree.structure(judge(other())(state, batch))
    assert no_reward(state, batch).rewards.eq(0).all() and not no_reward(state, batch).live
    stacked = tree.stack([state, state])
    assert no_reward(stacked, tree.stack([batch, batch])).live.shape == (2,)
    after, report = no_progress(state, torch.tensor(True), batch, torch.arange(2))
    assert after is state and report.failed and report.stats == {}


def test_stats_are_means_over_the_updates_that_did_not_fail():
    def report(failed, loss):
        return Report(torch.tensor(failed), {"loss": torch.tensor(loss)})

    reports = [report(False, 1.0), report(True, math.nan), report(False, 4.0)]
    assert mean_report(reports) == {"loss": torch.tensor(2.5)}
    assert mean_report([report(True, math.nan)]) == {"loss": torch.tensor(0.0)}
    others = [*reports, Report(torch.tensor(False), {"gain": torch.tensor(3)})]
    assert mean_report(others) == {"loss": torch.tensor(2.5), "gain": torch.tensor(3.0)}
    exceptions = [Report(torch.tensor(True), {}), *reports]
    assert mean_report(exceptions) == {"loss": torch.tensor(2.5)}
    assert mean_report([Report(torch.tensor(True), {})]) == {} == mean_report([])
