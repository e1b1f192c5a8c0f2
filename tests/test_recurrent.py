"""Layers that remember: LSTM and GRU against torch.nn's, step by step, cut anywhere."""

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch.func import functional_call, vmap

from optinfra import networks, tree
from optinfra.networks import fused
from optinfra.testing import assert_memory_isolated, assert_trees_close, assert_trees_equal
from tests import plain_recurrent as plain
from tests.plain_recurrent import normal
from tests.recurrent_layers import CLOSE, KINDS, LAYER, D, H, inputs, run, slopes, with_gradients

SEEDS = st.integers(0, 999)
KIND = st.sampled_from(list(KINDS))
ROWS = st.sampled_from([(), (1,), (3,), (2, 2)])
DTYPES = st.sampled_from([torch.float32, torch.float64])


# --- the same as torch.nn ----------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_parameters_have_the_names_and_shapes_of_torchs(kind):
    theirs = plain.LAYERS[kind](D, H).state_dict()
    ours = dict(LAYER[kind].named_parameters())
    assert {name: x.shape for name, x in ours.items()} == {
        name: x.shape for name, x in theirs.items()
    }
    assert all(x.is_meta for x in ours.values())


@given(KIND, SEEDS, st.integers(1, 6), st.integers(1, 3), DTYPES)
def test_weights_of_torchs_layer_load_and_give_its_outputs_and_gradients(
    kind, seed, steps, rows, dtype
):
    theirs = plain.LAYERS[kind](D, H, dtype=dtype)
    own = plain.weights(seed, kind, D, H, dtype)
    theirs.load_state_dict(own)
    x, memory, _ = inputs(seed, steps, (rows,), kind=kind, dtype=dtype)

    def call(own, x, memory):
        states = tuple(y.contiguous()[None] for y in memory.chunk(plain.STATES[kind], -1))
        state = states if kind == "lstm" else states[0]
        outputs, last = functional_call(theirs, own, (x, state))
        return outputs, torch.cat(last, -1)[0] if kind == "lstm" else last[0]

    ours = with_gradients(lambda *arguments: run(kind, *arguments), theirs.state_dict(), x, memory)
    assert_trees_close(ours, with_gradients(call, own, x, memory), **CLOSE)


@given(KIND, SEEDS, st.integers(1, 6), ROWS, DTYPES)
@example("lstm", 3, 1, (), torch.float32)
def test_a_sequence_with_resets_is_the_cells_step_by_step(kind, seed, steps, rows, dtype):
    own = plain.weights(seed, kind, D, H, dtype)
    x, memory, reset = inputs(seed, steps, rows, kind=kind, dtype=dtype)

    def by_cells(own, x, memory):
        outputs, memories = plain.unrolled_rows(kind, own, x, memory, reset)
        return outputs, memories[-1]

    ours = with_gradients(lambda *arguments: run(kind, *arguments, reset), own, x, memory)
    assert_trees_close(ours, with_gradients(by_cells, own, x, memory), **CLOSE)


@given(KIND, SEEDS, st.integers(1, 6), ROWS, st.booleans())
def test_every_memory_is_told_and_the_last_is_the_one_that_is_told_alone(
    kind, seed, steps, rows, resets
):
    own = tree.map(lambda x: x.requires_grad_(), plain.weights(seed, kind, D, H))
    x, memory, reset = inputs(seed, steps, rows, kind=kind)
    reset = reset if resets else torch.zeros_like(reset)
    outputs, memories = run(kind, own, x, memory, reset, every=True)
    assert not memories.requires_grad
    expected = plain.unrolled_rows(kind, own, x, memory, reset)
    assert_trees_close((outputs, memories), expected, **CLOSE)
    assert_trees_close((outputs, memories[-1]), run(kind, own, x, memory, reset), **CLOSE)


# --- resets, cuts and rows --------------------------------------------------------------------


@given(KIND, SEEDS, st.integers(1, 6), st.data())
def test_after_a_reset_not_a_bit_of_the_past_is_left(kind, seed, steps, data):
    own = plain.weights(seed, kind, D, H)
    x, memory, reset = inputs(seed, steps, (3,), kind=kind)
    at = data.draw(st.integers(0, steps - 1))
    reset[at] = True
    worst = data.draw(st.sampled_from([torch.nan, torch.inf, -3.0]))
    earlier = (torch.arange(steps) < at)[:, None, None]

    def later(outputs, last):
        return outputs[at:], last

    results = [
        with_gradients(
            lambda *arguments: later(*run(kind, *arguments, reset)), own, x_, memory_
        )
        for x_, memory_ in ((x, memory), (x, torch.full_like(memory, worst)))
    ]  # fmt: skip
    outputs, last = run(kind, own, torch.where(earlier, worst, x), memory, reset)
    assert_trees_equal(outputs[at:], results[0][0])
    if at == 0:  # the memory has no gradient either, whatever it holds
        assert_trees_equal(results[1], results[0])
        assert (results[1][2][1] == 0).all()
    assert_trees_equal(last, run(kind, own, x, memory, reset)[1])


@given(KIND, SEEDS, st.integers(2, 7), st.data())
def test_a_sequence_in_two_parts_is_the_sequence(kind, seed, steps, data):
    own = plain.weights(seed, kind, D, H)
    x, memory, reset = inputs(seed, steps, (2,), kind=kind)
    at = data.draw(st.integers(1, steps - 1))
    first, between = run(kind, own, x[:at], memory, reset[:at])
    second, last = run(kind, own, x[at:], between, reset[at:])
    whole = run(kind, own, x, memory, reset)
    assert_trees_close((torch.cat([first, second]), last), whole, rtol=0.0, atol=1e-6)


@given(KIND, SEEDS, st.integers(1, 4), st.booleans())
def test_a_row_is_computed_as_if_it_were_alone(kind, seed, steps, every):
    own = plain.weights(seed, kind, D, H)
    x, memory, reset = inputs(seed, steps, (2,), kind=kind)
    reset[1:, 0] |= reset[1:, 1]
    both = with_gradients(lambda *arguments: run(kind, *arguments, reset), own, x, memory)
    other = [torch.cat([y[..., :1, :], y[..., 1:, :] + 1], -2) for y in (x, memory)]
    changed = with_gradients(lambda *arguments: run(kind, *arguments, reset), own, *other)
    for y, z in zip((*both[:2], *both[2][:2]), (*changed[:2], *changed[2][:2])):
        assert_trees_equal(y[..., 0, :], z[..., 0, :])
    assert (both[0][..., 1, :] != changed[0][..., 1, :]).any()


@pytest.mark.parametrize("kind", KINDS)
def test_what_every_memory_is_told_of_is_no_business_of_other_rows(kind):
    """Resets included: the way of computing must not depend on another's."""
    own = plain.weights(0, kind, D, H)
    x, memory, reset = inputs(0, 5, (3,), kind=kind)
    assert_memory_isolated(
        lambda *arguments: run(kind, own, *arguments, every=True), x, memory, reset,
        in_dims=(1, 0, 1), out_dims=(1, 1),
    )  # fmt: skip


@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize("kind", KINDS)
def test_no_row_at_all_is_no_trouble(kind, steps):
    own = plain.weights(0, kind, D, H)
    outputs, last = run(kind, own, *inputs(0, steps, (2, 0), kind=kind))
    assert outputs.shape == (steps, 2, 0, H) and last.shape == (2, 0, plain.STATES[kind] * H)


# --- oneDNN ------------------------------------------------------------------------------------


def counted(monkeypatch):
    """How often oneDNN goes forwards and back from now on."""
    calls = {"run": 0, "back": 0}

    def counting(name, original):
        def call(*arguments):
            calls[name] += 1
            return original(*arguments)

        return call

    for name in calls:
        monkeypatch.setattr(fused, name, counting(name, getattr(fused, name)))
    return calls


def with_onednn_and_without(monkeypatch, call, *arguments):
    """What a call gives either way, and how often oneDNN was used for it."""
    with_gradients(call, *arguments)  # so that sizes of workspaces are known
    calls = counted(monkeypatch)
    by_onednn = with_gradients(call, *arguments)
    used = tuple(calls.values())
    monkeypatch.setattr(fused, "has_onednn", lambda: False)
    looped = with_gradients(call, *arguments)
    assert tuple(calls.values()) == used
    return by_onednn, looped, used


@pytest.mark.parametrize("rows", [(), (3,), (2, 2)])
@pytest.mark.parametrize("hidden", [1, 4, 33])
def test_onednn_and_the_loop_agree_and_onednn_is_used(rows, hidden, monkeypatch):
    layer, own = networks.LSTM(D, hidden), plain.weights(0, "lstm", D, hidden)
    x, memory = normal(1, 5, *rows, D), normal(2, *rows, 2 * hidden)
    reset = torch.zeros(5, *rows, dtype=torch.bool)
    reset[0] = normal(3, *rows) > 0  # at the first step: no matter for oneDNN
    for flags in (None, reset):

        def call(own, x, memory, flags=flags):
            return functional_call(layer, own, (x, memory, flags))

        with monkeypatch.context() as patch:
            by_onednn, looped, used = with_onednn_and_without(patch, call, own, x, memory)
        assert used == (1, 1)
        assert_trees_close(by_onednn, looped, **CLOSE)


@given(
    SEEDS, st.sampled_from([1, 4, 33]), st.integers(2, 7), ROWS, st.sampled_from([0.0, 0.5, 2.0])
)
def test_onednn_and_the_loop_agree_where_steps_are_reset(seed, hidden, steps, rows, above):
    layer, own = networks.LSTM(D, hidden), plain.weights(0, "lstm", D, hidden)
    x, memory = normal(seed, steps, *rows, D), normal(seed + 1, *rows, 2 * hidden)
    reset = normal(seed + 2, steps, *rows) > above
    reset[steps // 2] = True
    with pytest.MonkeyPatch.context() as patch:
        by_onednn, looped, used = with_onednn_and_without(
            patch, lambda own, *given: functional_call(layer, own, (*given, reset)),
            own, x, memory,
        )  # fmt: skip
    worth = fused.packed(reset.reshape(steps, -1)) is not None
    assert used == ((2, 1) if worth else (0, 0))  # once more to find its way back
    assert_trees_close(by_onednn, looped, **CLOSE)


def test_where_resets_would_make_too_much_work_of_it_the_loop_runs(monkeypatch):
    """One row is never reset, the others always: so many long rows would be nearly empty."""
    reset = torch.ones(12, 8, dtype=torch.bool)
    reset[:, 0] = False
    assert fused.packed(reset) is None
    own, (x, memory, _) = plain.weights(0, "lstm", D, H), inputs(0, 12, (8,))
    run("lstm", own, x, memory, reset)  # so that sizes of workspaces are known
    calls = counted(monkeypatch)
    ours = run("lstm", own, x, memory, reset)
    assert calls == {"run": 0, "back": 0}
    expected = plain.unrolled_rows("lstm", own, x, memory, reset)
    assert_trees_close(ours, (expected[0], expected[1][-1]), **CLOSE)
    assert fused.packed(torch.ones_like(reset)) is not None  # rows of one step are no waste


def test_a_reset_within_a_row_changes_nothing_for_the_others():
    own = plain.weights(0, "lstm", D, H)
    x, memory, reset = inputs(0, 5, (3,))
    none = torch.zeros_like(reset)
    last = none.clone()
    last[-1, 2] = True

    def call(reset):
        return with_gradients(
            lambda own, x, memory: [y[..., :2, :] for y in run("lstm", own, x, memory, reset)],
            own, x, memory,
        )  # fmt: skip

    assert_trees_close(call(none), call(last), **CLOSE)


def laid_out(seed, steps, rows):
    """Sequences of large weights, and how they are laid out with a reset in the midst of some."""
    own = tree.map(lambda x: 5 * x, plain.weights(seed, "lstm", D, H))
    x, memory, _ = inputs(seed, steps, (rows,))
    reset = torch.zeros(steps, rows, dtype=torch.bool)
    reset[1 + seed % (steps - 1), 1] = reset[-1, 2] = True
    h, c = (part.contiguous() for part in memory.chunk(2, -1))
    layout = fused.packed(reset)
    return fused.Sequences(x, h, c, tuple(own.values())), reset, layout


@given(SEEDS)
def test_rows_that_begin_after_a_reset_are_zeros_to_the_last_bit_until_then(seed):
    given, _, layout = laid_out(seed, 7, 3)
    outputs = fused.run(fused.pack(given, layout)).outputs
    taken = torch.zeros(layout.steps * layout.rows).index_fill(0, layout.place, 1.0) > 0
    before = ~taken.view(layout.steps, layout.rows)
    before[:, :3] = False  # rows that start from a memory come first, and have no such steps
    assert before.any() and (outputs[before] == 0).all()


@given(SEEDS)
def test_a_reset_at_the_first_step_makes_no_row_of_its_own(seed):
    _, reset, layout = laid_out(seed, 7, 3)
    reset[0] = ~reset[0]
    assert_trees_equal(fused.packed(reset), layout)


@pytest.mark.parametrize("resets", [False, True])
def test_a_workspace_without_room_for_the_loops_numbers_is_not_used(resets, monkeypatch):
    own, (x, memory, reset) = plain.weights(0, "lstm", D, H), inputs(0, 5, (3,))
    reset = reset if resets else None
    expected = run("lstm", own, x, memory, reset)
    calls = counted(monkeypatch)
    monkeypatch.setattr(fused, "workspace_size", lambda *sizes: 5 * 3 * H)
    assert_trees_close(run("lstm", own, x, memory, reset), expected, **CLOSE)
    assert calls == {"run": 0, "back": 0}


def test_members_are_laid_out_each_by_its_own_resets():
    """Also where the first member has none."""
    own = plain.weights(0, "lstm", D, H, members=(3,))
    x, memory, reset = inputs(0, 5, (2,), members=(3,))
    reset[0] = False

    def call(own, x, memory):
        return vmap(lambda *each: run("lstm", *each))(own, x, memory, reset)

    def looped(own, x, memory):
        each = [run("lstm", *tree.take((own, x, memory, reset), k)) for k in range(3)]
        return tree.stack(each)

    ours, theirs = (with_gradients(function, own, x, memory) for function in (call, looped))
    assert_trees_close(ours, theirs, **CLOSE)
    expected = [
        plain.unrolled_rows("lstm", *tree.take((own, x, memory, reset), k))[0] for k in range(3)
    ]
    assert_trees_close(ours[0], torch.stack(expected), **CLOSE)


def test_onednn_is_asked_for_its_kind_of_numbers_whatever_others_are_made_of():
    own, (x, memory, _) = plain.weights(0, "lstm", D, H), inputs(0, 9, (5,))
    fused.workspace_size.cache_clear()
    torch.set_default_dtype(torch.float64)
    try:
        outputs, _ = run("lstm", own, x, memory)
    finally:
        torch.set_default_dtype(torch.float32)
    assert_trees_close(outputs, run("lstm", own, x, memory)[0], rtol=0.0, atol=0.0)


# --- what it refuses -----------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 3])
def test_arguments_of_the_wrong_kind_are_named(steps):
    own, (x, memory, reset) = plain.weights(0, "lstm", D, H), inputs(0, steps, (2,))
    for wrong, error, message in [
        ((x[..., :2], memory, reset), ValueError, r"`x` must have shape \[\*B, 3\]"),
        ((x, memory[:, :6], reset), ValueError, r"`memory` must .*\[\*B, M\] = \[2, 8\]"),
        ((x, memory[:1], reset), ValueError, r"`memory` must have shape .*\[2, 8\], got \[1, 8\]"),
        ((x, memory, reset[:, :1]), ValueError, rf"`reset` must .*\[S, \*B\] = \[{steps}, 2\]"),
        ((x, memory, reset.float()), TypeError, "`reset` must have dtype torch.bool"),
    ]:  # fmt: skip
        with pytest.raises(error, match=message):
            run("lstm", own, *wrong)


def test_gradients_reach_the_parameters_of_the_module_itself():
    layer = networks.LSTM(D, H).to_empty(device="cpu")
    layer.load_state_dict(plain.weights(0, "lstm", D, H))
    x, memory, reset = inputs(0, 4, (2,))
    slopes(*layer(x, memory, reset)).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in layer.parameters())
