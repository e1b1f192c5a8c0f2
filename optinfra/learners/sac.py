"""Soft actor-critic: with a value network as ML-Agents does it, or in the forms that followed."""

import math
from collections.abc import Collection, Sequence
from functools import partial, reduce
from operator import add
from typing import NamedTuple

import torch
from torch import Tensor

from optinfra import moments, random, tree
from optinfra.check import require_integer, require_number
from optinfra.distributions import (
    mask_logits,
    squashed,
)
from optinfra.gradients import grad_and_value
from optinfra.learners import soft_losses, soft_targets
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
from optinfra.learners.soft import (
    SACBatch,
    blanked,
    check_batch,
    live_rows,
    reset_of,
    time_first,
)
from optinfra.learners.soft_targets import Draws
from optinfra.moments import Running
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
    moments: Running  # one per vector observed; () without a normaliser


class SACHyper(NamedTuple):
    """What may differ from member to member of an ensemble."""

    learning_rate: PyTree  # state of its schedule
    tau: Tensor  # [] float32, τ
    target_entropy: dict[str, Tensor]  # [1] of the continuous dimensions, [K] of the branches


class SACState(NamedTuple):
    """Everything that changes between updates."""

    params: SACParams
    target: Params  # V's weights, or without V those of all Qs, averaged over updates
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
    target_critics: int | None = None,
) -> Learner:
    """Fit action values and a policy that is as random as it can afford.

        y = r + γ·(1 − terminated)·V̄(o′)                     L_Q = mean ½(y − Q(o, a))²
        v = min_i Q_i(o, ã) − α·log π(ã | o),  ã ~ π          L_V = mean ½(v − V(o))²
        L_π = mean (α·log π(ã | o) − Q_1(o, ã))               L_α = −mean ln α·(log π + target)
        w ← w − η·u,  u the transform of the gradient of all;  V̄ ← (1 − τ)·V̄ + τ·V

    With discrete branches expectations over choices take the place of draws; Q and V
    average over branches, L_π sums. With both, Q counts once in L_π.

    Where the network has no V, the Qs have targets of their own (SAC's second form):

        y = r + γ·(1 − terminated)·(min_i Q̄_i(o′, ã′) − α·log π(ã′ | o′)),  ã′ ~ π(o′)
        L_π = mean (α·log π(ã | o) − min_i Q_i(o, ã));   Q̄ ← (1 − τ)·Q̄ + τ·Q

    With a memory, these ã and ã′ follow the steps that were taken; with V, as in ML-Agents, the
    Qs remember every ã before, and L_π has its slope through those too.

    There `target_critics` M makes min_i in y one over M of the C action values, drawn anew at
    each update, and L_π has their mean, mean_i Q_i: M = 2 of C = 10 is REDQ, M = C what DroQ has.

    Args:
      network: policy, V or none, and C ≥ 1 action values; the streams are those they have
        values for.
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
      target_critics: M in [1, C], where there is no V. None: all, and the least in L_π too.

    Returns:
      A `Learner` over `SACState` and `SACBatch`. Its stats, all `[]`: `policy_loss`,
      `value_loss` (where there is V), `q1_loss`, `q2_loss`, … (means over streams), `entropy`
      (−log π), `continuous_entropy_coef`, `discrete_entropy_coef` (means after the step, where
      the part exists), `grad_norm`, `learning_rate`. An update draws ε of ã by one
      `random.normal` `[rows, A]`; where there is no V, by a second one that of ã′. Its
      `values` are then what the least of the Qs promises, as `SoftActorCritic` has them.

    Raises:
      ValueError: a number is out of range, or `target_critics` is given with V; or, from the
        functions, a shape or the names of the streams disagree, or an observation is missing.
      TypeError: `target_critics` is no integer; or, from the functions, a flag is not bool or
        a choice not int64.

    Differs: from ML-Agents, where padding trains the critics, and with both kinds of actions
    V's target has the continuous entropy with the wrong sign and L_π counts Q twice. With V
    the least of the Qs is that of their means over choices, without it that of each choice.
    Source: Haarnoja et al. 2018, https://arxiv.org/abs/1801.01290 and (no V)
    https://arxiv.org/abs/1812.05905; Christodoulou 2019 (discrete),
    https://arxiv.org/abs/1910.07207; Chen et al. 2021 (REDQ), https://arxiv.org/abs/2101.05982;
    Hiraoka et al. 2022 (DroQ), https://arxiv.org/abs/2110.02034.
    """
    require_number("tau", tau, 0.0, 1.0, open_low=True)
    require_number("init_entropy_coef", init_entropy_coef, 0.0, open_low=True)
    require_number("target_entropy_scale", target_entropy_scale)
    _require_target_critics(network, target_critics)
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
        target_critics=target_critics,
    )
    judge = critic(acting, network.values, network.values_and_memories)
    return Learner(
        init=partial(_init, rule),
        memories=network.memories,
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
    """What is static about one SAC."""

    acting: Acting
    network: SoftActorCritic
    transform: Transform
    learning_rate: Schedule
    numbers: tuple[float, float, float]
    ignore_done: frozenset[str]
    target_critics: int | None


def _require_target_critics(network: SoftActorCritic, target_critics: int | None) -> None:
    if target_critics is None:
        return
    if network.value_network:
        raise ValueError(
            f"`target_critics` must be None where a value network gives the targets, "
            f"got {target_critics}. Build the network with `value_network=False`."
        )
    require_integer("target_critics", target_critics, 1)
    require_number("target_critics", target_critics, 1, network.critics)


def _init(rule: _Rule, key: Key) -> SACState:
    key, key_weights = random.split(key).unbind()
    weights = rule.network.init(key_weights)
    tau, coef, scale = rule.numbers
    sizes = torch.tensor(rule.acting.spec.action.branches, dtype=torch.float32)
    dimensions = min(rule.acting.spec.action.continuous, 1)
    target_entropy = {
        "continuous": torch.full(
            (dimensions,),
            CONTINUOUS_TARGET * rule.acting.spec.action.continuous,
            dtype=torch.float32,
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
    running = moments.init_vectors(rule.acting.spec.obs, key.device)
    return SACState(
        params=SACParams(weights, running if rule.acting.normalize else ()),
        target=_averaged(rule.network, weights),
        log_entropy_coef=log_coefs,
        opt=rule.transform.init(_flat(_Learnt(weights, log_coefs))),
        hyper=hyper,
        steps=torch.zeros((), dtype=torch.int64, device=key.device),
        key=key,
    )


def _averaged(network: SoftActorCritic, weights: Params) -> Params:
    """Copy what has a target: a compiled update would notice that these are the same tensors."""
    names = ["value"] if network.value_network else [f"q{i + 1}" for i in range(network.critics)]
    return {name: x.clone() for name, x in weights.items() if name.partition(".")[0] in names}


def _flat(learnt: _Learnt) -> Params:
    """Lay what descends under names of one dictionary, as transforms take it."""
    coefs = {f"log_entropy_coef.{name}": x for name, x in learnt.log_entropy_coef.items()}
    return learnt.weights | coefs


# --- learning -------------------------------------------------------------------------------


def _update(rule: _Rule, state: SACState, batch: SACBatch) -> tuple[SACState, Stats]:
    check_batch(
        rule.acting.spec,
        batch,
        sequences=rule.acting.recurrent,
        value_network=rule.network.value_network,
    )
    batch = blanked(batch)
    key, draws = _draw(rule, state.key, batch.mask.shape)
    if rule.acting.recurrent:
        batch = time_first(batch)
    learnt = _Learnt(state.params.weights, state.log_entropy_coef)
    batch, learnt = tree.map(Tensor.detach, (batch, learnt))
    rate = rule.learning_rate.value(state.hyper.learning_rate, state.steps)

    targets = _targets(rule, state, batch, draws)
    loss = partial(_loss, rule, state, _Lesson(batch, targets, draws.noise))
    grads, (_, stats) = grad_and_value(loss, has_aux=True)(learnt)
    grads = tree.row_major(grads)  # those of convolutions come as these are computed
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


def _draw(rule: _Rule, key: Key, rows: Sequence[int]) -> tuple[Key, Draws]:
    """Draw what one update needs. ε of ã is the same whatever else is drawn."""

    def noise(key: Key) -> Tensor:
        width = rule.acting.spec.action.continuous
        drawn = random.normal(key, (math.prod(rows), width)).reshape(*rows, width)
        return drawn.movedim(1, 0) if rule.acting.recurrent else drawn

    if rule.network.value_network:
        key, key_noise = random.split(key).unbind()
        return key, Draws(noise(key_noise))
    number, critics = rule.target_critics, rule.network.critics
    if number in (None, critics):
        key, key_noise, key_next = random.split(key, 3).unbind()
        return key, Draws(noise(key_noise), noise(key_next))
    key, key_noise, key_next, key_critics = random.split(key, 4).unbind()
    chosen = random.permutation(key_critics, critics)[:number]
    return key, Draws(noise(key_noise), noise(key_next), chosen)


def _targets(rule: _Rule, state: SACState, batch: SACBatch, draws: Draws) -> dict[str, Tensor]:
    """Compute y `[*N]` by stream."""
    if rule.network.value_network:
        following = soft_targets.by_value_network(rule.acting, rule.network, state, batch)
    else:
        following = soft_targets.by_action_values(rule.acting, rule.network, state, batch, draws)
    return soft_targets.targets(following, batch, rule.ignore_done)


def _promised(rule: _Rule, now: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Make of all Qs the one that the policy seeks."""
    if rule.network.value_network:
        return now[0]
    if rule.target_critics is None:
        return soft_losses.least(now)
    return soft_losses.mean(now)


class _Lesson(NamedTuple):
    """What one update learns from."""

    batch: SACBatch
    targets: dict[str, Tensor]  # y [*N] by stream
    noise: Tensor  # [*N, A], ε of ã


def _loss(rule: _Rule, state: SACState, lesson: _Lesson, learnt: _Learnt) -> tuple[Tensor, Stats]:
    """Sum all losses; what one must not teach the others is detached."""
    batch, targets, noise = lesson
    sizes, network = rule.acting.spec.action, rule.network
    obs = normalized(rule.acting, state.params, batch.obs)
    frozen = tree.map(Tensor.detach, learnt)
    reset = reset_of(batch)
    actor, critic = batch.memory if rule.acting.recurrent else ((), ())
    outputs, _ = network.policy(learnt.weights, obs, actor, reset)
    outputs = outputs._replace(logits=mask_logits(outputs.logits, batch.action_mask))
    drawn = soft_losses.drawn_from(sizes, outputs, noise)

    def judged(weights: Params, actions: Tensor) -> list[dict[str, Tensor]]:
        return [
            network.action_values(i, weights, obs, actions, reset) for i in range(network.critics)
        ]

    taken = judged(learnt.weights, batch.action.continuous)
    detached = tree.map(Tensor.detach, taken)
    now = detached
    if sizes.continuous and rule.acting.recurrent and not network.value_network:
        now = soft_targets.instead(network, frozen.weights, obs, batch, drawn.action)
    elif sizes.continuous:
        now = judged(frozen.weights, drawn.action)
    rows = live_rows(batch)
    live = {name: mask.any() for name, mask in rows.items()}
    coefs = {name: x.exp() for name, x in frozen.log_entropy_coef.items()}
    q_losses = [soft_losses.q_loss(sizes, batch, q, targets, rows, live) for q in taken]
    policy_loss = soft_losses.policy_loss(
        sizes, _promised(rule, now), drawn, coefs, live, batch.mask
    )
    entropy_loss, entropy = soft_losses.entropy_loss(
        sizes, learnt.log_entropy_coef, state.hyper.target_entropy, drawn, batch.mask
    )
    losses = {"policy_loss": policy_loss} | {f"q{i + 1}_loss": x for i, x in enumerate(q_losses)}
    if network.value_network:
        values, _ = network.values(learnt.weights, obs, critic, reset)
        losses["value_loss"] = soft_losses.value_loss(sizes, values, now, drawn, coefs, rows, live)
    stats = {name: x.detach() for name, x in (losses | {"entropy": entropy}).items()}
    return reduce(add, losses.values(), entropy_loss), stats
