"""Whatever lets one agent's data into another's results is found, and shrunk by hypothesis."""

import itertools
from random import Random
from typing import NamedTuple

import pytest
import torch
from hypothesis import find, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.func import vmap

from optinfra.returns import gae
from optinfra.testing import TRAJECTORY_AXES as AXES
from optinfra.testing import assert_memory_isolated, strategies
from optinfra.testing.isolation import CHANGES
from optinfra.types import ActionSpec, Spec, Trajectory

SPEC = Spec(obs=((1,),), action=ActionSpec(1))
TRAJECTORIES = strategies.trajectories(SPEC, memory_size=1)
AGENTS = torch.tensor([[0.5, -1.5, 2.0], [1.0, 0.0, -3.0]])  # [T, B]
FLAGS = torch.tensor([[True, False, True], [False, True, False]])  # both kinds for each agent


def smallest(strategy, fails):
    return find(strategy, fails, settings=settings(max_examples=300), random=Random(0))


# --- a recurrent network, and what may be wrong with it -------------------------------------


class Remembered(NamedTuple):
    outputs: Tensor  # [T, B]
    memory: Tensor  # [B, 1], for the next trajectory


def remember(
    trajectory, resets=lambda trajectory, t: trajectory.terminated[t] | trajectory.truncated[t]
):
    """Sum what was seen in an episode, with the memory as it was before."""
    memory, outputs = trajectory.memory, []
    for t, x in enumerate(trajectory.obs[0]):
        memory = 0.5 * memory + x
        outputs.append(memory[:, 0])
        memory = torch.where(resets(trajectory, t)[:, None], 0.0, memory)
    return Remembered(torch.stack(outputs), memory)


def remember_beyond_truncation(trajectory):
    return remember(trajectory, lambda trajectory, t: trajectory.terminated[t])


def remember_until_all_end(trajectory):
    ends = trajectory.terminated | trajectory.truncated
    return remember(trajectory, lambda _, t: ends[t].all().expand(len(ends[t])))


def remember_for_all(trajectory):
    """Start every agent from the memory of the last one, as ML-Agents' critic does."""
    memory = trajectory.memory[-1:].expand_as(trajectory.memory)
    return remember(trajectory._replace(memory=memory))


def past_does_not_matter(network, trajectory):
    """Beginning anew after an end gives what going on gives."""
    outputs = network(trajectory).outputs
    ends = trajectory.terminated | trajectory.truncated
    for t, agent in (ends[:-1]).nonzero().tolist():
        later = Trajectory(
            obs=(trajectory.obs[0][t + 1 :, agent : agent + 1],),
            memory=torch.zeros(1, 1),
            terminated=trajectory.terminated[t + 1 :, agent : agent + 1],
            truncated=trajectory.truncated[t + 1 :, agent : agent + 1],
            mask=(),
        )
        if not torch.equal(network(later).outputs[:, 0], outputs[t + 1 :, agent]):
            return False
    return True


def is_isolated(network, trajectory):
    try:
        assert_memory_isolated(network, trajectory, in_dims=(AXES,), out_dims=Remembered(1, 0))
    except AssertionError:
        return False
    return True


@given(TRAJECTORIES)
def test_a_network_that_remembers_rightly_keeps_both_laws(trajectory):
    assert past_does_not_matter(remember, trajectory)
    assert_memory_isolated(remember, trajectory, in_dims=(AXES,), out_dims=Remembered(1, 0))


def test_a_memory_that_outlives_a_truncation_is_found_and_shrunk():
    found = smallest(
        TRAJECTORIES, lambda t: not past_does_not_matter(remember_beyond_truncation, t)
    )
    assert found.terminated.tolist() == [[False], [False]]
    assert found.truncated.tolist() == [[True], [False]]
    numbers = [found.obs[0].flatten().tolist(), found.memory.flatten().tolist()]
    assert numbers in ([[1.0, 0.0], [0.0]], [[0.0, 0.0], [1.0]])


def test_a_memory_that_all_agents_share_is_found_and_shrunk():
    found = smallest(TRAJECTORIES, lambda t: not is_isolated(remember_for_all, t))
    assert found.obs[0].tolist() == [[[0.0], [0.0]]]
    assert found.memory.tolist() == [[0.0], [0.0]]
    assert not (found.terminated | found.truncated).any()
    with pytest.raises(
        AssertionError, match=r"^Agent 0 must not .* `outputs\[0, 0\]` is .* was 0,"
    ):
        assert_memory_isolated(remember_for_all, found, in_dims=(AXES,), out_dims=Remembered(1, 0))


def test_a_reset_that_waits_for_others_is_found_and_shrunk():
    found = smallest(TRAJECTORIES, lambda t: not is_isolated(remember_until_all_end, t))
    assert found.terminated.shape == (1, 2)
    assert (found.terminated | found.truncated).any()
    numbers = torch.cat([found.obs[0].flatten(), found.memory.flatten()])
    assert sorted(numbers.tolist()) == [0.0, 0.0, 0.0, 1.0]


@given(strategies.trajectories(SPEC, memory_size=1, padded=True, junk=True))
def test_padding_of_any_content_isolates_as_well(trajectory):
    assert is_isolated(remember, trajectory)
    if len(trajectory.mask[0]) > 1:
        assert not is_isolated(remember_for_all, trajectory)


# --- every kind of change finds what no other finds -----------------------------------------


def only_neighbours(x, ended, calls):
    return x + (x[:, :, None] == x[:, None]).sum(2)


PLANTED = {
    "though the others were given what they had": lambda x, ended, calls: x + next(calls),
    "after the others were given other numbers": lambda x, ended, calls: (
        x + ((x.abs() > 4) & (x.abs() < 1e9)).any()
    ),
    "after the others were given one another's data": only_neighbours,
    "after the others were given NaN": lambda x, ended, calls: x + x.isnan().any(),
    "after the others were given infinity": lambda x, ended, calls: x + x.isinf().any(),
    "after all flags of the others were set": lambda x, ended, calls: x + ended.all(0).any(),
    "after all flags of the others were cleared": lambda x, ended, calls: x + (~ended).all(0).any(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_kind_of_change_finds_what_no_other_kind_finds(change, monkeypatch):
    def isolated():
        calls = itertools.count()
        assert_memory_isolated(
            lambda x, ended: PLANTED[change](x, ended, calls), AGENTS, FLAGS, in_dims=1, out_dims=1
        )

    with pytest.raises(AssertionError, match=f"`result.*, {change}.$"):
        isolated()
    if "what they had" not in change:
        monkeypatch.delitem(CHANGES, change)
        isolated()


def test_flags_are_exchanged_for_the_opposite_too():
    at_the_end = torch.tensor([[False] * 3, [True] * 3])  # set, cleared or exchanged as good
    with pytest.raises(AssertionError, match="given other numbers"):
        assert_memory_isolated(
            lambda x, ended: x + (ended[0] & ~ended[1]).any(),
            AGENTS, at_the_end, in_dims=1, out_dims=1,
        )  # fmt: skip


def overwrites_its_result(x, buffer=torch.zeros(2, 3)):  # noqa: B008
    return buffer.copy_(x.cumsum(1))


@pytest.mark.parametrize(
    "mixes",
    [
        lambda x: x - x.mean(1, keepdim=True),
        lambda x: x + 0 * x.sum(1, keepdim=True),
        lambda x: x.maximum(x.amax(1, keepdim=True) - 100),
        lambda x: x.cumsum(1),
        lambda x: x.flip(1).cumsum(1).flip(1),
        lambda x: x + 1e-6 * x.roll(1, 1),
        lambda x: x.sort(1).values,
        overwrites_its_result,
    ],
)
def test_what_mixes_agents_is_told(mixes):
    with pytest.raises(
        AssertionError, match=r"^Agent \d must not notice others: `result\[\d, \d\]"
    ):
        assert_memory_isolated(mixes, AGENTS, in_dims=1, out_dims=1)


# --- axes -----------------------------------------------------------------------------------


def test_the_axes_of_a_trajectory_are_those_of_its_agents():
    assert Trajectory(obs=1, memory=0, terminated=1, truncated=1, mask=1) == AXES


def test_axes_are_named_as_for_vmap():
    def step(params, state, x):
        after = {"sum": state["sum"] + params * x.T, "seen": state["seen"]}
        return after, (x.flatten().sort().values, x)

    arguments = torch.tensor(2.0), {"sum": torch.zeros(3, 2), "seen": torch.ones(5)}, AGENTS
    axes = (None, {"sum": 0, "seen": None}, -1)
    out_axes = ({"sum": -2, "seen": None}, (None, 1))
    assert_memory_isolated(step, *arguments, in_dims=axes, out_dims=out_axes)
    with pytest.raises(AssertionError, match=r"`1/0\[0\]` is .* where it was 0.5,"):
        assert_memory_isolated(
            lambda *parts: (step(*parts)[0], (step(*parts)[1][0][-3:], parts[2])),
            *arguments, in_dims=axes, out_dims=({"sum": 0, "seen": None}, (0, 1)),
        )  # fmt: skip


def test_the_message_names_agent_leaf_index_and_both_numbers():
    def shares(memory, x):
        third = torch.arange(3) == 2
        return {"out": x, "memory": torch.where(third, memory + x[:, 1].sum(), memory)}

    message = (
        r"^Agent 2 must not notice others: `memory\[2\]` is \S+ where it was 0.5, "
        r"after the others were given other numbers\.$"
    )
    with pytest.raises(AssertionError, match=message):
        assert_memory_isolated(
            shares, torch.full((3,), 2.0), AGENTS, in_dims=(0, 1), out_dims={"out": 1, "memory": 0}
        )


def test_choices_and_keys_are_exchanged_but_never_made_up():
    choices = torch.tensor([0, 1, 2])

    def looked_up(choice):
        assert ((choice >= 0) & (choice < 3)).all()
        return torch.eye(3)[choice]

    assert_memory_isolated(looked_up, choices, in_dims=0, out_dims=0)
    with pytest.raises(AssertionError, match="given other numbers"):
        assert_memory_isolated(lambda x: x + x[0], choices, in_dims=0, out_dims=0)


def test_the_arguments_stay_what_they_were():
    before = AGENTS.clone()
    assert_memory_isolated(lambda x: x.mul_(2), AGENTS, in_dims=1, out_dims=1)
    assert torch.equal(AGENTS, before)


@pytest.mark.parametrize(
    ("arguments", "in_dims", "out_dims", "message"),
    [
        ((AGENTS,), None, 1, "`in_dims` must name an axis of agents, got none"),
        ((AGENTS,), 1, None, "`out_dims` must name an axis of agents, got none"),
        ((AGENTS,), 2, 1, r"`in_dims` must name an axis of `0`, got 2 for torch.float32 \[2, 3\]"),
        ((AGENTS,), 1, -3, "`out_dims` must name an axis of `result`, got -3 for torch"),
        ((AGENTS, 0.5), (1, 0), 1, "`in_dims` must name an axis of `1`, got 0 for a float"),
        ((AGENTS, AGENTS), (0, 1), 1, "`in_dims` must name axes of one .*, got {'0': 2, '1': 3}"),
        ((AGENTS,), 1, 0, "`out_dims` must name axes of 3 agents, got 2"),
        ((AGENTS,), (1, 1), 1, "`in_dims` must have the structure it describes. .*arity"),
        ((AGENTS,), 1, (1, 1), "`out_dims` must have the structure it describes"),
    ],
)
def test_axes_that_do_not_fit_are_refused(arguments, in_dims, out_dims, message):
    with pytest.raises(ValueError, match=message):
        assert_memory_isolated(lambda x, *_: x, *arguments, in_dims=in_dims, out_dims=out_dims)


@given(strategies.trajectories(SPEC, memory_size=2, max_agents=4), st.booleans())
def test_returns_are_isolated_batched_and_under_vmap(trajectory, lifted):
    def advantages(rewards, values, terminated, truncated):
        return gae(rewards, values, values, terminated, truncated, discount=0.9, gae_lambda=0.5)

    rewards = trajectory.obs[0][..., 0]
    function = vmap(advantages, in_dims=1, out_dims=1) if lifted else advantages
    assert_memory_isolated(
        function, rewards, rewards + 1, trajectory.terminated, trajectory.truncated,
        in_dims=1, out_dims=1,
    )  # fmt: skip


def test_bytes_of_others_are_exchanged_though_all_are_alike():
    """What is one another's would be the same."""
    pictures = torch.full((3, 2, 2), 100, dtype=torch.uint8)
    assert_memory_isolated(lambda x: x + 1, pictures, in_dims=0, out_dims=0)
    with pytest.raises(AssertionError, match="after the others were given other numbers"):
        assert_memory_isolated(lambda x: x + x.float().mean(0), pictures, in_dims=0, out_dims=0)
