"""Collecting on tensor environments of groups: a pure function, as on single ones."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import vmap

from optinfra import random, tree
from optinfra.envs import GroupEnv, GroupTransition, group_autoreset
from optinfra.lift import ensemble
from optinfra.lift.epochs import Stage, unlifted
from optinfra.rollout import Group, Rollout
from optinfra.train.collect import (
    Episodes,
    Policy,
    Remember,
    every_choice,
    in_sequence,
    remembers_nothing,
)
from optinfra.types import Act, Key, Obs, PyTree, Spec


class Acting(NamedTuple):
    """What the agents of groups act on."""

    obs: Obs  # [B, A, D_i] each
    present: Tensor  # [B, A] bool; what an absent agent is shown and does is of no account
    memory: PyTree  # [B, A, M], what the policy remembers; () without memory


class GroupCollectorState(NamedTuple):
    """Where the groups stand between two rollouts."""

    env: PyTree  # [B, …]
    acting: Acting  # [B, A, …], to act on next
    returns: Tensor  # [B] float32, of the episodes under way
    lengths: Tensor  # [B] int64, of the episodes under way
    key: Key


class GroupCollector(NamedTuple):
    """Collecting: two pure functions and nothing else."""

    init: Callable[[Key], GroupCollectorState]
    collect: Callable[
        [GroupCollectorState, PyTree], tuple[GroupCollectorState, tuple[Rollout, Episodes]]
    ]


def group_collector(
    env: GroupEnv,
    policy: Policy,
    *,
    num_envs: int,
    num_steps: int,
    remember: Remember = remembers_nothing,
    stage: Stage = unlifted,
) -> GroupCollector:
    """Run many groups of a tensor environment side by side, all agents by one policy.

    Args:
      env: of one group of A agents.
      policy: a learner's `act`.
      num_envs: B ≥ 1 groups.
      num_steps: T ≥ 1, steps per rollout.
      remember: what the policy begins an episode with, for one that remembers:
        `lambda rows, device: learner.memories(rows, device).actor`.
      stage: applied to the step, such as `lift.compiled`, or
        `lambda f: compiled(ensemble(f))` for members with stacked states.

    Returns:
      A `GroupCollector`; `collect(state, params)` returns `[T, B, A]` steps and the episodes
      `[T, B]` of whole groups. The return of such a one is what all its agents were paid, and
      once what the group was.
    """
    follow = vmap(group_autoreset(env))

    def init(key: Key) -> GroupCollectorState:
        key, key_reset = random.split(key).unbind()
        state, obs, present = ensemble(env.reset)(random.split(key_reset, num_envs))
        returns = torch.zeros(num_envs, device=key.device)
        lengths = torch.zeros(num_envs, dtype=torch.int64, device=key.device)
        memory = remember((num_envs, env.agents), key.device)
        return GroupCollectorState(state, Acting(obs, present, memory), returns, lengths, key)

    def step(
        state: GroupCollectorState, params: PyTree
    ) -> tuple[GroupCollectorState, tuple[Rollout, Episodes]]:
        key, key_act, key_env = random.split(state.key, 3).unbind()
        act = policy(params, state.acting.obs, state.acting.memory, key_act)
        env_state, then = follow(state.env, act.executed, random.split(key_env, num_envs))
        acting, rollout = recorded(env.spec, state.acting, act, then)
        ended = then.terminated | then.truncated
        paid = rollout.rewards.sum(-1) + then.group_reward
        episodes = Episodes(ended, state.returns + paid, state.lengths + 1)
        state = GroupCollectorState(
            env=env_state,
            acting=acting,
            returns=torch.where(ended, 0.0, episodes.returns),
            lengths=torch.where(ended, 0, episodes.lengths),
            key=key,
        )
        return state, (rollout, episodes)

    return GroupCollector(init, in_sequence(stage(step), num_steps))


def recorded(spec: Spec, acting: Acting, act: Act, then: GroupTransition) -> tuple[Acting, Rollout]:
    """Record one step of B groups, and tell what they act on next.

    An agent's episode is terminated where it leaves, and where its group ends; what it
    remembers ends with the episode, and whoever comes to an empty place remembers nothing.

    Args:
      spec: of each agent.
      acting: what was acted on.
      act: what was done, `[B, A, …]`.
      then: what followed: `[B, A, …]`, of groups `[B]`.

    Returns:
      What is acted on next, and the step, `[B, A, …]`.
    """
    present = acting.present
    ended, cut = (end[..., None].expand_as(present) for end in (then.terminated, then.truncated))
    terminated, truncated = present & (ended | ~then.next_present), present & cut
    rollout = Rollout(
        obs=acting.obs,
        next_obs=then.next_obs,
        action=act.action,
        executed=act.executed,
        action_mask=every_choice(spec, present.numel(), present.device).unflatten(0, present.shape),
        log_prob=act.log_prob,
        rewards=torch.where(present, then.reward, 0.0),
        terminated=terminated,
        truncated=truncated,
        mask=present,
        memory=acting.memory,
        group=Group(then.group_reward[..., None].expand_as(then.reward), ended, then.next_present),
    )
    remembers = present & ~(terminated | truncated)
    memory = tree.blank(remembers, act.memory)
    return Acting(then.obs, then.present, memory), rollout
