"""How signals learn: a step of descent, running moments, and what a bad batch may not change."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

from optinfra import moments, tree
from optinfra.check import require_integer, require_number
from optinfra.gradients import grad_and_value
from optinfra.moments import Moments, Running
from optinfra.transforms import raveled, scale_by_adam, skip_nonfinite
from optinfra.types import Obs, Params, PyTree, Spec, Transform

State = TypeVar("State")
Loss = Callable[[Params], tuple[Tensor, Any]]  # (weights) -> (loss [], what else is of use)


def require_numbers(
    strength: float, gamma: float, learning_rate: float, hidden_units: int, num_layers: int
) -> None:
    """Raise ValueError or TypeError unless the options of a signal that learns are in range."""
    require_number("strength", strength)
    require_number("gamma", gamma, 0.0, 1.0)
    require_number("learning_rate", learning_rate, 0.0)
    require_integer("hidden_units", hidden_units, 1)
    require_integer("num_layers", num_layers, 0)


def sweepable(numbers: tuple[float, ...], device: torch.device) -> tuple[Tensor, ...]:
    """Make a `[]` float32 tensor of each number."""
    return torch.tensor(numbers, dtype=torch.float32, device=device).unbind()


def adam_without_accidents() -> Transform:
    """Make what signals descend by unless told otherwise: Adam, non-finite steps skipped."""
    return skip_nonfinite(raveled(scale_by_adam()))


def descended(
    transform: Transform, opt: PyTree, weights: Params, learning_rate: Tensor, loss: Loss
) -> tuple[PyTree, Params, Any]:
    """Take one step: w ← w − η·u, u the transform of ∇L.

    Args:
      transform: gradient to direction, uphill and without the learning rate.
      opt: its state.
      weights: w.
      learning_rate: `[]`, η.
      loss: L, and what else the forward pass yields.

    Returns:
      The new state of the transform, the new weights, and what else the loss gave, detached.
    """
    weights = tree.map(Tensor.detach, weights)
    grads, (_, aside) = grad_and_value(loss, has_aux=True)(weights)
    grads = tree.row_major(grads)  # those of convolutions come as these are computed
    opt, directions = transform.update(opt, grads, weights)
    weights = tree.map(lambda w, u: w - learning_rate * u, weights, directions)
    return opt, weights, tree.map(Tensor.detach, aside)


def fresh_moments(spec: Spec, normalize: bool, device: torch.device) -> Running:
    """Make moments for each vector of the spec; none without `normalize`."""
    return moments.init_vectors(spec.obs, device) if normalize else ()


def observed(running: Running, obs: Obs, mask: Tensor) -> Running:
    """Take in the valid rows; moments that would not stay finite stay as they were."""
    return tuple(taken_in(own, x, mask) if own else () for own, x in zip(running, obs))


def taken_in(running: Moments, x: Tensor, mask: Tensor) -> Moments:
    """Take in the valid rows `x` `[*N, *shape]`, unless the moments would not stay finite."""
    return finite_or(moments.update(running, x, mask), running)


def finite_or(learnt: State, state: State) -> State:
    """Choose `learnt` if every number in it is finite, else all of `state`."""
    floats = [x for x in tree.leaves(learnt) if x.is_floating_point()]
    finite = torch.stack([x.isfinite().all() for x in floats]).all()
    return tree.where(finite, learnt, state)


def settled(mask: Tensor, learnt: State, state: State) -> State:
    """Choose `learnt` if any row counts, else `state`: Adam moves without a gradient, too.

    Args:
      mask: `[*N]` bool. True counts.
      learnt: the state after an update.
      state: the one before.

    Returns:
      One of both, detached: a graph would grow from update to update.
    """
    chosen: State = tree.map(Tensor.detach, tree.where(mask.any(), learnt, state))
    return chosen
