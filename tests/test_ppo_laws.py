"""Laws of PPO: what its update may depend on, what it reports, what it refuses."""

import math

import chex
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from optinfra import losses, moments, networks, random, schedules, transforms, tree
from optinfra.distributions import hybrid
from optinfra.learners import PPOBatch, ppo
from optinfra.lift import epochs
from optinfra.types import Action, ActionSpec, Spec
from tests import examples

LEARNER = examples.learner()
PLAIN = examples.learner(normalize=False)
DESCENT = examples.learner(transform=transforms.scale(1.0))  # w ← w − η·∇L, nothing else
STATE = examples.state(0, LEARNER)
BATCH = examples.batch(0, 12)
ROWS = len(BATCH.mask)
STATS = {"policy_loss", "value_loss", "entropy", "approx_kl", "clip_fraction",
         "explained_variance", "grad_norm", "learning_rate", "clip_range",
         "entropy_coef"}  # fmt: skip
WORST_FLOATS = st.sampled_from([math.nan, math.inf, -math.inf, 3e38, 0.0])
WORST_CHOICES = st.sampled_from([-1, 3, 2**40])
SEEDS = st.integers(0, 999)
MASKS = st.lists(st.booleans(), min_size=ROWS, max_size=ROWS).map(torch.tensor)
ALGEBRA = {"rtol": 1e-9, "atol": 1e-9}  # of laws in float64


def warmed(state):
    """A state whose normaliser has seen something."""
    return LEARNER.observe(state, examples.batch(77, 20).obs, torch.ones(20, dtype=torch.bool))


def descending():
    """A start in float64."""
    return examples.double(warmed(examples.state(1, DESCENT)))


def with_mask(mask, seed=0):
    return examples.batch(seed, ROWS)._replace(mask=mask)


# --- which rows count ---------------------------------------------------------------------


@given(MASKS, WORST_FLOATS, WORST_CHOICES)
def test_a_masked_row_changes_no_bit_of_an_update_whatever_it_holds(mask, number, choice):
    batch = with_mask(mask)
    clean, dirty = (
        LEARNER.update(warmed(STATE), b) for b in (batch, examples.spoiled(batch, number, choice))
    )
    chex.assert_trees_all_equal(clean, dirty)
    assert all(x.isfinite().all() for x in tree.leaves(dirty))


@given(MASKS, WORST_FLOATS, WORST_CHOICES, SEEDS)
def test_a_masked_row_changes_no_bit_of_the_epochs_whatever_it_holds(mask, number, choice, seed):
    batch = with_mask(mask)
    lifted = epochs(LEARNER, num_epochs=2, batch_size=5)
    state = examples.state(seed, LEARNER)
    clean, dirty = (
        lifted.update(state, b) for b in (batch, examples.spoiled(batch, number, choice))
    )
    chex.assert_trees_all_equal(clean, dirty)


@given(MASKS.filter(torch.any), SEEDS)
def test_an_update_is_the_same_without_its_masked_rows(mask, seed):
    batch = examples.double(with_mask(mask, seed))
    alone = tree.take(batch, mask.nonzero()[:, 0])
    all_rows, valid_rows = (DESCENT.update(descending(), b) for b in (batch, alone))
    chex.assert_trees_all_close(all_rows, valid_rows, **ALGEBRA)


def test_an_update_without_a_valid_row_leaves_the_weights():
    state, stats = LEARNER.update(STATE, with_mask(torch.zeros(ROWS, dtype=torch.bool)))
    chex.assert_trees_all_equal(state.params, STATE.params)
    assert stats["policy_loss"] == stats["value_loss"] == stats["entropy"] == 0.0


@given(st.permutations(range(ROWS)), SEEDS)
def test_a_permuted_minibatch_gives_the_same_update(order, seed):
    batch = examples.batch(seed, ROWS)
    both = batch, tree.take(batch, torch.tensor(order))
    exact = [DESCENT.update(descending(), examples.double(b)) for b in both]
    chex.assert_trees_all_close(*exact, **ALGEBRA)
    # With its usual ε Adam makes a whole step even of a gradient that is but rounding.
    steady = examples.learner(transform=transforms.scale_by_adam(eps=1e-3))
    with_adam = [steady.update(warmed(examples.state(0, steady)), b)[0].params for b in both]
    chex.assert_trees_all_close(*with_adam, rtol=1e-6, atol=1e-6)


def test_rows_may_have_any_number_of_axes():
    flat = LEARNER.update(STATE, BATCH)
    folded = LEARNER.update(STATE, tree.map(lambda x: x.unflatten(0, (3, 4)), BATCH))
    chex.assert_trees_all_close(flat, folded, rtol=1e-6, atol=1e-6)


# --- hyperparameters ----------------------------------------------------------------------


MAX_STEPS = 1000
DECAYING = {
    "learning_rate": schedules.linear_to_floor(1e-2, 1e-3, MAX_STEPS),
    "clip_range": schedules.linear_to_floor(0.3, 0.1, MAX_STEPS),
    "entropy_coef": schedules.linear_to_floor(0.2, 0.01, MAX_STEPS),
}


@given(st.integers(0, 2 * MAX_STEPS))
def test_the_hyperparameters_an_update_reports_are_those_it_used(steps):
    state = STATE._replace(steps=torch.tensor(steps))
    decaying = examples.learner(**DECAYING)
    start = state._replace(hyper=decaying.init(random.key(0)).hyper)
    after, stats = decaying.update(start, BATCH)
    assert len({stats[name].item() for name in DECAYING}) == 3
    told = {name: stats[name].item() for name in DECAYING}
    constant = examples.learner(**told)
    expected = constant.update(constant.init(random.key(0))._replace(steps=state.steps), BATCH)
    chex.assert_trees_all_equal((after.params, after.opt, stats), expected_parts(expected))


def expected_parts(updated):
    state, stats = updated
    return state.params, state.opt, stats


@pytest.mark.parametrize("name", DECAYING)
def test_a_schedule_follows_the_environment_steps_to_its_floor(name):
    learner = examples.learner(**DECAYING)
    start = learner.init(random.key(0))
    initial, floor = {"learning_rate": (1e-2, 1e-3), "clip_range": (0.3, 0.1),
                      "entropy_coef": (0.2, 0.01)}[name]  # fmt: skip
    told = []
    for steps in (0, 250, MAX_STEPS, 7 * MAX_STEPS):
        _, stats = learner.update(start._replace(steps=torch.tensor(steps)), BATCH)
        told.append(stats[name].item())
    assert told[0] == pytest.approx(initial, rel=1e-6)
    assert told[1] == pytest.approx(initial - 0.25 * (initial - floor), rel=0.05)
    assert told[2] == told[3] == pytest.approx(floor, rel=1e-6)


def test_a_step_is_the_learning_rate_times_the_direction():
    displacements = []
    for learning_rate in (1e-3, 4e-3):
        learner = examples.learner(transform=transforms.scale(1.0), learning_rate=learning_rate)
        start = examples.double(learner.init(random.key(0)))
        after, _ = learner.update(start, examples.double(BATCH))
        rate = start.hyper.learning_rate.value
        weights = start.params.weights, after.params.weights
        displacements.append(tree.map(lambda w, v, rate=rate: (v - w) / rate, *weights))
    chex.assert_trees_all_close(*displacements, **ALGEBRA)


def test_an_update_advances_neither_time_nor_key_nor_normaliser():
    start = warmed(STATE)
    after, _ = LEARNER.update(start, BATCH)
    unmoved = after._replace(params=after.params._replace(weights=start.params.weights))
    chex.assert_trees_all_equal(unmoved._replace(opt=start.opt), start)


@pytest.mark.parametrize(
    ("option", "number", "interval"),
    [
        ("learning_rate", -0.1, r"\[0\.0, inf\)"),
        ("learning_rate", math.nan, r"\[0\.0, inf\)"),
        ("clip_range", 0.0, r"\(0\.0, inf\)"),
        ("entropy_coef", -1.0, r"\[0\.0, inf\)"),
        ("value_coef", -0.5, r"\[0\.0, inf\)"),
        ("value_coef", math.inf, r"\[0\.0, inf\)"),
    ],
)
def test_ppo_refuses_a_number_out_of_range_by_name(option, number, interval):
    with pytest.raises(ValueError, match=f"`{option}` must lie in {interval}, got {number}"):
        examples.learner(**{option: number})


def test_whole_numbers_make_the_same_state_as_fractions():
    options = ("learning_rate", "clip_range", "entropy_coef", "value_coef")
    whole, fractions = (
        examples.learner(**dict.fromkeys(options, one)).init(random.key(0)).hyper
        for one in (1, 1.0)
    )
    chex.assert_trees_all_equal(whole, fractions)
    assert all(x.dtype == torch.float32 for x in tree.leaves(whole))


# --- the loss -----------------------------------------------------------------------------


def test_the_first_update_after_acting_sees_a_ratio_of_one():
    state, obs = warmed(STATE), BATCH.obs
    act = LEARNER.act(state.params, obs, (), random.key(5))
    batch = BATCH._replace(action=act.action, log_prob=act.log_prob)
    _, stats = LEARNER.update(state, batch)
    assert stats["approx_kl"] == stats["clip_fraction"] == 0.0
    mean = batch.advantages[batch.mask].mean()
    torch.testing.assert_close(stats["policy_loss"], -mean)


def test_the_loss_weighs_its_parts_as_it_says():
    """L = L_policy + c_v · L_value − β · H, seen through the gradient of either part alone."""

    def gradient(**options):
        # With lr 1 and the plain gradient as direction, the displacement is minus the gradient.
        descent = {"transform": transforms.scale(1.0), "learning_rate": 1.0}
        learner = examples.learner(**(descent | options))
        start = examples.double(learner.init(random.key(0)))
        after, stats = learner.update(start, examples.double(BATCH))
        return tree.map(torch.sub, start.params.weights, after.params.weights), stats

    policy, _ = gradient(value_coef=0.0, entropy_coef=0.0)
    value, _ = gradient(value_coef=1.0, entropy_coef=0.0)
    entropy, _ = gradient(value_coef=0.0, entropy_coef=1.0)
    both, stats = gradient(value_coef=0.7, entropy_coef=0.2)
    expected = tree.map(lambda p, v, h: p + 0.7 * (v - p) + 0.2 * (h - p), policy, value, entropy)
    chex.assert_trees_all_close(both, expected, rtol=1e-6, atol=1e-7)  # 0.7 is a float32
    norm = math.sqrt(sum(g.square().sum().item() for g in tree.leaves(both)))
    assert stats["grad_norm"].item() == pytest.approx(norm, rel=1e-6)


def test_stats_are_what_the_losses_say_of_the_old_parameters():
    state, batch = warmed(STATE), BATCH
    outputs = network_outputs(state, batch)
    log_prob = hybrid(examples.SPEC.action).log_prob(outputs, batch.action)
    values = LEARNER.values(state.params, batch.obs)["extrinsic"]
    old_values, returns = batch.values["extrinsic"], batch.returns["extrinsic"]
    log_ratio, mask = log_prob - batch.log_prob, batch.mask
    clip = torch.tensor(0.2)
    _, stats = LEARNER.update(state, batch)
    assert set(stats) == STATS
    expected = {
        "policy_loss": losses.clipped_surrogate_per_dimension(
            log_prob, batch.log_prob, batch.advantages, clip, mask
        ),
        "value_loss": losses.trust_region_value_loss(values, old_values, returns, clip, mask),
        "entropy": hybrid(examples.SPEC.action).entropy(outputs)[mask].mean(),
        "approx_kl": losses.approx_kl(log_ratio, mask),
        "clip_fraction": losses.clip_fraction(log_ratio, clip, mask),
        "explained_variance": losses.explained_variance(old_values, returns, mask),
        "learning_rate": torch.tensor(1e-2),
        "clip_range": clip,
        "entropy_coef": torch.tensor(5e-3),
    }
    chex.assert_trees_all_close({n: stats[n] for n in expected}, expected, rtol=1e-5, atol=1e-6)


def network_outputs(state, batch):
    pairs = zip(state.params.moments, batch.obs)
    normalized = tuple(moments.normalize(m, x) for m, x in pairs)
    return examples.network().policy(state.params.weights, normalized)


def test_a_forbidden_choice_gets_no_gradient():
    allowed = torch.tensor([True, False, True, True, True]).expand(ROWS, 5)
    batch = BATCH._replace(action_mask=allowed, action=BATCH.action._replace(
        discrete=torch.zeros(ROWS, 2, dtype=torch.int64)))  # fmt: skip
    after, _ = LEARNER.update(STATE, batch)
    before, weight = (s.params.weights["actor.head.logits.weight"] for s in (STATE, after))
    moved = (before != weight).any(-1)
    assert moved.tolist() == [True, False, True, True, True]


def test_streams_share_the_value_loss_evenly():
    spec = examples.SPEC
    network = networks.actor_critic(spec, ("a", "b"), hidden_units=8, num_layers=1)
    learner = ppo(network, spec)
    state = learner.init(random.key(0))

    def told(returns):
        streams = {name: torch.zeros(ROWS) for name in ("a", "b")}
        batch = BATCH._replace(values=streams, returns=streams | returns)
        return learner.update(state, batch)[1]

    nothing, a, b, both = (
        told({name: BATCH.advantages for name in names})["value_loss"]
        for names in ("", "a", "b", "ab")
    )
    torch.testing.assert_close(both - nothing, (a - nothing) + (b - nothing))
    explained = told({"a": BATCH.advantages})["explained_variance"]
    assert explained == 0.0  # values of 0 explain nothing, and b has nothing to explain
    perfect = BATCH._replace(
        values={"a": BATCH.advantages, "b": torch.zeros(ROWS)},
        returns=dict.fromkeys("ab", BATCH.advantages),
    )
    assert learner.update(state, perfect)[1]["explained_variance"] == 0.5


# --- acting and valuing -------------------------------------------------------------------


@given(SEEDS)
def test_acting_draws_from_the_policy_of_the_normalised_observation(seed):
    state, key = warmed(STATE), random.key(seed)
    outputs = network_outputs(state, BATCH)
    memory = (torch.arange(3),)
    act = LEARNER.act(state.params, BATCH.obs, memory, key)
    action, log_prob = hybrid(examples.SPEC.action).sample(outputs, key)
    chex.assert_trees_all_equal((act.action, act.log_prob, act.memory), (action, log_prob, memory))
    chex.assert_trees_all_equal(act.executed, hybrid(examples.SPEC.action).executed(action))


def test_the_greedy_action_is_the_mode_with_its_log_prob():
    state, memory = warmed(STATE), (torch.arange(3),)
    outputs = network_outputs(state, BATCH)
    greedy = LEARNER.greedy(state.params, BATCH.obs, memory)
    policy = hybrid(examples.SPEC.action)
    chex.assert_trees_all_equal(greedy.action, policy.mode(outputs))
    chex.assert_trees_all_equal(greedy.log_prob, policy.log_prob(outputs, greedy.action))
    chex.assert_trees_all_equal(greedy.executed, policy.executed(greedy.action))
    chex.assert_trees_all_equal(greedy.memory, memory)
    for k in range(20):
        drawn = LEARNER.act(state.params, BATCH.obs, (), random.key(k))
        assert (drawn.log_prob <= greedy.log_prob).all()


def test_acting_executes_within_the_unit_interval():
    state = STATE._replace(params=STATE.params._replace(weights=STATE.params.weights | {
        "actor.head.mean.bias": torch.tensor([100.0, -100.0])}))  # fmt: skip
    for act in (
        LEARNER.act(state.params, BATCH.obs, (), random.key(0)),
        LEARNER.greedy(state.params, BATCH.obs, ()),
    ):
        assert (act.executed.continuous == torch.tensor([1.0, -1.0])).all()
        assert (act.action.continuous.abs() > 50).all()


def test_normalising_learner_equals_a_plain_one_on_normalised_observations():
    state = warmed(STATE)
    pairs = list(zip(state.params.moments, BATCH.obs))
    by_hand = BATCH._replace(obs=tuple(moments.normalize(m, x) for m, x in pairs))
    plain = state._replace(params=state.params._replace(moments=()))
    ours, ours_stats = LEARNER.update(state, BATCH)
    theirs, their_stats = PLAIN.update(plain, by_hand)
    chex.assert_trees_all_close(
        (ours.params.weights, ours_stats), (theirs.params.weights, their_stats)
    )
    assert any((a != b).any() for a, b in zip(BATCH.obs, by_hand.obs))


@given(MASKS)
def test_observing_moves_the_moments_of_each_observation_and_nothing_else(mask):
    after = LEARNER.observe(STATE, BATCH.obs, mask)
    expected = tuple(
        moments.update(m, x, mask) for m, x in zip(STATE.params.moments, BATCH.obs, strict=True)
    )
    chex.assert_trees_all_equal(after.params.moments, expected)
    back = after._replace(params=after.params._replace(moments=STATE.params.moments))
    chex.assert_trees_all_equal(back, STATE)


def test_observing_without_a_normaliser_changes_nothing():
    state = examples.state(0, PLAIN)
    assert state.params.moments == ()
    chex.assert_trees_all_equal(PLAIN.observe(state, BATCH.obs, BATCH.mask), state)


@given(st.lists(st.booleans(), min_size=3, max_size=3).map(torch.tensor))
def test_trajectory_values_bootstrap_what_follows_unless_the_end_was_real(done):
    state = warmed(STATE)
    trajectory, following = examples.trajectory(1, 6, 3), examples.batch(2, 3).obs
    out = LEARNER.trajectory_values(state.params, trajectory, following, done)
    for t in range(6):
        now = LEARNER.values(state.params, tree.take(trajectory.obs, t))
        torch.testing.assert_close(out.values["extrinsic"][t], now["extrinsic"])
    then = LEARNER.values(state.params, following)["extrinsic"]
    assert (then != 0).all()
    expected = torch.tensor([0.0 if end else value for end, value in zip(done, then)])
    torch.testing.assert_close(out.bootstrap["extrinsic"], expected)
    assert out.memories == out.final_memory == ()


# --- keys ---------------------------------------------------------------------------------


@given(st.integers(0, 2**31), st.integers(0, 2**31))
def test_init_is_a_pure_function_of_the_key(a, b):
    first, again, other = (LEARNER.init(random.key(seed)) for seed in (a, a, b))
    chex.assert_trees_all_equal(first, again)
    same = torch.equal(
        first.params.weights["actor.body.layers.0.weight"],
        other.params.weights["actor.body.layers.0.weight"],
    )
    assert same == torch.equal(first.key, other.key) == (a == b)


def test_the_key_that_init_leaves_is_not_the_one_that_drew_the_weights():
    key = random.key(3)
    state = LEARNER.init(key)
    again = examples.network().init(state.key)
    assert not torch.equal(state.key, key)
    for name, w in state.params.weights.items():
        assert not w.any() or not torch.equal(w, again[name])


# --- numbers that are not finite, gradients that are not wanted -----------------------------


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_an_advantage_that_is_not_finite_leaves_parameters_and_optimizer_bit_for_bit(number):
    warm, _ = LEARNER.update(STATE, BATCH)
    batch = BATCH._replace(advantages=BATCH.advantages.index_fill(0, torch.tensor(0), number))
    assert batch.mask[0]
    after, stats = LEARNER.update(warm, batch)
    chex.assert_trees_all_equal((after.params, after.opt.inner), (warm.params, warm.opt.inner))
    assert after.opt.skipped - warm.opt.skipped == 1
    assert not stats["grad_norm"].isfinite()
    moved, stats = LEARNER.update(after, BATCH)  # and the next one is taken
    assert stats["grad_norm"].isfinite()
    chex.assert_trees_all_equal(moved.params, LEARNER.update(warm, BATCH)[0].params)


def test_a_transform_of_ones_own_replaces_adam_and_its_guard():
    learner = examples.learner(transform=transforms.scale_by_adam(b1=0.5))
    state = learner.init(random.key(0))
    assert not hasattr(state.opt, "skipped") and state.opt.hyper.b1 == 0.5


def wanting_gradients(xs):
    return tree.map(
        lambda x: x.clone().requires_grad_() if x.is_floating_point() else x.clone(), xs
    )


@pytest.mark.parametrize("enabled", [True, False])
def test_results_are_detached_where_parameters_and_batch_require_gradients(enabled):
    weights, batch = wanting_gradients((STATE.params.weights, BATCH))
    state = STATE._replace(params=STATE.params._replace(weights=weights))
    copies = tree.map(lambda x: x.detach().clone(), (state, batch))
    versions = [(x, x._version) for x in tree.leaves((state, batch))]
    with torch.set_grad_enabled(enabled):
        after, stats = LEARNER.update(state, batch)
        again, _ = epochs(LEARNER, num_epochs=2, batch_size=4).update(after, batch)
    expected = LEARNER.update(STATE, BATCH)
    assert not any(x.requires_grad for x in tree.leaves((after, stats, again)))
    chex.assert_trees_all_equal((after, stats), expected)
    chex.assert_trees_all_equal(tree.map(torch.detach, (state, batch)), copies)
    assert all(x._version == version for x, version in versions)
    assert all(x.grad is None for x in tree.leaves((weights, batch)) if x.is_leaf)


def test_values_are_differentiable_for_whoever_wants_their_gradient():
    weights = wanting_gradients(STATE.params.weights)
    params = STATE.params._replace(weights=weights)
    LEARNER.values(params, BATCH.obs)["extrinsic"].sum().backward()
    assert weights["critic.head.heads.extrinsic.weight"].grad.abs().sum() > 0


# --- bad input ----------------------------------------------------------------------------


def wrong(**columns):
    return BATCH._replace(**columns)


def of_shape(*shape, dtype=torch.float32):
    return torch.zeros(shape, dtype=dtype)


CHOICES = of_shape(ROWS, 2, dtype=torch.int64)
REFUSED = {
    "float mask": (wrong(mask=BATCH.mask.float()), TypeError,
                   "`mask` must have dtype torch.bool, got torch.float32."),
    "float action mask": (wrong(action_mask=of_shape(ROWS, 5)), TypeError,
                          "`action_mask` must have dtype torch.bool, got torch.float32."),
    "float choices": (wrong(action=Action(of_shape(ROWS, 2), of_shape(ROWS, 2))), TypeError,
                      "`action.discrete` must have dtype torch.int64, got torch.float32."),
    "missing observation": (wrong(obs=BATCH.obs[:1]), ValueError,
                            "`obs` must have 2 observations, got 1."),
    "observation too many": (wrong(obs=BATCH.obs * 2), ValueError,
                             "`obs` must have 2 observations, got 4."),
    "wide observation": (wrong(obs=(of_shape(ROWS, 3), of_shape(ROWS, 9))), ValueError,
                         "`obs[1]` must have shape [*B, 2], got [12, 9]."),
    "observation of other rows": (wrong(obs=(of_shape(ROWS, 3), of_shape(1, 2))), ValueError,
                                  "`obs[1]` must have shape [12, 2], got [1, 2]."),
    "narrow action": (wrong(action=Action(of_shape(ROWS, 1), CHOICES)), ValueError,
                      "`action.continuous` must have shape [12, 2], got [12, 1]."),
    "missing branch": (wrong(action=Action(of_shape(ROWS, 2), CHOICES[:, :1])), ValueError,
                       "`action.discrete` must have shape [12, 2], got [12, 1]."),
    "narrow action mask": (wrong(action_mask=BATCH.action_mask[:, :4]), ValueError,
                           "`action_mask` must have shape [12, 5], got [12, 4]."),
    "joint log-probability": (wrong(log_prob=of_shape(ROWS)), ValueError,
                              "`log_prob` must have shape [12, 4], got [12]."),
    "advantages of an epoch": (wrong(advantages=of_shape(ROWS, 1)), ValueError,
                               "`advantages` must have shape [12], got [12, 1]."),
    "short values": (wrong(values={"extrinsic": of_shape(3)}), ValueError,
                     "`values['extrinsic']` must have shape [12], got [3]."),
    "short returns": (wrong(returns={"extrinsic": of_shape(3)}), ValueError,
                      "`returns['extrinsic']` must have shape [12], got [3]."),
    "no values": (wrong(values={}), ValueError,
                  "`values` must have the streams of the network, ['extrinsic'], got []."),
    "no returns": (wrong(returns={}), ValueError,
                   "`returns` must have the streams of the network, ['extrinsic'], got []."),
    "other stream": (wrong(values={"gail": of_shape(ROWS)}), ValueError,
                     "`values` must have the streams of the network, ['extrinsic'], "
                     "got ['gail']."),
    "stream too many": (wrong(returns={"gail": of_shape(ROWS)} | BATCH.returns), ValueError,
                        "`returns` must have the streams of the network, ['extrinsic'], "
                        "got ['extrinsic', 'gail']."),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_update_refuses_a_wrong_batch_in_words(case):
    batch, error, message = REFUSED[case]
    with pytest.raises(error) as caught:
        LEARNER.update(STATE, batch)
    assert str(caught.value) == message


def test_a_column_left_out_is_named():
    columns = BATCH._asdict()
    del columns["log_prob"]
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'log_prob'"):
        PPOBatch(**columns)


OBSERVERS = {
    "act": lambda obs: LEARNER.act(STATE.params, obs, (), random.key(0)),
    "greedy": lambda obs: LEARNER.greedy(STATE.params, obs, ()),
    "values": lambda obs: LEARNER.values(STATE.params, obs),
    "observe": lambda obs: LEARNER.observe(STATE, obs, BATCH.mask),
    "trajectory_values": lambda obs: LEARNER.trajectory_values(
        STATE.params, examples.trajectory(1, 6, ROWS), obs, BATCH.mask
    ),
    "observe without normaliser": lambda obs: PLAIN.observe(
        examples.state(0, PLAIN), obs, BATCH.mask
    ),
}


@pytest.mark.parametrize("name", OBSERVERS)
def test_whatever_takes_observations_refuses_others_than_the_specs(name):
    with pytest.raises(ValueError, match="`obs` must have 2 observations, got 1"):
        OBSERVERS[name](BATCH.obs[1:])
    with pytest.raises(ValueError, match=r"`obs\[0\]` must have shape \[\*B, 3\], got \[12, 2\]"):
        OBSERVERS[name](BATCH.obs[::-1])


@pytest.mark.parametrize(
    ("done", "error", "message"),
    [
        (torch.zeros(3), TypeError, r"`done` must have dtype torch\.bool, got torch\.float32"),
        (
            torch.zeros(6, 3).bool(),
            ValueError,
            r"`done` must have shape \[\*B\] = \[3\], got \[6, 3\]",
        ),
    ],
)
def test_trajectory_values_refuse_ends_that_are_no_flags_of_trajectories(done, error, message):
    following = examples.batch(2, 3).obs
    with pytest.raises(error, match=message):
        LEARNER.trajectory_values(STATE.params, examples.trajectory(1, 6, 3), following, done)


def test_observations_of_several_axes_pass_through_to_a_network_that_takes_them():
    """The learner itself asks only that the last axes are the spec's."""
    spec = Spec(((2, 3),), ActionSpec(1))
    inner = networks.actor_critic(Spec(((6,),), ActionSpec(1)), hidden_units=4)
    flat = lambda obs: tuple(x.flatten(-2) for x in obs)
    network = inner._replace(
        policy=lambda params, obs: inner.policy(params, flat(obs)),
        values=lambda params, obs: inner.values(params, flat(obs)),
        policy_and_values=lambda params, obs: inner.policy_and_values(params, flat(obs)),
    )
    learner = ppo(network, spec, normalize=True)
    state = learner.init(random.key(0))
    state, stats = learner.update(state, examples.batch(0, 5, spec=spec))
    assert all(x.isfinite() for x in stats.values())
    act = learner.act(state.params, (examples.normal(0, 7, 2, 3),), (), random.key(0))
    assert act.log_prob.shape == (7, 1)
