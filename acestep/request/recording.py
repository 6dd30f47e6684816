"""A recording that the planner is to listen to."""

from acestep.request.schema import Schema, setting
from acestep.request.values import File


class Recording(Schema):
    """A song whose tempo, key and codes are to be heard."""

    source_audio: File = setting(
        ..., "source", "Source Audio", "The song to listen to.",
        missing="Choose the song to listen to first.",
    )  # fmt: skip
