"""The command line around a fake service: options, files, sentences and exit codes."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pytest
import soundfile
from fake_engine import TURBO, FakeEngine, FakeService
from model_folders import write_lora
from typer.testing import CliRunner, Result

from acestep import errors
from acestep.cli import build_app
from acestep.cli.options import NO_OPTION, flags
from acestep.config import ServiceConfig
from acestep.errors import AceStepError, AudioError, OutOfMemory
from acestep.library import recipe
from acestep.request import TASKS, Cover, MusicRequest, Repaint, Text2Music, schema
from acestep.runtime.adapter_files import read_adapter

SONG = ["generate", "--caption", "warm lo-fi beat", "--seed", "7"]


@pytest.fixture
def service() -> FakeService:
    return FakeService(seconds=1.0, step_seconds=0.0)


@pytest.fixture
def acestep(
    service: FakeService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Result]:
    """Runs the command line in an empty folder, around the fake engine."""
    folder = tmp_path / "empty"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("ACESTEP_CONFIG", str(tmp_path / "config.toml"))
    (tmp_path / "config.toml").touch()
    soundfile.write("../song.wav", np.zeros(50 * 8000), 8000)  # for edits

    def run(*arguments: str, **environment: str) -> Result:
        app = build_app(lambda config: FakeEngine(Path(), service, config))
        return CliRunner().invoke(app, list(arguments), env=environment)

    return run


def answer(result: Result) -> dict[str, Any]:
    """The one JSON object on stdout."""
    return json.loads(result.stdout)


def options(task: type[MusicRequest]) -> dict[str, Any]:
    """The fields of a task that are options of its command."""
    return {
        name: field
        for name, field in task.model_fields.items()
        if schema.group(field) not in NO_OPTION and name != task.argument
    }


@pytest.mark.parametrize("task", TASKS.values(), ids=list(TASKS))
def test_every_field_of_a_task_is_an_option_of_its_verb(
    acestep: Callable[..., Result], task: type[MusicRequest]
) -> None:
    words = acestep(task.verb, "--help").stdout.replace(",", " ").split()
    shown = {name for name in task.model_fields if option(name) in words}
    assert shown == options(task).keys()
    assert task.model_fields.keys() - shown - {task.argument} <= {"task", "plan"}
    for name, field in options(task).items():
        assert set(flags(name, field)) <= set(words)


@pytest.mark.parametrize("task", TASKS.values(), ids=list(TASKS))
def test_the_help_of_an_option_is_the_schemas(
    acestep: Callable[..., Result], task: type[MusicRequest]
) -> None:
    help_text = " ".join(acestep(task.verb, "--help").stdout.split())
    for name, described in options(task).items():
        assert described.description and described.description in help_text
        low, high = schema.bounds(described)
        if low is not None and high is not None and name != "timesteps":
            assert f"{low:,.10g} to {high:,.10g} {schema.unit(described)}".strip() in help_text
        if isinstance(described.default, float | int) and not isinstance(described.default, bool):
            assert f"default: {described.default}]" in help_text


class Hum(MusicRequest):
    """Hum what a recording plays."""

    name: ClassVar[str] = "hum"
    title: ClassVar[str] = "Hum"
    verb: ClassVar[str] = "hum"
    argument: ClassVar[str | None] = "tune"
    task: Literal["hum"] = "hum"
    tune: str = schema.setting(..., "source", "Tune", "What to hum.", metavar="TUNE")
    mouth: str = schema.setting("shut", "source", "Mouth", "Open or shut.")


def test_a_task_that_joins_the_registry_gets_its_verb(
    acestep: Callable[..., Result], service: FakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(TASKS, "hum", Hum)  # pyright: ignore[reportArgumentType]
    assert "Hum what a recording plays." in acestep("--help").stdout
    shown = acestep("hum", "--help").stdout
    assert "--mouth TEXT" in shown and "TUNE" in shown and "What to hum." in shown
    done = acestep("hum", "la la la", "--mouth", "open", "--out", "hum.wav")
    assert done.exit_code == 0, done.output
    asked = service.requests[-1]
    assert isinstance(asked, Hum) and (asked.tune, asked.mouth) == ("la la la", "open")
    assert acestep("hum").exit_code == 2


def test_help_fits_100_columns(acestep: Callable[..., Result]) -> None:
    names = ("generate", "repaint", "cover", "understand", "ui", "run", "replay")
    for command in ([], *([name] for name in names), ["models", "download"]):
        result = acestep(*command, "--help", COLUMNS="200")
        assert result.exit_code == 0
        assert max(map(len, result.stdout.splitlines())) <= 100


VALUES = {
    "caption": "waltz",
    "lyrics": "[Verse]\nla",
    "vocal_language": "en",
    "bpm": "120",
    "key_scale": "F# minor",
    "time_signature": "3",
    "duration": "12.5",
    "reference_audio": "voice.wav",
    "lm_temperature": "0.5",
    "lm_cfg_scale": "3",
    "lm_top_p": "0.7",
    "lm_top_k": "40",
    "lm_negative_prompt": "noise",
    "steps": "3",
    "shift": "2",
    "timesteps": "1,0.8,0.3",
    "guidance_scale": "1",
    "guidance_rule": "cfg",
    "guidance_start": "0.1",
    "guidance_end": "0.9",
    "solver": "heun",
    "dcw": "low",
    "dcw_scaler": "0.1",
    "dcw_high_scaler": "0.04",
    "dcw_wavelet": "db2",
    "seed": "7",
    "takes": "2",
    "peak_db": "-3",
    "fade_in": "1",
    "fade_out": "2",
    "format": "wav24",
}
FLAGS = {
    "think": "--no-think",
    "rewrite_caption": "--rewrite-caption",
    "normalize": "--no-normalize",
}


def test_every_option_reaches_the_request(
    acestep: Callable[..., Result], service: FakeService
) -> None:
    assert VALUES.keys() | FLAGS.keys() == options(Text2Music).keys()
    arguments = [part for name, value in VALUES.items() for part in (option(name), value)]
    result = acestep("generate", *arguments, *FLAGS.values())
    assert result.exit_code == 0, result.output
    data: dict[str, Any] = {**VALUES, "timesteps": [1, 0.8, 0.3], "think": False}
    wanted = Text2Music.model_validate({**data, "rewrite_caption": True, "normalize": False})
    assert service.requests[-1] == wanted.resolve(TURBO).asked


def option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def test_underscores_are_as_good_as_dashes(
    acestep: Callable[..., Result], service: FakeService
) -> None:
    assert acestep(*SONG, "--fade_in", "1", "--guidance_rule", "cfg").exit_code == 0
    assert service.requests[-1].model_dump()["fade_in"] == 1.0


def test_lyrics_come_from_a_file_after_an_at_sign(
    acestep: Callable[..., Result], service: FakeService
) -> None:
    Path("words.txt").write_text("[Verse]\nüber", encoding="utf-8-sig")
    assert acestep(*SONG, "--lyrics", "@words.txt").exit_code == 0
    assert service.requests[-1].lyrics == "[Verse]\nüber"
    result = acestep(*SONG, "--lyrics", "@nothing.txt")
    assert result.exit_code == 4
    assert result.stderr == "The lyrics file nothing.txt does not exist.\n"


def test_json_is_exactly_one_object_with_the_promised_keys(acestep: Callable[..., Result]) -> None:
    result = acestep(*SONG, "--takes", "2", "--lyrics", "[Chorous]\nla", "--json")
    report = answer(result)
    assert set(report) == {
        "files", "seconds", "seed", "seeds", "duration", "sample_rate", "channels", "model",
        "device", "warnings", "reports",
    }  # fmt: skip
    assert all(Path(file).is_file() for file in report["files"])
    assert report["seeds"] == [7, 8] and report["seed"] == 7
    assert set(report["seconds"]) == {"loading", "rendering", "decoding", "total"}
    assert (report["duration"], report["sample_rate"], report["channels"]) == (1.0, 48_000, 2)
    assert (report["model"], report["device"]) == (ServiceConfig().model, "CPU")
    assert report["warnings"] == ["Unknown tag [Chorous] — did you mean [Chorus]?"]


def test_progress_is_a_line_per_stage_on_stderr(acestep: Callable[..., Result]) -> None:
    result = acestep(*SONG)
    stages = ["loading model", "conditioning", "rendering", "decoding", "saving"]
    assert result.stderr.splitlines() == stages
    assert "Made in" in result.stdout


def test_a_folder_numbers_its_songs(acestep: Callable[..., Result]) -> None:
    files = [Path(answer(acestep(*SONG, "--json"))["files"][0]) for _ in range(2)]
    assert [file.parts[0] for file in files] == ["outputs", "outputs"]
    assert [file.name[:4] for file in files] == ["0001", "0002"]
    elsewhere = answer(acestep(*SONG, "--json", ACESTEP_OUTPUT_DIR="elsewhere"))["files"][0]
    assert Path(elsewhere).parts[0] == "elsewhere"
    flagged = acestep(*SONG, "--out", "mine/", "--json", ACESTEP_OUTPUT_DIR="elsewhere")
    assert Path(answer(flagged)["files"][0]).parts[0] == "mine"


def test_a_file_name_chooses_the_format(
    acestep: Callable[..., Result], service: FakeService
) -> None:
    assert answer(acestep(*SONG, "--out", "new/song.ogg", "--json"))["files"] == ["new/song.ogg"]
    assert service.requests[-1].format == "ogg"
    assert recipe.read_recipe("new/song.ogg")["request"]["format"] == "ogg"
    assert acestep(*SONG, "--out", "song.wav", "--format", "wav24").exit_code == 0
    assert service.requests[-1].format == "wav24"


def test_several_takes_share_a_name_and_are_counted(acestep: Callable[..., Result]) -> None:
    report = answer(acestep(*SONG, "--takes", "3", "--out", "x.flac", "--json"))
    assert report["files"] == ["x-1.flac", "x-2.flac", "x-3.flac"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--out", "a.mp3", "--format", "flac"], "a.mp3 cannot hold the format flac"),
        (["--out", "a.xyz"], ".xyz is not a format"),
        (["--bpm", "3"], "BPM must be a whole number from 30 to 300 (you gave 3)."),
        (["--bpm", "fast"], "BPM must be a whole number from 30 to 300 (you gave fast)."),
        (["--timesteps", "1,x"], "Timesteps must all be numbers"),
        (["--steps", "50"], "Turbo models take 1–20 steps"),
        (["--out", "taken.flac"], "taken.flac exists already"),
        (["--out", "taken.ogg", "--takes", "2"], "taken-2.json exists already"),
    ],
)
def test_a_bad_value_is_one_sentence_and_exit_4(
    acestep: Callable[..., Result], arguments: list[str], sentence: str
) -> None:
    Path("taken.flac").touch()
    Path("taken-2.json").touch()
    result = acestep(*SONG, *arguments)
    assert result.exit_code == 4
    assert sentence in result.stderr.splitlines()[-1] and result.stdout == ""


def test_a_taken_name_is_refused_before_anything_is_rendered(
    acestep: Callable[..., Result], service: FakeService
) -> None:
    Path("taken.flac").write_bytes(b"mine")
    assert acestep(*SONG, "--out", "taken.flac").exit_code == 4
    assert service.requests == [] and Path("taken.flac").read_bytes() == b"mine"


def test_an_error_is_an_object_too(acestep: Callable[..., Result]) -> None:
    result = acestep(*SONG, "--bpm", "3", "--json")
    error = answer(result)["error"]
    assert (error["type"], error["field"], error["exit_code"]) == ("InvalidRequest", "bpm", 4)
    assert error["message"] in result.stderr


ERRORS = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, AceStepError)
]


@pytest.mark.parametrize("kind", ERRORS)
def test_the_exit_code_is_the_errors(
    acestep: Callable[..., Result], service: FakeService, kind: type[AceStepError]
) -> None:
    def fail(request: MusicRequest) -> None:
        error = kind.__new__(kind)  # InvalidRequest takes a field as well
        Exception.__init__(error, "It went wrong.")
        error.__dict__["field"] = "bpm"
        raise error

    service.before = fail
    result = acestep(*SONG)
    # Only Ctrl+C cancels a command.
    assert result.exit_code == (130 if kind.__name__ == "Cancelled" else kind.exit_code)
    assert result.stderr.endswith("It went wrong.\n") and result.stdout == ""


def test_a_bug_is_one_line_and_a_traceback_only_when_asked_for(
    acestep: Callable[..., Result], service: FakeService, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(request: MusicRequest) -> None:
        raise ZeroDivisionError("a mistake")

    service.before = fail
    result = acestep(*SONG)
    assert result.exit_code == 1
    said = "This is a bug: ZeroDivisionError: a mistake. --debug shows the traceback."
    assert result.stderr.splitlines()[-1] == said
    assert not caplog.records
    assert acestep(*SONG, "--debug").exit_code == 1
    assert "ZeroDivisionError" in caplog.text and "Traceback" in caplog.text


def test_the_first_interrupt_cancels_and_writes_nothing(
    acestep: Callable[..., Result], service: FakeService
) -> None:
    service.before = lambda request: os.kill(os.getpid(), signal.SIGINT)
    service.step_seconds = 0.5
    before = signal.getsignal(signal.SIGINT)  # a job in the background of a script ignores it
    result = acestep(*SONG)
    assert result.exit_code == 130
    assert result.stderr.endswith("Cancelled. Nothing was written.\n")
    assert list(Path().iterdir()) == []
    assert signal.getsignal(signal.SIGINT) is before


def test_usage_errors_exit_2_and_suggest_the_nearest(acestep: Callable[..., Result]) -> None:
    result = acestep("generat")
    assert result.exit_code == 2 and "'generate'" in result.stderr
    result = acestep("generate", "--captoin", "x")
    assert result.exit_code == 2 and "--caption" in result.stderr


def test_run_takes_a_request_and_a_recipe(
    acestep: Callable[..., Result], service: FakeService
) -> None:
    Path("request.json").write_text('{"caption": "waltz", "seed": 3, "takes": 2}')
    report = answer(acestep("run", "request.json", "--out", "first.flac", "--json"))
    assert report["files"] == ["first-1.flac", "first-2.flac"] and report["seed"] == 3
    first = service.requests[-1]
    again = acestep("run", "first-1.json", "--out", "again.mp3", "--json")
    assert answer(again)["files"] == ["again-1.mp3", "again-2.mp3"]
    assert service.requests[-1] == first.model_copy(update={"format": "mp3"})


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "bad.json is not JSON"),
        ("[1]", "bad.json is not a request: it must be a JSON object."),
        ('{"captoin": "x"}', "Text2Music has no field 'captoin'. Did you mean 'caption'?"),
        ('{"task": "dance"}', "Task must be one of"),
    ],
)
def test_run_says_what_is_wrong_with_a_file(
    acestep: Callable[..., Result], text: str, sentence: str
) -> None:
    Path("bad.json").write_text(text)
    result = acestep("run", "bad.json")
    assert result.exit_code == 4 and sentence in result.stderr


JOBS = """\
{"caption": "one", "seed": 1}
{"caption": "two", "bpm": 3}

not json
{"caption": "four", "seed": 4}
"""


def test_jobs_go_on_after_lines_that_fail(acestep: Callable[..., Result]) -> None:
    Path("jobs.jsonl").write_text(JOBS)
    result = acestep("run", "jobs.jsonl", "--json")
    assert result.exit_code == 8
    report = answer(result)
    assert (report["done"], report["failed"], report["total"]) == (2, 2, 4)
    assert [job["line"] for job in report["jobs"]] == [1, 2, 4, 5]
    assert [job.get("seed") for job in report["jobs"]] == [1, None, None, 4]
    assert report["jobs"][1]["error"]["field"] == "bpm"
    assert "Line 4: The line is not JSON" in result.stderr
    assert len(list(Path("outputs").rglob("*.flac"))) == 2


def test_a_bug_in_one_job_does_not_lose_the_others(
    acestep: Callable[..., Result], service: FakeService
) -> None:
    def fail(request: MusicRequest) -> None:
        if request.caption == "one":
            raise ZeroDivisionError

    service.before = fail
    Path("jobs.jsonl").write_text(JOBS)
    report = answer(acestep("run", "jobs.jsonl", "--json"))
    assert report["jobs"][0]["error"]["exit_code"] == 1 and report["done"] == 1


def test_jobs_that_all_fail_exit_with_the_first_error(
    acestep: Callable[..., Result], service: FakeService
) -> None:
    def fail(request: MusicRequest) -> None:
        raise OutOfMemory("Too long.")

    service.before = fail
    Path("jobs.jsonl").write_text('{"caption": "one"}\n{"bpm": 1}\n')
    assert acestep("run", "jobs.jsonl").exit_code == 5


def test_an_interrupt_ends_the_jobs_and_keeps_what_is_done(
    acestep: Callable[..., Result], service: FakeService
) -> None:
    def interrupt(request: MusicRequest) -> None:
        if request.caption == "two":
            os.kill(os.getpid(), signal.SIGINT)

    service.before = interrupt
    service.step_seconds = 0.05
    Path("jobs.jsonl").write_text('{"caption":"one"}\n{"caption":"two"}\n{"caption":"three"}\n')
    result = acestep("run", "jobs.jsonl", "--json")
    assert result.exit_code == 130
    report = answer(result)
    assert (report["done"], report["failed"], report["total"]) == (1, 1, 3)
    assert len(list(Path("outputs").rglob("*.flac"))) == 1


def test_several_jobs_need_a_folder(acestep: Callable[..., Result], service: FakeService) -> None:
    Path("jobs.jsonl").write_text(JOBS)
    result = acestep("run", "jobs.jsonl", "--out", "song.flac")
    assert result.exit_code == 4 and "need a folder" in result.stderr
    assert service.requests == []


def test_info_prints_the_recipe(acestep: Callable[..., Result]) -> None:
    acestep(*SONG, "--out", "song.flac")
    shown = acestep("info", "song.flac")
    assert "caption: warm lo-fi beat" in shown.stdout and "seed: 7" in shown.stdout
    data = answer(acestep("info", "song.flac", "--json"))
    assert data["request"]["caption"] == "warm lo-fi beat" and data["device"] == "CPU"
    Path("noise.txt").write_text("x")
    assert acestep("info", "noise.txt").exit_code == 4


def test_replay_uses_the_recipes_model_and_finds_the_same_samples(
    acestep: Callable[..., Result], service: FakeService
) -> None:
    model = ["--model", "acestep-v15-nano-base"]
    acestep(*SONG, *model, "--takes", "2", "--out", "song.wav")
    result = acestep("replay", "song-2.wav", "--device", "cpu", "--out", "again.flac")
    assert result.exit_code == 0, result.output
    assert result.stdout == "again.flac\nidentical\n"
    assert service.loads[-1] == ServiceConfig(
        model="acestep-v15-nano-base", lm="none", device="cpu"
    )
    again = recipe.read_recipe("again.flac")
    assert again["take"] == 1 and again["request"]["takes"] == 2


def test_a_flag_alone_takes_another_model_than_the_recipes(
    acestep: Callable[..., Result], service: FakeService
) -> None:
    acestep(*SONG, "--out", "song.wav")
    acestep("replay", "song.wav", ACESTEP_MODEL="acestep-v15-nano-base")
    assert service.loads[-1].model == ServiceConfig().model
    assert service.loads[-1].lm == "none"  # it was rendered from its words alone
    acestep("replay", "song.wav", "--model", "acestep-v15-nano-base")
    assert service.loads[-1].model == "acestep-v15-nano-base"


def test_the_settings_of_memory_and_adapters_are_options(
    acestep: Callable[..., Result], service: FakeService
) -> None:
    chosen = ["--offload-dit", "--int8", "--lm-nf4", "--lora", "warm:0.5", "--lora", "C:\\x"]
    numbers = ["--lora-strength", "1.5", "--lm-device", "cpu", "--memory-limit", "6"]
    done = acestep(*SONG, *chosen, *numbers)
    assert done.exit_code == 0, done.output
    expected = ServiceConfig(
        offload_dit=True,
        int8=True,
        lm_nf4=True,
        lora=("warm:0.5", "C:\\x"),
        lora_strength=1.5,
        lm_device="cpu",
        memory_limit=6.0,
    )
    assert service.loads[-1] == expected
    acestep(*SONG, ACESTEP_LORA="a, b:1", ACESTEP_INT8="true", ACESTEP_MEMORY_LIMIT="6")
    assert service.loads[-1] == ServiceConfig(lora=("a", "b:1"), int8=True, memory_limit=6)
    wrong = acestep(*SONG, "--lora", "warm:3")
    assert wrong.exit_code == 4 and "from 0 to 2 (you gave warm:3)" in wrong.stderr


def test_replay_takes_what_may_change_samples_from_the_recipe(
    acestep: Callable[..., Result], service: FakeService
) -> None:
    acestep(*SONG, "--int8", "--offload-dit", "--device", "cpu", "--out", "song.wav")
    again = acestep("replay", "song.wav", ACESTEP_INT8="false")
    assert again.stdout == "identical\n"
    assert service.loads[-1] == ServiceConfig(int8=True, offload_dit=True, device="cpu", lm="none")
    acestep("replay", "song.wav", "--no-int8", "--device", "auto")
    assert service.loads[-1] == ServiceConfig(offload_dit=True, lm="none")
    words = acestep("info", "song.wav").stdout
    assert "settings: offload_dit True, int8 True" in words


def test_replay_finds_the_adapters_by_what_is_in_them(
    acestep: Callable[..., Result], service: FakeService
) -> None:
    acestep(*SONG, "--out", "song.wav")
    made = recipe.read_recipe("song.wav")
    warm = write_lora(Path("models/loras/renamed.safetensors"))
    sha256 = read_adapter(warm).fingerprint
    was = {"name": "warm", "path": "gone/warm.safetensors", "sha256": sha256, "strength": 0.5}
    made["adapters"], made["service"]["lora"] = [was], ["warm:0.5"]
    Path("warm.json").write_text(json.dumps(made))
    here = ["--models-dir", "models"]
    acestep("replay", "warm.json", *here)
    assert service.loads[-1].lora == (f"{warm}:0.5",)
    assert f"adapters: warm ({sha256[:12]}) at 0.5" in acestep("info", "warm.json").stdout
    write_lora(warm, rank=3)  # another one under its name
    missing = acestep("replay", "warm.json", *here)
    assert missing.exit_code == 3
    assert f"The adapter warm (sha256 {sha256[:12]}…) is not here" in missing.stderr
    acestep("replay", "warm.json", *here, "--lora", "other")
    assert service.loads[-1].lora == ("other",)


def test_a_replay_saves_the_one_take_where_it_is_asked_to(acestep: Callable[..., Result]) -> None:
    acestep(*SONG, "--takes", "2", "--out", "song.wav")
    report = answer(acestep("replay", "song-2.wav", "--out", "again/", "--json"))
    [file] = map(Path, report["files"])
    assert file.name == "0001_text2music_warm-lo-fi-beat.wav" and report["seeds"] == [8]
    made = [path.name for path in Path("again").rglob("*.*") if path.is_file()]
    assert sorted(name for name in made if not name.endswith(".claim")) == [
        "0001_text2music_warm-lo-fi-beat.json", "0001_text2music_warm-lo-fi-beat.wav",
    ]  # fmt: skip
    taken = acestep("replay", "song-2.wav", "--out", "song-1.wav")
    assert taken.exit_code == 4 and "song-1.wav exists already" in taken.stderr


def test_replay_says_why_the_samples_differ(
    acestep: Callable[..., Result], service: FakeService
) -> None:
    acestep(*SONG, "--out", "song.flac")
    made = recipe.read_recipe("song.flac")
    made["models"]["dit"]["fingerprint"] = "f" * 64
    made["device"], made["versions"]["torch"], made["sha256"] = "a GPU", "1.9", "0"
    Path("other.json").write_text(json.dumps(made))
    result = acestep("replay", "other.json")
    assert result.exit_code == 1
    assert result.stdout == (
        "Not identical: the dit model was acestep-v15-nano-turbo (ffffffffffff), is "
        "acestep-v15-nano-turbo (0123456789ab); device was a GPU, is CPU; torch was 1.9, is 2.0.\n"
    )
    report = answer(acestep("replay", "other.json", "--json"))
    assert report["identical"] is False and len(report["differences"]) == 3


def test_replay_refuses_a_recipe_without_what_it_needs(acestep: Callable[..., Result]) -> None:
    Path("short.json").write_text('{"recipe": 1, "request": {"caption": "x"}}')
    result = acestep("replay", "short.json")
    assert result.exit_code == 4
    assert result.stderr == "The recipe in short.json cannot be replayed: no models in it.\n"


def test_a_plan_is_shown_written_and_rendered_after_it_was_edited(
    acestep: Callable[..., Result], service: FakeService
) -> None:
    request = {"caption": "lo-fi", "duration": 10, "seed": 3}
    Path("request.json").write_text(json.dumps(request))
    shown = acestep("plan", "request.json", "--out", "planned.json")
    assert shown.exit_code == 0 and answer(shown)["bpm"] == 90
    planned = json.loads(Path("planned.json").read_text())
    assert planned["plan"] == answer(shown) and planned["seed"] == 3
    planned["plan"]["bpm"] = 96
    Path("planned.json").write_text(json.dumps(planned))
    assert acestep("run", "planned.json", "--out", "song.flac").exit_code == 0
    assert service.requests[-1].bpm == 96
    assert acestep("plan", "request.json", "--out", "planned.json").exit_code == 4


def test_the_planner_and_its_engine_are_chosen_by_option(
    acestep: Callable[..., Result], service: FakeService
) -> None:
    acestep("generate", "--caption", "lo-fi", "--lm", "none", "--backend", "pt")
    assert service.loads[-1] == ServiceConfig(lm="none", backend="pt")
    refused = acestep("generate", "--caption", "lo-fi", "--backend", "mlx")
    assert refused.exit_code == 4
    assert refused.stderr == ("5Hz LM Backend must be one of auto, pt, vllm (you gave mlx).\n")


REPAINT = ["repaint", "../song.wav", "--caption", "a flute solo", "--seed", "7"]


def test_a_repaint_takes_its_regions_and_words_and_reports(
    acestep: Callable[..., Result], service: FakeService
) -> None:
    Path("words.txt").write_text("[Verse]\nother words")
    asked = ["--start", "12", "--end", "20.5", "--lyrics", "@words.txt", "--strength", "0.8"]
    result = acestep(*REPAINT, *asked, "--takes", "2", "--out", "edited.wav")
    assert result.exit_code == 0, result.output
    assert (
        service.requests[-1]
        == Repaint(
            source_audio=Path("../song.wav"),
            caption="a flute solo",
            lyrics="[Verse]\nother words",
            repainting_start=12,
            repainting_end=20.5,
            strength=0.8,
            seed=7,
            takes=2,
            format="wav",
        )
        .resolve(TURBO)
        .asked
    )
    said = result.stdout.splitlines()
    assert said[0].startswith("edited-1.wav") and said[1] == "  Nothing audible changed."
    assert "  Outside the region 0 samples changed." in said
    [report] = answer(acestep(*REPAINT, *asked, "--json"))["reports"]
    assert report["seams"] == [0.9, 1.0] and report["samples_changed_outside"] == 0
    assert report["sentences"][-1] == "The file's own samples."


def test_a_region_may_begin_before_the_song_and_there_may_be_several(
    acestep: Callable[..., Result], service: FakeService
) -> None:
    assert acestep(*REPAINT, "--start", "-5").exit_code == 0
    asked = service.requests[-1]
    assert isinstance(asked, Repaint) and asked.repainting_start == -5
    assert acestep(*REPAINT, "--repainting-start=-2", "--repainting-end", "1").exit_code == 0
    assert acestep(*REPAINT, "--region", "-5:3", "--region", "40.5:48").exit_code == 0
    asked = service.requests[-1]
    assert isinstance(asked, Repaint) and asked.regions == ((-5, 3), (40.5, 48))


def test_a_cover_takes_its_strength_and_reports(
    acestep: Callable[..., Result], service: FakeService
) -> None:
    song = ["cover", "../song.wav", "--caption", "jazz trio", "--no-quantize"]
    result = acestep(*song, "--strength", "0.4", "--json")
    assert result.exit_code == 0, result.output
    asked = service.requests[-1]
    assert isinstance(asked, Cover) and asked.source_audio == Path("../song.wav")
    assert (asked.audio_cover_strength, asked.quantize) == (0.4, False)
    assert len(answer(result)["reports"]) == 1
    assert answer(acestep(*SONG, "--json"))["reports"] == []


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([*REPAINT, "--start", "20", "--end", "12"], "A region must end after it begins"),
        ([*REPAINT, "--start", "60"], "The region begins at 1:00.0, but the song ends at 0:50.0"),
        (["repaint", "nothing.wav"], "nothing.wav does not exist."),
        (["cover", __file__, "--caption", "x"], "test_cli.py is not audio."),
        ([*REPAINT, "--region", "soon"], "Regions are pairs of seconds"),
        ([*REPAINT, "--region", "1:2", "--start", "1"], "Give either Regions or Repainting Start"),
        ([*REPAINT, "--strength", "2"], "Strength must be a number from 0 to 1 (you gave 2)."),
        (["cover", "../song.wav"], "Say what it should become"),
        (["cover", "x.wav", "--caption", "x", "--strength", "-1"], "Audio Cover Strength must"),
        (["understand", "nothing.wav"], "nothing.wav does not exist."),
    ],
)
def test_a_bad_edit_is_one_sentence_exit_4_and_nothing_written(
    acestep: Callable[..., Result], arguments: list[str], sentence: str
) -> None:
    out = [] if arguments[0] == "understand" else ["--out", "new/edit.flac"]
    result = acestep(*arguments, *out)
    assert result.exit_code == 4
    assert sentence in result.stderr and result.stderr.count("\n") == 1
    assert list(Path().iterdir()) == []


def test_a_source_that_cannot_be_read_leaves_no_folder_behind(
    acestep: Callable[..., Result], service: FakeService
) -> None:
    def fail(request: MusicRequest) -> None:
        raise AudioError("song.wav is not audio.")

    service.before = fail
    result = acestep(*REPAINT, "--out", "new/edit.flac")
    assert result.exit_code == 4 and result.stderr.endswith("song.wav is not audio.\n")
    assert list(Path().iterdir()) == []


def test_a_folder_that_cannot_be_made_is_refused_before_anything_is_rendered(
    acestep: Callable[..., Result], service: FakeService
) -> None:
    Path("file").touch()
    result = acestep(*SONG, "--out", "file/song.flac")
    assert result.exit_code == 4 and "Nothing can be saved in file." in result.stderr
    assert service.requests == []


def test_edits_run_from_json_and_replay(
    acestep: Callable[..., Result], service: FakeService
) -> None:
    jobs = [
        {"task": "repaint", "source_audio": "../song.wav", "regions": [[1, 2], [-3, 0]]},
        {"task": "cover", "source_audio": "../song.wav", "caption": "jazz trio"},
    ]
    Path("jobs.jsonl").write_text("\n".join(map(json.dumps, jobs)))
    done = answer(acestep("run", "jobs.jsonl", "--json"))
    assert done["done"] == 2 and [len(job["reports"]) for job in done["jobs"]] == [1, 1]
    Path("job.json").write_text(json.dumps(jobs[0]))
    assert acestep("run", "job.json", "--out", "edited.flac").exit_code == 0
    first = service.requests[-1]
    assert acestep("replay", "edited.flac").stdout == "identical\n"
    assert service.requests[-1] == first


def test_understand_says_what_is_heard_but_not_the_codes(
    acestep: Callable[..., Result], service: FakeService
) -> None:
    assert acestep("understand", "../song.wav").stdout == "bpm: 96\nkey_scale: E minor\n"
    heard = answer(acestep("understand", "../song.wav", "--json"))
    assert heard["bpm"] == 96 and heard["duration"] is None and "codes" not in heard
    assert service.heard == [Path("../song.wav")] * 2
