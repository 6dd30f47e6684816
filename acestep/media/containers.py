"""What libsndfile does not tell about sound files: foreign chunks, and whether a file was cut.

WAV and AIFF are lists of chunks (name, size, bytes), padded to even length; WAV counts
little-endian, AIFF big-endian (RIFF, IBM and Microsoft 1991; AIFF 1.3, Apple 1989). Ogg is a
sequence of pages (RFC 3533), FLAC one of frames (RFC 9639). Knows nothing about samples.
"""

import os
import re
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
_FLAC_TAIL = 2**20  # bytes: more than the longest frame of usual files, for when none is given
_FLAC_BLOCKS = (
    {1: 192} | {n: 576 << n - 2 for n in range(2, 6)} | {n: 256 << n - 8 for n in range(8, 16)}
)  # samples of a frame by the code in its header (RFC 9639, section 9.1.1)


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


def heard_of_cut(path: Path, announced: int | None) -> int | None:
    """Samples in a file that ends before its headers say; `None` if they do not show that it does.

    Nothing is decoded, so damage that leaves the headers whole stays unseen.

    Args:
        announced: as in `is_cut`.
    """
    if announced is None:
        return None
    with path.open("rb") as file:
        if file.read(4) == b"fLaC":
            return _heard_of_cut_flac(file, announced)
    # Of the other kinds, libsndfile announces what is there.
    return announced if is_cut(path, announced, announced) else None


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


def _heard_of_cut_flac(flac: BinaryIO, announced: int) -> int | None:
    """Where the last frame begins, if no frame ends where the whole should."""
    flac.seek(8)
    streaminfo = flac.read(34)
    block = int.from_bytes(streaminfo[2:4], "big")
    longest = int.from_bytes(streaminfo[7:10], "big") or _FLAC_TAIL
    length = flac.seek(0, os.SEEK_END)
    flac.seek(max(0, length - 2 * longest))
    tail = flac.read()
    places = (match.start() for match in re.finditer(rb"\xff[\xf8\xf9]", tail))
    frames = [frame for at in places if (frame := _flac_frame(tail[at : at + 16], block))]
    if not frames or any(end == announced for _, end in frames):
        return None
    return max((start for start, _ in frames if start < announced), default=None)


def _flac_frame(head: bytes, fixed_block: int) -> tuple[int, int] | None:
    """First sample of a frame and of the next, if these bytes are a frame's header."""
    if len(head) < 6 or head[0] != 0xFF or head[1] not in (0xF8, 0xF9) or head[3] & 1:
        return None
    # The number is written as UTF-8 writes characters, in up to seven bytes.
    count = max(1, 8 - (head[4] ^ 0xFF).bit_length())
    number = head[4] & (0x7F if count == 1 else 0xFF >> count + 1)
    for byte in head[5 : 4 + count]:
        number = number << 6 | byte & 0x3F
    end = 4 + count
    size_code, rate_code = head[2] >> 4, head[2] & 0xF
    size_bytes = {6: 1, 7: 2}.get(size_code, 0)
    size = int.from_bytes(head[end : end + size_bytes], "big") + 1
    size = size if size_bytes else _FLAC_BLOCKS.get(size_code, 0)
    end += size_bytes + {12: 1, 13: 2, 14: 2}.get(rate_code, 0)
    if end >= len(head) or not size or _crc8(head[:end]) != head[end]:
        return None
    start = number if head[1] == 0xF9 else number * fixed_block
    return start, start + size


def _crc8(data: bytes) -> int:
    """x^8 + x^2 + x + 1, beginning with 0."""
    crc = 0
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc << 1 & 0xFF ^ (0x07 if crc & 0x80 else 0)
    return crc


def _has_frame_count(mp3: BinaryIO) -> bool:
    """Whether an MP3 begins with a Xing or Info header, behind its ID3v2 tag if it has one."""
    mp3.seek(0)
    tag = mp3.read(10)
    # ID3v2 writes seven bits of its size into each byte.
    size = sum(byte << shift for byte, shift in zip(tag[6:], (21, 14, 7, 0), strict=False))
    mp3.seek(10 + size if tag.startswith(b"ID3") else 0)
    head = mp3.read(2048)
    return b"Xing" in head or b"Info" in head
