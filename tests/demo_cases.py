"""Demonstrations and `.demo` files that several tests use."""

import io
import struct
import zlib
from functools import cache
from pathlib import Path

import numpy as np
import torch
from hypothesis import strategies as st
from PIL import Image

from optinfra.demos.format import BRAIN_OFFSET, PNG, messages
from optinfra.demos.images import CONTENT
from optinfra.demos.pairs import Demonstrations
from optinfra.demos.write import delimited
from optinfra.types import Action, ActionSpec, Spec

GOLDEN = Path(__file__).parent / "golden"
SPEC = Spec(obs=((3,), (2, 2)), action=ActionSpec(2, (3, 2)))
ENDS = ("terminated", "truncated", "open")


def floats(seed, *shape):
    """Numbers of many magnitudes, with zeros of both signs among them."""
    draw = np.random.default_rng(seed)
    numbers = draw.normal(size=shape) * 10.0 ** draw.integers(-8, 8, shape)
    numbers = np.where(draw.random(shape) < 0.1, -0.0, numbers)
    return torch.from_numpy(numbers.astype(np.float32))


def bytes_of(seed, *shape):
    """An image's bytes."""
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, shape, np.uint8))


def episode(seed, number, steps, end="terminated", spec=SPEC):
    """An episode of so many pairs, the last of which ends it unless it is open."""
    draw = np.random.default_rng(seed)
    sizes = spec.action
    discrete = [draw.integers(0, n, (steps, 1)) for n in sizes.branches]
    last = torch.arange(steps) == steps - 1
    return Demonstrations(
        obs=tuple(
            bytes_of(seed + 7 * i, steps, *shape)
            if i in spec.bytes
            else floats(seed + 7 * i, steps, *shape)
            for i, shape in enumerate(spec.obs)
        ),
        action=Action(
            floats(seed + 1, steps, sizes.continuous),
            torch.from_numpy(np.concatenate(discrete or [np.zeros((steps, 0), int)], 1)),
        ),
        action_mask=torch.from_numpy(draw.random((steps, sizes.choices)) < 0.8),
        rewards=floats(seed + 2, steps) + 0.0,  # protobuf 3.20 writes no −0 here
        episode=torch.full((steps,), number),
        terminated=last & (end == "terminated"),
        truncated=last & (end == "truncated"),
    )


def pairs(lengths, ends, seed=0, spec=SPEC):
    """Episodes of so many pairs each, one after the other."""
    each = [
        episode(seed + 100 * k, k, steps, end, spec)
        for k, (steps, end) in enumerate(zip(lengths, ends))
    ]
    columns = [torch.cat(leaves) for leaves in zip(*map(flat, each))]
    return unflat(columns)


def flat(demonstrations):
    obs, action, *others = demonstrations
    return [*obs, *action, *others]


def unflat(columns):
    *obs, continuous, discrete, mask, rewards, number, terminated, truncated = columns
    action = Action(continuous, discrete)
    return Demonstrations(tuple(obs), action, mask, rewards, number, terminated, truncated)


@st.composite
def specs(draw):
    """Vectors, rows of entities and images, goals among them; at least one action."""
    shape = st.lists(st.integers(1, 3), min_size=1, max_size=3).map(tuple)
    obs = tuple(draw(st.lists(shape, min_size=1, max_size=3)))
    continuous, branches = draw(
        st.tuples(st.integers(0, 2), st.lists(st.integers(1, 3), max_size=2)).filter(any)
    )
    goals, in_bytes = (tuple(i for i in range(len(obs)) if draw(st.booleans())) for _ in "gb")
    in_bytes = tuple(i for i in in_bytes if len(obs[i]) == 3)
    return Spec(obs, ActionSpec(continuous, tuple(branches)), goals, in_bytes)


@st.composite
def recordings(draw, spec=None):
    """A spec, and some episodes of it with ends of all kinds."""
    spec = spec or draw(specs())
    lengths = draw(st.lists(st.integers(1, 5), min_size=1, max_size=4))
    ends = [draw(st.sampled_from(ENDS)) for _ in lengths]
    return spec, pairs(lengths, ends, draw(st.integers(0, 2**31)), spec)


def interleaved(demonstrations, seed):
    """The same pairs, each episode's still in their order but mixed with the others'.

    Episodes are numbered anew, in the order of their first pairs.
    """
    number = demonstrations.episode.numpy()
    mixed = number[np.random.default_rng(seed).permutation(len(number))]
    rows = np.empty(len(number), int)
    for k in np.unique(number):
        rows[mixed == k] = np.flatnonzero(number == k)
    columns = unflat([x[torch.from_numpy(rows)] for x in flat(demonstrations)])
    first = {}
    for k in columns.episode.tolist():
        first.setdefault(k, len(first))
    return columns._replace(episode=torch.tensor([first[k] for k in columns.episode.tolist()]))


# --- files --------------------------------------------------------------------------------


def png(channels, alpha=False):
    """A PNG of `[1 or 3, H, W]` uint8, with an alpha channel of 7 if asked."""
    if alpha:
        channels = np.concatenate([channels, np.full_like(channels[:1], 7)])
    image = np.moveaxis(channels, 0, -1)
    buffer = io.BytesIO()
    Image.fromarray(image[..., 0] if len(channels) == 1 else image).save(buffer, "PNG")
    return buffer.getvalue()


def chunk(kind, body):
    """A chunk of a PNG."""
    checksum = zlib.crc32(kind + body)
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", checksum)


def with_chunk(image, kind, body):
    """The PNG with one more chunk before its pixels."""
    at = image.index(CONTENT) - 4
    return image[:at] + chunk(kind, body) + image[at:]


@cache
def text_bomb():
    """Content of a zTXt chunk that grows to 64 MiB, and that no pixel depends on."""
    return b"a\0\0" + zlib.compress(bytes(2**26), 9)


def brain(continuous=0, branches=(), **fields):
    message = messages().Brain(brain_name="Brain", **fields)
    message.action_spec.num_continuous_actions = continuous
    message.action_spec.num_discrete_actions = len(branches)
    message.action_spec.discrete_branch_sizes.extend(branches)
    return message


def pair(obs=(1.0, 2.0), continuous=(), discrete=(), old=(), mask=(), **info):
    """A pair whose one observation is a vector, or a message's keyword arguments."""
    message = messages().Pair()
    for name, value in info.items():
        setattr(message.agent_info, name, value)
    message.agent_info.action_mask.extend(mask)
    if isinstance(obs, dict):
        message.agent_info.observations.add(**obs)
    else:
        observation = message.agent_info.observations.add(shape=[len(obs)])
        observation.float_data.data.extend(obs)
    message.action_info.continuous_actions.extend(continuous)
    message.action_info.discrete_actions.extend(discrete)
    message.action_info.vector_actions_deprecated.extend(old)
    return message


def picture(shape, *images, mapping=()):
    """An observation as PNGs, one after the other, for `pair`."""
    return {
        "shape": list(shape),
        "compression_type": PNG,
        "compressed_data": b"".join(images),
        "compressed_channel_mapping": list(mapping),
    }


def content(brain, *pairs, **metadata):
    """The bytes of a file; the metadata count the pairs unless told otherwise."""
    told = {"api_version": 1, "demonstration_name": "Demo", "number_steps": len(pairs)} | metadata
    head = delimited(messages().Metadata(**told)).ljust(BRAIN_OFFSET, b"\0")
    return b"".join([head, delimited(brain), *map(delimited, pairs)])


def written(path, *parts, **metadata):
    """A file of these messages."""
    path.write_bytes(content(*parts, **metadata))
    return path


def offsets(data):
    """Bytes at which the messages behind the metadata begin, and where the last one ends."""
    at, found = BRAIN_OFFSET, []
    while at < len(data):
        found.append(at)
        length = shift = 0
        while True:
            length |= (data[at] & 0x7F) << shift
            shift += 7
            at += 1
            if data[at - 1] < 0x80:
                break
        at += length
    return [*found, at]


def rich(folder):
    """A file with something of everything: floats, images of all kinds, masks, both actions."""
    draw = np.random.default_rng(3)

    def one(**info):
        colours = draw.integers(0, 256, (3, 4, 5), np.uint8)
        grey = draw.integers(0, 256, (1, 4, 5), np.uint8)
        message = pair(
            floats(int(colours.sum()), 4).tolist(),
            continuous=draw.uniform(-1, 1, 2).tolist(),
            discrete=draw.integers(0, 2, 2).tolist(),
            mask=[False, True, False, False, True],
            reward=draw.normal(),
            **info,
        )
        for image in (
            picture((3, 4, 5), png(colours)),
            picture((1, 4, 5), png(np.repeat(grey, 3, 0))),
            picture(
                (4, 4, 5), png(colours), png(colours[::-1].copy()), mapping=[0, 1, 2, 3, -1, 3]
            ),
            {"shape": [1, 1, 2], "float_data": {"data": [0.25, 0.5]}},
        ):
            message.agent_info.observations.add(**image)
        return message

    messages = [one(id=4) for _ in range(4)] + [one(id=4, done=True)]
    messages += [one(id=5) for _ in range(3)] + [one(id=5, done=True, max_step_reached=True)]
    messages += [one(id=6) for _ in range(2)]
    return written(folder / "rich.demo", brain(2, (3, 2)), *messages)
