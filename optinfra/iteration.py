"""One training iteration: everything between two rollouts, as one pure function."""

from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from optinfra import credit, random, sequences, streams, tree, values
from optinfra.check import require_number
from optinfra.credit import Seen
from optinfra.learners import PPOBatch
from optinfra.lift.epochs import Stage, mean_stats, minibatches, on_rows, unlifted
from optinfra.rollout import Group, blanked, check_rollout, mates_of
from optinfra.rollout import Rollout as Rollout
from optinfra.rollout import transitions as transitions
from optinfra.signals.faults import Guard, Judged, Report, judge, no_reward, unguarded
from optinfra.types import (
    Imitation,
    Key,
    Learner,
    Memories,
    PyTree,
    Signal,
    Stats,
    Trajectory,
    Transitions,
)


class IterationState(NamedTuple):
    """What a checkpoint holds and an ensemble stacks."""

    learner: PyTree
    signals: dict[str, PyTree]  # by name
    failures: dict[str, Tensor]  # [] int64 by name, iterations in which the signal failed
    gae_lambda: Tensor  # [] float32 in [0, 1]
    memory: PyTree  # [B, M], the critic's before the next rollout; () without one
    imitation: PyTree  # () without one


class Iteration(NamedTuple):
    """A training iteration: two pure functions and nothing else."""

    init: Callable[[Key], IterationState]
    update: Callable[[IterationState, Rollout], tuple[IterationState, Stats]]


class Lesson(NamedTuple):
    """What one rollout teaches, row by row: the learner and the signals."""

    batch: PPOBatch
    seen: Transitions


def iteration(
    learner: Learner,
    signals: Mapping[str, Signal],
    *,
    imitation: Imitation | None = None,
    ignore_done: Collection[str] = (),
    gae_lambda: float = 0.95,
    time_horizon: int | None = None,
    num_epochs: int = 3,
    batch_size: int = 1024,
    sequence_length: int = 64,
    burn_in: int = 0,
    num_agents: int | tuple[int, ...] | None = None,
    stage: Stage = unlifted,
    guard: Guard = unguarded,
) -> Iteration:
    """Compose signals, values, advantages and epochs of updates into one function.

    Per stream: rewards = strength · evaluate(rollout), advantages by GAE with the stream's
    γ, returns = advantages + values. The policy's advantage is the mean over the streams.
    The normaliser sees the rollout before it is valued, as in ML-Agents. After each
    minibatch of the learner, the signals learn from the same rows. A row that is no
    transition changes nothing, whatever it holds: advantages end before it, as at a cut.

    A signal whose rewards are not all finite, and within ±10¹², has failed: for this iteration
    its stream is left out of the means over streams, and it does not learn. Nor does it where
    what it would learn is not finite. Its state stays as it was, and `failures` counts. Where every
    signal fails, advantages are NaN: a learner that skips non-finite steps stays as it was.

    With a learner that remembers, each agent's critic goes on from where the last rollout
    left it, memories are reset where episodes end, and the rollout is cut into sequences.

    With a learner of groups, such as `poca`, the last axis of the rollout's rows is the agents
    of a group, and what a group gets is credited as `credit.weigh` says.

    Args:
      learner: an on-policy learner of `PPOBatch`es whose values have the signals' names.
      signals: by the name of their stream.
      imitation: of demonstrations, once after the epochs; see `lift.cloning_epochs`, which
        has a stage of its own.
      ignore_done: streams for which an episode's end is none: what follows is valued by its
        last observation, as ML-Agents does for curiosity and RND.
      gae_lambda: λ in [0, 1].
      time_horizon: advantages are cut and bootstrapped every so many steps of the rollout;
        not at all unless given.
      num_epochs: passes over the rollout.
      batch_size: rows per minibatch, at most T · B.
      sequence_length: S ≥ 1, steps of a sequence, for a learner that remembers.
      burn_in: k in [0, S), steps of each sequence that only warm its memory up; see
        `sequences.starts`, and the learner's own `burn_in`.
      num_agents: B, or all of *B, needed for a learner that remembers: how many agents collect.
      stage: applied to each function the iteration consists of, such as `lift.compiled`;
        for a compiled ensemble: `lambda f: compiled(ensemble(f))`.
      guard: applied to each function of a signal, after `stage`: it may catch exceptions.

    Returns:
      An `Iteration`. Its stats are those of the learner and of the imitation, those of each
      signal, which begin with its name or are given it, and per stream `<name>_reward` and
      `<name>_value`, means over the valid rows, and `<name>_failures`.

    Raises:
      ValueError: a number is out of range, there is no signal, or a name of `ignore_done`
        is no signal's; or, from `update`, a shape disagrees, or the signals are not those
        that the learner has values for.
      TypeError: from `init`, a signal's state has no strength, no gamma, or what is no
        tensor; or, from `update`, a flag of the rollout is not bool.
    """
    require_number("gae_lambda", gae_lambda, 0.0, 1.0)
    if time_horizon is not None and time_horizon < 1:
        raise ValueError(f"`time_horizon` must be at least 1, got {time_horizon}.")
    if not signals:
        raise ValueError("`signals` must have at least one signal, got none.")
    if unknown := sorted(set(ignore_done) - set(signals)):
        raise ValueError(f"`ignore_done` must name signals, {sorted(signals)}, got {unknown}.")
    sequences.starts(1, sequence_length, burn_in)
    recurrent = bool(tree.leaves(learner.memories((1,))))
    if recurrent and num_agents is None:
        raise ValueError("`num_agents` must be given for a learner that remembers, got None.")

    rows = num_agents if isinstance(num_agents, tuple) else (num_agents,)
    rule = credit.Rule(time_horizon, frozenset(ignore_done))
    begin = streams.beginning(signals, imitation)

    def init(key: Key) -> IterationState:
        key_learner, key_signals = random.split(key).unbind()
        learnt = learner.init(key_learner)
        own, imitated = begin(key_signals, learnt.params)
        return IterationState(
            learner=learnt,
            signals=own,
            failures=streams.no_failures(signals, key.device),
            gae_lambda=torch.tensor(gae_lambda, dtype=torch.float32, device=key.device),
            memory=learner.memories(rows, key.device).critic if recurrent else (),
            imitation=imitated,
        )

    def look(state: IterationState, rollout: Rollout) -> tuple[IterationState, Seen]:
        check_rollout(rollout)
        if recurrent and not tree.leaves(rollout.memory):
            raise ValueError("`memory` must be given by the rollout of a learner that remembers.")
        rollout = blanked(rollout)
        learnt = learner.observe(state.learner, rollout.obs, rollout.mask)
        learnt = learnt._replace(steps=learnt.steps + rollout.mask.sum())
        mates = mates_of(rollout) if isinstance(rollout.group, Group) else ((), ())
        trajectory = Trajectory(
            rollout.obs, state.memory, rollout.terminated, rollout.truncated, rollout.mask, *mates
        )
        valued = learner.rollout_values(learnt.params, trajectory, rollout.next_obs)
        streams.require_streams(signals, valued.values)
        state = state._replace(learner=learnt, memory=valued.final_memory)
        resets = values.resets(values.cuts(trajectory)) if recurrent else ()
        return state, Seen(rollout, valued, resets)

    shuffle = minibatches(num_epochs, batch_size)

    def weigh(
        state: IterationState, seen: Seen, judged: dict[str, Judged]
    ) -> tuple[PyTree, Lesson, Tensor, Stats]:
        gammas = {name: own.gamma for name, own in state.signals.items()}
        batch, stats = credit.weigh(rule, gammas, state.gae_lambda, seen, judged)
        lesson = Lesson(batch, transitions(seen.rollout))
        if recurrent:
            memory = Memories(seen.rollout.memory, seen.valued.memories)
            lesson = lesson._replace(batch=batch._replace(memory=memory, reset=seen.resets))
            lesson = _as_sequences(lesson, sequence_length, burn_in)
        else:
            lesson = _as_rows(lesson, seen.rollout.mask.ndim)
        learnt, batch, order = shuffle(state.learner, lesson.batch)
        return learnt, lesson._replace(batch=batch), order, stats

    look, weigh, step = stage(look), stage(weigh), stage(on_rows(learner.update))
    judges = {
        name: guard(name, stage(_on_rollout(own)), no_reward) for name, own in signals.items()
    }
    pupils = streams.pupils(signals, stage, guard, on_rows)

    def update(state: IterationState, rollout: Rollout) -> tuple[IterationState, Stats]:
        state, seen = look(state, rollout)
        judged = {name: judges[name](state.signals[name], seen.rollout) for name in signals}
        learnt, lesson, order, stats = weigh(state, seen, judged)
        own = dict(state.signals)
        reports: dict[str, list[Report]] = {name: [] for name in pupils}
        learner_stats = []
        for rows in order.unbind(-2):  # counted from the end: `ensemble` adds a leading axis
            learnt, now = step(learnt, lesson.batch, rows)
            learner_stats.append(now)
            for name, pupil in pupils.items():
                own[name], report = pupil(own[name], judged[name].live, lesson.seen, rows)
                reports[name].append(report)
        failures, signal_stats = streams.counted(state.failures, judged, reports)
        state = state._replace(learner=learnt, signals=own, failures=failures)
        stats = signal_stats | stats | mean_stats(learner_stats)
        if imitation is None:
            return state, stats
        cloned, params, now = imitation.update(state.imitation, learnt.params, learnt.steps)
        learnt = learnt._replace(params=params)
        return state._replace(learner=learnt, imitation=cloned), stats | now

    return Iteration(init, update)


def _on_rollout(signal: Signal) -> Callable[[PyTree, Rollout], Judged]:
    judged = judge(signal)
    return lambda state, rollout: judged(state, transitions(rollout))


def _as_rows(lesson: Lesson, axes: int) -> Lesson:
    """Fold time and what follows it into one axis of rows: `[T, *B, …]` becomes `[N, …]`."""
    return tree.map(lambda x: x.flatten(0, axes - 1), lesson)


def _as_sequences(lesson: Lesson, length: int, burn_in: int) -> Lesson:
    """Cut `[T, *B, …]` into sequences `[N, S, …]` and select the memories they start from."""
    batch, seen = lesson
    steps, axes = len(batch.mask), batch.mask.ndim
    memory = sequences.at_starts(batch.memory, length, burn_in, axes=axes)
    whole = Lesson(batch._replace(memory=()), seen)
    batch, seen = sequences.cut(whole, length, burn_in, axes=axes)
    warmup = sequences.is_warmup(batch.mask, steps, burn_in) & batch.mask
    mask = batch.mask & ~warmup
    return Lesson(batch._replace(memory=memory, mask=mask, warmup=warmup), seen._replace(mask=mask))
