"""ML-Agents' names of what reads images, sets and goals, beside ours."""

import torch

BODY = "network_body._body_endoder"
PROCESSORS = "network_body.observation_encoder.processors"
IMAGE, SET = 3, 2

# Ours, theirs: of one encoder of images, by its kind.
PLAIN = {
    "simple": [("convolutions.0.conv", "conv_layers.0"), ("convolutions.1.conv", "conv_layers.2")],
    "fully_connected": [],
}
PLAIN["match3"] = PLAIN["simple"]
PLAIN["nature_cnn"] = [*PLAIN["simple"], ("convolutions.2.conv", "conv_layers.4")]
RESNET = [
    *((f"convolutions.{k}.conv", f"sequential.{4 * k}") for k in range(3)),
    *(
        (f"convolutions.{k}.blocks.{j}.{own}", f"sequential.{4 * k + 2 + j}.layers.{layer}")
        for k in range(3)
        for j in range(2)
        for own, layer in (("first", 1), ("second", 3))
    ),
]
HYPER = {"first": "hypernet.0", "second": "hypernet.2", "weights": "hypernet.5"}


def body_weights(meta: dict, module: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights of a body, under our names."""
    weights = encoder_weights(meta, module)
    last = meta["num_layers"] - 1
    hyper = f"{BODY}.layers.{2 * last}.bias" in module
    layers = f"{BODY}.layers" if hyper else f"{BODY}.seq_layers"
    for layer in range(meta["num_layers"] - hyper):
        weights |= pair(f"layers.{layer}", module, f"{layers}.{2 * layer}")
    if hyper:
        own, theirs = f"layers.{last}", f"{layers}.{2 * last}"
        weights[f"{own}.bias"] = module[f"{theirs}.bias"]
        for mine, other in HYPER.items():
            weights |= pair(f"{own}.{mine}", module, f"{theirs}.{other}")
    return weights


def encoder_weights(meta: dict, module: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights of a body's encoders, under our names."""
    weights = {}
    kind = meta["network"]["vis_encode_type"]
    sets = [i for i, obs in enumerate(meta["obs"]) if len(obs["shape"]) == SET]
    for i, obs in enumerate(meta["obs"]):
        if len(obs["shape"]) == IMAGE:
            dense = "dense" if kind == "resnet" else "dense.0"
            layers = RESNET if kind == "resnet" else PLAIN[kind]
            for own, theirs in (*layers, ("dense", dense)):
                weights |= pair(f"encoder.encoders.{i}.{own}", module, f"{PROCESSORS}.{i}.{theirs}")
    entities = "encoder.entities"
    for k, i in enumerate(sets):
        theirs = f"{PROCESSORS}.{i}.self_ent_encoder.seq_layers.0"
        weights |= pair(f"{entities}.embeddings.{k}.layer", module, theirs)
    if sets:
        encoder = "network_body.observation_encoder"
        attention = f"{encoder}.rsa"
        for part in ("weight", "bias"):
            projections = [module[f"{attention}.fc_{each}.{part}"] for each in "qkv"]
            weights[f"{entities}.attention.qkv.{part}"] = torch.cat(projections)
        weights |= pair(f"{entities}.attention.out", module, f"{attention}.fc_out")
        itself = f"{encoder}.x_self_encoder.seq_layers.0"
        if f"{itself}.weight" in module:
            weights |= pair(f"{entities}.itself", module, itself)
    return weights


def pair(own: str, module: dict[str, torch.Tensor], theirs: str) -> dict[str, torch.Tensor]:
    return {f"{own}.{part}": module[f"{theirs}.{part}"] for part in ("weight", "bias")}
