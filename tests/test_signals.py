"""Laws of the reward signals: which rows count, what learns, what is refused."""

import math

import chex
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.func import vmap

from optinfra import random, tree
from optinfra.signals import curiosity, extrinsic, gail, rnd
from optinfra.transforms import scale
from optinfra.types import Action
from tests import examples, signal_cases
from tests.signal_cases import SIGNALS, SMALL, SPEC, learnt

STATES = {name: learnt(signal) for name, signal in SIGNALS.items()}
ROWS = 12
BATCH = examples.transitions(0, ROWS)
EVERY_ROW = torch.ones(ROWS, dtype=torch.bool)
SEEDS = st.integers(0, 999)
NAMES = st.sampled_from(sorted(SIGNALS))
MASKS = st.lists(st.booleans(), min_size=ROWS, max_size=ROWS).map(torch.tensor)
WORST_FLOATS = st.sampled_from([torch.nan, torch.inf, -torch.inf, 3e38, 0.0])
WORST_CHOICES = st.sampled_from([-1, 3, 2**40])
DRAWING = [name for name in SIGNALS if "ai" in name]
every_signal = pytest.mark.parametrize("name", SIGNALS)
every_drawing_signal = pytest.mark.parametrize("name", DRAWING)


def descent(name):
    """A signal in float64 that steps by its gradient, so that a law can be tight."""
    signal = signal_cases.build(name, transform=scale(1.0))
    return signal, examples.double(learnt(signal))


def unmasked(seed, *rows, spec=SPEC):
    batch = examples.transitions(seed, *rows, spec=spec)
    return batch._replace(mask=torch.ones_like(batch.mask))


def without_key(state):
    return state._replace(key=()) if hasattr(state, "key") else state


# --- which rows count ---------------------------------------------------------------------


@given(NAMES, MASKS, WORST_FLOATS, WORST_CHOICES)
def test_a_masked_row_changes_no_bit_whatever_it_holds(name, mask, number, choice):
    signal, state = SIGNALS[name], STATES[name]
    clean = BATCH._replace(mask=mask)
    dirty = examples.spoiled(clean, number, choice)
    chex.assert_trees_all_equal(signal.update(state, clean), signal.update(state, dirty))
    rewards = signal.evaluate(state, dirty)
    torch.testing.assert_close(rewards, signal.evaluate(state, clean), rtol=0, atol=0)
    assert (rewards[~mask] == 0).all() and rewards.isfinite().all()


@every_signal
@pytest.mark.parametrize(("seed", "padding"), [(0, 1), (40, 7)])
def test_masked_rows_at_the_end_may_as_well_be_missing(name, seed, padding):
    signal, state = descent(name)
    short = examples.double(unmasked(seed, 6))
    long = examples.double(unmasked(seed + 1, 6 + padding))
    long = tree.map(lambda x, y: torch.cat([x, y[6:]]), short, long)
    mask = torch.arange(6 + padding) < 6
    close = {"rtol": 1e-9, "atol": 1e-9}
    results = [signal.update(state, b) for b in (short, long._replace(mask=mask))]
    chex.assert_trees_all_close(*results, **close)


@every_signal
def test_without_a_valid_row_nothing_is_learnt_and_no_loss_is_nan(name):
    batch = examples.spoiled(BATCH._replace(mask=~EVERY_ROW), torch.nan, -1)
    state = STATES[name]
    after, stats = SIGNALS[name].update(state, batch)
    chex.assert_trees_all_equal(without_key(after), without_key(state))
    chance = {"gail_beta"}  # what it would have become
    assert all(stats[loss] == 0 for loss in stats.keys() - chance)
    assert not SIGNALS[name].evaluate(state, batch).any()


@every_signal
def test_every_valid_row_moves_the_weights(name):
    state, signal = STATES[name], SIGNALS[name]
    plain, _ = signal.update(state, BATCH._replace(mask=EVERY_ROW))
    for row in range(ROWS):
        fewer, _ = signal.update(state, BATCH._replace(mask=torch.arange(ROWS) != row))
        moved = tree.map(lambda a, b: (a - b).abs().max(), plain.weights, fewer.weights)
        assert max(tree.leaves(moved)) > 1e-6


@given(NAMES, SEEDS, st.permutations(range(ROWS)))
def test_permuted_rows_have_permuted_rewards(name, seed, order):
    batch, order = unmasked(seed, ROWS), torch.tensor(order)
    signal, state = SIGNALS[name], STATES[name]
    rewards = signal.evaluate(state, batch)[order]
    torch.testing.assert_close(signal.evaluate(state, tree.take(batch, order)), rewards)
    assert rewards.unique().numel() > 1 or "curiosity" in name


@every_signal
@pytest.mark.parametrize("rows", [(12,), (3, 4), (2, 3, 2)])
def test_leading_axes_do_not_matter(name, rows):
    signal, state = descent(name)
    flat = examples.double(BATCH)
    shaped = tree.map(lambda x: x.reshape(*rows, *x.shape[1:]), flat)
    rewards = signal.evaluate(state, shaped)
    assert rewards.shape == rows
    torch.testing.assert_close(rewards.flatten(), signal.evaluate(state, flat))
    close = {"rtol": 1e-9, "atol": 1e-9}
    chex.assert_trees_all_close(signal.update(state, shaped), signal.update(state, flat), **close)


# --- what learns, and what does not ---------------------------------------------------------


@given(NAMES, SEEDS)
def test_same_state_and_batch_give_the_same_bits(name, seed):
    batch, state = examples.transitions(seed, 7), STATES[name]
    before = tree.map(torch.clone, state)
    results = [SIGNALS[name].update(state, batch) for _ in range(2)]
    chex.assert_trees_all_equal(*results)
    chex.assert_trees_all_equal(state, before)


@every_drawing_signal
def test_every_update_draws_anew(name):
    signal, state = SIGNALS[name], STATES[name]
    after, stats = signal.update(state, BATCH)
    assert not torch.equal(after.key, state.key)
    empty, _ = signal.update(state, BATCH._replace(mask=~EVERY_ROW))
    assert torch.equal(after.key, empty.key)  # which rows count has no say in it
    _, others = signal.update(state._replace(key=after.key), BATCH)
    assert stats["gail_expert_estimate"] != others["gail_expert_estimate"]
    assert stats["gail_grad_penalty"] != others["gail_grad_penalty"]


@every_drawing_signal
def test_no_two_draws_of_an_update_share_a_key(name, monkeypatch):
    keys = []
    for function in ("randint", "uniform", "normal"):
        draw = getattr(random, function)
        monkeypatch.setattr(
            random, function, lambda key, *rest, draw=draw: keys.append(key) or draw(key, *rest)
        )
    state = STATES[name]
    after, _ = SIGNALS[name].update(state, BATCH)
    used = {tuple(key.tolist()) for key in [*keys, state.key, after.key]}
    inputs = 2 + 2 * ("actions" in name)
    assert len(used) == 1 + inputs + 3 * ("vail" in name) + 2


@every_signal
def test_members_differ_in_strength_gamma_and_learning_rate(name):
    numbers = [(0.0, 0.0, 0.0), (1.0, 0.9, 1e-2), (-3.0, 1.0, 3e-3)]
    fields = ("strength", "gamma", "learning_rate")
    built = [signal_cases.build(name, **dict(zip(fields, own))) for own in numbers]
    states = []
    for k, own in enumerate(built):
        states.append(learnt(own, k))
        chex.assert_trees_all_close(
            (states[k].strength, states[k].gamma, states[k].learning_rate),
            tuple(torch.tensor(x) for x in numbers[k]),
        )
    batches = [examples.transitions(50 * k, ROWS) for k in range(3)]
    stacked = tree.stack(states), tree.stack(batches)
    for lifted, function in ((built[0].update, "update"), (built[0].evaluate, "evaluate")):
        alone = [getattr(own, function)(s, b) for own, s, b in zip(built, states, batches)]
        together = vmap(lifted)(*stacked)
        chex.assert_trees_all_close(together, tree.stack(alone), rtol=1e-5, atol=1e-6)
    still, _ = built[0].update(states[0], batches[0])
    chex.assert_trees_all_equal(still.weights, states[0].weights)  # its learning rate is 0


@every_signal
def test_no_graph_grows_from_update_to_update(name):
    state = tree.map(
        lambda x: x.clone().requires_grad_() if x.is_floating_point() else x, STATES[name]
    )
    batch = tree.map(lambda x: x.requires_grad_() if x.is_floating_point() else x, unmasked(5, 6))
    results = SIGNALS[name].update(state, batch)
    assert not any(x.requires_grad for x in tree.leaves(results))


@every_signal
@pytest.mark.parametrize("number", [torch.nan, torch.inf, 3e38])
def test_a_number_that_is_not_finite_changes_no_weight_and_spoils_nothing(name, number):
    signal, state = SIGNALS[name], STATES[name]
    batch = BATCH._replace(mask=EVERY_ROW)
    obs = batch.obs[0].index_fill(0, torch.tensor(4), number)
    after, _ = signal.update(state, batch._replace(obs=(obs, batch.obs[1])))
    assert all(x.isfinite().all() for x in tree.leaves(after))
    skipped = after.opt.skipped > state.opt.skipped
    assert skipped or ("normalised" in name and not math.isnan(number))  # else it is clipped
    if skipped:
        chex.assert_trees_all_equal(after.weights, state.weights)
    assert signal.evaluate(state, batch).isfinite().all()
    shown = signal.evaluate(state, batch._replace(obs=(batch.obs[0] * torch.nan, batch.obs[1])))
    assert shown.isnan().all()  # whoever uses the rewards has to see it
    again, _ = signal.update(after, batch)
    assert again.opt.skipped == after.opt.skipped


@every_signal
def test_fresh_weights_have_mlagents_spread_and_fresh_biases_are_zero(name):
    """Kaiming's 1/√in of layers, Xavier's √(2/(in + out)) of outputs, gains where it has them."""
    wide = signal_cases.build(name, hidden_units=64)
    outputs = {"forward_model.output", "inverse_model.continuous", "inverse_model.logits", "output"}
    gains = {"code": 0.1, "output": 0.2}
    for path, w in wide.init(random.key(2)).weights.items():
        module, _, part = path.rpartition(".")
        if part != "weight":
            assert (w == (1 if part == "sigma" else 0)).all(), path
            continue
        rows, columns = w.shape
        spread = math.sqrt(2 / (columns + rows) if module in outputs else 1 / columns)
        expected = gains.get(module, 1.0) * spread
        assert w.std().item() == pytest.approx(expected, rel=4 / math.sqrt(2 * w.numel())), path


# --- curiosity ------------------------------------------------------------------------------


@given(SEEDS, st.floats(-50.0, 50.0))
def test_curiosity_is_bounded_by_the_inverse_strength(seed, strength):
    signal = SIGNALS["curiosity"]
    state, batch = STATES["curiosity"], unmasked(seed, ROWS)
    free = signal.evaluate(state._replace(strength=torch.tensor(0.0)), batch)
    own = torch.tensor(strength, dtype=torch.float32)
    rewards = signal.evaluate(state._replace(strength=own), batch)
    torch.testing.assert_close(rewards, free.clamp(max=(1 / own.abs()).item()))
    assert (free > 0.02).any()  # the bound of the greatest strength


@pytest.mark.parametrize("name", [name for name in SIGNALS if "curiosity" in name])
def test_curiosity_has_no_reward_until_it_has_learnt_something(name):
    signal = SIGNALS[name]
    state = signal.init(random.key(0))
    assert not signal.evaluate(state, BATCH).any()
    untaught, _ = signal.update(state, BATCH._replace(mask=~EVERY_ROW))
    assert not signal.evaluate(untaught, BATCH).any()
    taught, _ = signal.update(untaught, BATCH)
    assert (signal.evaluate(taught, BATCH) > 0).equal(BATCH.mask)


def test_curiosity_learns_to_foresee_and_to_infer():
    signal = curiosity(SPEC, **SMALL | {"strength": 0.0})
    state, batch = learnt(signal, updates=1), unmasked(3, 40)
    losses, rewards = [], []
    for _ in range(40):
        rewards.append(signal.evaluate(state, batch).mean())
        state, stats = signal.update(state, batch)
        losses.append(stats)
    for loss in losses[0]:
        assert losses[-1][loss] < 0.7 * losses[0][loss]
    assert rewards[-1] < 0.7 * rewards[0]
    torch.testing.assert_close(rewards[-1], losses[-1]["curiosity_forward_loss"])


# --- random network distillation --------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in SIGNALS if "rnd" in name])
def test_rnd_target_stays_and_is_what_is_learnt(name):
    signal = SIGNALS[name]
    state = signal.init(random.key(3))
    after = learnt(signal, 3, updates=5)
    chex.assert_trees_all_equal(after.target, state.target)
    assert not torch.equal(after.weights["layers.0.weight"], state.weights["layers.0.weight"])
    assert not torch.equal(state.target["layers.0.weight"], state.weights["layers.0.weight"])
    knowing = after._replace(weights=after.target)
    assert not signal.evaluate(knowing, BATCH).any()  # both see through one normaliser
    _, stats = signal.update(knowing, BATCH)
    assert stats["rnd_loss"] == 0


def test_rnd_rewards_what_it_has_not_seen():
    signal = rnd(SPEC, hidden_units=16, learning_rate=3e-3)
    state, seen, unseen = signal.init(random.key(0)), unmasked(1, 30), unmasked(7, 30)
    unseen = unseen._replace(obs=tuple(x + 2 for x in unseen.obs))
    before = [signal.evaluate(state, rows).mean() for rows in (seen, unseen)]
    for _ in range(100):
        state, _ = signal.update(state, seen)
    after = [signal.evaluate(state, rows).mean() for rows in (seen, unseen)]
    left = [b / a for a, b in zip(before, after)]
    assert left[0] < 0.2 and left[1] > 2 * left[0]


def test_rnd_measures_rewards_in_the_deviation_of_those_it_learnt_from():
    plain = rnd(SPEC, **SMALL)
    scaled = rnd(SPEC, **SMALL, normalize_reward=True)
    states = [signal.init(random.key(0)) for signal in (plain, scaled)]
    torch.testing.assert_close(
        scaled.evaluate(states[1], BATCH), plain.evaluate(states[0], BATCH), rtol=0, atol=0
    )
    told = [torch.zeros(1)]  # the pseudo-row, whose variance of 1 counts beside it
    for k in range(3):
        batch = examples.transitions(20 * k, ROWS)
        told.append(plain.evaluate(states[0], batch)[batch.mask])
        states = [own.update(s, batch)[0] for own, s in zip((plain, scaled), states)]
    seen = torch.cat(told)
    deviation = ((seen.var(correction=0) * len(seen) + 1) / len(seen)).sqrt()
    expected = plain.evaluate(states[0], BATCH) / deviation
    torch.testing.assert_close(scaled.evaluate(states[1], BATCH), expected)


# --- GAIL -------------------------------------------------------------------------------------


@given(st.sampled_from(DRAWING), SEEDS, st.sampled_from([0.1, 10.0, 1e4]))
def test_gail_rewards_are_positive_and_bounded(name, seed, scale):
    state = STATES[name]
    state = state._replace(weights=tree.map(lambda w: scale * w, state.weights))
    rewards = SIGNALS[name].evaluate(state, unmasked(seed, ROWS))
    assert (rewards >= 0).all() and (rewards < 15.95).all()


@pytest.mark.parametrize("options", [{}, {"use_actions": True}, {"use_vail": True}])
def test_gail_comes_to_reward_what_the_expert_does(options):
    def rows(seed, shift):
        batch = unmasked(seed, 40)
        return batch._replace(obs=tuple(x + shift for x in batch.obs))

    signal = gail(SPEC, rows(1, 1.0), hidden_units=16, learning_rate=1e-2, **options)
    state = signal.init(random.key(0))
    first = None
    for k in range(60):
        state, stats = signal.update(state, rows(10 + k, -1.0))
        first = first or stats
    assert stats["gail_expert_estimate"] - stats["gail_policy_estimate"] > 0.3
    assert stats["gail_loss"] < first["gail_loss"]
    likes, dislikes = (signal.evaluate(state, rows(500, x)).mean() for x in (1.0, -1.0))
    assert likes > 2 * dislikes


def test_gail_never_meets_a_masked_row_of_the_expert():
    expert = signal_cases.expert()
    assert 0 < expert.mask.sum() < len(expert.mask)
    spoiled = examples.spoiled(expert, torch.nan, -1)
    kept = tree.take(expert, expert.mask)
    signals = [gail(SPEC, rows, **SMALL, use_actions=True) for rows in (spoiled, kept)]
    results = [signal.update(signal.init(random.key(0)), BATCH) for signal in signals]
    chex.assert_trees_all_equal(*results)


def test_gail_reads_actions_and_ends_only_where_it_uses_them():
    changes = {
        "continuous": lambda b: Action(b.action.continuous + 1, b.action.discrete),
        "discrete": lambda b: Action(b.action.continuous, 1 - b.action.discrete),
    }
    batch = unmasked(3, ROWS)
    other = [batch._replace(action=change(batch)) for change in changes.values()]
    going_on = torch.zeros_like(batch.mask)
    neither = batch._replace(terminated=going_on, truncated=going_on)
    other += [neither._replace(terminated=~going_on), neither._replace(truncated=~going_on)]
    plain, using = SIGNALS["gail"], SIGNALS["gail, actions, normalised"]
    for one, own in ((plain, "gail"), (using, "gail, actions, normalised")):
        base = one.evaluate(STATES[own], batch), one.evaluate(STATES[own], neither)
        for changed, before in zip(other, (base[0], base[0], base[1], base[1])):
            same = torch.equal(one.evaluate(STATES[own], changed), before)
            assert same == (one is plain)
    ended = [using.evaluate(STATES["gail, actions, normalised"], b) for b in other[2:]]
    torch.testing.assert_close(*ended)


def test_vail_price_of_information_follows_its_excess_and_is_never_negative():
    signal, state = SIGNALS["vail"], STATES["vail"]
    assert signal.init(random.key(0)).beta == 0
    for beta in (0.0, 0.3):
        after, stats = signal.update(state._replace(beta=torch.tensor(beta)), BATCH)
        torch.testing.assert_close(after.beta, beta + 5e-4 * (stats["gail_kl_loss"] - 0.5))
        assert stats["gail_beta"] == after.beta
    silent = state.weights | {
        name: torch.zeros_like(x) for name, x in state.weights.items() if "code" in name
    }
    silent["sigma"] = torch.ones_like(state.weights["sigma"])
    untold = state._replace(weights=silent, beta=torch.tensor(1e-4))
    after, stats = signal.update(untold, BATCH)
    assert stats["gail_kl_loss"] == 0 and after.beta == 0


def test_vail_noise_is_off_where_rewards_are_given():
    signal, state = SIGNALS["vail"], STATES["vail"]
    rewards = signal.evaluate(state, BATCH)
    other = state._replace(
        key=random.key(99), weights=state.weights | {"sigma": 9 * state.weights["sigma"]}
    )
    torch.testing.assert_close(signal.evaluate(other, BATCH), rewards, rtol=0, atol=0)


# --- extrinsic ----------------------------------------------------------------------------------


@given(SEEDS, st.booleans(), st.booleans(), st.booleans())
def test_extrinsic_adds_what_there_is_of_the_group(seed, group, mates, add):
    signal = extrinsic(add_groupmate_rewards=add)
    batch = examples.transitions(seed, 4, 3)
    own, theirs = examples.normal(seed + 1, 4, 3), examples.normal(seed + 2, 4, 3, 2)
    expected = batch.rewards
    if group:
        batch, expected = batch._replace(group_rewards=own), expected + own
    if mates:
        batch = batch._replace(groupmate_rewards=theirs)
        expected = expected + (theirs[..., 0] + theirs[..., 1] if add else 0)
    spoiled = examples.spoiled(batch, torch.nan, 0)
    rewards = signal.evaluate(signal.init(random.key(0)), spoiled)
    torch.testing.assert_close(rewards, torch.where(batch.mask, expected, 0.0))


# --- refusals -----------------------------------------------------------------------------------

BUILDERS = {
    "curiosity": lambda **options: curiosity(SPEC, **options),
    "rnd": lambda **options: rnd(SPEC, **options),
    "gail": lambda **options: gail(SPEC, signal_cases.expert(), **options),
}


@pytest.mark.parametrize("name", BUILDERS)
@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"strength": torch.inf}, ValueError, r"`strength` must lie in \(-inf, inf\), got inf\."),
        ({"gamma": 1.5}, ValueError, r"`gamma` must lie in \[0\.0, 1\.0\], got 1\.5\."),
        ({"gamma": -0.5}, ValueError, r"`gamma` must lie in \[0\.0, 1\.0\], got -0\.5\."),
        ({"learning_rate": -1e-3}, ValueError, r"`learning_rate` must lie in \[0\.0, inf\)"),
        ({"hidden_units": 0}, ValueError, r"`hidden_units` must lie in \[1, inf\), got 0\."),
        ({"hidden_units": 8.0}, TypeError, r"`hidden_units` must be an integer, got 8\.0\."),
        ({"num_layers": -1}, ValueError, r"`num_layers` must lie in \[0, inf\), got -1\."),
        ({"num_layers": "2"}, TypeError, r"`num_layers` must be an integer, got '2'\."),
    ],
)
def test_signal_refuses_a_number_out_of_range_by_name(name, options, error, message):
    with pytest.raises(error, match=message):
        BUILDERS[name](**options)


def test_gail_refuses_an_expert_who_shows_nothing():
    nothing = signal_cases.expert()._replace(mask=torch.zeros(20, dtype=torch.bool))
    with pytest.raises(ValueError, match="`expert` must have at least one valid row, got none"):
        gail(SPEC, nothing)


@pytest.mark.parametrize("number", [torch.nan, -torch.inf])
def test_gail_refuses_an_expert_who_is_not_finite(number):
    expert = unmasked(0, 5)
    spoiled = expert._replace(obs=(expert.obs[0], torch.full_like(expert.obs[1], number)))
    with pytest.raises(ValueError, match="`expert` must be finite in its valid rows, got NaN or"):
        gail(SPEC, spoiled)


def changed(**fields):
    return lambda batch: batch._replace(**{name: f(batch) for name, f in fields.items()})


def wrong_action(**fields):
    return changed(action=lambda b: b.action._replace(**{n: f(b) for n, f in fields.items()}))


ANY = {"curiosity", "rnd", "gail, actions, normalised"}
READS_ACTIONS = ANY - {"rnd"}
ENDS = {"gail, actions, normalised"}
REFUSALS = {
    "mask": (ANY, TypeError, changed(mask=lambda b: b.mask.float()),
             r"`mask` must have dtype torch\.bool, got torch\.float32\."),
    "no observation": (ANY, ValueError, changed(obs=lambda b: b.obs[:1]),
                       r"`obs` must have 2 observations, got 1\."),
    "observation": (ANY, ValueError, changed(obs=lambda b: (b.obs[0], b.obs[1][:, :1])),
                    r"`obs\[1\]` must have shape \[\*N, D_1\] = \[12, 2\], got \[12, 1\]\."),
    "next observation": ({"curiosity"}, ValueError, changed(next_obs=lambda b: b.obs[::-1]),
                         r"`next_obs\[0\]` must have shape \[\*N, D_0\] = \[12, 3\], got"),
    "dimensions": (READS_ACTIONS, ValueError, wrong_action(continuous=lambda b: b.obs[0]),
                   r"`action\.continuous` must have shape \[\*N, A\] = \[12, 2\], got \[12, 3\]"),
    "branches": (READS_ACTIONS, ValueError,
                 wrong_action(discrete=lambda b: b.action.discrete[:, :1]),
                 r"`action\.discrete` must have shape \[\*N, K\] = \[12, 2\], got \[12, 1\]"),
    "choices": (READS_ACTIONS, TypeError,
                wrong_action(discrete=lambda b: b.action.discrete.float()),
                r"`action\.discrete` must have dtype torch\.int64, got torch\.float32"),
    "terminated": (ENDS, TypeError, changed(terminated=lambda b: b.terminated.long()),
                   r"`terminated` must have dtype torch\.bool, got torch\.int64"),
    "truncated": (ENDS, ValueError, changed(truncated=lambda b: b.truncated[:5]),
                  r"`truncated` must have shape \[\*N\] = \[12\], got \[5\]"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSALS)
@pytest.mark.parametrize("function", ["evaluate", "update"])
def test_signal_refuses_a_batch_of_the_wrong_form_by_name(what, function):
    names, error, change, message = REFUSALS[what]
    for name in names:
        with pytest.raises(error, match=message):
            getattr(SIGNALS[name], function)(STATES[name], change(BATCH))


@pytest.mark.parametrize("name", BUILDERS)
def test_signal_refuses_an_observation_of_no_kind(name):
    spec = SPEC._replace(obs=((3,), (2, 2, 2, 2)))
    build = {"curiosity": curiosity, "rnd": rnd}.get(name, lambda s: gail(s, signal_cases.expert()))
    with pytest.raises(ValueError, match=r"`spec\.obs\[1\]` must be the shape of a vector"):
        build(spec)
