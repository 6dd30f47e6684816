"""Requests in files: JSON data of one, the recipe of a finished song, or one of them per line."""

import json
from typing import TYPE_CHECKING

from acestep.errors import InvalidRequest

if TYPE_CHECKING:
    from acestep.request import MusicRequest


def read_request(text: str, where: str) -> "MusicRequest":
    """The request in a text: JSON data of one, or the recipe of a finished song.

    Raises:
        InvalidRequest: it is neither, or a value cannot be used.
    """
    from acestep.engine import songs
    from acestep.request import parse_request

    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise InvalidRequest("file", f"{where} is not JSON: {error}.") from None
    if not isinstance(data, dict):
        raise InvalidRequest("file", f"{where} is not a request: it must be a JSON object.")
    is_recipe = "recipe" in data and isinstance(data.get("request"), dict)
    return songs.request_in(data) if is_recipe else parse_request(data)


def job_lines(text: str) -> list[tuple[int, str]]:
    """The lines that are not empty, with their numbers.

    Raises:
        InvalidRequest: there are none.
    """
    lines = [(n, line) for n, line in enumerate(text.splitlines(), start=1) if line.strip()]
    if not lines:
        raise InvalidRequest("file", "The file has no jobs: write one JSON request per line.")
    return lines
