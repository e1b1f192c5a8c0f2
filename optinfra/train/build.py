"""From settings to the functions they describe."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from optinfra import lift, networks, schedules, transforms
from optinfra.iteration import Iteration, iteration
from optinfra.learners import ppo
from optinfra.lift.epochs import Stage, unlifted
from optinfra.losses import squared_value_loss, trust_region_value_loss
from optinfra.settings import OptinfraSettings, PPOSettings, RunSettings, TrainerSettings
from optinfra.signals import extrinsic
from optinfra.train.collect import Remember
from optinfra.types import Learner, Schedule, Signal, Spec, Transform

ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "swish": networks.swish,
    "tanh": networks.tanh,
}
# From this many steps on compiling repays what it costs, about half a minute.
WORTH_COMPILING = 500_000


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
    streams, memory = tuple(signals(behavior)), behavior.network_settings.memory
    if memory is None:
        build = networks.shared_actor_critic if shared else networks.actor_critic
        return build(spec, streams, **options)
    options |= {"memory_size": memory.memory_size, "cell": own.recurrent_cell}
    if shared:
        return networks.shared_recurrent_actor_critic(spec, streams, **options)
    return networks.recurrent_actor_critic(spec, streams, **options)


def signals(behavior: TrainerSettings) -> dict[str, Signal]:
    """Make the reward signals that the settings describe, by name."""
    return {
        name: extrinsic(strength=own.strength, gamma=own.gamma)
        for name, own in behavior.reward_signals.by_name.items()
    }


def training_iteration(learner: Learner, run: RunSettings, name: str, stage: Stage) -> Iteration:
    """Make the iteration that the settings describe."""
    behavior = run.behaviors[name]
    hyper, memory = _ppo_settings(behavior), behavior.network_settings.memory
    remembering: dict[str, Any] = {}
    if memory is not None:
        remembering = {
            "sequence_length": memory.sequence_length,
            "burn_in": run.optinfra.burn_in,
            "num_agents": run.env_settings.num_envs,
        }
    return iteration(
        learner,
        signals(behavior),
        gae_lambda=hyper.lambd,
        time_horizon=behavior.time_horizon,
        num_epochs=hyper.num_epoch,
        batch_size=hyper.batch_size,
        stage=stage,
        **remembering,
    )


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
