"""From settings to the functions they describe."""

import math
from collections.abc import Callable, Mapping

from torch import Tensor

from optinfra import lift, networks, schedules, transforms
from optinfra.iteration import Iteration, iteration
from optinfra.learners import ppo
from optinfra.lift.epochs import Stage, unlifted
from optinfra.losses import squared_value_loss, trust_region_value_loss
from optinfra.settings import OptinfraSettings, PPOSettings, RunSettings, TrainerSettings
from optinfra.signals import extrinsic
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
    build = networks.shared_actor_critic if hyper.shared_critic else networks.actor_critic
    orthogonal = own.initialization == "orthogonal"
    network = build(
        spec,
        tuple(signals(behavior)),
        hidden_units=behavior.network_settings.hidden_units,
        num_layers=behavior.network_settings.num_layers,
        activation=ACTIVATIONS[own.activation],
        initialization=networks.orthogonal_initialization() if orthogonal else None,
    )

    def decay(name: str, initial: float, floor: float) -> Schedule:
        if getattr(hyper, f"{name}_schedule") == "constant":
            return schedules.constant(initial)
        return schedules.linear_to_floor(initial, floor, max_steps)

    return ppo(
        network,
        spec,
        learning_rate=decay("learning_rate", hyper.learning_rate, schedules.LEARNING_RATE_FLOOR),
        clip_range=decay("epsilon", hyper.epsilon, schedules.EPSILON_FLOOR),
        entropy_coef=decay("beta", hyper.beta, schedules.BETA_FLOOR),
        transform=_transform(own),
        value_loss=trust_region_value_loss if own.value_clipping else squared_value_loss,
        normalize=behavior.network_settings.normalize,
    )


def signals(behavior: TrainerSettings) -> dict[str, Signal]:
    """Make the reward signals that the settings describe, by name."""
    return {
        name: extrinsic(strength=own.strength, gamma=own.gamma)
        for name, own in behavior.reward_signals.by_name.items()
    }


def training_iteration(learner: Learner, behavior: TrainerSettings, stage: Stage) -> Iteration:
    """Make the iteration that the settings describe."""
    hyper = _ppo_settings(behavior)
    return iteration(
        learner,
        signals(behavior),
        gae_lambda=hyper.lambd,
        time_horizon=behavior.time_horizon,
        num_epochs=hyper.num_epoch,
        batch_size=hyper.batch_size,
        stage=stage,
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


def _transform(own: OptinfraSettings) -> Transform:
    adam = transforms.scale_by_adam()
    if own.max_grad_norm is not None:
        adam = transforms.chain(transforms.clip_by_global_norm(own.max_grad_norm), adam)
    return transforms.skip_nonfinite(transforms.raveled(adam))
