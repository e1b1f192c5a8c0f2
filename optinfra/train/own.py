"""The user's own networks, found by the names that settings give them."""

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import nn

from optinfra import networks, tree
from optinfra.settings import NetworkSettings, OptinfraSettings, TrainerSettings
from optinfra.train.errors import RunError, imported, told_by
from optinfra.types import Spec


class Asked(NamedTuple):
    """What a factory of whole networks is asked for."""

    spec: Spec  # of the environment
    streams: tuple[str, ...]  # there is a value for each
    settings: TrainerSettings  # of the behaviour: its trainer, sizes, memory
    own: OptinfraSettings


def encoding(settings: NetworkSettings, own: OptinfraSettings) -> networks.Encoding:
    """Tell how observations are read.

    Raises:
      RunError: a module of the user's own cannot be imported; from the factories, it cannot be
        made.
    """
    return networks.Encoding(
        image=settings.vis_encode_type,
        goal_conditioning=settings.goal_conditioning_type,
        encoder=_modules("encoder", own.encoder),
        body=_modules("body", own.body),
    )


def network(asked: Asked, kinds: tuple[type, ...]) -> Any:
    """Make the whole actor and critic of the user's own, or None where none is asked for.

    Raises:
      RunError: it cannot be imported or made, is of another kind than its trainer takes, or
        remembers where the settings have no memory, or the other way round.
    """
    name = asked.own.network
    if name is None:
        return None
    made = _factory("network", name)(asked)
    if not isinstance(made, kinds):
        expected = " or ".join(f"networks.{kind.__name__}" for kind in kinds)
        raise _refused("network", name, expected, type(made).__name__)
    remembers = hasattr(made, "memories") and bool(tree.leaves(made.memories((1,))))
    asked_for = asked.settings.network_settings.memory is not None
    if remembers != asked_for:
        told = {True: "a network that remembers", False: "one that remembers nothing"}
        expected = f"{told[asked_for]}, as network_settings.memory has it,"
        raise _refused("network", name, expected, told[remembers])
    return made


def _modules(setting: str, name: str | None) -> Callable[..., Any] | None:
    """Find a factory of modules; from it, RunError where it makes something else."""
    if name is None:
        return None
    make = _factory(setting, name)

    def module(*asked: Any) -> nn.Module | None:
        made = make(*asked)
        if made is None and setting == "encoder":
            return None
        if not isinstance(made, nn.Module):
            raise _refused(setting, name, "a torch.nn.Module", type(made).__name__)
        return made

    return module


def _factory(setting: str, name: str) -> Callable[..., Any]:
    """Import `package.module:function`, and let what it raises tell where it comes from."""
    module, _, function = name.partition(":")
    if not module or not function:
        raise RunError(f"{_place(setting)}: expected `package.module:function`, got {name!r}.")
    found = getattr(imported(_place(setting), module), function, None)
    if not callable(found):
        raise RunError(f"{_place(setting)}: `{module}` has no function called {function}.")
    return told_by(_place(setting), found)


def _refused(setting: str, name: str, expected: str, got: str) -> RunError:
    return RunError(f"{_place(setting)}: expected {expected} from {name}, got {got}.")


def _place(setting: str) -> str:
    return f"optinfra.{setting}"
