"""Signals that several tests use, and those that ML-Agents' recorded calls describe."""

from typing import NamedTuple

import torch

from optinfra import random
from optinfra.signals import curiosity, gail, rnd
from optinfra.types import Action, ActionSpec, Signal, Spec, Transitions
from tests import examples, golden_cases

SPEC = examples.SPEC
CONTINUOUS = Spec(((4,),), ActionSpec(2))
DISCRETE = Spec(((4,),), ActionSpec(0, (3,)))
SMALL = {"hidden_units": 8, "num_layers": 1, "learning_rate": 1e-2}


def expert(spec=SPEC):
    return examples.transitions(500, 20, spec=spec)


def build(name: str, spec=SPEC, **options) -> Signal:
    """Make the small signal that a name describes."""
    options = SMALL | {"normalize": "normalised" in name} | options
    if "ai" in name:
        flags = {"use_actions": "actions" in name, "use_vail": "vail" in name}
        return gail(spec, expert(spec), **flags, **options)
    if "rnd" in name:
        return rnd(spec, **({"normalize_reward": options["normalize"]} | options))
    return curiosity(spec, **options)


NAMES = ["curiosity", "curiosity, normalised", "rnd", "rnd, normalised", "gail",
         "gail, actions, normalised", "vail", "vail, actions, normalised"]  # fmt: skip
SIGNALS = {name: build(name) for name in NAMES}
OTHER_ACTIONS: dict[str, tuple[Signal, Spec]] = {
    "curiosity, continuous": (build("curiosity", CONTINUOUS), CONTINUOUS),
    "curiosity, discrete": (build("curiosity", DISCRETE), DISCRETE),
    "gail, actions, discrete": (build("gail, actions", DISCRETE), DISCRETE),
}


def learnt(signal, seed=0, updates=2, spec=SPEC):
    """A state after some updates: what is 0 or 1 at the start no longer is."""
    state = signal.init(random.key(seed))
    for k in range(updates):
        state, _ = signal.update(state, examples.transitions(900 + 10 * k + seed, 11, spec=spec))
    return state


# --- recorded calls of ML-Agents ------------------------------------------------------------


class Recorded(NamedTuple):
    """A signal as it was when the recorded calls began, and what they were given."""

    golden: golden_cases.Golden
    signal: Signal
    state: tuple
    batch: Transitions


def recorded(name: str) -> Recorded:
    """Read a recorded case; the state has the recorded weights."""
    golden = golden_cases.load(name)
    spec, stream = golden_cases.spec_of(golden.meta), stream_of(golden)
    settings = golden.meta["streams"][stream]
    network = settings["network_settings"]
    options = {
        "strength": settings["strength"],
        "gamma": settings["gamma"],
        "learning_rate": settings["learning_rate"],
        "hidden_units": network["hidden_units"],
        "num_layers": network["num_layers"],
        "normalize": network["normalize"],
    }
    if stream == "gail":
        flags = {flag: settings[flag] for flag in ("use_actions", "use_vail")}
        signal = gail(spec, expert_of(golden, spec), **options, **flags)
    else:
        signal = {"curiosity": curiosity, "rnd": rnd}[stream](spec, **options)
    state = signal.init(random.key(0))._replace(**networks(golden, "before"))
    return Recorded(golden, signal, state, batch_of(golden, spec))


def stream_of(golden) -> str:
    (name,) = golden.meta["streams"].keys() - {"extrinsic"}
    return name


def batch_of(golden, spec) -> Transitions:
    columns = golden.tensors("batch/")
    count = range(len(spec.obs))
    obs = tuple(columns[f"obs:{i}"] for i in count)
    done = columns["done"].bool()
    return Transitions(
        obs=obs,
        next_obs=tuple(columns.get(f"next_obs:{i}", x) for i, x in enumerate(obs)),
        action=Action(columns["continuous_action"], columns["discrete_action"].long()),
        rewards=columns["environment_rewards"],
        terminated=done,
        truncated=torch.zeros_like(done),
        mask=columns["masks"].bool(),
    )


def expert_of(golden, spec) -> Transitions:
    columns = golden.tensors("demo/")
    obs = tuple(columns[f"obs:{i}"] for i in range(len(spec.obs)))
    done = columns["done"].bool()
    return Transitions(
        obs=obs,
        next_obs=obs,
        action=Action(columns["continuous_action"].float(), columns["discrete_action"].long()),
        rewards=columns["environment_rewards"],
        terminated=torch.zeros_like(done),
        truncated=done,
        mask=torch.ones_like(done),
    )


LAYERS = "_body_endoder.seq_layers"
UPSTREAM = {  # our name for each of upstream's, without the number of a layer
    "curiosity": {
        "encoder.layers": f"_state_encoder.{LAYERS}",
        "forward_model.hidden": "forward_model_next_state_prediction.0.seq_layers.0",
        "forward_model.output": "forward_model_next_state_prediction.1",
        "inverse_model.hidden": "inverse_model_action_encoding.0.seq_layers.0",
        "inverse_model.continuous": "continuous_action_prediction",
        "inverse_model.logits": "discrete_action_prediction",
    },
    "rnd": {"layers": f"_encoder.{LAYERS}"},
    "gail": {
        "body.layers": f"encoder.{LAYERS}",
        "code": "_z_mu_layer",
        "sigma": "_z_sigma",
        "output": "_estimator.0",
    },
}


def networks(golden, moment: str) -> dict[str, object]:
    """The recorded fields of the state `before` or `after` the calls."""
    stream = stream_of(golden)
    if stream == "rnd":
        prediction, target = (golden.tensors(f"{moment}/Module:RND-{x}/") for x in PARTS)
        return {"weights": renamed(stream, prediction), "target": renamed(stream, target)}
    module = golden.tensors(f"{moment}/Module:{MODULES[stream]}/")
    fields: dict[str, object] = {"weights": renamed(stream, module)}
    return fields | ({"beta": module["_beta"]} if "_beta" in module else {})


PARTS = ("pred", "target")
MODULES = {"curiosity": "Curiosity", "gail": "GAIL"}


def renamed(stream: str, module: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Recorded parameters under the names they have here; upstream counts activations, too."""
    weights = {}
    for name, x in module.items():
        for ours, theirs in UPSTREAM[stream].items():
            if not name.startswith(theirs):
                continue
            rest = name.removeprefix(theirs)
            if theirs.endswith(LAYERS):
                _, layer, part = rest.split(".")
                rest = f".{int(layer) // 2}.{part}"
            weights[ours + rest] = x
    return weights


FUNCTIONS = {"randint": "randint", "rand": "uniform", "randn_like": "normal"}


def replay(monkeypatch, golden) -> list:
    """Let `optinfra.random` give the recorded draws one after another; what is left of them."""
    left = [
        (FUNCTIONS[key.split("_", 1)[1]], x) for key, x in sorted(golden.tensors("draw/").items())
    ]

    def drawing(name):
        def draw(key, shape, *_):
            recorded, x = left.pop(0)
            assert recorded == name and tuple(x.shape) == tuple(shape)
            return x

        return draw

    for name in FUNCTIONS.values():
        monkeypatch.setattr(random, name, drawing(name))
    return left
