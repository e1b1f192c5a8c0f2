"""Learning from replay: everything between two rollouts that is not drawn from them alone."""

from collections.abc import Callable, Mapping
from functools import partial, reduce
from operator import or_
from typing import Any, NamedTuple

import torch
from torch import Tensor

from optinfra import random, replay, streams, tree
from optinfra.check import require_integer
from optinfra.learners import SACBatch
from optinfra.lift.epochs import Stage, mean_stats, unlifted
from optinfra.losses import masked_mean
from optinfra.rollout import Rollout, check_rollout, transitions
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


class OffPolicyState(NamedTuple):
    """What a checkpoint holds and an ensemble stacks; the replay itself is beside it."""

    learner: PyTree
    signals: dict[str, PyTree]  # by name
    live: dict[str, Tensor]  # [] bool by name, False where the signal's last rewards failed
    failures: dict[str, Tensor]  # [] int64 by name, updates in which the signal failed
    memory: PyTree  # [B, M], the critic's before the next rollout; () without one
    imitation: PyTree  # () without one
    key: Key  # of what is drawn from replay


class Kept(NamedTuple):
    """What replay keeps of a rollout."""

    transitions: Transitions  # [T, *B, …] each
    memory: PyTree  # Memories [T, *B, M] before each step; () without one


class OffPolicy(NamedTuple):
    """Learning from replay: four pure functions and nothing else."""

    init: Callable[[Key], OffPolicyState]
    observe: Callable[[OffPolicyState, Rollout], tuple[OffPolicyState, Kept]]
    update: Callable[[OffPolicyState, replay.View], tuple[OffPolicyState, Stats]]
    update_signals: Callable[[OffPolicyState, replay.View], tuple[OffPolicyState, Stats]]


class Minibatch(NamedTuple):
    """What was drawn for one update: rows, or sequences and what they start from."""

    seen: Transitions  # [N, …] or [N, S, …] each
    memory: PyTree = ()  # Memories [N, M]; () for rows
    reset: PyTree = ()  # [N, S] bool; () for rows


def off_policy(
    learner: Learner,
    signals: Mapping[str, Signal],
    *,
    imitation: Imitation | None = None,
    batch_size: int = 256,
    num_updates: int = 1,
    num_signal_updates: int = 1,
    sequence_length: int = 64,
    num_agents: int | None = None,
    stage: Stage = unlifted,
    guard: Guard = unguarded,
) -> OffPolicy:
    """Compose signals, replay and updates into functions.

    `observe` shows a rollout to the normaliser, counts its steps, and gives what replay is to
    keep of it. `update` draws minibatches; each is judged by every signal as it is now,
    rewards = strength · evaluate(minibatch), and the learner learns from it. `update_signals`
    draws others, from which the signals learn. Imitation follows each `update`.

    A signal whose rewards are not all finite, and within ±10¹², has failed: its stream is left
    out of that update, and it does not learn until its rewards are finite again. Nor does it
    where what it would learn is not finite. Its state stays as it was, and `failures` counts. Where
    every signal fails, the learner stays as it was.

    With a learner that remembers, sequences are drawn for rows: ⌊batch_size / S⌋ of them, at
    least one, each beginning with the memory that was stored.

    Args:
      learner: an off-policy learner of `SACBatch`es whose values have the signals' names.
      signals: by the name of their stream.
      imitation: of demonstrations; see `lift.cloning_epochs`, which has a stage of its own.
      batch_size: N ≥ 1, rows of a minibatch.
      num_updates: U ≥ 1, minibatches of one `update`.
      num_signal_updates: the same of one `update_signals`.
      sequence_length: S ≥ 1, for a learner that remembers.
      num_agents: B, needed for a learner that remembers: how many agents collect.
      stage: applied to each function this consists of, such as `lift.compiled`; for a compiled
        ensemble: `lambda f: compiled(ensemble(f))`.
      guard: applied to each function of a signal, after `stage`: it may catch exceptions.

    Returns:
      An `OffPolicy`. The stats of `update` are means over its minibatches of the learner's,
      those of the imitation, and per stream `<name>_reward`, the mean over the rows, and
      `<name>_failures`; those of `update_signals` begin with the names of the signals.

    Raises:
      ValueError: a number is out of range, or there is no signal; or, from the functions, a
        shape disagrees, or the signals are not those that the learner has values for.
      TypeError: a number is no integer; from `init`, a signal's state has no strength, no
        gamma, or what is no tensor; or, from `observe`, a flag is not bool.

    Source: the loop of Haarnoja et al. 2018, https://arxiv.org/abs/1812.05905; rewards that
      are judged anew at each update are ML-Agents'.
    """
    numbers = {"batch_size": batch_size, "num_updates": num_updates,
               "num_signal_updates": num_signal_updates,
               "sequence_length": sequence_length}  # fmt: skip
    for name, number in numbers.items():
        require_integer(name, number, 1)
    if not signals:
        raise ValueError("`signals` must have at least one signal, got none.")
    recurrent = bool(tree.leaves(learner.memories((1,))))
    if recurrent and num_agents is None:
        raise ValueError("`num_agents` must be given for a learner that remembers, got None.")
    length = sequence_length if recurrent else None
    begin = streams.beginning(signals, imitation)
    rule = _Rule(learner, dict(signals), imitation, batch_size, length, num_agents, begin)
    parts = _Parts(
        draw=stage(partial(_draw, rule, num_updates)),
        draw_for_signals=stage(partial(_draw, rule, num_signal_updates)),
        judges={
            name: guard(name, stage(_on_minibatch(judge(own))), no_reward_of)
            for name, own in signals.items()
        },
        step=stage(partial(_step, rule)),
        pupils=streams.pupils(signals, stage, guard),
    )
    return OffPolicy(
        init=partial(_init, rule),
        observe=stage(partial(_observe, rule)),
        update=partial(_update, rule, parts),
        update_signals=partial(_update_signals, parts),
    )


class _Rule(NamedTuple):
    """What is static about one loop."""

    learner: Learner
    signals: dict[str, Signal]
    imitation: Imitation | None
    batch_size: int
    sequence_length: int | None  # None for a learner that does not remember
    num_agents: int | None
    begin: Callable[[Key, PyTree], tuple[dict[str, PyTree], PyTree]]


class _Parts(NamedTuple):
    """The staged functions it consists of."""

    draw: Callable[..., Any]
    draw_for_signals: Callable[..., Any]
    judges: dict[str, Callable[..., Any]]
    step: Callable[..., Any]
    pupils: dict[str, Callable[..., Any]]


def _init(rule: _Rule, key: Key) -> OffPolicyState:
    key, key_learner, key_signals = random.split(key, 3).unbind()
    learnt = rule.learner.init(key_learner)
    own, imitated = rule.begin(key_signals, learnt.params)
    memory: PyTree = ()
    if rule.sequence_length is not None:
        memory = rule.learner.memories((rule.num_agents,), key.device).critic
    return OffPolicyState(
        learner=learnt,
        signals=own,
        live={name: torch.ones((), dtype=torch.bool, device=key.device) for name in rule.signals},
        failures=streams.no_failures(rule.signals, key.device),
        memory=memory,
        imitation=imitated,
        key=key,
    )


def _observe(rule: _Rule, state: OffPolicyState, rollout: Rollout) -> tuple[OffPolicyState, Kept]:
    check_rollout(rollout)
    rollout = tree.blank(rollout.mask, rollout)
    learnt = rule.learner.observe(state.learner, rollout.obs, rollout.mask)
    state = state._replace(learner=learnt._replace(steps=learnt.steps + rollout.mask.sum()))
    kept = Kept(transitions(rollout), ())
    if rule.sequence_length is None:
        return state, kept
    if not tree.leaves(rollout.memory):
        raise ValueError("`memory` must be given by the rollout of a learner that remembers.")
    trajectory = Trajectory(
        rollout.obs, state.memory, rollout.terminated, rollout.truncated, rollout.mask
    )
    valued = rule.learner.rollout_values(learnt.params, trajectory, rollout.next_obs)
    memory = Memories(rollout.memory, valued.memories)
    return state._replace(memory=valued.final_memory), kept._replace(memory=memory)


def _draw(
    rule: _Rule, number: int, key: Key, view: replay.View
) -> tuple[Key, tuple[Minibatch, ...]]:
    """Draw so many minibatches at once."""
    key, key_rows = random.split(key).unbind()
    if rule.sequence_length is None:
        drawn = Minibatch(replay.sample(view, key_rows, number * rule.batch_size))
    else:
        count = max(rule.batch_size // rule.sequence_length, 1)
        found = replay.sample_sequences(view, key_rows, number * count, rule.sequence_length)
        drawn = Minibatch(found.transitions, found.memory, found.reset)
    apart = tree.map(lambda x: x.unflatten(0, (number, -1)), drawn)
    return key, tuple(tree.take(apart, i) for i in range(number))


def _on_minibatch(
    judged: Callable[[PyTree, Transitions], Judged],
) -> Callable[[PyTree, Minibatch], Judged]:
    return lambda state, batch: judged(state, batch.seen)


def no_reward_of(state: PyTree, batch: Minibatch) -> Judged:
    """Give what a signal that fails gives of a minibatch."""
    return no_reward(state, batch.seen)


def _step(
    rule: _Rule,
    state: PyTree,
    gammas: dict[str, Tensor],
    batch: Minibatch,
    judged: dict[str, Judged],
) -> tuple[PyTree, Stats]:
    """Update the learner on a minibatch, unless nobody can say what it is worth."""
    seen = batch.seen
    rows = seen.mask.shape
    lesson = SACBatch(
        obs=seen.obs,
        next_obs=seen.next_obs,
        action=seen.action,
        action_mask=seen.action_mask,
        rewards={name: own.rewards for name, own in judged.items()},
        discounts={name: gamma.expand(rows) for name, gamma in gammas.items()},
        terminated=seen.terminated,
        mask=seen.mask,
        live={name: own.live.expand(rows) for name, own in judged.items()},
        memory=batch.memory,
        reset=batch.reset,
    )
    learnt, stats = rule.learner.update(state, lesson)
    taught = reduce(or_, (own.live for own in judged.values())) & seen.mask.any()
    rewards = {
        f"{name}_reward": masked_mean(own.rewards, seen.mask) for name, own in judged.items()
    }
    return tree.where(taught, learnt, tree.map(Tensor.detach, state)), stats | rewards


def _update(
    rule: _Rule, parts: _Parts, state: OffPolicyState, view: replay.View
) -> tuple[OffPolicyState, Stats]:
    key, drawn = parts.draw(state.key, view)
    learnt, failures, live = state.learner, state.failures, state.live
    gammas = {name: own.gamma for name, own in state.signals.items()}
    told = []
    for batch in drawn:
        judged = {name: own(state.signals[name], batch) for name, own in parts.judges.items()}
        learnt, stats = parts.step(learnt, gammas, batch, judged)
        live = {name: own.live for name, own in judged.items()}
        failures, _ = streams.counted(failures, judged, {})
        told.append(stats)
    state = state._replace(learner=learnt, live=live, failures=failures, key=key)
    stats = mean_stats(told) | streams.numbers(failures)
    if rule.imitation is None:
        return state, stats
    cloned, params, now = rule.imitation.update(state.imitation, learnt.params, learnt.steps)
    learnt = learnt._replace(params=params)
    return state._replace(learner=learnt, imitation=cloned), stats | now


def _update_signals(
    parts: _Parts, state: OffPolicyState, view: replay.View
) -> tuple[OffPolicyState, Stats]:
    if not parts.pupils:
        return state, {}
    key, drawn = parts.draw_for_signals(state.key, view)
    own, failures = dict(state.signals), dict(state.failures)
    stats: Stats = {}
    for name, pupil in parts.pupils.items():
        reports: list[Report] = []
        for batch in drawn:
            own[name], report = pupil(own[name], state.live[name], batch.seen)
            reports.append(report)
            # What did not learn because it was not live has been counted by `update`.
            failures[name] = failures[name] + (report.failed & state.live[name])
        stats |= streams.prefixed(name, streams.mean_report(reports))
    state = state._replace(signals=own, failures=failures, key=key)
    return state, stats | streams.numbers(failures)
