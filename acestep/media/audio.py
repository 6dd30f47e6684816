"""Sound files: read, resampled, levelled and written.

Everything inside is float32, stereo, 48 kHz, in [−1, 1]. Knows nothing about models. Files are
read and written by libsndfile (soundfile); its traps are handled here and nowhere else.
"""

import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from acestep.errors import AudioError
from acestep.media.audio_checks import SILENCE
from acestep.media.containers import MAX_OPUS_COMMENT, RECIPE_CHUNK, append_chunk, is_cut
from acestep.media.files import write_file
from acestep.media.sound_files import (
    MAX_SECONDS,
    AudioInfo,
    check_header,
    damaged,
    info_of,
    open_file,
)
from acestep.request.values import CODE_RATE, AudioFormat, suffix
from acestep.types import Channels, Stereo, Waveform

if TYPE_CHECKING:
    from soundfile import SoundFile

SAMPLE_RATE = 48_000  # samples per second
CHANNELS = 2
LATENT_RATE = 25  # VAE frames per second
SAMPLES_PER_FRAME = SAMPLE_RATE // LATENT_RATE
FRAMES_PER_CODE = LATENT_RATE // CODE_RATE

# libsndfile's Vorbis encoder crashes the process when it gets minutes at once (1.2.2, measured).
_BLOCK = SAMPLE_RATE


@dataclass(frozen=True)
class _Encoding:
    """libsndfile's words for a format; `bits` is None where samples stay float."""

    container: str
    subtype: str
    bits: int | None = None
    compression_level: float | None = None
    bitrate_mode: str | None = None


_ENCODINGS: dict[AudioFormat, _Encoding] = {
    "flac": _Encoding("FLAC", "PCM_24", bits=24),
    "wav": _Encoding("WAV", "PCM_16", bits=16),
    "wav24": _Encoding("WAV", "PCM_24", bits=24),
    "wav32": _Encoding("WAV", "FLOAT"),
    "mp3": _Encoding("MP3", "MPEG_LAYER_III", compression_level=0.0, bitrate_mode="CONSTANT"),
    "ogg": _Encoding("OGG", "VORBIS", compression_level=0.2),  # quality 8, about 250 kbit/s
    "opus": _Encoding("OGG", "OPUS", compression_level=0.6),  # about 210 kbit/s
}


def format_of(path: str | Path, wished: AudioFormat | None = None) -> AudioFormat:
    """The format a path asks for: its suffix, and `wished` where that fits it (wav24 for .wav).

    Raises:
        AudioError: no format has this suffix.
    """
    ending = Path(path).suffix.lower()
    if wished is not None and ending in ("", suffix(wished)):
        return wished
    for format in _ENCODINGS:
        if ending == suffix(format):
            return format
    endings = ", ".join(dict.fromkeys(map(suffix, _ENCODINGS)))
    raise AudioError(f"{Path(path).name} cannot be saved: its name must end in one of {endings}.")


def read(path: str | Path, *, max_seconds: float = MAX_SECONDS) -> Waveform:
    """A sound file as (1, 2, sample): 48 kHz stereo, clamped to [−1, 1].

    Mono is doubled, and of more than two channels the first two stay. No level is changed,
    nothing is trimmed, no dither is added. The header is judged before anything is decoded.

    Raises:
        AudioError: the file cannot be read, is empty, too long, cut short or not made of numbers.
    """
    held, info = read_as_held(path, max_seconds=max_seconds)
    return to_stereo(held, info.rate)


def read_as_held(
    path: str | Path, *, max_seconds: float = MAX_SECONDS
) -> tuple[Channels, AudioInfo]:
    """At most two channels of a sound file, at its own rate and as loud as it holds them.

    Raises:
        AudioError: as `read`.
    """
    path = Path(path)
    with open_file(path) as sound:
        info = info_of(sound, path)
        check_header(info, path.name, max_seconds)
        samples, is_broken = _decode(sound)
    if is_broken or is_cut(path, info.frames, len(samples)):
        raise AudioError(damaged(path, len(samples), info.rate))
    if len(samples) == 0:
        raise AudioError(f"{path.name} holds no sound: its length is 0 s.")
    if not np.isfinite(samples).all():
        raise AudioError(f"{path.name} has samples that are not numbers (NaN or infinity).")
    return torch.from_numpy(np.ascontiguousarray(samples.T)), info


def decode(data: bytes | memoryview) -> Waveform:
    """What `read` will give for a file of ours with these bytes (see `encode`)."""
    import soundfile

    with soundfile.SoundFile(io.BytesIO(data)) as sound:
        samples, _ = _decode(sound)
        return to_stereo(torch.from_numpy(np.ascontiguousarray(samples.T)), sound.samplerate)


def to_stereo(held: Channels, rate: int) -> Waveform:
    """Any one or two channels as (1, 2, sample), 48 kHz, clamped to [−1, 1]."""
    return resample(held, rate).clamp(-1, 1).expand(1, 2, -1).contiguous()


def loss(waveform: Stereo, format: AudioFormat) -> str | None:
    """What a file of this format does to these samples, or `None` when it keeps every bit."""
    encoding = _ENCODINGS[format]
    if encoding.bits is None:
        return None if encoding.subtype == "FLOAT" else "only nearly the same"
    full_scale = 2.0 ** (encoding.bits - 1)
    integers = waveform.double() * full_scale
    is_held = (integers == integers.round().clamp(-full_scale, full_scale - 1)).all()
    return None if is_held else f"rounded to {encoding.bits} bits"


def resample(waveform: Channels, rate: int) -> Channels:
    """From `rate` to 48 kHz by windowed-sinc interpolation (Hann window, 6 zero crossings)."""
    if rate == SAMPLE_RATE:
        return waveform
    common = math.gcd(rate, SAMPLE_RATE)
    if (rate // common) * (SAMPLE_RATE // common) > 2**22:
        return _resample_directly(waveform, rate)
    from torchaudio.transforms import Resample

    return Resample(rate, SAMPLE_RATE)(waveform)


def is_silent(waveform: Waveform) -> bool:
    """No sample is louder than −100 dBFS."""
    return waveform.numel() == 0 or waveform.abs().max().item() <= SILENCE


def rms(waveform: Stereo) -> float:
    """Root mean square of all samples, times the square root of their number."""
    return torch.linalg.vector_norm(waveform, dtype=torch.float64).item()


def master(
    waveform: Stereo, *, peak_db: float | None, fade_in: float = 0.0, fade_out: float = 0.0
) -> Stereo:
    """Level, then fades (seconds). With `peak_db` None only what would clip is made quieter."""
    levelled = limit_peak(waveform) if peak_db is None else normalize_peak(waveform, peak_db)
    return fade(levelled, fade_in, fade_out)


def normalize_peak(waveform: Stereo, peak_db: float) -> Stereo:
    """Scale so that the loudest sample is at `peak_db` dBFS; silence stays as it is."""
    if is_silent(waveform):
        return waveform
    return waveform * (10 ** (peak_db / 20) / waveform.abs().max())


def limit_peak(waveform: Stereo) -> Stereo:
    """Scale down so that no sample is above 1; what is not above stays bit-identical."""
    peak = waveform.abs().max() if waveform.numel() else torch.zeros(())
    return waveform / peak if peak > 1 else waveform


def fade(waveform: Stereo, fade_in: float, fade_out: float) -> Stereo:
    """Linear ramps from and to silence, in seconds; longer ones than the song are shortened."""
    waveform = waveform.clone()
    length = waveform.shape[-1]
    rising, falling = (min(round(s * SAMPLE_RATE), length) for s in (fade_in, fade_out))
    waveform[..., :rising] *= torch.linspace(0, 1, rising, device=waveform.device)
    waveform[..., length - falling :] *= torch.linspace(1, 0, falling, device=waveform.device)
    return waveform


def write(
    path: str | Path,
    waveform: Stereo,
    format: AudioFormat | None = None,
    recipe: str | None = None,
    *,
    overwrite: bool = False,
) -> Path:
    """Write a finished sound file or none at all; `format` defaults to the path's suffix.

    Args:
        recipe: text from `acestep.library.recipe.pack` that travels inside the file.

    Raises:
        AudioError: the file exists, the folder does not, the disk is full, …
    """
    data = encode(waveform, format or format_of(path), recipe)
    return write_file(path, data, overwrite=overwrite)


def encode(waveform: Stereo, format: AudioFormat, recipe: str | None = None) -> memoryview:
    """The bytes of a sound file.

    Integer formats are rounded to nearest even in float64, so the same waveform gives the same
    integers in every container, and what was read from 16 or 24 bit is written unchanged.

    Raises:
        AudioError: there is nothing to write, or it is not made of numbers.
    """
    import soundfile

    samples = waveform.detach().to("cpu", torch.float32).numpy().T
    if len(samples) == 0:
        raise AudioError("There is no sound to save: its length is 0 s.")
    if not np.isfinite(samples).all():
        raise AudioError("The sound has samples that are not numbers, so it was not saved.")
    encoding = _ENCODINGS[format]
    in_chunk = encoding.container == "WAV"
    if recipe and format == "opus" and len(recipe) > MAX_OPUS_COMMENT:
        raise AudioError("The recipe is too long for an Opus file. Choose flac, wav, mp3 or ogg.")
    file = io.BytesIO()
    with soundfile.SoundFile(
        file, "w", SAMPLE_RATE, CHANNELS, encoding.subtype, format=encoding.container,
        compression_level=encoding.compression_level, bitrate_mode=encoding.bitrate_mode,
    ) as sound:  # fmt: skip
        if recipe and not in_chunk:
            sound.comment = recipe
        for start in range(0, len(samples), _BLOCK):
            sound.write(_quantize(samples[start : start + _BLOCK], encoding))
    if recipe and in_chunk:
        append_chunk(file, RECIPE_CHUNK, recipe.encode("ascii"))
    return file.getbuffer()


def _quantize(block: np.ndarray, encoding: _Encoding) -> np.ndarray:
    """What libsndfile stores as it is: its own float conversion differs between containers."""
    if encoding.subtype == "FLOAT":
        return np.ascontiguousarray(block)
    if encoding.bits is None:
        return np.ascontiguousarray(block.clip(-1, 1))
    full_scale = 2.0 ** (encoding.bits - 1)
    integers = np.rint(block.astype(np.float64) * full_scale).clip(-full_scale, full_scale - 1)
    # libsndfile takes the high bits of 32.
    return np.ascontiguousarray(integers.astype(np.int32) << (32 - encoding.bits))


def _decode(sound: "SoundFile") -> tuple[np.ndarray, bool]:
    """All samples of the first two channels, and whether decoding broke off."""
    import soundfile

    # A block that breaks off is lost, so it is a second at most; a header may claim a thousand
    # channels, so it shrinks with them.
    size = max(1024, min(sound.samplerate, 2**20 // sound.channels))
    blocks: list[np.ndarray] = [np.empty((0, min(2, sound.channels)), np.float32)]
    try:
        while len(block := sound.read(size, dtype="float32", always_2d=True)):
            blocks.append(block[:, :2].copy())
    except soundfile.LibsndfileError:
        return np.concatenate(blocks), True
    return np.concatenate(blocks), False


def _resample_directly(waveform: Channels, rate: int) -> Channels:
    """`Resample` for a rate that shares no large factor with 48 kHz, such as 44,101 Hz.

    torchaudio tabulates the filter for every phase, which would be gigabytes here. The same
    filter is evaluated per output sample instead: slower, in bounded memory.
    """
    zero_crossings, rolloff = 6, 0.99
    cutoff = rolloff * min(rate, SAMPLE_RATE)
    reach = math.ceil(zero_crossings * rate / cutoff)
    padded = torch.nn.functional.pad(waveform, (reach, reach + 1))
    offsets = torch.arange(-reach, reach + 2)
    count = math.ceil(waveform.shape[-1] * SAMPLE_RATE / rate)
    pieces: list[Tensor] = []
    for first in range(0, count, _BLOCK):
        position = torch.arange(first, min(first + _BLOCK, count)) * rate
        nearest, rest = position // SAMPLE_RATE, (position % SAMPLE_RATE).double() / SAMPLE_RATE
        t = ((offsets - rest[:, None]) * (cutoff / rate)).clamp(-zero_crossings, zero_crossings)
        window = torch.cos(t * (math.pi / zero_crossings / 2)) ** 2
        kernel = (torch.sinc(t) * window * (cutoff / rate)).to(waveform.dtype)
        taps = padded[:, nearest[:, None] + offsets + reach]
        pieces.append((taps * kernel).sum(-1))
    return torch.cat(pieces, dim=-1)
