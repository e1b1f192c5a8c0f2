"""Recorded numbers of real ML-Agents calls, read into the project's own structures."""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from optinfra import networks, tree
from optinfra.learners import PPOBatch, ppo
from optinfra.schedules import BETA_FLOOR, EPSILON_FLOOR, LEARNING_RATE_FLOOR, linear_to_floor
from optinfra.types import Action, ActionSpec, Memories, Spec
from tests import golden_networks

FOLDER = Path(__file__).parent / "golden"
BODY = "network_body._body_endoder.seq_layers"
CONTINUOUS = "action_model._continuous_distribution"
DISCRETE = "action_model._discrete_distribution"


class Golden(NamedTuple):
    """One recorded case."""

    meta: dict
    arrays: dict[str, np.ndarray]

    def tensors(self, prefix: str) -> dict[str, torch.Tensor]:
        """Every array whose key begins with `prefix`, under the rest of its key."""
        return {
            key.removeprefix(prefix): torch.from_numpy(array.copy())
            for key, array in self.arrays.items()
            if key.startswith(prefix)
        }


def load(name: str) -> Golden:
    with np.load(FOLDER / f"{name}.npz", allow_pickle=False) as file:
        arrays = {key: file[key] for key in file.files}
    return Golden(json.loads(bytes(arrays.pop("meta"))), arrays)


def spec_of(meta: dict) -> Spec:
    shapes = tuple(tuple(obs["shape"]) for obs in meta["obs"])
    goals = tuple(i for i, obs in enumerate(meta["obs"]) if obs["type"] == "GOAL_SIGNAL")
    return Spec(shapes, ActionSpec(meta["continuous"], tuple(meta["discrete"])), goals)


def ppo_learner(golden: Golden):
    """The learner that the recorded settings describe."""
    meta, hyper = golden.meta, golden.meta["hyperparameters"]
    spec = spec_of(meta)
    network = network_of(meta)

    def decay(initial, floor):
        return linear_to_floor(initial, floor, meta["max_steps"])

    return ppo(
        network,
        spec,
        learning_rate=decay(hyper["learning_rate"], LEARNING_RATE_FLOOR),
        clip_range=decay(hyper["epsilon"], EPSILON_FLOOR),
        entropy_coef=decay(hyper["beta"], BETA_FLOOR),
        normalize=meta["normalize"],
        sequence_length=meta["sequence_length"],
        ignore_done={"curiosity"},
    )


def network_of(meta: dict) -> networks.ActorCritic | networks.RecurrentActorCritic:
    """The networks that the recorded settings describe."""
    build = networks.shared_actor_critic if meta["shared_critic"] else networks.actor_critic
    kinds = meta["network"]
    sizes = {
        "hidden_units": meta["hidden_units"],
        "num_layers": meta["num_layers"],
        "encoding": networks.Encoding(kinds["vis_encode_type"], kinds["goal_conditioning_type"]),
    }
    if meta["recurrent"]:
        build, sizes = networks.recurrent_actor_critic, sizes | {"memory_size": meta["memory_size"]}
    return build(spec_of(meta), tuple(meta["streams"]), **sizes)


def ppo_weights(golden: Golden, moment: str) -> dict[str, torch.Tensor]:
    """Parameters `before` or `after` the calls, under the names they have here."""
    meta, policy = golden.meta, golden.tensors(f"{moment}/Policy/")
    shared = meta["shared_critic"]
    critic = policy if shared else golden.tensors(f"{moment}/Optimizer:critic/")
    bodies = {"body.": policy} if shared else {"actor.body.": policy, "critic.body.": critic}
    actor_head, critic_head = ("actor.", "critic.") if shared else ("actor.head.", "critic.head.")
    weights = {}
    for prefix, module in bodies.items():
        own = golden_networks.body_weights(meta, module)
        weights |= {prefix + name: weight for name, weight in own.items()}
        if meta["recurrent"]:
            for part in ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"):
                name = f"{prefix.removesuffix('body.')}memory.{part}"
                weights[name] = module[f"network_body.lstm.lstm.{part}"]
    for part in ("weight", "bias"):
        if meta["continuous"]:
            weights[f"{actor_head}mean.{part}"] = policy[f"{CONTINUOUS}.mu.{part}"]
        if meta["discrete"]:
            branches = range(len(meta["discrete"]))
            weights[f"{actor_head}logits.{part}"] = torch.cat(
                [policy[f"{DISCRETE}.branches.{k}.{part}"] for k in branches]
            )
        for stream in meta["streams"]:
            head = critic[f"value_heads.value_heads.{stream}.{part}"]
            weights[f"{critic_head}heads.{stream}.{part}"] = head
    if meta["continuous"]:
        weights[f"{actor_head}log_std"] = policy[f"{CONTINUOUS}.log_sigma"][0]
    return weights


def ppo_batch(golden: Golden) -> PPOBatch:
    """The recorded batch. Upstream keeps one column for values and returns (its Q1)."""
    columns, spec = golden.tensors("batch/"), spec_of(golden.meta)
    mask = columns["masks"].bool()
    has_branches = bool(spec.action.branches)
    action_mask = columns["action_mask"] if has_branches else columns["action_mask"][:, :0]
    returns = {name: columns[f"returns:{name}"] for name in golden.meta["streams"]}
    batch = PPOBatch(
        obs=tuple(columns[f"obs:{i}"] for i in range(len(spec.obs))),
        action=Action(columns["continuous_action"], columns["discrete_action"].long()),
        action_mask=action_mask.bool(),
        log_prob=torch.cat([columns["continuous_log_probs"], columns["discrete_log_probs"]], -1),
        advantages=columns["advantages"],
        values=returns,
        returns=returns,
        mask=mask,
    )
    return as_sequences(batch, columns, golden.meta) if golden.meta["recurrent"] else batch


def as_sequences(batch: PPOBatch, columns: dict[str, torch.Tensor], meta: dict) -> PPOBatch:
    """Recorded rows stand one sequence after the other; the first of each holds its memory."""
    length = meta["sequence_length"]
    memories = (columns[name][::length] for name in ("memory", "critic_memory"))
    rows = tree.map(lambda x: x.unflatten(0, (-1, length)), batch)
    return rows._replace(memory=Memories(*memories), reset=torch.zeros_like(rows.mask))


def trajectories(golden: Golden):
    """Recorded trajectories of one agent, in order: observations, what followed, done, values."""
    for k, (_, done) in enumerate(golden.meta["trajectories"]):
        columns, count = golden.tensors(f"batch/{k}/"), len(golden.meta["obs"])
        obs = tuple(columns[f"obs:{i}"] for i in range(count))
        following = tuple(columns[f"next_obs_last:{i}"] for i in range(count))
        yield obs, following, torch.tensor(done), golden.tensors(f"out/{k}/")
