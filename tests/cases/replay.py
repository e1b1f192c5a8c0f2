"""Contract cases of `optinfra.replay`: views of stores with a seam, two lanes, five slots."""

from functools import partial

import torch

from optinfra import replay, tree
from optinfra.store import ReplayStore
from tests import examples, plain_replay
from tests.contracts import Case

SLOTS, LANES = 5, 2


def view(k: int, added: int = 7) -> replay.View:
    made = plain_replay.transitions(k + 1, added, LANES)
    memory = plain_replay.memories(k + 1, added, LANES)
    store = ReplayStore(
        plain_replay.one(made),
        plain_replay.one(memory),
        capacity=SLOTS * LANES,
        lanes=LANES,
    )
    for t in range(added):
        store.add(*(tree.take(x, slice(t, t + 1)) for x in (made, memory)))
    return store.view()


def priorities(k: int) -> torch.Tensor:
    return examples.normal(k, 40 * SLOTS * LANES).abs()


def levels(k: int) -> replay.Levels:
    return replay.priority_sums(examples.normal(k, SLOTS * LANES).abs())


def prioritized(shown, sums, key, weight_exponent):
    return replay.sample_prioritized(shown, sums, key, 6, weight_exponent=weight_exponent)


CASES = {
    "sample": Case(partial(replay.sample, rows=6), lambda k: (view(k), examples.key(k))),
    "sample_sequences": Case(
        partial(replay.sample_sequences, count=3, length=4),
        lambda k: (view(k), examples.key(k)),
    ),
    "sample_prioritized": Case(
        prioritized, lambda k: (view(k), levels(k), examples.key(k), torch.tensor(0.4 + 0.1 * k))
    ),
    "priority_sums": Case(replay.priority_sums, lambda k: (priorities(k),)),
    "totals": Case(replay.totals, lambda k: (priorities(k),)),
}
