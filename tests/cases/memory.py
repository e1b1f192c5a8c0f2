"""Four agents with a memory of two parts; two of them are read, written or reset."""

import torch

from optinfra import memory
from tests.contracts import Case

AGENTS = 4


def _memories(k: int, *rows: int) -> tuple:
    generator = torch.Generator().manual_seed(k)
    return torch.randn(*rows, 3, generator=generator), torch.randn(*rows, 2, 2, generator=generator)


def _index(k: int) -> torch.Tensor:
    return torch.tensor([[2, 0], [1, 3], [3, 2]])[k]


def _ended(k: int) -> torch.Tensor:
    return torch.tensor([[True, False, False, True], [False] * AGENTS, [True] * AGENTS])[k]


def _write(state: tuple, index: torch.Tensor, values: tuple) -> tuple:
    return memory.write(state, index, values), ()


def _reset(state: tuple, ended: torch.Tensor) -> tuple:
    return memory.reset(state, ended), ()


CASES = {
    "zeros": Case(lambda *one: memory.zeros(one, AGENTS), _memories),
    "read": Case(memory.read, lambda k: (_memories(k, AGENTS), _index(k))),
    "write": Case(
        _write, lambda k: (_memories(k, AGENTS), _index(k), _memories(10 + k, 2)), step=True
    ),
    "reset": Case(_reset, lambda k: (_memories(k, AGENTS), _ended(k)), step=True),
}
