"""Where rollouts of groups come from: tensor environments or PettingZoo's."""

from typing import NamedTuple

import torch
from torch import Tensor

from optinfra import random, tree
from optinfra.envs import GroupEnv, GroupTransition, GroupVectorStep, PettingZooGroups
from optinfra.lift.epochs import Stage
from optinfra.rollout import Rollout
from optinfra.train.collect import Policy, Remember, remembers_nothing
from optinfra.train.collect_groups import Acting, group_collector, recorded
from optinfra.train.errors import RunError
from optinfra.train.sources import Ended, listed
from optinfra.types import Act, Action, Key, PyTree


class TensorGroupSource:
    """Rollouts of a group environment written in tensors: everything is in the state."""

    exact = True

    def __init__(
        self,
        env: GroupEnv,
        policy: Policy,
        *,
        num_envs: int,
        num_steps: int,
        stage: Stage,
        remember: Remember = remembers_nothing,
    ) -> None:
        """Prepare B = `num_envs` groups and rollouts of T = `num_steps`."""
        self.lanes = num_envs
        self._collector = group_collector(
            env, policy, num_envs=num_envs, num_steps=num_steps, stage=stage, remember=remember
        )

    def init(self, key: Key) -> PyTree:
        """Begin an episode with every group."""
        return self._collector.init(key)

    def collect(self, state: PyTree, params: PyTree) -> tuple[PyTree, Rollout, Ended]:
        """Act T times in every group."""
        state, (rollout, episodes) = self._collector.collect(state, params)
        return state, rollout, listed(episodes)

    def close(self) -> None:
        """Do nothing: there is nothing to release."""


class PettingZooState(NamedTuple):
    """What a checkpoint can hold of a PettingZoo environment: nothing of the simulation."""

    key: Key


class PettingZooSource:
    """Rollouts of PettingZoo's environments: the simulation itself cannot be saved."""

    exact = False

    def __init__(
        self,
        envs: PettingZooGroups,
        policy: Policy,
        *,
        num_steps: int,
        stage: Stage,
        seed: int,
        remember: Remember = remembers_nothing,
    ) -> None:
        """Seed and reset the environments; rollouts have T = `num_steps`.

        Raises:
          RunError: an environment says what is not finite, or what no such one may say; or
            later, from `collect`.
        """

        def draw_keys(key: Key) -> Tensor:
            return random.split(key, num_steps + 1)

        def explore(acting: Acting, params: PyTree, key: Key) -> Act:
            return policy(params, acting.obs, acting.memory, key)

        def record(acting: Acting, act: Act, then: GroupTransition) -> tuple[Acting, Rollout]:
            return recorded(envs.spec, acting, act, then)

        self.lanes = envs.num_groups
        self._envs, self._remember = envs, remember
        self._draw_keys, self._explore = stage(draw_keys), stage(explore)
        self._record = stage(record)
        try:
            self._first = envs.reset(seed=seed)
        except ValueError as error:
            raise RunError(str(error)) from error

    def init(self, key: Key) -> PettingZooState:
        """Begin with this key, and with nothing remembered."""
        obs, present = tree.map(lambda x: torch.from_numpy(x).to(key.device), self._first)
        self._acting = Acting(obs, present, self._remember(tuple(present.shape), key.device))
        return PettingZooState(key)

    def collect(
        self, state: PettingZooState, params: PyTree
    ) -> tuple[PettingZooState, Rollout, Ended]:
        """Act T times in every group."""
        key, *keys = self._draw_keys(state.key).unbind()
        ended, steps = Ended(), []
        for key_act in keys:
            act = self._explore(self._acting, params, key_act)
            step = self._follow(act.executed)
            told = (getattr(step, field) for field in GroupTransition._fields)
            then = tree.map(lambda x: torch.from_numpy(x).to(key.device), GroupTransition(*told))
            self._acting, record = self._record(self._acting, act, then)
            steps.append(record)
            ended += step.episodes
        return PettingZooState(key), tree.stack(steps), ended

    def close(self) -> None:
        """Close the environments."""
        self._envs.close()

    def _follow(self, executed: Action) -> GroupVectorStep:
        try:
            return self._envs.step(tree.map(Tensor.cpu, executed))
        except ValueError as error:
            raise RunError(str(error)) from error
