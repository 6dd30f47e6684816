"""Where finished files go: names that nothing has yet, and files that are whole or not there.

`outputs/<date>/NNNN_<task>_<slug>.<format>`, counted per day over everything in the folder.
"""

import os
import re
import unicodedata
from datetime import date
from pathlib import Path

from acestep.errors import AudioError
from acestep.request.values import AudioFormat, suffix

SLUG_LENGTH = 40
_FILE = re.compile(r"([0-9]{4,9})_")
_CLAIM = re.compile(r"\.([0-9]{4,9})\.claim$")


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
