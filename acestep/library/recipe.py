"""What made a song, inside its file and beside it, so that the song can be made again.

A recipe is plain JSON data. In FLAC, MP3, Ogg and Opus it is the comment; in WAV, whose comment
holds about 1 kB, a chunk of its own that other programs skip; beside the song a readable `.json`.
What is read here came from anywhere: it is bounded in size, parsed as data, and never run.
"""

import base64
import binascii
import json
import math
import re
import zlib
from pathlib import Path
from typing import Any

from acestep.errors import AudioError
from acestep.media.containers import RECIPE_CHUNK, chunks

Recipe = dict[str, Any]  # {"recipe": RECIPE_VERSION, "request": {…}, …}

# Raised when a field changes its meaning. New fields do not raise it: readers keep what they do
# not know. Version 1 had the planner's fields and the duration in every request.
RECIPE_VERSION = 2
MAX_RECIPE_BYTES = 256 * 1024

_PLAIN_LENGTH = 30_000
_PACKED = "acestep-recipe-zlib:"


def pack(recipe: Recipe) -> str:
    """One line of ASCII to put inside a sound file: JSON, compressed when it is long.

    Raises:
        AudioError: the recipe is longer than 256 kB.
    """
    recipe = _versioned(recipe)
    # MP3 comments mangle everything that is not ASCII.
    text = json.dumps(recipe, allow_nan=False, separators=(",", ":"))
    if len(text) <= _PLAIN_LENGTH:
        return text
    data = json.dumps(recipe, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    utf8 = data.encode("utf-8", "backslashreplace")
    if len(utf8) > MAX_RECIPE_BYTES:
        raise AudioError(
            f"The recipe is {len(utf8) / 1024:.0f} kB; {MAX_RECIPE_BYTES // 1024} kB is the limit."
        )
    return _PACKED + base64.b64encode(zlib.compress(utf8, 9)).decode("ascii")


def sidecar(recipe: Recipe) -> bytes:
    """What stands beside a song, under its name and `.json`, for people to read."""
    text = json.dumps(_versioned(recipe), ensure_ascii=False, allow_nan=False, indent=2)
    # Thousands of codes on a line each would bury the rest. A line break inside brackets is
    # never part of a string, because JSON writes those as \n.
    text = re.sub(r"\[\n\s*([-+.\deE,\s]+?)\s*\]", lambda m: f"[{' '.join(m[1].split())}]", text)
    # A lone surrogate (half an emoji, an undecodable file name) becomes its JSON escape.
    return text.encode("utf-8", "backslashreplace") + b"\n"


def read_recipe(path: str | Path) -> Recipe:
    """The recipe inside a sound file, or in the `.json` beside one.

    Raises:
        AudioError: there is none, or it is damaged, too long, or from a newer version.
    """
    path = Path(path)
    is_sidecar = path.suffix.lower() == ".json"
    try:
        text = _sidecar(path) if is_sidecar else _unpack(_embedded(path), path.name)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise AudioError(f"{path.name} cannot be read: {reason}.") from error
    what = "is not a recipe" if is_sidecar else "carries no recipe"
    return _parse(text, path.name, otherwise=f"{path.name} {what}.")


def _versioned(recipe: Recipe) -> Recipe:
    return {"recipe": RECIPE_VERSION, **recipe}


def _sidecar(path: Path) -> str:
    with path.open("rb") as file:
        return file.read(MAX_RECIPE_BYTES + 1).decode("utf-8-sig", "replace")


def _embedded(path: Path) -> str:
    """The text where `acestep.media.audio.encode` puts it; empty when there is none."""
    import soundfile

    with path.open("rb") as file:
        for name, start, size in chunks(file):
            if name == RECIPE_CHUNK:
                file.seek(start)
                # Base64 of incompressible data is a third longer than the data.
                return file.read(min(size, 2 * MAX_RECIPE_BYTES)).decode("ascii", "replace")
    try:
        with soundfile.SoundFile(str(path)) as sound:
            return sound.comment
    except (soundfile.LibsndfileError, TypeError):  # TypeError: a `.raw` file has no header
        raise AudioError(f"{path.name} is not audio.") from None


def _unpack(text: str, name: str) -> str:
    if not text.startswith(_PACKED):
        return text
    inflate = zlib.decompressobj()
    try:
        packed = base64.b64decode(text.removeprefix(_PACKED), validate=True)
        data = inflate.decompress(packed, MAX_RECIPE_BYTES + 1)
        if not inflate.eof and len(data) <= MAX_RECIPE_BYTES:
            raise zlib.error("cut")
        return data.decode("utf-8", "replace")
    except (binascii.Error, zlib.error):
        raise AudioError(f"The recipe in {name} is damaged.") from None


def _parse(text: str, name: str, otherwise: str) -> Recipe:
    """`otherwise` is what to say about JSON, or other text, that is not a recipe at all."""
    if len(text.encode("utf-8", "surrogatepass")) > MAX_RECIPE_BYTES:
        raise AudioError(
            f"The recipe in {name} is longer than {MAX_RECIPE_BYTES // 1024} kB, so it is not read."
        )
    try:
        recipe = json.loads(text, parse_constant=_finite, parse_float=_finite)
    except (ValueError, RecursionError):
        raise AudioError(otherwise) from None
    if not isinstance(recipe, dict) or not isinstance(recipe.get("request"), dict):
        raise AudioError(otherwise)
    version = recipe.get("recipe")
    if type(version) is not int or version < 1:
        raise AudioError(otherwise)
    if version > RECIPE_VERSION:
        raise AudioError(
            f"The recipe in {name} is of version {version}, and this acestep reads up to "
            f"{RECIPE_VERSION}. Update acestep."
        )
    return _upgraded(recipe) if version < RECIPE_VERSION else recipe


def _upgraded(recipe: Recipe) -> Recipe:
    """A recipe of version 1 as one of today: fields that its task no longer has are left out, and
    the DiT reads the planner's caption, which it then always did."""
    request = dict(recipe["request"])
    if request.get("task") in ("repaint", "cover"):
        for name in list(request):
            is_fade = request["task"] == "repaint" and name in ("fade_in", "fade_out")
            if name in ("duration", "think", "plan") or name.startswith("lm_") or is_fade:
                del request[name]
    elif isinstance(plan := request.get("plan"), dict) and plan.get("caption"):
        request["rewrite_caption"] = True
    return {**recipe, "recipe": RECIPE_VERSION, "request": request}


def _finite(number: str) -> float:
    value = float(number)
    if not math.isfinite(value):
        raise ValueError(f"{number} is not JSON")
    return value
