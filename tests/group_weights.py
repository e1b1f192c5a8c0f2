"""Recorded parameters and mates of ML-Agents' POCA, under the names they have here, and back."""

import torch

from optinfra import networks
from optinfra.types import Action, Mates
from tests.golden_cases import BODY, CONTINUOUS, DISCRETE, spec_of

CRITIC = "Optimizer:critic"
MOST_AGENTS = f"{CRITIC}/network_body._current_max_agents"
EMBEDDINGS = {"observed": "obs_encoder", "acted": "obs_action_encoder"}
MEMORY = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
QKV = ("fc_q", "fc_k", "fc_v")  # one after another in our one product
WHOLE = None  # in the place of a number of rows: all there are


def group_network(meta):
    """The networks that the recorded settings describe."""
    return networks.group_actor_critic(
        spec_of(meta),
        tuple(meta["streams"]),
        memory_size=meta["memory_size"] if meta["recurrent"] else None,
        hidden_units=meta["hidden_units"],
        num_layers=meta["num_layers"],
    )


def recorded_names(meta):
    """For each parameter of ours, what it consists of: their names, with their numbers of rows."""
    names, body = {}, "network_body"
    for part in ("weight", "bias"):
        for layer in range(meta["num_layers"]):
            ours, theirs = f"body.layers.{layer}.{part}", f"{2 * layer}.{part}"
            names[f"actor.{ours}"] = [(f"Policy/{BODY}.{theirs}", WHOLE)]
            encoder = f"{CRITIC}/{body}.linear_encoder.seq_layers.{theirs}"
            names[f"critic.{ours}"] = [(encoder, WHOLE)]
        for ours, theirs in EMBEDDINGS.items():
            encoder = f"{CRITIC}/{body}.{theirs}.self_ent_encoder.seq_layers.0.{part}"
            names[f"critic.{ours}.layer.{part}"] = [(encoder, WHOLE)]
        attention = f"{CRITIC}/{body}.self_attn"
        names[f"critic.attention.qkv.{part}"] = [
            (f"{attention}.{one}.{part}", meta["hidden_units"]) for one in QKV
        ]
        names[f"critic.attention.out.{part}"] = [(f"{attention}.fc_out.{part}", WHOLE)]
        for stream in meta["streams"]:
            head = f"{CRITIC}/value_heads.value_heads.{stream}.{part}"
            names[f"critic.head.heads.{stream}.{part}"] = [(head, WHOLE)]
        if meta["continuous"]:
            names[f"actor.head.mean.{part}"] = [(f"Policy/{CONTINUOUS}.mu.{part}", WHOLE)]
        if meta["discrete"]:
            names[f"actor.head.logits.{part}"] = [
                (f"Policy/{DISCRETE}.branches.{k}.{part}", choices)
                for k, choices in enumerate(meta["discrete"])
            ]
    for part in MEMORY if meta["recurrent"] else ():
        for ours, theirs in (("actor", "Policy"), ("critic", CRITIC)):
            names[f"{ours}.memory.{part}"] = [(f"{theirs}/{body}.lstm.lstm.{part}", WHOLE)]
    if meta["continuous"]:
        names["actor.head.log_std"] = [(f"Policy/{CONTINUOUS}.log_sigma", WHOLE)]
    return names


def group_params(golden, moment):
    """Parameters `before` or `after` the calls, and the largest group seen until then `[]`."""
    recorded = golden.tensors(f"{moment}/")
    params = {
        ours: torch.cat([recorded[name] for name, _ in theirs])
        for ours, theirs in recorded_names(golden.meta).items()
    }
    if golden.meta["continuous"]:
        params["actor.head.log_std"] = params["actor.head.log_std"][0]
    return params, recorded[MOST_AGENTS].float()


def recorded_params(meta, params, largest):
    """The other way round: `Policy/…` and `Optimizer:critic/…` of parameters of ours."""
    recorded = {MOST_AGENTS: largest}
    for ours, theirs in recorded_names(meta).items():
        whole = params[ours][None] if ours.endswith("log_std") else params[ours]
        sizes = [len(whole) if rows is WHOLE else rows for _, rows in theirs]
        recorded |= {name: x for (name, _), x in zip(theirs, whole.split(sizes))}
    return recorded


def recorded_mates(meta, columns, following=False):
    """The mates of recorded rows, or those of the next step (whose actions are not recorded).

    Upstream has NaN where nobody is.
    """
    spec, prefix = spec_of(meta), "next_" if following else ""
    obs = tuple(columns[f"{prefix}group_obs:{i}"] for i in range(len(spec.obs)))
    slots = obs[0].shape[:-1]
    action = Action(
        columns.get("group_continuous_action", torch.zeros(*slots, 0)),
        columns.get("group_discrete_action", torch.zeros(*slots, 0)).long(),
    )
    return Mates(obs, action, ~obs[0][..., 0].isnan())
