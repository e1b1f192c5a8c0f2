"""What the tests of `settings` share: short ways to load, and strategies for plain data."""

from pathlib import Path

import pytest
from hypothesis import strategies as st

from optinfra.settings import SettingsError, choose_behavior, load

CONFIGS = Path(__file__).parent / "configs"
TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
FLAG = st.booleans()
JSON = st.recursive(
    st.none() | FLAG | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXT, inner, max_size=2),
    max_leaves=4,
)


def only(data, **run):
    """Load one behaviour, `agent`, and return it."""
    return choose_behavior(load({"behaviors": {"agent": data}, **run}))[1]


def mistakes(source):
    """The lines in which `source` is refused."""
    with pytest.raises(SettingsError) as error:
        load(source)
    return str(error.value).split("\n")


def nest(path, value):
    """`a.b`, 3 -> {"a": {"b": 3}}."""
    for key in reversed(path.split(".")):
        value = {key: value}
    return value


def follow(block, path):
    """`a.b` of an object."""
    for key in path.split("."):
        block = getattr(block, key)
    return block
