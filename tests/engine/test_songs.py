"""What is told of a song's file: which of ours it is, what it is like, what cannot be edited."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
from fake_engine import FakeEngine, FakeService

from acestep.engine import songs
from acestep.engine.jobs import Recording
from acestep.errors import AudioError, InvalidRequest
from acestep.request import Cover, Repaint, Text2Music


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """Twenty seconds that nobody here made."""
    path = tmp_path / "tape.wav"
    soundfile.write(path, np.full((20 * 8000, 1), 0.1), 8000)
    return path


@pytest.fixture
def song(tmp_path: Path) -> Path:
    """A second of ours, with its recipe inside."""
    request = Text2Music(caption="dub techno", lyrics="[Verse]\nla", bpm=90, seed=7)
    engine = FakeEngine(tmp_path / "songs", FakeService(step_seconds=0, seconds=1.0))
    job = engine.ended(engine.submit(request))
    engine.close()
    assert job.outcome is not None
    return Path(job.outcome.takes[0].path)


def test_a_copy_of_our_song_is_that_song_and_anything_else_is_itself(
    song: Path, recording: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "cache" / song.name
    copy.parent.mkdir()
    shutil.copy(song, copy)
    assert songs.original(copy, song.parent) == song
    assert songs.original(copy, song.parent.parent) == song  # in a folder of its day
    assert songs.original(song, song.parent) == song
    assert songs.original(recording, song.parent) == recording
    copy.write_bytes(b"another song of the same name")
    assert songs.original(copy, song.parent) == copy


def test_facts_come_from_the_header_and_the_recipe(song: Path, recording: Path) -> None:
    assert songs.facts(recording) == "tape.wav · 20.0 s · 8 kHz mono · WAV"
    assert songs.facts(song).endswith("· 1.0 s · 48 kHz stereo · FLAC · made here with seed 7")
    assert songs.length(recording) == 20.0


def test_a_song_says_what_it_was_asked_for(song: Path, recording: Path) -> None:
    asked = songs.request_of(song)
    assert asked is not None and asked.caption == "dub techno" and asked.bpm == 90
    assert "format" not in asked.model_fields_set, "a new file's name may choose another"
    assert songs.read_recipe(song.with_suffix(".json")) == songs.read_recipe(song)
    assert songs.request_of(recording) is None
    with pytest.raises(AudioError, match="carries no recipe"):
        songs.read_recipe(recording)


def test_what_a_header_forbids_is_refused_before_a_model_is_loaded(
    recording: Path, tmp_path: Path
) -> None:
    songs.look(Text2Music(caption="x"))
    songs.look(Repaint(source_audio=recording, repainting_start=12, repainting_end=20))
    songs.look(Cover(caption="jazz", source_audio=recording))
    with pytest.raises(InvalidRequest, match=r"The region begins at 0:21\.0, but the song ends"):
        songs.look(Repaint(source_audio=recording, repainting_start=21))
    soundfile.write(tmp_path / "empty.wav", np.zeros((0, 2)), 48_000)
    soundfile.write(tmp_path / "long.flac", np.zeros(8_000 * 725), 8_000)
    for name, sentence in (
        ("gone.wav", "gone.wav does not exist."),
        ("empty.wav", "empty.wav holds no sound: its length is 0 s."),
        ("long.flac", "long.flac is 12 min 5 s long; at most 10 min are supported."),
    ):
        for request in (
            Repaint(source_audio=tmp_path / name),
            Cover(caption="jazz", source_audio=tmp_path / name),
            Recording(source_audio=tmp_path / name),
        ):
            with pytest.raises(AudioError) as refused:
                songs.look(request)
            assert str(refused.value) == sentence
