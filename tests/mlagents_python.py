"""Where ML-Agents is: an interpreter of its own, as its numpy is an old one."""

import os
import shutil
from pathlib import Path

import pytest

NAME = "OPTINFRA_MLAGENTS_PYTHON"


def mlagents_python():
    """The interpreter that the environment names; a test that has none is skipped."""
    named = os.environ.get(NAME)
    if not named:
        pytest.skip(f"{NAME} names no interpreter that has ML-Agents")
    return Path(shutil.which(named) or named).absolute()
