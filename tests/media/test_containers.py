"""Chunks and pages are read as their headers declare them, whoever wrote the file."""

import io
import struct

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from acestep.media.containers import append_chunk, chunks


def sound_file(container: str) -> io.BytesIO:
    file = io.BytesIO()
    soundfile.write(file, np.zeros((8, 1)), 48_000, "PCM_U8" if container == "WAV" else "PCM_S8",
                    format=container)  # fmt: skip
    return file


@pytest.mark.parametrize(("container", "name"), [("WAV", b"data"), ("AIFF", b"SSND")])
def test_the_sound_chunk_is_found_in_both_byte_orders(container: str, name: bytes) -> None:
    file = sound_file(container)
    [chunk] = [c for c in chunks(file) if c.name == name]
    assert chunk.size == 8 + (8 if container == "AIFF" else 0)
    assert chunk.start + chunk.size == len(file.getvalue())


@given(st.lists(st.binary(max_size=9), max_size=5))
def test_appended_chunks_come_back_in_order_and_aligned(payloads: list[bytes]) -> None:
    file = sound_file("WAV")
    before = [c.name for c in chunks(file)]
    for payload in payloads:
        append_chunk(file, b"acst", payload)
    content = file.getvalue()
    found = list(chunks(file))[len(before) :]
    assert [content[c.start : c.start + c.size] for c in found] == payloads
    assert all(c.start % 2 == 0 for c in found)
    assert len(content) % 2 == 0 and struct.unpack("<I", content[4:8])[0] == len(content) - 8


def test_other_files_have_no_chunks() -> None:
    for content in (b"", b"RIFF", b"RIFF\0\0\0\0AVI LIST\0\0\0\0", b"fLaC" + bytes(100)):
        assert list(chunks(io.BytesIO(content))) == []


def test_a_file_of_empty_chunks_is_not_walked_forever() -> None:
    wav = io.BytesIO(b"RIFF\xff\xff\xff\xffWAVE" + b"junk\0\0\0\0" * 100_000)
    assert len(list(chunks(wav))) == 1000
