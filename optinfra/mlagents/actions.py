"""Actions and their log-probabilities, continuous and discrete side by side."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from optinfra.types import Action, Spec


class ActionTuple(NamedTuple):
    """Actions as an environment takes them: `[agents, A]` float32 and `[agents, K]` int32."""

    continuous: Any = None
    discrete: Any = None


class LogProbsTuple(NamedTuple):
    """Log-probabilities of actions, `[agents, A]` and `[agents, K]`."""

    continuous: Any = None
    discrete: Any = None


class AgentAction(NamedTuple):
    """Actions as tensors: `[rows, A]`, and `[rows]` of each branch."""

    continuous_tensor: Tensor | None = None
    discrete_list: Sequence[Tensor] | None = None

    @property
    def discrete_tensor(self) -> Tensor:
        """`[rows, K]`; empty without branches."""
        if not self.discrete_list:
            return torch.empty(0)
        return torch.stack([x.reshape(-1) for x in self.discrete_list], -1)

    def to_action_tuple(self, clip: bool = False) -> ActionTuple:
        """Give arrays; `clip` brings the continuous part into [−1, 1] by clip(a, ±3) / 3."""
        continuous, discrete = self.continuous_tensor, self.discrete_tensor
        if continuous is not None and clip:
            continuous = continuous.clamp(-3, 3) / 3
        rows = len(discrete) if continuous is None else len(continuous)
        empty = np.zeros((rows, 0), np.float32)
        return ActionTuple(
            empty if continuous is None else continuous.detach().cpu().numpy(),
            discrete.cpu().numpy().astype(np.int32)
            if discrete.ndim > 1
            else empty.astype(np.int32),
        )


class ActionLogProbs(NamedTuple):
    """Log-probabilities as tensors: `[rows, A]`, `[rows]` of each branch, `[rows, n_k]` of each."""

    continuous_tensor: Tensor | None
    discrete_list: Sequence[Tensor] | None
    all_discrete_list: Sequence[Tensor] | None

    @property
    def discrete_tensor(self) -> Tensor:
        """`[rows, K]`, of the choices that were taken."""
        return torch.stack(list(self.discrete_list or ()), -1)

    @property
    def all_discrete_tensor(self) -> Tensor:
        """`[rows, N]`, of all choices of all branches."""
        return torch.cat(list(self.all_discrete_list or ()), 1)

    def flatten(self) -> Tensor:
        """`[rows, A + K]`."""
        parts = [] if self.continuous_tensor is None else [self.continuous_tensor]
        if self.discrete_list:
            parts.append(self.discrete_tensor)
        return torch.cat(parts, 1)


def action_of(spec: Spec, actions: Any, rows: int) -> Action:
    """Read an `AgentAction`, ours or ML-Agents' own."""
    continuous = actions.continuous_tensor
    discrete = actions.discrete_tensor
    return Action(
        torch.zeros(rows, 0) if not spec.action.continuous else continuous.float(),
        torch.zeros(rows, 0, dtype=torch.int64) if not spec.action.branches else discrete.long(),
    )


def agent_action(spec: Spec, action: Action) -> AgentAction:
    """Write `[rows, …]` actions of ours as ML-Agents has them."""
    return AgentAction(
        action.continuous if spec.action.continuous else None,
        list(action.discrete.unbind(-1)) if spec.action.branches else None,
    )
