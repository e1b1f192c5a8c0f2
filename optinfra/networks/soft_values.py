"""What action values promise to a policy."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from optinfra.types import Obs, Params, PyTree


def branch_probs(logits: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """Tell how likely each choice is.

        p_k = softmax(logits_k)

    Args:
      logits: `[*B, N]`, the branches' logits one after another.
      sizes: n_k of each of the K branches, Σ n_k = N; none at all is possible.

    Returns:
      `[*B, N]`.
    """
    if not sizes:
        return logits
    return torch.cat([torch.softmax(branch, -1) for branch in logits.split(sizes, -1)], -1)


def expected_value(q: Tensor, probs: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """Average an action value over choices, in the mean over the branches.

        mean_k Σ_j p_kj·q_kj

    Args:
      q: `[*B, N]`, or without branches `[*B, 1]`.
      probs: p `[*B, N]`.
      sizes: n_k of each of the K branches.

    Returns:
      `[*B]`, without branches q itself.
    """
    if not sizes:
        return q.squeeze(-1)
    return (probs * q).sum(-1) / len(sizes)


def promised_values(
    policy: Callable[..., Any],
    judges: Sequence[Callable[..., Any]],
    sizes: tuple[int, ...],
    memory_size: int | None,
) -> Callable[..., tuple[dict[str, Tensor], PyTree]]:
    """Make values of action values: what the least of them promises.

        V(o) = mean_k Σ_j p_kj·min_i Q_i(o, tanh μ)_kj,   without branches  min_i Q_i(o, tanh μ)

    Args:
      policy: `(params, obs, memory, reset, every=) -> (PolicyOutputs, memory)`.
      judges: C of `(params, obs, actions, memory, reset, every=) -> (Q_i by stream, memory)`.
      sizes: n_k of the discrete branches.
      memory_size: M of each; None without.

    Returns:
      `(params, obs, memory, reset, every=False) -> (values [(S,) *B] by stream, memory)`; the
      memory is the policy's and those of all Qs, end to end: `[*B, (1 + C)·M]`.
    """

    def apart(memory: PyTree) -> Sequence[PyTree]:
        return memory.split(memory_size, -1) if memory_size else [memory] * (1 + len(judges))

    def values(
        params: Params, obs: Obs, memory: PyTree, reset: Tensor | None, every: bool = False
    ) -> tuple[dict[str, Tensor], PyTree]:
        own, *others = apart(memory)
        outputs, after = policy(params, obs, own, reset, every=every)
        actions = torch.tanh(outputs.mean)
        judged = [
            judge(params, obs, actions, other, reset, every=every)
            for judge, other in zip(judges, others)
        ]
        probs = branch_probs(outputs.logits, sizes)
        least = {name: torch.stack([q[name] for q, _ in judged]).amin(0) for name in judged[0][0]}
        promised = {name: expected_value(q, probs, sizes) for name, q in least.items()}
        if memory_size:
            memory = torch.cat([after, *(remembered for _, remembered in judged)], -1)
        return promised, memory

    return values
