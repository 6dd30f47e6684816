"""From decoded sound to a finished song: what the tasks share."""

from acestep.media import audio, edit_metrics
from acestep.request.music import WholeSong
from acestep.types import Stereo


def mastered(request: WholeSong, decoded: Stereo) -> Stereo:
    """The whole song at the level and with the fades that were asked for."""
    return audio.master(
        decoded,
        peak_db=request.peak_db if request.normalize else None,
        fade_in=request.fade_in,
        fade_out=request.fade_out,
    )


def audible(change_db: float | None) -> list[str]:
    """A note where nobody would hear what changed."""
    is_inaudible = change_db is not None and change_db < edit_metrics.AUDIBLE_DB
    return ["Nothing audible changed."] if is_inaudible else []
