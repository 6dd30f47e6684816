"""The plain routes beside Gradio: the live list, what its buttons do, and the takes' files by id.

They answer whom Gradio answers: with a password set, only who signed in at its page.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Body, Depends
from fastapi.responses import FileResponse, JSONResponse, Response

from acestep.engine.engine import Engine
from acestep.errors import AceStepError, Unavailable
from acestep.ui import live
from acestep.ui.live import Live

MEDIA_TYPES = {
    ".flac": "audio/flac",
    ".wav": "audio/wav",
    ".mp3": "audio/mpeg",
    ".ogg": "audio/ogg",
    ".opus": "audio/ogg",
    ".json": "application/json",
}


def routes(engine: Engine, rows: Live, login_check: Callable[..., Any]) -> APIRouter:
    """The routes, for who passes `login_check`, a dependency that raises otherwise."""
    router = APIRouter(prefix="/live", dependencies=[Depends(login_check)])

    @router.get("")
    async def changes(since: int = 0, every: bool = False) -> dict[str, Any]:
        return rows.since(since, every=every)

    @router.post("/cancel")
    def cancel(id: str = Body(embed=True)) -> Response:
        return _done(rows.cancel, id)

    @router.post("/rerun")
    def rerun(id: str = Body(embed=True)) -> Response:
        return _done(lambda id: {"id": engine.rerun(id).id}, id)

    @router.post("/retry")
    def retry(id: str = Body(), setting: str = Body()) -> Response:
        return _done(lambda id: {"id": rows.retry(id, setting).id}, id)

    @router.api_route("/song/{id}/{number}", methods=["GET", "HEAD"])
    def song(id: str, number: int, save: bool = False) -> Response:
        return _file(live.song_of, engine, id, number, save)

    @router.api_route("/recipe/{id}/{number}", methods=["GET", "HEAD"])
    def recipe(id: str, number: int, save: bool = False) -> Response:
        return _file(live.recipe_of, engine, id, number, save)

    return router


def _done(act: Callable[[str], Any], id: str) -> Response:
    try:
        answer = act(id)
    except Unavailable as error:
        return _refused(error, 404)
    except AceStepError as error:
        return _refused(error, 409)
    return JSONResponse(answer)


def _file(
    find: Callable[[Engine, str, int], Path], engine: Engine, id: str, number: int, save: bool
) -> Response:
    """A file to be played, or to be saved under its own name."""
    try:
        path = find(engine, id, number)
    except Unavailable as error:
        return _refused(error, 404)
    return FileResponse(
        path,
        media_type=MEDIA_TYPES.get(path.suffix.lower(), "application/octet-stream"),
        filename=path.name,
        content_disposition_type="attachment" if save else "inline",
    )


def _refused(error: AceStepError, status: int) -> Response:
    return JSONResponse({"error": str(error)}, status)
