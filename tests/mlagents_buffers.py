"""Random operations on a buffer, ours or ML-Agents' own, and what came of them.

python mlagents_buffers.py CASES RESULTS.json
"""

import json
import sys
from pathlib import Path

import numpy as np


def grown(module, draws, rows, branches=3):
    """A buffer of an agent's steps with 0 to 3 mates each."""
    buffer, key, prefix = module.AgentBuffer(), module.BufferKey, module.ObservationKeyPrefix
    for i in range(rows):
        mates = draws.integers(0, 4)
        buffer[prefix.OBSERVATION, 0].append(draws.normal(size=3).astype(np.float32))
        buffer[prefix.GROUP_OBSERVATION, 0].append(
            [draws.normal(size=(1, 2)).astype(np.float32) for _ in range(mates)]
        )
        buffer[module.RewardSignalKeyPrefix.REWARDS, "extrinsic"].append(float(i))
        buffer[key.ACTION_MASK].append(draws.integers(0, 2, branches), padding_value=1)
        buffer[key.GROUP_CONTINUOUS_ACTION].append([draws.normal(size=2) for _ in range(mates)])
        buffer[key.MASKS].append(1.0)
    return buffer


def told(x):
    """Whatever it is as lists of numbers."""
    if hasattr(x, "keys"):
        return [[getattr(key, "value", None) or [key[0].value, key[1]], told(x[key])] for key in x]
    if isinstance(x, np.ndarray | np.generic):
        return x.astype(float).tolist()
    if hasattr(x, "__len__"):
        return [told(each) for each in x]
    return float(x)


def attempt(call, *args):
    """What comes of a call, or the name of its error."""
    try:
        return told(call(*args))
    except Exception as error:
        return type(error).__name__


def appended(buffer, target, size, length):
    """The target of what was appended."""
    buffer.resequence_and_append(target, None, size, length)
    return target


def run(module, seed):
    """Make random calls; every result in order."""
    draws = np.random.default_rng(seed)
    buffer, target = grown(module, draws, int(draws.integers(1, 12))), module.AgentBuffer()
    results = []
    for _ in range(12):
        size, length = int(draws.integers(1, 7)), int(draws.integers(1, 5))
        size = None if size == 6 else size
        change = draws.integers(6)
        if change == 0:
            sequential = bool(draws.integers(2))
            results += [
                attempt(field.get_batch, size, length, sequential) for field in buffer.values()
            ]
        elif change == 1:
            buffer.truncate(int(draws.integers(0, 14)), length)
        elif change == 2:
            start, end = (int(x) for x in draws.integers(-12, 12, 2))
            results.append(attempt(buffer.make_mini_batch, start, end))
        elif change == 3:
            pad = [0.0, 7.0, float("nan")][int(draws.integers(3))]
            results += [attempt(field.padded_to_batch, pad) for field in buffer.values()]
        elif change == 4:
            results.append(attempt(appended, buffer, target, size, length))
        else:
            more = grown(module, draws, int(draws.integers(0, 5)))
            for key in list(more):
                buffer[key].extend(more[key])
        results += [told(buffer), buffer.num_experiences, buffer.check_length(list(buffer))]
    return results


def status(module, draws):
    action = acted(module.ActionTuple, draws)
    seen = [draws.normal(size=3).astype(np.float32), draws.normal(size=(1, 2)).astype(np.float32)]
    return module.AgentStatus(seen, float(draws.normal()), action, bool(draws.integers(2)))


def acted(kind, draws):
    made = kind()
    discrete = draws.integers(0, 2, 2).astype(np.int32)
    values = draws.normal(size=2).astype(np.float32), discrete
    if hasattr(made, "_replace"):
        return made._replace(continuous=values[0], discrete=values[1])
    made.add_continuous(values[0])
    made.add_discrete(values[1])
    return made


def columns(module, seed):
    """The columns of a random trajectory, by name."""
    draws, remembers = np.random.default_rng(seed), bool(seed % 2)
    steps = []
    for _ in range(int(draws.integers(1, 6))):
        own = status(module, draws)
        step = module.AgentExperience(
            obs=own.obs,
            reward=own.reward,
            done=own.done,
            action=own.action,
            action_probs=acted(module.ActionTuple, draws),
            action_mask=[draws.integers(0, 2, size).astype(bool) for size in (3, 2)],
            prev_action=draws.integers(0, 2, 2),
            interrupted=bool(draws.integers(2)),
            memory=draws.normal(size=4) if remembers else None,
            group_status=[status(module, draws) for _ in range(draws.integers(0, 4))],
            group_reward=float(draws.normal()),
        )
        steps.append(step)
    following = [status(module, draws).obs for _ in range(3)]
    one = module.Trajectory(steps, following[0], following[1:], "agent", "behavior")
    ends = [one.done_reached, one.interrupted, one.all_group_dones_reached]
    return [sorted(told(one.to_agentbuffer()), key=str), [bool(end) for end in ends]]


if __name__ == "__main__":
    from types import SimpleNamespace

    from mlagents.trainers import buffer, trajectory

    theirs = SimpleNamespace(**{**vars(buffer), **vars(trajectory)})
    results = [[f(theirs, seed) for seed in range(int(sys.argv[1]))] for f in (run, columns)]
    Path(sys.argv[2]).write_text(json.dumps(results))
