"""ML-Agents' names of parameters, beside ours: what a module of theirs holds, and where it is here.

A network of ours is a dictionary of weights, one of theirs a state dict. Most of one are in the
other, under another name; some of ours are several of theirs, one after another.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from optinfra.types import Params, Spec

SET = 2  # axes of an observation of entities

LSTM = r"(weight_ih_l0|weight_hh_l0|bias_ih_l0|bias_hh_l0)"
PART = r"(weight|bias)"
CONTINUOUS = "action_model._continuous_distribution"
DISCRETE = "action_model._discrete_distribution"
QKV = ("fc_q", "fc_k", "fc_v")  # one after another in our one product
HYPER = {"first": "hypernet.0", "second": "hypernet.2", "weights": "hypernet.5"}
EMBEDDINGS = {"observed": "obs_encoder", "acted": "obs_action_encoder"}


class Place(NamedTuple):
    """Where a body of ours and of theirs lie in what holds them."""

    ours: str  # of the body, such as `body.`; what reads images and sets is `encoder.` in it
    theirs: str  # such as `network_body`
    encoder: str = "encoder."  # of what reads images and sets, in the body
    layers: str = "_body_endoder"  # theirs, of the layers


class Whole(NamedTuple):
    """What one weight of ours consists of."""

    names: tuple[str, ...]  # of theirs, one after another along the first axis
    sizes: tuple[int, ...] = ()  # of each along it; () where they are all alike
    row: bool = False  # whether theirs has an axis of one row before ours


def of_body(names: Iterable[str], spec: Spec, place: Place) -> dict[str, Whole]:
    """Tell what each weight of a body, or of what it reads, is called by them."""
    own = [name.removeprefix(place.ours) for name in names if name.startswith(place.ours)]
    encoder, layers = re.escape(place.encoder), f"{place.theirs}.{place.layers}"
    processors = f"{place.theirs}.observation_encoder.processors"
    attention = f"{place.theirs}.observation_encoder.rsa"
    sets = [i for i, shape in enumerate(spec.obs) if len(shape) == SET]
    residual = any(".blocks." in name for name in own)
    generated = any(re.fullmatch(r"layers\.\d+\.first\.weight", name) for name in own)
    kind = "layers" if generated else "seq_layers"

    def image(i: str, k: str, part: str) -> list[str]:
        convolution = f"sequential.{4 * int(k)}" if residual else f"conv_layers.{2 * int(k)}"
        return [f"{processors}.{i}.{convolution}.{part}"]

    def block(i: str, k: str, j: str, own: str, part: str) -> list[str]:
        layer = {"first": 1, "second": 3}[own]
        number = 4 * int(k) + 2 + int(j)
        return [f"{processors}.{i}.sequential.{number}.layers.{layer}.{part}"]

    def dense(i: str, part: str) -> list[str]:
        return [f"{processors}.{i}.{'dense' if residual else 'dense.0'}.{part}"]

    def embedding(k: str, part: str) -> list[str]:
        return [f"{processors}.{sets[int(k)]}.self_ent_encoder.seq_layers.0.{part}"]

    def hyper(layer: str, own: str, part: str) -> list[str]:
        return [f"{layers}.{kind}.{2 * int(layer)}.{HYPER[own]}.{part}"]

    rules: dict[str, Callable[..., list[str]]] = {
        rf"{encoder}encoders\.(\d+)\.convolutions\.(\d+)\.conv\.{PART}": image,
        rf"{encoder}encoders\.(\d+)\.convolutions\.(\d+)\.blocks\.(\d)\.(\w+)\.{PART}": block,
        rf"{encoder}encoders\.(\d+)\.dense\.{PART}": dense,
        rf"{encoder}entities\.embeddings\.(\d+)\.layer\.{PART}": embedding,
        rf"{encoder}entities\.attention\.qkv\.{PART}": lambda part: [
            f"{attention}.{one}.{part}" for one in QKV
        ],
        rf"{encoder}entities\.attention\.out\.{PART}": lambda part: [f"{attention}.fc_out.{part}"],
        rf"{encoder}entities\.itself\.{PART}": lambda part: [
            f"{place.theirs}.observation_encoder.x_self_encoder.seq_layers.0.{part}"
        ],
        rf"layers\.(\d+)\.{PART}": lambda layer, part: [f"{layers}.{kind}.{2 * int(layer)}.{part}"],
        rf"layers\.(\d+)\.({'|'.join(HYPER)})\.{PART}": hyper,
    }
    return {place.ours + name: Whole(tuple(found)) for name, found in _matched(own, rules)}


def of_memory(names: Iterable[str], ours: str, theirs: str) -> dict[str, Whole]:
    """Tell what the weights of a memory are called by them."""
    found = _matched(names, {rf"{re.escape(ours)}{LSTM}": lambda x: [f"{theirs}.lstm.lstm.{x}"]})
    return {name: Whole(tuple(each)) for name, each in found}


def of_policy_head(names: Iterable[str], spec: Spec, ours: str) -> dict[str, Whole]:
    """Tell what the weights that choose actions are called by them."""
    branches = range(len(spec.action.branches))
    own = re.escape(ours)
    found = _matched(
        names,
        {
            rf"{own}mean\.{PART}": lambda part: [f"{CONTINUOUS}.mu.{part}"],
            rf"{own}log_std\.{PART}": lambda part: [f"{CONTINUOUS}.log_sigma.{part}"],
            rf"{own}log_std": lambda: [f"{CONTINUOUS}.log_sigma"],
            rf"{own}logits\.{PART}": lambda part: [
                f"{DISCRETE}.branches.{k}.{part}" for k in branches
            ],
        },
    )
    return {
        name: Whole(
            tuple(each),
            sizes=spec.action.branches if name.startswith(f"{ours}logits") else (),
            row=name == f"{ours}log_std",
        )
        for name, each in found
    }


def of_value_heads(names: Iterable[str], ours: str) -> dict[str, Whole]:
    """Tell what the weights of values by stream are called by them."""
    rule = {
        rf"{re.escape(ours)}heads\.(.+)\.{PART}": lambda stream, part: [
            f"value_heads.value_heads.{stream}.{part}"
        ]
    }
    return {name: Whole(tuple(each)) for name, each in _matched(names, rule)}


def of_group(names: Iterable[str], ours: str) -> dict[str, Whole]:
    """Tell what the weights of a group's critic are called by them, but for its bodies."""
    own, body = re.escape(ours), "network_body"
    found = _matched(
        names,
        {
            rf"{own}(observed|acted)\.layer\.{PART}": lambda which, part: [
                f"{body}.{EMBEDDINGS[which]}.self_ent_encoder.seq_layers.0.{part}"
            ],
            rf"{own}attention\.qkv\.{PART}": lambda part: [
                f"{body}.self_attn.{one}.{part}" for one in QKV
            ],
            rf"{own}attention\.out\.{PART}": lambda part: [f"{body}.self_attn.fc_out.{part}"],
        },
    )
    return {name: Whole(tuple(each)) for name, each in found}


def _matched(
    names: Iterable[str], rules: Mapping[str, Callable[..., list[str]]]
) -> list[tuple[str, list[str]]]:
    """Apply to each name the one rule that fits it."""
    found = []
    for name in names:
        for pattern, rule in rules.items():
            if match := re.fullmatch(pattern, name):
                found.append((name, rule(*match.groups())))
                break
    return found


# --- to and fro -----------------------------------------------------------------------------


def to_theirs(wholes: Mapping[str, Whole], weights: Params) -> Params:
    """Lay weights of ours under their names."""
    theirs: Params = {}
    for name, whole in wholes.items():
        x = weights[name][None] if whole.row else weights[name]
        theirs |= zip(
            whole.names, x.split(whole.sizes) if whole.sizes else x.chunk(len(whole.names))
        )
    return theirs


def to_ours(wholes: Mapping[str, Whole], theirs: Params) -> Params:
    """The other way round."""
    weights: dict[str, Tensor] = {}
    for name, whole in wholes.items():
        x = torch.cat([theirs[each] for each in whole.names])
        weights[name] = x[0] if whole.row else x
    return weights
