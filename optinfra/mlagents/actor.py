"""Actors: what chooses actions, with the weights it does so with."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from optinfra import moments, random, tree
from optinfra.distributions import PolicyOutputs, categorical_log_probs, mask_logits
from optinfra.mlagents import layout, modules
from optinfra.mlagents.actions import ActionLogProbs, AgentAction, action_of, agent_action
from optinfra.mlagents.columns import Columns
from optinfra.mlagents.options import read_as
from optinfra.mlagents.specs import ActionSpec, BehaviorSpec, ObservationSpec, spec_of
from optinfra.moments import Running
from optinfra.settings import NetworkSettings, OptinfraSettings, TrainerSettings
from optinfra.train.learners import learner
from optinfra.types import Action, Key, Params, Trajectory

EXTRINSIC = ("extrinsic",)


class Held(NamedTuple):
    """What acting reads."""

    weights: Params
    moments: Running  # one per vector observed; () without a normaliser


class SimpleActor:
    """A policy's network and its weights.

    Args:
      observation_specs: what is seen.
      network_settings: sizes.
      action_spec: what is done.
      conditional_sigma: whether the deviation is a function of what is seen, as SAC has it.
      tanh_squash: whether actions are squashed into [−1, 1], as SAC has them. Both or neither.

    Raises:
      ValueError: an observation is of no known kind, or only one of the two is asked for.
    """

    shared = False
    stream_names: Sequence[str] = EXTRINSIC

    def __init__(
        self,
        observation_specs: Sequence[ObservationSpec],
        network_settings: NetworkSettings,
        action_spec: ActionSpec,
        conditional_sigma: bool = False,
        tanh_squash: bool = False,
    ) -> None:
        if conditional_sigma != tanh_squash:
            raise ValueError(
                f"`tanh_squash` must be what `conditional_sigma` is, {conditional_sigma}, "
                f"got {tanh_squash}."
            )
        self.observation_specs, self.action_spec = observation_specs, action_spec
        self.network_settings = read_as(NetworkSettings, network_settings)
        self.squashed = tanh_squash
        self.spec = spec_of(BehaviorSpec(list(observation_specs), action_spec))
        behavior = self._behavior()
        self.learner = learner(self.spec, behavior, OptinfraSettings())
        self.begin(random.key(0))

    def _behavior(self) -> TrainerSettings:
        """Write settings of a learner with such an actor; what else it has is not used."""
        memory = self.network_settings.memory
        rows = memory.sequence_length if memory else 1
        hyper: dict[str, Any] = {"batch_size": rows, "buffer_size": rows}
        if self.shared:
            hyper["shared_critic"] = True
        streams = {name: {"demo_path": "-"} if name == "gail" else {} for name in self.stream_names}
        return TrainerSettings.model_validate(
            {
                "trainer_type": "sac" if self.squashed else "ppo",
                "hyperparameters": hyper,
                "network_settings": self.network_settings,
                "reward_signals": streams,
            }
        )

    def begin(self, key: Key) -> None:
        """Draw weights, and forget what the normaliser knows."""
        self.key, drawn = random.split(key).unbind()
        params = self.learner.init(drawn).params
        self.held = Held(self.own(params.weights), params.moments)
        self._names = list(self.held.weights)  # in the order in which they were made

    def own(self, weights: Params) -> Params:
        """Take an actor's weights out of a learner's."""
        if self.shared:
            return dict(weights)
        return {name: x for name, x in weights.items() if name.startswith("actor.")}

    @property
    def memory_size(self) -> int:
        """M, numbers that are remembered; 0 without a memory."""
        zeros = self.learner.memories((1,)).actor
        return zeros.shape[-1] if isinstance(zeros, Tensor) else 0

    def zeros(self, rows: int) -> Any:
        """Give what `rows` agents remember at first, `[rows, M]`."""
        return self.learner.memories((rows,), self.key.device).actor

    # --- acting -----------------------------------------------------------------------------

    def get_action_and_stats(
        self,
        inputs: Sequence[Tensor],
        masks: Tensor | None = None,
        memories: Tensor | None = None,
        sequence_length: int = 1,
    ) -> tuple[AgentAction, dict[str, Any], Tensor | None]:
        """Draw an action for each row.

        Args:
          inputs: observations `[rows, *shape]`.
          masks: `[rows, N]`, 1 where a choice is allowed; None where all are.
          memories: `[1, rows, M]`.
          sequence_length: 1: one acts step by step.

        Returns:
          Actions; `env_action`, `log_probs` and `entropy` `[rows]`; memories after this step.

        Raises:
          ValueError: a shape disagrees.
        """
        if sequence_length != 1:
            raise ValueError(f"`sequence_length` must be 1 to act, got {sequence_length}.")
        obs = self._read(inputs)
        before = () if memories is None else memories[0]
        outputs, after = self.learner.policy(self.held, obs, before)
        outputs = self._masked(outputs, masks)
        self.key, key = random.split(self.key).unbind()
        if self.network_settings.deterministic:
            action = self.learner.distribution.mode(outputs)
            log_prob = self.learner.distribution.log_prob(outputs, action)
        else:
            action, log_prob = self.learner.distribution.sample(outputs, key)
        executed = agent_action(self.spec, self.learner.distribution.executed(action))
        stats = {
            "env_action": executed.to_action_tuple(),
            "log_probs": self._log_probs(outputs, log_prob),
            "entropy": self.learner.distribution.entropy(outputs),
        }
        later = after[None] if isinstance(after, Tensor) else memories
        return agent_action(self.spec, action), stats, later

    def get_stats(
        self,
        inputs: Sequence[Tensor],
        actions: Any,
        masks: Tensor | None = None,
        memories: Tensor | None = None,
        sequence_length: int = 1,
    ) -> dict[str, Any]:
        """Tell how likely actions are.

        Args:
          inputs: observations `[rows, *shape]`, one sequence after another.
          actions: an `AgentAction` of as many rows, as drawn.
          masks: `[rows, N]`, 1 where a choice is allowed; None where all are.
          memories: `[1, rows / S, M]`, what each sequence begins with.
          sequence_length: S.

        Returns:
          `log_probs` and `entropy` `[rows]`.

        Raises:
          ValueError: a shape disagrees.
        """
        obs = self._read(inputs)
        rows = len(obs[0])
        outputs = self._outputs(obs, memories, sequence_length)
        outputs = self._masked(outputs, masks)
        action: Action = action_of(self.spec, actions, rows)
        log_prob = self.learner.distribution.log_prob(outputs, action)
        return {
            "log_probs": self._log_probs(outputs, log_prob),
            "entropy": self.learner.distribution.entropy(outputs),
        }

    def _outputs(self, obs: Any, memories: Tensor | None, length: int) -> PolicyOutputs:
        if not self.memory_size:
            outputs: PolicyOutputs = self.learner.policy(self.held, obs, ())[0]
            return outputs
        count = len(obs[0]) // length
        memory = self.zeros(count) if memories is None else memories[0]
        steps = tree.map(lambda x: x.unflatten(0, (count, length)).movedim(1, 0), obs)
        each = []
        for t in range(length):
            now, memory = self.learner.policy(self.held, tree.take(steps, t), memory)
            each.append(now)
        joined: PolicyOutputs = tree.map(lambda *xs: torch.stack(xs, 1).flatten(0, 1), *each)
        return joined

    def _read(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return tuple(torch.as_tensor(x, dtype=torch.float32, device=self.key.device)
                     for x in inputs)  # fmt: skip

    def _masked(self, outputs: PolicyOutputs, masks: Tensor | None) -> PolicyOutputs:
        if masks is None or not self.spec.action.branches:
            return outputs
        allowed = torch.as_tensor(masks, device=self.key.device).bool()
        return outputs._replace(logits=mask_logits(outputs.logits, allowed))

    def _log_probs(self, outputs: PolicyOutputs, log_prob: Tensor) -> ActionLogProbs:
        sizes = self.spec.action
        branches = sizes.branches
        choices = outputs.logits.split(branches, -1) if branches else ()
        return ActionLogProbs(
            log_prob[..., : sizes.continuous] if sizes.continuous else None,
            list(log_prob[..., sizes.continuous :].unbind(-1)) if branches else None,
            [categorical_log_probs(x) for x in choices] if branches else None,
        )

    # --- its state --------------------------------------------------------------------------

    def update_normalization(self, buffer: Mapping[Any, Any]) -> None:
        """Let the normaliser, if there is one, take in the observations of a buffer."""
        if not self.held.moments:
            return
        columns = Columns(buffer, device=self.key.device)
        obs = tuple(columns.tensor(f"obs:{i}", shape) for i, shape in enumerate(self.spec.obs))
        every = torch.ones(len(obs[0]), dtype=torch.bool, device=self.key.device)
        running = moments.update_vectors(self.held.moments, obs, every)
        self.held = self.held._replace(moments=running)

    def state_dict(self) -> dict[str, Tensor]:
        """Give its parameters by ML-Agents' names."""
        own, one = self.held, layout.policy(self._names, self.spec, shared=self.shared)
        about = modules.metadata(self.spec, self.memory_size)
        return about | modules.state_dicts([one], {"weights": own.weights}, own.moments)[one.name]

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True) -> None:
        """Take parameters by ML-Agents' names, all of them or none.

        Raises:
          ValueError: one is missing, unknown or of another shape. `strict` changes nothing.
        """
        del strict
        one = layout.policy(self._names, self.spec, shared=self.shared)
        given = {one.name: state_dict}
        read = modules.read([one], given, {"weights": self.held.weights})
        running = modules.read_moments(one, given, self.held.moments)
        self.held = Held(read["weights"], running)


class SharedActorCritic(SimpleActor):
    """A policy's network that also tells values, by the same body.

    Args:
      observation_specs: what is seen.
      network_settings: sizes.
      action_spec: what is done.
      stream_names: reward signals, each of which has a value.
      conditional_sigma: see `SimpleActor`.
      tanh_squash: see `SimpleActor`; SAC shares no body.

    Raises:
      ValueError: see `SimpleActor`, or actions are squashed.
    """

    shared = True

    def __init__(
        self,
        observation_specs: Sequence[ObservationSpec],
        network_settings: NetworkSettings,
        action_spec: ActionSpec,
        stream_names: Sequence[str],
        conditional_sigma: bool = False,
        tanh_squash: bool = False,
    ) -> None:
        if tanh_squash:
            raise ValueError("`tanh_squash` must be False with a shared critic, got True.")
        self.stream_names = tuple(stream_names)
        super().__init__(
            observation_specs, network_settings, action_spec, conditional_sigma, tanh_squash
        )

    def critic_pass(
        self,
        inputs: Sequence[Tensor],
        memories: Tensor | None = None,
        sequence_length: int = 1,
    ) -> tuple[dict[str, Tensor], Tensor | None]:
        """Tell values; see `Critic.critic_pass`."""
        return critic_pass(self.learner, self.held, self._read(inputs), memories, sequence_length)


def critic_pass(
    learner: Any, params: Any, obs: tuple[Tensor, ...], memories: Tensor | None, length: int
) -> tuple[dict[str, Tensor], Tensor | None]:
    """Value rows `[rows, …]`, one sequence after another, with what each begins with.

    Returns:
      Values `[rows]` by stream, and memories `[1, rows / S, M]` after the sequences.
    """
    count = len(obs[0]) // length
    zeros = learner.memories((count,), obs[0].device).critic
    memory = zeros if memories is None or not isinstance(zeros, Tensor) else memories[0]
    steps = tree.map(lambda x: x.unflatten(0, (count, length)).movedim(1, 0), obs)
    one = Trajectory(steps, memory, (), (), ())
    last = tree.take(steps, -1)
    no = torch.zeros(count, dtype=torch.bool, device=obs[0].device)
    out = learner.trajectory_values(params, one, last, no)
    values = {name: x.movedim(0, 1).flatten() for name, x in out.values.items()}
    after = out.final_memory
    return values, after[None] if isinstance(after, Tensor) else memories
