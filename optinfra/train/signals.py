"""Reward signals by name: the four of ML-Agents, and those of one's own."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch

from optinfra import demos
from optinfra.settings import OptinfraSettings, TrainerSettings
from optinfra.signals import curiosity, extrinsic, gail, rnd
from optinfra.signals.faults import require_state
from optinfra.train.errors import RunError, imported, told_by
from optinfra.train.metrics import COLUMNS
from optinfra.train.names import TAGS
from optinfra.train.own import encoding
from optinfra.types import Action, Key, PyTree, Signal, Spec, Transitions


class Made(NamedTuple):
    """A signal, and what the iteration must know of its stream."""

    signal: Signal
    ignore_done: bool = False  # whether the end of an episode is none for this stream


class Asked(NamedTuple):
    """What a factory is asked for."""

    spec: Spec  # of the environment
    settings: Any  # of the signal: `RewardSignalSettings` or what extends them
    own: OptinfraSettings
    expert: Callable[[str], Transitions]  # reads the demonstrations of a path
    trainer_type: str  # who learns from it, such as `ppo`


Factory = Callable[[Asked], Made]
_REGISTERED: dict[str, Factory] = {}


def register(name: str, factory: Factory) -> None:
    """Make a signal known by a name, so that settings can ask for it.

    A package `novel` that calls `register("novelty", make)` when it is imported is asked for
    as `novel:novelty` under `reward_signals`. Its `settings` are `RegisteredSignalSettings`:
    `strength`, `gamma`, `learning_rate`, `network_settings` and `parameters` of its own.

    Args:
      name: of the signal and its stream, an identifier; its stats begin with it.
      factory: from what is asked for to the signal.

    Raises:
      ValueError: `name` is no identifier, taken by another factory, or begins the name of
        another stat.
    """
    if not name.isidentifier():
        raise ValueError(f"`name` must be an identifier, got {name!r}.")
    if {**_BUILT_IN, **_REGISTERED}.get(name, factory) is not factory:
        raise ValueError(f"`name` must be a new one, got {name!r}, which is registered already.")
    if any(column.startswith(f"{name}_") for column in (*COLUMNS, *TAGS)):
        raise ValueError(f"`name` must not begin the name of another stat, got {name!r}.")
    _REGISTERED[name] = factory


def made(
    behavior: TrainerSettings,
    spec: Spec,
    own: OptinfraSettings,
    expert: Callable[[str], Transitions],
) -> dict[str, Made]:
    """Make the reward signals that the settings describe, by the name of their stream.

    Args:
      behavior: whose signals.
      spec: of the environment.
      own: settings that ML-Agents has no word for.
      expert: reads the demonstrations of a path, such as `taken_from(spec)`.

    Raises:
      RunError: a package cannot be imported, or registers no such signal, or a signal cannot be
        made; from its `init`, it raises.
      DemoError: the demonstrations cannot be read.
    """
    rewards, trainer = behavior.reward_signals, behavior.trainer_type
    return {
        stream: make(name, Asked(spec, rewards.by_name[name], own, expert, trainer))
        for name, stream in rewards.streams.items()
    }


def taken_from(spec: Spec) -> Callable[[str], Transitions]:
    """Make the function that reads demonstrations of such an agent: those rows that were taken."""
    return lambda path: demos.taken(demonstrations(path, spec))


def demonstrations(path: str, spec: Spec) -> demos.Demonstrations:
    """Read demonstrations of which at least one action was taken.

    Raises:
      DemoError: they cannot be read, or do not fit `spec`.
    """
    loaded = demos.load(path, spec).demonstrations
    if (loaded.terminated | loaded.truncated).all():
        raise demos.DemoError(f"{path}: expected an action that was taken, got none.")
    return loaded


def blank(spec: Spec) -> Transitions:
    """Make one row of nothing, for whoever needs the form of demonstrations and not what is in."""
    no, yes = torch.zeros(1, dtype=torch.bool), torch.ones(1, dtype=torch.bool)
    obs = tuple(
        torch.zeros(1, *shape, dtype=torch.uint8 if i in spec.bytes else torch.float32)
        for i, shape in enumerate(spec.obs)
    )
    sizes = spec.action
    choices = torch.zeros(1, len(sizes.branches), dtype=torch.int64)
    action = Action(torch.zeros(1, sizes.continuous), choices)
    return Transitions(obs, obs, action, torch.zeros(1), no, no, yes)


def make(name: str, asked: Asked) -> Made:
    """Make one signal; what goes wrong with it names it."""
    one = _named(name, _factory(name))(asked)
    if not isinstance(one, Made):
        kind = type(one).__name__
        raise RunError(f"reward_signals.{name}: expected a `Made` from its factory, got {kind}.")

    def init(key: Key) -> PyTree:
        state = one.signal.init(key)
        require_state(name, state)
        return state

    return one._replace(signal=one.signal._replace(init=_named(name, init)))


def _factory(name: str) -> Factory:
    """Find a factory; what is called `package:name` is registered by importing the package."""
    package, _, own = name.rpartition(":")
    if not package:
        return _BUILT_IN[name]
    imported(f"reward_signals.{name}", package)
    if own not in _REGISTERED:
        raise RunError(f"reward_signals.{name}: `{package}` registers no signal called {own}.")
    return _REGISTERED[own]


def _named(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Let what a function raises, which may be anyone's, tell whose signal it is."""
    return told_by(f"reward_signals.{name}", function)


def _sizes(asked: Asked) -> dict[str, Any]:
    """What all signals with networks are told."""
    settings, network = asked.settings, asked.settings.network_settings
    return {
        "strength": settings.strength,
        "gamma": settings.gamma,
        "encoding": encoding(network, asked.own),
        "hidden_units": network.hidden_units,
        "num_layers": network.num_layers,
        "normalize": network.normalize,
    }


def _extrinsic(asked: Asked) -> Made:
    signal = extrinsic(
        strength=asked.settings.strength,
        gamma=asked.settings.gamma,
        add_groupmate_rewards=asked.trainer_type == "poca",
    )
    return Made(signal)


def _curiosity(asked: Asked) -> Made:
    rate = asked.settings.learning_rate
    signal = curiosity(asked.spec, learning_rate=rate, **_sizes(asked))
    return Made(signal, ignore_done=True)


def _rnd(asked: Asked) -> Made:
    signal = rnd(
        asked.spec,
        learning_rate=asked.settings.learning_rate,
        normalize_reward=asked.own.rnd_reward_normalization,
        **_sizes(asked),
    )
    return Made(signal, ignore_done=True)


def _gail(asked: Asked) -> Made:
    settings = asked.settings
    signal = gail(
        asked.spec,
        asked.expert(settings.demo_path),
        learning_rate=settings.learning_rate,
        use_actions=settings.use_actions,
        use_vail=settings.use_vail,
        **_sizes(asked),
    )
    return Made(signal)


_BUILT_IN: Mapping[str, Factory] = {
    "extrinsic": _extrinsic,
    "curiosity": _curiosity,
    "gail": _gail,
    "rnd": _rnd,
}
