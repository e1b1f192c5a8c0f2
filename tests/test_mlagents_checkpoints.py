"""ML-Agents' `.pt` files: written, read, damaged, and beside ML-Agents itself."""

import pytest
import torch

from optinfra import tree
from optinfra.mlagents import export_modules, load_checkpoint, save_checkpoint
from tests import golden_cases, mlagents_cases
from tests.test_mlagents_golden import UPDATES
from tests.test_mlagents_plugin import told


def flat(optimizer):
    return {f"{module}/{name}": x for module, part in export_modules(optimizer).items()
            for name, x in part.items() if isinstance(x, torch.Tensor)}  # fmt: skip


def fresh(name):
    golden, kind = golden_cases.load(name), UPDATES[name]
    settings = mlagents_cases.trainer_settings(golden.meta, kind)
    policy = mlagents_cases.policy_of(golden.meta, kind, settings)
    return mlagents_cases.OPTIMIZERS[kind](policy, settings)


@pytest.mark.parametrize("name", ["ppo_streams", "sac_recurrent", "poca_discrete"])
def test_what_was_saved_is_loaded_and_goes_on_bit_for_bit(tmp_path, name):
    golden, one = mlagents_cases.load(name, UPDATES[name])
    batch, path = mlagents_cases.buffer(golden), tmp_path / "checkpoint.pt"
    one.update(batch, 1)
    save_checkpoint(one, path)
    other = fresh(name)
    load_checkpoint(other, path)
    assert other.policy.get_current_step() == golden.meta["step"]
    for optimizer in (one, other):
        optimizer.update(batch, 1)
        optimizer.update_reward_signals(batch)
    assert tree.map(torch.equal, flat(one), flat(other)) == dict.fromkeys(flat(one), True)
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize("damage", ["cut", "flipped", "text", "another kind", "no dicts"])
def test_a_damaged_file_is_refused_and_changes_nothing(tmp_path, damage):
    one, path = fresh("ppo_hybrid"), tmp_path / "checkpoint.pt"
    save_checkpoint(one, path)
    data = path.read_bytes()
    if damage == "another kind":
        save_checkpoint(fresh("poca_discrete"), path)
    elif damage == "no dicts":
        torch.save([1, 2], path)
    else:
        middle = len(data) // 2
        path.write_bytes({
            "cut": data[:middle], "text": b"no checkpoint",
            "flipped": data[:40] + bytes(40) + data[80:],
        }[damage])  # fmt: skip
    before = flat(one)
    with pytest.raises(ValueError, match=r"checkpoint\.pt: "):
        load_checkpoint(one, path)
    assert all(torch.equal(x, before[name]) for name, x in flat(one).items())


def test_a_file_that_is_not_there_is_missed(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_checkpoint(fresh("ppo_hybrid"), tmp_path / "nowhere.pt")


def test_a_file_of_objects_is_not_run(tmp_path):
    path = tmp_path / "checkpoint.pt"
    torch.save({"Policy": {"x": pytest.approx(1)}}, path)
    with pytest.raises(ValueError, match="expected a checkpoint"):
        load_checkpoint(fresh("ppo_hybrid"), path)


@pytest.mark.mlagents
def test_either_goes_on_from_what_the_other_saved(tmp_path):
    """Weights, normalisers, Adam's moments and the step: the next update is the same."""
    cases = told("tests.mlagents_checkpoints", tmp_path)
    assert len(cases) > 5
    for name, apart in cases.items():
        assert apart["read"] == 0 and apart["read_back"] == 0, name
        assert apart["moves"] > 1e-4 and apart["step"] == 12345, name
        for direction in ("goes_on", "goes_on_there"):
            assert apart.get(direction, 0) < 1e-5, (name, apart)
