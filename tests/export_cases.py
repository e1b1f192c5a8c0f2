"""Policies of every kind, exported, and what is known of ML-Agents' own files."""

from functools import cache
from typing import Any, NamedTuple

import torch

from optinfra import export, networks, random, tree
from optinfra.learners import poca, ppo, sac
from optinfra.types import ActionSpec, Learner, Spec
from tests import examples, onnx_cases

M = 6
SIZES = {"hidden_units": 8, "num_layers": 1}
CELLS = {"ppo": "lstm", "sac": "gru", "poca": "lstm"}  # by trainer
ACTIONS = {
    "continuous": ActionSpec(2),
    "discrete": ActionSpec(0, (3, 2)),
    "hybrid": ActionSpec(2, (3, 2)),
}
VECTORS = Spec(((4,), (2,)), ActionSpec(2, (3, 2)))


class Policy(NamedTuple):
    """A learner's policy, and the file that it was exported to."""

    learner: Learner
    params: Any
    spec: Spec
    model: Any
    session: Any

    @classmethod
    def of(cls, learner, params, spec):
        """Export a policy."""
        model = export.policy(learner, params, spec)
        return cls(learner, params, spec, model, onnx_cases.session(model))

    def run(self, obs, mask=None, memory=()):
        """What onnxruntime makes of it, by name."""
        given = {f"obs_{i}": as_unity(x) for i, x in enumerate(obs)}
        if self.spec.action.branches:
            rows = len(obs[0])
            given["action_masks"] = (
                torch.ones(rows, self.spec.action.choices) if mask is None else mask.float()
            )
        if isinstance(memory, torch.Tensor):
            given["recurrent_in"] = memory[:, None]
        return onnx_cases.ran(self.session, given)

    def memory(self, seed, rows):
        """Something to remember, or nothing."""
        zeros = self.learner.memories((rows,)).actor
        return tree.map(lambda x: examples.normal(seed, *x.shape), zeros)


def as_unity(x):
    """Images of bytes come from Unity as floats from 0 to 1."""
    return x / 255 if x.dtype == torch.uint8 else x


def learner_of(trainer, spec, *, cell=None, normalize=False, encoding=networks.ENCODING):
    """A small learner."""
    options = {**SIZES, "encoding": encoding}
    memory = {} if cell is None else {"memory_size": M, "cell": cell}
    if trainer == "ppo":
        build = networks.recurrent_actor_critic if cell else networks.actor_critic
        return ppo(build(spec, **options, **memory), spec, normalize=normalize)
    if trainer == "sac":
        return sac(networks.soft_actor_critic(spec, **options, **memory), spec, normalize=normalize)
    network = networks.group_actor_critic(spec, **options, **memory)
    return poca(network, spec, normalize=normalize)


def lived(learner, spec, seed=0):
    """Parameters as after a life: no weight is what it began as, and the moments have moved."""
    state = learner.init(random.key(seed))
    obs = tuple(
        2 * x + 1 if x.is_floating_point() else x for x in examples.observed(seed, (30,), spec)
    )
    state = learner.observe(state, obs, torch.ones(30, dtype=torch.bool))
    weights = {
        name: x + (0.7 if "log_std" in name else 0.1) * examples.normal(seed + i, *x.shape)
        for i, (name, x) in enumerate(state.params.weights.items())
    }
    return state.params._replace(weights=weights)


def exported(learner, spec, seed=0) -> Policy:
    return Policy.of(learner, lived(learner, spec, seed), spec)


@cache
def policy(trainer, actions, memory=False) -> Policy:
    """A policy that sees vectors; each is exported once.

    Half of them have a normaliser: so all pairs of it and of another choice are there.
    """
    spec, cell = VECTORS._replace(action=ACTIONS[actions]), CELLS[trainer] if memory else None
    place = [*CELLS].index(trainer) + [*ACTIONS].index(actions) + memory
    return exported(learner_of(trainer, spec, cell=cell, normalize=place % 2 == 0), spec)


def interface(model):
    """Name, dtype and shape of all inputs and outputs, in their order."""
    return [[declared(x) for x in side] for side in (model.graph.input, model.graph.output)]


def declared(x):
    """A size that is known at run time is called `batch`, whatever the file calls it."""
    kind = x.type.tensor_type
    sizes = [size.dim_value if size.HasField("dim_value") else "batch" for size in kind.shape.dim]
    return x.name, {1: "float32", 7: "int64"}[kind.elem_type], sizes


# What ModelSerializer of ML-Agents 1.1.0 writes (torch 2.13): the same for PPO, SAC and POCA.
FACTS = [("version_number", "float32", [1]), ("memory_size", "float32", [1])]
MASKS = ("action_masks", "float32", ["batch", 5])
CONTINUOUS = [
    ("continuous_actions", "float32", ["batch", 2]),
    ("continuous_action_output_shape", "float32", [1]),
    ("deterministic_continuous_actions", "float32", ["batch", 2]),
]
DISCRETE = [
    ("discrete_actions", "int64", ["batch", 2]),
    ("discrete_action_output_shape", "float32", [1, 2]),
    ("deterministic_discrete_actions", "int64", ["batch", 2]),
]
REMEMBERED = [("recurrent_in", "float32", ["batch", 1, M])]
REMEMBERING = [("recurrent_out", "float32", ["batch", 1, M])]


def recorded_interface(shapes, actions, memory):
    """What ML-Agents' own file of such a policy takes and yields."""
    obs = [(f"obs_{i}", "float32", ["batch", *shape]) for i, shape in enumerate(shapes)]
    masks = [] if actions == "continuous" else [MASKS]
    continuous = [] if actions == "discrete" else CONTINUOUS
    discrete = [] if actions == "continuous" else DISCRETE
    return [
        [*obs, *masks, *(REMEMBERED if memory else [])],
        [*FACTS, *continuous, *discrete, *(REMEMBERING if memory else [])],
    ]


# https://docs.unity3d.com/Packages/com.unity.sentis@2.1/manual/supported-operators.html, what
# there is in opset 9. ML-Agents 1.1.0 goes with that version.
UNITY = {
    "Abs", "Acos", "Acosh", "Add", "And", "ArgMax", "ArgMin", "Asin", "Asinh", "Atan", "Atanh",
    "AveragePool", "BatchNormalization", "Cast", "Ceil", "Clip", "Concat", "Constant",
    "ConstantOfShape", "Conv", "ConvTranspose", "Cos", "Cosh", "Div", "Elu", "Equal", "Erf", "Exp",
    "Expand", "Flatten", "Floor", "Gather", "Gemm", "Greater", "Identity", "IsNaN", "LeakyRelu",
    "Less", "Log", "LogSoftmax", "MatMul", "Max", "MaxPool", "Min", "Mul", "Multinomial", "Neg",
    "Not", "Or", "Pad", "Pow", "RandomNormalLike", "RandomUniformLike", "Reciprocal", "ReduceL1",
    "ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum", "Relu",
    "Reshape", "Shape", "Sigmoid", "Sign", "Sin", "Sinh", "Slice", "Softmax", "Sqrt", "Squeeze",
    "Sub", "Tan", "Tanh", "Tile", "Transpose", "Unsqueeze", "Where", "Xor",
}  # fmt: skip
