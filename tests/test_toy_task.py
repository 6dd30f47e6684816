"""A new task is its fields and its room: service, command line and page take it as it is."""

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, Literal

import httpx
import pytest
import soundfile
import torch
from gradio_client import Client
from typer.testing import CliRunner
from ui.loops import in_loop
from ui.pages import free_port

from acestep import MusicService
from acestep.cli import build_app
from acestep.config import ServiceConfig
from acestep.engine.local import LocalEngine
from acestep.engine.runner import InProcessRunner
from acestep.engine.table import JobTable
from acestep.library.report import EditReport
from acestep.library.source import Source
from acestep.request import TASKS, MusicRequest
from acestep.request.resolved import ResolvedRequest
from acestep.request.schema import setting
from acestep.runtime.codec import Codec
from acestep.tasks import ROOMS
from acestep.tasks.base import Guide, Start
from acestep.tasks.text2music import Text2MusicTask
from acestep.tasks.timeline import Timeline
from acestep.types import Latents, Stereo

pytestmark = pytest.mark.filterwarnings("ignore::pandas.errors.Pandas4Warning")


class Jingle(MusicRequest):
    """Make a jingle, which ends in a fade."""

    name: ClassVar[str] = "jingle"
    title: ClassVar[str] = "Jingle"
    verb: ClassVar[str] = "jingle"
    task: Literal["jingle"] = "jingle"
    length: float = setting(
        6.0, "music", "Jingle Length", "Length of the jingle.", unit="s", ge=5.5, le=12.0
    )


class JingleTask:
    """Everything is made, and the last second fades."""

    def timeline(self, request: ResolvedRequest[Jingle], source: Source | None) -> Timeline:
        return Timeline.blank(round(request.asked.length * 48_000))

    def guides(
        self,
        request: ResolvedRequest[Jingle],
        timeline: Timeline,
        source_latents: Latents | None,
        codec: Codec,
    ) -> list[Guide]:
        from acestep.diffusion.context import to_be_made

        takes = request.asked.takes
        return [Guide("Jingle:", to_be_made(codec.silence, timeline.frames, takes))]

    def start(
        self,
        request: ResolvedRequest[Jingle],
        source_latents: Latents | None,
        noise: Latents,
        timesteps: tuple[float, ...],
    ) -> Start:
        return Start(timesteps, noise)

    constraint = Text2MusicTask.constraint

    def finish(
        self,
        request: ResolvedRequest[Jingle],
        decoded: Stereo,
        timeline: Timeline,
        source: Source | None,
    ) -> tuple[Stereo, EditReport]:
        fading = decoded / decoded.abs().max()
        fading[:, -48_000:] *= torch.linspace(1, 0, 48_000)
        return fading, EditReport(notes=("It fades.",))


@pytest.fixture(autouse=True)
def jingles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both tables' new lines."""
    monkeypatch.setitem(TASKS, "jingle", Jingle)  # pyright: ignore[reportArgumentType]
    monkeypatch.setitem(ROOMS, "jingle", JingleTask())  # pyright: ignore[reportArgumentType]


@pytest.fixture(scope="module")
def config(tiny_models: Path) -> ServiceConfig:
    return ServiceConfig(lm="none", device="cpu", checkpoints=tiny_models)


def test_the_service_renders_it(config: ServiceConfig, tmp_path: Path) -> None:
    service = MusicService.load(config)
    (track,) = service.run(Jingle(caption="bells", length=7, seed=3, steps=2))
    assert track.duration == 7 and track.waveform[:, -1].abs().max() == 0
    assert track.report is not None and track.report.sentences() == ["It fades."]
    assert track.save_in(tmp_path).name == "0001_jingle_bells.flac"
    assert track.recipe["request"]["task"] == "jingle"


def test_the_command_line_has_its_verb_and_its_options(
    config: ServiceConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app, song = build_app(), tmp_path / "jingle.wav"
    assert "Make a jingle" in CliRunner().invoke(app, ["--help"]).stdout
    assert "--length X" in CliRunner().invoke(app, ["jingle", "--help"]).stdout
    made = CliRunner().invoke(
        app,
        ["jingle", "--caption", "bells", "--length", "7", "--steps", "2", "--out", str(song),
         "--lm", "none", "--device", "cpu", "--checkpoints", str(config.checkpoints)],
    )  # fmt: skip
    assert made.exit_code == 0, made.output
    assert "It fades." in made.stdout and soundfile.info(song).duration == 7
    wrong = CliRunner().invoke(app, ["jingle", "--length", "70"])
    assert (
        wrong.exit_code == 4 and "Jingle Length must be a number from 5.5 to 12 s" in wrong.stderr
    )


@pytest.fixture
def page(config: ServiceConfig, tmp_path: Path) -> Iterator[str]:
    from acestep.ui.app import launch

    def make_engine() -> LocalEngine:
        return LocalEngine(InProcessRunner(), JobTable.in_memory(), tmp_path, config)

    running = launch(make_engine, output_dir=tmp_path, port=free_port())
    running.until_ready(60)
    yield running.url
    running.close()


def test_the_page_has_its_tab_and_makes_it(page: str, tmp_path: Path) -> None:
    parts = httpx.get(f"{page}config").json()["components"]
    assert "Jingle" in [each["props"].get("label") for each in parts if each["type"] == "tabitem"]
    labels = {each["props"].get("label") for each in parts}
    assert "Jingle Length" in labels
    client = in_loop(
        lambda: Client(page, verbose=False, analytics_enabled=False, download_files=tmp_path / "x")
    )
    request = {"task": "jingle", "caption": "bells", "length": 7, "steps": 2}
    (take,) = client.predict(request, api_name="/generate")
    assert take["duration"] == 7 and take["report"] == ["It fades."]
