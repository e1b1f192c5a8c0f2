"""Environments by name."""

import difflib
import importlib
import pkgutil
from collections.abc import Callable, Mapping
from typing import Any

from optinfra.envs.cartpole import cartpole
from optinfra.envs.catch import catch
from optinfra.envs.environment import Env
from optinfra.envs.escape import escape
from optinfra.envs.fetch import fetch
from optinfra.envs.groups import GroupEnv
from optinfra.envs.gymnasium import GymnasiumVector
from optinfra.envs.hidden import cartpole_without_velocity, pendulum_without_velocity
from optinfra.envs.mountaincar import mountaincar
from optinfra.envs.nearest import nearest
from optinfra.envs.pendulum import pendulum
from optinfra.envs.pettingzoo import PettingZooGroups
from optinfra.envs.recall import recall
from optinfra.envs.rooms import rooms
from optinfra.envs.spaces import USUAL, Reading

TENSOR_PREFIX = "tensor:"
TENSOR_ENVS: Mapping[str, Callable[..., Env]] = {
    "tensor:CartPole-v1": cartpole,
    "tensor:Pendulum-v1": pendulum,
    # These need memory; the names of the last two are RL Zoo's.
    "tensor:Recall-v0": recall,
    "tensor:CartPoleNoVel-v1": cartpole_without_velocity,
    "tensor:PendulumNoVel-v1": pendulum_without_velocity,
    # In these the reward is not found by chance.
    "tensor:MountainCar-v0": mountaincar,
    "tensor:Rooms-v0": rooms,
    # These show a set, a goal, an image of bytes.
    "tensor:Nearest-v0": nearest,
    "tensor:Fetch-v0": fetch,
    "tensor:Catch-v0": catch,
}
TENSOR_GROUPS: Mapping[str, Callable[..., GroupEnv]] = {"tensor:Escape-v0": escape}
PETTINGZOO_PREFIX = "pettingzoo:"
VECTORIZATIONS = ("auto", "sync", "async", "vector_entry_point")
# Those of Gymnasium's own vectorised environments that were found equal to the single one
# (time limit, final observation, reset: tests/test_gymnasium.py); 25 µs where sync takes 43.
PROVEN_ENTRY_POINTS = ("CartPole-v0", "CartPole-v1")
SHARED_MEMORY = "shared_memory"  # named where Gymnasium's processes cannot share a space
# What Gymnasium's families of environments need: the module they live in, the extra to install.
EXTRAS = {"mujoco": "mujoco", "box2d": "box2d", "phys2d": "jax", "tabular": "jax"}


def make(
    name: str,
    num_envs: int,
    *,
    vectorization: str = "auto",
    env_kwargs: Mapping[str, Any] | None = None,
    reading: Reading = USUAL,
) -> Env | GroupEnv | GymnasiumVector | PettingZooGroups:
    """Make an environment by its name.

    Args:
      name: one of `TENSOR_ENVS`, such as `tensor:CartPole-v1`, for an `Env` of pure functions,
        or of `TENSOR_GROUPS`, such as `tensor:Escape-v0`, for a `GroupEnv`; `pettingzoo:` and
        the path of a module, such as `pettingzoo:mpe2.simple_spread_v3`, for what its
        `parallel_env` makes, in groups by the names of agents; else what Gymnasium calls it:
        `package:Name-v0` imports the package that registers it.
      num_envs: N ≥ 1 environments side by side; one of tensors is one, and vmap makes it N.
      vectorization: of Gymnasium's: `sync` steps them in turn, `async` in processes of their
        own, `vector_entry_point` all at once where the environment has such a form; `auto`
        takes the last where it is proven equal, else the first.
      env_kwargs: keyword arguments of the environment itself.
      reading: how observations of Gymnasium and PettingZoo are read; see `envs.spaces`.

    Returns:
      An `Env` or a `GroupEnv`, or over N environments a `GymnasiumVector` or
      `PettingZooGroups`.

    Raises:
      ValueError: the name is unknown (the message tells close ones), `num_envs` lies below 1,
        `vectorization` is none of these, a space is not supported, or `reading` names what
        cannot be, or anything of one in tensors, whose spec says it all.
      ModuleNotFoundError: a package is missing; the message tells what to install.
    """
    if name.startswith(TENSOR_PREFIX):
        factories: dict[str, Callable[..., Env | GroupEnv]] = {**TENSOR_ENVS, **TENSOR_GROUPS}
        if name not in factories:
            raise unknown(name, factories)
        for argument in ("goals", "sets"):
            if names := getattr(reading, argument):
                raise ValueError(
                    f"`{argument}` must be empty for `{name}`, whose spec tells, got {names}."
                )
        return factories[name](**(env_kwargs or {}))
    if num_envs < 1:
        raise ValueError(f"`num_envs` must lie in [1, inf), got {num_envs}.")
    if vectorization not in VECTORIZATIONS:
        raise ValueError(f"`vectorization` must be one of {VECTORIZATIONS}, got {vectorization!r}.")
    if name.startswith(PETTINGZOO_PREFIX):
        return make_groups(name, num_envs, env_kwargs or {}, reading)
    gymnasium = import_for(name, "gymnasium", "'optinfra[train]'")
    made = make_vector(gymnasium, name, num_envs, vectorization, env_kwargs or {})
    return GymnasiumVector(made, reading)


def make_vector(
    gymnasium: Any, name: str, num_envs: int, vectorization: str, env_kwargs: Mapping[str, Any]
) -> Any:
    """Make Gymnasium's vector environment, with errors that tell what to do."""
    package, _, env_id = name.rpartition(":")
    if package:
        import_for(name, package, package)
    if env_id not in gymnasium.registry:
        raise unknown(name, [*gymnasium.registry, *TENSOR_ENVS, *TENSOR_GROUPS])
    if vectorization == "auto":
        vectorization = "vector_entry_point" if env_id in PROVEN_ENTRY_POINTS else "sync"
    # Resetting ended environments ourselves keeps the final observation even of one that
    # writes into one buffer for ever: with SAME_STEP its reset overwrites it, see
    # https://github.com/Farama-Foundation/Gymnasium/issues/1132.
    mode = gymnasium.vector.AutoresetMode.DISABLED
    options = {"autoreset_mode": mode, "copy": False}  # the encoder copies
    if vectorization == "vector_entry_point":
        options = {}

    def made(**more: Any) -> Any:
        vector_kwargs = {**options, **more}
        return gymnasium.make_vec(
            env_id, num_envs, vectorization, vector_kwargs=vector_kwargs, **env_kwargs
        )

    try:
        return made()
    except TypeError as error:
        if SHARED_MEMORY not in str(error):
            raise
        return made(shared_memory=False)  # sequences have no size that memory could be shared for
    except (ImportError, gymnasium.error.DependencyNotInstalled) as error:
        entry_point = str(gymnasium.registry[env_id].entry_point)
        extras = [EXTRAS[part] for part in entry_point.split(".") if part in EXTRAS]
        install = f" pip install 'gymnasium[{extras[0]}]'" if extras else ""
        reason = str(error).partition("\n")[0]
        raise ModuleNotFoundError(f"`{name}` cannot be made: {reason}.{install}") from error


def make_groups(
    name: str, num_envs: int, env_kwargs: Mapping[str, Any], reading: Reading
) -> PettingZooGroups:
    """Make copies of a PettingZoo environment by the path of its module."""
    import_for(name, "pettingzoo", "'optinfra[groups]'")
    parallel_env = getattr(parallel_module(name), "parallel_env", None)
    if parallel_env is None:
        raise ValueError(
            f"`env` must be the name of a module that has a `parallel_env`, got {name!r}."
        )
    copies = [parallel_env(**env_kwargs) for _ in range(num_envs)]
    return PettingZooGroups(copies, reading=reading)


def parallel_module(name: str) -> Any:
    """Import the module that a name leads to, or tell which ones are called nearly so."""
    path = name.removeprefix(PETTINGZOO_PREFIX)
    top = path.partition(".")[0]
    if not top:
        raise unknown(name, ())
    package = import_for(name, top, top)
    try:
        return importlib.import_module(path)
    except ModuleNotFoundError as error:
        missing = str(error.name)
        if not f"{path}.".startswith(f"{missing}."):
            return import_for(name, missing, missing)  # what that module itself needs
        found = pkgutil.iter_modules(getattr(package, "__path__", ()), f"{top}.")
        raise unknown(name, [PETTINGZOO_PREFIX + module.name for module in found]) from error


def import_for(name: str, module: str, requirement: str) -> Any:
    """Import what the environment `name` needs, or tell how to install it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"`{name}` needs the package `{error.name}`, which is not installed: "
            f"pip install {requirement}"
        ) from error


def unknown(name: str, known: Any) -> ValueError:
    """The error that names an unknown environment and those called nearly so."""
    by_lower_case = {candidate.lower(): candidate for candidate in known}
    close = difflib.get_close_matches(name.lower(), by_lower_case)
    hint = f"Did you mean {', '.join(by_lower_case[match] for match in close)}?"
    if not close and name.startswith(PETTINGZOO_PREFIX):
        hint = f"One of PettingZoo is called `{PETTINGZOO_PREFIX}package.module`."
    elif not close:
        hint = "One that another package registers is called `package:Name-v0`."
    return ValueError(f"`env` must be the name of a registered environment, got {name!r}. {hint}")
