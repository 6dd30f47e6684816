"""Where finished files go: names that nothing has yet, and files that are whole or not there.

`outputs/<date>/NNNN_<task>_<slug>.<format>`, counted per day over everything in the folder.
"""

import os
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, get_args

from acestep.errors import AudioError, InvalidRequest
from acestep.media.files import write_file
from acestep.request import MusicRequest
from acestep.request.values import AudioFormat, suffix

if TYPE_CHECKING:
    from acestep.library.track import Track

RECIPE, LATENTS = ".json", ".safetensors"
SIDECARS = (RECIPE, LATENTS)  # what stands beside a song, under the song's name
SLUG_LENGTH = 40
_FILE = re.compile(r"([0-9]{4,9})_")
_CLAIM = re.compile(r"\.([0-9]{4,9})\.claim$")


@dataclass(frozen=True)
class Destination:
    """Where songs go: a folder that numbers them, or one file name the user chose."""

    path: Path
    is_file: bool

    @classmethod
    def parse(cls, out: str) -> Self:
        path = Path(out)
        return cls(path, bool(path.suffix) and not path.is_dir() and not out.endswith(("/", "\\")))

    def formatted(self, request: MusicRequest, *, chosen: bool) -> MusicRequest:
        """The request in the format that the file name says; `chosen` if the user said one too.

        Raises:
            InvalidRequest: the suffix is unknown, or contradicts the chosen format.
        """
        if not self.is_file:
            return request
        fitting = formats_of(self.path.suffix)
        if not fitting:
            raise InvalidRequest(
                "out",
                f"{self.path.suffix} is not a format: see --format, or end a folder with a slash.",
            )
        if request.format in fitting:
            return request
        if chosen:
            raise InvalidRequest(
                "format",
                f"{self.path.name} cannot hold the format {request.format}: "
                "change the suffix, or leave the format out.",
            )
        return request.model_copy(update={"format": fitting[0]})

    def reserve(self, takes: int) -> None:
        """Refuse names that cannot be had, before minutes are spent on rendering.

        Raises:
            InvalidRequest: a song of that name or a file beside it exists, or nothing can be
                written there.
        """
        for song in self._files(takes):
            for path in (song, *map(song.with_suffix, SIDECARS)):
                if os.path.lexists(path):
                    raise InvalidRequest("out", f"{path} exists already and is not overwritten.")
        folder = self.path.parent if self.is_file else self.path
        today = folder if self.is_file else folder / date.today().isoformat()
        there = next(place for place in (today, *today.absolute().parents) if place.exists())
        if not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
            raise InvalidRequest("out", f"Nothing can be saved in {folder}.")

    def save(self, tracks: "Sequence[Track]") -> list[Path]:
        """Write finished songs where they belong.

        Raises:
            AudioError: one cannot be written.
        """
        if not self.is_file:
            return [track.save_in(self.path) for track in tracks]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        return [
            track.save(path) for track, path in zip(tracks, self._files(len(tracks)), strict=True)
        ]

    def adopt(self, song: Path, request: Mapping[str, Any]) -> Path:
        """Copy a finished song here, with all that stands beside it; `request` is its recipe's.

        Raises:
            AudioError: a file of that name exists, or cannot be written.
        """
        path = self.path
        if not self.is_file:
            task, caption, format = (request[name] for name in ("task", "caption", "format"))
            path = next_path(self.path, task, caption, format, date.today())
        path.parent.mkdir(parents=True, exist_ok=True)
        for file in (song, *map(song.with_suffix, SIDECARS)):
            if file.exists():
                write_file(path.with_suffix(file.suffix), file.read_bytes())
        return path

    def _files(self, takes: int) -> list[Path]:
        if not self.is_file:
            return []
        if takes == 1:
            return [self.path]
        return [self.path.with_stem(f"{self.path.stem}-{take}") for take in range(1, takes + 1)]


def formats_of(suffix_of_file: str) -> list[AudioFormat]:
    """Formats that files of this suffix may hold: .wav has three."""
    return [name for name in get_args(AudioFormat) if suffix(name) == suffix_of_file.lower()]


def slug(caption: str) -> str:
    """The caption as at most 40 characters that every file system and shell takes; never empty."""
    plain = unicodedata.normalize("NFKD", caption).encode("ascii", "ignore").decode().lower()
    words = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")
    if len(words) > SLUG_LENGTH:
        # Cut between words unless the first word alone is too long.
        words = words[: SLUG_LENGTH + 1].rpartition("-")[0] or words[:SLUG_LENGTH]
    return words or "song"


def next_path(
    folder: str | Path, task: str, caption: str, format: AudioFormat, today: date
) -> Path:
    """A path whose number no file of the day has, and that no one else is given.

    Safe between threads and processes: the number is claimed by creating `.NNNN.claim`, which a
    later call removes once a file with that number or a higher one is there.

    Raises:
        AudioError: the folder cannot be made or written to.
    """
    day = Path(folder) / today.isoformat()
    try:
        day.mkdir(parents=True, exist_ok=True)
        number = _claim_number(day)
    except OSError as error:
        raise AudioError(
            f"Songs cannot be saved in {day}: {(error.strerror or str(error)).lower()}."
        ) from error
    return day / f"{number:04d}_{task}_{slug(caption)}{suffix(format)}"


def _claim_number(day: Path) -> int:
    """One more than every number in use, as a file or as a claim."""
    highest = _highest(day, _FILE)
    for claim in [name for name in os.listdir(day) if _CLAIM.match(name)]:
        if int(claim.split(".")[1]) <= highest:
            (day / claim).unlink(missing_ok=True)
    number = max(highest, _highest(day, _CLAIM))
    while True:
        number += 1
        claim = day / f".{number:04d}.claim"
        try:
            claim.open("x").close()
        except FileExistsError:
            continue
        # Since the listing, someone may have claimed this number, used it and seen it tidied away.
        highest = _highest(day, _FILE)
        if number > highest:
            return number
        claim.unlink(missing_ok=True)
        number = highest


def _highest(day: Path, pattern: re.Pattern[str]) -> int:
    numbers = (int(match[1]) for name in os.listdir(day) if (match := pattern.match(name)))
    return max(numbers, default=0)
