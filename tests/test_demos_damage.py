"""Damaged demonstrations: an error that names file and byte, never more memory or time."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from optinfra import demos
from optinfra.demos.format import BRAIN_OFFSET
from tests.demo_cases import (
    GOLDEN,
    brain,
    content,
    offsets,
    pair,
    picture,
    png,
    rich,
    written,
)

ROOT = Path(__file__).parents[1]
STRIDE = 41  # bytes between the places at which a file is cut off
HUGE = b"\xff" * 9 + b"\x01"  # 2⁶⁴ − 1 as a varint


def refused(path, data):
    """The text of the error, without the file that it begins with."""
    path.write_bytes(data)
    with pytest.raises(demos.DemoError) as caught:
        demos.load(path)
    told = str(caught.value)
    assert told.startswith(f"{path}: ") and "\n" not in told
    return told.removeprefix(f"{path}: ")


@pytest.mark.parametrize("name", ["golden_one", "golden_discrete", "rich"])
def test_a_file_that_is_cut_off_is_refused_wherever_it_is(tmp_path, name):
    path = rich(tmp_path) if name == "rich" else GOLDEN / f"{name}.demo"
    data = path.read_bytes()
    places = offsets(data)
    for cut in {*range(0, len(data), STRIDE), *places[:-1], places[1] + 1, len(data) - 1}:
        told = refused(tmp_path / "cut.demo", data[:cut])
        at = int(re.match(r"at byte (\d+): ", told)[1])
        assert at == max((x for x in places if x <= cut), default=at)
        if cut in places and cut > BRAIN_OFFSET:
            assert re.search(r"pairs were expected, got \d+\.$", told)


def test_lengths_beyond_the_file_are_refused_where_they_stand(tmp_path):
    data = (GOLDEN / "golden_one.demo").read_bytes()
    for at in (0, *offsets(data)[:5]):
        forged = data[:at] + HUGE + data[at + 1 :]
        told = refused(tmp_path / "a.demo", forged)
        left = len(forged) - at - len(HUGE)
        length = f"a message of {2**64 - 1} bytes was expected, got {left}."
        assert told == f"at byte {at}: {length}"
        told = refused(tmp_path / "a.demo", data[:at] + b"\xff" * 10 + data[at + 1 :])
        assert told == f"at byte {at}: a length was expected, got no varint."


FINE = pair(continuous=[0.0])
IMAGE = np.zeros((3, 4, 5), np.uint8)


METADATA, BRAIN, LAST, END = "metadata", "brain", "last pair", "end"


@pytest.mark.parametrize(
    "place, parts, metadata, told",
    [
        (METADATA, (brain(1), FINE), {"api_version": 2}, "version (0, 1) was expected, got 2"),
        (METADATA, (brain(1), FINE), {"number_steps": -1}, "a number of pairs was expected"),
        (END, (brain(1), FINE), {"number_steps": 3}, "3 pairs were expected, got 1"),
        (END, (brain(1),), {}, "1 pairs were expected, got 0"),
        (BRAIN, (brain(), FINE), {}, "1 to 65536 actions and choices were expected"),
        (BRAIN, (brain(-1), FINE), {}, "got -1 continuous and 0 branches"),
        (BRAIN, (brain(0, (3, 0)), FINE), {}, "got 0 continuous and 2 branches of 3 choices"),
        (BRAIN, (brain(0, (2**31 - 1,)), FINE), {}, "1 branches of 2147483647 choices"),
        (BRAIN, (brain(2**31 - 1), FINE), {}, "got 2147483647 continuous"),
        (BRAIN, (brain(65_536), *[pair(done=True)] * 1000), {},
         "actions and masks that fit the file were expected, got 262144 bytes a pair"),
        (BRAIN, (brain(0, (65_536,)), *[pair(done=True)] * 3000), {},
         "actions and masks that fit the file were expected, got 65544 bytes a pair"),
        (LAST, (brain(1), pair({"shape": []}, continuous=[0.0])), {},
         "an observation of 1 to 3 axes was expected, got 0"),
        (LAST, (brain(1), pair({"shape": [1] * 4}, continuous=[0.0])), {}, "1 to 3 axes"),
        (LAST, (brain(1), pair({"shape": [0]}, continuous=[0.0])), {}, "1 to 4194304 numbers"),
        (LAST, (brain(1), pair({"shape": [-1, -2]}, continuous=[0.0])), {}, "got [-1, -2]"),
        (LAST, (brain(1), pair({"shape": [2**11, 2**11, 2]}, continuous=[0.0])), {}, "4194304"),
        (LAST, (brain(1), pair({"shape": [2]}, continuous=[0.0])), {},
         "an observation of 2 numbers was expected, got 0"),
        (LAST, (brain(1), FINE, pair((1.0,), continuous=[0.0])), {},
         "an observation of the shape [2] was expected, got [1]"),
        (LAST, (brain(1), FINE, pair({"shape": [2] * 9}, continuous=[0.0])), {}, "got 9 axes"),
        (LAST, (brain(1), pair((float("nan"),), continuous=[0.0])), {},
         "a finite observation 0 was expected, got one that is not"),
        (LAST, (brain(1), FINE, pair(continuous=[float("inf")])), {}, "a finite continuous action"),
        (LAST, (brain(1), pair(continuous=[0.0], reward=float("nan"))), {}, "a finite reward"),
        (LAST, (brain(2), FINE), {}, "a continuous action of 2 numbers was expected, got 1"),
        (LAST, (brain(1), pair()), {}, "a continuous action of 1 numbers was expected, got 0"),
        (LAST, (brain(1, (2,)), FINE), {}, "a discrete action of 1 numbers was expected, got 0"),
        (LAST, (brain(0, (2,)), pair(discrete=[2])), {}, "a choice of 2 was expected, got 2"),
        (LAST, (brain(0, (2,)), pair(discrete=[-1])), {}, "a choice of 2 was expected, got -1"),
        (LAST, (brain(0, (2,)), pair(old=[0.5])), {}, "a choice of 2 was expected, got 0.5"),
        (LAST, (brain(0, (2,)), pair(old=[float("nan")])), {}, "of 2 was expected, got nan"),
        (LAST, (brain(0, (2,)), pair(discrete=[1], mask=[True])), {},
         "an action mask of 2 numbers was expected, got 1"),
        (LAST, (brain(1), pair({"shape": [2], "compression_type": 1}, continuous=[0.0])), {},
         "floats, or PNGs for an image, were expected, got compression 1"),
        (LAST, (brain(1), pair({"shape": [1, 1, 1], "compression_type": 2}, continuous=[0.0])), {},
         "got compression 2"),
    ],
)  # fmt: skip
def test_what_does_not_fit_together_is_refused_where_it_stands(
    tmp_path, place, parts, metadata, told
):
    data = content(*parts, **metadata)
    got = refused(tmp_path / "a.demo", data)
    at = {METADATA: 0, BRAIN: BRAIN_OFFSET, LAST: offsets(data)[-2], END: len(data)}[place]
    assert told in got and got.startswith(f"at byte {at}: ")


def test_an_observation_is_expected_in_every_pair(tmp_path):
    nothing = pair(continuous=[0.0])
    nothing.agent_info.ClearField("observations")
    told = refused(tmp_path / "a.demo", content(brain(1), nothing))
    assert told.endswith("an observation was expected, got none.")
    told = refused(tmp_path / "a.demo", content(brain(1), FINE, nothing))
    assert told.endswith("1 observations were expected, got 0.")


@pytest.mark.parametrize("junk", [b"\xff\xff\xff", b"\x0b" * 200, b"\x3a\x02\xff\xff"])
def test_what_is_no_message_is_refused(tmp_path, junk):
    """A tag that never ends, groups within groups, and text that is not UTF-8."""
    data = content(brain(1), FINE)
    data = data[:BRAIN_OFFSET] + bytes([len(junk)])[:1] + junk
    if len(junk) > 127:
        data = data[:BRAIN_OFFSET] + bytes([0x80 | len(junk) & 0x7F, len(junk) >> 7]) + junk
    told = refused(tmp_path / "a.demo", data)
    assert told.startswith("at byte 33: a BrainParametersProto was expected, got none: ")


@pytest.mark.parametrize(
    "image, told",
    [
        (picture((3, 4, 5), b""), "a PNG was expected, got no signature of one"),
        (picture((3, 4, 5), png(IMAGE)[:-9]), "a PNG was expected, got one that is cut off"),
        (picture((3, 5, 4), png(IMAGE)), "an image of 5 × 4 pixels was expected, got 4 × 5"),
        (picture((4, 4, 5), png(IMAGE)), "images of 4 channels were expected, got 3"),
        (picture((2, 4, 5), png(IMAGE), mapping=[0, 1]),
         "a mapping of 3 channels was expected, got one of 2"),
        (picture((2, 4, 5), png(IMAGE), mapping=[0, 0, 0]),
         "a mapping to 2 channels was expected, got [0, 0, 0]"),
        (picture((2, 4, 5), png(IMAGE), mapping=[0, 1, 2]), "a mapping to 2 channels"),
        (picture((2, 4, 5), png(IMAGE), mapping=[0, 1, -2]), "a mapping to 2 channels"),
        (picture((3, 4, 5), png(IMAGE).replace(b"IDAT", b"IDOT")), "got a damaged one: "),
        (picture((1, 2048, 2048), png(np.zeros((1, 4, 5), np.uint8))
                 .replace(b"\0\0\0\x05\0\0\0\x04\x08", b"\0\0\x08\0\0\0\x08\0\x08")),
         "bytes for 2048 × 2048 pixels"),
        (picture((3, 4, 5), png(IMAGE).replace(b"\x05\0\0\0\x04\x08", b"\x05\0\0\0\x04\x10")),
         "a PNG of 8 bits, grey, RGB or RGBA, was expected, got another kind"),
    ],
)  # fmt: skip
def test_images_that_are_not_what_they_must_be_are_refused(tmp_path, image, told):
    got = refused(tmp_path / "a.demo", content(brain(1), pair(image, continuous=[0.0])))
    assert told in got and re.match(r"at byte \d+: ", got)


def test_no_image_is_decoded_before_its_size_is_known_to_fit(tmp_path, monkeypatch):
    from PIL import Image

    large = png(np.zeros((3, 2000, 2000), np.uint8))
    path = written(tmp_path / "a.demo", brain(1), pair(picture((3, 4, 5), large), continuous=[0.0]))
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("it was decoded"))
    with pytest.raises(demos.DemoError, match="4 × 5 pixels was expected, got 2000 × 2000"):
        demos.load(path)


def test_a_file_that_cannot_be_read_is_told(tmp_path, monkeypatch):
    path = written(tmp_path / "a.demo", brain(1), FINE)

    def fail(self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", fail)
    with pytest.raises(demos.DemoError) as caught:
        demos.load(path)
    assert str(caught.value) == f"{path}: cannot be read: permission denied."


def fuzzed(folder, cases, seed):
    """How so many damaged files were taken."""
    run = subprocess.run(
        [sys.executable, "-W", "error", "-m", "tests.demo_fuzz", str(cases), str(seed), folder],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert run.returncode == 0, run.stderr
    told = json.loads(run.stdout)
    assert set(told["results"]) == {"read", "refused"}, told
    assert sum(told["results"].values()) == cases
    return told


def test_damaged_files_are_refused_or_read_in_bounded_memory(tmp_path):
    assert fuzzed(tmp_path, 152, seed=0)["megabytes"] < 512


@pytest.mark.thorough
def test_thousands_of_damaged_files_are_refused_or_read_in_bounded_memory(tmp_path):
    assert fuzzed(tmp_path, 2000, seed=1)["megabytes"] < 512
