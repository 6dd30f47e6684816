"""Every way a run can end without a song.

AceStepError                what the user can act on; anything else that escapes is a bug (exit 1)
├── InvalidRequest          a value is out of range, unknown, or contradicts another     exit 4
├── AudioError              a sound file cannot be read or written                       exit 4
├── Unavailable             a device, engine or task was asked for and cannot be had     exit 4
├── ModelMissing            a checkpoint folder is not on this computer                  exit 3
├── CheckpointError         a checkpoint folder is there but cannot be trusted           exit 3
├── DownloadError           the hub could not be reached, or what came is not it         exit 3
├── OutOfMemory             the device or the machine ran out                            exit 5
├── Cancelled               the user stopped the run                                     exit 6
├── PortBusy                the page's port is taken                                     exit 7
└── UnsoundResult           the networks returned noise, NaN, silence or a wrong length  exit 1

Messages are whole sentences for the person who can act on them. They are raised where the cause
is known and caught twice: by the page's one boundary and by the command line.
"""

from typing import ClassVar


class AceStepError(Exception):
    """Base of everything this package raises on purpose."""

    exit_code: ClassVar[int] = 1


class InvalidRequest(AceStepError):
    """A value the user gave cannot be used. `field` is its name in the request schema."""

    exit_code = 4

    def __init__(self, field: str, sentence: str) -> None:
        super().__init__(sentence)
        self.field = field


class AudioError(AceStepError):
    """A sound file cannot be read, decoded or written."""

    exit_code = 4


class Unavailable(AceStepError):
    """A device, engine or task was asked for by name and cannot be had here."""

    exit_code = 4


class ModelMissing(AceStepError):
    """A checkpoint is not on this computer; the sentence names folder and download command."""

    exit_code = 3


class CheckpointError(AceStepError):
    """A checkpoint folder exists but is incomplete, damaged or of another shape."""

    exit_code = 3


class DownloadError(AceStepError):
    """A download could not be started, finished or verified."""

    exit_code = 3


class OutOfMemory(AceStepError):
    """The device ran out of memory; the sentence names the stage and the setting that helps."""

    exit_code = 5


class Cancelled(AceStepError):
    """The user cancelled the run. Nothing was written."""

    exit_code = 6


class PortBusy(AceStepError):
    """The port that was asked for is already in use."""

    exit_code = 7


class UnsoundResult(AceStepError):
    """The result is NaN, silent, clipped or of the wrong length, so it is not a finished song."""


class EngineStopped(AceStepError):
    """The process that renders ended by itself; the sentence says how."""
