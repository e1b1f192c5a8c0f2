"""State dicts of ML-Agents' modules, made of ours and read into ours."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from optinfra.mlagents.layout import Module
from optinfra.mlagents.names import to_ours, to_theirs
from optinfra.moments import Moments, Running
from optinfra.types import Params, Spec

StateDict = Mapping[str, Any]
NORMALIZER = ("normalization_steps", "running_mean", "running_variance")
VERSION = 3.0  # of the way ML-Agents stores a policy
METADATA = (
    "version_number",
    "is_continuous_int_deprecated",
    "continuous_act_size_vector",
    "discrete_act_size_vector",
    "act_size_vector_deprecated",
    "memory_size_vector",
)
MOST_AGENTS = "network_body._current_max_agents"
BETA = "_beta"
OTHERS = {MOST_AGENTS, BETA, *METADATA}  # what is in a module and is none of its weights


def state_dicts(
    modules: Sequence[Module], fields: Mapping[str, Params], moments: Running
) -> dict[str, dict[str, Tensor]]:
    """Lay out weights and normalisers as ML-Agents' modules hold them, in its order.

    Args:
      modules: see `layout`.
      fields: weights of ours by what `Module.field` names.
      moments: of the normaliser; () without one.
    """
    dicts: dict[str, dict[str, Tensor]] = {}
    for module in modules:
        own = to_theirs(module.weights, fields[module.field]) | _normalizers(module.body, moments)
        ordered = {name: own[name].detach().clone() for name in as_registered(own)}
        ordered |= _again(module.body, ordered)
        held = dicts.setdefault(module.name, {})
        held |= {module.prefix + name: x for name, x in ordered.items()}
    return dicts


def _again(body: str, ordered: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Name what reads observations once more: ML-Agents' bodies do, too."""
    processors = f"{body}.observation_encoder.processors."
    return {
        f"{body}.processors.{name.removeprefix(processors)}": x
        for name, x in ordered.items()
        if name.startswith(processors)
    }


def _normalizers(body: str, moments: Running) -> dict[str, Tensor]:
    return {
        f"{body}.observation_encoder.processors.{i}.normalizer.{name}": x
        for i, each in enumerate(moments)
        if isinstance(each, Moments)
        for name, x in zip(NORMALIZER, each)
    }


def metadata(spec: Spec, memory_size: int) -> dict[str, Tensor]:
    """Give what a policy of ML-Agents tells of itself beside its weights."""
    sizes = spec.action
    branches = [float(n) for n in sizes.branches]
    kinds = (bool(sizes.continuous), bool(branches))
    values: tuple[Any, ...] = (
        [VERSION],
        [float(kinds == (True, False))],
        [float(sizes.continuous)],
        [branches],
        [float(sizes.continuous + sizes.choices)],
        [float(memory_size)],
    )
    return {name: torch.tensor(value) for name, value in zip(METADATA, values)}


def read(
    modules: Sequence[Module], dicts: Mapping[str, StateDict], like: Mapping[str, Params]
) -> dict[str, Params]:
    """Read weights out of ML-Agents' modules.

    Args:
      modules: see `layout`.
      dicts: state dicts by the name of their module.
      like: weights of ours, whose shapes and devices those read must have.

    Returns:
      Weights by what `Module.field` names.

    Raises:
      ValueError: a module or a parameter is missing, is of another shape, or is not known.
    """
    found: dict[str, Params] = {}
    for name in {module.name: None for module in modules if not module.copy}:
        parts = [module for module in modules if module.name == name]
        theirs = _module(dicts, name)
        _require_known(name, parts, theirs)
        for module in parts:
            own = _weights(module, theirs, like[module.field])
            found.setdefault(module.field, {}).update(own)
    return found


def _module(dicts: Mapping[str, StateDict], name: str) -> StateDict:
    if name not in dicts:
        there = ", ".join(sorted(dicts)) or "none"
        raise ValueError(f"`modules` must have {name}, got {there}.")
    return dicts[name]


def _require_known(name: str, parts: Sequence[Module], theirs: StateDict) -> None:
    """Refuse a network that has more than ours: it is of another size."""
    known = {
        part.prefix + each for part in parts for whole in part.weights.values()
        for each in whole.names
    }  # fmt: skip
    aliases = tuple(f"{part.prefix}{part.body}.processors." for part in parts)
    for each in theirs:
        other = each in OTHERS or each.startswith(aliases) or ".normalizer." in each
        if each not in known and not other:
            raise ValueError(f"{name} has {each}, and no network of the settings has such weights.")


def _weights(module: Module, theirs: StateDict, like: Params) -> Params:
    prefixed: dict[str, Tensor] = {}
    for each in (each for whole in module.weights.values() for each in whole.names):
        x = theirs.get(module.prefix + each)
        if not isinstance(x, Tensor):
            raise ValueError(f"{module.name} must have {module.prefix + each}, got none.")
        prefixed[each] = x.detach()
    weights: Params = {}
    for ours, whole in module.weights.items():
        expected = like[ours]
        place = f"{module.name}: {module.prefix}{whole.names[0]}"
        try:
            (weights[ours],) = to_ours({ours: whole}, prefixed).values()
        except (RuntimeError, IndexError):
            raise ValueError(f"{place} does not fit beside what it belongs to.") from None
        if weights[ours].shape != expected.shape:
            raise ValueError(
                f"{place} must have shape {list(expected.shape)}, got {list(weights[ours].shape)}."
            )
        weights[ours] = weights[ours].to(expected)
    return weights


def read_moments(module: Module, dicts: Mapping[str, StateDict], like: Running) -> Running:
    """Read a normaliser out of a module.

    Raises:
      ValueError: it is missing, or of another shape.
    """
    theirs = _module(dicts, module.name)
    found: list[Moments | tuple[()]] = []
    for i, each in enumerate(like):
        if not isinstance(each, Moments):
            found.append(each)
            continue
        parts = []
        for name, expected in zip(NORMALIZER, each):
            place = f"{module.body}.observation_encoder.processors.{i}.normalizer.{name}"
            x = theirs.get(module.prefix + place)
            if not isinstance(x, Tensor) or x.shape != expected.shape:
                got = list(x.shape) if isinstance(x, Tensor) else "none"
                raise ValueError(
                    f"{module.name}: {place} must have shape {list(expected.shape)}, got {got}."
                )
            parts.append(x.detach().to(expected, copy=True))
        found.append(Moments(*parts))
    return tuple(found)


# --- the order in which ML-Agents registers parameters, which its optimizers count by ---------

ORDER = (
    *METADATA, MOST_AGENTS.rpartition(".")[2], "_z_sigma", "_beta",
    "network_body", "_encoder", "encoder", "_state_encoder", "observation_encoder", "processors",
    "normalizer", *NORMALIZER, "conv_layers", "sequential", "dense", "self_ent_encoder", "rsa",
    "x_self_encoder", "obs_encoder", "obs_action_encoder", "self_attn", "fc_q", "fc_k", "fc_v",
    "fc_out", "linear_encoder", "_body_endoder", "lstm", "_z_mu_layer", "_estimator",
    "action_model", "_continuous_distribution", "_discrete_distribution", "value_heads",
    "inverse_model_action_encoding", "continuous_action_prediction", "discrete_action_prediction",
    "forward_model_next_state_prediction",
    "weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0", "mu", "weight", "bias",
    "hypernet",
)  # fmt: skip
PLACES = {name: i for i, name in enumerate(ORDER)}


def as_registered(names: Iterable[str]) -> list[str]:
    """Sort names as ML-Agents registers what they name; streams keep the order they are in."""
    given = list(names)
    streams: dict[str, int] = {}
    for part in (part for name in given for part in name.split(".")):
        if part not in PLACES and not part.isdigit():
            streams.setdefault(part, len(streams))

    def rank(name: str) -> tuple[tuple[int, int], ...]:
        parts = name.split(".")
        if name.endswith("_continuous_distribution.log_sigma"):  # a parameter, before modules
            return (*((0, PLACES[part]) for part in parts[:-1]), (0, -1))
        return tuple(
            (1, int(part)) if part.isdigit()
            else (0, PLACES[part]) if part in PLACES
            else (2, streams[part])
            for part in parts
        )  # fmt: skip

    return sorted(given, key=rank)


def parameters(dicts: Mapping[str, StateDict], names: Iterable[str]) -> list[tuple[str, str]]:
    """List the parameters of some modules as an optimizer of ML-Agents numbers them.

    Returns:
      Pairs of a module and a name in it; statistics of normalisers are no parameters.
    """
    return [
        (module, name)
        for module in names
        for name in dicts[module]
        if ".normalizer." not in name
        and (".processors." not in name or ".observation_encoder.processors." in name)
    ]
