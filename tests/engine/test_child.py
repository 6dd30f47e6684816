"""The engine's process: what crosses the pipe, what ends it, and what its end does to a job."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fake_engine import SOON, until

from acestep.config import NO_LM, ServiceConfig
from acestep.engine.jobs import ENDED, Job, Take
from acestep.engine.local import LocalEngine
from acestep.engine.runner import ChildRunner
from acestep.engine.table import JobTable
from acestep.media import audio
from acestep.request import Text2Music

SONG = Text2Music(caption="x", duration=10, seed=3, steps=2)
LONG = SONG.model_copy(update={"steps": 200, "duration": 120.0})
LOADING = 300.0  # seconds: a fresh interpreter imports torch, on a busy machine

# A process without torch: its runner takes twenty short steps, and tests put into `step` what goes
# wrong in the first of them.
SCRIPTED = """
import ctypes, os, sys, time
from acestep.engine.child import Child, protocol_output
sink = protocol_output()
from acestep import errors
from acestep.engine.engine import Loaded
from acestep.engine.jobs import Outcome
from acestep.progress import Progress, Reporter
from acestep.request import Preset

PRESET = Preset(
    name="turbo", steps=8, max_steps=200, shift=3.0, guidance_scale=1.0, is_turbo=True, duration=9,
    rewrite_caption=False, dcw="off",
)

class Runner:
    def load(self, config, on_progress):
        on_progress(Progress("loading", 1, 1))
        return Loaded(
            model=config.model, preset=PRESET, has_planner=True, planner="", device="", seconds=0
        )

    def prepare(self):
        print("prepared")

    def run(self, job, on_progress, cancel):
        report = Reporter(on_progress, cancel)
        for step in range(job.request["steps"]):
            report("rendering", step, 20)
            if step == 0 and job.request["caption"] == "x":
                {step}
            time.sleep(0.02)
        return Outcome(model="scripted")

    def close(self):
        print("closed")

Child(Runner(), sys.stdin.buffer, sink).serve()
"""


class Studio:
    """An engine around a process, and what a test wants to know of it."""

    def __init__(self, folder: Path, runner: ChildRunner, config: ServiceConfig) -> None:
        self.runner = runner
        self.engine = LocalEngine(runner, JobTable.in_memory(), folder, config)

    @property
    def pid(self) -> int:
        assert self.runner._process is not None
        return self.runner._process.pid

    def ended(self, job: Job) -> Job:
        until(lambda: self.engine.job(job.id).state in ENDED, LOADING)
        return self.engine.job(job.id)

    def rendering(self, request: Text2Music) -> Job:
        """A job in the middle of its steps."""
        job = self.engine.submit(request)
        until(
            lambda: any(
                event.stage == "rendering" and event.done > 1
                for event in self.engine.job(job.id).events
            ),
            LOADING,
        )
        return job


@pytest.fixture
def open_studio(tmp_path: Path) -> Iterator[Callable[..., Studio]]:
    studios: list[Studio] = []

    def open_one(step: str = "pass", **options: float) -> Studio:
        runner = ChildRunner([sys.executable, "-c", SCRIPTED.replace("{step}", step)], **options)
        studios.append(Studio(tmp_path / "songs", runner, ServiceConfig()))
        return studios[-1]

    yield open_one
    for studio in studios:
        studio.engine.close()


@pytest.fixture(scope="module")
def studio(tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    """The real process with tiny networks."""
    config = ServiceConfig(
        model="acestep-v15-nano-base", lm=NO_LM, device="cpu", checkpoints=tiny_models
    )
    studio = Studio(tmp_path_factory.mktemp("songs"), ChildRunner(), config)
    yield studio
    studio.engine.close()


def is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_song_is_made_in_the_process(studio: Studio) -> None:
    job = studio.ended(studio.engine.submit(SONG))
    assert job.state == "done" and job.outcome is not None, job.failure
    (take,) = job.outcome.takes
    assert isinstance(take, Take) and take.duration == 10 and take.recipe["job"] == job.id
    assert audio.read(take.path).shape[-1] == 480_000
    stages = [event.stage for event in job.events]
    assert stages == ["loading", "conditioning", "rendering", "decoding", "checking", "saving"]
    loaded = studio.engine.state.loaded
    assert (loaded is not None and loaded.preset.name == "base") or "base" in loaded.model  # type: ignore


def test_cancel_and_kill_end_a_job_of_the_real_process(studio: Studio) -> None:
    job = studio.rendering(LONG)
    pid = studio.pid
    studio.engine.cancel(job.id)
    assert studio.ended(job).state == "cancelled" and studio.pid == pid
    assert studio.engine.state.status == "ready"

    job = studio.rendering(LONG)
    os.kill(pid, signal.SIGKILL)
    job = studio.ended(job)
    assert job.state == "lost" and job.failure is not None
    assert job.failure.message == (
        "The engine's process was ended by signal 9 (SIGKILL), as the system does when memory "
        "runs out. The next job starts it again."
    )
    state = studio.engine.state
    assert state.status == "failed" and state.failure == job.failure and state.loaded is None
    assert studio.ended(studio.engine.submit(SONG)).state == "done"
    assert studio.pid != pid and studio.engine.state.failure is None


def test_a_process_that_dies_while_nothing_runs_is_noticed_at_once(
    open_studio: Callable[..., Studio],
) -> None:
    studio = open_studio()
    studio.ended(studio.engine.submit(SONG))
    os.kill(studio.pid, signal.SIGTERM)
    until(lambda: studio.engine.state.status == "failed")
    assert studio.engine.state.failure is not None
    assert "signal 15 (SIGTERM)" in studio.engine.state.failure.message
    assert studio.ended(studio.engine.submit(SONG)).state == "done"


def test_unloading_ends_the_process_and_the_next_job_starts_one(
    open_studio: Callable[..., Studio], capfd: pytest.CaptureFixture[str]
) -> None:
    studio = open_studio()
    studio.ended(studio.engine.submit(SONG))
    pid = studio.pid
    studio.engine.unload()
    assert not is_there(pid) and studio.engine.state.status == "empty"
    assert studio.engine.state.failure is None, "it was asked to"
    assert "closed" in capfd.readouterr().err, "it ended in order"
    assert studio.ended(studio.engine.submit(SONG)).state == "done" and studio.pid != pid


@pytest.mark.parametrize("step", ["pass", "time.sleep(600)"], ids=["in order", "by force"])
def test_the_process_ends_with_its_input_while_it_works(tmp_path: Path, step: str) -> None:
    job = Job(id="a", request=LONG.model_dump(mode="json"), config={}, out="")
    command = [sys.executable, "-c", SCRIPTED.replace("{step}", step)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe) as child:
        assert child.stdin is not None and child.stdout is not None
        for operation in (
            {"op": "load", "config": ServiceConfig().model_dump(mode="json")},
            {"op": "run", "job": job.model_dump(mode="json")},
        ):
            child.stdin.write(json.dumps(operation).encode() + b"\n")
        child.stdin.flush()
        assert any(b"rendering" in line for line in child.stdout)
        child.stdin.close()
        said = child.stdout.read()
        assert child.wait(SOON) == (0 if step == "pass" else 1)
    assert (b"Cancelled" in said) == (step == "pass")


def test_a_switch_stays_in_the_process(open_studio: Callable[..., Studio]) -> None:
    studio = open_studio()
    studio.ended(studio.engine.submit(SONG))
    pid = studio.pid
    studio.engine.configure(ServiceConfig(model="other"))
    assert studio.ended(studio.engine.submit(SONG)).state == "done" and studio.pid == pid
    assert studio.engine.state.loaded is not None
    assert studio.engine.state.loaded.model == "other"


def test_what_libraries_print_stays_out_of_the_protocol(
    open_studio: Callable[..., Studio], capfd: pytest.CaptureFixture[str]
) -> None:
    native = (
        "ctypes.CDLL(None).puts(b'from C'); os.write(1, b'{\"outcome\": 3}\\n'); print('hello')"
    )
    studio = open_studio(native)
    assert studio.ended(studio.engine.submit(SONG)).state == "done"
    studio.engine.close()
    said = capfd.readouterr().err
    assert all(words in said for words in ("from C", '{"outcome": 3}', "hello"))


def test_errors_keep_their_class_field_and_exit_code(open_studio: Callable[..., Studio]) -> None:
    studio = open_studio("raise errors.InvalidRequest('bpm', 'Not so fast.')")
    failure = studio.ended(studio.engine.submit(SONG)).failure
    assert failure is not None
    assert (failure.type, failure.field, failure.exit_code) == ("InvalidRequest", "bpm", 4)
    studio = open_studio("1 / 0")
    failure = studio.ended(studio.engine.submit(SONG)).failure
    assert failure is not None and failure.type == "ZeroDivisionError"
    assert failure.message == "This is a bug: ZeroDivisionError: division by zero."
    assert studio.engine.state.status == "ready", "a bug in a song is not the end of the engine"


def test_a_process_that_says_why_it_ends_is_quoted(open_studio: Callable[..., Studio]) -> None:
    studio = open_studio("print('The driver is gone.'); sys.stdout.flush(); os._exit(3)")
    job = studio.ended(studio.engine.submit(SONG))
    assert job.state == "lost" and job.failure is not None
    assert "ended with exit code 3 (The driver is gone). The next" in job.failure.message


def test_a_process_that_does_not_answer_a_cancel_is_ended(
    open_studio: Callable[..., Studio],
) -> None:
    studio = open_studio("time.sleep(600)", cancel_seconds=0.3)
    job = studio.engine.submit(SONG)
    until(lambda: any(event.stage == "rendering" for event in studio.engine.job(job.id).events))
    pid = studio.pid
    studio.engine.cancel(job.id)
    assert studio.ended(job).state == "cancelled" and not is_there(pid)
    assert studio.engine.state.status == "failed"
    other = SONG.model_copy(update={"caption": "y"})
    assert studio.ended(studio.engine.submit(other)).state == "done"


def test_what_think_needs_is_prepared_once_it_is_idle(
    open_studio: Callable[..., Studio], capfd: pytest.CaptureFixture[str]
) -> None:
    studio = open_studio()
    studio.engine.configure(ServiceConfig())
    until(lambda: "prepared" in capfd.readouterr().err, LOADING)
    assert studio.ended(studio.engine.submit(SONG)).state == "done"


def test_half_an_emoji_crosses_the_pipe(open_studio: Callable[..., Studio]) -> None:
    studio = open_studio()
    job = studio.ended(studio.engine.submit(SONG.model_copy(update={"lyrics": "\ud83d la"})))
    assert job.state == "done", job.failure


def test_the_page_s_side_of_the_engine_imports_no_torch() -> None:
    names = ("engine", "jobs", "local", "runner", "songs", "table", "index", "recovery", "child")
    imports = ", ".join(f"acestep.engine.{name}" for name in names)
    program = (
        f"import sys, {imports}, acestep.request, acestep.config; print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr
