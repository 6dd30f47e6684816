"""A song's files appear together or not at all."""

import errno
import os
from pathlib import Path

import pytest
import torch

from acestep.errors import AudioError
from acestep.library.track import Track
from acestep.media import audio_checks, files
from acestep.request import Text2Music


@pytest.fixture
def track() -> Track:
    request = Text2Music(caption="lo-fi", seed=3)
    waveform = 0.1 * torch.randn(2, 48_000, generator=torch.Generator().manual_seed(0))
    return Track(
        waveform=waveform,
        request=request,
        take=0,
        seed=3,
        seconds={},
        health=audio_checks.examine(waveform, 48_000),
        warnings=[],
        recipe={
            "request": request.model_dump(mode="json"),
            "models": {"vae": {"fingerprint": "x"}},
        },
        latents=torch.randn(1, 25, 64),
    )


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_song_has_its_recipe_and_latents_beside_it(track: Track, tmp_path: Path) -> None:
    track.save(tmp_path / "a.flac")
    assert names(tmp_path) == ["a.flac", "a.json", "a.safetensors"]
    assert all(path.stat().st_size for path in tmp_path.iterdir())


@pytest.mark.parametrize("broken", [".json", ".safetensors", ".flac"])
@pytest.mark.parametrize("when", ["written", "renamed"])
def test_what_cannot_be_written_leaves_nothing_and_a_retry_succeeds(
    track: Track, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str, when: str
) -> None:
    """The disk refuses one of the three files, while it is written or when it gets its name."""
    order = iter((".json", ".safetensors", ".flac"))
    replace, fsync = Path.replace, os.fsync

    def syncing(descriptor: int) -> None:
        if next(order) == broken and when == "written":
            raise OSError(errno.EIO, "Input/output error")
        fsync(descriptor)

    def replacing(self: Path, target: Path) -> Path:
        if target.suffix == broken and when == "renamed":
            raise OSError(errno.EIO, "Input/output error")
        return replace(self, target)

    with monkeypatch.context() as broken_disk:
        broken_disk.setattr(files.os, "fsync", syncing)
        broken_disk.setattr(Path, "replace", replacing)
        with pytest.raises(AudioError, match=rf"^a\{broken} cannot be saved in .*: input/output"):
            track.save(tmp_path / "a.flac")
    assert names(tmp_path) == []
    track.save(tmp_path / "a.flac")
    assert len(names(tmp_path)) == 3


def test_a_name_that_someone_takes_meanwhile_is_theirs(
    track: Track, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def and_then(descriptor: int) -> None:
        (tmp_path / "a.json").write_text("theirs")

    monkeypatch.setattr(files.os, "fsync", and_then)
    with pytest.raises(AudioError, match=r"^a\.json exists already and was not overwritten\.$"):
        track.save(tmp_path / "a.flac")
    assert names(tmp_path) == ["a.json"] and (tmp_path / "a.json").read_text() == "theirs"


def test_overwriting_replaces_all_of_it(track: Track, tmp_path: Path) -> None:
    for suffix in (".flac", ".json", ".safetensors"):
        (tmp_path / f"a{suffix}").write_text("old")
    with pytest.raises(AudioError, match="exists already"):
        track.save(tmp_path / "a.flac")
    track.save(tmp_path / "a.flac", overwrite=True)
    assert all(path.read_bytes() != b"old" for path in tmp_path.iterdir())
