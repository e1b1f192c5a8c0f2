"""Modules to and fro: what ML-Agents' checkpoints hold of an optimizer, and what they do not."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from optinfra import tree
from optinfra.mlagents import adams, layout, modules
from optinfra.mlagents.layout import Module
from optinfra.mlagents.modules import BETA, MOST_AGENTS, StateDict
from optinfra.types import PyTree

if TYPE_CHECKING:  # it gives its modules by means of this room
    from optinfra.mlagents.optimizer import TorchOptimizer

STEP = "global_step"
STEP_NAME = "_GlobalSteps__global_step"
OWN = "optinfra"  # the module in which there is what ML-Agents does not save


class View(NamedTuple):
    """One module of an optimizer, as PyTorch's saving and loading see it."""

    state_dict: Callable[[], dict[str, Any]]
    load_state_dict: Callable[[StateDict], None]


def export_modules(optimizer: "TorchOptimizer") -> dict[str, dict[str, Any]]:
    """Give everything that an optimizer and its policy know, by ML-Agents' names.

    Args:
      optimizer: of one of the three kinds, with any reward signals.

    Returns:
      State dicts by module: `Policy`, `global_step`, `Optimizer:…`, `Module:…` as ML-Agents
      saves them, and `optinfra`, which holds the rest: entropy coefficients, optimizers of
      signals and cloning, keys.
    """
    actor, state = optimizer.policy.actor, optimizer.state
    step = torch.tensor([optimizer.policy.get_current_step()])
    exported: dict[str, dict[str, Any]] = {
        layout.POLICY: actor.state_dict(),
        STEP: {STEP_NAME: step},
    }
    fields = {"weights": optimizer.params.weights, "target": getattr(state, "target", {})}
    dicts = modules.state_dicts(optimizer.layout(), fields, actor.held.moments)
    exported |= {name: x for name, x in dicts.items() if name != layout.POLICY}
    if hasattr(state.params, "largest"):
        largest = state.params.largest.detach().clone().to(torch.int64)
        exported[layout.CRITIC] = {MOST_AGENTS: largest} | exported[layout.CRITIC]
    if actor.shared:
        exported[layout.CRITIC] = dict(exported[layout.POLICY])
    for name, provider in optimizer.reward_signals.items():
        exported |= _signal_dicts(name, provider)
    exported |= adams.exported(optimizer, exported)
    exported[OWN] = {
        name: x.detach().clone() for name, x in tree.named_leaves(_own(optimizer)).items()
    }
    return exported


def import_modules(optimizer: "TorchOptimizer", given: Mapping[str, StateDict]) -> None:
    """Take everything that a checkpoint knows, by ML-Agents' names; all of it or nothing.

    Args:
      optimizer: whose settings are those of what is taken.
      given: state dicts by module. Without a state of the optimizers, entropy coefficients or
        what is of a signal alone, those begin anew; without a step it stays.

    Raises:
      ValueError: a module or a parameter is missing or does not fit the settings. Nothing has
        changed then.
    """
    state, own = optimizer.state, _own(optimizer)
    fresh = optimizer.beginning
    own = own._replace(opt=fresh.opt, log_entropy_coef=getattr(fresh, "log_entropy_coef", ()))
    _take(optimizer, given, state, own)


def _take(
    optimizer: "TorchOptimizer", given: Mapping[str, StateDict], state: Any, own: "_Own"
) -> None:
    """Take what is given; what ML-Agents does not save is `own` unless that is given, too."""
    actor = optimizer.policy.actor
    parts = optimizer.layout()
    like = {"weights": optimizer.params.weights, "target": getattr(state, "target", {})}
    found = modules.read(parts, given, like)
    moments = modules.read_moments(parts[0], given, actor.held.moments)
    params = state.params._replace(weights=found["weights"], moments=moments)
    if hasattr(params, "largest"):
        largest = _number(given[layout.CRITIC], MOST_AGENTS, params.largest)
        params = params._replace(largest=largest)
    state = state._replace(params=params)
    if "target" in found:
        state = state._replace(target=found["target"])
    signals = {
        name: _signal_state(name, provider, given)
        for name, provider in optimizer.reward_signals.items()
    }
    own = own._replace(opt=adams.imported(optimizer, given, state, own.opt), signals=signals)
    now = torch.tensor(optimizer.policy.get_current_step())
    step = _number(given.get(STEP, {}), STEP_NAME, now)
    if OWN in given:
        own = _read_own(own, given[OWN])
    # From here on nothing can fail.
    if hasattr(state, "log_entropy_coef"):
        state = state._replace(log_entropy_coef=own.log_entropy_coef)
    optimizer.policy.set_step(int(step))
    actor.key = own.acting
    optimizer.adopt(state._replace(opt=own.opt, key=own.key))
    for name, provider in optimizer.reward_signals.items():
        provider.state = own.signals[name]
    if optimizer.bc_module is not None:
        optimizer.bc_module.state = own.cloning


class _Own(NamedTuple):
    """What ML-Agents does not save."""

    opt: PyTree  # of the learner's transform
    log_entropy_coef: PyTree
    key: Tensor
    acting: Tensor  # the key that the policy draws by
    signals: dict[str, PyTree]  # whole states, by name
    cloning: PyTree


def _own(optimizer: "TorchOptimizer") -> _Own:
    state, cloning = optimizer.state, optimizer.bc_module
    return _Own(
        opt=state.opt,
        log_entropy_coef=getattr(state, "log_entropy_coef", ()),
        key=state.key,
        acting=optimizer.policy.actor.key,
        signals={name: one.state for name, one in optimizer.reward_signals.items()},
        cloning=cloning.state if cloning else (),
    )


def _read_own(like: _Own, given: StateDict) -> _Own:
    """Read what was saved of it; what is another run's in form is refused."""
    expected = tree.named_leaves(like)
    for name, x in expected.items():
        saved = given.get(name)
        if not isinstance(saved, Tensor) or saved.shape != x.shape:
            got = list(saved.shape) if isinstance(saved, Tensor) else "none"
            raise ValueError(f"{OWN}: {name} must have shape {list(x.shape)}, got {got}.")
    unknown = sorted(set(given) - set(expected))
    if unknown:
        raise ValueError(f"{OWN} has {unknown[0]}, and nothing of the settings keeps that.")
    copies = [given[name].detach().to(x, copy=True) for name, x in expected.items()]
    whole: _Own = tree.unflatten(like, copies)
    return whole


def _number(given: StateDict, name: str, like: Tensor) -> Tensor:
    """Read one number where it is given."""
    x = given.get(name)
    if x is None:
        return like
    if not isinstance(x, Tensor) or x.numel() != 1:
        raise ValueError(f"{name} must be one number, got {x!r}.")
    return x.detach().reshape(like.shape).to(like, copy=True)


# --- reward signals -------------------------------------------------------------------------


def _signal_dicts(name: str, provider: Any) -> dict[str, dict[str, Tensor]]:
    state = provider.state
    parts = _signal_layout(name, provider)
    if not parts:
        return {}
    fields = {"weights": state.weights, "target": getattr(state, "target", {})}
    dicts = modules.state_dicts(parts, fields, state.moments)
    if name == "gail" and isinstance(state.beta, Tensor):
        dicts[parts[0].name] |= {BETA: state.beta.detach().clone()}
    return dicts


def _signal_layout(name: str, provider: Any) -> list[Module]:
    weights = getattr(provider.state, "weights", {})
    return layout.signal(name, weights, provider.spec)


def _signal_state(name: str, provider: Any, given: Mapping[str, StateDict]) -> PyTree:
    """Make the state of a signal whose modules are given; without them its own stays."""
    state, parts = provider.state, _signal_layout(name, provider)
    if not parts or not any(part.name in given for part in parts):
        return state
    like = {"weights": state.weights, "target": getattr(state, "target", {})}
    found = modules.read(parts, given, like)
    changes: dict[str, Any] = dict(found)
    changes["moments"] = modules.read_moments(parts[0], given, state.moments)
    if name == "gail" and isinstance(state.beta, Tensor):
        changes["beta"] = _number(given[parts[0].name], BETA, state.beta)
    return state._replace(**changes)


# --- as PyTorch sees it ---------------------------------------------------------------------


def views(optimizer: "TorchOptimizer") -> dict[str, View]:
    """Give each module but the policy's as something that can be saved and loaded by itself."""
    names = [name for name in export_modules(optimizer) if name not in (layout.POLICY, STEP)]
    return {name: _view(optimizer, name) for name in names}


def _view(optimizer: "TorchOptimizer", name: str) -> View:
    def state_dict() -> dict[str, Any]:
        return export_modules(optimizer)[name]

    def load_state_dict(given: StateDict) -> None:
        others = {OWN} | {other for other in export_modules(optimizer) if adams.is_one(other)}
        rest = {k: x for k, x in export_modules(optimizer).items() if k not in others}
        _take(optimizer, rest | {name: given}, optimizer.state, _own(optimizer))

    return View(state_dict, load_state_dict)
