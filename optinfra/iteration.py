"""One training iteration: everything between two rollouts, as one pure function."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from optinfra import random, sequences, tree, values
from optinfra.check import require_dtype, require_leading, require_number, require_shape
from optinfra.learners import PPOBatch
from optinfra.lift.epochs import Stage, epochs, unlifted
from optinfra.losses import masked_mean
from optinfra.networks import name_hash
from optinfra.returns import gae
from optinfra.types import (
    Action,
    Key,
    Learner,
    Memories,
    Obs,
    PyTree,
    RolloutValues,
    Signal,
    Stats,
    Trajectory,
)


class Rollout(NamedTuple):
    """What was collected since the last iteration; reward t belongs to action t."""

    obs: Obs  # [T, *B, D_i] each
    next_obs: Obs  # [T, *B, D_i] each, what really followed; the final one where an episode ended
    action: Action  # [T, *B, A] and [T, *B, K], as drawn
    executed: Action  # the same as the environment took it
    action_mask: Tensor  # [T, *B, choices] bool, True where the choice is allowed
    log_prob: Tensor  # [T, *B, A + K]
    rewards: Tensor  # [T, *B], the environment's
    terminated: Tensor  # [T, *B] bool, the episode ended by its own rules
    truncated: Tensor  # [T, *B] bool, the episode was cut, by a time limit for example
    mask: Tensor  # [T, *B] bool, False for a row that is no transition
    memory: PyTree = ()  # [T, *B, M], the policy's before each step; () without one


class IterationState(NamedTuple):
    """What a checkpoint holds and an ensemble stacks."""

    learner: PyTree
    signals: dict[str, PyTree]  # by name
    gae_lambda: Tensor  # [] float32 in [0, 1]
    memory: PyTree  # [B, M], the critic's before the next rollout; () without one


class Iteration(NamedTuple):
    """A training iteration: two pure functions and nothing else."""

    init: Callable[[Key], IterationState]
    update: Callable[[IterationState, Rollout], tuple[IterationState, Stats]]


def iteration(
    learner: Learner,
    signals: Mapping[str, Signal],
    *,
    gae_lambda: float = 0.95,
    time_horizon: int | None = None,
    num_epochs: int = 3,
    batch_size: int = 1024,
    sequence_length: int = 64,
    burn_in: int = 0,
    num_agents: int | None = None,
    stage: Stage = unlifted,
) -> Iteration:
    """Compose signals, values, advantages and epochs of updates into one function.

    Per stream: rewards = strength · evaluate(rollout), advantages by GAE with the stream's
    γ, returns = advantages + values. The policy's advantage is the mean over the streams.
    The normaliser sees the rollout before it is valued, as in ML-Agents. A row that is no
    transition changes nothing, whatever it holds: advantages end before it, as at a cut.

    With a learner that remembers, each agent's critic goes on from where the last rollout
    left it, memories are reset where episodes end, and the rollout is cut into sequences.

    Args:
      learner: an on-policy learner of `PPOBatch`es whose values have the signals' names.
      signals: by the name of their stream.
      gae_lambda: λ in [0, 1].
      time_horizon: advantages are cut and bootstrapped every so many steps of the rollout;
        not at all unless given.
      num_epochs: passes over the rollout.
      batch_size: rows per minibatch, at most T · B.
      sequence_length: S ≥ 1, steps of a sequence, for a learner that remembers.
      burn_in: k in [0, S), steps of each sequence that only warm its memory up; see
        `sequences.starts`, and the learner's own `burn_in`.
      num_agents: B, needed for a learner that remembers: how many agents collect.
      stage: applied to each function the iteration consists of, such as `lift.compiled`;
        for a compiled ensemble: `lambda f: compiled(ensemble(f))`.

    Returns:
      An `Iteration`. Its stats are those of the learner and of the signals, and per stream
      `<name>_reward` and `<name>_value`, means over the valid rows.

    Raises:
      ValueError: a number is out of range, or there is no signal; or, from `update`, a
        shape disagrees, or the signals are not those that the learner has values for.
      TypeError: from `update`, a flag of the rollout is not bool.
    """
    require_number("gae_lambda", gae_lambda, 0.0, 1.0)
    if time_horizon is not None and time_horizon < 1:
        raise ValueError(f"`time_horizon` must be at least 1, got {time_horizon}.")
    if not signals:
        raise ValueError("`signals` must have at least one signal, got none.")
    sequences.starts(1, sequence_length, burn_in)
    recurrent = bool(tree.leaves(learner.memories((1,))))
    if recurrent and num_agents is None:
        raise ValueError("`num_agents` must be given for a learner that remembers, got None.")

    hashes = {name: name_hash(name) for name in signals}

    def init(key: Key) -> IterationState:
        key_learner, key_signals = random.split(key).unbind()
        return IterationState(
            learner=learner.init(key_learner),
            signals={
                name: signal.init(random.fold_in(key_signals, hashes[name]))
                for name, signal in signals.items()
            },
            gae_lambda=torch.tensor(gae_lambda, dtype=torch.float32, device=key.device),
            memory=learner.memories((num_agents,), key.device).critic if recurrent else (),
        )

    def prepare(state: IterationState, rollout: Rollout) -> tuple[IterationState, PPOBatch, Stats]:
        _check_rollout(rollout)
        if recurrent and not tree.leaves(rollout.memory):
            raise ValueError("`memory` must be given by the rollout of a learner that remembers.")
        rollout = tree.where(rollout.mask, rollout, tree.map(torch.zeros_like, rollout))
        learnt = learner.observe(state.learner, rollout.obs, rollout.mask)
        learnt = learnt._replace(steps=learnt.steps + rollout.mask.sum())
        state = state._replace(learner=learnt)
        cuts = _cuts(rollout, time_horizon)
        trajectory = Trajectory(
            rollout.obs, state.memory, rollout.terminated, rollout.truncated, rollout.mask
        )
        valued = learner.rollout_values(learnt.params, trajectory, rollout.next_obs)
        batch, stats = _valued(signals, state, rollout, valued, cuts)
        state, signal_stats = _learn_signals(signals, state, rollout)
        state = state._replace(memory=valued.final_memory)
        if not recurrent:
            return state, _as_rows(batch, rollout.mask.ndim), stats | signal_stats
        batch = batch._replace(
            memory=Memories(rollout.memory, valued.memories),
            reset=values.resets(values.cuts(trajectory)),
        )
        return state, _as_sequences(batch, sequence_length, burn_in), stats | signal_stats

    prepare = stage(prepare)
    update_epochs = epochs(
        learner, num_epochs=num_epochs, batch_size=batch_size, stage=stage
    ).update

    def update(state: IterationState, rollout: Rollout) -> tuple[IterationState, Stats]:
        state, batch, stats = prepare(state, rollout)
        learnt, learner_stats = update_epochs(state.learner, batch)
        return state._replace(learner=learnt), stats | learner_stats

    return Iteration(init, update)


def _cuts(rollout: Rollout, time_horizon: int | None) -> Tensor:
    """Mark `[T, *B]` where advantages are cut and bootstrapped, terminations apart.

    There are three reasons: the episode was cut, the horizon, and that the next row is no
    transition. Without the last one, the value of that row would flow into the step before.
    """
    at_the_end = torch.zeros_like(rollout.mask[:1])
    cuts = rollout.truncated | torch.cat([~rollout.mask[1:], at_the_end])
    if time_horizon is not None:
        step = torch.arange(1, rollout.mask.shape[0] + 1, device=rollout.mask.device)
        at_horizon = step % time_horizon == 0
        cuts = cuts | at_horizon.reshape(-1, *[1] * (rollout.mask.ndim - 1))
    return cuts


def _valued(
    signals: Mapping[str, Signal],
    state: IterationState,
    rollout: Rollout,
    valued: RolloutValues,
    cuts: Tensor,
) -> tuple[PPOBatch, Stats]:
    now, following = valued.values, valued.next_values
    _check_streams(signals, now)
    advantages, returns, stats = {}, {}, {}
    for name, signal in signals.items():
        own = state.signals[name]
        rewards = own.strength * signal.evaluate(own, rollout).detach()
        advantages[name] = gae(
            rewards,
            now[name],
            following[name],
            rollout.terminated,
            cuts,
            discount=own.gamma,
            gae_lambda=state.gae_lambda,
        )
        returns[name] = advantages[name] + now[name]
        stats[f"{name}_reward"] = masked_mean(rewards, rollout.mask)
        stats[f"{name}_value"] = masked_mean(now[name], rollout.mask)
    batch = PPOBatch(
        obs=rollout.obs,
        action=rollout.action,
        action_mask=rollout.action_mask,
        log_prob=rollout.log_prob,
        advantages=torch.stack(list(advantages.values())).mean(0),
        values=now,
        returns=returns,
        mask=rollout.mask,
    )
    return batch, stats


def _learn_signals(
    signals: Mapping[str, Signal], state: IterationState, rollout: Rollout
) -> tuple[IterationState, Stats]:
    learnt: dict[str, PyTree] = {}
    stats: Stats = {}
    for name, signal in signals.items():
        learnt[name], signal_stats = signal.update(state.signals[name], rollout)
        stats |= signal_stats
    return state._replace(signals=learnt), stats


def _as_rows(batch: PPOBatch, axes: int) -> PPOBatch:
    """Fold time and what follows it into one axis of rows: `[T, *B, …]` becomes `[N, …]`."""
    return tree.map(lambda x: x.flatten(0, axes - 1), batch)


def _as_sequences(batch: PPOBatch, length: int, burn_in: int) -> PPOBatch:
    """Cut `[T, *B, …]` into sequences `[N, S, …]` and select the memories they start from."""
    steps, axes = len(batch.mask), batch.mask.ndim
    memory = sequences.at_starts(batch.memory, length, burn_in, axes=axes)
    cut = sequences.cut(batch._replace(memory=()), length, burn_in, axes=axes)
    warmup = sequences.is_warmup(cut.mask, steps, burn_in) & cut.mask
    return cut._replace(memory=memory, mask=cut.mask & ~warmup, warmup=warmup)


def _check_streams(signals: Mapping[str, Signal], values: Mapping[str, Tensor]) -> None:
    if set(signals) != set(values):
        raise ValueError(
            f"`signals` must have the names of the learner's values, {sorted(values)}, "
            f"got {sorted(signals)}."
        )


def _check_rollout(rollout: Rollout) -> None:
    rows = rollout.mask.shape
    if not rows or rows[0] == 0:
        raise ValueError(f"`mask` must have shape [T, *B] with T ≥ 1, got {list(rows)}.")
    for name in ("mask", "terminated", "truncated"):
        require_dtype(name, getattr(rollout, name), torch.bool)
    for name in ("rewards", "terminated", "truncated"):
        require_shape(name, getattr(rollout, name), rows, "T, *B")
    for name, column in rollout._asdict().items():
        for x in tree.leaves(column):
            require_leading(name, x, rows, "T, *B")
