"""Latents beside a song: found by its samples, whatever it is called, and never for another one."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from acestep.errors import AudioError
from acestep.library.latents import find_latents, kept
from acestep.library.output_paths import LATENTS
from acestep.library.source import read_source
from acestep.media import audio
from acestep.media.files import write_file

VAE = "fingerprint"


def song(path: Path, seconds: float = 0.5, seed: int = 0) -> Path:
    noise = 0.1 * torch.randn(
        2, round(seconds * 48_000), generator=torch.Generator().manual_seed(seed)
    )
    return audio.write(path, noise)


def keep(path: Path, frames: int = 13) -> torch.Tensor:
    latents = torch.randn(1, frames, 64)
    data = kept(latents, audio.read(path), VAE)
    if data is not None:
        write_file(path.with_suffix(LATENTS), data)
    return latents


@pytest.mark.parametrize("name", ["a.flac", "a.wav", "a.ogg", "a.mp3", "a.opus"])
def test_a_saved_song_is_found_by_the_samples_its_file_holds(tmp_path: Path, name: str) -> None:
    path = song(tmp_path / name)
    latents = keep(path)
    found = read_source(path, VAE).latents
    if path.with_suffix(".safetensors").exists():
        assert found is not None and torch.equal(found, latents)
    else:  # this format changed the length
        assert found is None and audio.read(path).shape[-1] != 24_000


def test_latents_of_other_samples_another_vae_or_another_length_are_not_used(
    tmp_path: Path,
) -> None:
    path = song(tmp_path / "a.flac")
    keep(path)
    assert read_source(path, "another").latents is None
    audio.write(path, -audio.read(path)[0], overwrite=True)
    assert read_source(path, VAE).latents is None
    keep(song(tmp_path / "b.flac"), frames=12)
    assert not (tmp_path / "b.safetensors").exists()


@pytest.mark.parametrize("content", [b"", b"not safetensors", b"\x08\0\0\0\0\0\0\0{}      "])
def test_a_foreign_file_of_that_name_is_ignored(tmp_path: Path, content: bytes) -> None:
    path = song(tmp_path / "a.flac")
    path.with_suffix(".safetensors").write_bytes(content)
    assert find_latents(path, audio.read(path), VAE) is None


@pytest.mark.parametrize(
    ("rate", "channels", "description"),
    [
        (48_000, 2, "the file's own samples"),
        (44_100, 2, "its 48 kHz stereo version, because the file is 44.1 kHz"),
        (48_000, 1, "its 48 kHz stereo version, because the file is mono"),
        (96_000, 6, "its 48 kHz stereo version, because the file is 96 kHz and has 6 channels"),
    ],
)
def test_a_source_says_whose_samples_it_is(
    tmp_path: Path, rate: int, channels: int, description: str
) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, 0.1 * np.random.default_rng(0).normal(size=(9600, channels)), rate)
    assert read_source(path, VAE).description == description


def test_a_source_above_full_scale_is_not_called_the_files_own(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.full((9600, 2), 1.5), 48_000, subtype="FLOAT")
    source = read_source(tmp_path / "a.wav", VAE)
    assert "samples above full scale" in source.description and source.waveform.max() == 1


def test_a_silent_source_is_refused(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros((9600, 2)), 48_000)
    with pytest.raises(AudioError, match=r"a\.wav is silent: there is nothing to change"):
        read_source(tmp_path / "a.wav", VAE)


@pytest.mark.parametrize(
    ("bits", "format", "loss"),
    [
        (16, "wav", None),
        (16, "flac", None),
        (24, "flac", None),
        (24, "wav", "rounded to 16 bits"),
        (30, "flac", "rounded to 24 bits"),
        (30, "wav32", None),
        (16, "mp3", "only nearly the same"),
    ],
)
def test_a_format_says_what_it_does_to_samples(bits: int, format: str, loss: str | None) -> None:
    samples = torch.tensor([[-1.0, 0.5 + 2.0 ** (1 - bits), 0.25]] * 2)
    samples[:, 1] = 2.0 ** (1 - bits)
    assert audio.loss(samples, format) == loss  # pyright: ignore[reportArgumentType]
