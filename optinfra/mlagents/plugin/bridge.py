"""An optimizer that learns here and is known to ML-Agents, whose policy acts."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from mlagents.trainers.optimizer.torch_optimizer import TorchOptimizer as UpstreamOptimizer

from optinfra.mlagents.actor import SharedActorCritic, SimpleActor
from optinfra.mlagents.compiling import are_compiled
from optinfra.mlagents.exchange import OWN, STEP, View, export_modules, import_modules
from optinfra.mlagents.layout import POLICY
from optinfra.mlagents.modules import StateDict
from optinfra.mlagents.optimizer import (
    Critic,
    TorchOptimizer,
    TorchPOCAOptimizer,
    TorchPPOOptimizer,
    TorchSACOptimizer,
)
from optinfra.mlagents.options import settings_of
from optinfra.mlagents.policy import TorchPolicy

OPTIMIZERS: Mapping[str, type[TorchOptimizer]] = {
    "ppo": TorchPPOOptimizer,
    "sac": TorchSACOptimizer,
    "poca": TorchPOCAOptimizer,
}
Save = Callable[[], dict[str, Any]]
Load = Callable[[StateDict], None]
TRAINER = "optinfra:trainer"  # the module that holds what the trainer itself has come to


class Bridge(UpstreamOptimizer):
    """What ML-Agents takes for one of its optimizers.

    Args:
      policy: ML-Agents'. It acts, and `push` gives it the weights that were learnt.
      trainer_settings: ML-Agents'.
      trainer: how what the trainer has come to is saved and loaded.
    """

    def __init__(self, policy: Any, trainer_settings: Any, trainer: tuple[Save, Load]) -> None:
        # ML-Agents' own is not called: it would make networks and signals a second time.
        settings = settings_of(trainer_settings)
        kind = settings.trainer_type
        given: dict[str, Any] = {}
        actor: type[SimpleActor] = SimpleActor
        if getattr(settings.hyperparameters, "shared_critic", False):
            actor = SharedActorCritic
            given["stream_names"] = list(settings.reward_signals.streams.values())
        if kind == "sac":
            given |= {"conditional_sigma": True, "tanh_squash": True}
        own = TorchPolicy(
            policy.seed, policy.behavior_spec, settings.network_settings, actor, given
        )
        own.load_weights(policy.actor.state_dict())
        self.policy, self.trainer_settings = policy, trainer_settings
        self.own = OPTIMIZERS[kind](own, settings, compiled=are_compiled(trainer_settings))
        self.reward_signals = self.own.reward_signals
        self.bc_module = self.own.bc_module
        self._trainer = trainer
        self._loaded: dict[str, StateDict] = {}

    @property
    def critic(self) -> Critic:
        """What tells values."""
        return self.own.critic

    @property
    def critic_memory_dict(self) -> dict[str, Any]:
        """What the critic remembers of each agent that lives."""
        return self.own.critic_memory_dict

    def keep_time(self) -> None:
        """Let learning know how far training is."""
        self.own.policy.set_step(self.policy.get_current_step())

    def update(self, batch: Any, num_sequences: int = 0) -> dict[str, float]:
        """Learn from one minibatch."""
        self.keep_time()
        return self.own.update(batch, num_sequences)

    def update_reward_signals(self, batch: Any) -> dict[str, float]:
        """Let every reward signal learn from one minibatch."""
        return self.own.update_reward_signals(batch)

    def push(self) -> None:
        """Give the policy that acts the weights and the normaliser that were learnt."""
        learnt, acting = self.own.policy.actor.state_dict(), self.policy.actor.state_dict()
        with torch.no_grad():
            for name, x in acting.items():
                if name in learnt:
                    x.copy_(learnt[name])

    def pull(self) -> None:
        """Take what ML-Agents has loaded, the policy's weights too.

        Raises:
          ValueError: it does not fit the settings.
        """
        weights = self.policy.actor.state_dict()
        if self._loaded:
            import_modules(self.own, {**self._loaded, POLICY: weights})
            if TRAINER in self._loaded:
                self._trainer[1](self._loaded[TRAINER])
        else:
            self.own.policy.load_weights(weights)
        self._loaded = {}
        self.keep_time()

    def get_modules(self) -> dict[str, View]:
        """Give what is saved beside the policy."""
        names = [name for name in export_modules(self.own) if name not in (POLICY, STEP)]
        views = {name: self._view(name) for name in names}
        views[TRAINER] = View(self._trainer[0], lambda given: self._keep(TRAINER, given))
        return views

    def _view(self, name: str) -> View:
        return View(lambda: export_modules(self.own)[name], lambda given: self._keep(name, given))

    def _keep(self, name: str, given: StateDict) -> None:
        """Keep what was loaded until all of it is there."""
        self._loaded[name] = given


__all__ = ["OWN", "TRAINER", "Bridge"]
