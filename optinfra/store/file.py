"""A store's file: safetensors, written and read piece by piece, so that its size does not matter.

What is expected of a file follows from the store that reads it, and is compared before a byte of
the contents is read. The checksum is verified before a byte of the store is changed.
"""

import json
import os
import zlib
from collections.abc import Iterator, Mapping
from io import BufferedReader
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

FORMAT = "optinfra.store"
FORMAT_VERSION = "1"
PARTIAL = ".partial"  # what a process that was killed leaves is called `.NAME.partial`
LENGTH_BYTES = 8  # a safetensors file begins with the length of its JSON header
HEADER_LIMIT = 1 << 20  # bytes; that of a store has a few hundred for each column
NUMBER_LIMIT = 18  # digits
TOLD = 100  # letters of what a file holds, in a message
PIECE = 1 << 24  # bytes that are read or written at a time
ABOUT = "__metadata__"  # reserved in the header
DTYPES = {
    torch.bool: "BOOL", torch.uint8: "U8", torch.int8: "I8", torch.int16: "I16",
    torch.int32: "I32", torch.int64: "I64", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.float32: "F32", torch.float64: "F64",
}  # fmt: skip

Tensors = Mapping[str, Tensor]


class StoreError(RuntimeError):
    """A store that cannot be kept, written or read. Its text is one line."""


class Header(NamedTuple):
    """What a file says before its contents."""

    table: dict[str, Any]  # dtype, shape and place of each tensor
    numbers: dict[str, int]
    checksum: str
    begin: int  # offset of the contents


def write(path: Path, tensors: Tensors, numbers: Mapping[str, int]) -> None:
    """Write tensors and numbers, completely or not at all.

    Raises:
      StoreError: the file cannot be written. What was there before still is.
    """
    table = layout(tensors)
    partial = path.with_name(f".{path.name}{PARTIAL}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with partial.open("wb") as file:
                checksum = _begun(table, numbers)
                file.write(_encoded(table, numbers, checksum))
                for piece in _pieces(tensors):
                    content = piece.cpu().numpy().data
                    checksum = zlib.crc32(content, checksum)
                    file.write(content)
                file.seek(0)  # the checksum has one length, whatever it is
                file.write(_encoded(table, numbers, checksum))
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)
        _force(path.parent)
    except OSError as error:
        raise StoreError(f"{path}: cannot be written: {told(error)}.") from None


def open_file(path: Path) -> BufferedReader:
    """Open a file to read.

    Raises:
      StoreError: it cannot be.
    """
    try:
        return path.open("rb")
    except FileNotFoundError:
        raise StoreError(f"{path}: there is no such file.") from None
    except OSError as error:
        raise StoreError(f"{path}: cannot be read: {told(error)}.") from None


def header(path: Path, file: BufferedReader) -> Header:
    """Read what the file says before its contents.

    Raises:
      StoreError: it is damaged, or of something else, or of another version.
    """
    length = int.from_bytes(file.read(LENGTH_BYTES), "little")
    if length > HEADER_LIMIT:
        raise StoreError(f"{path}: damaged, or no store: its header has {length} bytes.")
    try:
        table = json.loads(file.read(length))
        about = table.pop(ABOUT)
        kind, version = about.pop("format"), about.pop("format_version")
        checksum = about.pop("checksum")
        numbers = {name: _number(text) for name, text in about.items()}
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        raise StoreError(f"{path}: damaged, or no store.") from None
    if kind != FORMAT:
        raise StoreError(f"{path}: written by something else: no {FORMAT}.")
    if version != FORMAT_VERSION:
        raise StoreError(f"{path}: expected format version {FORMAT_VERSION}, got {version}.")
    return Header(table, numbers, checksum, LENGTH_BYTES + length)


def require(path: Path, file: BufferedReader, found: Header, tensors: Tensors) -> None:
    """Raise StoreError unless the file holds such `tensors`, and its checksum is right."""
    expected = layout(tensors)
    for name in [*expected, *found.table]:
        wanted, came = expected.get(name), found.table.get(name)
        if wanted != came:
            parts = f"must be {_kind(wanted)}, got {_kind(came)}"
            raise StoreError(f"{path}: column {name!r:.{TOLD}} {parts}.")
    size = found.begin + sum(x.nbytes for x in tensors.values())
    if (actual := os.fstat(file.fileno()).st_size) != size:
        raise StoreError(f"{path}: damaged: must have {size} bytes, got {actual}.")
    checksum = _begun(expected, found.numbers)
    file.seek(found.begin)
    while piece := file.read(PIECE):
        checksum = zlib.crc32(piece, checksum)
    if found.checksum != _text(checksum):
        raise StoreError(f"{path}: damaged: its checksum is not that of its content.")


def read_into(file: BufferedReader, found: Header, tensors: Tensors) -> None:
    """Read the contents of a file that was found right into `tensors`, which are changed."""
    file.seek(found.begin)
    for piece in _pieces(tensors):
        content = bytearray(len(piece))
        file.readinto(content)
        piece.copy_(torch.frombuffer(content, dtype=torch.uint8))
    for x in tensors.values():
        if x.dtype == torch.bool:  # torch takes a byte that is neither 0 nor 1 for more than one
            x.copy_(x.view(torch.uint8) != 0)


def layout(tensors: Tensors) -> dict[str, Any]:
    """Say in safetensors' words what tensors there are, and where each lies.

    Raises:
      TypeError: safetensors has no word for a dtype.
    """
    table, begin = {}, 0
    for name, x in tensors.items():
        if x.dtype not in DTYPES:
            raise TypeError(f"`{name}` must have a dtype that can be saved, got {x.dtype}.")
        end = begin + x.nbytes
        table[name] = {
            "dtype": DTYPES[x.dtype],
            "shape": list(x.shape),
            "data_offsets": [begin, end],
        }
        begin = end
    return table


def told(error: OSError) -> str:
    """Say what the system said, without its path."""
    return (error.strerror or str(error)).lower()


def _pieces(tensors: Tensors) -> Iterator[Tensor]:
    """Yield the bytes of one tensor after the other, `[≤ PIECE]` uint8, without copying them."""
    for x in tensors.values():
        if x.numel():
            yield from x.reshape(-1).view(torch.uint8).split(PIECE)


def _encoded(table: Mapping[str, Any], numbers: Mapping[str, int], checksum: int) -> bytes:
    """Write the header, padded so that the contents are aligned."""
    texts = {name: str(x) for name, x in numbers.items()}
    own = {"format": FORMAT, "format_version": FORMAT_VERSION, "checksum": _text(checksum)}
    content = json.dumps({ABOUT: texts | own, **table}).encode()
    content += b" " * (-len(content) % LENGTH_BYTES)
    return len(content).to_bytes(LENGTH_BYTES, "little") + content


def _begun(table: Mapping[str, Any], numbers: Mapping[str, int]) -> int:
    """Begin the checksum with what is said before the contents."""
    return zlib.crc32(json.dumps([table, numbers], sort_keys=True).encode())


def _text(checksum: int) -> str:
    return f"{checksum:08x}"


def _number(text: str) -> int:
    if not (text.isdecimal() and len(text) <= NUMBER_LIMIT):
        raise ValueError
    return int(text)


def _kind(entry: Any) -> str:
    if entry is None:
        return "absent"
    parts = entry.values() if isinstance(entry, dict) else [entry]
    return f"{' '.join(map(repr, parts)):.{TOLD}}"


def _force(folder: Path) -> None:
    """Let a folder reach the disk, where that can be asked for."""
    if hasattr(os, "O_DIRECTORY"):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
