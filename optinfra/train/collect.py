"""Collecting on tensor environments: a pure function, so that a whole run can be lifted."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.func import vmap

from optinfra import random, tree
from optinfra.envs import Env, autoreset
from optinfra.iteration import Rollout
from optinfra.lift import ensemble
from optinfra.lift.epochs import Stage, unlifted
from optinfra.types import Act, Key, Obs, PyTree, Spec

Policy = Callable[[PyTree, Obs, PyTree, Key], Act]  # a learner's `act`, or one that is greedy
Remember = Callable[[tuple[int, ...], torch.device], PyTree]  # (rows, device) -> empty memories


class Episodes(NamedTuple):
    """Return and length of the episodes of a rollout; they count where one ended."""

    ended: Tensor  # [T, B] bool
    returns: Tensor  # [T, B] float32, sum of the rewards so far
    lengths: Tensor  # [T, B] int64, steps so far


class CollectorState(NamedTuple):
    """Where the environments stand between two rollouts."""

    env: PyTree  # [B, …]
    obs: Obs  # [B, D_i] each, to act on next
    returns: Tensor  # [B] float32, of the episodes under way
    lengths: Tensor  # [B] int64, of the episodes under way
    memory: PyTree  # [B, M], what the policy remembers of them; () without memory
    key: Key


class Collector(NamedTuple):
    """Collecting: two pure functions and nothing else."""

    init: Callable[[Key], CollectorState]
    collect: Callable[[CollectorState, PyTree], tuple[CollectorState, tuple[Rollout, Episodes]]]


def remembers_nothing(rows: tuple[int, ...], device: torch.device) -> PyTree:
    """Remember for a policy that does not."""
    del rows, device
    return ()


def collector(
    env: Env,
    policy: Policy,
    *,
    num_envs: int,
    num_steps: int,
    remember: Remember = remembers_nothing,
    stage: Stage = unlifted,
) -> Collector:
    """Run many copies of a tensor environment side by side.

    Args:
      env: one environment.
      policy: a learner's `act`.
      num_envs: B ≥ 1.
      num_steps: T ≥ 1, steps per rollout.
      remember: what the policy begins an episode with, for one that remembers:
        `lambda rows, device: learner.memories(rows, device).actor`.
      stage: applied to the step, such as `lift.compiled`, or
        `lambda f: compiled(ensemble(f))` for members with stacked states.

    Returns:
      A `Collector`; `collect(state, params)` returns `[T, B]` steps.
    """
    follow = vmap(autoreset(env))

    def init(key: Key) -> CollectorState:
        key, key_reset = random.split(key).unbind()
        state, obs = ensemble(env.reset)(random.split(key_reset, num_envs))
        returns = torch.zeros(num_envs, device=key.device)
        lengths = torch.zeros(num_envs, dtype=torch.int64, device=key.device)
        memory = remember((num_envs,), key.device)
        return CollectorState(state, obs, returns, lengths, memory, key)

    def step(
        state: CollectorState, params: PyTree
    ) -> tuple[CollectorState, tuple[Rollout, Episodes]]:
        key, key_act, key_env = random.split(state.key, 3).unbind()
        act = policy(params, state.obs, state.memory, key_act)
        env_state, then = follow(state.env, act.executed, random.split(key_env, num_envs))
        ended = then.terminated | then.truncated
        episodes = Episodes(ended, state.returns + then.reward, state.lengths + 1)
        rollout = Rollout(
            obs=state.obs,
            next_obs=then.next_obs,
            action=act.action,
            executed=act.executed,
            action_mask=every_choice(env.spec, num_envs, key.device),
            log_prob=act.log_prob,
            rewards=then.reward,
            terminated=then.terminated,
            truncated=then.truncated,
            mask=torch.ones_like(ended),
            memory=state.memory,
        )
        state = CollectorState(
            env=env_state,
            obs=then.obs,
            returns=torch.where(ended, 0.0, episodes.returns),
            lengths=torch.where(ended, 0, episodes.lengths),
            memory=tree.blank(~ended, act.memory),
            key=key,
        )
        return state, (rollout, episodes)

    return Collector(init, in_sequence(stage(step), num_steps))


def in_sequence(
    step: Callable[[Any, PyTree], tuple[Any, tuple[Rollout, Episodes]]], num_steps: int
) -> Callable[[Any, PyTree], tuple[Any, tuple[Rollout, Episodes]]]:
    """Take so many steps one after the other, and stack what each of them tells."""

    def collect(state: Any, params: PyTree) -> tuple[Any, tuple[Rollout, Episodes]]:
        steps = []
        for _ in range(num_steps):
            state, record = step(state, params)
            steps.append(record)
        time = state.key.ndim - 1  # time leads within a member; `ensemble` puts members first
        return state, tree.map(lambda *xs: torch.stack(xs, time), *steps)

    return collect


def every_choice(spec: Spec, rows: int, device: torch.device | None = None) -> Tensor:
    """Make the mask `[rows, choices]` that forbids nothing."""
    return torch.ones(rows, spec.action.choices, dtype=torch.bool, device=device)
