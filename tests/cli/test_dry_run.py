"""`--dry-run`: the memory plan and the expected time on the command line, with nothing made."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from fake_engine import FakeEngine, FakeService
from typer.testing import CliRunner, Result

from acestep.cli import build_app

SONG = ["generate", "--caption", "lo-fi", "--duration", "100"]


@pytest.fixture
def service() -> FakeService:
    return FakeService(step_seconds=0.0)


@pytest.fixture
def acestep(
    service: FakeService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Result]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    app = build_app(lambda config: FakeEngine(Path(), service, config))
    return lambda *arguments: CliRunner().invoke(app, list(arguments))


def test_the_plan_is_told_and_nothing_is_loaded_or_written(
    acestep: Callable[..., Result], service: FakeService, tmp_path: Path
) -> None:
    told = acestep(*SONG, "--dry-run")
    assert told.exit_code == 0, told.output
    assert told.stdout.splitlines() == [
        "acestep-v15-nano-turbo: peak 6.0 of 8.0 GB.",
        "  rendering  6.0 GB",
        "  decoding   2.0 GB",
        "How long it takes is not known: no song like it has been made here.",
    ]
    assert service.loads == service.requests == [] and list(tmp_path.iterdir()) == []


def test_what_does_not_fit_exits_5_and_a_setting_makes_it_fit(
    acestep: Callable[..., Result],
) -> None:
    assert acestep(*SONG, "--takes", "3", "--dry-run").exit_code == 5
    lighter = acestep(*SONG, "--takes", "3", "--offload-dit", "--dry-run")
    assert lighter.exit_code == 0
    assert "The music model streams from main memory." in lighter.stdout
    assert acestep(*SONG, "--memory-limit", "2", "--dry-run").exit_code == 5


def test_json_is_one_object(acestep: Callable[..., Result]) -> None:
    told = json.loads(acestep(*SONG, "--dry-run", "--json").stdout)
    assert told["fits"] is True and (told["used"], told["budget"]) == (6 * 10**9, 8 * 10**9)
    assert told["stages"] == {"rendering": 6 * 10**9, "decoding": 2 * 10**9}
    assert told["seconds"] is None


def test_the_time_is_that_of_the_songs_in_the_folder(
    acestep: Callable[..., Result], service: FakeService
) -> None:
    service.seconds = 1.0
    acestep("generate", "--caption", "lo-fi", "--duration", "10", "--steps", "1")
    told = acestep(*SONG, "--dry-run")
    assert told.stdout.splitlines()[-1].endswith(" for 100 s of music.")
    assert json.loads(acestep(*SONG, "--dry-run", "--json").stdout)["seconds"] > 0


def test_run_and_replay_tell_it_too(acestep: Callable[..., Result], service: FakeService) -> None:
    request = {"caption": "lo-fi", "duration": 100}
    Path("song.json").write_text(json.dumps(request))
    assert acestep("run", "song.json", "--dry-run").stdout == acestep(*SONG, "--dry-run").stdout
    lines = [json.dumps(request), "{}", json.dumps(request | {"takes": 3})]
    Path("songs.jsonl").write_text("\n".join(lines))
    told = acestep("run", "songs.jsonl", "--dry-run")
    assert told.exit_code == 5
    assert "Line 1: acestep-v15-nano-turbo: peak 6.0 of 8.0 GB." in told.stdout
    assert "Line 2: Describe the music you want" in told.stdout and "Line 3:" in told.stdout
    jobs = json.loads(acestep("run", "songs.jsonl", "--dry-run", "--json").stdout)["jobs"]
    assert [job.get("fits") for job in jobs] == [True, None, False]
    service.seconds = 1.0
    made = acestep(*SONG, "--int8", "--out", "made.wav")
    assert made.exit_code == 0, made.output
    loads = len(service.loads)
    replayed = acestep("replay", "made.wav", "--dry-run")
    assert "peak 3.0 of 8.0 GB." in replayed.stdout, replayed.stderr  # with the recipe's INT8
    assert len(service.loads) == loads


def test_the_real_plan_needs_no_torch() -> None:
    code = (
        "import sys, atexit; atexit.register(lambda: print('torch' in sys.modules)); "
        "from acestep.cli import main; main()"
    )
    command = [sys.executable, "-c", code, *SONG, "--device", "cpu", "--dry-run", "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    told, has_torch = done.stdout.splitlines()
    assert done.returncode == 0 and has_torch == "False", done.stderr
    assert json.loads(told)["stages"].keys() >= {"rendering", "decoding"}
