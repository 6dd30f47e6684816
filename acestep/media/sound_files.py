"""Sound files as their headers describe them: what they are, and why one cannot be used.

Nothing is decoded here, and torch is not imported. Files are opened by libsndfile (soundfile).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from acestep.errors import AudioError
from acestep.media.containers import heard_of_cut

if TYPE_CHECKING:
    from soundfile import SoundFile

MAX_SECONDS = 600.0
MIN_RATE, MAX_RATE = 8_000, 192_000
_READABLE = ("WAV", "WAVEX", "RF64", "FLAC", "MP3", "OGG", "AIFF")
_READABLE_NAMES = "WAV, FLAC, MP3, Ogg, Opus or AIFF"
_OTHER_AUDIO = {".aac", ".amr", ".m4a", ".mka", ".mkv", ".mov", ".mp4", ".webm", ".wma"}
# The first bytes of what can be read: such a file that does not open is damaged, not foreign.
_MAGIC = (b"fLaC", b"OggS", b"ID3", b"\xff\xfb", b"\xff\xfa", b"\xff\xf3", b"\xff\xf2")


@dataclass(frozen=True)
class AudioInfo:
    """What a file's header says. `frames` are samples per channel, `None` if it does not say."""

    rate: int
    channels: int
    frames: int | None
    format: str

    @property
    def seconds(self) -> float | None:
        return None if self.frames is None else self.frames / self.rate


def probe(path: str | Path) -> AudioInfo:
    """Rate, channels and length from the header; nothing is decoded.

    Raises:
        AudioError: the file is missing, empty, cut, or not audio that can be read.
    """
    path = Path(path)
    with open_file(path) as sound:
        info = info_of(sound, path)
    if info.frames == 0:
        raise AudioError(f"{path.name} holds no sound: its length is 0 s.")
    heard = heard_of_cut(path, info.frames)
    if heard is not None:
        raise AudioError(damaged(path, heard, info.rate))
    return info


def damaged(path: Path, heard: int, rate: int) -> str:
    """What to say of a file that breaks off after so many samples."""
    minutes, seconds = divmod(heard // rate, 60)
    return f"{path.name} is damaged after {minutes}:{seconds:02d}."


def open_file(path: Path) -> "SoundFile":
    """A sound file, to be decoded.

    Raises:
        AudioError: as `probe`.
    """
    import soundfile

    if path.is_dir():
        raise AudioError(f"{path.name} is a folder, not a sound file.")
    try:
        with path.open("rb") as file:
            head = file.read(12)
    except FileNotFoundError:
        raise AudioError(f"{path.name} does not exist.") from None
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise AudioError(f"{path.name} cannot be read: {reason}.") from error
    if not head:
        raise AudioError(f"{path.name} is empty.")
    if path.suffix.lower() == ".raw":  # soundfile would ask for rate and channels
        raise AudioError(f"{path.name} has no header that says what it holds.")
    try:
        return soundfile.SoundFile(str(path))
    except soundfile.LibsndfileError:
        raise AudioError(_unreadable(path, head)) from None


def _unreadable(path: Path, head: bytes) -> str:
    if path.suffix.lower() in _OTHER_AUDIO:
        return (
            f"{path.suffix.lower()[1:]} files cannot be read. "
            f"Convert {path.name} to {_READABLE_NAMES} first."
        )
    if head.startswith(_MAGIC) or head[8:] == b"WAVE" or head[8:] in (b"AIFF", b"AIFC"):
        return f"{path.name} is damaged: it cannot be opened."
    return f"{path.name} is not audio."


def info_of(sound: "SoundFile", path: Path) -> AudioInfo:
    """What the header of an opened file says.

    Raises:
        AudioError: it is of a kind that is not read.
    """
    if sound.format not in _READABLE:
        raise AudioError(f"{path.name} is of the kind {sound.format}. Use {_READABLE_NAMES}.")
    # FLAC from a pipe has no length; libsndfile then says 2^63 - 1.
    frames = None if sound.frames >= 2**62 else sound.frames
    return AudioInfo(sound.samplerate, sound.channels, frames, sound.format.lower())


def check_header(info: AudioInfo, name: str, max_seconds: float = MAX_SECONDS) -> None:
    """Refuse what no decoding could make right.

    Raises:
        AudioError: the rate is out of range, or the length unknown or too long.
    """
    if not MIN_RATE <= info.rate <= MAX_RATE:
        raise AudioError(
            f"{name} has {info.rate:,} samples per second; "
            f"{MIN_RATE:,} to {MAX_RATE:,} are supported."
        )
    if info.seconds is None:
        # soundfile fails at the end of such a file, after its last samples (0.14, measured).
        raise AudioError(f"{name} does not say how long it is. Convert it to WAV first.")
    if info.seconds > max_seconds:
        raise AudioError(
            f"{name} is {_length(info.seconds)} long; at most {_length(max_seconds)} are supported."
        )


def _length(seconds: float) -> str:
    """`45 s`, `10 min`, `12 min 5 s`."""
    minutes, rest = divmod(round(seconds, 2), 60)
    parts = [f"{minutes:.0f} min"] * (minutes > 0) + [f"{rest:g} s"] * (rest > 0 or minutes == 0)
    return " ".join(parts)
