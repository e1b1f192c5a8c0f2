"""From settings to a learner."""

from collections.abc import Callable, Collection, Mapping
from typing import Any

from torch import Tensor

from optinfra import networks, schedules, transforms
from optinfra.learners import poca, ppo, sac
from optinfra.losses import squared_value_loss, trust_region_value_loss
from optinfra.settings import (
    OptinfraSettings,
    POCASettings,
    PPOSettings,
    SACSettings,
    TrainerSettings,
)
from optinfra.train.own import Asked, encoding, network
from optinfra.types import Learner, Schedule, Spec, Transform

ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "swish": networks.swish,
    "tanh": networks.tanh,
    "relu": networks.relu,
}
SOFT_GAINS = (1.0, 1.0, 1.0)  # of SAC where weights are orthogonal: ikostrikov/jaxrl at 7745b27


def learner(
    spec: Spec,
    behavior: TrainerSettings,
    own: OptinfraSettings,
    *,
    ignore_done: Collection[str] = (),
) -> Learner:
    """Make the learner that the settings describe, for these observations and actions."""
    hyper = behavior.hyperparameters
    if isinstance(hyper, SACSettings):
        return _sac(spec, behavior, hyper, own, ignore_done)
    options = _proximal(behavior, hyper, own) | {"ignore_done": ignore_done}
    if isinstance(hyper, POCASettings):
        return poca(_group_network(spec, behavior, own), spec, **options)
    burn_in = own.burn_in if behavior.network_settings.memory else 0
    return ppo(_network(spec, behavior, hyper, own), spec, burn_in=burn_in, **options)


def transform(own: OptinfraSettings) -> Transform:
    """Make what turns a gradient into a direction."""
    adam = transforms.raveled(transforms.scale_by_adam())
    if own.max_grad_norm is not None:
        # Leaf by leaf: laid end to end, the zeros of a signal that has failed would round the sum.
        adam = transforms.chain(transforms.clip_by_global_norm(own.max_grad_norm), adam)
    return transforms.skip_nonfinite(adam)


def _proximal(
    behavior: TrainerSettings, hyper: PPOSettings | POCASettings, own: OptinfraSettings
) -> dict[str, Any]:
    """Tell what PPO and POCA are both told."""
    memory, max_steps = behavior.network_settings.memory, behavior.max_steps

    def decay(name: str, initial: float, floor: float) -> Schedule:
        schedule = getattr(hyper, f"{name}_schedule")
        return _decay(schedule, initial, floor, max_steps)

    return {
        "learning_rate": decay("learning_rate", hyper.learning_rate, schedules.LEARNING_RATE_FLOOR),
        "clip_range": decay("epsilon", hyper.epsilon, schedules.EPSILON_FLOOR),
        "entropy_coef": decay("beta", hyper.beta, schedules.BETA_FLOOR),
        "transform": transform(own),
        "value_loss": trust_region_value_loss if own.value_clipping else squared_value_loss,
        "normalize": behavior.network_settings.normalize,
        "sequence_length": memory.sequence_length if memory else None,
    }


def _sac(
    spec: Spec,
    behavior: TrainerSettings,
    hyper: SACSettings,
    own: OptinfraSettings,
    ignore_done: Collection[str],
) -> Learner:
    memory = behavior.network_settings.memory
    initialization = None
    if own.initialization == "orthogonal":
        initialization = networks.orthogonal_initialization(*SOFT_GAINS)
    made = _own(spec, behavior, own, networks.SoftActorCritic) or networks.soft_actor_critic(
        spec,
        tuple(behavior.reward_signals.streams.values()),
        critics=own.sac.critics,
        value_network=own.sac.value_network,
        layer_norm=own.sac.layer_norm,
        initialization=initialization,
        memory_size=memory.memory_size if memory else None,
        cell=own.recurrent_cell,
        **_sizes(behavior, own),
    )
    return sac(
        made,
        spec,
        learning_rate=_decay(
            hyper.learning_rate_schedule,
            hyper.learning_rate,
            schedules.LEARNING_RATE_FLOOR,
            behavior.max_steps,
        ),
        tau=hyper.tau,
        init_entropy_coef=hyper.init_entcoef,
        target_entropy_scale=own.sac.target_entropy_scale,
        target_critics=own.sac.target_critics,
        transform=transform(own),
        normalize=behavior.network_settings.normalize,
        sequence_length=memory.sequence_length if memory else None,
        ignore_done=ignore_done,
    )


def _decay(schedule: str, initial: float, floor: float, max_steps: int) -> Schedule:
    if schedule == "constant":
        return schedules.constant(initial)
    return schedules.linear_to_floor(initial, floor, max_steps)


def _network(
    spec: Spec, behavior: TrainerSettings, hyper: PPOSettings, own: OptinfraSettings
) -> networks.ActorCritic | networks.RecurrentActorCritic:
    """Make the actor and the critic that the settings describe."""
    if made := _own(spec, behavior, own, networks.ActorCritic, networks.RecurrentActorCritic):
        return made
    options, shared = _sizes(behavior, own), hyper.shared_critic
    if own.initialization == "orthogonal":
        options["initialization"] = networks.orthogonal_initialization()
    streams = tuple(behavior.reward_signals.streams.values())
    memory = behavior.network_settings.memory
    if memory is None:
        build = networks.shared_actor_critic if shared else networks.actor_critic
        return build(spec, streams, **options)
    options |= {"memory_size": memory.memory_size, "cell": own.recurrent_cell}
    if shared:
        return networks.shared_recurrent_actor_critic(spec, streams, **options)
    return networks.recurrent_actor_critic(spec, streams, **options)


def _group_network(
    spec: Spec, behavior: TrainerSettings, own: OptinfraSettings
) -> networks.GroupActorCritic:
    """Make the actor of an agent and the critic of its group."""
    if made := _own(spec, behavior, own, networks.GroupActorCritic):
        return made
    memory = behavior.network_settings.memory
    return networks.group_actor_critic(
        spec,
        tuple(behavior.reward_signals.streams.values()),
        memory_size=memory.memory_size if memory else None,
        cell=own.recurrent_cell,
        **_sizes(behavior, own),
    )


def _sizes(behavior: TrainerSettings, own: OptinfraSettings) -> dict[str, Any]:
    """What every network is told."""
    return {
        "hidden_units": behavior.network_settings.hidden_units,
        "num_layers": behavior.network_settings.num_layers,
        "activation": ACTIVATIONS[own.activation],
        "encoding": encoding(behavior.network_settings, own),
    }


def _own(spec: Spec, behavior: TrainerSettings, own: OptinfraSettings, *kinds: type) -> Any:
    """Make the user's own network, of one of these kinds; None where none is asked for."""
    streams = tuple(behavior.reward_signals.streams.values())
    return network(Asked(spec, streams, behavior, own), kinds)
