"""Imports point down. A new room gets its row here before it gets any code."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

FLOORS = [  # a floor may import only floors above it in this list
    {"version"},
    {"types", "tree", "random", "check"},
    {"returns", "losses", "distributions", "schedules", "moments", "networks", "gradients"},
    {"transforms", "memory", "replay", "rollout", "sequences"},
    {"signals", "imitation", "values"},
    {"learners"},
    {"lift"},
    {"streams", "credit"},
    {"iteration", "off_policy"},
    {"settings", "checkpoint", "demos", "envs", "testing", "agents", "store", "export"},
    {"train"},
    {"mlagents"},
    {"cli"},
]
CORE = {"torch", "optree", "math", "typing", "collections", "functools", "inspect", "itertools",
        "operator", "re", "warnings", "zlib"}  # fmt: skip
SHELL = CORE | {
    "contextlib", "csv", "dataclasses", "datetime", "difflib", "enum", "importlib", "io", "json",
    "os", "pathlib", "shutil", "signal", "sys", "tempfile", "time", "argparse", "statistics",
    "numpy", "gymnasium", "matplotlib", "pydantic", "rich", "safetensors", "tensorboard", "yaml",
    "platform", "pkgutil", "abc",
}  # fmt: skip
# What one room only may import.
EXTRA = {"testing": {"hypothesis"}, "envs": {"pettingzoo"}, "demos": {"google", "PIL", "minari"},
         "export": {"onnx"},
         "mlagents": {"h5py", "attr", "mlagents", "mlagents_envs", "pickle"}}  # fmt: skip
FIRST_SHELL_FLOOR = 9
RANK = {name: rank for rank, floor in enumerate(FLOORS) for name in floor}
ROOT = Path(__file__).parents[1] / "optinfra"
MODULES = [p for p in sorted(ROOT.rglob("*.py")) if p != ROOT / "__init__.py"]
# Rooms of floor 1 (the second row) may build on one another where the mathematics does; a data
# set's spaces are read as an environment's are.
SAME_FLOOR = {("random", "check"), ("random", "types"), ("check", "types"), ("tree", "types"),
              ("losses", "moments"), ("networks", "distributions"),
              ("demos", "envs")}  # fmt: skip


def imported_names(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.module == "optinfra":
                yield from (f"optinfra.{alias.name}" for alias in node.names)
            else:
                yield str(node.module)


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_down(path):
    room = path.relative_to(ROOT).with_suffix("").parts[0]
    assert room in RANK, f"{room} has no floor"
    allowed = (SHELL if RANK[room] >= FIRST_SHELL_FLOOR else CORE) | EXTRA.get(room, set())
    for name in imported_names(path):
        top, *target = name.split(".")
        if top != "optinfra":
            assert top in allowed, f"{room} must not import {name}"
        elif target[0] != room and (room, target[0]) not in SAME_FLOOR:
            assert RANK[target[0]] < RANK[room], f"{room} must not import {name}"


def test_importing_optinfra_loads_nothing_of_an_extra():
    heavy = ("jax", "chex", "hypothesis", "pytest", "gymnasium", "matplotlib", "pydantic", "yaml",
             "rich", "tensorboard", "safetensors", "google.protobuf", "PIL", "minari",
             "pettingzoo", "onnx")  # fmt: skip
    code = f"import sys, optinfra; print([m for m in {heavy!r} if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
