"""A learner's policy under the names by which ML-Agents' runtime feeds and reads it."""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import onnx
import torch
from torch import Tensor

from optinfra import tree
from optinfra.distributions import mask_logits
from optinfra.export.convert import ROWS, Output, onnx_of
from optinfra.export.graph import ExportError
from optinfra.types import Learner, PyTree, Spec

VERSION_NUMBER = 3.0  # of the interface: ML-Agents' `ModelApiVersion.MLAgents2_0`
ALLOWED = 0.5  # a mask is 1 where a choice is allowed and 0 where it is not


def policy(learner: Learner, params: PyTree, spec: Spec) -> onnx.ModelProto:
    """Write a policy down as ML-Agents' runtime takes it, its normaliser included.

    Inputs, all float32: `obs_0`, `obs_1`, … `[batch, *shape]`, images from 0 to 1; where there
    are branches `action_masks` `[batch, choices]`, 1 for what is allowed; with a memory
    `recurrent_in` `[batch, 1, M]`, of an LSTM [h; c].

    Outputs: `version_number` `[1]`, `memory_size` `[1]`; where there are continuous dimensions
    `continuous_actions` `[batch, A]` as executed, `continuous_action_output_shape` `[1]`,
    `deterministic_continuous_actions`; where there are branches `discrete_actions` `[batch, K]`
    int64, `discrete_action_output_shape` `[1, K]`, `deterministic_discrete_actions`; with a memory
    `recurrent_out` `[batch, 1, M]`. What is not deterministic is drawn anew by each run.

    Args:
      learner: of whom `policy` and `distribution` are read.
      params: its parameters, on any device.
      spec: what it sees and does.

    Returns:
      A model of opset 9.

    Raises:
      ExportError: the policy cannot be traced, or does something that ONNX cannot.

    Differs: from ML-Agents, whose `deterministic_continuous_actions` of SAC are the means before
    squashing, of any size; here they are tanh μ, what the policy executes.
    Source: names and shapes as in ML-Agents 1.1.0,
    https://github.com/Unity-Technologies/ml-agents/tree/release_22.
    """
    parameters = tree.map(lambda x: x.detach().cpu(), params)
    memory_size, sizes = _memory_size(learner), spec.action
    inputs = {f"obs_{i}": shape for i, shape in enumerate(spec.obs)}
    if sizes.branches:
        inputs["action_masks"] = (sizes.choices,)
    if memory_size:
        inputs["recurrent_in"] = (1, memory_size)
    told = {"version_number": [VERSION_NUMBER], "memory_size": [memory_size]}
    if sizes.continuous:
        told["continuous_action_output_shape"] = [sizes.continuous]
    if sizes.branches:
        told["discrete_action_output_shape"] = [list(sizes.branches)]
    facts = {name: torch.tensor(x, dtype=torch.float32) for name, x in told.items()}
    constants = tree.named_leaves(_Constants(parameters, facts))
    run = partial(_run, learner, spec, _Constants(parameters, facts))
    return onnx_of(run, constants, inputs, _outputs(spec, memory_size))


class _Constants(NamedTuple):
    """What becomes part of the file."""

    params: PyTree
    facts: dict[str, Tensor]  # outputs that are always the same


def _memory_size(learner: Learner) -> int:
    """Tell M; 0 for a policy without memory."""
    memory = learner.memories((1,)).actor
    if isinstance(memory, Tensor) and memory.ndim == 2:
        return memory.shape[-1]
    if not tree.leaves(memory):
        return 0
    raise ExportError("The policy's memory must be one tensor [*B, M].")


def _outputs(spec: Spec, memory_size: int) -> list[Output]:
    """List the outputs in ML-Agents' order."""
    continuous, choices = spec.action.continuous, len(spec.action.branches)
    outputs = [_fact("version_number", 1), _fact("memory_size", 1)]
    if continuous:
        actions = partial(Output, dtype=torch.float32, shape=(ROWS, continuous))
        outputs += [
            actions("continuous_actions"),
            _fact("continuous_action_output_shape", 1),
            actions("deterministic_continuous_actions"),
        ]
    if choices:
        actions = partial(Output, dtype=torch.int64, shape=(ROWS, choices))
        outputs += [
            actions("discrete_actions"),
            _fact("discrete_action_output_shape", 1, choices),
            actions("deterministic_discrete_actions"),
        ]
    if memory_size:
        outputs.append(Output("recurrent_out", torch.float32, (ROWS, 1, memory_size)))
    return outputs


def _fact(name: str, *shape: int) -> Output:
    return Output(name, torch.float32, shape)


def _run(
    learner: Learner, spec: Spec, like: _Constants, constants: dict[str, Tensor], *inputs: Tensor
) -> list[Tensor]:
    """Run the policy once, and draw.

    continuous = executed(mode with mean μ + σ·ε),   ε standard normal
    discrete_k ~ softmax(logits_k),   forbidden choices apart
    """
    params, facts = tree.unflatten(like, list(constants.values()))
    obs, rest = inputs[: len(spec.obs)], list(inputs[len(spec.obs) :])
    sizes, results = spec.action, dict(facts)
    mask = rest.pop(0) > ALLOWED if sizes.branches else None
    outputs, memory = learner.policy(params, obs, rest[0].squeeze(1) if rest else ())
    if mask is not None:
        outputs = outputs._replace(logits=mask_logits(outputs.logits, mask))
    distribution = learner.distribution
    likeliest = distribution.executed(distribution.mode(outputs))
    if sizes.continuous:
        noise = torch.randn_like(outputs.mean)
        drawn = outputs._replace(mean=outputs.mean + outputs.log_std.exp() * noise)
        results["continuous_actions"] = distribution.executed(distribution.mode(drawn)).continuous
        results["deterministic_continuous_actions"] = likeliest.continuous
    if sizes.branches:
        results["discrete_actions"] = _draw(outputs.logits, sizes.branches)
        results["deterministic_discrete_actions"] = likeliest.discrete
    if rest:
        results["recurrent_out"] = memory.unsqueeze(1)
    return [results[output.name] for output in _outputs(spec, int(bool(rest)))]


def _draw(logits: Tensor, sizes: Sequence[int]) -> Tensor:
    """Draw one choice of each branch, `[batch, K]`, by torch's generator: the run has its own."""
    branches = logits.split(list(sizes), -1)
    return torch.cat([torch.multinomial(torch.softmax(x, -1), 1) for x in branches], -1)
