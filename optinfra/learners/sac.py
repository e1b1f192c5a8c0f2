"""Soft actor-critic, as ML-Agents does it: a value network with a target beside the Qs."""

import math
from collections.abc import Collection
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import grad_and_value

from optinfra import moments, random, tree
from optinfra.check import require_integer, require_number
from optinfra.distributions import (
    mask_logits,
    squashed,
)
from optinfra.learners import soft_losses
from optinfra.learners.acting import (
    Acting,
    act,
    critic,
    executed_log_prob,
    greedy,
    normalized,
    observe,
    values_of,
)
from optinfra.learners.soft import (
    SACBatch,
    blanked,
    check_batch,
    check_streams,
    live_rows,
    time_first,
)
from optinfra.moments import Moments
from optinfra.networks import SoftActorCritic
from optinfra.schedules import constant
from optinfra.transforms import global_norm, raveled, scale_by_adam, skip_nonfinite
from optinfra.types import (
    Key,
    Learner,
    Params,
    PyTree,
    Schedule,
    Spec,
    Stats,
    Transform,
)
from optinfra.values import rollout_values, trajectory_values

CONTINUOUS_TARGET = -1.0  # nats of entropy per dimension that are aimed at
DISCRETE_TARGET = 0.2  # share of the greatest entropy of a branch that is aimed at


class SACParams(NamedTuple):
    """All that acting and valuing read."""

    weights: Params  # of all networks
    moments: tuple[Moments, ...]  # one per observation; () without a normaliser


class SACHyper(NamedTuple):
    """What may differ from member to member of an ensemble."""

    learning_rate: PyTree  # state of its schedule
    tau: Tensor  # [] float32, τ
    target_entropy: dict[str, Tensor]  # [1] of the continuous dimensions, [K] of the branches


class SACState(NamedTuple):
    """Everything that changes between updates."""

    params: SACParams
    target: Params  # V's weights, averaged over updates
    log_entropy_coef: dict[str, Tensor]  # ln α: [1] of the dimensions, [K] of the branches
    opt: PyTree  # state of the transform
    hyper: SACHyper
    steps: Tensor  # [] int64, environment steps so far: the time of the schedule
    key: Key


class _Learnt(NamedTuple):
    """What descends."""

    weights: Params
    log_entropy_coef: dict[str, Tensor]


def sac(
    network: SoftActorCritic,
    spec: Spec,
    *,
    learning_rate: Schedule | float = 3e-4,
    tau: float = 0.005,
    init_entropy_coef: float = 1.0,
    target_entropy_scale: float = 1.0,
    transform: Transform | None = None,
    normalize: bool = False,
    sequence_length: int | None = None,
    ignore_done: Collection[str] = (),
) -> Learner:
    """Fit action values and a policy that is as random as it can afford.

        y = r + γ·(1 − terminated)·V̄(o′)                     L_Q = mean ½(y − Q(o, a))²
        v = min_i Q_i(o, ã) − α·log π(ã | o),  ã ~ π          L_V = mean ½(v − V(o))²
        L_π = mean (α·log π(ã | o) − Q_1(o, ã))               L_α = −mean ln α·(log π + target)
        w ← w − η·u,  u the transform of the gradient of all;  V̄ ← (1 − τ)·V̄ + τ·V

    With discrete branches expectations over choices take the place of draws; Q and V
    average over branches, L_π sums. With both, Q counts once in L_π.

    Args:
      network: policy, V and C ≥ 1 action values; the streams are those they have values for.
      spec: sizes of observations and actions.
      learning_rate: η ≥ 0, per environment step where it is a schedule.
      tau: τ in (0, 1], rate of the target.
      init_entropy_coef: α > 0 at the beginning.
      target_entropy_scale: factor on the entropies aimed at: −1 nat per continuous dimension,
        and 0.2 of the greatest entropy of each branch.
      transform: gradient to direction, uphill and without the learning rate; Adam with
        non-finite steps skipped unless given.
      normalize: whether observations pass a running normaliser first.
      sequence_length: S, after how many steps `trajectory_values` tells a memory.
      ignore_done: streams for which an episode's termination is none.

    Returns:
      A `Learner` over `SACState` and `SACBatch`. Its stats, all `[]`: `policy_loss`,
      `value_loss`, `q1_loss`, `q2_loss`, … (means over streams), `entropy` (−log π),
      `continuous_entropy_coef`, `discrete_entropy_coef` (means after the step, where the part
      exists),
      `grad_norm`, `learning_rate`. An update draws once: `random.normal` `[rows, A]`.

    Raises:
      ValueError: a number is out of range; or, from the functions, a shape or the names of
        the streams disagree, or an observation is missing.
      TypeError: from the functions, a flag is not bool or a choice not int64.

    Differs: from ML-Agents, where padding trains the critics, and with both kinds of actions
    V's target has the continuous entropy with the wrong sign and L_π counts Q twice.
    Source: Haarnoja et al. 2018, https://arxiv.org/abs/1801.01290 and
    https://arxiv.org/abs/1812.05905; Christodoulou 2019 (discrete), https://arxiv.org/abs/1910.07207.
    """
    require_number("tau", tau, 0.0, 1.0, open_low=True)
    require_number("init_entropy_coef", init_entropy_coef, 0.0, open_low=True)
    require_number("target_entropy_scale", target_entropy_scale)
    if sequence_length is not None:
        require_integer("sequence_length", sequence_length, 1)
    if not isinstance(learning_rate, Schedule):
        require_number("learning_rate", learning_rate, 0.0)
        learning_rate = constant(learning_rate)
    recurrent = bool(tree.leaves(network.memories((1,))))
    acting = Acting(spec, squashed(spec.action), network.policy, recurrent, normalize)
    rule = _Rule(
        acting=acting,
        network=network,
        transform=transform or skip_nonfinite(raveled(scale_by_adam())),
        learning_rate=learning_rate,
        numbers=(tau, init_entropy_coef, target_entropy_scale),
        ignore_done=frozenset(ignore_done),
    )
    judge = critic(acting, network.values, network.values_and_memories)
    return Learner(
        init=partial(_init, rule),
        memories=network.memories,
        act=partial(act, acting),
        greedy=partial(greedy, acting),
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
    """What is static about one SAC."""

    acting: Acting
    network: SoftActorCritic
    transform: Transform
    learning_rate: Schedule
    numbers: tuple[float, float, float]
    ignore_done: frozenset[str]


def _init(rule: _Rule, key: Key) -> SACState:
    key, key_weights = random.split(key).unbind()
    weights = rule.network.init(key_weights)
    tau, coef, scale = rule.numbers
    sizes = torch.tensor(rule.acting.spec.action.branches, dtype=torch.float32)
    dimensions = min(rule.acting.spec.action.continuous, 1)
    target_entropy = {
        "continuous": torch.full(
            (dimensions,), CONTINUOUS_TARGET * rule.acting.spec.action.continuous
        ),
        "discrete": DISCRETE_TARGET * sizes.log(),
    }
    hyper = SACHyper(
        learning_rate=rule.learning_rate.init(),
        tau=torch.tensor(tau, dtype=torch.float32),
        target_entropy={name: scale * x for name, x in target_entropy.items()},
    )
    hyper = tree.map(lambda x: x.to(key.device), hyper)
    log_coefs = tree.map(lambda x: torch.full_like(x, math.log(coef)), hyper.target_entropy)
    running = tuple(moments.init(shape, device=key.device) for shape in rule.acting.spec.obs)
    return SACState(
        params=SACParams(weights, running if rule.acting.normalize else ()),
        target=_of_value(weights),
        log_entropy_coef=log_coefs,
        opt=rule.transform.init(_flat(_Learnt(weights, log_coefs))),
        hyper=hyper,
        steps=torch.zeros((), dtype=torch.int64, device=key.device),
        key=key,
    )


def _of_value(weights: Params) -> Params:
    """Copy V's weights: a compiled update would notice that the target's are the same tensors."""
    return {name: x.clone() for name, x in weights.items() if name.startswith("value.")}


def _flat(learnt: _Learnt) -> Params:
    """Lay what descends under names of one dictionary, as transforms take it."""
    coefs = {f"log_entropy_coef.{name}": x for name, x in learnt.log_entropy_coef.items()}
    return learnt.weights | coefs


# --- learning -------------------------------------------------------------------------------


def _update(rule: _Rule, state: SACState, batch: SACBatch) -> tuple[SACState, Stats]:
    check_batch(rule.acting.spec, batch, sequences=rule.acting.recurrent)
    batch = blanked(batch)
    key, key_noise = random.split(state.key).unbind()
    noise = random.normal(key_noise, (batch.mask.numel(), rule.acting.spec.action.continuous))
    noise = noise.reshape(*batch.mask.shape, rule.acting.spec.action.continuous)
    if rule.acting.recurrent:
        batch, noise = time_first(batch), noise.movedim(1, 0)
    learnt = _Learnt(state.params.weights, state.log_entropy_coef)
    batch, learnt = tree.map(Tensor.detach, (batch, learnt))
    rate = rule.learning_rate.value(state.hyper.learning_rate, state.steps)

    loss = partial(_loss, rule, state, batch, noise)
    grads, (_, stats) = grad_and_value(loss, has_aux=True)(learnt)
    flat, flat_grads = _flat(learnt), _flat(grads)
    opt, directions = rule.transform.update(state.opt, flat_grads, flat)
    flat = {name: w - rate * directions[name] for name, w in flat.items()}
    weights = {name: flat[name] for name in learnt.weights}
    coefs = {name: flat[f"log_entropy_coef.{name}"] for name in learnt.log_entropy_coef}
    tau = state.hyper.tau
    target = {name: (1 - tau) * x + tau * weights[name] for name, x in state.target.items()}
    stats |= {"grad_norm": global_norm(flat_grads), "learning_rate": rate}
    stats |= {f"{name}_entropy_coef": x.exp().mean() for name, x in coefs.items() if x.numel()}
    params = state.params._replace(weights=weights)
    state = state._replace(params=params, target=target, log_entropy_coef=coefs, opt=opt, key=key)
    return state, stats


def _loss(
    rule: _Rule, state: SACState, batch: SACBatch, noise: Tensor, learnt: _Learnt
) -> tuple[Tensor, Stats]:
    """Sum all losses; what one must not teach the others is detached."""
    obs = normalized(rule.acting, state.params, batch.obs)
    frozen = tree.map(Tensor.detach, learnt)
    actor, critic = (batch.memory.actor, batch.memory.critic) if rule.acting.recurrent else ((), ())
    reset = batch.reset if isinstance(batch.reset, Tensor) else None
    outputs, _ = rule.network.policy(learnt.weights, obs, actor, reset)
    outputs = outputs._replace(logits=mask_logits(outputs.logits, batch.action_mask))
    drawn = soft_losses.drawn_from(rule.acting.spec.action, outputs, noise)
    values, _ = rule.network.values(learnt.weights, obs, critic, reset)

    def judged(i: int, weights: Params, actions: Tensor) -> dict[str, Tensor]:
        return rule.network.action_values(i, weights, obs, actions, reset)

    taken = [
        judged(i, learnt.weights, batch.action.continuous) for i in range(rule.network.critics)
    ]
    if rule.acting.spec.action.continuous:
        now = [judged(i, frozen.weights, drawn.action) for i in range(rule.network.critics)]
    else:
        now = tree.map(Tensor.detach, taken)
    rows = live_rows(batch)
    live = {name: mask.any() for name, mask in rows.items()}
    coefs = {name: x.exp() for name, x in frozen.log_entropy_coef.items()}
    targets = _targets(rule, state, batch)
    sizes = rule.acting.spec.action
    q_losses = [soft_losses.q_loss(sizes, batch, q, targets, rows, live) for q in taken]
    value_loss = soft_losses.value_loss(sizes, values, now, drawn, coefs, rows, live)
    policy_loss = soft_losses.policy_loss(sizes, now[0], drawn, coefs, live, batch.mask)
    entropy_loss, entropy = soft_losses.entropy_loss(
        sizes, learnt.log_entropy_coef, state.hyper.target_entropy, drawn, batch.mask
    )
    total = policy_loss + value_loss + sum(q_losses[1:], q_losses[0]) + entropy_loss
    stats = {"policy_loss": policy_loss, "value_loss": value_loss, "entropy": entropy}
    stats |= {f"q{i + 1}_loss": x for i, x in enumerate(q_losses)}
    return total, {name: stat.detach() for name, stat in stats.items()}


def _targets(rule: _Rule, state: SACState, batch: SACBatch) -> dict[str, Tensor]:
    """Compute y `[*N]` by stream."""
    following = _following_values(rule, state, batch)
    check_streams(following, batch)
    targets = {}
    for name, value in following.items():
        ended = torch.zeros_like(batch.mask) if name in rule.ignore_done else batch.terminated
        onward = torch.where(ended, 0.0, batch.discounts[name] * value)
        targets[name] = batch.rewards[name] + onward
    return targets


def _following_values(rule: _Rule, state: SACState, batch: SACBatch) -> dict[str, Tensor]:
    """Ask the target what follows each step, with what is remembered by then."""
    next_obs = normalized(rule.acting, state.params, batch.next_obs)
    values = rule.network.values
    if not rule.acting.recurrent:
        return values(state.target, next_obs, (), None)[0]
    obs = normalized(rule.acting, state.params, batch.obs)
    if not isinstance(batch.reset, Tensor):
        # As in ML-Agents: V reads the first observation, and its target goes on from there.
        first = tree.take(obs, slice(1))
        _, memory = values(state.params.weights, first, batch.memory.critic, None)
        return values(state.target, next_obs, memory, None)[0]
    _, after = rule.network.values_and_memories(state.target, obs, batch.memory.critic, batch.reset)
    single = tree.map(lambda x: x[None], next_obs)
    return tree.take(values(state.target, single, after, None)[0], 0)
