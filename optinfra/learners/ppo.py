"""Proximal policy optimisation, as ML-Agents does it."""

from collections.abc import Collection
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from optinfra import moments, random, tree
from optinfra.check import (
    require_integer,
    require_number,
)
from optinfra.distributions import PolicyOutputs, hybrid
from optinfra.learners.acting import (
    Acting,
    act,
    critic,
    executed_log_prob,
    greedy,
    normalized,
    observe,
    policy,
    values_of,
)
from optinfra.learners.batch import (
    PPOBatch,
    blanked,
    check_batch,
    check_sequences,
    check_streams,
    time_first,
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
from optinfra.losses import (
    clipped_surrogate_per_dimension,
    trust_region_value_loss,
)
from optinfra.moments import Running
from optinfra.networks import ActorCritic, RecurrentActorCritic, without_memory
from optinfra.transforms import raveled, scale_by_adam, skip_nonfinite
from optinfra.types import (
    Key,
    Learner,
    Memories,
    Obs,
    Params,
    PyTree,
    Schedule,
    Spec,
    Stats,
    Transform,
)
from optinfra.values import rollout_values, trajectory_values


class PPOParams(NamedTuple):
    """All that acting and valuing read."""

    weights: Params
    moments: Running  # one per vector observed; () without a normaliser


class PPOState(NamedTuple):
    """Everything that changes between updates."""

    params: PPOParams
    opt: PyTree  # state of the transform
    hyper: PPOHyper
    steps: Tensor  # [] int64, environment steps so far: the time of the schedules
    key: Key


def ppo(
    network: ActorCritic | RecurrentActorCritic,
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
    burn_in: int = 0,
    ignore_done: Collection[str] = (),
) -> Learner:
    """Maximise the clipped surrogate, fit the values, keep some entropy.

        L = L_policy + c_v · mean over live streams of L_value − β · mean entropy
        w ← w − η · u,  u the transform of ∇L

    Args:
      network: policy and values; the streams are those it has values for. With a recurrent
        one the learner remembers, and learns from sequences.
      spec: sizes of observations and actions.
      learning_rate: η ≥ 0, per environment step where it is a schedule.
      clip_range: ε > 0 of the surrogate and of the value loss, likewise.
      entropy_coef: β ≥ 0, likewise.
      value_coef: c_v ≥ 0.
      transform: gradient to direction, uphill and without the learning rate; Adam with
        non-finite steps skipped unless given.
      surrogate: `losses.clipped_surrogate_per_dimension` or `losses.clipped_surrogate`.
      value_loss: `losses.trust_region_value_loss` or `losses.squared_value_loss`.
      normalize: whether observations pass a running normaliser first.
      sequence_length: S, after how many steps `trajectory_values` tells a memory.
      burn_in: k ≥ 0; no gradient flows from step k of a sequence to those before it.
      ignore_done: streams whose bootstrap `trajectory_values` keeps at a termination.

    Returns:
      A `Learner` over `PPOState` and `PPOBatch`. Its stats, all `[]`: `policy_loss`,
      `value_loss` (mean over streams, without c_v), `entropy`, `approx_kl`,
      `clip_fraction`, `explained_variance`, `grad_norm`, `learning_rate`, `clip_range`,
      `entropy_coef`. No gradient flows through an update: new weights are detached.

    Raises:
      ValueError: a number is out of range; or, from the functions, a shape or the names of
        the streams disagree, or an observation is missing.
      TypeError: from the functions, a flag is not bool or a choice not int64.

    Source: Schulman et al. 2017, eq. 9, https://arxiv.org/abs/1707.06347.
    """
    require_number("value_coef", value_coef, 0.0)
    require_integer("burn_in", burn_in, 0)
    recurrent = isinstance(network, RecurrentActorCritic)
    whole = network if isinstance(network, RecurrentActorCritic) else without_memory(network)
    acting = Acting(spec, hybrid(spec.action), whole.policy, recurrent, normalize)
    rule = _Rule(
        acting=acting,
        network=whole,
        transform=transform or skip_nonfinite(raveled(scale_by_adam())),
        surrogate=surrogate,
        value_loss=value_loss,
        schedules=scheduled(learning_rate, clip_range, entropy_coef),
        value_coef=value_coef,
        burn_in=burn_in,
    )
    judge = critic(acting, whole.values, whole.values_and_memories)
    return Learner(
        init=partial(_init, rule),
        memories=whole.memories,
        act=partial(act, acting),
        greedy=partial(greedy, acting),
        policy=partial(policy, acting),
        distribution=acting.distribution,
        observe=partial(observe, acting),
        values=values_of(judge),
        executed_log_prob=partial(executed_log_prob, acting),
        update=partial(_update, rule),
        trajectory_values=trajectory_values(
            judge, sequence_length=sequence_length, ignore_done=ignore_done
        ),
        rollout_values=rollout_values(judge),
    )


class _Rule(NamedTuple):
    """What is static about one PPO."""

    acting: Acting
    network: RecurrentActorCritic
    transform: Transform
    surrogate: Clipped
    value_loss: Clipped
    schedules: Scheduled
    value_coef: float
    burn_in: int


def _init(rule: _Rule, key: Key) -> PPOState:
    key, key_weights = random.split(key).unbind()
    weights = rule.network.init(key_weights)
    running = moments.init_vectors(rule.acting.spec.obs, key.device)
    return PPOState(
        params=PPOParams(weights, running if rule.acting.normalize else ()),
        opt=rule.transform.init(weights),
        hyper=init_hyper(rule.schedules, rule.value_coef, key.device),
        steps=torch.zeros((), dtype=torch.int64, device=key.device),
        key=key,
    )


def _update(rule: _Rule, state: PPOState, batch: PPOBatch) -> tuple[PPOState, Stats]:
    if rule.acting.recurrent:
        check_sequences(batch, rule.burn_in)
    check_batch(rule.acting.spec, batch)
    batch = blanked(batch)
    if rule.acting.recurrent:
        batch = time_first(batch)
    # Otherwise parameters that require a gradient would keep the graph of every update so far.
    batch, weights = tree.map(Tensor.detach, (batch, state.params.weights))
    now = at(rule.schedules, state.hyper, state.steps)
    loss = partial(_loss, rule, state, now, batch)
    weights, opt, stats = descend(rule.transform, loss, weights, state.opt, now)
    return state._replace(params=state.params._replace(weights=weights), opt=opt), stats


def _run(
    rule: _Rule, weights: Params, obs: Obs, batch: PPOBatch
) -> tuple[PolicyOutputs, dict[str, Tensor]]:
    """Run both networks over the batch; a burn-in ends with a memory that has no past."""
    reset = batch.reset if rule.acting.recurrent else None
    k = rule.burn_in
    if not k:
        return rule.network.policy_and_values(weights, obs, batch.memory, reset)
    parts = []
    memory = batch.memory
    for part in (slice(0, k), slice(k, None)):
        seen, now = tree.take(obs, part), batch.reset[part]
        outputs, actor = rule.network.policy(weights, seen, memory.actor, now)
        values, critic = rule.network.values(weights, seen, memory.critic, now)
        parts.append((outputs, values))
        memory = tree.map(Tensor.detach, Memories(actor, critic))
    joined: tuple[PolicyOutputs, dict[str, Tensor]] = tree.map(lambda *xs: torch.cat(xs), *parts)
    return joined


def _loss(
    rule: _Rule, state: PPOState, now: Scheduled, batch: PPOBatch, weights: Params
) -> tuple[Tensor, Stats]:
    obs = normalized(rule.acting, state.params, batch.obs)
    outputs, values = _run(rule, weights, obs, batch)
    check_streams(values, batch)
    policy = judge_policy(rule.acting, rule.surrogate, outputs, batch, now.clip_range)
    value_loss = fit_loss(rule.value_loss, values, batch.values, batch, now.clip_range)
    total = policy.loss + state.hyper.value_coef * value_loss - now.entropy_coef * policy.entropy
    stats = policy.stats | {
        "value_loss": value_loss,
        "explained_variance": explained(batch.values, batch),
    }
    return total, {name: stat.detach() for name, stat in stats.items()}
