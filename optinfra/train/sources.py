"""Where rollouts come from: tensor environments or Gymnasium's, behind one face.

Those of groups are in `group_sources`.
"""

from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from optinfra import random, tree
from optinfra.envs import Env, Episode, GymnasiumVector, VectorStep
from optinfra.iteration import Rollout
from optinfra.lift.epochs import Stage
from optinfra.train.collect import (
    Collector,
    Episodes,
    Policy,
    Remember,
    collector,
    every_choice,
    remembers_nothing,
)
from optinfra.train.errors import RunError
from optinfra.types import Act, Action, Key, Obs, PyTree, Spec

Ended = list[Episode]  # the episodes that ended, in the order of time


class Source(Protocol):
    """Collects rollouts. What it needs to go on is its state, apart from a running simulator."""

    exact: bool  # whether collecting goes on from a saved state as if never stopped
    lanes: int  # episodes under way at once, numbered from 0: of environments, or of groups

    def init(self, key: Key) -> PyTree:
        """Begin episodes."""

    def collect(self, state: PyTree, params: PyTree) -> tuple[PyTree, Rollout, Ended]:
        """Act for one rollout."""

    def close(self) -> None:
        """Release the environments."""


class TensorSource:
    """Rollouts of an environment written in tensors: everything is in the state."""

    exact = True

    def __init__(
        self,
        env: Env,
        policy: Policy,
        *,
        num_envs: int,
        num_steps: int,
        stage: Stage,
        remember: Remember = remembers_nothing,
    ) -> None:
        """Prepare B = `num_envs` copies and rollouts of T = `num_steps`."""
        self.lanes = num_envs
        self._collector: Collector = collector(
            env, policy, num_envs=num_envs, num_steps=num_steps, stage=stage, remember=remember
        )

    def init(self, key: Key) -> PyTree:
        """Begin an episode in every copy."""
        return self._collector.init(key)

    def collect(self, state: PyTree, params: PyTree) -> tuple[PyTree, Rollout, Ended]:
        """Act T times in every copy."""
        state, (rollout, episodes) = self._collector.collect(state, params)
        return state, rollout, listed(episodes)

    def close(self) -> None:
        """Do nothing: there is nothing to release."""


def listed(episodes: Episodes) -> Ended:
    """List the episodes `[T, B]` that ended, in the order of time."""
    lanes = episodes.ended.nonzero()[:, 1].tolist()
    returns = episodes.returns[episodes.ended].tolist()
    lengths = episodes.lengths[episodes.ended].tolist()
    return [Episode(*each) for each in zip(lanes, returns, lengths)]


class GymnasiumState(NamedTuple):
    """What a checkpoint can hold of a Gymnasium environment: nothing of the simulation."""

    key: Key


class GymnasiumSource:
    """Rollouts of a Gymnasium vector environment: the simulation itself cannot be saved."""

    exact = False

    def __init__(
        self,
        envs: GymnasiumVector,
        policy: Policy,
        *,
        num_steps: int,
        stage: Stage,
        seed: int,
        remember: Remember = remembers_nothing,
    ) -> None:
        """Seed and reset the environments; rollouts have T = `num_steps`.

        Raises:
          RunError: an observation is not finite; or later, from `collect`, this or a reward.
        """

        def draw_keys(key: Key) -> Tensor:
            return random.split(key, num_steps + 1)

        def explore(
            key: Key, params: PyTree, obs: Obs, memory: PyTree, over: Tensor
        ) -> tuple[Key, PyTree, Act]:
            following = key
            if num_steps == 1:  # no call for the sake of two keys
                following, key = random.split(key).unbind()
            before = tree.blank(~over, memory)
            return following, before, policy(params, obs, before, key)

        self.lanes = envs.num_envs
        self._remember = remember
        self._envs, self._steps = envs, num_steps
        self._draw_keys, self._explore = stage(draw_keys), stage(explore)
        try:
            self._obs = envs.reset(seed=seed)
        except ValueError as error:
            raise RunError(str(error)) from error

    def init(self, key: Key) -> GymnasiumState:
        """Begin with this key, and with nothing remembered."""
        self._memory = self._remember((self._envs.num_envs,), key.device)
        self._over = np.zeros(self._envs.num_envs, dtype=bool)
        return GymnasiumState(key)

    def collect(
        self, state: GymnasiumState, params: PyTree
    ) -> tuple[GymnasiumState, Rollout, Ended]:
        """Act T times in every environment."""
        device = state.key.device
        key, keys = state.key, [state.key]
        if self._steps > 1:
            key, *keys = self._draw_keys(key).unbind()
        ended = Ended()
        buffer = _Buffer(self._envs.spec, self._steps, self._envs.num_envs)
        acts = []
        for t, key_act in enumerate(keys):
            obs = tuple(torch.from_numpy(x).to(device) for x in self._obs)
            over = torch.from_numpy(self._over).to(device)
            following, before, act = self._explore(key_act, params, obs, self._memory, over)
            key = following if self._steps == 1 else key
            executed = Action(act.executed.continuous.cpu(), act.executed.discrete.cpu())
            step = self._follow(executed)
            buffer.put(t, self._obs, step)
            acts.append((act.action, act.executed, act.log_prob, before))
            self._obs, self._memory = step.obs, act.memory
            self._over = step.terminated | step.truncated | ~step.mask
            ended += step.episodes
        action, executed, log_prob, memory = tree.stack(acts)
        rollout = buffer.rollout(action, executed, log_prob, self._envs.spec, device)
        return GymnasiumState(key), rollout._replace(memory=memory), ended

    def close(self) -> None:
        """Close the environments."""
        self._envs.close()

    def _follow(self, executed: Action) -> VectorStep:
        try:
            return self._envs.step(executed)
        except ValueError as error:
            raise RunError(str(error)) from error


class _Buffer:
    """Arrays `[T, B, …]` that one rollout fills."""

    def __init__(self, spec: Spec, steps: int, envs: int) -> None:
        def array(*shape: int, dtype: Any = np.float32) -> np.ndarray:
            return np.empty((steps, envs, *shape), dtype=dtype)

        dtypes = [np.uint8 if i in spec.bytes else np.float32 for i in range(len(spec.obs))]
        self._obs, self._next_obs = (
            [array(*shape, dtype=dtype) for shape, dtype in zip(spec.obs, dtypes)] for _ in range(2)
        )
        self._rewards = array()
        self._flags = [array(dtype=bool) for _ in range(3)]

    def put(self, t: int, obs: tuple[np.ndarray, ...], step: VectorStep) -> None:
        for rows, x in zip(self._obs + self._next_obs, obs + step.next_obs):
            rows[t] = x
        self._rewards[t] = step.reward
        for rows, flag in zip(self._flags, (step.terminated, step.truncated, step.mask)):
            rows[t] = flag

    def rollout(
        self, action: Action, executed: Action, log_prob: Tensor, spec: Spec, device: torch.device
    ) -> Rollout:
        def tensor(array: np.ndarray) -> Tensor:
            return torch.from_numpy(array).to(device)

        steps, envs = self._rewards.shape
        everything = every_choice(spec, steps * envs, device)
        terminated, truncated, mask = map(tensor, self._flags)
        return Rollout(
            obs=tuple(map(tensor, self._obs)),
            next_obs=tuple(map(tensor, self._next_obs)),
            action=action,
            executed=executed,
            action_mask=everything.reshape(steps, envs, spec.action.choices),
            log_prob=log_prob,
            rewards=tensor(self._rewards),
            terminated=terminated,
            truncated=truncated,
            mask=mask,
        )
