"""What a folder's safetensors files hold, read from their headers alone.

No weight is touched, so a damaged, foreign or cut-off file is refused in milliseconds, with one
sentence that names it. Format: an 8-byte length, a JSON table of tensors, then their numbers.
"""

import json
import math
import re
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from acestep.checkpoints.files import PICKLE_SUFFIXES, SILENCE_FILE
from acestep.errors import CheckpointError

FLOATS = {"F32": 4, "F16": 2, "BF16": 2}  # bytes per number
MAX_HEADER = 100_000_000  # bytes; the safetensors format's own limit
ARCHIVE = b"PK\x03\x04"  # what `torch.save` writes: a zip file
INDEX = "*.safetensors.index.json"
# Where an index may point besides its own folder: into that of the model next door. Two models that
# differ only in how they are used then keep their weights once.
NEIGHBOUR = re.compile(r"\.\./(\w[\w.-]*)/(\w[\w.-]*\.safetensors)", re.ASCII)
FOREIGN = {  # what other files begin with
    ARCHIVE: "a pickle archive, which could run code and is never opened",
    b"\x80": "a pickle file, which could run code and is never opened",
    b"<": "a web page, so the download went wrong",
    b"version https://git-lfs": "a Git LFS pointer, not the file it points to",
    b"GGUF": "a GGUF file",
}


class Stored(NamedTuple):
    """Where one tensor lies and what its header says about it."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    begin: int  # byte of the file at which its numbers begin


class Header(NamedTuple):
    """What a file says before its numbers."""

    tensors: dict[str, Stored]
    metadata: dict[str, str]  # free words of whoever wrote it


def stored_tensors(folder: Path, stem: str) -> dict[str, Stored]:
    """Every tensor of `stem`.safetensors, or of the shards that its index names.

    Raises:
        CheckpointError: no weights, not safetensors, damaged, or not all there.
    """
    single = folder / f"{stem}.safetensors"
    index = folder / f"{stem}.safetensors.index.json"
    if single.exists():
        return read_header(single).tensors
    if index.exists():
        return _sharded(index)
    if other := pickled(folder):
        raise CheckpointError(
            f"{folder} has no {single.name}, only {other.name}, a pickle file, which could run "
            "code and is never opened."
        )
    raise CheckpointError(f"{single} is missing: the folder is not a complete model.")


def read_header(path: Path) -> Header:
    """The tensors of one safetensors file and its metadata.

    Raises:
        CheckpointError: not safetensors, damaged, cut off, or of a dtype that is not read.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(32)
            length = int.from_bytes(start[:8], "little")
            # A pickle's first bytes can be the length of a good table, but no table follows them.
            is_table = start[8:9] == b"{" and length <= MAX_HEADER
            file.seek(8)
            table = file.read(length) if is_table else b""
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror}).") from error
    if not is_table:
        raise CheckpointError(f"{path} is {_kind(start)}; a safetensors file is needed.")
    if len(table) < length:
        raise _cut_off(path, size, 8 + length)
    return _parsed(path, table, size)


def read_number(stored: Stored) -> float:
    """The one number of a tensor that holds no more, without a tensor library.

    Raises:
        CheckpointError: it holds more or fewer, or cannot be read.
    """
    if math.prod(stored.shape) != 1:
        raise CheckpointError(
            f"{stored.file} holds {list(stored.shape)} numbers where one is needed."
        )
    try:
        with stored.file.open("rb") as file:
            file.seek(stored.begin)
            data = file.read(FLOATS[stored.dtype])
    except OSError as error:
        raise CheckpointError(f"{stored.file} cannot be read ({error.strerror}).") from error
    if stored.dtype == "BF16":  # the upper half of an fp32
        return struct.unpack("<f", b"\0\0" + data)[0]
    return struct.unpack("<e" if stored.dtype == "F16" else "<f", data)[0]


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a folder, and those next door that its index names; sorted."""
    found = set(folder.glob("*.safetensors"))
    for index in folder.glob(INDEX):
        found |= {path for path in _shards(index).values() if path.parent != folder}
    return sorted(found)


def pickled(folder: Path) -> Path | None:
    """The first file of a folder that a pickle's name promises weights in."""
    found = (path for path in folder.glob("*") if path.suffix in PICKLE_SUFFIXES)
    return next((path for path in sorted(found) if path.name != SILENCE_FILE), None)


def _sharded(index: Path) -> dict[str, Stored]:
    paths = _shards(index)
    stored = {}
    for path in dict.fromkeys(paths.values()):
        if not path.is_file():
            count = len(set(paths.values()))
            files = f"one of {count} files that hold" if count > 1 else "the file that holds"
            raise CheckpointError(f"{path} is missing: it is {files} the weights.")
        stored |= read_header(path).tensors
    for key, path in paths.items():
        if key not in stored or stored[key].file != path:
            raise CheckpointError(f"{path} does not hold '{key}', as {index.name} says.")
    return stored


def _shards(index: Path) -> dict[str, Path]:
    """The file of every tensor that an index names."""
    try:
        places = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        return dict(_places(index, places.items()))
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{index} is not an index of safetensors files.") from error


def _places(index: Path, entries: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, Path]]:
    for key, shard in entries:
        if neighbour := NEIGHBOUR.fullmatch(shard):
            yield key, index.parent.parent / neighbour[1] / neighbour[2]
        elif Path(shard).name == shard:
            yield key, index.parent / shard
        else:
            raise CheckpointError(f"{index} points outside its folder ({shard!r}).")


def _kind(start: bytes) -> str:
    """What a file that is not safetensors seems to be."""
    if len(start) <= 8:
        return "empty"
    return next((kind for mark, kind in FOREIGN.items() if start.startswith(mark)), "damaged")


def _parsed(path: Path, table: bytes, size: int) -> Header:
    try:
        entries = json.loads(table, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged: its header cannot be read.") from error
    metadata = entries.pop("__metadata__", None) or {}
    is_table = isinstance(metadata, dict)
    if not is_table or not all(isinstance(words, str) for words in metadata.values()):
        raise CheckpointError(f"{path} is damaged: its metadata are not words.")
    stored = {}
    needed = 8 + len(table)
    for key, entry in entries.items():
        try:
            dtype, shape = entry["dtype"], tuple(entry["shape"])
            begin, end = entry["data_offsets"]
            expected = math.prod(shape) * FLOATS.get(dtype, 0)
            sound = 0 <= begin <= end and all(type(n) is int and n >= 0 for n in shape)
        except (LookupError, TypeError, ValueError) as error:
            raise CheckpointError(f"{path} is damaged: its header misdescribes '{key}'.") from error
        if dtype not in FLOATS:
            raise CheckpointError(
                f"{path}: '{key}' is stored as {dtype}; only {', '.join(FLOATS)} are read."
            )
        if not sound or end - begin != expected:
            raise CheckpointError(f"{path} is damaged: its header misdescribes '{key}'.")
        stored[key] = Stored(path, dtype, shape, 8 + len(table) + begin)
        needed = max(needed, 8 + len(table) + end)
    if needed > size:
        raise _cut_off(path, size, needed)
    if needed < size:
        raise CheckpointError(f"{path} is damaged: {size - needed:,} bytes follow its tensors.")
    return Header(stored, metadata)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """JSON keeps the last of two equal keys; in a header that hides a tensor."""
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a key is there twice")
    return table


def _cut_off(path: Path, size: int, needed: int) -> CheckpointError:
    return CheckpointError(
        f"{path} is cut off: {size:,} bytes of {needed:,} are there. Download it again."
    )
