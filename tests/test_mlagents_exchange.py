"""Optimizers as ML-Agents' modules, to and fro."""

import numpy as np
import pytest
import torch

from optinfra import mlagents
from optinfra.mlagents import adams, export_modules, import_modules
from optinfra.mlagents.exchange import OWN
from optinfra.mlagents.options import settings_of
from tests import mlagents_cases
from tests.mlagents_optimizers import (
    KINDS,
    META,
    SIGNALS,
    assert_same,
    document,
    learnt,
    optimizer_of,
    refused,
    refuses,
    refuses_all,
    trained,
    trajectory,
    value,
)

SOFT = ("q_network", "value_network", "target_network")
NETWORKS = {
    "ppo": ("Policy", "Optimizer:critic"),
    "sac": ("Policy", *(f"Optimizer:{name}" for name in SOFT)),
    "poca": ("Policy", "Optimizer:critic"),
}


def without(given, module, name=None):
    if name is None:
        return {other: x for other, x in given.items() if other != module}
    return given | {module: {n: x for n, x in given[module].items() if n != name}}


def weights_of(given, module):
    """Parameters of a module, each under one of its names."""
    return [
        name for name, x in given[module].items()
        if isinstance(x, torch.Tensor) and x.numel() and ".processors." not in name
        and "." in name and "_current_max_agents" not in name
    ]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_modules_that_lack_or_have_something_else_are_refused(kind):
    given = export_modules(trained(kind))
    optimizer = optimizer_of(kind, signals=tuple(SIGNALS), seed=3)
    with refuses_all(optimizer):
        for module in NETWORKS[kind]:
            refused(optimizer, without(given, module), f"^`modules` must have {module}, got")
            more = given[module] | {"foreign.weight": torch.zeros(2)}
            refused(optimizer, given | {module: more}, f"^{module} has foreign.weight")
            names = weights_of(given, module)
            assert names
            for name in names:
                none = f"^{module} must have {name}, got none"
                refused(optimizer, without(given, module, name), none)
                refused(optimizer, given | {module: given[module] | {name: "text"}}, none)
                wrong = given[module] | {name: torch.zeros(7, *given[module][name].shape)}
                message = f"^{module}: .*(must have shape|does not fit)"
                refused(optimizer, given | {module: wrong}, message, name)
    import_modules(optimizer, given)


@pytest.mark.parametrize("kind", KINDS)
def test_a_normaliser_that_is_missing_or_of_another_size_is_refused(kind):
    given = export_modules(trained(kind))
    optimizer = optimizer_of(kind, signals=tuple(SIGNALS), seed=3)
    names = [name for name in given["Policy"] if "observation_encoder" in name and "norm" in name]
    assert len(names) == 6
    for name in names:
        with refuses(optimizer, f"Policy: .*{name.rpartition('.')[2]} must have shape .* got none"):
            import_modules(optimizer, without(given, "Policy", name))
        wrong = {name: torch.zeros(7)}
        with refuses(optimizer, r"Policy: .* must have shape .* got \[7\]"):
            import_modules(optimizer, given | {"Policy": given["Policy"] | wrong})


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_signal_lacks_is_refused(kind):
    given = export_modules(trained(kind))
    optimizer = optimizer_of(kind, signals=tuple(SIGNALS), seed=3)
    modules = [name for name in given if name.startswith("Module:")]
    assert len(modules) == 3  # curiosity, what RND learns and what it is measured by
    for module in modules:
        name = next(iter(weights_of(given, module)))
        with refuses(optimizer, f"{module} must have {name}, got none"):
            import_modules(optimizer, without(given, module, name))


@pytest.mark.parametrize("kind", KINDS)
def test_what_ml_agents_does_not_save_must_be_that_of_the_same_settings(kind):
    given = export_modules(trained(kind, calls=1))
    optimizer = optimizer_of(kind, signals=tuple(SIGNALS), seed=3)
    own = given["optinfra"]
    damaged = {f"lacks {name}": without(given, "optinfra", name)["optinfra"] for name in own}
    damaged |= {f"{name} is other": own | {name: torch.zeros(7, *x.shape)}
                for name, x in own.items()}  # fmt: skip
    damaged["has more"] = own | {"foreign": torch.zeros(1)}
    damaged["has fewer signals"] = export_modules(optimizer_of(kind))["optinfra"]
    other = optimizer_of("ppo" if kind == "sac" else "sac", signals=tuple(SIGNALS))
    damaged["is another's"] = export_modules(other)["optinfra"]
    with refuses_all(optimizer):
        for place, one in damaged.items():
            refused(optimizer, given | {"optinfra": one}, "^optinfra", place)


@pytest.mark.parametrize("step", [torch.zeros(2), "text", 3])
def test_a_step_that_is_no_number_is_refused(step):
    given = export_modules(trained("ppo"))
    optimizer = optimizer_of("ppo", signals=tuple(SIGNALS))
    with refuses(optimizer, "_GlobalSteps__global_step must be one number"):
        wrong = {"global_step": {"_GlobalSteps__global_step": step}}
        import_modules(optimizer, given | wrong)


@pytest.mark.parametrize("memory", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_what_one_exports_makes_another_of_it_to_the_last_bit(kind, memory):
    signals = tuple(SIGNALS)
    one, other = trained(kind, memory), trained(kind, memory, seed=5, calls=1)
    given = export_modules(one)
    import_modules(other, given)
    assert_same(export_modules(other), export_modules(one))
    assert other.policy.get_current_step() == 200
    batch = learnt(kind, memory, signals, 9)
    assert one.update(batch) == other.update(batch)
    assert one.update_reward_signals(batch) == other.update_reward_signals(batch)
    assert_same(export_modules(other), export_modules(one))
    told = [value(each, learnt_trajectory(kind)) for each in (one, other)]
    for name in signals:
        np.testing.assert_array_equal(told[0][0][name], told[1][0][name])


def learnt_trajectory(kind):
    return trajectory(3, 0, kind == "poca")


def test_what_was_exported_or_imported_is_nobodys_but_the_callers():
    one, other = trained("sac"), optimizer_of("sac", signals=tuple(SIGNALS), seed=3)
    given, before = export_modules(one), export_modules(one)
    import_modules(other, given)
    for module in given.values():
        for x in module.values():
            if isinstance(x, torch.Tensor):
                x.fill_(3)
    assert_same(export_modules(one), before)
    assert_same(export_modules(other), before)


# --- what Adam remembers --------------------------------------------------------------------


ADAMS = {
    "ppo": ("Optimizer:value_optimizer",),
    "sac": tuple(f"Optimizer:{name}_optimizer" for name in ("policy", "value", "entropy")),
    "poca": ("Optimizer:adam",),
}


@pytest.mark.parametrize("kind", KINDS)
def test_adam_tells_its_steps_and_rate_to_each_of_their_optimizers(kind):
    optimizer = trained(kind, calls=3)
    given = export_modules(optimizer)
    assert {name for name in given if adams.is_one(name)} == set(ADAMS[kind])
    for name in ADAMS[kind]:
        moved, (group,) = given[name]["state"], given[name]["param_groups"]
        assert moved and {float(each["step"]) for each in moved.values()} == {3.0}
        assert group["lr"] == pytest.approx(3e-4) and set(moved) <= set(group["params"])
    if kind == "sac":  # a number for each branch, and one for all dimensions
        shapes = [x["exp_avg"].shape for _, x in sorted(given[ADAMS[kind][-1]]["state"].items())]
        assert shapes == [(2,), (1,)]


@pytest.mark.parametrize("kind", KINDS)
def test_adam_goes_on_from_their_optimizers_alone(kind):
    optimizer, other = trained(kind, calls=3), trained(kind, seed=3, calls=1)
    import_modules(other, without(export_modules(optimizer), OWN))
    ours, theirs = (adams.find(one.state.opt) for one in (other, optimizer))
    assert ours.step == theirs.step == 3
    assert_same(ours.first, theirs.first)
    assert_same(ours.second, theirs.second)


@pytest.mark.parametrize("kind", KINDS)
def test_without_their_optimizers_adam_begins_anew(kind):
    optimizer, other = trained(kind), trained(kind, seed=3)
    given = export_modules(optimizer)
    import_modules(other, {name: given[name] for name in given
                           if name != OWN and not adams.is_one(name)})  # fmt: skip
    adam = adams.find(other.state.opt)
    assert adam.step == 0 and not any(
        x.any() for x in (*adam.first.values(), *adam.second.values())
    )
    if kind == "sac":
        begun = optimizer_of(kind, signals=tuple(SIGNALS), seed=3)
        assert_same(other.state.log_entropy_coef, begun.state.log_entropy_coef)


def test_a_shared_critic_is_written_twice_and_read_from_the_policy():
    optimizer, other = (shared_optimizer(seed) for seed in (0, 1))
    given = export_modules(optimizer)
    assert set(given["Optimizer:critic"]) <= set(given["Policy"])
    import_modules(other, {"Policy": given["Policy"]})
    assert_same(other.params.weights, optimizer.params.weights)


def shared_optimizer(seed):
    settings = settings_of(document("ppo", shared_critic=True))
    policy = mlagents.TorchPolicy(
        seed, mlagents_cases.behavior_spec(META), settings.network_settings,
        mlagents.SharedActorCritic, {"stream_names": ["extrinsic"]},
    )  # fmt: skip
    return mlagents.TorchPPOOptimizer(policy, settings)
