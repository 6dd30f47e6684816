"""What libsndfile does not tell about sound files: foreign chunks, and whether a file was cut.

WAV and AIFF are lists of chunks (name, size, bytes), padded to even length; WAV counts
little-endian, AIFF big-endian (RIFF, IBM and Microsoft 1991; AIFF 1.3, Apple 1989). Ogg is a
sequence of pages (RFC 3533). Knows nothing about samples.
"""

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

RECIPE_CHUNK = b"acst"  # our own, in WAV files
# libsndfile 1.2 writes Opus files that it cannot open again when their comment is longer than
# this (measured).
MAX_OPUS_COMMENT = 51_200

# A broken or hostile file could hold millions of empty chunks; real ones hold a dozen.
_MAX_CHUNKS = 1000
_UNKNOWN_SIZE = 0x7FFF_F000  # programs that write to a pipe leave a size above this
_LONGEST_PAGE = 27 + 255 + 255 * 255  # bytes
_MP3_FRAME = 1152  # samples


class Chunk(NamedTuple):
    """A chunk as its header declares it; the file may end before `start + size`."""

    name: bytes
    start: int
    size: int


def chunks(file: BinaryIO) -> Iterator[Chunk]:
    """The top-level chunks of a WAV or AIFF file; none for any other kind."""
    file.seek(0)
    kind, form = struct.unpack("4s4x4s", file.read(12).ljust(12, b"\0"))
    if kind in (b"RIFF", b"RF64") and form == b"WAVE":
        header = struct.Struct("<4sI")
    elif kind == b"FORM" and form in (b"AIFF", b"AIFC"):
        header = struct.Struct(">4sI")
    else:
        return
    start = 12 + header.size
    for _ in range(_MAX_CHUNKS):
        file.seek(start - header.size)
        data = file.read(header.size)
        if len(data) < header.size:
            return
        name, size = header.unpack(data)
        yield Chunk(name, start, size)
        start += size + size % 2 + header.size


def append_chunk(file: BinaryIO, name: bytes, payload: bytes) -> None:
    """Add a chunk to the end of a WAV file; readers that do not know the name skip it."""
    end = file.seek(0, os.SEEK_END)
    file.write(bytes(end % 2) + struct.pack("<4sI", name, len(payload)) + payload)
    file.write(bytes(len(payload) % 2))
    size = file.tell() - 8
    file.seek(4)
    file.write(struct.pack("<I", size))


def is_cut(path: Path, announced: int | None, decoded: int) -> bool:
    """Whether a sound file ends before its own headers say; libsndfile reads such files silently.

    Args:
        announced: length in samples as libsndfile understood the header, `None` if unknown.
        decoded: samples that came out.
    """
    with path.open("rb") as file:
        magic = file.read(4)
        length = file.seek(0, os.SEEK_END)
        if magic in (b"RIFF", b"RF64", b"FORM"):
            sound = (c for c in chunks(file) if c.name in (b"data", b"SSND"))
            return any(c.size < _UNKNOWN_SIZE and c.start + c.size > length for c in sound)
        if magic == b"OggS":
            return _last_page_end(file, length) > length
        missing = 0 if announced is None else announced - decoded
        if magic == b"fLaC":
            return missing > 0
        # An MP3 without a count of frames has an estimated length, which proves nothing.
        return missing > 2 * _MP3_FRAME and _has_frame_count(file)


def _last_page_end(ogg: BinaryIO, length: int) -> int:
    """Where the last page that begins in an Ogg file should end (RFC 3533, section 6)."""
    start = max(0, length - 2 * _LONGEST_PAGE)
    ogg.seek(start)
    tail = ogg.read()
    page = tail.rfind(b"OggS")
    header = tail[page : page + 27]
    if page < 0:
        return length
    if len(header) < 27:
        return length + 1
    segments = header[26]
    return start + page + 27 + segments + sum(tail[page + 27 : page + 27 + segments])


def _has_frame_count(mp3: BinaryIO) -> bool:
    """Whether an MP3 begins with a Xing or Info header, behind its ID3v2 tag if it has one."""
    mp3.seek(0)
    tag = mp3.read(10)
    # ID3v2 writes seven bits of its size into each byte.
    size = sum(byte << shift for byte, shift in zip(tag[6:], (21, 14, 7, 0), strict=False))
    mp3.seek(10 + size if tag.startswith(b"ID3") else 0)
    head = mp3.read(2048)
    return b"Xing" in head or b"Info" in head
