"""Reading demonstrations: ML-Agents' files as they are, and what is made of their pairs."""

import os
import re
import subprocess
import sys
import types

import chex
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from optinfra import demos
from optinfra.demos.images import SIGNATURE
from optinfra.types import ActionSpec, Spec
from tests.demo_cases import (
    GOLDEN,
    SPEC,
    brain,
    content,
    flat,
    interleaved,
    pair,
    pairs,
    picture,
    png,
    recordings,
    rich,
    text_bomb,
    with_chunk,
    written,
)

EXACT = {"rtol": 0, "atol": 0}


def read(path, *parts, **metadata):
    """The demonstrations of a file of these messages."""
    return demos.load(written(path / "a.demo", *parts, **metadata)).demonstrations


# --- what ML-Agents wrote -----------------------------------------------------------------


@pytest.mark.parametrize(
    "name, spec",
    [
        ("golden_one", Spec(((5,),), ActionSpec(2, (3,)))),
        ("golden_discrete", Spec(((5,), (3,)), ActionSpec(0, (3, 2)))),
    ],
)
def test_recorded_files_give_exactly_the_recorded_arrays(name, spec):
    loaded = demos.load(GOLDEN / f"{name}.demo")
    assert loaded.spec == spec
    columns = loaded.demonstrations
    with np.load(GOLDEN / f"{name}.demo.npz", allow_pickle=False) as recorded:
        episodes = 1 + max(int(key.partition("/")[0]) for key in recorded.files)
        assert columns.episode.unique().tolist() == list(range(episodes))
        for key in recorded.files:
            number, _, column = key.partition("/")
            rows = columns.episode == int(number)
            named = {
                "reward": columns.rewards,
                "continuous": columns.action.continuous,
                "discrete": columns.action.discrete,
                **{f"obs:{i}": x for i, x in enumerate(columns.obs)},
            }
            np.testing.assert_array_equal(named[column][rows].numpy(), recorded[key])
    ends = np.flatnonzero(np.diff(columns.episode.numpy(), append=-1))
    assert columns.terminated.nonzero()[:, 0].tolist() == ends.tolist()
    assert not columns.truncated.any() and columns.action_mask.all()


def test_columns_have_one_dtype_each_whatever_the_file_holds(tmp_path):
    columns = demos.load(rich(tmp_path)).demonstrations
    assert {x.dtype for x in (*columns.obs, columns.action.continuous, columns.rewards)} == {
        torch.float32
    }
    assert columns.action.discrete.dtype == columns.episode.dtype == torch.int64
    flags = (columns.action_mask, columns.terminated, columns.truncated)
    assert {x.dtype for x in flags} == {torch.bool}


@pytest.mark.parametrize("version", [0, 1])
def test_both_versions_are_read(tmp_path, version):
    assert len(read(tmp_path, brain(1), pair(continuous=[0.5]), api_version=version).rewards) == 1


def test_a_file_is_read_until_its_number_of_pairs_or_to_its_end(tmp_path):
    data = content(brain(1), *[pair(continuous=[x]) for x in (0.1, 0.2, 0.3)])
    metadata = data[1 : 1 + data[0]]
    path = tmp_path / "a.demo"
    path.write_bytes(data + metadata)  # Unity leaves a copy of its metadata at the end
    assert len(demos.load(path).demonstrations.rewards) == 3
    two = read(tmp_path, brain(1), *[pair(continuous=[x]) for x in (0.1, 0.2, 0.3)], number_steps=2)
    torch.testing.assert_close(two.action.continuous[:, 0], torch.tensor([0.1, 0.2]), **EXACT)
    # a recording that was never closed holds no count
    open_end = read(tmp_path, brain(1), *[pair(continuous=[0.1])] * 3, number_steps=0)
    assert len(open_end.rewards) == 3


def test_deprecated_fields_are_read_where_the_newer_ones_are_empty(tmp_path):
    old = {"vector_action_size_deprecated": [2, 7], "vector_action_space_type_deprecated": 1}
    path = written(tmp_path / "a.demo", brain(**old), pair(old=[0.5, -1.0]))
    assert demos.load(path).spec.action == ActionSpec(2)
    assert demos.load(path).demonstrations.action.continuous.tolist() == [[0.5, -1.0]]
    branches = {"vector_action_size_deprecated": [3, 2]}  # of a continuous one the first counts
    path = written(tmp_path / "b.demo", brain(**branches), pair(old=[2.0, 1.0]))
    assert demos.load(path).spec.action == ActionSpec(0, (3, 2))
    assert demos.load(path).demonstrations.action.discrete.tolist() == [[2, 1]]
    # the newer ones go first
    both = read(tmp_path, brain(1, (2,), **old), pair(continuous=[0.1], discrete=[1], old=[9.0]))
    assert both.action.discrete.tolist() == [[1]]


def test_a_mask_of_what_is_forbidden_becomes_one_of_what_is_allowed(tmp_path):
    columns = read(
        tmp_path,
        brain(0, (2, 1)),
        pair(discrete=[1, 0], mask=[True, False, False]),
        pair(discrete=[0, 0]),
    )
    assert columns.action_mask.tolist() == [[False, True, True], [True, True, True]]
    ignored = read(tmp_path, brain(1), pair(continuous=[0.0], mask=[True, False]))
    assert ignored.action_mask.shape == (1, 0)


def test_the_flags_tell_a_termination_from_a_truncation(tmp_path):
    kinds = [
        {},
        {"done": True},
        {"done": True, "max_step_reached": True},
        {"max_step_reached": True},
    ]
    columns = read(tmp_path, brain(1), *[pair(continuous=[0.0], **kind) for kind in kinds])
    assert columns.terminated.tolist() == [False, True, False, False]
    assert columns.truncated.tolist() == [False, False, True, False]


def test_pairs_of_one_agent_are_of_one_episode_until_it_is_done(tmp_path):
    told = [(7, False), (9, False), (7, False), (7, True), (9, True), (7, False), (8, False)]
    messages = [pair(continuous=[0.0], id=agent, done=done) for agent, done in told]
    assert read(tmp_path, brain(1), *messages).episode.tolist() == [0, 1, 0, 0, 1, 2, 3]


def test_an_end_needs_no_action(tmp_path):
    columns = read(tmp_path, brain(1, (2,)), pair(continuous=[1.0], discrete=[1]), pair(done=True))
    assert columns.action.continuous.tolist() == [[1.0], [0.0]]
    assert columns.action.discrete.tolist() == [[1], [0]]


# --- images -------------------------------------------------------------------------------


COLOURS = np.random.default_rng(0).integers(0, 256, (6, 4, 5), np.uint8)
SHARES = COLOURS.astype(np.float32) / np.float32(255)


@pytest.mark.parametrize(
    "image, expected",
    [
        (picture((3, 4, 5), png(COLOURS[:3])), SHARES[:3]),
        (picture((3, 4, 5), png(COLOURS[:3], alpha=True)), SHARES[:3]),
        (picture((1, 4, 5), png(COLOURS[:3])), SHARES[:3].mean(0, keepdims=True)),
        (picture((1, 4, 5), png(COLOURS[:3]), png(COLOURS[3:])), SHARES[:3].mean(0, keepdims=True)),
        (picture((1, 4, 5), png(COLOURS[:1])), SHARES[:1]),
        (picture((3, 4, 5), with_chunk(png(COLOURS[:3]), b"zTXt", text_bomb())), SHARES[:3]),
        (
            picture((5, 4, 5), with_chunk(png(COLOURS[:3]), b"tEXt", SIGNATURE), png(COLOURS[3:])),
            SHARES[:5],
        ),
        (picture((2, 4, 5), png(COLOURS[:3])), SHARES[:2]),
        (picture((5, 4, 5), png(COLOURS[:3]), png(COLOURS[3:])), SHARES[:5]),
        (picture((6, 4, 5), b"junk", png(COLOURS[:3]), b"junk", png(COLOURS[3:])), SHARES),
        (
            picture((2, 4, 5), png(COLOURS[:3]), png(COLOURS[3:]), mapping=[1, 0, 1, -1, 0, -1]),
            np.stack([SHARES[[1, 4]].mean(0), SHARES[[0, 2]].mean(0)]),
        ),
        ({"shape": [1, 1, 2], "float_data": {"data": [0.5, 7.0]}}, np.array([[[0.5, 7.0]]])),
    ],
)
def test_images_become_channels_first_between_0_and_1(tmp_path, image, expected):
    (obs,) = read(tmp_path, brain(1), pair(image, continuous=[0.0])).obs
    np.testing.assert_array_equal(obs[0].numpy(), expected)


def in_bytes(shape):
    return Spec((shape,), ActionSpec(1), bytes=(0,))


def test_images_become_the_bytes_they_were_where_the_agent_sees_bytes(tmp_path):
    image = picture((6, 4, 5), png(COLOURS[:3]), png(COLOURS[3:]))
    path = written(tmp_path / "a.demo", brain(1), pair(image, continuous=[0.0]))
    loaded = demos.load(path, in_bytes((6, 4, 5)))
    assert loaded.spec == in_bytes((6, 4, 5))
    (obs,) = loaded.demonstrations.obs
    assert obs.dtype == torch.uint8 and (obs[0].numpy() == COLOURS).all()


def test_floats_of_an_image_are_rounded_to_bytes_and_refused_beyond_white(tmp_path):
    shares = [0.0, 1.0, 0.25, 127.4 / 255, 127.6 / 255]
    path = tmp_path / "a.demo"

    def load(numbers):
        image = {"shape": [1, 1, len(numbers)], "float_data": {"data": numbers}}
        return demos.load(
            written(path, brain(1), pair(image, continuous=[0.0])), in_bytes((1, 1, len(numbers)))
        )

    assert load(shares).demonstrations.obs[0].tolist() == [[[[0, 255, 64, 127, 128]]]]
    for wrong in (1.5, -0.25):
        told = f"{path}: observation 0 must lie in [0, 1] as an image, got {wrong}."
        with pytest.raises(demos.DemoError, match=re.escape(told)):
            load([0.5, wrong])


def test_goals_are_those_that_the_first_pair_says_or_the_agents(tmp_path):
    message = pair(continuous=[0.0])
    message.agent_info.observations.add(
        shape=[2], observation_type=1, float_data={"data": [1.0, 2.0]}
    )
    path = written(tmp_path / "a.demo", brain(1), message)
    spec = Spec(((2,), (2,)), ActionSpec(1))
    assert demos.load(path).spec == spec._replace(goals=(1,))
    assert demos.load(path, spec._replace(goals=(0,))).spec.goals == (0,)


# --- files and folders --------------------------------------------------------------------


def test_a_folder_is_read_in_the_order_of_names_with_episodes_of_their_own(tmp_path):
    names = ["b", "a", "c", "10", "9"]
    for k, name in enumerate(names):
        messages = [pair(continuous=[float(k)]), pair(done=True), pair(continuous=[k + 0.5])]
        written(tmp_path / f"{name}.demo", brain(1), *messages)
    (tmp_path / "notes.txt").write_text("not a recording")
    (tmp_path / "folder.demo").mkdir()
    columns = demos.load(tmp_path).demonstrations
    wanted = [x for k in map(names.index, sorted(names)) for x in (k, 0.0, k + 0.5)]
    assert columns.action.continuous[:, 0].tolist() == wanted
    assert columns.episode.tolist() == [e for k in range(5) for e in (2 * k, 2 * k, 2 * k + 1)]


def test_every_file_is_compared_with_the_first_or_with_what_is_expected(tmp_path):
    first, second = tmp_path / "a.demo", tmp_path / "b.demo"
    written(first, brain(1), pair(continuous=[0.0]))
    written(second, brain(2), pair(continuous=[0.0, 0.0]))
    told = "must have the actions 1 continuous and branches [], got 2 continuous and branches []."
    with pytest.raises(demos.DemoError, match=f"^{re.escape(f'{second}: {told}')}$"):
        demos.load(tmp_path)
    written(second, brain(1), pair((1.0, 2.0, 3.0), continuous=[0.0]))
    told = "must have the observations [[2]], got [[3]]."
    with pytest.raises(demos.DemoError, match=f"^{re.escape(f'{second}: {told}')}$"):
        demos.load(tmp_path)
    spec = Spec(((3,),), ActionSpec(1))
    with pytest.raises(demos.DemoError, match=re.escape(f"{first}: must have the observations")):
        demos.load(tmp_path, spec)
    assert demos.load(second, spec).spec == spec
    with pytest.raises(demos.DemoError, match=re.escape("branches [3, 2], got 1 continuous")):
        demos.load(second, Spec(((3,),), ActionSpec(0, (3, 2))))


def test_what_is_not_there_is_told(tmp_path):
    nothing = tmp_path / "nothing"
    with pytest.raises(demos.DemoError, match=f"^{re.escape(str(nothing))}: there is no such file"):
        demos.load(nothing)
    with pytest.raises(demos.DemoError, match=f"^{re.escape(str(tmp_path))}: there is no .demo"):
        demos.load(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no such files")
def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.demo")
    with pytest.raises(demos.DemoError, match="there is no such file or folder"):
        demos.load(tmp_path / "a.demo")


# --- what is made of pairs ----------------------------------------------------------------


def loop_transitions(columns):
    """The transitions by plain Python: for each pair, look for its episode's next one."""
    rows = []
    for i in range(len(columns.episode)):
        if columns.terminated[i] or columns.truncated[i]:
            continue
        later = [j for j in range(i + 1, len(columns.episode))
                 if columns.episode[j] == columns.episode[i]]  # fmt: skip
        rows.append((i, later[0] if later else None))
    return rows


@given(recordings(spec=SPEC), st.integers(0, 9))
def test_transitions_are_the_pairs_whose_action_was_taken(recording, seed):
    columns = interleaved(recording[1], seed)
    expected = loop_transitions(columns)
    if not expected:
        with pytest.raises(ValueError, match="must hold an action that was taken, got none"):
            demos.taken(columns)
        return
    steps = demos.taken(columns)
    now, then = (torch.tensor(x) for x in zip(*((i, i if j is None else j) for i, j in expected)))
    known = torch.tensor([j is not None for _, j in expected])
    chex.assert_trees_all_equal(steps.obs, tuple(x[now] for x in columns.obs))
    chex.assert_trees_all_equal(steps.next_obs, tuple(x[then] for x in columns.obs))
    chex.assert_trees_all_equal(
        (*steps.action, steps.action_mask),
        (*(x[now] for x in columns.action), columns.action_mask[now]),
    )
    assert steps.rewards.tolist() == torch.where(known, columns.rewards[then], 0.0).tolist()
    assert steps.terminated.tolist() == (columns.terminated[then] & known).tolist()
    assert steps.truncated.tolist() == (columns.truncated[then] | ~known).tolist()
    assert steps.mask.all() and steps.mask.dtype == torch.bool


def test_recorded_files_give_one_transition_less_than_pairs_per_episode():
    columns = demos.load(GOLDEN / "golden_one.demo").demonstrations
    steps = demos.taken(columns)
    assert len(steps.rewards) == len(columns.rewards) - 5 and steps.terminated.sum() == 5
    with np.load(GOLDEN / "golden_one.demo.npz") as recorded:
        rewards = np.concatenate([recorded[f"{k}/reward"][1:] for k in range(5)])
        following = np.concatenate([recorded[f"{k}/obs:0"][1:] for k in range(5)])
    np.testing.assert_array_equal(steps.rewards.numpy(), rewards)
    np.testing.assert_array_equal(steps.next_obs[0].numpy(), following)


@given(recordings(spec=SPEC), st.integers(1, 4), st.integers(0, 3), st.integers(0, 9))
def test_sequences_cover_every_action_once_and_no_two_episodes(recording, length, burn_in, seed):
    columns = interleaved(recording[1], seed)
    if burn_in >= length or not loop_transitions(columns):
        return
    # Make every observation tell its episode and its place in it.
    places, seen = [], {}
    for k in columns.episode.tolist():
        seen[k] = seen.get(k, 0) + 1
        places.append((k + 1.0, float(seen[k]), 0.0))
    columns = columns._replace(obs=(torch.tensor(places), columns.obs[1]))
    cut = demos.sequences(columns, length, burn_in)
    steps = demos.taken(columns)
    assert cut.mask.shape[1] == length
    counted = [tuple(x) for x in cut.obs[0][cut.mask].tolist()]
    assert sorted(counted) == sorted(tuple(x) for x in steps.obs[0].tolist())
    for row, mask in zip(cut.obs[0].tolist(), cut.mask.tolist()):
        held = [(k, place) for k, place, _ in row if k]
        assert len({k for k, _ in held}) == 1
        assert [place for _, place in held] == list(np.arange(len(held)) + held[0][1])
        assert row[len(held) :] == [[0.0, 0.0, 0.0]] * (length - len(held))
        warmup = burn_in if held[0][1] > 1 else 0
        assert mask == [warmup <= t < len(held) for t in range(length)]
    rows = {tuple(x): i for i, x in enumerate(steps.obs[0].tolist())}
    index = torch.tensor([rows[tuple(x)] for x in cut.obs[0][cut.mask].tolist()])
    for mine, theirs in zip(
        (*cut.action, cut.rewards, cut.terminated, cut.truncated, *cut.next_obs, cut.action_mask),
        (*steps.action, steps.rewards, steps.terminated, steps.truncated, *steps.next_obs,
         steps.action_mask),
    ):  # fmt: skip
        torch.testing.assert_close(mine[cut.mask], theirs[index], **EXACT)


def test_sequences_refuse_lengths_out_of_range():
    columns = pairs([3], ["terminated"])
    with pytest.raises(ValueError, match=r"`burn_in` must lie in \[0, 2\), got 2"):
        demos.sequences(columns, 2, 2)
    with pytest.raises(ValueError, match=r"`length` must lie in \[1, inf\), got 0"):
        demos.sequences(columns, 0)


@given(recordings(spec=SPEC), st.integers(1, 6), st.integers(0, 9))
def test_the_first_episodes_are_those_that_begin_first(recording, episodes, seed):
    columns = interleaved(recording[1], seed)
    first = demos.first_episodes(columns, episodes)
    kept = list(dict.fromkeys(columns.episode.tolist()))[:episodes]
    rows = torch.tensor([k in kept for k in columns.episode.tolist()])
    chex.assert_trees_all_equal(flat(first), [x[rows] for x in flat(columns)])


def test_no_episodes_are_refused():
    with pytest.raises(ValueError, match=r"`episodes` must lie in \[1, inf\), got 0"):
        demos.first_episodes(pairs([2], ["open"]), 0)


# --- packages -----------------------------------------------------------------------------


@pytest.fixture
def unmade():
    """The classes of messages are made anew, and once more afterwards."""
    demos.format.messages.cache_clear()
    yield
    demos.format.messages.cache_clear()


def test_importing_the_room_loads_nothing_of_an_extra():
    code = (
        "import sys, optinfra.demos; "
        "print([m for m in ('google.protobuf', 'PIL', 'minari', 'gymnasium') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "module, path, told",
    [
        ("google.protobuf", "a.demo", "needs google.protobuf. Run: pip install 'optinfra[demos]'"),
        ("PIL", "a.demo", "needs PIL. Run: pip install 'optinfra[demos]'"),
        ("minari", "minari:a/b-v0", "needs minari. Run: pip install 'optinfra[minari]'"),
    ],
)
def test_a_missing_package_is_told_with_what_to_install(tmp_path, monkeypatch, module, path, told):
    image = picture((3, 4, 5), png(COLOURS[:3]))
    written(tmp_path / "a.demo", brain(1), pair(image, continuous=[0.0]))
    monkeypatch.chdir(tmp_path)
    demos.format.messages.cache_clear()
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ModuleNotFoundError, match=re.escape(f"`optinfra.demos` {told}")):
        demos.load(path)


def test_older_runtimes_of_protobuf_make_the_classes_otherwise(monkeypatch, unmade):
    """Before 4.22 protobuf has no `GetMessageClass`, and newer ones have nothing else."""
    from google import protobuf

    made = protobuf.message_factory.GetMessageClass

    class MessageFactory:
        def __init__(self, pool):
            self.pool = pool

        def GetPrototype(self, descriptor):
            assert descriptor.file.pool is self.pool
            return made(descriptor)

    older = types.SimpleNamespace(MessageFactory=MessageFactory)
    monkeypatch.setattr(protobuf, "message_factory", older)
    assert len(demos.load(GOLDEN / "golden_one.demo").demonstrations.rewards) == 72
