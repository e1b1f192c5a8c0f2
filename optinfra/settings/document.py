"""Read YAML into plain data that remembers which line every key stands on."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import yaml

from optinfra.settings.errors import SettingsError, dotted, shown

LARGEST_BYTES = 2**20  # a configuration is a few kilobytes
MOST_NODES = 50_000  # with aliases a few lines can stand for billions
DEEPEST = 50
MERGE_TAG = "tag:yaml.org,2002:merge"
PLAIN_TAGS = ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq")

KeyPath: TypeAlias = tuple[str | int, ...]


class Origin(NamedTuple):
    """Where a key was written."""

    place: str  # "config.yaml:7", "--set max_steps=5", or "" for a mapping handed in
    path: KeyPath  # as it was written; a default stands elsewhere than where it takes effect


class Document(NamedTuple):
    """Settings as written: not yet validated."""

    name: str  # of the file, for messages
    data: dict[str, Any]
    origins: dict[KeyPath, Origin]

    def locate(self, path: KeyPath) -> str:
        """Name the place of the innermost written key on `path`, and the whole path."""
        for length in range(len(path), 0, -1):
            if path[:length] in self.origins:
                origin = self.origins[path[:length]]
                place, full = origin.place, origin.path + path[length:]
                break
        else:
            place, full = self.name, path
        return ": ".join(part for part in (place, dotted(full)) if part)


Source: TypeAlias = os.PathLike | str | Mapping | Document


def read(source: Source) -> Document:
    """Read settings without judging them.

    Args:
      source: a `Path` is a file, a `str` is YAML text, a mapping is its content.

    Raises:
      SettingsError: the file cannot be read, is larger than 1 MiB or is not YAML; a key stands
        twice in one mapping; the content is not a mapping. It names file and line.
    """
    if isinstance(source, Document):
        return source
    if isinstance(source, str):
        return parse(source, "<text>")
    if isinstance(source, os.PathLike):
        return parse(_contents(Path(source)), str(source))
    if not isinstance(source, Mapping):
        raise TypeError(f"`source` must be a Path, YAML text or a mapping, got {type(source)}.")
    origins: dict[KeyPath, Origin] = {}
    return Document("", _plain(source, (), origins), origins)


def parse(text: str, name: str, *, numbered: bool = True) -> Document:
    """Parse YAML text; `name` (and the line, if `numbered`) is where its keys come from."""
    if len(text.encode(errors="replace")) > LARGEST_BYTES:
        raise SettingsError(f"{name}: expected at most {LARGEST_BYTES} bytes of settings.")
    try:
        builder = _Builder(text, name, numbered)
        node = builder.loader.get_single_node()
        data = {} if node is None else builder.build(node, ())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark and numbered else ""
        raise SettingsError(f"{name}{line}: not YAML: {error.problem}.") from None
    except yaml.YAMLError as error:
        raise SettingsError(f"{name}: not YAML: {str(error).splitlines()[0]}.") from None
    except RecursionError:
        raise SettingsError(f"{name}: nested too deeply.") from None
    if data is None:
        data = {}
    if builder.problems:
        raise SettingsError(*builder.problems)
    if not isinstance(data, dict):
        hint = " A file is given as a pathlib.Path." if name == "<text>" else ""
        raise SettingsError(f"{name}: expected a mapping of settings, got {shown(data)}.{hint}")
    return Document(name, data, builder.origins)


def _contents(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(LARGEST_BYTES + 1).decode("utf-8-sig")
    except OSError as error:
        raise SettingsError(f"{path}: {(error.strerror or str(error)).lower()}.") from None
    except UnicodeDecodeError as error:
        if error.start >= LARGEST_BYTES - 3:  # the limit cut a character in two
            text = f"expected at most {LARGEST_BYTES} bytes of settings."
        else:
            text = f"not UTF-8 text: byte {error.start} is {error.object[error.start]:#04x}."
        raise SettingsError(f"{path}: {text}") from None


def _plain(value: Any, path: KeyPath, origins: dict[KeyPath, Origin]) -> Any:
    """Copy mappings and sequences into dicts and lists."""
    if path:
        origins[path] = Origin("", path)
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                where = dotted(path) or "settings"
                raise SettingsError(f"{where}: expected text as a key, got {shown(key)}.")
        return {key: _plain(part, (*path, key), origins) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part, (*path, i), origins) for i, part in enumerate(value)]
    return value


class _Builder:
    """Turn PyYAML's nodes into plain data, as `yaml.safe_load` does, but strictly."""

    def __init__(self, text: str, name: str, numbered: bool) -> None:
        self.loader = yaml.SafeLoader(text)
        self.name, self.numbered, self.left = name, numbered, MOST_NODES
        self.origins: dict[KeyPath, Origin] = {}
        self.problems: list[str] = []

    def place(self, node: yaml.Node) -> str:
        return f"{self.name}:{node.start_mark.line + 1}" if self.numbered else self.name

    def blame(self, node: yaml.Node, path: KeyPath, text: str) -> None:
        parts = (self.place(node), dotted(path), text)
        self.problems.append(": ".join(part for part in parts if part))

    def build(self, node: yaml.Node, path: KeyPath) -> Any:
        self.left -= 1
        if self.left < 0 or len(path) > DEEPEST:
            raise SettingsError(f"{self.name}: too much: aliases that multiply or nest too deeply.")
        if isinstance(node, yaml.ScalarNode):
            return self.scalar(node, path)
        if node.tag not in PLAIN_TAGS:
            self.blame(node, path, f"expected no tag, got {node.tag}.")
        if isinstance(node, yaml.MappingNode):
            return self.mapping(node, path)
        for i, part in enumerate(node.value):
            here = (*path, i)
            self.origins[here] = Origin(self.place(part), here)
        return [self.build(part, (*path, i)) for i, part in enumerate(node.value)]

    def scalar(self, node: yaml.ScalarNode, path: KeyPath) -> Any:
        try:
            value = self.loader.construct_object(node)
        except (ValueError, LookupError, AttributeError):  # the date 2020-99-99, `!!bool x`
            value = ...
        if isinstance(value, str | int | float | None):
            return value
        self.blame(node, path, f"expected text or a number, got {node.value}. Put it in quotes.")
        return None

    def mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Any]:
        own: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if key_node.tag == MERGE_TAG:
                merged = self.merge(value_node, path) | merged
                continue
            key = self.build(key_node, path)
            if not isinstance(key, str):
                self.blame(key_node, path, f"expected text as a key, got {shown(key)}.")
            elif key in own:
                self.blame(key_node, (*path, key), "this key stands twice.")
            else:
                here = (*path, key)
                self.origins[here] = Origin(self.place(key_node), here)
                own[key] = self.build(value_node, here)
        return merged | own

    def merge(self, node: yaml.Node, path: KeyPath) -> dict[str, Any]:
        """Build what `<<:` refers to: one mapping, or several of which the first rules."""
        nodes = node.value if isinstance(node, yaml.SequenceNode) else [node]
        merged: dict[str, Any] = {}
        for part in nodes:
            built = self.build(part, path)
            if not isinstance(built, dict):
                self.blame(part, path, f"expected a mapping after <<, got {shown(built)}.")
                continue
            merged = built | merged
        return merged
