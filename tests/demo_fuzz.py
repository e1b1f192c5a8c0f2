"""Damage `.demo` files and load them, in a process whose memory is limited.

    python -m tests.demo_fuzz COUNT SEED FOLDER

prints as JSON how many were read, how many refused, what else came of it, the longest time and
how much memory was taken beyond that of an undamaged file.
"""

import json
import random
import resource
import signal
import struct
import sys
import time
import zlib
from collections import Counter
from pathlib import Path

import torch

from optinfra import demos
from optinfra.demos.format import messages
from optinfra.demos.images import CONTENT, END, HEADER, SIGNATURE
from optinfra.demos.write import delimited
from tests.demo_cases import GOLDEN, brain, chunk, content, offsets, pair, picture, rich, text_bomb

ROOM = 2**30  # bytes of address space beyond what the process has before the first damaged file
LONGEST = 20  # seconds for one file
GIGABYTES = (2**31 - 1, 2**31, 2**32 - 1, 2**33, 2**63 - 1, 2**64 - 1)
LARGE = (2**31 - 1, 2**30, 65_537, 65_536, 4_096, -1, 0)


def varint(number):
    out = bytearray()
    while number >= 0x80:
        out.append(0x80 | number & 0x7F)
        number >>= 7
    return bytes([*out, number])


def truncated(data, draw):
    return data[: draw.randrange(len(data))]


def flipped(data, draw):
    data = bytearray(data)
    for _ in range(draw.choice([1, 1, 1, 2, 8, 64])):
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    return bytes(data)


def overwritten(data, draw):
    at, size = draw.randrange(len(data)), draw.choice([1, 4, 32])
    return data[:at] + draw.randbytes(size) + data[at + size :]


def forged_length(data, draw):
    """A message, or anything else, says that gigabytes follow."""
    at = draw.choice([0, *offsets(data)[:-1], draw.randrange(len(data))])
    return data[:at] + varint(draw.choice(GIGABYTES)) + data[at + 1 :]


def forged_size(data, draw):
    """The brain or a pair says that something is large, in a message that is whole."""
    places = offsets(data)
    number = draw.randrange(len(places) - 1)
    begin, end = places[number], places[number + 1]
    size = len(varint(end - begin - 1)) if end - begin - 1 < 128 else 2
    kind = messages().Pair if number else messages().Brain
    message, large = kind.FromString(data[begin + size : end]), draw.choice(LARGE)
    if not number:
        spec = message.action_spec
        field = draw.choice(["num_continuous_actions", "num_discrete_actions", "branch", "old"])
        if field == "branch":
            spec.discrete_branch_sizes.append(large)
        elif field == "old":
            spec.Clear()
            message.vector_action_size_deprecated.append(large)
            message.vector_action_space_type_deprecated = draw.randrange(2)
        else:
            setattr(spec, field, large)
    else:
        observation = draw.choice(message.agent_info.observations)
        observation.shape[draw.randrange(len(observation.shape))] = large
        observation.compressed_channel_mapping.extend([large] * draw.randrange(2))
    return data[:begin] + delimited(message) + data[end:]


def spliced(data, draw):
    """A piece is repeated, or lacks."""
    begin, end = sorted(draw.randrange(len(data)) for _ in range(2))
    return draw.choice([data[:end] + data[begin:], data[:begin] + data[end:]])


def bad_image(data, draw):
    """A file of one pair whose PNG is damaged, a bomb, or says to be another size or kind."""
    del data
    height, width, depth, colour, interlaced = 4, 5, 8, 2, 0
    lines, shape, mapping = bytes(height * (1 + 3 * width)), [3, 4, 5], ()
    for _ in range(draw.choice([0, 1, 1, 2])):
        match draw.randrange(6):
            case 0:
                height, width = draw.choice([(2048, 2048), (2**31 - 1, 2**31 - 1), (0, 5), (5, 4)])
                shape = draw.choice([[3, height, width], [1, height, width], shape])
            case 1:
                depth, colour = draw.choice([(16, 2), (1, 0), (8, 3), (8, 6), (8, 0), (8, 255)])
            case 2:
                interlaced = draw.choice([1, 255])
            case 3:
                lines = draw.choice([bytes(2**24), draw.randbytes(64), b""])
            case 4:
                mapping = draw.choice([(0, 1, 2), (0, -1, -1), (2**31 - 1, 0, 0), (-2, 0, 1)])
            case 5:
                shape = draw.choice([[1, 4, 5], [4, 4, 5], [3, 4, 5, 1], [60]])
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced)
    body = zlib.compress(lines, 9)
    chunks = ((HEADER, head), (b"zTXt", text_bomb()), (CONTENT, body), (END, b""))
    image = SIGNATURE + b"".join(chunk(*each) for each in chunks)
    if draw.random() < 0.3:
        image = draw.choice([truncated, flipped, overwritten, spliced])(image, draw)
    image = picture(shape, *[image] * draw.choice([1, 1, 2, 50]), mapping=mapping)
    return content(brain(1), pair(image, continuous=[0.0]))


def many_masks(data, draw):
    """Small pairs that leave out large parts."""
    del data
    size = draw.choice([4_096, 65_536])
    message = pair((0.0,), done=True)
    large = brain(size) if draw.random() < 0.5 else brain(0, (size,))
    return content(large, *[message] * draw.choice([10, 5_000]))


MUTATIONS = (truncated, flipped, overwritten, forged_length, forged_size, spliced, bad_image,
             many_masks)  # fmt: skip


def assert_correct(loaded):
    """What was read is whole: columns of one length, of the spec's shapes, finite, in range."""
    spec, columns = loaded
    rows = len(columns.episode)
    assert [tuple(x.shape) for x in columns.obs] == [(rows, *shape) for shape in spec.obs]
    assert columns.action.continuous.shape == (rows, spec.action.continuous)
    assert columns.action.discrete.shape == (rows, len(spec.action.branches))
    assert columns.action_mask.shape == (rows, spec.action.choices)
    for x in (*columns.obs, columns.action.continuous, columns.rewards):
        assert x.dtype == torch.float32 and bool(x.isfinite().all())
    branches = torch.tensor(spec.action.branches, dtype=torch.int64)
    assert bool(((columns.action.discrete >= 0) & (columns.action.discrete < branches)).all())
    assert not bool((columns.terminated & columns.truncated).any())
    first = list(dict.fromkeys(columns.episode.tolist()))
    assert first == list(range(len(first)))


def outcome(path):
    """Load a file; tell how that ended."""
    try:
        assert_correct(demos.load(path))
    except demos.DemoError as error:
        told = str(error)
        named = told.startswith(f"{path}: at byte ") and told.count("\n") == 0
        return "refused" if named else f"unclear: {told}"
    except BaseException as error:
        return f"{type(error).__name__}: {error}"
    return "read"


def run(cases, seed, folder):
    draw = random.Random(seed)
    sources = [rich(folder).read_bytes(), *(p.read_bytes() for p in sorted(GOLDEN.glob("*.demo")))]
    path = folder / "damaged.demo"
    assert outcome(rich(folder)) == "read"
    in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (in_use + ROOM, in_use + ROOM))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    results, kinds, longest = Counter(), Counter(), 0.0
    for case in range(cases):
        mutation = MUTATIONS[case % len(MUTATIONS)]
        path.write_bytes(mutation(draw.choice(sources), draw))
        signal.alarm(LONGEST)
        begun = time.perf_counter()
        result = outcome(path)
        longest = max(longest, time.perf_counter() - begun)
        signal.alarm(0)
        results[result] += 1
        kinds[f"{mutation.__name__} {result.partition(':')[0]}"] += 1
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {"results": results, "kinds": kinds, "seconds": longest, "megabytes": grown / 1024}


def overdue(*_):
    raise TimeoutError(f"a file took more than {LONGEST} s")


if __name__ == "__main__":
    torch.set_num_threads(1)
    signal.signal(signal.SIGALRM, overdue)
    print(json.dumps(run(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))))
