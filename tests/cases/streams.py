"""Contract cases of `optinfra.streams`: none of its own, see `tests/test_registry.py`."""

from tests.contracts import Case

CASES: dict[str, Case] = {}
