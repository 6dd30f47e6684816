"""Jobs from the songs in an output folder, for when their list is gone: the files are the truth."""

import hashlib
import logging
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

from pydantic import BaseModel, TypeAdapter, ValidationError

from acestep.config import NO_LM, ServiceConfig
from acestep.engine.jobs import Job, Outcome, Take
from acestep.errors import AceStepError
from acestep.library.output_paths import RECIPE, SIDECARS
from acestep.library.recipe import read_recipe
from acestep.library.report import EditReport
from acestep.media import sound_files
from acestep.seeds import take_seed

_NUMBERED = re.compile(r"[0-9]{4,9}_")

logger = logging.getLogger(__name__)


class _Model(BaseModel):
    name: str = ""


class _Made(BaseModel):
    """What is needed of a recipe, which may come from anywhere."""

    request: dict[str, Any]
    take: int = 0
    job: str = ""
    models: dict[str, _Model] = {}
    device: str = ""
    seconds: dict[str, float] = {}
    sha256: str = ""
    report: EditReport | None = None


def jobs_of_songs(output_dir: Path) -> list[Job]:
    """One done job for every run whose songs are there, the oldest first."""
    runs: defaultdict[str, list[tuple[Take, _Made, float]]] = defaultdict(list)
    for sidecar in sorted(output_dir.glob(f"*/*{RECIPE}")):
        if not _NUMBERED.match(sidecar.name):
            continue
        try:
            take, made = _read(sidecar)
        except (AceStepError, ValidationError) as error:
            logger.info("%s is not in the list of jobs: %s", sidecar, error)
            continue
        id = made.job or hashlib.sha256(str(sidecar.relative_to(output_dir)).encode()).hexdigest()
        runs[id].append((take, made, sidecar.stat().st_mtime))
    return sorted((_job(id, run, output_dir) for id, run in runs.items()), key=_created)


def _read(sidecar: Path) -> tuple[Take, _Made]:
    """
    Raises:
        AceStepError: there is no song beside it, or it is not a recipe.
        ValidationError: the recipe is of another shape.
    """
    song = _song_beside(sidecar)
    recipe = read_recipe(sidecar)
    made = _Made.model_validate(recipe)
    seed = TypeAdapter(int).validate_python(made.request.get("seed"))
    take = Take(
        path=str(song),
        take=made.take,
        seed=take_seed(seed, made.take),
        duration=sound_files.probe(song).seconds or 0.0,
        seconds=made.seconds,
        report=None if made.report is None else made.report.to_dict(),
        said=[] if made.report is None else made.report.sentences(),
        sha256=made.sha256,
        recipe=recipe,
    )
    return take, made


def _song_beside(sidecar: Path) -> Path:
    songs = [
        path for path in sidecar.parent.glob(f"{sidecar.stem}.*") if path.suffix not in SIDECARS
    ]
    return songs[0] if songs else sidecar.with_suffix("")  # `probe` says that this is not there


def _job(id: str, run: list[tuple[Take, _Made, float]], output_dir: Path) -> Job:
    takes, recipes, times = zip(*sorted(run, key=lambda entry: entry[0].take), strict=True)
    made: _Made = recipes[0]
    config = ServiceConfig(
        model=made.models.get("dit", _Model()).name or ServiceConfig().model,
        lm=made.models.get("lm", _Model()).name or NO_LM,
    )
    return Job(
        id=id,
        request=made.request,
        config=config.model_dump(mode="json"),
        out=str(output_dir),
        state="done",
        created=min(times),
        started=min(times),
        ended=max(times),
        outcome=Outcome(
            takes=list(takes),
            model=config.model,
            device=made.device,
            seconds={"total": sum(takes[0].seconds.values())},
        ),
    )


def _created(job: Job) -> float:
    return job.created
