"""Beside ML-Agents itself: the same calls of a buffer give the same."""

import json
import subprocess
from pathlib import Path

import pytest

from optinfra import mlagents
from tests import mlagents_buffers
from tests.mlagents_python import mlagents_python

pytestmark = pytest.mark.mlagents
CASES = 200


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    """What comes of all calls there."""
    interpreter = mlagents_python()
    told = tmp_path_factory.mktemp("mlagents") / "told.json"
    script = Path(mlagents_buffers.__file__)
    run = subprocess.run([interpreter, script, str(CASES), told], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return json.loads(told.read_text())


@pytest.mark.parametrize("which", ["run", "columns"])
def test_a_buffer_and_the_columns_of_a_trajectory_are_the_same(theirs, which):
    recorded = theirs[which == "columns"]
    assert len(recorded) == CASES
    for seed, expected in enumerate(recorded):
        ours = getattr(mlagents_buffers, which)(mlagents, seed)
        assert json.dumps(ours) == json.dumps(expected), seed
