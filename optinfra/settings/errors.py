"""How a mistake is told: one line, where it is, what was expected, what came."""

import difflib
import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

from pydantic import ValidationError

LONGEST_SHOWN = 60  # characters of a wrong value that a message repeats


class SettingsError(ValueError):
    """Settings that cannot be used. Its text is one line per mistake."""

    def __init__(self, *problems: str) -> None:
        """Keep the lines, each once."""
        self.problems = tuple(dict.fromkeys(problems))
        super().__init__("\n".join(self.problems))


class SettingsWarning(UserWarning):
    """Settings that are read, but not as they are written."""


def shown(value: Any) -> str:
    """Write a value on one line as YAML would, shortened where it is long."""
    text = json.dumps(value, ensure_ascii=False, default=repr)
    return text if len(text) <= LONGEST_SHOWN else text[: LONGEST_SHOWN - 1] + "…"


def dotted(path: Iterable[str | int]) -> str:
    """Join a path on one line; a key that cannot be printed is written as YAML would."""
    return ".".join(str(key) if str(key).isprintable() else shown(key) for key in path)


def listed(names: Iterable[str], last: str = "or") -> str:
    """Join names as a sentence does: `a, b or c`."""
    *head, tail = names
    return f"{', '.join(head)} {last} {tail}" if head else tail


def closest(word: str, known: Iterable[str]) -> str | None:
    """Find the known word that `word` was probably meant to be."""
    return next(iter(difflib.get_close_matches(word, list(known), n=1)), None)


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """Name the known word closest to `word`, with a leading space; all of them if none is close."""
    if close := closest(word, known):
        return f" Did you mean {close}?"
    return f" Known: {', '.join(known)}."


def problem_at(path: str, value: Any, text: str) -> ValidationError:
    """Blame one key of a model, by its dotted path, for what is wrong between several."""
    lines = [_line(tuple(path.split(".")), value, text)]
    return ValidationError.from_exception_data("settings", lines)


def reworded(error: ValidationError, known: Sequence[str]) -> ValidationError:
    """Say in our words what pydantic found wrong with a model whose keys are `known`."""
    lines = [
        _line(line["loc"], line["input"], _sentence(line, known))
        for line in error.errors(include_url=False)
        # A default that waits for another key's value is no mistake of its own.
        if line["type"] != "default_factory_not_called"
    ]
    return ValidationError.from_exception_data(error.title, lines)


def sentence_of(line: Any) -> str:
    """Take a finished sentence out of pydantic's error."""
    return str(line["ctx"]["error"])


def _line(path: tuple[int | str, ...], value: Any, text: str) -> Any:
    """Carry a finished sentence through pydantic, which adds words to a message of its own."""
    error = {"error": ValueError(text)}
    return {"type": "value_error", "loc": path, "input": value, "ctx": error}


def _sentence(line: Any, known: Sequence[str]) -> str:
    """Word one of pydantic's errors."""
    kind, got = line["type"], shown(line["input"])
    if kind == "value_error":
        return sentence_of(line)
    if kind == "extra_forbidden":
        return f"unknown key.{did_you_mean(str(line['loc'][-1]), known)}"
    if kind == "missing":
        return "missing."
    if kind == "literal_error":
        options = re.findall(r"'([^']*)'", line["ctx"]["expected"])
        close = closest(str(line["input"]), options)
        hint = f" Did you mean {close}?" if close else ""
        return f"expected {listed(options)}, got {got}.{hint}"
    if kind in ("dict_type", "model_type", "model_attributes_type"):
        return f"expected a mapping, got {got}."
    if kind in ("list_type", "tuple_type"):
        return f"expected a list, got {got}."
    return line["msg"]
