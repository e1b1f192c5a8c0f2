"""Compiled optimizers of ML-Agents' names: few shapes, and no end of a run for want of one."""

import copy
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from optinfra import mlagents, tree
from optinfra.mlagents import compiling
from optinfra.mlagents.options import settings_of
from optinfra.types import Action, Mates
from tests import mlagents_cases
from tests.mlagents_optimizers import META, batch_of, columns, document

NEXT = [np.zeros(3, np.float32), np.ones(2, np.float32)]


@pytest.mark.inductor
def test_beyond_the_shapes_that_torch_compiles_for_a_function_runs_eagerly():
    eagerly = []

    def double(x):
        if not torch.compiler.is_compiling():
            eagerly.append(len(x))
        return 2 * x

    fast = compiling.compiled(double)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for size in (*range(1, 11), 3, 10):
            assert torch.equal(fast(torch.ones(size)), torch.full((size,), 2.0))
    assert eagerly == [9, 10, 10]  # torch compiles for 8


@pytest.mark.inductor
def test_what_else_goes_wrong_in_a_compiled_function_is_told():
    def refusing(x):
        raise RuntimeError("no such rows")

    with pytest.raises(RuntimeError, match="no such rows"):
        compiling.compiled(refusing)(torch.ones(2))


@given(rows=st.integers(1, 5000), horizon=st.integers(1, 5000))
def test_lengths_are_few_and_less_than_twice_as_long(rows, horizon):
    laid = compiling.longer(rows, horizon)
    assert rows <= laid and (laid < 2 * rows or laid <= compiling.ROWS)
    if laid != horizon:
        assert laid % compiling.ROWS == 0 and (laid // compiling.ROWS).bit_count() == 1
    assert not rows <= horizon < laid  # a whole horizon is laid out as it is


@given(there=st.integers(0, 9), more=st.integers(0, 3), rows=st.integers(1, 3))
def test_nobody_is_in_places_that_are_new(there, more, rows):
    draws = np.random.default_rng(there)
    mates = Mates(
        obs=(torch.from_numpy(draws.normal(size=(rows, there, 3))),),
        action=Action(torch.ones(rows, there, 2), torch.ones(rows, there, 1).long()),
        present=torch.from_numpy(draws.random((rows, there)) < 0.5),
    )
    wide = compiling.spread(mates, there + more)
    for x, y in zip(tree.leaves(wide), tree.leaves(mates)):
        assert x.dtype == y.dtype and torch.equal(x[:, :there], y)
        assert x.shape == (rows, there + more, *y.shape[2:])
    assert not wide.present[:, there:].any()


def group_optimizer(compiled):
    settings = settings_of(document("poca") | {"time_horizon": 100})
    policy = mlagents.TorchPolicy(
        0, mlagents_cases.behavior_spec(META), settings.network_settings, mlagents.SimpleActor
    )
    return mlagents.TorchPOCAOptimizer(policy, settings, compiled=compiled)


@pytest.fixture
def staged(monkeypatch):
    """An optimizer whose functions tell what shapes they were given instead of being compiled."""
    seen = []

    def watched(function):
        def call(*arguments):
            seen.append(tuple(x.shape for x in tree.leaves(arguments[1])))
            return function(*arguments)

        return call

    monkeypatch.setattr(compiling, "compiled", watched)
    return group_optimizer(compiled=True), seen


def with_mates(rows, mates, seed):
    given = columns("poca", rows=rows, seed=seed)
    draws = np.random.default_rng(seed)
    for name in [name for name in given if name.startswith("group_")]:
        shape = (rows, mates, *given[name].shape[2:])
        given[name] = draws.integers(0, 2, shape).astype(np.float32)
    return batch_of(given)


def test_groups_of_many_lengths_and_sizes_are_valued_in_few_shapes(staged):
    optimizer, seen = staged
    plain = group_optimizer(compiled=False)
    trajectories = [(1, 0), (63, 1), (64, 3), (65, 4), (100, 3), (101, 2), (128, 0), (20, 0)]
    for seed, (rows, mates) in enumerate(trajectories):
        batch = with_mates(rows, mates, seed)
        arguments = batch, NEXT, [NEXT] * mates, seed % 2 == 0
        told, expected = (
            one.get_trajectory_and_baseline_value_estimates(*arguments)
            for one in (optimizer, plain)
        )
        for ours, theirs in zip(told[:2], expected[:2]):
            assert ours["extrinsic"].shape == (rows,)
            np.testing.assert_allclose(ours["extrinsic"], theirs["extrinsic"], atol=1e-6)
        assert told[2]["extrinsic"] == pytest.approx(expected[2]["extrinsic"], abs=1e-6)
    laid = [(shapes[0][0], shapes[-1][-1]) for shapes in seen]
    assert laid == [(64, 0), (64, 1), (64, 3), (100, 4), (100, 4), (128, 4), (128, 4), (64, 4)]
    assert len(set(seen)) == len(set(laid))  # nothing else differs


def test_groups_of_many_sizes_are_learnt_from_in_few_shapes(staged):
    optimizer, seen = staged
    plain = group_optimizer(compiled=False)
    for seed, mates in enumerate([3, 4, 3]):
        batch = with_mates(8, mates, seed)
        told, expected = (copy.copy(one).update(batch) for one in (optimizer, plain))
        for name, x in expected.items():
            assert told[name] == pytest.approx(x, abs=1e-5), name
    assert len(set(seen)) == 2 and seen[1] == seen[2]


@pytest.mark.parametrize(
    ("hyper", "max_steps", "expected"),
    [
        ({"num_epoch": 3, "batch_size": 1024}, 500_000, False),
        ({"num_epoch": 3, "batch_size": 64}, 500_000, True),
        ({"num_epoch": 1, "batch_size": 10}, 50_000, True),
        ({"num_epoch": 1, "batch_size": 10}, 49_990, False),
        ({"steps_per_update": 1.0, "buffer_init_steps": 0}, 5_000, True),
        ({"steps_per_update": 1.0, "buffer_init_steps": 1_000}, 6_000, True),
        ({"steps_per_update": 1.0, "buffer_init_steps": 1_001}, 6_000, False),
        ({"steps_per_update": 20.0, "buffer_init_steps": 0}, 90_000, False),
        ({"steps_per_update": 1.0, "buffer_init_steps": 0, "compiled": None}, 5_000, True),
        ({"steps_per_update": 1.0, "buffer_init_steps": 0, "compiled": False}, 5_000, False),
        ({"num_epoch": 1, "batch_size": 10, "compiled": True}, 10, True),
    ],
)
def test_runs_of_many_updates_are_compiled_and_what_is_asked_goes_first(hyper, max_steps, expected):
    settings = SimpleNamespace(hyperparameters=SimpleNamespace(**hyper), max_steps=max_steps)
    assert compiling.are_compiled(settings) is expected
