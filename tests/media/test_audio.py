"""Sound files come in and go out unharmed, and what is not one is refused in one sentence."""

import io
import math
import re
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from acestep.errors import AudioError
from acestep.media import audio
from acestep.media.sound_files import AudioInfo, probe
from acestep.request.values import AudioFormat

LOSSLESS: tuple[AudioFormat, ...] = ("flac", "wav", "wav24", "wav32")
LOSSY: tuple[AudioFormat, ...] = ("mp3", "ogg", "opus")
ENDINGS = {"wav24": "wav", "wav32": "wav"}


def tone(seconds: float, *, rate: int = 48_000, channels: int = 2, pitch: float = 1000.0) -> Tensor:
    """Sines a third apart, one per channel, at half level."""
    time = torch.arange(round(seconds * rate), dtype=torch.float64) / rate
    pitches = pitch * (5 / 4) ** torch.arange(channels, dtype=torch.float64)
    return (0.5 * torch.sin(2 * math.pi * pitches[:, None] * time)).float()


def noise(samples: int, seed: int = 0) -> Tensor:
    return torch.empty(2, samples).uniform_(-1, 1, generator=torch.Generator().manual_seed(seed))


def file_of(
    folder: Path,
    name: str,
    waveform: Tensor,
    rate: int = 48_000,
    *,
    format: str | None = None,
    subtype: str | None = None,
) -> Path:
    path = folder / name
    soundfile.write(str(path), waveform.T.numpy(), rate, subtype=subtype, format=format)
    return path


def pitch_of(samples: Tensor) -> float:
    """Frequency of the strongest partial, in Hz, for a 48 kHz signal."""
    spectrum = torch.fft.rfft(samples * torch.hann_window(len(samples))).abs()
    return spectrum.argmax().item() * 48_000 / len(samples)


def refusal(path: Path, **options: float) -> str:
    """The one sentence with which `read` refuses a file."""
    with pytest.raises(AudioError) as caught:
        audio.read(path, **options)
    sentence = str(caught.value)
    assert sentence.endswith(".") and "\n" not in sentence and len(sentence) < 160
    return sentence


def test_rates_fit_together() -> None:
    assert audio.SAMPLES_PER_FRAME * audio.LATENT_RATE == audio.SAMPLE_RATE
    assert audio.FRAMES_PER_CODE * audio.CODE_RATE == audio.LATENT_RATE


@pytest.mark.parametrize("format", [*LOSSLESS, *LOSSY])
def test_every_format_keeps_length_place_and_pitch(tmp_path: Path, format: AudioFormat) -> None:
    waveform = tone(2.345)
    path = audio.write(tmp_path / f"song.{ENDINGS.get(format, format)}", waveform, format)
    back = audio.read(path)[0]
    assert back.shape == waveform.shape
    error = (back - waveform).square().mean() / waveform.square().mean()
    assert error < 0.003, "a delay of one sample would give 0.02"
    assert pitch_of(back[0]) == pytest.approx(1000, abs=1)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize(("format", "bits"), [("flac", 24), ("wav", 16), ("wav24", 24)])
def test_integer_formats_hold_the_nearest_step(
    tmp_path: Path, format: AudioFormat, bits: int
) -> None:
    waveform = noise(10_000)
    back = audio.read(audio.write(tmp_path / f"s.{ENDINGS.get(format, format)}", waveform, format))
    steps = np.rint(waveform.double().numpy() * 2 ** (bits - 1))
    assert np.array_equal(back[0].double().numpy() * 2 ** (bits - 1), steps)


@pytest.mark.parametrize("format", LOSSLESS)
def test_what_was_read_is_written_back_bit_for_bit(tmp_path: Path, format: AudioFormat) -> None:
    once = audio.read(audio.write(tmp_path / "a.wav", noise(5_000), format))
    twice = audio.read(audio.write(tmp_path / "b.wav", once[0], format))
    assert torch.equal(once, twice)


def test_float_wav_keeps_every_bit(tmp_path: Path) -> None:
    waveform = noise(5_000)
    assert torch.equal(audio.read(audio.write(tmp_path / "s.wav", waveform, "wav32"))[0], waveform)


def test_wav24_and_flac_hold_the_same_integers() -> None:
    waveform = torch.cat(
        [noise(50_000), torch.tensor([[1.0, -1.0, 2.0, -2.0, 0.0]]).repeat(2, 1)], 1
    )
    stored = [
        soundfile.read(io.BytesIO(audio.encode(waveform, format)), dtype="int32")[0]
        for format in ("flac", "wav24")
    ]
    assert np.array_equal(stored[0], stored[1])


def test_rounding_is_half_to_even_and_full_scale_does_not_wrap() -> None:
    steps = torch.tensor([0.5, 1.5, 2.5, -0.5, -1.5, 40_000.0, -40_000.0]) / 2**15
    stored, _ = soundfile.read(io.BytesIO(audio.encode(steps.repeat(2, 1), "wav")), dtype="int16")
    assert stored[:, 0].tolist() == [0, 2, 2, 0, -2, 32_767, -32_768]


@pytest.mark.parametrize("format", LOSSY)
def test_lossy_formats_do_not_wrap_above_full_scale(format: AudioFormat) -> None:
    stored, _ = soundfile.read(io.BytesIO(audio.encode(3 * tone(1.0), format)), dtype="float32")
    clipped = (3 * tone(1.0)).clamp(-1, 1).T.numpy()
    assert np.abs(stored - clipped)[2_000:-2_000].mean() < 0.05


def test_mp3_is_320_kilobits_per_second() -> None:
    assert len(audio.encode(tone(10.0), "mp3")) * 8 / 10 == pytest.approx(320_000, rel=0.02)


def test_three_minutes_of_vorbis_do_not_crash() -> None:
    stored = audio.encode(tone(180.0), "ogg")
    assert soundfile.info(io.BytesIO(stored)).frames == 180 * 48_000


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 96_000, 192_000])
def test_any_rate_becomes_48_khz_without_changing_pitch(tmp_path: Path, rate: int) -> None:
    path = file_of(tmp_path, "song.wav", tone(1.5, rate=rate), rate, subtype="FLOAT")
    back = audio.read(path)
    assert back.shape == (1, 2, 72_000)
    assert pitch_of(back[0, 0]) == pytest.approx(1000, abs=1)
    middle = slice(2_000, -2_000)
    assert torch.allclose(back[0][:, middle], tone(1.5)[:, middle], atol=2e-3)


def test_an_awkward_rate_takes_the_same_filter_as_torchaudio() -> None:
    from torchaudio.transforms import Resample

    waveform = noise(4_410)
    ours = audio._resample_directly(waveform, 44_100)
    theirs = Resample(44_100, 48_000)(waveform)
    assert ours.shape == theirs.shape
    assert torch.allclose(ours, theirs, atol=1e-5)
    downwards = Resample(96_000, 48_000)(waveform)
    assert torch.allclose(audio._resample_directly(waveform, 96_000), downwards, atol=1e-5)


def test_a_prime_rate_is_resampled_in_bounded_memory(tmp_path: Path) -> None:
    path = file_of(tmp_path, "song.wav", tone(2.0, rate=44_101), 44_101)
    back = audio.read(path)
    assert back.shape == (1, 2, 96_000)
    assert pitch_of(back[0, 1]) == pytest.approx(1250, abs=1)


def test_mono_is_doubled_and_more_channels_keep_the_first_two(tmp_path: Path) -> None:
    mono = audio.read(file_of(tmp_path, "mono.flac", tone(1.0, channels=1)))
    assert mono.shape == (1, 2, 48_000) and torch.equal(mono[0, 0], mono[0, 1])
    surround = tone(1.0, channels=6)
    read = audio.read(file_of(tmp_path, "surround.wav", surround, subtype="FLOAT"))
    assert torch.equal(read[0], surround[:2])


def test_samples_above_full_scale_are_clamped(tmp_path: Path) -> None:
    read = audio.read(file_of(tmp_path, "hot.wav", 4 * tone(0.5), subtype="FLOAT"))
    assert read.max() == 1 and read.min() == -1


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("s.aiff", {"subtype": "PCM_24"}),
        ("s.wav", {"subtype": "PCM_U8"}),
        ("s.wav", {"format": "WAVEX", "subtype": "PCM_16"}),
        ("s.wav", {"format": "RF64", "subtype": "PCM_24"}),
        ("renamed.txt", {"format": "FLAC", "subtype": "PCM_16"}),
    ],
)
def test_other_peoples_files_are_read_by_content(tmp_path: Path, name: str, how: dict) -> None:
    read = audio.read(file_of(tmp_path, name, tone(1.0), **how))
    assert torch.allclose(read[0], tone(1.0), atol=0.01)


def test_the_header_is_read_without_decoding(tmp_path: Path) -> None:
    info = probe(file_of(tmp_path, "s.flac", tone(2.0, rate=44_100, channels=1), 44_100))
    assert info == AudioInfo(rate=44_100, channels=1, frames=88_200, format="flac")
    assert info.seconds == 2.0


@pytest.mark.parametrize("format", [*LOSSLESS, *LOSSY])
def test_what_was_encoded_decodes_to_what_its_file_will_hold(
    tmp_path: Path, format: AudioFormat
) -> None:
    data = audio.encode(noise(24_123), format, recipe="{}")
    path = tmp_path / f"s.{ENDINGS.get(format, format)}"
    path.write_bytes(data)
    assert torch.equal(audio.decode(data), audio.read(path))


def test_text_is_not_audio(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("la la la\n" * 500)
    assert refusal(tmp_path / "notes.txt") == "notes.txt is not audio."
    (tmp_path / "notes.mp3").write_text("la la la\n" * 500)
    assert refusal(tmp_path / "notes.mp3") == "notes.mp3 is not audio."


def test_missing_empty_foreign_and_headerless_files_are_named(tmp_path: Path) -> None:
    assert refusal(tmp_path / "gone.wav") == "gone.wav does not exist."
    (tmp_path / "zero.wav").write_bytes(b"")
    assert refusal(tmp_path / "zero.wav") == "zero.wav is empty."
    (tmp_path / "folder.wav").mkdir()
    assert refusal(tmp_path / "folder.wav") == "folder.wav is a folder, not a sound file."
    (tmp_path / "song.m4a").write_bytes(b"\0\0\0 ftypM4A " + bytes(500))
    assert refusal(tmp_path / "song.m4a").startswith("m4a files cannot be read. Convert song.m4a")
    (tmp_path / "tape.raw").write_bytes(bytes(500))
    assert refusal(tmp_path / "tape.raw") == "tape.raw has no header that says what it holds."
    old = file_of(tmp_path, "old.au", tone(0.1))
    assert refusal(old).startswith("old.au is of the kind AU. Use WAV, FLAC")


def test_no_samples_and_too_many_are_refused(tmp_path: Path) -> None:
    silent = file_of(tmp_path, "none.wav", torch.zeros(2, 0))
    assert refusal(silent) == "none.wav holds no sound: its length is 0 s."
    long = file_of(tmp_path, "long.flac", torch.zeros(1, 8_000 * 725), 8_000)
    assert refusal(long) == "long.flac is 12 min 5 s long; at most 10 min are supported."
    assert refusal(file_of(tmp_path, "a.wav", tone(2.5)), max_seconds=2).startswith(
        "a.wav is 2.5 s"
    )


@pytest.mark.parametrize("rate", [7_999, 192_001])
def test_rates_out_of_range_are_refused(tmp_path: Path, rate: int) -> None:
    path = file_of(tmp_path, "s.wav", tone(0.1), rate)
    assert refusal(path).startswith(f"s.wav has {rate:,} samples per second;")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_files_with_nan_or_infinity_are_refused(tmp_path: Path, value: float) -> None:
    waveform = tone(0.5)
    waveform[1, 1234] = value
    path = file_of(tmp_path, "s.wav", waveform, subtype="FLOAT")
    assert refusal(path) == "s.wav has samples that are not numbers (NaN or infinity)."


@pytest.mark.parametrize("ending", ["flac", "wav", "aiff", "mp3", "ogg", "opus"])
def test_truncated_files_are_refused(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"song.{ending}"
    if ending == "aiff":
        file_of(tmp_path, path.name, noise(480_000))
    else:
        audio.write(path, noise(480_000))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 6 // 10])
    assert re.fullmatch(rf"song\.{ending} is damaged after 0:0[456]\.", refusal(path))
    if ending != "mp3":  # whose header alone does not show it
        with pytest.raises(AudioError, match=rf"song\.{ending} is damaged after 0:0[456]\."):
            probe(path)
    path.write_bytes(whole[:100])
    assert f"song.{ending} is damaged" in refusal(path)


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24"])
@pytest.mark.parametrize("samples", [1, 4_095, 4_096, 4_097, 48_000, 123_457])
def test_a_whole_flac_is_not_called_cut_and_a_cut_one_is(
    tmp_path: Path, samples: int, subtype: str
) -> None:
    path = file_of(tmp_path, "s.flac", noise(samples), subtype=subtype)
    assert probe(path).frames == samples
    whole = path.read_bytes()
    for kept in (0.9, 0.5):
        if samples > 3 * 4_096:
            path.write_bytes(whole[: int(kept * len(whole))])
            seconds = int(kept * samples / 48_000 - 0.1)
            with pytest.raises(AudioError, match=rf"damaged after 0:0{max(seconds, 0)}"):
                probe(path)


def test_a_recording_without_samples_is_refused_by_its_header(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match=r"^none\.wav holds no sound: its length is 0 s\.$"):
        probe(file_of(tmp_path, "none.wav", torch.zeros(2, 0)))


def test_damage_inside_a_flac_is_refused(tmp_path: Path) -> None:
    path = audio.write(tmp_path / "s.flac", noise(96_000))
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 2000] = bytes(2000)
    path.write_bytes(content)
    assert refusal(path).startswith("s.flac is damaged after 0:0")


def test_a_wav_written_to_a_pipe_is_read_to_its_end(tmp_path: Path) -> None:
    wav = bytearray(audio.encode(tone(1.0), "wav"))
    data = wav.index(b"data")
    wav[4:8] = wav[data + 4 : data + 8] = struct.pack("<I", 0xFFFFFFFF)
    (tmp_path / "s.wav").write_bytes(wav)
    assert audio.read(tmp_path / "s.wav").shape == (1, 2, 48_000)


def test_a_flac_written_to_a_pipe_is_refused_for_want_of_a_length(tmp_path: Path) -> None:
    flac = bytearray(audio.encode(tone(1.0), "flac"))
    flac[21] &= 0xF0  # STREAMINFO: the 36 bits of the total
    flac[22:26] = bytes(4)
    (tmp_path / "s.flac").write_bytes(flac)
    assert probe(tmp_path / "s.flac").seconds is None
    sentence = "s.flac does not say how long it is. Convert it to WAV first."
    assert refusal(tmp_path / "s.flac") == sentence


def test_an_mp3_without_a_frame_count_is_not_called_damaged(tmp_path: Path) -> None:
    quiet_then_loud = torch.cat([torch.zeros(2, 96_000), noise(96_000)], dim=1)
    file = io.BytesIO()
    soundfile.write(
        file, quiet_then_loud.T.numpy(), 48_000, format="MP3", bitrate_mode="VARIABLE"
    )  # fmt: skip
    content = file.getvalue()
    first = content.index(b"Xing")
    (tmp_path / "s.mp3").write_bytes(content[content.index(b"\xff\xfb", first) :])
    assert audio.read(tmp_path / "s.mp3").shape[-1] == pytest.approx(192_000, abs=4 * 1152)


def test_nothing_is_overwritten_unless_asked(tmp_path: Path) -> None:
    path = audio.write(tmp_path / "s.flac", tone(0.1))
    before = path.read_bytes()
    with pytest.raises(AudioError, match=r"^s\.flac exists already and was not overwritten\.$"):
        audio.write(path, tone(0.2))
    assert path.read_bytes() == before
    audio.write(path, tone(0.2), overwrite=True)
    assert probe(path).seconds == 0.2
    assert [p.name for p in tmp_path.iterdir()] == ["s.flac"]


def test_a_missing_folder_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match=r"^s\.flac cannot be saved: there is no folder .*no\.$"):
        audio.write(tmp_path / "no" / "s.flac", tone(0.1))
    (tmp_path / "file").write_text("")
    with pytest.raises(AudioError, match="there is no folder"):
        audio.write(tmp_path / "file" / "s.flac", tone(0.1))


@pytest.mark.parametrize("bad", [torch.zeros(2, 0), torch.full((2, 9), math.nan)])
def test_no_sound_is_not_written(tmp_path: Path, bad: Tensor) -> None:
    with pytest.raises(AudioError, match=r"[Nn]o sound|not numbers"):
        audio.write(tmp_path / "s.flac", bad)
    assert not any(tmp_path.iterdir())


def test_the_format_follows_the_suffix() -> None:
    assert audio.format_of("a.FLAC") == "flac"
    assert audio.format_of("a.wav") == "wav"
    assert audio.format_of("a.wav", "wav24") == "wav24"
    assert audio.format_of("a.mp3", "wav24") == "mp3"
    assert audio.format_of("a", "opus") == "opus"
    with pytest.raises(AudioError, match=r"a\.aac cannot be saved: its name must end in one of \."):
        audio.format_of("a.aac", "flac")


@given(
    level=st.floats(1e-4, 4),
    peak_db=st.floats(-10, 0),
    samples=st.integers(1, 2_000),
    seed=st.integers(0, 99),
)
def test_normalising_puts_the_loudest_sample_at_the_peak_level(
    level: float, peak_db: float, samples: int, seed: int
) -> None:
    waveform = level * noise(samples, seed)
    normal = audio.normalize_peak(waveform, peak_db)
    assert normal.abs().max().item() == pytest.approx(10 ** (peak_db / 20), rel=1e-5)
    assert torch.allclose(normal * (waveform.abs().max() / normal.abs().max()), waveform)


def test_normalising_leaves_silence_alone() -> None:
    waveform = 1e-6 * noise(100)
    assert torch.equal(audio.normalize_peak(waveform, -1.0), waveform)
    assert audio.is_silent(waveform[None]) and not audio.is_silent(noise(100)[None])


def test_limiting_touches_only_what_would_clip() -> None:
    assert torch.equal(audio.limit_peak(noise(100)), noise(100))
    assert audio.limit_peak(3 * noise(100)).abs().max() == 1
    assert torch.equal(audio.master(noise(100), peak_db=None), noise(100))


@settings(max_examples=50)
@given(
    seconds=st.floats(0.001, 0.2),
    fade_in=st.floats(0, 0.3),
    fade_out=st.floats(0, 0.3),
)
def test_fades_are_linear_and_leave_the_middle_alone(
    seconds: float, fade_in: float, fade_out: float
) -> None:
    ones = torch.ones(2, round(seconds * 48_000))
    length = ones.shape[-1]
    faded = audio.fade(ones, fade_in, fade_out)
    rising, falling = (min(round(s * 48_000), length) for s in (fade_in, fade_out))
    assert torch.equal(ones, torch.ones_like(ones)), "the input stays as it was"
    assert (faded[:, rising : length - falling] == 1).all()
    assert ((faded >= 0) & (faded <= 1)).all()
    if rising > 1 and rising + falling <= length:
        assert torch.allclose(faded[0, :rising].diff(), torch.tensor(1 / (rising - 1)), atol=1e-5)
        assert faded[0, 0] == 0
    if falling > 1:
        assert faded[0, -1] == 0


def test_mastering_levels_before_it_fades() -> None:
    mastered = audio.master(0.1 * torch.ones(2, 48_000), peak_db=0.0, fade_in=0.5, fade_out=0.25)
    assert mastered[0, 0] == 0 and mastered[0, -1] == 0
    assert mastered[0, 24_000:36_000].min() == pytest.approx(1.0)


@pytest.mark.parametrize("format", [*LOSSLESS, *LOSSY])
def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, format: AudioFormat) -> None:
    assert sys.platform != "win32"
    import resource

    path = tmp_path / f"s.{ENDINGS.get(format, format)}"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    data_size = len(audio.encode(noise(48_000), format))
    resource.setrlimit(resource.RLIMIT_FSIZE, (data_size // 2, before[1]))
    try:
        with pytest.raises(AudioError, match=r"^There is no space left in .* for s\."):
            audio.write(path, noise(48_000), format)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not any(tmp_path.iterdir())
