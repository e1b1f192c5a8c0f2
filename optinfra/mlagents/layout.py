"""Which modules ML-Agents has of a learner or a signal, and which of our weights are in each."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from optinfra.mlagents import names as naming
from optinfra.mlagents.names import Place, Whole
from optinfra.types import Spec

BODY = "network_body"
POLICY = "Policy"
CRITIC = "Optimizer:critic"
VALUE = "Optimizer:value_network"
Q = "Optimizer:q_network"
TARGET = "Optimizer:target_network"


class Module(NamedTuple):
    """One network of theirs."""

    name: str  # of the module that holds it, such as `Optimizer:critic`
    weights: Mapping[str, Whole]  # by our name
    prefix: str = ""  # of all its names in the module
    body: str = BODY  # which of its parts reads observations
    field: str = "weights"  # which weights of ours: `weights`, or `target`
    copy: bool = False  # whether another module holds the same: it is written and not read


def policy(weights: Iterable[str], spec: Spec, *, shared: bool) -> Module:
    """Lay out a policy, with its values where it shares its body with them."""
    own = list(weights)
    if not shared:
        return Module(POLICY, _network(own, spec, "actor."))
    return Module(
        POLICY,
        naming.of_body(own, spec, Place("body.", BODY))
        | naming.of_memory(own, "memory.", BODY)
        | naming.of_policy_head(own, spec, "actor.")
        | naming.of_value_heads(own, "critic."),
    )


def proximal(weights: Iterable[str], spec: Spec, *, shared: bool) -> list[Module]:
    """Lay out PPO's networks."""
    own = list(weights)
    actor = policy(own, spec, shared=shared)
    if shared:
        return [actor, actor._replace(name=CRITIC, copy=True)]
    return [actor, Module(CRITIC, _network(own, spec, "critic."))]


def grouped(weights: Iterable[str], spec: Spec) -> list[Module]:
    """Lay out POCA's networks."""
    own = list(weights)
    critic = (
        naming.of_body(own, spec, Place("critic.", BODY))
        | naming.of_body(own, spec, Place("critic.body.", BODY, layers="linear_encoder"))
        | naming.of_group(own, "critic.")
        | naming.of_memory(own, "critic.memory.", BODY)
        | naming.of_value_heads(own, "critic.head.")
    )
    return [policy(own, spec, shared=False), Module(CRITIC, critic)]


def soft(weights: Iterable[str], spec: Spec) -> list[Module]:
    """Lay out SAC's networks."""
    own = list(weights)
    value = _network(own, spec, "value.")
    return [
        policy(own, spec, shared=False),
        Module(Q, _network(own, spec, "q1."), "q1_network."),
        Module(Q, _network(own, spec, "q2."), "q2_network."),
        Module(VALUE, value),
        Module(TARGET, value, field="target"),
    ]


def _network(weights: list[str], spec: Spec, ours: str) -> dict[str, Whole]:
    """Lay out a body with a memory and heads."""
    return (
        naming.of_body(weights, spec, Place(f"{ours}body.", BODY))
        | naming.of_memory(weights, f"{ours}memory.", BODY)
        | naming.of_policy_head(weights, spec, f"{ours}head.")
        | naming.of_value_heads(weights, f"{ours}head.")
    )


def signal(name: str, weights: Iterable[str], spec: Spec) -> list[Module]:
    """Lay out the networks of a reward signal; one of one's own has none that they know."""
    own = list(weights)
    if name == "curiosity":
        return [_curiosity(own, spec)]
    if name == "rnd":
        encoder = naming.of_body(own, spec, Place("", "_encoder"))
        return [
            Module("Module:RND-pred", encoder, body="_encoder"),
            Module("Module:RND-target", encoder, body="_encoder", field="target"),
        ]
    if name == "gail":
        return [_gail(own, spec)]
    return []


def _curiosity(weights: list[str], spec: Spec) -> Module:
    models = {
        "forward_model.hidden": "forward_model_next_state_prediction.0.seq_layers.0",
        "forward_model.output": "forward_model_next_state_prediction.1",
        "inverse_model.hidden": "inverse_model_action_encoding.0.seq_layers.0",
        "inverse_model.continuous": "continuous_action_prediction",
        "inverse_model.logits": "discrete_action_prediction",
    }
    body = naming.of_body(weights, spec, Place("encoder.", "_state_encoder"))
    return Module("Module:Curiosity", body | _renamed(weights, models), body="_state_encoder")


def _gail(weights: list[str], spec: Spec) -> Module:
    parts = {"code": "_z_mu_layer", "output": "_estimator.0"}
    found = naming.of_body(weights, spec, Place("body.", "encoder")) | _renamed(weights, parts)
    if "sigma" in weights:
        found["sigma"] = Whole(("_z_sigma",))
    return Module("Module:GAIL", found, body="encoder")


def _renamed(weights: list[str], parts: Mapping[str, str]) -> dict[str, Whole]:
    return {
        f"{ours}.{part}": Whole((f"{theirs}.{part}",))
        for ours, theirs in parts.items()
        for part in ("weight", "bias")
        if f"{ours}.{part}" in weights
    }
