"""Every file carries the recipe it was made by, and a foreign recipe does no harm."""

import base64
import io
import json
import random
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from acestep.errors import AudioError
from acestep.library.recipe import (
    MAX_RECIPE_BYTES,
    RECIPE_VERSION,
    pack,
    read_recipe,
    sidecar,
)
from acestep.media import audio
from acestep.media.containers import MAX_OPUS_COMMENT, append_chunk, chunks
from acestep.request.values import AudioFormat

FORMATS: tuple[AudioFormat, ...] = ("flac", "wav", "wav24", "wav32", "mp3", "ogg", "opus")
SHORT: dict[str, Any] = {
    "request": {
        "task": "text2music",
        "caption": 'warm "lo-fi" \\ beat — 温暖',
        "lyrics": "[Verse]\n夜空に\tひかる\n👩‍🎤 «così» 'è' \"sì\"\n[ 1, 2 ]\n",
        "seed": 2**32 - 1,
    },
    "seconds": {"rendering": 0.1 + 0.2},
    "unknown": None,
}


def long_recipe() -> dict[str, Any]:
    """Ten minutes of codes and the longest lyrics a request takes, all hard to compress."""
    chance = random.Random(7)
    lyrics = "".join(
        chr(chance.choice((0x4E00, 0x1F300)) + chance.randrange(700)) for _ in range(4096)
    )
    codes = [chance.randrange(64_000) for _ in range(3000)]
    return {"request": {"lyrics": lyrics, "caption": lyrics[:512], "plan": {"codes": codes}}}


def song(format: AudioFormat, recipe: dict[str, Any]) -> bytes:
    return bytes(audio.encode(0.1 * torch.randn(2, 4_800), format, pack(recipe)))


def put(folder: Path, name: str, content: bytes | str) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def wav_with(text: bytes) -> bytes:
    file = io.BytesIO(bytes(audio.encode(torch.zeros(2, 10), "wav")))
    append_chunk(file, b"acst", text)
    return file.getvalue()


def refusal(path: Path) -> str:
    with pytest.raises(AudioError) as caught:
        read_recipe(path)
    assert str(caught.value).endswith(".") and "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("recipe", [SHORT, long_recipe()], ids=["short", "long"])
def test_a_recipe_comes_back_from_every_format(
    tmp_path: Path, format: AudioFormat, recipe: dict[str, Any]
) -> None:
    path = put(tmp_path, f"song.{format}", song(format, recipe))
    assert read_recipe(path) == {"recipe": RECIPE_VERSION, **recipe}
    assert audio.read(path).shape == (1, 2, 4_800)


def test_short_recipes_stay_readable_and_long_ones_fit_an_opus_comment() -> None:
    assert json.loads(pack(SHORT))["request"] == SHORT["request"]
    assert pack(SHORT).isascii() and "\n" not in pack(SHORT)
    assert len(pack(long_recipe())) < MAX_OPUS_COMMENT < len(json.dumps(long_recipe()))


def test_an_opus_comment_that_would_ruin_the_file_is_refused() -> None:
    sound = torch.zeros(2, 4_800)
    whole = audio.encode(sound, "opus", "x" * MAX_OPUS_COMMENT)
    assert soundfile.SoundFile(io.BytesIO(whole)).comment == "x" * MAX_OPUS_COMMENT
    with pytest.raises(AudioError, match="too long for an Opus file"):
        audio.encode(sound, "opus", "x" * (MAX_OPUS_COMMENT + 1))


@pytest.mark.parametrize("format", ["wav", "wav24", "wav32"])
def test_the_wav_chunk_is_invisible_to_other_readers(format: AudioFormat) -> None:
    waveform = torch.rand(2, 4_801, generator=torch.Generator().manual_seed(1)) - 0.5
    plain = audio.encode(waveform, format)
    for text in ("x", "xy", pack(long_recipe())):
        marked = audio.encode(waveform, format, text)
        samples = [soundfile.read(io.BytesIO(data), dtype="float64")[0] for data in (plain, marked)]
        assert np.array_equal(samples[0], samples[1])
        assert len(marked) % 2 == 0
        assert int.from_bytes(marked[4:8], "little") == len(marked) - 8
        assert [c.name for c in chunks(io.BytesIO(marked))][-1] == b"acst"


def test_a_song_without_a_recipe_says_so(tmp_path: Path) -> None:
    silence = torch.zeros(2, 4_800)
    for format in FORMATS:
        path = put(tmp_path, f"song.{format}", audio.encode(silence, format).tobytes())
        assert refusal(path) == f"song.{format} carries no recipe."
    for comment in ("recorded at home", "{not json", "{}", "[1]", '{"recipe": 1}', "true"):
        foreign = audio.encode(silence, "flac", comment).tobytes()
        assert refusal(put(tmp_path, "song.flac", foreign)) == "song.flac carries no recipe."


def test_what_is_not_a_song_or_recipe_at_all_is_named(tmp_path: Path) -> None:
    assert refusal(put(tmp_path, "notes.txt", "la la")) == "notes.txt is not audio."
    assert refusal(put(tmp_path, "x.raw", "la la")) == "x.raw is not audio."
    assert refusal(tmp_path / "gone.flac") == "gone.flac cannot be read: no such file or directory."
    assert refusal(tmp_path) == f"{tmp_path.name} cannot be read: is a directory."
    for text in ("", "la la", "[]", "{}", '{"request": {}}', b"\xff\xfe\x00", "[" * 100_000):
        assert refusal(put(tmp_path, "x.json", text)) == "x.json is not a recipe."


@pytest.mark.parametrize("version", ["true", "0", "-1", "1.0", '"1"', "null"])
def test_a_version_that_is_not_one_is_not_a_recipe(tmp_path: Path, version: str) -> None:
    path = put(tmp_path, "x.json", f'{{"recipe": {version}, "request": {{}}}}')
    assert refusal(path) == "x.json is not a recipe."


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "9" * 5000])
def test_numbers_that_are_not_json_are_refused(tmp_path: Path, number: str) -> None:
    path = put(tmp_path, "x.json", f'{{"recipe": 1, "request": {{"seed": {number}}}}}')
    assert refusal(path) == "x.json is not a recipe."


def test_a_newer_recipe_asks_for_an_update(tmp_path: Path) -> None:
    path = put(tmp_path, "x.json", json.dumps({**SHORT, "recipe": RECIPE_VERSION + 1}))
    assert refusal(path).endswith(f"reads up to {RECIPE_VERSION}. Update acestep.")


def test_a_recipe_from_elsewhere_may_hold_more_than_we_know(tmp_path: Path) -> None:
    recipe = {"recipe": RECIPE_VERSION, "request": {"new_field": [1]}, "mood": "blue"}
    assert read_recipe(put(tmp_path, "x.json", "\ufeff" + json.dumps(recipe))) == recipe


def test_size_is_bounded_before_and_after_unpacking(tmp_path: Path) -> None:
    limit = "is longer than 256 kB, so it is not read."
    huge = json.dumps({"recipe": 1, "request": {"lyrics": "x" * MAX_RECIPE_BYTES}})
    assert refusal(put(tmp_path, "x.json", huge)).endswith(limit)
    assert refusal(put(tmp_path, "x.wav", wav_with(huge.encode()))).endswith(limit)
    bomb = b"acestep-recipe-zlib:" + base64.b64encode(zlib.compress(b" " * 10**8))
    assert refusal(put(tmp_path, "y.wav", wav_with(bomb))).endswith(limit)
    with pytest.raises(AudioError, match=r"^The recipe is 256 kB; 256 kB is the limit\.$"):
        pack({"request": {"lyrics": "x" * MAX_RECIPE_BYTES}})


@pytest.mark.parametrize("data", [b"", b"!!!!", base64.b64encode(zlib.compress(b"{}" * 99)[:-9])])
def test_a_damaged_recipe_is_called_damaged(tmp_path: Path, data: bytes) -> None:
    path = put(tmp_path, "x.wav", wav_with(b"acestep-recipe-zlib:" + data))
    assert refusal(path) == "The recipe in x.wav is damaged."


def test_the_sidecar_is_for_people(tmp_path: Path) -> None:
    recipe = long_recipe() | SHORT | {"plan": {"codes": list(range(3000)), "empty": []}}
    path = put(tmp_path, "0001_text2music_song.json", sidecar(recipe))
    text = path.read_text(encoding="utf-8")
    assert "温暖" in text and "[ 1, 2 ]" in text
    assert "[0, 1, 2, 3," in text, "codes share a line"
    assert text.splitlines()[1] == f'  "recipe": {RECIPE_VERSION},'
    assert read_recipe(path) == {"recipe": RECIPE_VERSION, **recipe}


def test_half_an_emoji_survives_both_homes(tmp_path: Path) -> None:
    recipe = {"recipe": RECIPE_VERSION, "request": {"caption": "\ud83d broken"}}
    assert read_recipe(put(tmp_path, "s.json", sidecar(recipe))) == recipe
    assert read_recipe(put(tmp_path, "s.wav", song("wav", recipe))) == recipe


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=30)
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=12,
)  # fmt: skip


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(request=st.dictionaries(st.text(max_size=9), values, max_size=6))
def test_any_json_comes_back_unchanged(tmp_path: Path, request: dict[str, Any]) -> None:
    recipe = {"recipe": RECIPE_VERSION, "request": request}
    assert read_recipe(put(tmp_path, "s.json", sidecar(recipe))) == recipe
    for format in ("wav", "flac"):
        assert read_recipe(put(tmp_path, f"s.{format}", song(format, recipe))) == recipe


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.integers(0, 3000), flips=st.lists(st.integers(0, 2**31), max_size=5))
def test_broken_files_are_refused_or_read_but_never_crash(
    tmp_path: Path, cut: int, flips: list[int]
) -> None:
    content = bytearray(wav_with(pack(SHORT).encode()))
    for flip in flips:
        content[flip % len(content)] ^= 1 << flip % 8
    path = put(tmp_path, "x.wav", bytes(content[: len(content) - cut]))
    try:
        assert isinstance(read_recipe(path)["request"], dict)
    except AudioError as error:
        assert str(error).endswith(".")


def test_a_first_recipe_of_an_edit_loses_the_fields_that_edits_no_longer_have(
    tmp_path: Path,
) -> None:
    request = {"task": "cover", "caption": "jazz", "think": False, "lm_top_k": 0, "plan": None}
    path = put(tmp_path, "x.json", json.dumps({"recipe": 1, "request": request}))
    assert read_recipe(path)["request"] == {"task": "cover", "caption": "jazz"}
    song = {"task": "text2music", "caption": "jazz", "think": True, "duration": 12.0}
    path = put(tmp_path, "y.json", json.dumps({"recipe": 1, "request": song}))
    assert read_recipe(path)["request"] == song


def test_in_a_first_recipe_the_dit_reads_the_planners_caption(tmp_path: Path) -> None:
    def upgraded(**fields: object) -> dict[str, object]:
        request = {"task": "text2music", "caption": "jazz", "dcw": "off", **fields}
        path = put(tmp_path, "x.json", json.dumps({"recipe": 1, "request": request}))
        return read_recipe(path)["request"]

    planned = {"plan": {"caption": "a dusty jazz loop"}}
    assert upgraded(**planned) == {**upgraded(), **planned, "rewrite_caption": True}
    for without in ({}, {"plan": None}, {"plan": {"caption": "", "bpm": 96}}):
        assert "rewrite_caption" not in upgraded(**without)
    assert upgraded()["dcw"] == "off"
