"""The store holds what lists hold, whatever is added; it touches what is added, and no more."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from optinfra import demos, random, replay, tree
from optinfra.store import ReplayStore
from optinfra.types import Action
from tests.plain_replay import (
    BytesTouched,
    PlainReplay,
    assert_same,
    memories,
    one,
    stream,
    transitions,
)

SEEDS = st.integers(0, 999)
SLOTS, LANES = 4, 2


class StoreAgainstLists(RuleBasedStateMachine):
    """Any order of additions, cuts, files and draws."""

    @initialize(slots=st.integers(1, 6), lanes=st.integers(1, 3), spare=st.integers(0, 2),
                remembers=st.booleans(), mapped=st.booleans())  # fmt: skip
    def begin(self, slots, lanes, spare, remembers, mapped):
        self.lanes, self.remembers = lanes, remembers
        memory = one(memories(0, 1, 1)) if remembers else ()
        files = {"ram_limit": 0, "folder": self.folder} if mapped else {}
        self.make = lambda: ReplayStore(
            one(transitions(0, 1, 1)),
            memory,
            capacity=slots * lanes + min(spare, lanes - 1),  # not a multiple of the lanes
            lanes=lanes,
            **files,
        )
        self.store = self.make()
        self.plain = PlainReplay(slots, lanes, tree.map(torch.zeros_like, memory))

    @rule(steps=st.integers(1, 9), seed=SEEDS, remembered=st.booleans())
    def add(self, steps, seed, remembered):
        made = transitions(seed, steps, self.lanes)
        memory = memories(seed, steps, self.lanes) if self.remembers and remembered else ()
        self.store.add(made, memory)
        self.plain.add(made, memory)

    @rule(rows=st.integers(1, 25), seed=SEEDS)
    def add_stream(self, rows, seed):
        made = stream(seed, rows)
        self.store.add(made)
        self.plain.add_stream(made)

    @rule()
    def cut(self):
        self.store.cut()
        self.plain.cut()

    @rule(seed=SEEDS, over=st.booleans())
    def save_and_load(self, seed, over):
        path = self.folder / "a.safetensors"
        self.store.save(path)
        self.store = self.make()
        if over:  # what another run left
            self.store.add(transitions(seed, 1 + seed % 9, self.lanes))
        self.store.load(path)

    @rule()
    def count(self):
        assert len(self.store) == len(self.plain.places())
        shown = self.store.view()
        assert shown.rows == len(self.store) and shown.steps == len(self.plain.steps)

    @precondition(lambda self: len(self.store))
    @rule(seed=SEEDS)
    def draw(self, seed):
        key = random.key(seed)
        assert_same(replay.sample(self.store.view(), key, 30), self.plain.sample(key, 30))

    @precondition(lambda self: len(self.store))
    @rule(seed=SEEDS, length=st.integers(1, 9))
    def draw_sequences(self, seed, length):
        key = random.key(seed)
        drawn = replay.sample_sequences(self.store.view(), key, 30, length)
        assert_same(drawn, self.plain.sample_sequences(key, 30, length))


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory):
    StoreAgainstLists.folder = tmp_path_factory.mktemp("stores")


TestStoreAgainstLists = StoreAgainstLists.TestCase
TestStoreAgainstLists.settings = settings(
    settings.get_profile("ci"),
    max_examples=60,
    stateful_step_count=20,
    suppress_health_check=list(HealthCheck),
)


def small(made=None, memory=(), **options):
    return ReplayStore(
        one(transitions(0, 1, 1) if made is None else made),
        one(memory) if memory else (),
        **({"capacity": SLOTS * LANES, "lanes": LANES} | options),
    )


@pytest.mark.parametrize("steps", [1, 3, 4, 5, 11])
def test_the_newest_steps_are_kept_of_rollouts_of_any_length(steps):
    made = transitions(1, steps, LANES, masked=0.0)
    store = small()
    store.add(transitions(2, 3, LANES))
    store.add(made)
    drawn = replay.sample(store.view(), random.key(0), 500).rewards.long().unique()
    newest = made.rewards.flatten().long()[-SLOTS * LANES :].tolist()
    assert set(newest) <= set(drawn.tolist())
    assert steps < SLOTS or set(newest) == set(drawn.tolist())


def test_rows_that_hold_no_transition_take_their_place_and_are_never_drawn():
    made = transitions(1, SLOTS, LANES)._replace(
        mask=torch.tensor([[True, False], [False, True], [True, True], [False, False]])
    )
    store = small()
    store.add(made)
    assert len(store) == 4
    drawn = replay.sample(store.view(), random.key(0), 200)
    assert set(drawn.rewards.long().tolist()) == set(made.rewards[made.mask].long().tolist())
    store.add(transitions(2, 2, LANES, masked=0.0))
    assert len(store) == 2 + 4, "two of the rows that counted were overwritten"


def test_kinds_stay_as_they_are_and_images_take_a_byte_a_pixel():
    made = transitions(1, 3, LANES)
    store = small(made)
    store.add(made)
    shown = store.view()
    for x, y in zip(tree.leaves(shown.transitions), tree.leaves(made)):
        assert x.dtype == y.dtype and x.is_contiguous()
        assert x.shape == (SLOTS, LANES, *y.shape[2:])
        assert torch.equal(x[:3], y)
    row = 2 * (3 * 4 + 4) + 2 * 4 + 8 + 3 + 1  # obs twice, action, reward, flags, action mask
    assert store.nbytes == (row + 1 + 4) * SLOTS * LANES, "a cut and a place in the order each"


def test_a_view_copies_nothing_and_shows_what_is_added_later():
    made = transitions(1, 3, LANES, masked=0.0)
    store = small(made, capacity=4000 * LANES)
    store.add(made)
    with BytesTouched() as count:
        shown = store.view()
    assert count.total < 100
    store.add(made._replace(rewards=made.rewards - 7))
    assert torch.equal(shown.transitions.rewards[3:6], made.rewards - 7)
    assert shown.steps == 3 and store.view().steps == 6


def touched_by_adding(slots, steps, before, add=ReplayStore.add):
    made = transitions(1, steps, LANES)
    store = small(made, capacity=slots * LANES)
    if before:
        store.add(transitions(2, before, LANES))
    with BytesTouched() as count:
        add(store, made)
    return count.total


@pytest.mark.parametrize(
    "add",
    [
        ReplayStore.add,
        lambda store, made: store.add(tree.map(lambda x: x.flatten(0, 1), made)),
    ],
    ids=["rollout", "stream"],
)
def test_adding_touches_what_is_added_and_no_more(add):
    little = touched_by_adding(100, 8, 0, add)
    assert touched_by_adding(10_000, 8, 0, add) == little, "however large the store is"
    over_more = touched_by_adding(10_000, 8, 9_000, add)
    assert 0 <= over_more - little < 16, "however much it holds, apart from a cut"
    wrapped = touched_by_adding(100, 8, 150, add)
    over_the_seam = touched_by_adding(100, 8, 95, add)
    for other in (wrapped, over_the_seam):  # old rows' flags are read, and pieces counted
        assert abs(other - little) <= 0.1 * little
    rows = sum(x.nbytes for x in tree.leaves(transitions(1, 8, LANES)))
    assert little <= 10 * rows
    assert 7 * little < touched_by_adding(100, 64, 0, add) < 9 * little


def test_a_cut_lets_nothing_follow_and_touches_one_step():
    made = transitions(1, 2, LANES, ends=0.0, masked=0.0)
    store = small(made, capacity=1000 * LANES)
    store.cut()  # of nothing
    store.add(made)
    with BytesTouched() as count:
        store.cut()
    assert count.total < 100
    store.add(made)
    drawn = replay.sample_sequences(store.view(), random.key(0), 100, 4)
    for number, reset in zip(drawn.transitions.rewards.long(), drawn.reset):
        first = int(number[0]) // LANES % 500 % 2  # at the first or the second step of a rollout
        begun = reset.nonzero()[:, 0].tolist()
        held = int((number > 0).sum()) if made.rewards.min() > 0 else 4
        assert begun in ([2 - first], []) and (begun or held <= 2)


def test_demonstrations_fill_the_store_episode_by_episode_though_they_interleave():
    """Two episodes, recorded in turn: no step of the one follows one of the other."""
    episode = torch.tensor([0, 1] * 5)
    number = torch.arange(10.0)
    ended = torch.tensor([False] * 8 + [True, True])
    pairs = demos.Demonstrations(
        obs=(number[:, None],),
        action=Action(number[:, None], torch.empty(10, 0).long()),
        action_mask=torch.empty(10, 0).bool(),
        rewards=number,
        episode=episode,
        terminated=ended,
        truncated=torch.zeros(10).bool(),
    )
    apart = tree.take(pairs, torch.tensor([0, 2, 4, 6, 8, 1, 3, 5, 7, 9]))
    for given_pairs, follows in ((pairs, False), (apart, True)):
        expert = demos.taken(given_pairs)
        store = ReplayStore(one(expert, 1), capacity=100, lanes=1)
        store.add(expert)
        assert len(store) == 8
        drawn = replay.sample_sequences(store.view(), random.key(1), 50, 4)
        seen, mask = drawn.transitions, drawn.transitions.mask
        chained = seen.next_obs[0][:, :-1, 0] == seen.obs[0][:, 1:, 0]
        inner = mask[:, 1:] & mask[:, :-1]
        # Terminated apart, whose next observation is a pair of its own.
        assert torch.equal(drawn.reset[:, 1:][inner], ~chained[inner])
        assert bool((chained & inner).any()) == follows


def test_a_stream_is_laid_out_in_lanes_of_consecutive_rows():
    made = stream(1, 7, follows=1.0)
    made = made._replace(
        mask=torch.ones(7).bool(), terminated=torch.zeros(7).bool(), truncated=torch.zeros(7).bool()
    )
    store = small(made=tree.map(lambda x: x[:, None], made), capacity=30, lanes=3)
    store.add(made)
    shown = store.view()
    number = (shown.transitions.rewards[:3].long() % 1000).tolist()
    assert number == [[0, 3, 6], [1, 4, 0], [2, 5, 0]]
    padding = [False, False, True]
    assert (~shown.transitions.mask[:3]).tolist() == [[False] * 3, padding, padding]
    assert shown.cuts[:3].tolist() == [padding, padding, [True] * 3]
    assert len(store) == 7


@pytest.mark.parametrize("rows", range(1, 11))
@pytest.mark.parametrize("lanes", [1, 2, 3, 4])
@pytest.mark.parametrize(("slots", "remembers"), [(2, False), (5, True), (8, False)])
def test_a_stream_between_rollouts_is_that_of_lists(rows, lanes, slots, remembers):
    seed = 10 * rows + lanes
    made, memory = transitions(seed, 3, lanes, ends=0.05), memories(seed, 3, lanes)
    made = made._replace(mask=made.mask | (torch.arange(3) == 1)[:, None])  # one at least
    store = ReplayStore(
        one(made), one(memory) if remembers else (), capacity=slots * lanes, lanes=lanes
    )
    plain = PlainReplay(slots, lanes, tree.map(torch.zeros_like, one(memory)) if remembers else ())
    for other in (store, plain):
        other.add(made, memory if remembers else ())
    store.add(stream(seed, rows))
    plain.add_stream(stream(seed, rows))
    for other in (store, plain):
        other.add(tree.take(made, slice(2)), tree.take(memory, slice(2)) if remembers else ())
    key = random.key(seed)
    drawn = replay.sample_sequences(store.view(), key, 60, 6)
    assert_same(drawn, plain.sample_sequences(key, 60, 6))


def test_of_a_stream_beyond_the_capacity_the_last_rows_are_kept():
    made = stream(1, 50)._replace(mask=torch.ones(50).bool())
    store = small()
    store.add(made)
    drawn = replay.sample(store.view(), random.key(0), 300).rewards.long().unique() % 1000
    assert drawn.tolist() == list(range(50 - SLOTS * LANES, 50))


def test_memories_not_given_are_zeros():
    made, memory = transitions(1, 3, LANES, masked=0.0), memories(1, 3, LANES)
    store = small(made, memory)
    store.add(made, memory)
    store.add(made)
    kept = replay.sample_sequences(store.view(), random.key(0), 200, 1)
    assert any(x.any() for x in tree.leaves(kept.memory))
    first = store.view().memory.actor
    assert torch.equal(first[2], memory.actor[2]) and not first[[0, 1, 3]].any()


def test_what_is_added_needs_no_graph_and_is_not_changed_later():
    made = transitions(1, 3, LANES)
    given = made._replace(rewards=made.rewards.clone().requires_grad_())
    store = small(made)
    store.add(given)
    made.obs[0].zero_()
    assert store.view().transitions.obs[0][:3].any()
    assert not any(x.requires_grad for x in tree.leaves(store.view()))
    replay.sample(store.view(), random.key(0), 3)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=5), SEEDS)
def test_rollouts_added_at_once_and_piece_by_piece_are_the_same(pieces, seed):
    made = transitions(seed, sum(pieces), LANES)
    at_once, by_piece = small(made), small(made)
    at_once.add(made)
    for piece in tree_split(made, pieces):
        by_piece.add(piece)
    if not len(at_once):
        return
    key = random.key(seed)
    draw = lambda store: replay.sample_sequences(store.view(), key, 8, 5)
    assert_same(draw(by_piece), draw(at_once))


def tree_split(made, pieces):
    begun = 0
    for size in pieces:
        yield tree.take(made, slice(begun, begun + size))
        begun += size
