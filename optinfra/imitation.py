"""Behavioural cloning: one gradient step that makes the expert's actions likelier."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from optinfra import tree
from optinfra.check import require_dtype, require_leading, require_number
from optinfra.gradients import grad_and_value
from optinfra.losses import masked_mean
from optinfra.schedules import constant
from optinfra.transforms import raveled, scale_by_adam, skip_nonfinite
from optinfra.types import Imitation, Key, PyTree, Schedule, Stats, Transform, Transitions

NO_WORK = 1e-10  # learning rates down to here are none: ML-Agents' schedules end there
# (params, obs, action as executed, action_mask, memory, reset) -> [*B, A + K]
ExecutedLogProb = Callable[..., Tensor]


class CloningHyper(NamedTuple):
    """What may differ from member to member of an ensemble."""

    learning_rate: PyTree  # state of its schedule


class CloningState(NamedTuple):
    """Everything that changes between updates but the policy itself."""

    opt: PyTree  # state of the transform
    hyper: CloningHyper
    key: Key  # whoever draws minibatches splits it


def behavioral_cloning(
    executed_log_prob: ExecutedLogProb,
    *,
    learning_rate: Schedule | float = 3e-4,
    memories: Callable[..., PyTree] | None = None,
    transform: Transform | None = None,
) -> Imitation:
    """Maximise the likelihood of the expert's actions, in the scale in which they are executed.

        L = −mean over dimensions log p(a_i) − mean over branches log p(a_k)
        w ← w − η · u,  u the transform of ∇L

    Means are over valid rows. Parameters that acting does not read stay as they are.

    Args:
      executed_log_prob: a learner's.
      learning_rate: η ≥ 0, per environment step where it is a schedule. Where it has come
        down to 1e-10 nothing changes any more.
      memories: for a policy that remembers, what it begins with: `(rows, device) -> [*rows, M]`,
        such as `lambda rows, device: learner.memories(rows, device).actor`. Batches are then
        sequences `[N, S]`, each of which begins with it.
      transform: gradient to direction, uphill and without the learning rate; Adam with
        non-finite steps skipped unless given.

    Returns:
      An `Imitation` over `CloningState`; `update(state, params, steps, batch)` makes one step
      on one minibatch of `Transitions`. `params` has the learner's `weights`, `steps` `[]` is
      the time of the schedule. Its stats are `pretraining_loss`, L in nats, and
      `pretraining_learning_rate`, η.

    Raises:
      ValueError: the learning rate is out of range; or, from `update`, a shape disagrees.
      TypeError: from `update`, a flag is not bool or a choice not int64.

    Differs: ML-Agents compares draws from the policy with the expert's actions, in the scale
    before clipping, and counts padding.
    Source: Pomerleau 1991, https://doi.org/10.1162/neco.1991.3.1.88.
    """
    if not isinstance(learning_rate, Schedule):
        require_number("learning_rate", learning_rate, 0.0)
        learning_rate = constant(learning_rate)
    rule = _Rule(
        executed_log_prob,
        learning_rate,
        memories,
        transform or skip_nonfinite(raveled(scale_by_adam())),
    )
    return Imitation(partial(_init, rule), partial(_update, rule))


class _Rule(NamedTuple):
    """What is static about one cloning."""

    executed_log_prob: ExecutedLogProb
    learning_rate: Schedule
    memories: Callable[..., PyTree] | None
    transform: Transform


def _init(rule: _Rule, key: Key, params: PyTree) -> CloningState:
    hyper = CloningHyper(rule.learning_rate.init())
    return CloningState(
        opt=rule.transform.init(params.weights),
        hyper=tree.map(lambda x: x.to(key.device), hyper),
        key=key,
    )


def _update(
    rule: _Rule, state: CloningState, params: PyTree, steps: Tensor, batch: Transitions
) -> tuple[CloningState, PyTree, Stats]:
    _check(batch, sequences=rule.memories is not None)
    batch = _blanked(batch, sequences=rule.memories is not None)
    batch, weights = tree.map(Tensor.detach, (batch, params.weights))
    rate = rule.learning_rate.value(state.hyper.learning_rate, steps)
    works = rate > NO_WORK

    loss = partial(_loss, rule, params, batch)
    grads, value = grad_and_value(loss)(weights)
    grads = tree.row_major(grads)  # those of convolutions come as these are computed
    opt, directions = rule.transform.update(state.opt, grads, weights)
    learnt = tree.map(lambda w, u: w - rate * u, weights, directions)
    stats = {"pretraining_loss": value, "pretraining_learning_rate": rate}
    return (
        state._replace(opt=tree.where(works, opt, state.opt)),
        params._replace(weights=tree.where(works, learnt, weights)),
        stats,
    )


def _loss(rule: _Rule, params: PyTree, batch: Transitions, weights: PyTree) -> Tensor:
    memory: PyTree = ()
    if rule.memories is not None:
        memory = rule.memories((batch.mask.shape[0],), batch.mask.device)
        batch = tree.map(lambda x: x.movedim(1, 0), batch)  # time leads
    log_prob = rule.executed_log_prob(
        params._replace(weights=weights), batch.obs, batch.action, batch.action_mask, memory
    )
    dimensions = batch.action.continuous.shape[-1]
    continuous, discrete = log_prob[..., :dimensions], log_prob[..., dimensions:]
    return -(masked_mean(continuous, batch.mask) + masked_mean(discrete, batch.mask))


def _blanked(batch: Transitions, *, sequences: bool) -> Transitions:
    """Let zeros take the place of padding: not even 0 · NaN may reach a gradient.

    Of a sequence, padding is what comes after the last step that counts; a step before it
    that does not count warms the memory up.
    """
    later = batch.mask.flip(-1).cumsum(-1).flip(-1) if sequences else batch.mask
    counted: Transitions = tree.blank(later > 0, batch)
    return counted


def _check(batch: Transitions, *, sequences: bool) -> None:
    rows = batch.mask.shape
    if sequences and len(rows) != 2:
        raise ValueError(f"`mask` must have shape [N, S], got {list(rows)}.")
    require_dtype("action.discrete", batch.action.discrete, torch.int64)
    for name, column in batch._asdict().items():
        for x in tree.leaves(column):
            require_leading(name, x, rows, "*N")
