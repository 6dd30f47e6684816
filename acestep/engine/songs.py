"""What the doors may ask of a song's file: everything is told without decoding it."""

import filecmp
import glob
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from acestep.errors import AceStepError
from acestep.library.recipe import read_recipe
from acestep.media import sound_files
from acestep.request import MusicRequest, parse_request
from acestep.request.asked import Asked

AnyRequest = TypeVar("AnyRequest", bound=Asked)


def original(upload: Path, songs: Path) -> Path:
    """The song below `songs` that an upload is a copy of, else the upload itself.

    The page's player and the browser hold copies, but a song's latents lie beside the song.
    """
    name = glob.escape(upload.name)
    for song in (*songs.glob(name), *songs.glob(f"*/{name}")):
        if song != upload and song.is_file() and filecmp.cmp(song, upload, shallow=False):
            return song
    return upload


def with_original(request: AnyRequest, songs: Path) -> AnyRequest:
    """The request, about our own song where it names a copy of one."""
    source = request.source_file
    if source is None or not source.is_file():
        return request
    return request.with_source(original(source, songs))


def look(request: Asked) -> None:
    """Refuse what the header of a source forbids, before a model is loaded.

    Raises:
        AudioError: it is not audio that can be read.
        InvalidRequest: the song has no such region.
    """
    if request.source_file is not None:
        request.check_source(length(request.source_file))


def length(song: Path) -> float:
    """Seconds of sound, as the file's header says.

    Raises:
        AudioError: it is not audio that can be read, or of a length that cannot.
    """
    info = sound_files.probe(song)
    sound_files.check_header(info, song.name)
    assert info.seconds is not None, "a header without a length was refused"
    return info.seconds


def facts(song: Path) -> str:
    """What is known about a song, in one line.

    Raises:
        AudioError: it is not audio that can be read.
    """
    info = sound_files.probe(song)
    channels = {1: "mono", 2: "stereo"}.get(info.channels, f"{info.channels} channels")
    known = [f"{info.seconds:.1f} s"] if info.seconds is not None else []
    known += [f"{info.rate / 1000:g} kHz {channels}", info.format.upper()]
    made = request_of(song)
    if made is not None and made.seed is not None:
        known.append(f"made here with seed {made.seed}")
    return " · ".join([song.name, *known])


def request_in(made: Mapping[str, Any]) -> MusicRequest:
    """The request in a recipe. Its format was the old file's, so a new file's name may change it.

    Raises:
        InvalidRequest: it is from another version.
    """
    request = parse_request(made["request"])
    request.model_fields_set.discard("format")
    return request


def request_of(song: Path) -> MusicRequest | None:
    """What a song of ours was asked for, from the recipe inside it; None when there is none."""
    try:
        return request_in(read_recipe(song))
    except AceStepError:  # not ours, damaged, or from another version: its sound is still good
        return None
