"""Change single settings before they are validated: what `--set` does."""

from collections.abc import Iterator, Sequence
from typing import Any, get_args

from optinfra.settings.document import Document, KeyPath, Origin, Source, parse, read
from optinfra.settings.errors import SettingsError, closest, dotted, shown
from optinfra.settings.kinds import Block
from optinfra.settings.run import RunSettings, chosen_name
from optinfra.settings.trainer import TrainerSettings


def override(source: Source, assignments: Sequence[str], behavior: str | None = None) -> Document:
    """Lay assignments over settings. The later of two rules.

    A path is looked up in the chosen behaviour first (`hyperparameters.learning_rate=1e-3`,
    `max_steps=50000`), else from the top (`env_settings.num_envs=16`, `optinfra.compile=off`).
    Without behaviours it goes to `default_settings`.

    Args:
      source: what `load` takes.
      assignments: `path=value` each, the path dotted, the value YAML.
      behavior: name of the behaviour; None: the only one.

    Returns:
      A `Document` for `load`. `source` is not changed.

    Raises:
      SettingsError: an assignment has no `=` or no value in YAML, its path begins with no known
        key (it names the nearest), or the behaviour is not clear.
    """
    document = read(source)
    for assignment in assignments:
        document = _assign(document, assignment, behavior)
    return document


def _assign(document: Document, assignment: str, behavior: str | None) -> Document:
    place = f"--set {assignment}"
    written, equals, text = assignment.partition("=")
    if not equals or not written.strip():
        raise SettingsError(f"{place}: expected path=value.")
    path = _keys(written.strip())
    data = parse(f"value: {text}", place, numbered=False).data
    if list(data) != ["value"]:
        raise SettingsError(f"{place}: expected one value.")
    if path[0] in TrainerSettings.model_fields:
        path = (*_behavior(document, behavior), *path)
    elif path[0] not in RunSettings.known_keys():
        raise SettingsError(f"{place}: {written}: unknown key.{_nearest('.'.join(path))}")
    origins = {key: origin for key, origin in document.origins.items() if key[: len(path)] != path}
    origins[path] = Origin(place, path)
    for length in range(1, len(path)):  # mappings that come into being with it
        origins.setdefault(path[:length], Origin(place, path[:length]))
    return Document(document.name, _put(document.data, path, data["value"], place), origins)


def _keys(written: str) -> tuple[str, ...]:
    """Split a path at its dots, but for those in the package of a signal of one's own."""
    keys = written.split(".")
    first = keys.index("reward_signals") + 1 if "reward_signals" in keys else len(keys)
    for last in range(first, len(keys)):
        if ":" in keys[last]:
            return (*keys[:first], ".".join(keys[first : last + 1]), *keys[last + 1 :])
    return tuple(keys)


def _behavior(document: Document, name: str | None) -> tuple[str, ...]:
    """Find where the settings of the chosen behaviour stand."""
    behaviors = document.data.get("behaviors", {})
    if behaviors == {}:
        return ("default_settings",)
    if not isinstance(behaviors, dict):
        where = document.locate(("behaviors",))
        raise SettingsError(f"{where}: expected a mapping, got {shown(behaviors)}.")
    return ("behaviors", chosen_name(list(behaviors), name))


def _put(data: dict[str, Any], path: KeyPath, value: Any, place: str) -> dict[str, Any]:
    """Copy `data` with `value` at `path`."""
    blocks: list[dict] = [data]
    for depth, key in enumerate(path[:-1], 1):
        block = blocks[-1].get(key)
        if not isinstance(block, dict | None):
            where = dotted(path[:depth])
            raise SettingsError(f"{place}: {where}: expected a mapping, got {shown(block)}.")
        blocks.append(block or {})
    for block, key in zip(reversed(blocks), reversed(path)):
        value = {**block, key: value}
    return value


def _nearest(written: str) -> str:
    """Suggest the known path that looks alike, or that ends alike."""
    known = [*_paths(TrainerSettings), *_paths(RunSettings)]
    ends: dict[str, str] = {}
    for path in known:
        ends.setdefault(path.rpartition(".")[2], path)
    end = closest(written.rpartition(".")[2], ends)
    meant = closest(written, known) if "." in written or end is None else ends[end]
    if meant or end:
        return f" Did you mean {meant or ends[str(end)]}?"
    return f" Known: {', '.join(path for path in known if '.' not in path)}."


def _paths(model: type[Block]) -> Iterator[str]:
    """List the dotted paths of a model's settings; where names are free it stops."""
    for name, field in model.model_fields.items():
        yield name
        for block in (field.annotation, *get_args(field.annotation)):
            if isinstance(block, type) and issubclass(block, Block):
                yield from (f"{name}.{path}" for path in _paths(block))
