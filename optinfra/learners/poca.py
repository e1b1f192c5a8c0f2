"""POCA: what an agent's action was worth to its group, as ML-Agents does it."""

from collections.abc import Collection
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from optinfra import moments, random, tree
from optinfra.check import require_number
from optinfra.distributions import hybrid
from optinfra.learners.acting import (
    Acting,
    act,
    executed_log_prob,
    greedy,
    normalized,
    observe,
    policy,
)
from optinfra.learners.batch import (
    PPOBatch,
    blanked,
    check_batch,
    check_mates,
    check_sequences,
    check_streams,
    time_first,
)
from optinfra.learners.grouped import (
    alone,
    group_rollout_values,
    group_trajectory_values,
    largest_of,
    normalized_mates,
)
from optinfra.learners.proximal import (
    Clipped,
    PPOHyper,
    Scheduled,
    at,
    descend,
    explained,
    fit_loss,
    init_hyper,
    judge_policy,
    scheduled,
)
from optinfra.losses import clipped_surrogate_per_dimension, trust_region_value_loss
from optinfra.moments import Running
from optinfra.networks import GroupActorCritic
from optinfra.transforms import raveled, scale_by_adam, skip_nonfinite
from optinfra.types import (
    Key,
    Learner,
    Mates,
    Obs,
    Params,
    PyTree,
    Schedule,
    Spec,
    Stats,
    Transform,
)

BASELINE_COEF = 0.5  # of the baselines' loss beside the values'


class POCAParams(NamedTuple):
    """All that acting and valuing read."""

    weights: Params
    moments: Running  # one per vector observed; () without a normaliser
    largest: Tensor  # [] float32 ≥ 1, agents of the largest group that was learnt from


class POCAState(NamedTuple):
    """Everything that changes between updates."""

    params: POCAParams
    opt: PyTree  # state of the transform
    hyper: PPOHyper
    steps: Tensor  # [] int64, environment steps so far: the time of the schedules
    key: Key


def poca(
    network: GroupActorCritic,
    spec: Spec,
    *,
    learning_rate: Schedule | float = 3e-4,
    clip_range: Schedule | float = 0.2,
    entropy_coef: Schedule | float = 5e-3,
    value_coef: float = 0.5,
    transform: Transform | None = None,
    surrogate: Clipped = clipped_surrogate_per_dimension,
    value_loss: Clipped = trust_region_value_loss,
    normalize: bool = False,
    sequence_length: int | None = None,
    ignore_done: Collection[str] = (),
) -> Learner:
    """Learn a policy that all agents of a group follow, from what it is worth to the group.

        L = L_policy + c_v · mean over live streams of (L_value + ½·L_baseline) − β · mean entropy
        w ← w − η · u,  u the transform of ∇L

    The policy's advantages are λ-returns less the baseline b(o, mates' observations and actions),
    which knows all but what the agent itself did. Values V(o, mates' observations) and baselines
    are fitted to the same returns, the group's: an agent that has left it is paid for what
    follows, for its last value is that of the mates that go on.

    Args:
      network: policy, values and baselines; the streams are those it has values for. With a
        memory the learner learns from sequences.
      spec: sizes of observations and actions.
      learning_rate: η ≥ 0, per environment step where it is a schedule.
      clip_range: ε > 0 of the surrogate and of both value losses, likewise.
      entropy_coef: β ≥ 0, likewise.
      value_coef: c_v ≥ 0.
      transform: gradient to direction, uphill and without the learning rate; Adam with
        non-finite steps skipped unless given.
      surrogate: `losses.clipped_surrogate_per_dimension` or `losses.clipped_surrogate`.
      value_loss: `losses.trust_region_value_loss` or `losses.squared_value_loss`.
      normalize: whether observations, the mates' too, pass a running normaliser first.
      sequence_length: S, after how many steps `trajectory_values` tells a memory.
      ignore_done: streams whose bootstrap `trajectory_values` keeps at a termination.

    Returns:
      A `Learner` over `POCAState` and `PPOBatch`es with mates and baselines. Its stats are those
      of `ppo` and `baseline_loss`, all `[]`. The critic's memory is the value's and the
      baseline's, end to end. `values(params, obs, memory, reset, mates)` are of lone agents
      unless mates are given. The networks are told the number of agents in units of
      `params.largest`; `update` raises it to the largest group of its batch, evaluation uses
      the larger of it and what is evaluated, and keeps nothing.

    Raises:
      ValueError: a number is out of range; or, from the functions, a shape or the names of
        the streams disagree, or mates are missing.
      TypeError: from the functions, a flag is not bool or a choice not int64.

    Differs: from ML-Agents, where whatever is evaluated raises the number of agents that counts
    as large.
    Source: Cohen et al. 2021, https://arxiv.org/abs/2111.05992.
    """
    require_number("value_coef", value_coef, 0.0)
    recurrent = bool(tree.leaves(network.memories((1,))))
    acting = Acting(spec, hybrid(spec.action), network.policy, recurrent, normalize)
    rule = _Rule(
        acting=acting,
        network=network,
        transform=transform or skip_nonfinite(raveled(scale_by_adam())),
        surrogate=surrogate,
        value_loss=value_loss,
        schedules=scheduled(learning_rate, clip_range, entropy_coef),
        value_coef=value_coef,
    )
    return Learner(
        init=partial(_init, rule),
        memories=network.memories,
        act=partial(act, acting),
        greedy=partial(greedy, acting),
        policy=partial(policy, acting),
        distribution=acting.distribution,
        observe=partial(observe, acting),
        values=partial(_values, rule),
        executed_log_prob=partial(executed_log_prob, acting),
        update=partial(_update, rule),
        trajectory_values=group_trajectory_values(
            acting, network, sequence_length=sequence_length, ignore_done=ignore_done
        ),
        rollout_values=group_rollout_values(acting, network),
    )


class _Rule(NamedTuple):
    """What is static about one POCA."""

    acting: Acting
    network: GroupActorCritic
    transform: Transform
    surrogate: Clipped
    value_loss: Clipped
    schedules: Scheduled
    value_coef: float


def _init(rule: _Rule, key: Key) -> POCAState:
    key, key_weights = random.split(key).unbind()
    weights = rule.network.init(key_weights)
    running = moments.init_vectors(rule.acting.spec.obs, key.device)
    largest = torch.ones((), dtype=torch.float32, device=key.device)
    return POCAState(
        params=POCAParams(weights, running if rule.acting.normalize else (), largest),
        opt=rule.transform.init(weights),
        hyper=init_hyper(rule.schedules, rule.value_coef, key.device),
        steps=torch.zeros((), dtype=torch.int64, device=key.device),
        key=key,
    )


def _values(
    rule: _Rule,
    params: POCAParams,
    obs: Obs,
    memory: PyTree = (),
    reset: Tensor | None = None,
    mates: Mates | None = None,
) -> dict[str, Tensor]:
    mates = alone(obs, rule.acting.spec) if mates is None else mates
    largest = largest_of(params.largest, mates)
    memory = memory.chunk(2, -1)[0] if isinstance(memory, Tensor) else memory
    obs, mates = _seen(rule, params, obs, mates)
    return rule.network.values(params.weights, obs, mates, largest, memory, reset)[0]


def _seen(rule: _Rule, params: POCAParams, obs: Obs, mates: Mates) -> tuple[Obs, Mates]:
    """Pass all observations through the normaliser, if there is one."""
    return normalized(rule.acting, params, obs), normalized_mates(rule.acting, params, mates)


def _update(rule: _Rule, state: POCAState, batch: PPOBatch) -> tuple[POCAState, Stats]:
    if rule.acting.recurrent:
        check_sequences(batch, 0)
    check_batch(rule.acting.spec, batch)
    check_mates(rule.acting.spec, batch)
    batch = blanked(batch)
    if rule.acting.recurrent:
        batch = time_first(batch)
    batch, weights = tree.map(Tensor.detach, (batch, state.params.weights))
    params = state.params._replace(largest=largest_of(state.params.largest, batch.mates))
    state = state._replace(params=params)
    now = at(rule.schedules, state.hyper, state.steps)
    loss = partial(_loss, rule, state, now, batch)
    weights, opt, stats = descend(rule.transform, loss, weights, state.opt, now)
    return state._replace(params=params._replace(weights=weights), opt=opt), stats


def _loss(
    rule: _Rule, state: POCAState, now: Scheduled, batch: PPOBatch, weights: Params
) -> tuple[Tensor, Stats]:
    params, reset = state.params, batch.reset if rule.acting.recurrent else None
    actor, critic = batch.memory if rule.acting.recurrent else ((), ())
    obs, mates = _seen(rule, params, batch.obs, batch.mates)
    outputs, _ = rule.network.policy(weights, obs, actor, reset)
    values, baselines, _ = rule.network.values_and_baselines(
        weights, obs, mates, params.largest, critic, reset
    )
    check_streams(values, batch)
    policy = judge_policy(rule.acting, rule.surrogate, outputs, batch, now.clip_range)
    losses = {
        name: fit_loss(rule.value_loss, fitted, old, batch, now.clip_range)
        for name, fitted, old in (
            ("value_loss", values, batch.values),
            ("baseline_loss", baselines, batch.baselines),
        )
    }
    fitting = losses["value_loss"] + BASELINE_COEF * losses["baseline_loss"]
    total = policy.loss + state.hyper.value_coef * fitting - now.entropy_coef * policy.entropy
    told = {"explained_variance": explained(batch.values, batch)}
    stats = policy.stats | losses | told
    return total, {name: stat.detach() for name, stat in stats.items()}
