"""Small optimizers of ML-Agents' names, columns for them, and what must not change of them."""

import copy
import functools
import re
from collections.abc import Mapping
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from optinfra import mlagents
from optinfra.mlagents import AgentBuffer, export_modules, import_modules
from optinfra.mlagents.keys import key_of
from optinfra.mlagents.options import settings_of
from tests import mlagents_cases
from tests.mlagents_cases import OPTIMIZERS

KINDS = ["ppo", "sac", "poca"]
S, M, ROWS, MATES = 2, 4, 8, 2
SIGNALS = {"extrinsic": {}, "curiosity": {}, "rnd": {}}
OPTIONAL = {"value_estimates:extrinsic", "memory", "critic_memory", "poca_baseline_memory"}
META = {
    "obs": [{"shape": [3], "type": "DEFAULT"}, {"shape": [2], "type": "DEFAULT"}],
    "continuous": 2,
    "discrete": [3, 2],
}


def document(kind, memory=False, signals=("extrinsic",), **hyper):
    network = {"hidden_units": 4, "num_layers": 1, "normalize": True}
    if memory:
        network["memory"] = {"sequence_length": S, "memory_size": M}
    networks = {"network_settings": {"hidden_units": 4, "num_layers": 1}}
    return {
        "trainer_type": kind,
        "hyperparameters": {"batch_size": ROWS, "buffer_size": 8 * ROWS, **hyper},
        "network_settings": network,
        "reward_signals": {x: {} if x == "extrinsic" else networks for x in signals},
        "max_steps": 1000,
    }


def made(kind, settings, seed=0):
    given = mlagents_cases.SQUASHED if kind == "sac" else {}
    spec = mlagents_cases.behavior_spec(META)
    policy = mlagents.TorchPolicy(
        seed, spec, settings.network_settings, mlagents.SimpleActor, given
    )
    return OPTIMIZERS[kind](policy, settings)


@functools.cache
def drawn(kind, memory, signals, seed):
    return made(kind, settings_of(document(kind, memory, signals)), seed)


def optimizer_of(kind, memory=False, signals=("extrinsic",), seed=0):
    """Copied: to draw weights takes a while."""
    return copy.deepcopy(drawn(kind, memory, signals, seed))


def columns(kind, memory=False, signals=("extrinsic",), rows=ROWS, seed=0):
    """Random arrays by the names of all columns that an update reads."""
    draws = np.random.default_rng(seed)

    def normal(*shape):
        return draws.normal(size=shape).astype(np.float32)

    given = {
        "masks": np.ones(rows, np.float32),
        "continuous_action": np.clip(normal(rows, 2), -0.9, 0.9),
        "discrete_action": draws.integers(0, 2, (rows, 2)),
        "action_mask": np.ones((rows, 5), np.float32),
        "obs:0": normal(rows, 3),
        "obs:1": normal(rows, 2),
    }
    following = {"next_obs:0": normal(rows, 3), "next_obs:1": normal(rows, 2)}
    done = {"done": (normal(rows) > 1).astype(np.float32)}
    if kind == "sac":
        given |= following | done | {f"rewards:{name}": normal(rows) for name in signals}
    else:
        given |= {"advantages": normal(rows)}
        for name in signals:
            given |= {f"value_estimates:{name}": normal(rows), f"returns:{name}": normal(rows)}
        given |= {
            "continuous_log_probs": normal(rows, 2) - 1,
            "discrete_log_probs": normal(rows, 2) - 1,
        }
    if kind == "poca":
        given |= {f"baselines:{name}": normal(rows) for name in signals}
        given |= {
            "group_obs:0": normal(rows, MATES, 3),
            "group_obs:1": normal(rows, MATES, 2),
            "group_continuous_action": normal(rows, MATES, 2),
            "group_discrete_aaction": draws.integers(0, 2, (rows, MATES, 2)).astype(np.float32),
        }
    if memory:
        given |= {"memory": normal(rows, M), "critic_memory": normal(rows, M)}
        if kind == "poca":
            given["poca_baseline_memory"] = normal(rows, M)
    return given


def batch_of(arrays) -> AgentBuffer:
    batch = AgentBuffer()
    for text, array in arrays.items():
        batch[key_of(text)] = array
    return batch


def assert_same(a, b, place=""):
    assert type(a) is type(b), place
    if isinstance(a, Mapping):
        assert list(a) == list(b), place
        for name in a:
            assert_same(a[name], b[name], f"{place}/{name}")
    elif isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype and torch.equal(a, b), place
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), place
        for x, y in zip(a, b):
            assert_same(x, y, place)
    else:
        assert a == b, place


def everything(optimizer):
    remembered = {agent: x.clone() for agent, x in optimizer.critic_memory_dict.items()}
    return export_modules(optimizer) | {"memories": remembered}


@contextmanager
def refuses(optimizer, message, error=ValueError):
    """One clear error, and everything is as before to the last bit."""
    missing = optimizer.missing_memories
    with refuses_all(optimizer), pytest.raises(error, match=message):
        yield
    assert optimizer.missing_memories == missing


def refused(optimizer, given, message, place=""):
    try:
        import_modules(optimizer, given)
    except ValueError as error:
        assert re.search(message, str(error)), (place, message, str(error))
    else:
        raise AssertionError(f"nothing was refused: {place}")


@contextmanager
def refuses_all(optimizer):
    """Whatever was refused, everything is as before to the last bit."""
    before, parts = everything(optimizer), parts_of(optimizer)
    yield
    assert_same(everything(optimizer), before)
    assert all(a is b for a, b in zip(parts_of(optimizer), parts, strict=True))


def parts_of(optimizer):
    """What holds all that an optimizer knows: none is changed in place."""
    signals = [one.state for one in optimizer.reward_signals.values()]
    return [optimizer.state, optimizer.policy.actor.held, optimizer.policy.actor.key, *signals]


def trained(kind, memory=False, signals=tuple(SIGNALS), seed=0, calls=2):
    optimizer = optimizer_of(kind, memory, signals, seed)
    for call in range(calls):
        batch = learnt(kind, memory, signals, call)
        optimizer.policy.increment_step(100)
        optimizer.policy.actor.update_normalization(batch)
        optimizer.update(batch)
        optimizer.update_reward_signals(batch)
    return optimizer


def learnt(kind, memory, signals, seed):
    arrays = columns(kind, memory, signals, seed=seed)
    following = columns("sac", memory, signals, seed=seed + 50)
    for name in ("next_obs:0", "next_obs:1", "done"):
        arrays.setdefault(name, following[name])
    return batch_of(arrays)


def trajectory(length, seed, group=False, **more):
    draws = np.random.default_rng(seed)
    arrays = {"obs:0": draws.normal(size=(length, 3)), "obs:1": draws.normal(size=(length, 2))}
    if group:
        arrays |= {
            "group_obs:0": draws.normal(size=(length, MATES, 3)),
            "group_obs:1": draws.normal(size=(length, MATES, 2)),
            "group_continuous_action": draws.normal(size=(length, MATES, 2)),
            "group_discrete_aaction": np.zeros((length, MATES, 2)),
        }
    return batch_of(arrays | more)


FOLLOWING = [np.full(3, 0.5, np.float32), np.full(2, -0.5, np.float32)]


def value(optimizer, batch, done=False, agent="", **options):
    """Values, whatever the kind."""
    return optimizer.get_trajectory_value_estimates(batch, FOLLOWING, done, agent, **options)
