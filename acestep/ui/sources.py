"""The song an edit starts from: which of ours it is, what it is like, what it was asked for."""

import filecmp
import glob
import html
from pathlib import Path

from acestep.errors import AceStepError, AudioError
from acestep.library.recipe import read_recipe
from acestep.media.sound_files import probe
from acestep.request import MusicRequest, parse_request


def original(upload: Path, songs: Path) -> Path:
    """The song below `songs` that an upload is a copy of, else the upload itself.

    The page's player and the browser hold copies, but a song's latents lie beside the song.
    """
    name = glob.escape(upload.name)
    for song in (*songs.glob(name), *songs.glob(f"*/{name}")):
        if song != upload and song.is_file() and filecmp.cmp(song, upload, shallow=False):
            return song
    return upload


def length(song: Path) -> float:
    """Seconds of sound, as the file's header says.

    Raises:
        AudioError: it is not audio that can be read, or does not say.
    """
    seconds = probe(song).seconds
    if seconds is None:
        raise AudioError(f"{song.name} does not say how long it is. Convert it to WAV first.")
    return seconds


def facts(song: Path) -> str:
    """What is known about a song without decoding it, in one line.

    Raises:
        AudioError: it is not audio that can be read.
    """
    info = probe(song)
    channels = {1: "mono", 2: "stereo"}.get(info.channels, f"{info.channels} channels")
    known = [f"{info.seconds:.1f} s"] if info.seconds is not None else []
    known += [f"{info.rate / 1000:g} kHz {channels}", info.format.upper()]
    made = request_of(song)
    if made is not None and made.seed is not None:
        known.append(f"made here with seed {made.seed}")
    return " · ".join([song.name, *known])


def request_of(song: Path) -> MusicRequest | None:
    """What a song of ours was asked for, from the recipe inside it; None when there is none."""
    try:
        return parse_request(read_recipe(song)["request"])
    except AceStepError:  # not ours, damaged, or from another version: its sound is still good
        return None


def line(words: str) -> str:
    """A sentence below a control, as HTML."""
    return f'<p role="status">{html.escape(words)}</p>'


def complaint(error: AceStepError) -> str:
    """What is wrong with the control above, as HTML."""
    return f'<p role="alert" class="warning">{html.escape(str(error))}</p>'
