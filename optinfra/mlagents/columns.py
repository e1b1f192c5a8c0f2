"""Columns of a buffer, ours or ML-Agents' own, as what the core learns from."""

import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from optinfra import tree
from optinfra.learners import PPOBatch, SACBatch
from optinfra.mlagents import compiling, stacking
from optinfra.mlagents.buffer import AgentBuffer
from optinfra.mlagents.fields import AgentBufferField
from optinfra.mlagents.keys import BufferKey, text_of
from optinfra.mlagents.stacking import Array
from optinfra.types import Action, Mates, Memories, PyTree, Spec, Transitions

SHOWN = 12  # columns that a message lists


class MissingColumnError(ValueError, KeyError):
    """A buffer without a column that is needed."""

    __str__ = ValueError.__str__


class Columns:
    """The columns of one buffer, checked as they are read.

    Args:
      buffer: by keys of ours or of ML-Agents.
      rows: how many each must have; as many as the first that is read unless given.
      device: of the tensors.

    Raises:
      ValueError: from the methods, a column has another length or shape than it must have.
      MissingColumnError: from the methods, a column is not there.
    """

    def __init__(
        self, buffer: Mapping[Any, Any], *, rows: int | None = None, device: Any = None
    ) -> None:
        named = buffer.by_name if isinstance(buffer, AgentBuffer) else None
        self._fields = named or {text_of(key): field for key, field in buffer.items()}
        self._device = device
        self.rows = rows

    def has(self, name: str) -> bool:
        """Tell whether a column is there and not empty."""
        field = self._fields.get(name)
        return field is not None and len(field) > 0

    def array(self, name: str, shape: tuple[int, ...] = (), dtype: Any = np.float32) -> Array:
        """Give a column of plain rows, `[rows, *shape]`."""
        field = self._found(name)
        if isinstance(field, AgentBufferField | np.ndarray):
            array = np.asarray(field).astype(dtype)
        else:
            array = stacking.stacked(name, field, dtype)
        self._require_rows(name, len(array))
        if array.shape[1:] != shape:
            if stacking.long(array.shape[1:]) != stacking.long(shape):
                raise ValueError(
                    f"`{name}` must have shape [rows, *{list(shape)}], got {list(array.shape)}."
                )
            array = array.reshape(len(array), *shape)
        return array

    def tensor(self, name: str, shape: tuple[int, ...] = (), dtype: Any = np.float32) -> Tensor:
        """Give a column of plain rows as a tensor that nobody else writes into."""
        array = self.array(name, shape, dtype)
        return torch.from_numpy(np.ascontiguousarray(array)).to(self._device)

    def groups(self, name: str, shape: tuple[int, ...], pad_value: float = 0.0) -> Array:
        """Give a column of groups, `[rows, mates, *shape]`; nobody is `pad_value`."""
        field = self._found(name)
        self._require_rows(name, len(field))
        if isinstance(field, AgentBufferField) and field.contains_lists:
            padded = field.padded_groups(pad_value)
        elif isinstance(field, AgentBufferField | np.ndarray):
            padded = np.array(field, np.float32)
        else:
            padded = stacking.padded(name, field, shape, pad_value)
        if padded.shape[1:2] == (0,):
            return np.zeros((len(padded), 0, *shape), np.float32)
        if padded.ndim < 2 or padded.shape[2:] != shape:
            raise ValueError(
                f"`{name}` must have shape [rows, mates, *{list(shape)}], got {list(padded.shape)}."
            )
        return padded

    def _found(self, name: str) -> Any:
        if name not in self._fields:
            there = sorted(self._fields)
            more = ", …" if len(there) > SHOWN else ""
            raise MissingColumnError(
                f"`batch` must have the column {name}, got {', '.join(there[:SHOWN])}{more}."
            )
        return self._fields[name]

    def _require_rows(self, name: str, rows: int) -> None:
        if not rows:
            raise ValueError(f"`{name}` must have rows, got none.")
        if self.rows is None:
            self.rows = rows
        if rows != self.rows:
            raise ValueError(f"`{name}` must have {self.rows} rows, got {rows}.")


class Reader:
    """Reads batches of one behaviour.

    Args:
      spec: of the agents.
      sequence_length: S where there is a memory, else 1.
      memories: `(rows) -> Memories` of zeros; see `Learner.memories`.
      spread: whether mates get as many places as any had before, for what is compiled for each
        number of them.
      streams: of the values.
      device: of the tensors.
    """

    def __init__(
        self,
        spec: Spec,
        streams: Iterable[str],
        *,
        sequence_length: int | None,
        memories: Callable[..., Memories],
        spread: bool = False,
        device: Any = None,
    ) -> None:
        self.spec, self.streams = spec, tuple(streams)
        self.sequence_length, self.memories, self.device = sequence_length, memories, device
        self._spreads, self._most_mates = spread, 0
        self.missing_memories = 0  # sequences that began with zeros for want of a column

    def columns(self, batch: Mapping[Any, Any], rows: int | None = None) -> Columns:
        """Begin to read."""
        return Columns(batch, rows=rows, device=self.device)

    def proximal(self, batch: Mapping[Any, Any]) -> PPOBatch:
        """Read what PPO learns from, rows or sequences.

        A buffer without `value_estimates:*` is one of ML-Agents' layout, which keeps returns
        in their place.
        """
        columns = self.columns(batch)
        mask = columns.tensor(BufferKey.MASKS.value).bool()
        returns = {name: columns.tensor(f"returns:{name}") for name in self.streams}
        values = {
            name: columns.tensor(f"value_estimates:{name}")
            if columns.has(f"value_estimates:{name}")
            else returns[name]
            for name in self.streams
        }
        action = self.spec.action
        log_prob = [columns.tensor(name, (width,)) for name, width in (
            (BufferKey.CONTINUOUS_LOG_PROBS.value, action.continuous),
            (BufferKey.DISCRETE_LOG_PROBS.value, len(action.branches)),
        ) if width]  # fmt: skip
        rows = PPOBatch(
            obs=self._obs(columns, "obs"),
            action=self._action(columns),
            action_mask=self._action_mask(columns),
            log_prob=torch.cat(log_prob, -1),
            advantages=columns.tensor(BufferKey.ADVANTAGES.value),
            values=values,
            returns=returns,
            mask=mask,
        )
        if self.sequence_length is None:
            return rows
        memory = self._memories(columns)
        cut = self.as_sequences(columns, rows)
        return cut._replace(memory=memory, reset=torch.zeros_like(cut.mask))

    def grouped(self, batch: Mapping[Any, Any]) -> PPOBatch:
        """Read what POCA learns from."""
        rows = self.proximal(batch)
        columns = self.columns(batch, rows.mask.numel())
        extra = rows._replace(
            mates=self.mates(columns),
            baselines={name: columns.tensor(f"baselines:{name}") for name in self.streams},
        )
        if self.sequence_length is None:
            return extra
        cut = self.as_sequences(columns, (extra.mates, extra.baselines))
        return rows._replace(mates=cut[0], baselines=cut[1])

    def soft(self, batch: Mapping[Any, Any], gammas: Mapping[str, float]) -> SACBatch:
        """Read what SAC learns from: rewards are in the batch, strength included."""
        columns = self.columns(batch)
        mask = columns.tensor(BufferKey.MASKS.value).bool()
        rows = SACBatch(
            obs=self._obs(columns, "obs"),
            next_obs=self._obs(columns, "next_obs"),
            action=self._action(columns),
            action_mask=self._action_mask(columns),
            rewards={name: columns.tensor(f"rewards:{name}") for name in self.streams},
            discounts={
                name: torch.full(mask.shape, gammas[name], device=mask.device)
                for name in self.streams
            },
            terminated=columns.tensor(BufferKey.DONE.value).bool(),
            mask=mask,
        )
        if self.sequence_length is None:
            return rows
        memory = self._memories(columns)
        return self.as_sequences(columns, rows)._replace(memory=memory)

    def transitions(self, batch: Mapping[Any, Any], *, whole: bool = False) -> Transitions:
        """Read what reward signals see. What they do not all need is blank where it is missing.

        Args:
          batch: with the columns of observations at least.
          whole: whether every row counts, whatever `masks` says.
        """
        columns = self.columns(batch)
        obs = self._obs(columns, "obs")
        rows = columns.rows or 0
        no = torch.zeros(rows, dtype=torch.bool, device=self.device)
        followed = columns.has("next_obs:0")
        masked = columns.has(BufferKey.MASKS.value) and not whole
        done = BufferKey.DONE.value
        return Transitions(
            obs=obs,
            next_obs=self._obs(columns, "next_obs") if followed else obs,
            action=self._action(columns, needed=False),
            rewards=self._or_zeros(columns, BufferKey.ENVIRONMENT_REWARDS.value),
            terminated=columns.tensor(done).bool() if columns.has(done) else no,
            truncated=no,
            mask=columns.tensor(BufferKey.MASKS.value).bool() if masked else ~no,
            group_rewards=columns.tensor(BufferKey.GROUP_REWARD.value)
            if columns.has(BufferKey.GROUP_REWARD.value)
            else (),
            groupmate_rewards=self._groupmate_rewards(columns),
        )

    def mates(self, columns: Columns, prefix: str = "group_obs") -> Mates:
        """Read the mates of rows. Whoever is not there is NaN in ML-Agents' buffers."""
        nobody = float("nan")
        obs = [
            columns.groups(f"{prefix}:{i}", shape, nobody) for i, shape in enumerate(self.spec.obs)
        ]
        slots = obs[0].shape[:2]
        for i, each in enumerate(obs):
            self._require_slots(f"{prefix}:{i}", each, slots)
        first: Any = (..., *[0] * (obs[0].ndim - len(slots)))
        present = ~np.isnan(obs[0][first])
        action = self.spec.action
        keys = BufferKey.GROUP_CONTINUOUS_ACTION, BufferKey.GROUP_DISCRETE_ACTION
        continuous, discrete = (
            self._mates_action(columns, key, slots, width, acted=prefix == "group_obs")
            for key, width in zip(keys, (action.continuous, len(action.branches)))
        )
        seen = tuple(self._tensor(x) for x in obs)
        mates = Mates(seen, Action(continuous, discrete.long()), self._tensor(present))
        if not self._spreads:
            return mates
        self._most_mates = max(self._most_mates, slots[1])
        return compiling.spread(mates, self._most_mates)

    def _mates_action(
        self,
        columns: Columns,
        key: BufferKey,
        slots: tuple[int, ...],
        width: int,
        *,
        acted: bool,
    ) -> Tensor:
        if not width or not acted:
            return torch.zeros(*slots, width, device=self.device)
        action = columns.groups(key.value, (width,))
        self._require_slots(key.value, action, slots)
        return self._tensor(np.nan_to_num(action))

    @staticmethod
    def _require_slots(name: str, array: Array, slots: tuple[int, ...]) -> None:
        if array.shape[:2] != slots:
            raise ValueError(
                f"`{name}` must have the mates of the observations, {list(slots)}, got "
                f"{list(array.shape[:2])}."
            )

    def _groupmate_rewards(self, columns: Columns) -> PyTree:
        name = BufferKey.GROUPMATE_REWARDS.value
        return self._tensor(columns.groups(name, ())) if columns.has(name) else ()

    def _tensor(self, array: Array) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)

    def _obs(self, columns: Columns, prefix: str) -> tuple[Tensor, ...]:
        return tuple(
            columns.tensor(f"{prefix}:{i}", shape) for i, shape in enumerate(self.spec.obs)
        )

    def _action(self, columns: Columns, *, needed: bool = True) -> Action:
        sizes = self.spec.action

        def part(key: BufferKey, width: int, dtype: Any) -> Tensor:
            if width and (needed or columns.has(key.value)):
                return columns.tensor(key.value, (width,), dtype)
            rows = columns.rows or 0
            return torch.zeros(rows, width, device=self.device).to(_TORCH[dtype])

        return Action(
            part(BufferKey.CONTINUOUS_ACTION, sizes.continuous, np.float32),
            part(BufferKey.DISCRETE_ACTION, len(sizes.branches), np.int64),
        )

    def _action_mask(self, columns: Columns) -> Tensor:
        """Without branches a mask means nothing, whatever its width."""
        if not self.spec.action.branches:
            return torch.zeros(columns.rows or 0, 0, dtype=torch.bool, device=self.device)
        return columns.tensor(BufferKey.ACTION_MASK.value, (self.spec.action.choices,)).bool()

    def _or_zeros(self, columns: Columns, name: str) -> Tensor:
        if columns.has(name):
            return columns.tensor(name)
        return torch.zeros(columns.rows or 0, device=self.device)

    def as_sequences(self, columns: Columns, rows: PyTree) -> Any:
        """Cut rows `[rows, …]` of the columns into sequences `[rows / S, S, …]`."""
        length = self.sequence_length or 1
        self._sequences(columns)
        return tree.map(lambda x: x.unflatten(0, (-1, length)), rows)

    def _sequences(self, columns: Columns) -> int:
        """Count the sequences.

        Raises:
          ValueError: the last is not whole.
        """
        length, count = self.sequence_length or 1, columns.rows or 0
        if count % length:
            raise ValueError(
                f"`batch` must have whole sequences of {length} rows, got {count} rows."
            )
        return count // length

    def _memories(self, columns: Columns) -> Memories:
        """Read what each sequence starts from: the memory that its first row tells."""
        count = self._sequences(columns)
        zeros = self.memories((count,), self.device)
        names = [BufferKey.CRITIC_MEMORY.value]
        actor = self._memory(columns, BufferKey.MEMORY.value, zeros.actor.shape[-1])
        size = zeros.critic.shape[-1]
        if size == 2 * zeros.actor.shape[-1]:  # of a value and of a baseline, end to end
            names.append(BufferKey.BASELINE_MEMORY.value)
        critic = [self._memory(columns, name, size // len(names)) for name in names]
        missing = [name for name in (BufferKey.MEMORY.value, *names) if not columns.has(name)]
        if missing:
            self._miss(missing[0], count)
        return Memories(actor, torch.cat(critic, -1))

    def _memory(self, columns: Columns, name: str, size: int) -> Tensor:
        length, rows = self.sequence_length or 1, columns.rows or 0
        if columns.has(name):
            return columns.tensor(name, (size,))[::length].contiguous()
        return torch.zeros(rows // length, size, device=self.device)

    def _miss(self, name: str, sequences: int) -> None:
        """Count sequences that begin with zeros; warn of the first."""
        if not self.missing_memories:
            warnings.warn(
                f"`batch` has no column {name}: sequences begin with a memory of zeros.",
                RuntimeWarning,
                stacklevel=2,
            )
        self.missing_memories += sequences


_TORCH = {np.float32: torch.float32, np.int64: torch.int64}
