"""Replay as Python lists, and transitions that tell which ones they are."""

from typing import NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from optinfra import random, tree
from optinfra.replay import Sequences
from optinfra.types import Action, Memories, Transitions

READ_IN_PARTS = {"index_select", "gather", "index"}  # what they are given is not read as a whole


class Row(NamedTuple):
    """One transition of one lane."""

    content: Transitions  # […] each
    memory: Memories  # [M] each
    cut: bool  # the next row of the lane does not follow this one


class PlainReplay:
    """What `ReplayStore` and sampling do, by loops over lists."""

    def __init__(self, slots, lanes, memory):
        self.slots, self.lanes, self.empty_memory = slots, lanes, memory
        self.steps = []  # of rows by lane, the oldest first

    def add(self, rollout, memory=None):
        steps, lanes = rollout.mask.shape
        for t in range(steps):
            at = lambda x, b, t=t: tree.map(lambda leaf: leaf[t, b], x)
            remembered = [at(memory, b) if memory else self.empty_memory for b in range(lanes)]
            contents = [at(rollout, b) for b in range(lanes)]
            self.step([Row(x, m, ends(x)) for x, m in zip(contents, remembered)])

    def step(self, rows):
        self.steps = [*self.steps, rows][-self.slots :]

    def cut(self):
        if self.steps:
            self.steps[-1] = [row._replace(cut=True) for row in self.steps[-1]]

    def add_stream(self, stream):
        rows = [tree.map(lambda x, i=i: x[i], stream) for i in range(len(stream.mask))]
        rows = rows[-self.slots * self.lanes :]
        steps = (len(rows) + self.lanes - 1) // self.lanes
        blank = tree.map(torch.zeros_like, rows[0])
        self.cut()
        for t in range(steps):
            numbers = [lane * steps + t for lane in range(self.lanes)]
            self.step([self.of_stream(rows, n, blank) for n in numbers])
        self.cut()

    def of_stream(self, rows, n, blank):
        if n >= len(rows):
            return Row(blank, self.empty_memory, True)
        last = n + 1 == len(rows)
        followed = not last and all(
            torch.equal(x, y) for x, y in zip(rows[n].next_obs, rows[n + 1].obs)
        )
        return Row(rows[n], self.empty_memory, ends(rows[n]) or not followed)

    def places(self):
        """Step and lane of every row that counts, the oldest first."""
        return [
            (t, b)
            for t, rows in enumerate(self.steps)
            for b, row in enumerate(rows)
            if row.content.mask
        ]

    def drawn(self, key, number):
        places = self.places()
        return [places[k] for k in random.randint(key, (number,), 0, len(places)).tolist()]

    def sample(self, key, number):
        return tree.stack([self.steps[t][b].content for t, b in self.drawn(key, number)])

    def sample_sequences(self, key, number, length):
        return tree.stack([self.sequence(t, b, length) for t, b in self.drawn(key, number)])

    def sequence(self, t, b, length):
        piece = [rows[b] for rows in self.steps[t : t + length]]
        blank = tree.map(torch.zeros_like, piece[0].content)
        resets = [False, *(row.cut for row in piece[: length - 1])]
        contents = [row.content if row.content.mask else blank for row in piece]
        contents += [blank] * (length - len(piece))
        resets = resets[: len(piece)] + [False] * (length - len(piece))
        return Sequences(tree.stack(contents), piece[0].memory, torch.tensor(resets))


def ends(content):
    return bool(content.terminated | content.truncated | ~content.mask)


def assert_same(actual, expected):
    assert tree.structure(actual) == tree.structure(expected)
    for (name, x), y in zip(tree.named_leaves(actual).items(), tree.leaves(expected)):
        assert x.dtype == y.dtype and torch.equal(x, y), name


def transitions(seed, *rows, ends=0.2, masked=0.2):
    """Transitions `[*rows]` of kinds that stores have to keep apart; `rewards` number them."""
    generator = torch.Generator().manual_seed(seed)
    size = torch.Size(rows).numel()
    number = (1000 * seed + torch.arange(size)).reshape(rows)
    chance = lambda p: torch.rand(rows, generator=generator) < p
    image = torch.randint(256, (2, *rows, 2, 2), generator=generator).to(torch.uint8)
    vector = torch.randn(2, *rows, 3, generator=generator)
    return Transitions(
        obs=(vector[0], image[0]),
        next_obs=(vector[1], image[1]),
        action=Action(torch.randn(*rows, 2, generator=generator), torch.empty(*rows, 0).long()),
        rewards=number.double(),
        terminated=chance(ends),
        truncated=chance(ends),
        mask=~chance(masked),
        action_mask=chance(0.5)[..., None],
    )


def stream(seed, rows, follows=0.8):
    """Transitions `[N]`; each observation of most leads to what the next one saw."""
    made = transitions(seed, rows)
    generator = torch.Generator().manual_seed(seed + 1)
    chained = []
    for now, after in zip(made.obs, made.next_obs):
        hit = torch.rand((rows, *[1] * (now.ndim - 1)), generator=generator) < follows
        chained.append(torch.where(hit, now.roll(-1, 0), after))
    return made._replace(next_obs=tuple(chained))


def memories(seed, *rows):
    generator = torch.Generator().manual_seed(seed + 2)
    return Memories(*(torch.randn(*rows, width, generator=generator) for width in (3, 1)))


def one(made, axes=2):
    """What a store is made for."""
    return tree.map(lambda x: x[(0,) * axes], made)


class BytesTouched(TorchDispatchMode):
    """Counts the bytes that operations read and write; what only looks counts nothing."""

    def __init__(self):
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if not function.is_view and function.overloadpacket.__name__ != "lift_fresh":
            self.total += self.touched(function.overloadpacket.__name__, args, result)
        return result

    def touched(self, name, args, result):
        given = [x for x in tree.leaves(list(args)) if isinstance(x, torch.Tensor)]
        written = [x for x in tree.leaves([result]) if isinstance(x, torch.Tensor)]
        if name in READ_IN_PARTS:
            given = given[1:]
        if name in ("index_put_", "scatter_reduce_"):  # of the first, only what is put
            given, written = given[1:], []
        return sum(x.nbytes for x in (*given, *written))
