"""The later forms of soft actor-critic: no value network, many critics, normalised layers."""

import itertools
import math

import chex
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from optinfra import lift, networks, random, tree
from optinfra.learners import sac
from optinfra.lift.epochs import on_rows
from optinfra.transforms import scale
from optinfra.types import ActionSpec, Memories, Spec, Trajectory
from tests import examples, plain_sac

KEY = random.key(4)
SEEDS = st.integers(0, 10**6)
KINDS = {
    "continuous": ActionSpec(2),
    "discrete": ActionSpec(0, (3, 2)),
    "hybrid": ActionSpec(2, (3, 2)),
}
FORMS = {  # critics, and which the targets ask
    "second form": (2, None),
    "random pair": (3, 2),
    "all, and their mean": (2, 2),
}
M = 6  # numbers that each network remembers
NORMED = {"layer_norm": True, "num_layers": 2}
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def spec_of(kind):
    return Spec(((3,), (2,)), KINDS[kind])


def network_of(kind, streams=("extrinsic",), **options):
    sizes = {"value_network": False, "hidden_units": 8, "num_layers": 1}
    return networks.soft_actor_critic(spec_of(kind), streams, **(sizes | options))


def learner(kind="hybrid", form="second form", streams=("extrinsic",), built=None, **options):
    """Plain descent with rate 1, so that what changes in the weights is the gradient."""
    critics, target_critics = FORMS[form]
    network = network_of(kind, streams, critics=critics, **(built or {}))
    options = {"learning_rate": 1.0, "transform": scale(1.0)} | options
    return sac(network, spec_of(kind), target_critics=target_critics, **options)


def batch_of(seed, *rows, kind="hybrid", **options):
    """Rows some of whose choices are forbidden, before and after, but never a branch's first."""
    spec = spec_of(kind)
    drawn = examples.soft_batch(seed, *rows, spec=spec, **options)
    firsts = torch.zeros(spec.action.choices, dtype=torch.bool)
    for k in range(len(spec.action.branches)):
        firsts[sum(spec.action.branches[:k])] = True
    now, then = (
        (examples.normal(seed + i, *rows, spec.action.choices) > 0) | firsts for i in (60, 61)
    )
    return drawn._replace(action_mask=now, next_action_mask=then)


def everyone(batch):
    return batch._replace(mask=torch.ones_like(batch.mask))


def disturbed(state, seed):
    """A target that is not what it averages, coefficients that are not 1, norms that matter."""

    def moved(i, x):
        return x + 0.3 * examples.normal(seed + i, *x.shape)

    weights = {name: moved(i, x) for i, (name, x) in enumerate(state.params.weights.items())}
    target = {name: moved(i + 500, x) for i, (name, x) in enumerate(state.target.items())}
    logs = {name: moved(i + 900, x) - 0.5 for i, (name, x) in
            enumerate(state.log_entropy_coef.items())}  # fmt: skip
    params = state.params._replace(weights=weights)
    return state._replace(params=params, target=target, log_entropy_coef=logs)


# --- against the formulas -----------------------------------------------------------------------


def rows_of(batch, ignored=()):
    """The batch as lists of rows for `plain_sac`, in float64."""
    batch = examples.double(batch)
    if batch.mask.ndim == 1:
        batch = tree.map(lambda x: x[:, None], batch)
    counts = {name: x.flatten().any() for name, x in dict(batch.live).items()}
    live = [name for name in batch.rewards if counts.get(name, True)]
    remembered = batch.memory.actor if batch.memory else torch.zeros(len(batch.mask), 0)
    for n in range(len(batch.mask)):
        rows = []
        for s in range(batch.mask.shape[1]):
            row = tree.map(lambda x, n=n, s=s: x[n, s], batch._replace(memory=()))
            rows.append({
                "obs": row.obs, "next_obs": row.next_obs, "action": row.action.continuous,
                "choices": row.action.discrete.tolist(), "allowed": row.action_mask,
                "next_allowed": row.next_action_mask, "reward": row.rewards,
                "discount": row.discounts, "live": live, "counts": bool(row.mask),
                "ended": {name: bool(row.terminated) and name not in ignored for name in live},
                "reset": bool(row.reset) if isinstance(row.reset, torch.Tensor) else False,
                "memory": remembered[n].double(),
            })  # fmt: skip
        yield rows


def by_hand(kind, state, batch, draws, form, ignored=()):
    """Losses and gradients under every subset that the targets may ask."""
    critics, number = FORMS[form]
    w, logs = (
        tree.map(lambda x: x.double().requires_grad_(), x)
        for x in (state.params.weights, state.log_entropy_coef)
    )
    target, aim = examples.double((state.target, state.hyper.target_entropy))
    seeks = "least" if number is None else "mean"
    for subset in itertools.combinations(range(critics), number or critics):
        losses = plain_sac.losses(
            KINDS[kind], w, target, logs, aim, list(rows_of(batch, ignored)), draws, subset, seeks
        )
        total = sum(x for x in losses.values())
        inputs = {**w, **{f"ln α {name}": x for name, x in logs.items()}}
        grads = torch.autograd.grad(total, list(inputs.values()), materialize_grads=True)
        yield losses, dict(zip(inputs, grads))


def updated_with_known_draws(one, state, batch):
    """An update whose normal draws are known: ε of ã first, then ε of ã′."""
    rows, width = batch.mask.numel(), batch.action.continuous.shape[-1]
    known = [examples.normal(1000 + i, rows, width) for i in range(2)]
    given = iter(known)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(random, "normal", lambda key, shape: next(given).reshape(shape))
        after, stats = one.update(state, batch)
    assert next(given, None) is None
    return after, stats, list(zip(*(x.double() for x in known)))


def agrees(loss_and_grads, state, after, stats):
    losses, grads = loss_and_grads
    expected = {f"{name}_loss": x for name, x in losses.items() if name != "coefs"}
    moved = {name: x - after.params.weights[name] for name, x in state.params.weights.items()}
    moved |= {
        f"ln α {name}": x - after.log_entropy_coef[name]
        for name, x in state.log_entropy_coef.items()
    }
    pairs = [(stats[name], x) for name, x in expected.items()]
    pairs += [(x, grads[name]) for name, x in moved.items()]
    return all(torch.allclose(a.double(), b, rtol=1e-3, atol=1e-4) for a, b in pairs)


def require_the_formulas(kind, one, state, batch, form, ignored=()):
    """Tell which subsets the targets may have asked: often one, for the least may be in several."""
    after, stats, draws = updated_with_known_draws(one, state, batch)
    found = [
        number
        for number, each in enumerate(by_hand(kind, state, batch, draws, form, ignored))
        if agrees(each, state, after, stats)
    ]
    assert found
    return found


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=4)
@given(seed=SEEDS)
def test_losses_and_gradients_are_the_formulas_row_by_row(kind, form, seed):
    streams, ignored = ("a", "b"), {"b"}
    one = learner(kind, form, streams, ignore_done=ignored)
    batch = batch_of(seed, 5, kind=kind, streams=streams)
    batch = batch._replace(mask=batch.mask | (torch.arange(5) == 0))
    state = disturbed(one.init(random.key(seed)), seed)
    require_the_formulas(kind, one, state, batch, form, ignored)


@pytest.mark.parametrize("form", ["second form", "random pair"])
@pytest.mark.parametrize("resets", [False, True])
@settings(max_examples=3)
@given(seed=SEEDS)
def test_losses_and_gradients_are_the_formulas_step_by_step(form, resets, seed):
    one = learner("hybrid", form, built={"memory_size": M})
    batch = batch_of(seed, 2, 4, memory_size=M)
    batch = batch._replace(mask=torch.arange(4) < torch.tensor([4, 3])[:, None])
    if resets:
        batch = batch._replace(reset=examples.normal(seed + 7, 2, 4) > 0.3)
    state = disturbed(one.init(random.key(seed)), seed)
    require_the_formulas("hybrid", one, state, batch, form)


@settings(max_examples=4)
@given(seed=SEEDS)
def test_losses_and_gradients_of_normalised_critics_are_the_formulas(seed):
    one = learner("continuous", "random pair", built=NORMED)
    batch = everyone(batch_of(seed, 4, kind="continuous"))
    state = disturbed(one.init(random.key(seed)), seed)
    require_the_formulas("continuous", one, state, batch, "random pair")


def test_a_stream_that_has_failed_is_in_no_loss():
    streams, row = ("a", "b"), torch.ones(5, dtype=torch.bool)
    one = learner("hybrid", "all, and their mean", streams)
    batch = everyone(batch_of(3, 5, streams=streams))._replace(live={"a": row, "b": ~row})
    rewards = {"a": batch.rewards["a"], "b": torch.full((5,), math.nan)}
    state = disturbed(one.init(KEY), 3)
    batch = batch._replace(rewards=rewards)
    require_the_formulas("hybrid", one, state, batch, "all, and their mean")


# --- what is drawn ------------------------------------------------------------------------------


@given(st.integers(2, 7), st.integers(1, 6), SEEDS)
def test_as_many_critics_as_asked_for_are_drawn_without_replacement(critics, number, seed):
    """Q_i is i everywhere: the least of M different ones of C cannot exceed C − M."""
    number = min(number, critics - 1)
    seen = set(least_of_the_drawn(critics, number, seed, 40))
    assert seen <= set(range(critics - number + 1))


def least_of_the_drawn(critics, number, seed, updates):
    """The least index that the targets of each of some updates ask, revealed by Q losses."""
    one = sac(network_of("continuous", critics=critics), spec_of("continuous"),
              target_critics=number)  # fmt: skip
    batch = everyone(batch_of(0, 1, kind="continuous"))
    batch = batch._replace(
        rewards={"extrinsic": torch.zeros(1)},
        discounts={"extrinsic": torch.ones(1)},
        terminated=torch.zeros(1, dtype=torch.bool),
    )
    state = one.init(KEY)
    zero = tree.map(torch.zeros_like, state.params.weights)
    target = {
        name: torch.full_like(x, int(name[1 : name.index(".")]) - 1.0)
        if name.endswith("extrinsic.bias") else torch.zeros_like(x)
        for name, x in state.target.items()
    }  # fmt: skip
    state = state._replace(
        params=state.params._replace(weights=zero), target=target,
        log_entropy_coef=tree.map(lambda x: torch.full_like(x, -80.0), state.log_entropy_coef),
    )  # fmt: skip
    keys = random.split(random.key(seed), updates)
    stacked = tree.map(lambda x: x.expand(updates, *x.shape), (state, batch))
    _, stats = lift.ensemble(one).update(stacked[0]._replace(key=keys), stacked[1])
    return (2 * stats["q1_loss"]).sqrt().round().long().tolist()  # ½·(min − 0)²


def test_every_subset_of_critics_is_equally_likely():
    """3 of 5: the least is 0, 1, 2 in 6, 3, 1 of 10 cases; 5 deviations, 1 in 10⁶ false alarms."""
    updates = 4000
    drawn = least_of_the_drawn(5, 3, 7, updates)
    for least, share in enumerate((0.6, 0.3, 0.1)):
        deviation = math.sqrt(updates * share * (1 - share))
        assert abs(drawn.count(least) - updates * share) < 5 * deviation


def test_each_update_draws_critics_and_noise_anew():
    one, batch = learner("continuous", "random pair"), everyone(batch_of(0, 9, kind="continuous"))
    state = one.init(KEY)
    keys, found = [], set()
    for _ in range(12):
        after, _ = one.update(state, batch)
        keys.append(tuple(after.key.tolist()))
        asked = require_the_formulas("continuous", one, state, batch, "random pair")
        found.update(asked if len(asked) == 1 else ())
        state = state._replace(key=after.key)
    assert len(set(keys)) == 12 and found == {0, 1, 2}


def test_the_policys_noise_is_the_same_in_every_form():
    """So that recorded draws fit all: what later forms draw besides is drawn with other keys."""
    taken, batch = {}, everyone(batch_of(0, 5, kind="continuous"))
    spec = spec_of("continuous")
    options = {"hidden_units": 8, "num_layers": 1}
    with_values = sac(networks.soft_actor_critic(spec, **options), spec)
    forms = {"with values": with_values} | {form: learner("continuous", form) for form in FORMS}
    plain = random.normal
    for name, one in forms.items():
        draws, state = [], one.init(KEY)._replace(key=KEY)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(random, "normal", lambda *x, d=draws: d.append(plain(*x)) or d[-1])
            one.update(state, batch)
        assert len(draws) == (1 if name == "with values" else 2)
        taken[name] = draws
        assert torch.equal(draws[0], taken["with values"][0])
        assert len(draws) == 1 or not torch.equal(*draws)


# --- what does not count ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=15)
@given(seed=SEEDS, number=st.sampled_from([math.nan, math.inf, 3e38]))
def test_a_masked_row_changes_no_bit_whatever_it_holds(kind, seed, number):
    one, batch = learner(kind, "random pair", built=NORMED), batch_of(seed, 7, kind=kind)
    state = one.init(KEY)
    spoilt = examples.spoiled(batch, number, -1)._replace(discounts=batch.discounts)
    chex.assert_trees_all_equal(one.update(state, spoilt), one.update(state, batch))


@settings(max_examples=10)
@given(SEEDS, st.sampled_from([math.nan, 3e38]))
def test_padding_behind_a_sequence_changes_no_bit(seed, number):
    one = learner("hybrid", "random pair", built={"memory_size": M})
    batch = batch_of(seed, 3, 4, memory_size=M)
    batch = batch._replace(mask=torch.arange(4) < torch.tensor([4, 2, 0])[:, None])
    spoilt = examples.spoiled(batch._replace(memory=()), number, -1)
    memory = tree.map(lambda x: x.index_fill(0, torch.tensor(2), number), batch.memory)
    spoilt = spoilt._replace(memory=memory, discounts=batch.discounts)
    state = one.init(KEY)
    chex.assert_trees_all_equal(one.update(state, spoilt), one.update(state, batch))


@pytest.mark.parametrize("form", FORMS)
def test_without_a_row_that_counts_nothing_is_learnt(form):
    one, batch = learner("hybrid", form), batch_of(0, 5)
    state = one.init(KEY)
    after, stats = one.update(state, batch._replace(mask=torch.zeros_like(batch.mask)))
    chex.assert_trees_all_equal(after.params.weights, state.params.weights)
    chex.assert_trees_all_equal(after.log_entropy_coef, state.log_entropy_coef)
    assert all(stats[name] == 0 for name in ("policy_loss", "q1_loss", "q2_loss"))
    assert "value_loss" not in stats


def test_what_the_critic_remembers_is_not_read():
    """Qs begin with nothing; so batches may come without."""
    one = learner("hybrid", built={"memory_size": M})
    batch, state = batch_of(0, 3, 4, memory_size=M), one.init(KEY)
    alone = batch._replace(memory=Memories(batch.memory.actor, ()))
    chex.assert_trees_all_equal(one.update(state, alone), one.update(state, batch))


def test_without_a_mask_of_what_follows_everything_is_allowed_then():
    one, batch = learner("discrete"), batch_of(0, 5, kind="discrete")
    state = one.init(KEY)
    everything = batch._replace(next_action_mask=torch.ones_like(batch.action_mask))
    unsaid = one.update(state, batch._replace(next_action_mask=()))
    chex.assert_trees_all_equal(one.update(state, everything), unsaid)
    assert not torch.equal(one.update(state, batch)[1]["q1_loss"], unsaid[1]["q1_loss"])


# --- the target ---------------------------------------------------------------------------------


@settings(max_examples=15)
@given(SEEDS, st.integers(1, 5), st.floats(0.01, 1.0))
def test_the_target_is_the_weighted_mean_of_all_critics_so_far(seed, updates, tau):
    one = learner("continuous", "random pair", tau=tau, learning_rate=0.01)
    state = one.init(random.key(seed))
    history = [state.params.weights]
    for k in range(updates):
        state, _ = one.update(state, batch_of(seed + k, 5, kind="continuous"))
        history.append(state.params.weights)
    assert set(state.target) == {name for name in history[0] if name.startswith("q")}
    for name, x in state.target.items():
        expected = (1 - tau) ** updates * history[0][name].double()
        for k, weights in enumerate(history[1:], start=1):
            expected = expected + tau * (1 - tau) ** (updates - k) * weights[name].double()
        torch.testing.assert_close(x.double(), expected, rtol=1e-4, atol=1e-6)


# --- values without a network -------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@given(seed=SEEDS)
def test_values_are_the_least_that_is_promised_for_the_likeliest_action(kind, seed):
    one, obs = learner(kind, "random pair", ("a", "b")), batch_of(seed, 3, kind=kind).obs
    state = disturbed(one.init(KEY), seed)
    found = one.values(state.params, obs)
    w, obs = examples.double((state.params.weights, obs))
    for n in range(3):
        row = tuple(x[n] for x in obs)
        (mean, _, logits), _ = plain_sac.policy(w, row, None)
        action = torch.zeros(0).double() if mean is None else torch.tanh(mean)
        for name in ("a", "b"):
            q = [plain_sac.judged(w, i, row, action, None)[0][name] for i in (1, 2, 3)]
            least = [min(numbers) for numbers in zip(*(x.tolist() for x in q))]
            expected = least[0]
            if logits is not None:
                likely = torch.cat([x.softmax(0) for x in logits.split((3, 2))]).tolist()
                expected = sum(p * x for p, x in zip(likely, least)) / 2
            assert found[name][n].item() == pytest.approx(expected, rel=1e-4, abs=1e-5)


@settings(max_examples=10)
@given(seed=SEEDS, at=st.integers(1, 4))
def test_values_of_a_trajectory_do_not_depend_on_where_it_is_cut(seed, at):
    """Its memory holds the policy's and every critic's, and goes on from step to step."""
    one = learner("hybrid", built={"memory_size": M})
    params = disturbed(one.init(KEY), seed).params
    memory = examples.normal(seed, 2, 3 * M)
    assert one.memories((2,)).critic.shape == memory.shape
    assert one.memories((2,)).actor.shape == (2, M)
    obs = batch_of(seed, 5, 2).obs
    following, done = batch_of(seed + 1, 2).obs, torch.zeros(2, dtype=torch.bool)

    def valued(memory, begin, end, following):
        seen = Trajectory(tree.take(obs, slice(begin, end)), memory, (), (), ())
        return one.trajectory_values(params, seen, following, done)

    whole = valued(memory, 0, 5, following)
    first = valued(memory, 0, at, tree.take(obs, at))
    second = valued(first.final_memory, at, 5, following)
    together = torch.cat([first.values["extrinsic"], second.values["extrinsic"]])
    torch.testing.assert_close(whole.values["extrinsic"], together, **CLOSE)
    torch.testing.assert_close(first.bootstrap["extrinsic"], together[at], **CLOSE)
    torch.testing.assert_close(whole.bootstrap, second.bootstrap, **CLOSE)
    torch.testing.assert_close(whole.final_memory, second.final_memory, **CLOSE)


def test_what_values_remember_is_the_policys_and_then_each_critics():
    one = learner("hybrid", built={"memory_size": M})
    params = disturbed(one.init(KEY), 1).params
    memory, obs = examples.normal(2, 1, 3 * M), batch_of(1, 1, 1).obs
    seen = Trajectory(obs, memory, (), (), ())
    valued = one.trajectory_values(
        params, seen, tree.take(obs, 0), torch.zeros(1, dtype=torch.bool)
    )
    w, row, memory = examples.double((params.weights, tuple(x[0, 0] for x in obs), memory))
    actor, *critics = memory[0].split(M)
    (mean, _, _), after = plain_sac.policy(w, row, actor)
    expected = [after]
    for i, own in enumerate(critics, start=1):
        expected.append(plain_sac.judged(w, i, row, torch.tanh(mean), own)[1])
    torch.testing.assert_close(valued.final_memory[0].double(), torch.cat(expected), **CLOSE)


# --- networks -----------------------------------------------------------------------------------


@given(SEEDS)
def test_layer_norm_is_torchs_before_each_activation_of_the_critics_alone(seed):
    network = network_of("continuous", critics=2, value_network=True, **NORMED)
    weights = {
        name: x + examples.normal(seed + i, *x.shape)
        for i, (name, x) in enumerate(network.init(KEY).items())
    }
    assert {name.partition(".")[0] for name in weights if "norms" in name} == {"q1", "q2"}
    batch = batch_of(seed, 4, kind="continuous")
    for i in range(2):
        x = torch.cat([*batch.obs, batch.action.continuous], -1)
        for layer in range(2):
            body = f"q{i + 1}.body"
            x = x @ weights[f"{body}.layers.{layer}.weight"].T
            x = x + weights[f"{body}.layers.{layer}.bias"]
            scales = (weights[f"{body}.norms.{layer}.{part}"] for part in ("weight", "bias"))
            x = torch.nn.functional.silu(torch.nn.functional.layer_norm(x, (8,), *scales))
        head = f"q{i + 1}.head.heads.extrinsic"
        expected = x @ weights[f"{head}.weight"].T + weights[f"{head}.bias"]
        found = network.action_values(i, weights, batch.obs, batch.action.continuous, None)
        torch.testing.assert_close(found["extrinsic"], expected, **CLOSE)


def test_a_network_begins_the_same_whichever_others_there_are():
    plain = network_of("hybrid", value_network=True).init(KEY)
    later = network_of("hybrid", critics=3, layer_norm=True).init(KEY)
    assert plain.keys() - later.keys() == {name for name in plain if name.startswith("value.")}
    for name in plain.keys() & later.keys():
        assert torch.equal(plain[name], later[name]), name
    norms = {name: x for name, x in later.items() if "norms" in name}
    assert len(norms) == 2 * 3
    for name, x in norms.items():
        assert (x == (1.0 if name.endswith("weight") else 0.0)).all(), name


# --- ensembles and repetition -------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_members_with_hyperparameters_of_their_own_are_as_if_alone(form):
    one = learner("hybrid", form, learning_rate=1e-2, transform=None, built=NORMED)
    states = []
    for k, (tau, rate, aim) in enumerate([(0.01, 1e-2, -1.0), (0.5, 1e-3, 3.0), (1.0, 0.1, 0.5)]):
        state = one.init(random.key(k))
        hyper = state.hyper._replace(
            learning_rate=tree.map(lambda x, rate=rate: x * 0 + rate, state.hyper.learning_rate),
            tau=torch.tensor(tau),
            target_entropy=tree.map(lambda x, aim=aim: x + aim, state.hyper.target_entropy),
        )
        states.append(state._replace(hyper=hyper))
    batches = [batch_of(100 * k, 6) for k in range(3)]
    many, stats = lift.ensemble(one).update(tree.stack(states), tree.stack(batches))
    alone = [one.update(*pair) for pair in zip(states, batches)]
    chex.assert_trees_all_close((many, stats), tree.stack(alone), rtol=1e-4, atol=1e-5)


@pytest.mark.thorough
def test_a_compiled_ensemble_is_the_same_ensemble():
    one = learner("continuous", "random pair", built={"layer_norm": True})
    many = lift.ensemble(one)
    state = many.init(random.split(KEY, 2))
    batch = tree.stack([batch_of(100 * k, 4, kind="continuous") for k in range(2)])
    fast = torch.compile(many.update, backend="aot_eager", fullgraph=True, dynamic=False)
    for _ in range(2):
        expected = many.update(state, batch)
        chex.assert_trees_all_close(fast(state, batch), expected, rtol=1e-4, atol=1e-5)
        state, _ = expected


def test_updates_on_parts_of_a_whole_are_updates_one_by_one():
    one, whole = learner("hybrid", "random pair", transform=None, built=NORMED), batch_of(5, 12)
    state = looped = one.init(KEY)
    orders = random.permutation(random.key(1), 12).reshape(4, 3)
    step = on_rows(one.update)
    for rows in orders.unbind():
        looped, stats = step(looped, whole, rows)
        state, expected = one.update(state, tree.map(lambda x, rows=rows: x[rows], whole))
        chex.assert_trees_all_equal((looped, stats), (state, expected))


# --- refusals -----------------------------------------------------------------------------------


BAD = {
    "with values": (True, 2, ValueError, r"`target_critics` must be None where a value network"),
    "none": (False, 0, ValueError, r"`target_critics` must lie in \[1, inf\), got 0"),
    "too many": (False, 3, ValueError, r"`target_critics` must lie in \[1, 2\], got 3"),
    "fraction": (False, 1.5, TypeError, r"`target_critics` must be an integer, got 1.5"),
}


@pytest.mark.parametrize("name", BAD)
def test_numbers_of_critics_that_cannot_be_drawn_are_refused(name):
    value_network, number, error, message = BAD[name]
    network = network_of("hybrid", value_network=value_network)
    with pytest.raises(error, match=message):
        sac(network, spec_of("hybrid"), target_critics=number)


def test_batches_of_another_form_are_refused_by_name():
    one, batch = learner(), batch_of(0, 5)
    state = one.init(KEY)
    with pytest.raises(TypeError, match=r"`next_action_mask` must have dtype torch.bool"):
        one.update(state, batch._replace(next_action_mask=batch.next_action_mask.float()))
    with pytest.raises(ValueError, match=r"`next_action_mask` must have shape \[5, 5\], got \[5"):
        one.update(state, batch._replace(next_action_mask=batch.next_action_mask[:, :2]))
    with pytest.raises(ValueError, match=r"`discounts` must have the streams of the network"):
        one.update(state, batch._replace(discounts={}))
    remembering = learner(built={"memory_size": M})
    batch = batch_of(0, 3, 4, memory_size=M)
    for memory in ((), Memories((), batch.memory.critic)):
        with pytest.raises(ValueError, match="`memory` must be given to a learner that remembers"):
            remembering.update(remembering.init(KEY), batch._replace(memory=memory))


@pytest.mark.parametrize("value_network", [True, False])
def test_initialization_gives_each_part_of_every_network_its_own_initializer(value_network):
    numbers = networks.Initialization(*(networks.constant(x) for x in (1.0, 2.0, 3.0)))
    network = network_of("hybrid", value_network=value_network, initialization=numbers)
    found = set()
    for name, w in network.init(random.key(0)).items():
        if name.endswith("weight"):
            owner, part = name.split(".")[:2]
            expected = 1.0 if part == "body" else 2.0 if owner == "actor" else 3.0
            assert (w == expected).all(), name
            found.add((owner, part))
    owners = {"actor", "q1", "q2"} | ({"value"} if value_network else set())
    assert found == {(owner, part) for owner in owners for part in ("body", "head")}


def test_weights_begin_as_those_of_ml_agents_do():
    weights = network_of("hybrid", hidden_units=256).init(random.key(0))
    gains = {"actor.head.mean": 0.2, "actor.head.log_std": 0.2, "actor.head.logits": 0.1,
             "actor.body.layers.0": 1.0, "q1.body.layers.0": 1.0}  # fmt: skip
    for name, gain in gains.items():
        w = weights[f"{name}.weight"]
        assert float(w.std()) * math.sqrt(w.shape[1]) == pytest.approx(gain, rel=0.2), name
    w = weights["q1.head.heads.extrinsic.weight"]
    bound = math.sqrt(6 / sum(w.shape))
    assert 0.95 * bound < float(w.abs().max()) <= bound
