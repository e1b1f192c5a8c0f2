"""Images of `.demo` files: one or more PNGs, one after the other, as an array of channels.

Nothing is decoded before its size is known to be that of the observation, and to be one that
so many bytes can hold.
"""

import io
import zlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from optinfra.demos.format import BRIGHTEST, missing

SIGNATURE = b"\x89PNG\r\n\x1a\n"
HEADER, PALETTE, CONTENT, END = b"IHDR", b"PLTE", b"IDAT", b"IEND"
CRITICAL = (HEADER, PALETTE, CONTENT, END)  # what an image cannot be decoded without
HEADER_BYTES = 13
FRAME_BYTES = 12  # of a chunk around its data: length, kind, checksum
BIT_DEPTH = 8
BANDS = {0: 1, 2: 3, 6: 4}  # by PNG's colour type: grey, RGB, RGBA
DROPPED = -1  # a channel that a mapping leaves out
# Deflate makes at most 258 bytes of 2 bits: more than so many times its bytes no PNG holds.
MOST_EXPANSION = 1032


class Fault(ValueError):
    """What is wrong with a part of a file; the place is added by whoever reads the file."""


class _Image(NamedTuple):
    """One PNG of an observation, not decoded."""

    content: bytes  # the critical chunks alone: no text that could be a bomb, no animation
    width: int
    height: int
    bands: int


def decode(data: bytes, shape: Sequence[int], mapping: Sequence[int]) -> np.ndarray:
    """Decode concatenated PNGs into the channels of one observation.

    With a mapping, observed channel c is the mean of those PNG channels that it sends to c.
    Without one, the first channels are those observed, but a single channel is the mean of
    all of the first PNG.

    Args:
      data: PNGs of 8 bits, grey, RGB or RGBA.
      shape: (C, H, W) of the observation.
      mapping: for each PNG channel, which channel it belongs to or −1; empty without one.

    Returns:
      `[C, H, W]` float32 in [0, 1].

    Raises:
      Fault: the data are no such images, or not of this shape.
      ModuleNotFoundError: Pillow is missing; the message tells what to install.
    """
    images, bands, enough = [], 0, len(mapping) or shape[0]
    for image in _split(data):
        if (image.height, image.width) != tuple(shape[1:]):
            size = f"{image.height} × {image.width}"
            raise Fault(f"an image of {shape[1]} × {shape[2]} pixels was expected, got {size}")
        images.append(image)
        bands += image.bands
        if bands >= enough:
            break
    if mapping:
        _check_mapping(mapping, bands, shape[0])
    elif bands < shape[0]:
        raise Fault(f"images of {shape[0]} channels were expected, got {bands}")
    channels = np.concatenate([_pixels(image) for image in images])
    if mapping:
        sources = np.array(mapping)
        return np.stack([channels[sources == c].mean(axis=0) for c in range(shape[0])])
    return channels.mean(axis=0, keepdims=True) if shape[0] == 1 else channels[: shape[0]]


def _check_mapping(mapping: Sequence[int], bands: int, channels: int) -> None:
    if len(mapping) != bands:
        raise Fault(f"a mapping of {bands} channels was expected, got one of {len(mapping)}")
    if {c for c in mapping if c != DROPPED} != set(range(channels)):
        raise Fault(f"a mapping to {channels} channels was expected, got {list(mapping)}")


def _split(data: bytes) -> Iterator[_Image]:
    """Find the PNGs; bytes between them are passed over."""
    at = data.find(SIGNATURE)
    if at < 0:
        raise Fault("a PNG was expected, got no signature of one")
    while at >= 0:
        image, end = _image(data, at)
        yield image
        at = data.find(SIGNATURE, end)


def _image(data: bytes, begin: int) -> tuple[_Image, int]:
    """Read the chunks of the PNG at `begin`, and where it ends."""
    at, kept, header = begin + len(SIGNATURE), [SIGNATURE], b""
    kind = b""
    while kind != END:
        size = int.from_bytes(data[at : at + 4], "big")
        kind, end = data[at + 4 : at + 8], at + FRAME_BYTES + size
        if end > len(data):
            raise Fault("a PNG was expected, got one that is cut off")
        if kind == HEADER and not header:
            header = data[at + 8 : end - 4]
        if kind in CRITICAL:
            kept.append(data[at:end])
        at = end
    content = b"".join(kept)
    if len(header) != HEADER_BYTES or header[8] != BIT_DEPTH or header[9] not in BANDS:
        raise Fault("a PNG of 8 bits, grey, RGB or RGBA, was expected, got another kind")
    width, height = (int.from_bytes(header[i : i + 4], "big") for i in (0, 4))
    bands = BANDS[header[9]]
    if width * height * bands > MOST_EXPANSION * len(content):
        raise Fault(f"a PNG was expected, got {len(content)} bytes for {height} × {width} pixels")
    return _Image(content, width, height, bands), at


def _pixels(image: _Image) -> np.ndarray:
    """Decode one PNG into `[bands, H, W]` float32 in [0, 1]."""
    try:
        from PIL import Image
    except ModuleNotFoundError as error:
        raise missing(error) from None
    try:
        with Image.open(io.BytesIO(image.content), formats=["PNG"]) as opened:
            array = np.array(opened, dtype=np.float32)
    except (OSError, SyntaxError, ValueError, IndexError, EOFError, zlib.error) as error:
        raise Fault(f"a PNG was expected, got a damaged one: {error}") from None
    pixels = array.reshape(image.height, image.width, -1) / BRIGHTEST
    if pixels.shape[-1] != image.bands:
        raise Fault(f"a PNG of {image.bands} channels was expected, got {pixels.shape[-1]}")
    return np.moveaxis(pixels, -1, 0)
