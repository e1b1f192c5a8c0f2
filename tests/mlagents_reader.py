"""Run by ML-Agents' interpreter: what its own loader and ours make of one file, side by side.

python mlagents_reader.py FILE.demo OUT.npz
"""

import sys

import numpy as np
from mlagents.trainers.demo_loader import demo_to_buffer, load_demonstration

from optinfra import demos


def name_of(key):
    """A column's name as ML-Agents writes it into files: `obs:0`."""
    parts = key if isinstance(key, tuple) else (key,)
    return ":".join(str(getattr(part, "value", part)) for part in parts)


def by_mlagents(path):
    """What the file says of the agent and its pairs, and the rows made of it."""
    spec, pairs, expected = load_demonstration(path)
    assert len(pairs) == expected
    _, buffer = demo_to_buffer(path, sequence_length=1)
    rows = {f"buffer/{name_of(key)}": np.array(list(map(np.array, field)))
            for key, field in buffer.items()}  # fmt: skip
    return {
        "shapes": np.array(repr([tuple(obs.shape) for obs in spec.observation_specs])),
        "continuous": np.array(spec.action_spec.continuous_size),
        "branches": np.array(spec.action_spec.discrete_branches, dtype=int),
        "done": np.array([pair.agent_info.done for pair in pairs]),
        "interrupted": np.array([pair.agent_info.max_step_reached for pair in pairs]),
        "forbidden": np.array([sum(pair.agent_info.action_mask) for pair in pairs]),
        **rows,
    }


def by_optinfra(path):
    """The same of ours, under ML-Agents' names."""
    columns = demos.load(path).demonstrations
    return {
        **{f"buffer/obs:{i}": x.numpy() for i, x in enumerate(columns.obs)},
        "buffer/continuous_action": columns.action.continuous.numpy(),
        "buffer/discrete_action": columns.action.discrete.numpy(),
        "done": (columns.terminated | columns.truncated).numpy(),
        "interrupted": columns.truncated.numpy(),
        "forbidden": (~columns.action_mask).sum(1).numpy(),
    }


if __name__ == "__main__":
    source, target = sys.argv[1:]
    both = {"mlagents": by_mlagents(source), "optinfra": by_optinfra(source)}
    np.savez(target, **{f"{who}/{k}": x for who, arrays in both.items() for k, x in arrays.items()})
