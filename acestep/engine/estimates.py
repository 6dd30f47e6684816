"""How long a song will take, by what such songs took before on this computer."""

from collections.abc import Iterable
from statistics import median

from acestep.engine import songs
from acestep.engine.engine import Estimate
from acestep.engine.jobs import Job
from acestep.errors import AceStepError
from acestep.request import Preset
from acestep.request.asked import Asked


def estimated(
    jobs: Iterable[Job], request: Asked, model: str, preset: Preset | None = None
) -> Estimate:
    """The median pace of what a model did of a task, over as many seconds of sound and steps.

    Args:
        jobs: what was done.
        preset: the model's, for what the request leaves open; None where it is not known.
    """
    task = getattr(request, "task", None)
    alike = [
        job
        for job in jobs
        if job.state == "done"
        and job.config.get("model") == model
        and job.request.get("task") == task
    ]
    paces = [pace for job in alike if (pace := _pace(job)) is not None]
    music, steps = _size(request, preset)
    if not paces or music is None or steps is None:
        return Estimate(seconds=None, music=music)
    return Estimate(seconds=median(paces) * music * steps, music=music)


def _size(request: Asked, preset: Preset | None) -> tuple[float | None, int | None]:
    """How much work a request is: seconds of sound, and solver steps for each; None is open."""
    asked = request.model_dump()
    seconds, steps = asked.get("duration"), asked.get("steps") or len(asked.get("timesteps") or ())
    if (source := request.source_file) is not None:
        try:
            seconds = songs.length(source)
        except AceStepError:
            return None, None
    if preset is not None:
        seconds, steps = seconds or preset.duration, steps or preset.steps
    return (seconds * asked.get("takes", 1) if seconds else None), steps or None


def _pace(job: Job) -> float | None:
    """Seconds that a finished job took for a second of sound and a solver step."""
    takes = job.outcome.takes if job.outcome is not None else []
    steps = takes[0].recipe.get("request", {}).get("steps") if takes else None
    if not takes or not steps or job.outcome is None:
        return None
    seconds = job.outcome.seconds
    work = seconds.get("total", 0.0) - seconds.get("loading", 0.0)
    return work / (sum(take.duration for take in takes) * steps)
