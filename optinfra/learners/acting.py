"""How learners act, and what they say of actions and observations: the same for all of them."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from torch import Tensor

from optinfra import moments, tree
from optinfra.distributions import Distribution, PolicyOutputs, mask_logits
from optinfra.learners.batch import check_obs
from optinfra.networks import seen_once
from optinfra.types import Act, Action, Key, Obs, PyTree, Spec
from optinfra.values import Critic, Values


class Acting(NamedTuple):
    """What is static about how one learner acts.

    Its `params` have the fields `weights` and `moments`, one per vector observed or none.
    """

    spec: Spec
    distribution: Distribution
    policy: Callable[..., tuple[PolicyOutputs, PyTree]]  # (weights, obs, memory, reset)
    recurrent: bool
    normalize: bool


def policy(acting: Acting, params: Any, obs: Obs, memory: PyTree) -> tuple[PolicyOutputs, PyTree]:
    """Ask the policy at one time: a sequence of one step where it remembers."""
    obs = normalized(acting, params, obs)
    if not acting.recurrent:
        return acting.policy(params.weights, obs, memory, None)
    _require_memory(acting, memory)
    sequence = tree.map(lambda x: x[None], obs)
    outputs, memory = acting.policy(params.weights, sequence, memory, None)
    return tree.take(outputs, 0), memory


def act(acting: Acting, params: Any, obs: Obs, memory: PyTree, key: Key) -> Act:
    """Draw an action for each row of observations."""
    outputs, memory = policy(acting, params, obs, memory)
    action, log_prob = acting.distribution.sample(outputs, key)
    return Act(action, acting.distribution.executed(action), log_prob, memory)


def greedy(acting: Acting, params: Any, obs: Obs, memory: PyTree) -> Act:
    """Take the likeliest action."""
    outputs, memory = policy(acting, params, obs, memory)
    action = acting.distribution.mode(outputs)
    log_prob = acting.distribution.log_prob(outputs, action)
    return Act(action, acting.distribution.executed(action), log_prob, memory)


def executed_log_prob(
    acting: Acting,
    params: Any,
    obs: Obs,
    action: Action,
    action_mask: PyTree = (),
    memory: PyTree = (),
    reset: Tensor | None = None,
) -> Tensor:
    """Tell how likely executed actions are, `[*B, A + K]`."""
    _require_memory(acting, memory)
    outputs, _ = acting.policy(params.weights, normalized(acting, params, obs), memory, reset)
    if isinstance(action_mask, Tensor):
        outputs = outputs._replace(logits=mask_logits(outputs.logits, action_mask))
    return acting.distribution.executed_log_prob(outputs, action)


def observe(acting: Acting, state: Any, obs: Obs, mask: Tensor) -> Any:
    """Let the normaliser of a learner's state take observations in."""
    check_obs(acting.spec, obs)
    running = moments.update_vectors(state.params.moments, obs, mask)
    return state._replace(params=state.params._replace(moments=running))


def normalized(acting: Acting, params: Any, obs: Obs) -> Obs:
    """Pass vectors through the normaliser, if there is one, and read images."""
    check_obs(acting.spec, obs)
    obs = seen_once(acting.spec, obs)
    if not acting.normalize:
        return obs
    return moments.normalize_vectors(params.moments, obs)


def critic(
    acting: Acting,
    values: Callable[..., tuple[Values, PyTree]],
    values_and_memories: Callable[..., tuple[Values, PyTree]],
) -> Critic:
    """Make a critic of a network's values `(weights, obs, memory, reset)`."""
    return Critic(partial(_judged, acting, values), partial(_judged, acting, values_and_memories))


def values_of(critic: Critic) -> Callable[..., Values]:
    """Make a learner's `values` of its critic."""

    def values(params: Any, obs: Obs, memory: PyTree = (), reset: Tensor | None = None) -> Values:
        return critic.values(params, obs, memory, reset)[0]

    return values


def _judged(
    acting: Acting,
    values: Callable[..., tuple[Values, PyTree]],
    params: Any,
    obs: Obs,
    memory: PyTree,
    reset: Tensor | None,
) -> tuple[Values, PyTree]:
    return values(params.weights, normalized(acting, params, obs), memory, reset)


def _require_memory(acting: Acting, memory: PyTree) -> None:
    if acting.recurrent and not isinstance(memory, Tensor):
        raise ValueError(f"`memory` must be what the policy remembers, [*B, M], got {memory}.")
