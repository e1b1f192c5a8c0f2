"""Laws of optinfra.agents, against a plain dict of memories."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from optinfra import tree
from optinfra.agents import AgentMemories

ONE = {"hidden": torch.ones(3), "steps": (torch.tensor(7),)}  # contents are not read
NOTHING = ([0.0, 0.0, 0.0], 0)
IDS = [0, 1, 2, -1, "a", "b", "1"]  # 1 and "1" are two agents
NUMBERS = st.one_of(st.floats(width=32, allow_nan=False), st.just(-0.0))
MEMORY = st.tuples(st.lists(NUMBERS, min_size=3, max_size=3), st.integers(-9, 9))
SOME = st.lists(st.sampled_from(IDS), max_size=5)
WRITTEN = st.dictionaries(st.sampled_from(IDS), MEMORY, max_size=5)


def values(rows):
    """A pytree `[K, …]` of memories given as Python numbers."""
    hidden = torch.tensor([hidden for hidden, _ in rows], dtype=torch.float32).reshape(-1, 3)
    return {"hidden": hidden, "steps": (torch.tensor([n for _, n in rows], dtype=torch.int64),)}


def read(memories, ids):
    """The opposite of `values`; text tells −0 from 0."""
    out = memories.read(ids)
    return [repr(row) for row in zip(out["hidden"].tolist(), out["steps"][0].tolist())]


def stored(memories):
    """Rows that memory is taken for, whether or not a view shows them."""
    return memories._memories["hidden"].untyped_storage().nbytes() // (3 * 4)


class AgainstADict(RuleBasedStateMachine):
    """Whatever happens, in any order: every id reads as in a dict, or as zeros."""

    @initialize()
    def begin(self):
        self.memories, self.model = AgentMemories(ONE), {}

    @rule(written=WRITTEN)
    def write(self, written):
        self.memories.write(list(written), values(list(written.values())))
        self.model |= written

    @rule(ids=SOME)
    def forget(self, ids):
        self.memories.forget(ids)
        self.model = {i: m for i, m in self.model.items() if i not in ids}

    @rule(ids=SOME)
    def keep_only(self, ids):
        self.memories.keep_only(ids)
        self.model = {i: m for i, m in self.model.items() if i in ids}

    @rule(agent=st.sampled_from(IDS), memory=MEMORY)
    def fail_to_write(self, agent, memory):
        with pytest.raises(ValueError, match="`ids` must name each agent once"):
            self.memories.write([agent, "new", agent], values([memory] * 3))
        with pytest.raises(ValueError, match="`values` must have shape"):
            self.memories.write([agent, "new"], values([memory]))

    @rule()
    def save_and_go_on_from_there(self):
        ids = self.memories.ids
        kept = self.memories.read(ids)
        self.memories = AgentMemories(ONE)
        self.memories.write(ids, kept)

    @invariant()
    def each_agent_reads_what_was_written_for_it(self):
        ids = [*IDS, "never seen"]
        expected = [self.model.get(i, NOTHING) for i in ids]
        assert read(self.memories, ids) == [repr((list(h), n)) for h, n in expected]

    @invariant()
    def memory_follows_the_living(self):
        assert self.memories.ids == tuple(self.model) and len(self.memories) == len(self.model)
        assert stored(self.memories) == 1 + len(self.model)


TestAgainstADict = AgainstADict.TestCase


@given(st.lists(st.tuples(WRITTEN, SOME), max_size=6), st.sampled_from(IDS))
def test_what_an_agent_leaves_behind_does_not_depend_on_the_others(history, agent):
    """The same history with and without everybody else."""
    among, alone = AgentMemories(ONE), AgentMemories(ONE)
    for written, ended in history:
        among.write(list(written), values(list(written.values())))
        if agent in written:
            alone.write([agent], values([written[agent]]))
        among.forget(ended)
        if agent in ended:
            alone.forget([agent])
        assert read(among, [agent]) == read(alone, [agent])


@given(WRITTEN.filter(bool), st.randoms(use_true_random=False))
def test_the_order_of_agents_does_not_matter(written, random):
    ids = list(written)
    shuffled = random.sample(ids, len(ids))
    first, second = AgentMemories(ONE), AgentMemories(ONE)
    first.write(ids, values([written[i] for i in ids]))
    second.write(shuffled, values([written[i] for i in shuffled]))
    assert read(first, IDS) == read(second, IDS)


def test_ten_thousand_agents_that_came_and_went_leave_nothing():
    memories, most = AgentMemories(ONE), 0
    for agent in range(10_000):
        memories.write([f"agent-{agent}"], values([([1.0, 2.0, 3.0], agent)]))
        memories.forget([f"agent-{agent - 3}"])
        most = max(most, stored(memories))
    assert len(memories) == 3 and stored(memories) == 4 and most == 4
    memories.keep_only([])
    assert stored(memories) == 1 and memories.ids == ()


def test_a_returning_agent_begins_from_zeros():
    memories = AgentMemories(ONE)
    memories.write(["a", "b"], values([([math.nan] * 3, 1), ([math.inf] * 3, 2)]))
    memories.forget(["a"])
    assert read(memories, ["a"]) == [repr(NOTHING)]
    memories.write(["c"], values([([5.0] * 3, 5)]))
    assert read(memories, ["a", "b", "c"]) == [
        repr(NOTHING), repr(([math.inf] * 3, 2)), repr(([5.0] * 3, 5)),
    ]  # fmt: skip


def test_nothing_is_shared_with_the_caller():
    memories, given = AgentMemories(ONE), values([([1.0] * 3, 1), ([2.0] * 3, 2)])
    memories.write(["a", "b"], given)
    for x in (*tree.leaves(given), *tree.leaves(memories.read(["a", "b", "c"]))):
        x.fill_(9)
    assert read(memories, ["a", "b", "c"]) == [
        repr(([1.0] * 3, 1)), repr(([2.0] * 3, 2)), repr(NOTHING),
    ]  # fmt: skip


def test_no_graph_is_kept():
    memories, weights = AgentMemories(torch.zeros(2)), torch.ones(1, 2, requires_grad=True)
    memories.write(["a"], weights * 2.0)
    assert not memories.read(["a"]).requires_grad and not memories._memories.requires_grad


def test_a_policy_without_memory_has_agents_all_the_same():
    memories = AgentMemories(())
    memories.write(["a", "b"], ())
    memories.forget(["a"])
    assert memories.read(["b", "c"]) == () and memories.ids == ("b",)


def test_ids_of_numpy_are_those_of_python():
    memories = AgentMemories(ONE)
    memories.write(np.array([3, 4], np.int32), values([([1.0] * 3, 1), ([2.0] * 3, 2)]))
    assert memories.ids == (3, 4) and all(type(i) is int for i in memories.ids)
    memories.forget(np.array([3]))
    assert read(memories, [4]) == [repr(([2.0] * 3, 2))]


@pytest.mark.parametrize(
    ("ids", "message"),
    [("agent", r"`ids` must be a sequence of ids, got the string 'agent'\."),
     (torch.tensor([1]), r"`ids` must hold integers and strings, got tensor\(1\) of type Tensor\."),
     ([1.0], r"`ids` must hold integers and strings, got 1\.0 of type float\.")],
)  # fmt: skip
@pytest.mark.parametrize("call", ["read", "forget", "keep_only"])
def test_what_is_no_id_is_refused(call, ids, message):
    with pytest.raises(TypeError, match=message):
        getattr(AgentMemories(ONE), call)(ids)


def test_an_agent_named_twice_in_one_writing_is_refused():
    with pytest.raises(ValueError, match=r"`ids` must name each agent once, got 'a' 2 times\."):
        AgentMemories(ONE).write(["a", "b", "a"], values([([1.0] * 3, 1)] * 3))
    with pytest.raises(ValueError, match=r"got 5 2 times"):
        AgentMemories(ONE).write([5, np.int64(5)], values([([1.0] * 3, 1)] * 2))


def test_memories_live_where_the_memory_of_one_does():
    """The device `meta` computes nothing, but tells where."""
    memories = AgentMemories(torch.zeros(3, device="meta"))
    memories.write(["a", "b"], torch.zeros(2, 3, device="meta"))
    memories.forget(["a"])
    assert memories.read(["b", "c"]).device.type == "meta"
