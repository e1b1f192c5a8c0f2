"""Adam's state to and fro: one of ours is one, two or three of ML-Agents'."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from optinfra import tree
from optinfra.mlagents import layout, modules
from optinfra.mlagents.names import to_ours, to_theirs
from optinfra.transforms.adam import ScaleByAdamState
from optinfra.types import Params, PyTree

ACTOR, VALUES, ENTROPY, GROUP = OPTIMIZERS = (
    "Optimizer:policy_optimizer",
    "Optimizer:value_optimizer",
    "Optimizer:entropy_optimizer",
    "Optimizer:adam",
)


class Theirs(NamedTuple):
    """One of their optimizers: what it is called and the modules whose parameters it moves."""

    name: str
    modules: tuple[str, ...]


def _theirs(kind: str, shared: bool) -> list[Theirs]:
    if kind == "sac":
        return [
            Theirs(ACTOR, (layout.POLICY,)),
            Theirs(VALUES, (layout.Q, layout.VALUE)),
        ]
    name = GROUP if kind == "poca" else VALUES
    return [Theirs(name, (layout.POLICY,) if shared else (layout.POLICY, layout.CRITIC))]


def find(opt: PyTree) -> ScaleByAdamState | None:
    """Find the state of the one Adam in the state of a transform."""
    if isinstance(opt, ScaleByAdamState):
        return opt
    for part in opt if isinstance(opt, tuple) else ():
        if (found := find(part)) is not None:
            return found
    return None


def replace(opt: PyTree, adam: ScaleByAdamState) -> PyTree:
    """Put another in its place."""
    if isinstance(opt, ScaleByAdamState):
        return adam
    if not isinstance(opt, tuple):
        return opt
    parts = [replace(part, adam) for part in opt]
    return type(opt)(*parts) if hasattr(opt, "_fields") else tuple(parts)


def exported(optimizer: Any, dicts: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Write the state of each of their optimizers.

    Args:
      optimizer: whose.
      dicts: its modules, exported.
    """
    adam = find(optimizer.state.opt)
    if adam is None:
        return {}
    like = _learnt(optimizer.state)
    first, second = (_unraveled(x, like) for x in (adam.first, adam.second))
    given = [_as_modules(optimizer, moment) for moment in (first, second)]
    rate = float(optimizer.hyperparameters.learning_rate)
    written = {}
    for one in _theirs(optimizer.trainer_settings.trainer_type, optimizer.policy.actor.shared):
        names = modules.parameters(dicts, one.modules)
        moved = [
            (given[0][place], given[1][place]) if place in given[0] else None for place in names
        ]
        written[one.name] = _adam_dict(adam, moved, rate)
    if optimizer.trainer_settings.trainer_type == "sac":
        logs = _logs(optimizer, first), _logs(optimizer, second)
        written[ENTROPY] = _adam_dict(adam, list(zip(*logs)), rate)
    return written


def _logs(optimizer: Any, named: Params) -> list[Tensor]:
    """Lay out what belongs to the entropy coefficients as theirs: branches, then dimensions."""
    branches = len(optimizer.policy.actor.spec.action.branches)
    discrete = named["log_entropy_coef.discrete"]
    continuous = named["log_entropy_coef.continuous"]
    return [
        discrete if branches else torch.zeros(0),
        continuous if continuous.numel() else torch.zeros(1),
    ]


def _adam_dict(
    adam: ScaleByAdamState, moved: list[tuple[Tensor, Tensor] | None], rate: float
) -> dict[str, Any]:
    step = adam.step.float()
    b1, b2, eps = (float(x) for x in adam.hyper)
    state = {
        i: {"step": step.clone(), "exp_avg": each[0].clone(), "exp_avg_sq": each[1].clone()}
        for i, each in enumerate(moved)
        if each is not None and int(adam.step)
    }
    group = {
        "lr": rate,
        "betas": (b1, b2),
        "eps": eps,
        "weight_decay": 0,
        "amsgrad": False,
        "maximize": False,
        "foreach": None,
        "capturable": False,
        "differentiable": False,
        "fused": None,
        "params": list(range(len(moved))),
    }
    return {"state": state, "param_groups": [group]}


def is_one(name: str) -> bool:
    """Tell whether a module of theirs is an optimizer."""
    return name in OPTIMIZERS


def imported(
    optimizer: Any, given: Mapping[str, Mapping[str, Any]], state: Any, opt: PyTree
) -> PyTree:
    """Read the state of Adam out of theirs; of those that are not given it stays.

    Args:
      optimizer: whose.
      given: state dicts by module, those of networks among them.
      state: the learner's, with the weights that are given.
      opt: of its transform.

    Raises:
      ValueError: a moment is of another shape than what it belongs to.
    """
    theirs = _theirs(optimizer.trainer_settings.trainer_type, optimizer.policy.actor.shared)
    theirs = [one for one in theirs if one.name in given]
    adam = find(opt)
    if adam is None or not theirs:
        return opt
    like = _learnt(state)
    named = [_unraveled(x, like) for x in (adam.first, adam.second)]
    step = int(adam.step)
    for one in theirs:
        places = modules.parameters(given, one.modules)
        saved = given[one.name].get("state", {})
        moments, step = _read_moments(one.name, given, places, saved)
        named = [_as_ours(optimizer, each, old) for each, old in zip(moments, named)]
    if ENTROPY in given and hasattr(state, "log_entropy_coef"):
        _read_logs(given[ENTROPY].get("state", {}), named)
    first, second = (_raveled(each, old) for each, old in zip(named, (adam.first, adam.second)))
    adam = adam._replace(step=torch.full_like(adam.step, step), first=first, second=second)
    return replace(opt, adam)


def _read_moments(
    name: str,
    given: Mapping[str, Mapping[str, Any]],
    places: list[tuple[str, str]],
    saved: Mapping[int, Any],
) -> tuple[list[dict[tuple[str, str], Tensor]], int]:
    """Read both moments of each parameter of one of their optimizers, and its steps."""
    moments: list[dict[tuple[str, str], Tensor]] = [{}, {}]
    step = 0
    for i, place in enumerate(places):
        expected, each = given[place[0]][place[1]], saved.get(i)
        for moment, kind in zip(moments, ("exp_avg", "exp_avg_sq")):
            x = torch.zeros_like(expected) if each is None else each[kind]
            if x.shape != expected.shape:
                raise ValueError(
                    f"{name}: {kind} of {place[1]} must have shape {list(expected.shape)}, "
                    f"got {list(x.shape)}."
                )
            moment[place] = x
        step = max(step, int(each["step"]) if each else 0)
    return moments, step


def _read_logs(saved: Mapping[int, Any], named: list[Params]) -> None:
    for i, part in enumerate(("discrete", "continuous")):
        for moment, name in zip(named, ("exp_avg", "exp_avg_sq")):
            own = moment[f"log_entropy_coef.{part}"]
            if i in saved and saved[i][name].shape == own.shape:
                moment[f"log_entropy_coef.{part}"] = saved[i][name].to(own, copy=True)


def _learnt(state: Any) -> Params:
    """What descends, under the names it has in the transform."""
    logs = {f"log_entropy_coef.{name}": x
            for name, x in getattr(state, "log_entropy_coef", {}).items()}  # fmt: skip
    return {**state.params.weights, **logs}


def _as_modules(optimizer: Any, named: Params) -> dict[tuple[str, str], Tensor]:
    """Lay out what there is one of per weight by their module and name."""
    return {
        (one.name, one.prefix + name): x
        for one in optimizer.layout()
        if one.field == "weights"
        for name, x in to_theirs(one.weights, named).items()
    }


def _as_ours(optimizer: Any, given: Mapping[tuple[str, str], Tensor], old: Params) -> Params:
    """The other way round; what is not given stays as it was."""
    named = dict(old)
    for one in optimizer.layout():
        if one.field != "weights" or one.copy:
            continue
        for name, whole in one.weights.items():
            places = {each: (one.name, one.prefix + each) for each in whole.names}
            if all(place in given for place in places.values()):
                parts = {each: given[place] for each, place in places.items()}
                named |= {k: v.to(old[name]) for k, v in to_ours({name: whole}, parts).items()}
    return named


def _unraveled(vectors: PyTree, like: Params) -> Params:
    """Take one vector per dtype apart again; see `transforms.raveled`."""
    if set(vectors) == set(like):
        return dict(vectors)
    (vector,) = vectors.values()
    leaves, named = tree.leaves(like), tree.named_leaves(like)
    pieces = vector.split([x.numel() for x in leaves])
    shaped = [piece.reshape(x.shape) for piece, x in zip(pieces, leaves)]
    return dict(zip(named, shaped))


def _raveled(named: Params, like: PyTree) -> PyTree:
    if set(like) == set(named):
        return named
    ((dtype, _),) = like.items()
    return {dtype: torch.cat([x.reshape(-1) for x in tree.leaves(named)])}
