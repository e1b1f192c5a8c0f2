"""Minari's data sets as demonstrations. They are made here: nothing is downloaded."""

import dataclasses
import re
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector.utils import concatenate, create_empty_array
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from optinfra import demos
from optinfra.demos.minari import _shares
from optinfra.envs.spaces import decoder
from optinfra.types import Action, ActionSpec, Spec

VECTOR = spaces.Box(-9.0, 9.0, (3,), np.float64)
BOUNDS = spaces.Box(np.array([-2.0, 0.0], np.float32), np.array([2.0, 4.0], np.float32))


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    """Minari's data sets lie in a folder of this test."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))


def episodes(obs, act, lengths, ends=("terminated", "truncated", "both", "open")):
    """Random episodes with ends of all kinds."""
    from minari.data_collector import EpisodeBuffer

    obs.seed(1), act.seed(2)
    made = []
    for k, (steps, end) in enumerate(zip(lengths, ends)):
        last = np.arange(steps) == steps - 1
        made.append(
            EpisodeBuffer(
                id=k,
                observations=batched(obs, [obs.sample() for _ in range(steps + 1)]),
                actions=np.stack([act.sample() for _ in range(steps)]),
                rewards=np.arange(1.0, steps + 1) + 10 * k,
                terminations=last & (end in ("terminated", "both")),
                truncations=last & (end in ("truncated", "both")),
            )
        )
    return made


def batched(space, samples):
    return concatenate(space, samples, create_empty_array(space, len(samples)))


def made(name, obs, act, made_episodes, **options):
    """A data set of these episodes, as Minari has it on this machine."""
    import minari

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Minari asks for an author, a policy and so on
        return minari.create_dataset_from_buffers(
            name, made_episodes, observation_space=obs, action_space=act, **options
        )


def test_a_data_set_gives_its_episodes_with_their_final_observations():
    recorded = episodes(VECTOR, BOUNDS, (3, 1, 2, 2))
    made("tiny/box-v0", VECTOR, BOUNDS, recorded)
    spec, columns = demos.load("minari:tiny/box-v0")
    assert spec == Spec(((3,),), ActionSpec(2))
    assert columns.episode.tolist() == [0] * 4 + [1] * 2 + [2] * 3 + [3] * 3
    for k, one in enumerate(recorded):
        rows = columns.episode == k
        expected = np.asarray(one.observations, np.float32)
        np.testing.assert_array_equal(columns.obs[0][rows].numpy(), expected)
        assert columns.rewards[rows].tolist() == [0.0, *one.rewards]
        share = columns.action.continuous[rows].numpy()
        assert share[-1].tolist() == [0.0, 0.0]
        # Back in the environment's bounds they are the recorded actions.
        centre, half = np.array([0.0, 2.0]), np.array([2.0, 2.0])
        np.testing.assert_allclose(centre + half * share[:-1], one.actions, atol=1e-6)
    ends = np.flatnonzero(np.diff(columns.episode.numpy(), append=-1))
    assert np.flatnonzero(columns.terminated).tolist() == ends[[0, 2]].tolist()
    # What neither terminated nor was truncated stopped all the same.
    assert np.flatnonzero(columns.truncated).tolist() == ends[[1, 3]].tolist()
    assert len(demos.taken(columns).rewards) == 8
    assert columns.action_mask.shape == (12, 0) and columns.action.discrete.shape == (12, 0)


@pytest.mark.parametrize(
    "act, branches",
    [(spaces.Discrete(3, start=-1), (3,)), (spaces.MultiDiscrete([2, 3], start=[4, -2]), (2, 3))],
)
def test_choices_count_from_0_and_observations_of_a_discrete_are_one_hot(act, branches):
    obs = spaces.Discrete(4)
    recorded = episodes(obs, act, (5, 6))
    dataset = made("tiny/choices-v0", obs, act, recorded)
    spec, columns = demos.from_minari(dataset)
    assert spec == Spec(((4,),), ActionSpec(0, branches))
    for k, one in enumerate(recorded):
        rows = columns.episode == k
        np.testing.assert_array_equal(columns.obs[0][rows].argmax(1).numpy(), one.observations)
        chosen = columns.action.discrete[rows][:-1].numpy() + np.ravel(act.start)
        np.testing.assert_array_equal(chosen, np.reshape(one.actions, (-1, len(branches))))
    assert columns.action_mask.all() and columns.action_mask.shape[1] == sum(branches)
    assert columns.action.continuous.shape[1] == 0


PICTURE = spaces.Box(0, 255, (4, 5, 3), np.uint8)
SIGHTS = spaces.Dict(
    {"desired_goal": VECTOR, "pair": spaces.Tuple((spaces.Discrete(3), PICTURE)),
     "crowd": spaces.Box(-1, 1, (3, 2), np.float32)}
)  # fmt: skip


def test_dicts_images_and_goals_are_read_as_the_environment_is():
    recorded = episodes(SIGHTS, BOUNDS, (3, 2))
    made("tiny/sights-v0", SIGHTS, BOUNDS, recorded)
    spec, columns = demos.load("minari:tiny/sights-v0")
    shapes, action = ((6,), (3,), (3,), (3, 4, 5)), ActionSpec(2)
    assert spec == Spec(shapes, action, goals=(1,), bytes=(3,))
    pictures = [one.observations["pair"][1] for one in recorded]
    assert columns.obs[3].dtype == torch.uint8
    np.testing.assert_array_equal(
        columns.obs[3].numpy(), np.moveaxis(np.concatenate(pictures), 3, 1)
    )
    goals = np.concatenate([one.observations["desired_goal"] for one in recorded])
    np.testing.assert_array_equal(columns.obs[1].numpy(), goals.astype(np.float32))
    other = spec._replace(obs=((3, 2), *shapes[1:]), goals=(0, 2))
    told, again = demos.load("minari:tiny/sights-v0", other)
    assert told == other
    np.testing.assert_array_equal(again.obs[0].flatten(1).numpy(), columns.obs[0].numpy())
    assert demos.taken(columns).next_obs[3].dtype == torch.uint8


@pytest.mark.parametrize("most", [2, 5])
def test_a_sequence_is_a_set_as_large_as_the_agents(most):
    space = spaces.Dict(a=spaces.Sequence(spaces.Discrete(3)), b=VECTOR)
    one = episodes(VECTOR, BOUNDS, (1,))[0]
    seen = {"a": ((0, 2), ()), "b": one.observations}
    dataset = Dataset(space, BOUNDS, "tiny/s-v0", [dataclasses.replace(one, observations=seen)])
    spec = Spec(((most, 4), (3,)), ActionSpec(2), goals=(1,))
    told, columns = demos.from_minari(dataset, spec)
    assert told == spec and columns.obs[0].shape == (2, most, 4)
    assert columns.obs[0][0, :2].tolist() == [[1, 0, 0, 1], [0, 0, 1, 1]]
    assert columns.obs[0].count_nonzero() == 4
    assert demos.from_minari(dataset).spec.obs == ((16, 4), (3,))
    spec = spec._replace(obs=((1, 4), (3,)))
    told = "episode 0: `observations.a` of step 0 must have at most 1 entities, got 2."
    assert told in refused(dataset, spec)


def test_bytes_that_the_agent_takes_for_floats_are_refused():
    recorded = episodes(SIGHTS, BOUNDS, (2,))
    dataset = Dataset(SIGHTS, BOUNDS, "tiny/sights-v0", recorded)
    spec = demos.from_minari(dataset).spec._replace(bytes=())
    told = "minari:tiny/sights-v0: must have as bytes the observations [], got [3]."
    assert refused(dataset, spec) == told


@given(
    arrays.arrays(np.float32, (4, 2, 2), elements=st.floats(-1, 1, width=32)),
    st.floats(-100, 100, width=32),
    st.floats(0.5, 100, width=32),
)
def test_shares_are_what_an_environment_scales_to_its_bounds(share, low, width):
    low = np.array([[low, -1.0], [0.0, 5.0]], np.float32)
    high = low + np.array([[width, 2.0], [width, 3.0]], np.float32)
    space = spaces.Box(low, high)
    share = share.reshape(4, 4)
    actions = decoder(space, 4).decode(Action(share, np.zeros((4, 0))))
    np.testing.assert_allclose(_shares(space, actions).numpy(), share, atol=1e-4)


def test_shares_stay_within_1_and_are_0_where_bounds_leave_no_choice():
    space = spaces.Box(np.array([-1.0, 3.0], np.float32), np.array([1.0, 3.0], np.float32))
    beyond = np.array([[1.5, 3.0], [-7.0, 2.0]], np.float32)
    assert _shares(space, beyond).tolist() == [[1.0, 0.0], [-1.0, 0.0]]


class Dataset(NamedTuple):
    """What is read of a `minari.MinariDataset`, with contents that Minari itself would refuse."""

    observation_space: spaces.Space
    action_space: spaces.Space
    id: str
    episodes: Sequence

    def iterate_episodes(self):
        return iter(self.episodes)


def refused(dataset, spec=None):
    with pytest.raises(demos.DemoError) as caught:
        demos.from_minari(dataset, spec)
    return str(caught.value)


def test_what_is_not_on_this_machine_is_not_downloaded():
    told = refused("tiny/nothing-v0")
    assert told.startswith("minari:tiny/nothing-v0: cannot be read: ") and "not found" in told
    assert refused("no id").startswith("minari:no id: cannot be read: ")


def test_another_agent_is_refused():
    made("tiny/box-v0", VECTOR, BOUNDS, episodes(VECTOR, BOUNDS, (2,)))
    spec = Spec(((4,),), ActionSpec(2))
    told = "minari:tiny/box-v0: must have the observations [[4]], got [[3]]."
    assert refused("tiny/box-v0", spec) == told
    with pytest.raises(demos.DemoError, match=re.escape(told)):
        demos.load("minari:tiny/box-v0", spec)


@pytest.mark.parametrize(
    "obs, act, told",
    [
        (spaces.Text(3), BOUNDS, "`observation_space` must be Box, Discrete or MultiDiscrete"),
        (VECTOR, spaces.MultiBinary(2), "`action_space` must be a float Box, Discrete or"),
        (VECTOR, spaces.Box(-np.inf, np.inf, (1,)), "`action_space` must have finite bounds"),
    ],
)
def test_spaces_that_are_not_supported_are_named(obs, act, told):
    recorded = episodes(VECTOR, BOUNDS, (2,))

    dataset = Dataset(obs, act, "tiny/other-v0", recorded)
    assert refused(dataset).startswith(f"minari:tiny/other-v0: {told}")


@pytest.mark.parametrize(
    "field, value, told",
    [
        ("rewards", np.array([0.0, np.nan]), "`rewards` must be finite"),
        ("actions", np.full((2, 2), np.inf, np.float32), "`actions` must be finite"),
        ("observations", np.full((3, 3), np.nan), "`observations` of step 0 must be finite"),
        ("actions", np.zeros((1, 2), np.float32), "`rewards` must be as many as actions"),
        ("observations", np.zeros((2, 3)), "got 2 and (2, 2)."),
        ("rewards", np.zeros(0), "got 0 and (2, 3)."),
    ],
)
def test_a_fault_is_told_with_its_episode(field, value, told):
    recorded = episodes(VECTOR, BOUNDS, (2, 2))
    recorded[1] = dataclasses.replace(recorded[1], **{field: value})

    dataset = Dataset(VECTOR, BOUNDS, "tiny/box-v0", recorded)
    got = refused(dataset)
    assert got.startswith("minari:tiny/box-v0: episode 1: ") and told in got


def test_choices_beyond_the_space_are_refused():
    act = spaces.Discrete(2)
    recorded = episodes(VECTOR, act, (2,))
    recorded[0].actions[1] = 2

    dataset = Dataset(VECTOR, act, "tiny/choices-v0", recorded)
    assert "`actions` must lie in Discrete(2), got others" in refused(dataset)


def test_an_empty_data_set_is_refused():
    dataset = Dataset(VECTOR, BOUNDS, "tiny/empty-v0", ())
    assert refused(dataset).endswith("there is no episode in this data set.")
