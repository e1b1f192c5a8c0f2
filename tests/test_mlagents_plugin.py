"""The plugin inside ML-Agents' own trainer loop: what it learns, and what is no longer wrong there.

OPTINFRA_MLAGENTS_PYTHON names an interpreter that has ML-Agents and optinfra[mlagents].
"""

import json
import os
import subprocess
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from tests.mlagents_python import mlagents_python

pytestmark = pytest.mark.mlagents
ROOT = Path(__file__).parents[1]
S = 12
KINDS = ("ppo", "sac", "poca")
SECOND_STEPS = {"ppo": 3000, "sac": 2000, "poca": 3000}
SOLVED = 0.6  # per episode; 0.85 is the best, −0.6 is what chance gets


def told(module, *arguments):
    """What a run of ML-Agents printed."""
    interpreter = mlagents_python()
    run = subprocess.run(
        [interpreter, "-m", module, *map(str, arguments)], capture_output=True, text=True,
        cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-4000:]
    return json.loads(run.stdout.splitlines()[-1])


def of(*kinds):
    """Kinds as parameters; tests of one share a process, and so its run."""
    return [pytest.param(kind, marks=pytest.mark.xdist_group(kind)) for kind in kinds]


@pytest.fixture(scope="module")
def probed(tmp_path_factory):
    """One run of each kind with memory, stopped and gone on with; made when first asked for."""
    made = {}

    def probe(kind):
        if kind not in made:
            folder = tmp_path_factory.mktemp(kind)
            made[kind] = told("tests.mlagents_probe", kind, folder), folder
        return made[kind]

    return probe


@pytest.mark.parametrize("kind", of(*KINDS))
def test_a_critic_remembers_each_agent_by_itself_until_its_episode_ends(probed, kind):
    """Q2 and Q3: whatever way it ends in, a later trajectory begins with nothing remembered."""
    facts, _ = probed(kind)
    goes_on, ends = {}, set()
    for agent, remembered, done, ended, kept in facts["calls"]:
        assert remembered == goes_on.get(agent, False)
        assert kept == (not ended)
        goes_on[agent] = kept
        if ended:
            ends.add(done)
    assert len(goes_on) > 8 and any(kept for *_, kept in facts["calls"])
    assert ends == {True, False}  # some ended by themselves, others were cut or left a group
    assert set(facts["first"]["alive"]) == {agent for agent, on in goes_on.items() if on}


@pytest.mark.parametrize("kind", of("ppo", "poca"))
def test_padding_counts_in_no_statistic_of_advantages(probed, kind):
    """Q6."""
    facts, _ = probed(kind)
    assert len(facts["advantages"]) > 3
    for mean, deviation, padding, padded in facts["advantages"]:
        assert abs(mean) < 1e-4 and abs(deviation - 1) < 1e-3
        assert padding == 0 and padded > 0


@pytest.mark.parametrize("kind", of("ppo", "poca"))
def test_values_of_the_time_are_kept_beside_returns(probed, kind):
    """Q1: so that the clipping of values bites."""
    facts, _ = probed(kind)
    assert facts["clipping"] is False


@pytest.mark.xdist_group("sac")
def test_an_episode_that_was_cut_is_bootstrapped_from_what_really_followed(probed):
    """Q18."""
    facts, _ = probed("sac")
    assert facts["cut_rows"] > 3
    for followed, own, done in facts["cuts"]:
        assert followed and not own and done == 0


@pytest.mark.xdist_group("sac")
def test_replay_is_cut_into_whole_sequences(probed):
    """Q19: 0.8 · 605 = 484 rows are no whole number of them."""
    facts, _ = probed("sac")
    lengths = facts["lengths"]
    assert all(length % S == 0 for length in lengths)
    assert min(b - a for a, b in pairwise(lengths)) < 0  # it was cut at least once


@pytest.mark.xdist_group("ppo")
def test_signals_see_actions_as_they_were_executed(probed):
    """Q24."""
    facts, _ = probed("ppo")
    assert max(drawn for drawn, _ in facts["actions"]) > 1
    assert max(apart for _, apart in facts["actions"]) < 1e-6


@pytest.mark.xdist_group("ppo")
def test_signals_and_cloning_learn_from_the_demonstrations_of_the_settings(probed):
    facts, _ = probed("ppo")
    shown = {"Losses/GAIL Loss", "Losses/Pretraining Loss", "Losses/Curiosity Forward Loss"}
    assert shown <= set(facts["first"]["names"])
    numbers = facts["first"]["saved"]["numbers"]
    taken = {
        name: x for name, x in numbers.items()
        if name.startswith(("optinfra/signals", "optinfra/cloning")) and name.endswith("/step")
    }  # fmt: skip
    assert len(taken) == 3 and min(x for x, _ in taken.values()) > 5
    assert all(np.isfinite(x).all() for x in numbers.values() if isinstance(x, list))


@pytest.mark.parametrize("kind", of(*KINDS))
def test_a_checkpoint_has_all_there_is(probed, kind):
    """Q15 and Q27: going on begins with what was there, number by number."""
    facts, folder = probed(kind)
    saved, resumed = facts["first"]["saved"], facts["resumed"]["saved"]
    assert resumed["numbers"] == saved["numbers"]
    assert saved["same"] and resumed["same"]
    assert facts["resumed_step"] == facts["first"]["step"]
    names = set(saved["numbers"])
    assert any(name.startswith("optinfra/opt/") for name in names)
    if kind == "sac":
        coef = facts["first"]["log_entropy_coef"]["continuous"]
        assert coef == facts["resumed"]["log_entropy_coef"]["continuous"]
        assert coef != pytest.approx([0.0], abs=1e-3)  # what a run begins with
        assert saved["numbers"]["trainer/update_steps"] > 10
        assert facts["resumed"]["rows"] == facts["first"]["rows"] > 0
    else:
        assert any(name.startswith("trainer/column/") for name in names)
    assert facts["second"]["step"] >= SECOND_STEPS[kind]
    assert list((folder / "Walker").glob("Walker-*.onnx"))


@pytest.mark.inductor
@pytest.mark.parametrize("compiled", [True, None])
def test_a_run_is_compiled_as_its_settings_ask(tmp_path, compiled):
    asked = {
        "trainer_type": "optinfra_ppo", "folder": str(tmp_path), "steps": 1000,
        "hyperparameters": {} if compiled is None else {"compiled": compiled}, "summary_freq": 500,
    }  # fmt: skip
    facts = told("tests.mlagents_run", json.dumps(asked))
    assert facts["compiled"] == bool(compiled)
    assert np.isfinite(facts["last"]["Losses/Policy Loss"])


# --- learning -----------------------------------------------------------------------------

MATRIX = [
    (kind, continuous, memory)
    for kind in KINDS for continuous in (True, False) for memory in (False, True)
]  # fmt: skip
STEPS = {("ppo", False): 14000, ("ppo", True): 14000, ("sac", False): 4000, ("sac", True): 6000,
         ("poca", False): 9000, ("poca", True): 20000}  # fmt: skip
# With the numbers of the others neither trainer's policy came to use its memory in 40,000 steps.
HYPER = {("poca", True, True): {"lambd": 0.8, "beta": 0.01, "learning_rate": 2e-3}}


@pytest.mark.thorough
@pytest.mark.parametrize(("kind", "continuous", "memory"), MATRIX)
def test_ml_agents_loop_learns_with_the_plugin(tmp_path, kind, continuous, memory):
    """And upstream's own trainer, with the same weights on the same world, learns no better.

    No better than with values as unclipped as its own are, of PPO.
    """
    asked = {
        "continuous": continuous, "memory": memory, "groups": kind == "poca",
        "steps": STEPS[kind, memory], "upstream_start": True,
        "hyperparameters": HYPER.get((kind, continuous, memory), {}),
    }  # fmt: skip
    curves = {}
    sides = {"plugin": (f"optinfra_{kind}", False), "upstream": (kind, False)}
    if kind == "ppo":
        sides["freely"] = (f"optinfra_{kind}", True)
    for side, (name, freely) in sides.items():
        given = asked | {"trainer_type": name, "freely": freely, "folder": str(tmp_path / side)}
        curves[side] = told("tests.mlagents_run", json.dumps(given))["curve"]
    ours = curves["plugin"]
    assert ours[0][1] < 0.5 and ours[-1][1] > SOLVED, curves
    compared = curves.get("freely", ours)
    assert mean_of(compared) > mean_of(curves["upstream"]) - 0.1, curves


def mean_of(curve):
    """The mean return over all of training: who learns sooner has more."""
    return sum(x for _, x in curve) / len(curve)
