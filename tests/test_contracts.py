"""Every case of every room keeps every contract."""

import importlib
import pkgutil

import pytest

import tests.cases
from tests import contracts

ROOMS = [module.name for module in pkgutil.iter_modules(tests.cases.__path__)]
CASES = {
    f"{room}.{name}": case
    for room in ROOMS
    for name, case in importlib.import_module(f"tests.cases.{room}").CASES.items()
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(
    "contract", [contracts.assert_pure, contracts.assert_lifts, contracts.assert_compiles_once]
)
def test_public_function_keeps_contract(name, contract):
    contract(CASES[name])
