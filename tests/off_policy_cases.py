"""Small loops that learn from replay, what they draw from, and what they do, by hand."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from optinfra import networks, random, replay, rollout, tree
from optinfra.learners import SACBatch, sac
from optinfra.off_policy import off_policy
from optinfra.replay import Sequences
from optinfra.signals import extrinsic
from optinfra.store import ReplayStore
from optinfra.types import Memories, Signal, Transitions
from tests import examples

SPEC, M = examples.SPEC, 6
STREAMS = ("extrinsic", "it")
RATES = {"learning_rate": 1e-2, "tau": 0.1}
SLOTS, LANES = 5, 2
KEY = random.key(3)


# --- a signal that learns, and may fail -------------------------------------------------------


class Taste(NamedTuple):
    """State of a signal that rewards what it likes to see, and comes to like what it sees."""

    strength: Tensor
    gamma: Tensor
    weights: Tensor  # [3]
    spoil: Tensor  # [], added to the rewards
    drift: Tensor  # [], added to the weights that it learns
    key: Tensor


def taste(raises=(), calls=None, limit=math.inf) -> Signal:
    """Make it raise in the functions that are named; above the limit of o₀₀ its rewards are NaN.

    Of each call `calls` is told the name of the function, the state and the batch.
    """

    def tell(*call):
        if calls is not None:
            calls.append(call)
        if call[0] in raises:
            raise LookupError("no such taste")

    def init(key):
        strength, gamma, spoil, drift = torch.tensor([0.5, 0.9, 0, 0], dtype=torch.float32)
        return Taste(strength, gamma, random.normal(key, (3,)), spoil, drift, key)

    def evaluate(state, batch):
        tell("evaluate", state, batch)
        liked = (batch.obs[0] @ state.weights).square() + state.spoil
        return torch.where(batch.obs[0][..., 0] > limit, math.nan, liked)

    def update(state, batch):
        tell("update", state, batch)
        key, draw = random.split(state.key).unbind()
        pull = torch.where(batch.mask[..., None], batch.obs[0], 0.0).flatten(0, -2).sum(0)
        weights = state.weights + 0.01 * (random.normal(draw, (3,)) + pull) + state.drift
        stats = {"loss": pull.sum(), "it_weight": weights.sum()}
        return state._replace(weights=weights, key=key), stats

    return Signal(init, evaluate, update)


def catching(name, function, otherwise):
    def call(*arguments):
        try:
            return function(*arguments)
        except LookupError:
            return otherwise(*arguments)

    return call


# --- loops ------------------------------------------------------------------------------------

LEARNER = examples.soft_learner(streams=STREAMS, **RATES)
REMEMBERING = examples.soft_learner(streams=STREAMS, memory_size=M, **RATES)
PLAIN = examples.soft_learner(streams=STREAMS, memory_size=M, normalize=False)
# A critic without a network of its own remembers what the policy and both Qs do.
NETWORK = networks.soft_actor_critic(
    SPEC, STREAMS, value_network=False, memory_size=M, hidden_units=8, num_layers=1
)
WITHOUT_VALUES = sac(NETWORK, SPEC)


def composed(learner=LEARNER, signals=None, **options):
    """A loop of two streams, one of which learns; four rows a minibatch."""
    signals = signals or {"extrinsic": extrinsic(strength=2.0, gamma=0.8), "it": taste()}
    return off_policy(learner, signals, **({"batch_size": 4} | options))


def remembering(learner=REMEMBERING, agents=LANES, **options):
    return composed(learner, num_agents=agents, **({"sequence_length": 3} | options))


def recording(seen, learner=LEARNER):
    """A learner that keeps its batches and learns nothing."""

    def update(state, batch):
        seen.append(batch)
        return state, {"nothing": torch.zeros(())}

    return learner._replace(update=update)


# --- what replay holds --------------------------------------------------------------------------


def steps(seed: int, *rows: int) -> Transitions:
    """Transitions `[*rows]` with choices of which some are forbidden; a quarter are none."""
    made = examples.rollout(seed, *rows)
    allowed = examples.normal(seed + 95, *rows, SPEC.action.choices) > -1.0
    return rollout.transitions(made._replace(action_mask=allowed))


def memories(seed: int, *rows: int) -> Memories:
    return Memories(*(examples.normal(seed + i, *rows, M) for i in (96, 97)))


def store_of(made: Transitions, memory=()) -> ReplayStore:
    one = lambda x: tree.map(lambda leaf: leaf[0, 0], x)
    store = ReplayStore(one(made), one(memory), capacity=SLOTS * LANES, lanes=LANES)
    for part in (slice(SLOTS - 1), slice(SLOTS - 1, None)):
        store.add(*tree.take((made, memory), part))
    return store


def view(seed: int, added: int = 7, **columns) -> replay.View:
    """A store with a seam: two lanes of five slots each, to which more has been added."""
    return store_of(steps(seed, added, LANES)._replace(**columns)).view()


def view_to_remember(seed: int, added: int = 7) -> replay.View:
    return store_of(steps(seed, added, LANES), memories(seed, added, LANES)).view()


def nothing_held(memory: bool) -> replay.View:
    """A store just made."""
    made = steps(0, 1, LANES)
    kept = memories(0, 1, LANES) if memory else ()
    one = lambda x: tree.map(lambda leaf: leaf[0, 0], x)
    return ReplayStore(one(made), one(kept), capacity=SLOTS * LANES, lanes=LANES).view()


# --- what a loop does, by hand ------------------------------------------------------------------


def drawn(key, shown, number, rows, length=None):
    """The next key, and minibatches of so many rows, or sequences of a length."""
    key, own = random.split(key).unbind()
    if length is None:
        whole = Sequences(replay.sample(shown, own, number * rows), (), ())
    else:
        whole = replay.sample_sequences(shown, own, number * rows, length)
    return key, [tree.take(whole, slice(i * rows, (i + 1) * rows)) for i in range(number)]


def liking(state, seen):
    return (seen.obs[0] @ state.weights).square()


def rewards(state, name, seen):
    raw = seen.rewards if name == "extrinsic" else liking(state.signals[name], seen)
    return torch.where(seen.mask, state.signals[name].strength * raw, 0.0)


def lesson(state, found, live):
    """What a learner is to learn of one minibatch, given which streams are live in it."""
    seen, memory, reset = found
    rows, everywhere = seen.mask.shape, torch.full
    return SACBatch(
        obs=seen.obs,
        next_obs=seen.next_obs,
        action=seen.action,
        action_mask=seen.action_mask,
        rewards={
            name: rewards(state, name, seen) if live[name] else torch.zeros(rows)
            for name in state.signals
        },
        discounts={name: everywhere(rows, own.gamma) for name, own in state.signals.items()},
        terminated=seen.terminated,
        mask=seen.mask,
        live={name: everywhere(rows, live[name]) for name in state.signals},
        memory=memory,
        reset=reset,
    )


def taught(learner, state, batches, live=None):
    """The learner's state after these minibatches, and its stats of each."""
    learnt, told = state.learner, []
    lives = live or [dict.fromkeys(state.signals, True)] * len(batches)
    for found, now in zip(batches, lives, strict=True):
        learnt, stats = learner.update(learnt, lesson(state, found, now))
        told.append(stats)
    return learnt, told


def mean(numbers):
    return torch.stack(list(numbers)).mean()
