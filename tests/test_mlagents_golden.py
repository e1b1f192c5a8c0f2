"""Every recorded call of ML-Agents, made through the classes that have its names."""

import numpy as np
import pytest
import torch

from optinfra import mlagents, random
from optinfra.mlagents import AgentAction, AgentBuffer, export_modules, import_modules
from optinfra.mlagents.buffer import is_group
from optinfra.mlagents.keys import key_of, text_of
from optinfra.mlagents.optimizer import TorchOptimizer
from tests import golden_cases, mlagents_cases, signal_cases
from tests.golden_cases import FOLDER

UPDATES = {
    "ppo_continuous": "ppo", "ppo_discrete": "ppo", "ppo_hybrid": "ppo", "ppo_recurrent": "ppo",
    "ppo_shared_normalized": "ppo", "ppo_streams": "ppo",
    "sac_continuous": "sac", "sac_discrete": "sac", "sac_recurrent": "sac", "sac_streams": "sac",
    "poca_continuous": "poca", "poca_discrete": "poca", "poca_recurrent": "poca",
}  # fmt: skip
NETWORKS = [
    "net_attention", "net_attention_only", "net_fully_connected", "net_goal_hyper",
    "net_goal_none", "net_match3", "net_nature_cnn", "net_recurrent", "net_resnet",
    "net_simple_cnn",
]  # fmt: skip
SIGNALS = ["curiosity_continuous", "curiosity_hybrid", "rnd", "gail", "gail_actions", "vail"]
NAMES = {"curiosity": "Curiosity", "rnd": "RND", "gail": "GAIL"}
CLOSE = {"rtol": 1e-5, "atol": 1e-6}


def assert_told(stats, golden, call):
    """Whatever ML-Agents reported, where it was a number."""
    recorded = golden.tensors(f"out/{call}/")
    numbers = {name: float(x) for name, x in recorded.items() if not x.float().isnan().any()}
    there = {name: x for name, x in numbers.items() if name in stats}
    missing = set(numbers) - set(there)
    assert missing <= {"Policy/Continuous Entropy Coeff"}  # of an entropy that there is none of
    for name, x in there.items():
        torch.testing.assert_close(stats[name], x, **CLOSE)


def assert_after(optimizer, golden):
    exported = export_modules(optimizer)
    for module, recorded in mlagents_cases.modules(golden, "after").items():
        assert set(exported[module]) == set(recorded)
        weights, theirs = (
            [name for name in names if ".normalizer." not in name]
            for names in (exported[module], recorded)
        )
        assert weights == theirs  # in the order of Adam's moments
        for name, x in recorded.items():
            own = exported[module][name]
            assert own.shape == x.shape, name
            close = {"rtol": 1e-6 if ".normalizer." in name else 0, "atol": 1e-5}  # sums grow
            torch.testing.assert_close(own.float(), x.float(), **close)


@pytest.mark.parametrize("name", UPDATES)
def test_update_equals_the_recorded_calls(name, monkeypatch):
    golden, optimizer = mlagents_cases.load(name, UPDATES[name])
    if UPDATES[name] == "sac" and golden.meta["continuous"]:
        draws = iter(x for _, x in sorted(golden.tensors("draw/").items()))
        monkeypatch.setattr(random, "normal", lambda key, shape: next(draws).reshape(shape))
    batch = mlagents_cases.buffer(golden)
    for call in range(golden.meta["calls"]):
        assert_told(optimizer.update(batch, 1), golden, call)
    assert_after(optimizer, golden)


@pytest.mark.parametrize("name", UPDATES)
def test_export_gives_what_import_took(name):
    golden, optimizer = mlagents_cases.load(name, UPDATES[name])
    exported = export_modules(optimizer)
    for module, recorded in mlagents_cases.modules(golden, "before").items():
        for parameter, x in recorded.items():
            assert torch.equal(exported[module][parameter].float(), x.float()), parameter


@pytest.mark.parametrize("kind", ["ppo", "sac", "poca"])
def test_the_parent_is_usable_itself(kind):
    golden = golden_cases.load(f"{kind}_continuous")
    settings = mlagents_cases.trainer_settings(golden.meta, kind)
    parent = TorchOptimizer(mlagents_cases.policy_of(golden.meta, kind, settings), settings)
    child = mlagents_cases.optimizer(golden, kind)
    import_modules(parent, mlagents_cases.modules(golden, "before"))
    parent.policy.set_step(golden.meta["step"])
    batch = mlagents_cases.buffer(golden)
    following = [np.zeros(shape, np.float32) for shape in child.policy.actor.spec.obs]
    told, expected = (
        one.get_trajectory_value_estimates(batch, following, False)[0] for one in (parent, child)
    )
    assert all(np.array_equal(told[name], x) for name, x in expected.items())
    for name, x in child.critic.state_dict().items():
        assert torch.equal(parent.critic.state_dict()[name], x)
    assert parent.update(batch, 1) == child.update(batch, 1)


def test_a_groups_values_depend_on_the_mates():
    golden, optimizer = mlagents_cases.load("poca_continuous", "poca")
    batch = mlagents_cases.buffer(golden)
    following = [np.zeros(shape, np.float32) for shape in optimizer.policy.actor.spec.obs]
    before = optimizer.get_trajectory_value_estimates(batch, following, False)[0]["extrinsic"]
    batch[key_of("group_obs:0")] = np.asarray(batch[key_of("group_obs:0")]) + 1
    after = optimizer.get_trajectory_value_estimates(batch, following, False)[0]["extrinsic"]
    alone = golden.arrays["batch/group_count"] == 0
    assert np.array_equal(before[alone], after[alone])
    assert (before != after)[~alone].all() and not alone.all()


@pytest.mark.parametrize("name", ["values_feedforward", "values_recurrent"])
def test_value_estimates_equal_the_recorded_ones_of_one_agent_in_order(name):
    golden, optimizer = mlagents_cases.load(name, "ppo")
    for k, (_, done) in enumerate(golden.meta["trajectories"]):
        batch = mlagents_cases.buffer(golden, f"batch/{k}/")
        following = [golden.arrays[f"batch/{k}/next_obs_last:{i}"] for i in range(2)]
        values, bootstrap, memories = optimizer.get_trajectory_value_estimates(
            batch, following, done, "a"
        )
        recorded = golden.tensors(f"out/{k}/")
        for stream in golden.meta["streams"]:
            value = torch.from_numpy(values[stream])
            torch.testing.assert_close(value, recorded[f"value/{stream}"], **CLOSE)
            assert isinstance(bootstrap[stream], float)
            expected = float(recorded[f"next_value/{stream}"])
            assert bootstrap[stream] == pytest.approx(expected, rel=1e-5, abs=1e-6)
        if golden.meta["recurrent"]:
            field = torch.from_numpy(np.asarray(memories))
            torch.testing.assert_close(field, recorded["memory"], **CLOSE)
            assert ("a" in optimizer.critic_memory_dict) == (not done)
        else:
            assert memories is None and not optimizer.critic_memory_dict


def test_values_and_baselines_of_a_group_equal_the_recorded_ones():
    golden, optimizer = mlagents_cases.load("values_poca_recurrent", "poca")
    for k, (_, done) in enumerate(golden.meta["trajectories"]):
        batch = mlagents_cases.buffer(golden, f"batch/{k}/")
        of = f"batch/{k}/"
        following = [golden.arrays[f"{of}next_obs_last:{i}"] for i in range(2)]
        mates = [golden.arrays[f"{of}next_group_obs_last:{i}"] for i in range(2)]
        mates = [list(each) for each in zip(*mates)]
        told = optimizer.get_trajectory_and_baseline_value_estimates(
            batch, following, mates, done, "a"
        )
        recorded = golden.tensors(f"out/{k}/")
        names = ("value", "baseline", "next_value")
        for name, own in zip(names, told):
            expected = recorded[f"{name}/extrinsic"].reshape(-1).float()
            own = torch.as_tensor(own["extrinsic"]).reshape(-1).float()
            torch.testing.assert_close(own, expected, **CLOSE)
        for name, field in zip(("memory", "baseline_memory"), told[3:]):
            torch.testing.assert_close(torch.from_numpy(np.asarray(field)), recorded[name], **CLOSE)
        assert bool(optimizer.value_memory_dict) == bool(optimizer.baseline_memory_dict) != done


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_say_what_was_recorded(name):
    golden, optimizer = mlagents_cases.load(name, "ppo")
    columns, meta = golden.tensors("batch/"), golden.meta
    obs = [columns[f"obs:{i}"] for i in range(len(meta["obs"]))]
    length = meta["sequence_length"] if meta["recurrent"] else 1
    memories = [columns[key][::length][None] if meta["recurrent"] else None
                for key in ("memory", "critic_memory")]  # fmt: skip
    action = AgentAction(
        columns["continuous_action"] if meta["continuous"] else None,
        list(columns["discrete_action"].long().unbind(-1)) if meta["discrete"] else None,
    )
    masks = columns["action_mask"] if meta["discrete"] else None
    stats = optimizer.policy.actor.get_stats(obs, action, masks, memories[0], length)
    torch.testing.assert_close(stats["log_probs"].flatten(), golden.tensors("out/")["log_probs"],
                               **CLOSE)  # fmt: skip
    torch.testing.assert_close(stats["entropy"], golden.tensors("out/")["entropy"], **CLOSE)
    values, after = optimizer.critic.critic_pass(obs, memories[1], length)
    for stream, x in golden.tensors("out/value/").items():
        torch.testing.assert_close(values[stream], x, **CLOSE)
    if meta["recurrent"]:
        torch.testing.assert_close(after, golden.tensors("out/")["critic_memory"], **CLOSE)


@pytest.mark.parametrize("name", SIGNALS)
def test_reward_providers_equal_the_recorded_calls(name, monkeypatch):
    golden = golden_cases.load(name)
    stream = signal_cases.stream_of(golden)
    meta = golden.meta | {"streams": dict(golden.meta["streams"])}
    if stream == "gail":
        given = {"demo_path": str(FOLDER / "golden_one.demo")}
        meta["streams"]["gail"] = golden.meta["streams"]["gail"] | given
    settings = mlagents_cases.trainer_settings(meta, "ppo")
    optimizer = mlagents.TorchPPOOptimizer(
        mlagents_cases.policy_of(meta, "ppo", settings), settings
    )
    import_modules(optimizer, mlagents_cases.modules(golden, "before"))
    provider = optimizer.reward_signals[stream]
    assert provider.name == NAMES[stream]
    assert provider.ignore_done == (stream != "gail")
    if stream == "gail":
        provider.demonstration_buffer = mlagents_cases.buffer(golden, "demo/")
    left = signal_cases.replay(monkeypatch, golden)
    batch, recorded = mlagents_cases.buffer(golden), golden.tensors("out/")
    before = torch.from_numpy(provider.evaluate(batch))
    torch.testing.assert_close(before, recorded["evaluate_before"], **CLOSE)
    for call in range(golden.meta["calls"]):
        assert_told(provider.update(batch), golden, call)
    assert not left
    after = torch.from_numpy(provider.evaluate(batch))
    torch.testing.assert_close(after, recorded["evaluate_after"], **CLOSE)
    exported = export_modules(optimizer)
    for module, parameters in mlagents_cases.modules(golden, "after").items():
        assert set(exported[module]) == set(parameters)
        for parameter, x in parameters.items():
            torch.testing.assert_close(exported[module][parameter], x, rtol=0, atol=1e-5)


def test_behavioural_cloning_equals_the_recorded_calls(monkeypatch):
    golden, optimizer = mlagents_cases.load("bc_discrete", "ppo")
    settings = mlagents.BehavioralCloningSettings(
        demo_path=str(FOLDER / "golden_discrete.demo"), **golden.meta["bc"]
    )
    hyper = golden.meta["hyperparameters"]
    module = mlagents.BCModule(
        optimizer.policy, settings, hyper["learning_rate"], hyper["batch_size"], 3
    )
    module.demonstration_buffer = mlagents_cases.buffer(golden, "demo/")
    orders = iter(x for name, x in sorted(golden.tensors("draw/").items()) if "permutation" in name)
    monkeypatch.setattr(random, "permutation", lambda key, n: next(orders))
    for call in range(golden.meta["calls"]):
        assert_told(module.update(), golden, call)
    assert module.has_updated and (module.num_epoch, module.batch_size) == (2, 16)
    assert_after(optimizer, golden)


def test_the_normaliser_takes_in_what_the_recorded_one_did():
    golden, optimizer = mlagents_cases.load("normalizer", "ppo")
    for k in range(3):
        batch = mlagents_cases.buffer(golden, f"batch/{k}/")
        optimizer.policy.actor.update_normalization(batch)
        optimizer.critic.update_normalization(batch)  # shares it: counts nothing twice
    assert_after(optimizer, golden)


def test_a_buffer_of_lists_is_read_like_one_of_arrays():
    golden, optimizer = mlagents_cases.load("poca_continuous", "poca")
    arrays, lists = mlagents_cases.buffer(golden), AgentBuffer()
    counts = golden.arrays["batch/group_count"]
    for key in arrays:
        for row, count in zip(np.asarray(arrays[key]), counts):
            lists[key].append(list(row[:count]) if is_group(text_of(key)) else row)
    assert optimizer.update(lists, 1) == mlagents_cases.optimizer(golden, "poca").update(arrays, 1)
