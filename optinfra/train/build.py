"""From settings to the functions they describe."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from optinfra import demos, lift, networks, schedules, transforms
from optinfra.imitation import behavioral_cloning
from optinfra.iteration import Iteration, iteration
from optinfra.learners import ppo
from optinfra.lift.epochs import Stage, unlifted
from optinfra.losses import squared_value_loss, trust_region_value_loss
from optinfra.settings import OptinfraSettings, PPOSettings, RunSettings, TrainerSettings
from optinfra.signals.faults import Guard, unguarded
from optinfra.train import signals
from optinfra.train.collect import Remember
from optinfra.types import (
    Imitation,
    Learner,
    PyTree,
    Schedule,
    Spec,
    Stats,
    Transform,
)

ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "swish": networks.swish,
    "tanh": networks.tanh,
}
# From this many steps on compiling repays what it costs, about half a minute.
WORTH_COMPILING = 500_000
CLONING_EPOCHS = 3  # ML-Agents' number where the settings give none


def learner(spec: Spec, behavior: TrainerSettings, own: OptinfraSettings) -> Learner:
    """Make the PPO that the settings describe, for these observations and actions."""
    hyper, max_steps = _ppo_settings(behavior), behavior.max_steps
    memory = behavior.network_settings.memory

    def decay(name: str, initial: float, floor: float) -> Schedule:
        if getattr(hyper, f"{name}_schedule") == "constant":
            return schedules.constant(initial)
        return schedules.linear_to_floor(initial, floor, max_steps)

    return ppo(
        _network(spec, behavior, own),
        spec,
        learning_rate=decay("learning_rate", hyper.learning_rate, schedules.LEARNING_RATE_FLOOR),
        clip_range=decay("epsilon", hyper.epsilon, schedules.EPSILON_FLOOR),
        entropy_coef=decay("beta", hyper.beta, schedules.BETA_FLOOR),
        transform=_transform(own),
        value_loss=trust_region_value_loss if own.value_clipping else squared_value_loss,
        normalize=behavior.network_settings.normalize,
        sequence_length=memory.sequence_length if memory else None,
        burn_in=own.burn_in if memory else 0,
    )


def _network(
    spec: Spec, behavior: TrainerSettings, own: OptinfraSettings
) -> networks.ActorCritic | networks.RecurrentActorCritic:
    """Make the actor and the critic that the settings describe."""
    orthogonal = own.initialization == "orthogonal"
    shared = _ppo_settings(behavior).shared_critic
    options: dict[str, Any] = {
        "hidden_units": behavior.network_settings.hidden_units,
        "num_layers": behavior.network_settings.num_layers,
        "activation": ACTIVATIONS[own.activation],
        "initialization": networks.orthogonal_initialization() if orthogonal else None,
    }
    streams = tuple(behavior.reward_signals.streams.values())
    memory = behavior.network_settings.memory
    if memory is None:
        build = networks.shared_actor_critic if shared else networks.actor_critic
        return build(spec, streams, **options)
    options |= {"memory_size": memory.memory_size, "cell": own.recurrent_cell}
    if shared:
        return networks.shared_recurrent_actor_critic(spec, streams, **options)
    return networks.recurrent_actor_critic(spec, streams, **options)


def training_iteration(
    learner: Learner,
    spec: Spec,
    run: RunSettings,
    name: str,
    stage: Stage,
    *,
    guard: Guard = unguarded,
    learns: bool = True,
) -> Iteration:
    """Make the iteration that the settings describe.

    Args:
      learner: of this behaviour.
      spec: of the environment.
      run: settings.
      name: of the behaviour.
      stage: applied to each function it consists of.
      guard: applied to each function of a signal.
      learns: False where only its state is wanted: then no demonstrations are read.

    Raises:
      RunError: a signal cannot be made.
      DemoError: demonstrations cannot be read, or are of another kind of agent.
    """
    behavior, own = run.behaviors[name], run.optinfra
    hyper, memory = _ppo_settings(behavior), behavior.network_settings.memory
    remembering: dict[str, Any] = {}
    if memory is not None:
        remembering = {
            "sequence_length": memory.sequence_length,
            "burn_in": own.burn_in,
            "num_agents": run.env_settings.num_envs,
        }
    expert = signals.taken_from(spec) if learns else lambda path: signals.blank(spec)
    made = signals.made(behavior, spec, own, expert)
    return iteration(
        learner,
        {stream: each.signal for stream, each in made.items()},
        imitation=_imitation(learner, spec, behavior, own, stage, learns),
        ignore_done=[stream for stream, each in made.items() if each.ignore_done],
        gae_lambda=hyper.lambd,
        time_horizon=behavior.time_horizon,
        num_epochs=hyper.num_epoch,
        batch_size=hyper.batch_size,
        stage=stage,
        guard=guard,
        **remembering,
    )


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
        transform=_transform(own),
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


def rollout_steps(run: RunSettings, behavior: TrainerSettings) -> int:
    """Steps per environment between two updates: together they fill the buffer."""
    return math.ceil(behavior.hyperparameters.buffer_size / run.env_settings.num_envs)


def chosen_stage(behavior: TrainerSettings, own: OptinfraSettings) -> Stage:
    """Decide whether the run is compiled; `auto` compiles what is long enough to repay it."""
    worth = behavior.max_steps >= WORTH_COMPILING
    compiles = own.compile == "on" or (own.compile == "auto" and worth)
    return lift.compiled if compiles else unlifted


def _ppo_settings(behavior: TrainerSettings) -> PPOSettings:
    """Narrow the hyperparameters; `settings.require_supported` has refused all others."""
    hyper = behavior.hyperparameters
    if not isinstance(hyper, PPOSettings):
        raise TypeError(f"`behavior` must have PPOSettings, got {type(hyper).__name__}.")
    return hyper


def remember(learner: Learner) -> Remember:
    """Tell what the learner's policy begins an episode with."""
    return lambda rows, device: learner.memories(rows, device).actor


def _transform(own: OptinfraSettings) -> Transform:
    adam = transforms.scale_by_adam()
    if own.max_grad_norm is not None:
        adam = transforms.chain(transforms.clip_by_global_norm(own.max_grad_norm), adam)
    return transforms.skip_nonfinite(transforms.raveled(adam))
