"""From settings to the functions they describe."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from optinfra import demos, lift, schedules, tree
from optinfra.imitation import behavioral_cloning
from optinfra.iteration import Iteration, IterationState, iteration
from optinfra.lift.epochs import Stage, unlifted
from optinfra.off_policy import OffPolicyState, off_policy
from optinfra.rollout import Rollout
from optinfra.settings import (
    OptinfraSettings,
    POCASettings,
    PPOSettings,
    RunSettings,
    SACSettings,
    TrainerSettings,
)
from optinfra.signals.faults import Guard, unguarded
from optinfra.store import ReplayStore
from optinfra.train import signals
from optinfra.train.collect import Remember, every_choice
from optinfra.train.learners import learner as learner
from optinfra.train.learners import transform
from optinfra.train.replaying import Cadence, Replaying
from optinfra.types import (
    Imitation,
    Key,
    Learner,
    PyTree,
    Signal,
    Spec,
    Stats,
    Transitions,
)

# From this many steps, or updates from replay, on compiling repays what it costs: half a minute.
WORTH_COMPILING = 500_000
WORTH_COMPILING_UPDATES = 5_000
GIB = 2**30
CLONING_EPOCHS = 3  # ML-Agents' number where the settings give none


class Updates(NamedTuple):
    """Everything between two rollouts: learning from them, or from replay."""

    init: Callable[[Key], IterationState | OffPolicyState]
    update: Callable[[Any, Rollout], tuple[Any, Stats]]


class Learning(NamedTuple):
    """How one behaviour is learnt."""

    learner: Learner
    iteration: Updates
    replay: Replaying | None  # None where learning is from the rollouts alone


def learning(
    spec: Spec,
    run: RunSettings,
    name: str,
    stage: Stage,
    *,
    rows: tuple[int, ...],
    guard: Guard = unguarded,
    learns: bool = True,
) -> Learning:
    """Make what the settings describe.

    Args:
      spec: of the environment.
      run: settings.
      name: of the behaviour.
      stage: applied to each function it consists of.
      rows: who acts side by side: (B,) environments, or (B, A) agents of groups.
      guard: applied to each function of a signal.
      learns: False where only its state is wanted: then no demonstrations are read.

    Raises:
      RunError: a signal cannot be made.
      DemoError: demonstrations cannot be read, or are of another kind of agent.
    """
    behavior, own = run.behaviors[name], run.optinfra
    expert = signals.taken_from(spec) if learns else lambda path: signals.blank(spec)
    made = signals.made(behavior, spec, own, expert)
    ignore_done = [stream for stream, each in made.items() if each.ignore_done]
    one = learner(spec, behavior, own, ignore_done=ignore_done)
    options: dict[str, Any] = {
        "imitation": _imitation(one, spec, behavior, own, stage, learns),
        "stage": stage,
        "guard": guard,
    }
    rewards = {stream: each.signal for stream, each in made.items()}
    hyper, memory = behavior.hyperparameters, behavior.network_settings.memory
    if isinstance(hyper, SACSettings):
        return _from_replay(one, spec, run, name, rewards, expert, options)
    options["ignore_done"] = ignore_done
    if memory is not None:
        length = memory.sequence_length
        options |= {"sequence_length": length, "burn_in": own.burn_in, "num_agents": rows}
    return Learning(one, Updates(*_from_rollouts(one, behavior, hyper, rewards, options)), None)


def _from_rollouts(
    learner: Learner,
    behavior: TrainerSettings,
    hyper: PPOSettings | POCASettings,
    rewards: Mapping[str, Signal],
    options: dict[str, Any],
) -> Iteration:
    return iteration(
        learner,
        rewards,
        gae_lambda=hyper.lambd,
        time_horizon=behavior.time_horizon,
        num_epochs=hyper.num_epoch,
        batch_size=hyper.batch_size,
        **options,
    )


def _from_replay(
    learner: Learner,
    spec: Spec,
    run: RunSettings,
    name: str,
    rewards: Mapping[str, Signal],
    expert: Callable[[str], Transitions],
    options: dict[str, Any],
) -> Learning:
    behavior, num_envs = run.behaviors[name], run.env_settings.num_envs
    hyper, memory = _sac_settings(behavior), behavior.network_settings.memory
    collected = rollout_steps(behavior, (num_envs,)) * num_envs
    updates = max(int(collected / hyper.steps_per_update), 1)
    signal_updates = max(int(collected / hyper.reward_signal_steps_per_update), 1)
    if memory is not None:
        options |= {"sequence_length": memory.sequence_length, "num_agents": num_envs}
    one = off_policy(
        learner,
        rewards,
        batch_size=hyper.batch_size,
        num_updates=updates,
        num_signal_updates=signal_updates,
        **options,
    )

    def store(folder: Path | None) -> ReplayStore:
        place: dict[str, Any] = {}
        if folder is not None:
            limit = int(run.optinfra.sac.replay_memory * GIB)
            place = {"ram_limit": limit, "folder": folder}
        blank = tree.take(_masked(signals.blank(spec), spec), 0)
        remembered = learner.memories(()) if memory else ()
        capacity = max(hyper.buffer_size, num_envs)
        return ReplayStore(blank, remembered, capacity=capacity, lanes=num_envs, **place)

    prefill = run.optinfra.sac.prefill_replay
    replay = Replaying(
        one,
        Cadence(
            init_steps=hyper.buffer_init_steps,
            ready_rows=hyper.batch_size,
            steps_per_call=hyper.steps_per_update * updates,
            steps_per_signal_call=hyper.reward_signal_steps_per_update * signal_updates,
        ),
        store,
        _masked(expert(prefill), spec) if prefill else None,
        saved=hyper.save_replay_buffer,
    )
    return Learning(learner, Updates(one.init, replay.update), replay)


def _masked(rows: Transitions, spec: Spec) -> Transitions:
    """Let every choice be allowed where demonstrations do not say."""
    if isinstance(rows.action_mask, Tensor):
        return rows
    return rows._replace(action_mask=every_choice(spec, len(rows.mask)))


def _imitation(
    learner: Learner,
    spec: Spec,
    behavior: TrainerSettings,
    own: OptinfraSettings,
    stage: Stage,
    learns: bool,
) -> Imitation | None:
    """Make the behavioural cloning that the settings describe, if they do."""
    settings, memory = behavior.behavioral_cloning, behavior.network_settings.memory
    if settings is None:
        return None
    rate = behavior.hyperparameters.learning_rate * settings.strength
    cloning = behavioral_cloning(
        learner.executed_log_prob,
        learning_rate=schedules.linear_to_floor(rate, schedules.LEARNING_RATE_FLOOR, settings.steps)
        if settings.steps
        else rate,
        memories=remember(learner) if memory else None,
        transform=transform(own),
    )
    if not learns:
        return cloning
    found = signals.demonstrations(settings.demo_path, spec)
    expert = demos.taken(found)
    if memory is not None:
        expert = demos.sequences(found, memory.sequence_length, own.burn_in)
    whole = lift.cloning_epochs(
        cloning,
        expert,
        num_epochs=settings.num_epoch or CLONING_EPOCHS,
        batch_size=settings.batch_size or behavior.hyperparameters.batch_size,
        samples_per_update=settings.samples_per_update,
        stage=stage,
    )
    return until(settings.steps, whole) if settings.steps else whole


def until(end: int, imitation: Imitation) -> Imitation:
    """Spare the work of an imitation whose learning rate has come to its end."""

    def update(state: PyTree, params: PyTree, steps: Tensor) -> tuple[PyTree, PyTree, Stats]:
        if int(steps.min()) >= end:
            return state, params, {}
        return imitation.update(state, params, steps)

    return imitation._replace(update=update)


def rollout_steps(behavior: TrainerSettings, rows: tuple[int, ...]) -> int:
    """Steps between two updates, of each of those who act side by side.

    Together they fill the buffer of an on-policy learner; with replay they are as many as make
    one update due.
    """
    hyper, acting = behavior.hyperparameters, math.prod(rows)
    if isinstance(hyper, SACSettings):
        return max(int(hyper.steps_per_update / acting), 1)
    return math.ceil(hyper.buffer_size / acting)


def random_steps(behavior: TrainerSettings, own: OptinfraSettings) -> int:
    """Tell how many steps at the beginning are drawn evenly: with SAC as the settings say."""
    return own.sac.random_steps if isinstance(behavior.hyperparameters, SACSettings) else 0


def chosen_stage(behavior: TrainerSettings, own: OptinfraSettings) -> Stage:
    """Decide whether the run is compiled; `auto` compiles what is long enough to repay it."""
    hyper, worth = behavior.hyperparameters, behavior.max_steps >= WORTH_COMPILING
    if isinstance(hyper, SACSettings):
        worth = behavior.max_steps / hyper.steps_per_update >= WORTH_COMPILING_UPDATES
    compiles = own.compile == "on" or (own.compile == "auto" and worth)
    return lift.compiled if compiles else unlifted


def _sac_settings(behavior: TrainerSettings) -> SACSettings:
    hyper = behavior.hyperparameters
    if not isinstance(hyper, SACSettings):
        raise TypeError(f"`behavior` must have SACSettings, got {type(hyper).__name__}.")
    return hyper


def remember(learner: Learner) -> Remember:
    """Tell what the learner's policy begins an episode with."""
    return lambda rows, device: learner.memories(rows, device).actor
