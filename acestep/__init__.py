"""ACE-Step 1.5: captions and lyrics become finished songs, on your own machine.

Importing this package costs milliseconds: a public name is loaded when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from acestep.errors import (
        AceStepError,
        AudioError,
        Cancelled,
        CheckpointError,
        DownloadError,
        EngineStopped,
        InvalidRequest,
        ModelMissing,
        OutOfMemory,
        PortBusy,
        Unavailable,
        UnsoundResult,
    )
    from acestep.library.track import Track
    from acestep.request import Cover, Plan, Repaint, Text2Music
    from acestep.service import MusicService

    __version__: str

__all__ = [
    "AceStepError",
    "AudioError",
    "Cancelled",
    "CheckpointError",
    "Cover",
    "DownloadError",
    "EngineStopped",
    "InvalidRequest",
    "ModelMissing",
    "MusicService",
    "OutOfMemory",
    "Plan",
    "PortBusy",
    "Repaint",
    "Text2Music",
    "Track",
    "Unavailable",
    "UnsoundResult",
    "__version__",
]

_HOMES = {
    "Cover": "acestep.request",
    "MusicService": "acestep.service",
    "Plan": "acestep.request",
    "Repaint": "acestep.request",
    "Text2Music": "acestep.request",
    "Track": "acestep.library.track",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "__version__":
        from importlib import metadata  # imports an e-mail parser

        return metadata.version("acestep")
    return getattr(import_module(_HOMES.get(name, "acestep.errors")), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
