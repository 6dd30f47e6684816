"""The page's one public endpoint, `/generate`: a request as JSON, finished files and recipes back.

from gradio_client import Client

client = Client("http://127.0.0.1:7860")
takes = client.predict({"caption": "warm lo-fi beat", "duration": 20}, api_name="/generate")
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.events import api as add_endpoint
from gradio.processing_utils import save_file_to_cache
from gradio.utils import get_upload_folder

from acestep.engine.engine import Engine
from acestep.engine.jobs import Job, Take
from acestep.errors import AceStepError, Cancelled, InvalidRequest
from acestep.request import TASKS, MusicRequest, parse_request
from acestep.ui import controls
from acestep.ui.boundary import bounded
from acestep.ui.events import WATCHERS, steps_of

POLL_SECONDS = 0.5


def expose(engine: Engine) -> None:
    """Add the endpoint to the current page."""

    def generate(request: dict[str, Any]) -> Iterator[list[dict[str, Any]]]:
        """Make music from a request as JSON: the fields of Text2Music, of which all but caption
        may be left out, or {"task": "repaint", …} or {"task": "cover", …} with their fields. Upload
        reference_audio and source_audio with gradio_client.handle_file. Returns one entry per take:
        file, recipe, take, seed, duration, seconds, warnings and report."""
        job = engine.submit(read(request))
        try:
            for step in steps_of(engine, job.id, POLL_SECONDS):
                job = step
                yield []
        finally:  # the caller went away or cancelled: nobody else waits for this job
            engine.cancel(job.id)
        if job.outcome is None:
            raise _failure(job)
        yield [_entry(take) for take in job.outcome.takes]

    add_endpoint(bounded(generate), api_name="generate", concurrency_limit=WATCHERS)


def _failure(job: Job) -> AceStepError:
    if job.failure is None:
        return Cancelled("Cancelled. Nothing was written.")
    return job.failure.to_error()


def read(data: object) -> MusicRequest:
    """A request from a caller elsewhere, who may name uploads but no files of this computer.

    Raises:
        InvalidRequest: with one sentence.
    """
    if not isinstance(data, Mapping):
        raise InvalidRequest("", "A request is a JSON object, such as {'caption': 'lo-fi beat'}.")
    fields = {name: field for task in TASKS.values() for name, field in task.model_fields.items()}
    files = [name for name in data if name in fields and controls.is_upload(fields[name])]
    return parse_request({**data, **{name: _uploaded(name, data[name]) for name in files}})


def _uploaded(name: str, value: object) -> str | None:
    """The path of an upload. Gradio has checked that a value marked as a file was uploaded."""
    if value is None or value == "":
        return None
    if isinstance(value, Mapping) and value.get("meta") == {"_type": "gradio.FileData"}:
        return str(value["path"])
    title = name.replace("_", " ").title()
    raise InvalidRequest(name, f"{title} must be uploaded: use gradio_client.handle_file(path).")


def _entry(take: Take) -> dict[str, Any]:
    path = Path(take.path)
    copy = shown_copy(path)
    return {
        "file": gr.FileData(path=str(copy), orig_name=path.name).model_dump(),
        "recipe": take.recipe,
        "take": take.take,
        "seed": take.seed,
        "duration": take.duration,
        "seconds": take.seconds,
        "warnings": take.warnings,
        "report": take.said,
    }


def shown_copy(song: Path) -> Path:
    """A copy that Gradio may serve: the songs' own folder is not open to the page."""
    return Path(save_file_to_cache(song, get_upload_folder()))
