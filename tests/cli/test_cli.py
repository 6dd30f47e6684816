"""The command line around a fake service: options, files, sentences and exit codes."""

import json
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from typer.testing import CliRunner, Result

from acestep.cli import build_app
from acestep.cli.options import JSON_ONLY, NO_OPTION, SHORT_FLAGS, ServiceOptions
from acestep.cli.recipes import ReplayOptions
from acestep.errors import AceStepError, AudioError, OutOfMemory
from acestep.library import recipe
from acestep.library.latents import sample_hash
from acestep.library.report import EditReport
from acestep.library.track import Track
from acestep.media import audio_checks
from acestep.progress import CancelToken, Progress, Reporter
from acestep.request import TASKS, Cover, MusicRequest, Plan, Preset, Repaint, Text2Music, schema
from acestep.seeds import take_seed

PRESET = Preset(
    name="fake", steps=8, max_steps=20, shift=3.0, guidance_scale=1.0, is_turbo=True, duration=10.0
)
REPORT = EditReport(
    seams=(0.9, 1.0), source="Compared with a test.", notes=("Nothing audible changed.",)
)
SONG = ["generate", "--caption", "warm lo-fi beat", "--seed", "7"]


@dataclass
class FakeService:
    """A second of noise per take, drawn from its seed; keeps what it was asked for.

    `before` is called with each request: where a test makes something go wrong.
    """

    before: Callable[[MusicRequest], None] = lambda request: None
    model: str = "fake-turbo"
    device_name: str = "a test"
    options: ServiceOptions | None = None
    requests: list[MusicRequest] = field(default_factory=list)

    def load(self, options: ServiceOptions, on_progress: Any = None) -> "FakeService":
        self.options = options
        return self

    def run(
        self,
        request: MusicRequest,
        on_progress: Callable[[Progress], None] | None = None,
        cancel: CancelToken | None = None,
    ) -> list[Track]:
        request = request.resolve(PRESET, has_planner=False)
        self.requests.append(request)
        self.before(request)
        report = Reporter(on_progress, cancel)
        for step in range(3):
            report("rendering", step, 2)
        return [self._track(request, take) for take in range(request.takes)]

    def _track(self, request: MusicRequest, take: int) -> Track:
        assert request.seed is not None
        seed = take_seed(request.seed, take)
        waveform = torch.rand(2, 48_000, generator=torch.Generator().manual_seed(seed)) - 0.5
        examined = audio_checks.examine(waveform, 48_000)
        return Track(
            waveform=waveform,
            report=REPORT if isinstance(request, Repaint | Cover) else None,
            request=request,
            take=take,
            seed=seed,
            seconds={"rendering": 1.5},
            health=examined,
            warnings=request.warnings(),
            recipe={
                "request": request.model_dump(mode="json"),
                "take": take,
                "models": {"dit": {"name": self.model, "fingerprint": "0123456789abcdef"}},
                "versions": {"torch": "2.0"},
                "device": self.device_name,
                "dtype": "float32",
                "sha256": sample_hash(waveform),
            },
        )

    def plan(
        self,
        request: MusicRequest,
        on_progress: Callable[[Progress], None] | None = None,
        cancel: CancelToken | None = None,
    ) -> Plan:
        self.requests.append(request)
        return Plan(caption="a dusty loop", bpm=request.bpm or 90, codes=((7,) * 50,))

    def understand(
        self,
        source: Path,
        on_progress: Callable[[Progress], None] | None = None,
        cancel: CancelToken | None = None,
    ) -> Plan:
        if not source.exists():
            raise AudioError(f"{source} does not exist.")
        return Plan(bpm=96, key_scale="E minor", codes=((7,) * 50,))

    def asked(self) -> MusicRequest:
        return self.requests[-1]


@pytest.fixture
def service() -> FakeService:
    return FakeService()


@pytest.fixture
def acestep(
    service: FakeService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Result]:
    """Runs the command line in an empty folder, around the fake service."""
    monkeypatch.chdir(tmp_path)
    soundfile.write("../song.wav", np.zeros(50 * 8000), 8000)  # for edits
    app = build_app(service.load)

    def run(*arguments: str, **environment: str) -> Result:
        return CliRunner().invoke(app, list(arguments), env=environment)

    return run


def answer(result: Result) -> dict[str, Any]:
    """The one JSON object on stdout."""
    return json.loads(result.stdout)


COMMANDS = {"text2music": "generate", "repaint": "repaint", "cover": "cover"}


@pytest.mark.parametrize("task", TASKS)
def test_every_schema_field_is_an_option_or_left_out_for_a_reason(
    acestep: Callable[..., Result], task: str
) -> None:
    words = acestep(COMMANDS[task], "--help").stdout.replace(",", " ").split()
    fields = TASKS[task].model_fields
    options = {name for name in fields if f"--{name.replace('_', '-')}" in words}
    assert options == fields.keys() - NO_OPTION[task].keys()
    assert all(NO_OPTION[task].values())
    assert {SHORT_FLAGS[name] for name in options if name in SHORT_FLAGS} <= set(words)


@pytest.mark.parametrize("task", TASKS)
def test_the_help_of_an_option_is_the_schemas(acestep: Callable[..., Result], task: str) -> None:
    help_text = " ".join(acestep(COMMANDS[task], "--help").stdout.split())
    for name, described in TASKS[task].model_fields.items():
        if name in NO_OPTION[task]:
            continue
        assert described.description and described.description in help_text
        low, high = schema.bounds(described)
        if low is not None and high is not None and name != "timesteps":
            assert f"{low:,.10g} to {high:,.10g} {schema.unit(described)}".strip() in help_text
        if isinstance(described.default, float | int) and not isinstance(described.default, bool):
            assert f"default: {described.default}]" in help_text


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
    "seed": "7",
    "takes": "2",
    "peak_db": "-3",
    "fade_in": "1",
    "fade_out": "2",
    "format": "wav24",
}
FLAGS = {"think": "--no-think", "normalize": "--no-normalize"}


def test_every_option_reaches_the_request(
    acestep: Callable[..., Result], service: FakeService
) -> None:
    assert VALUES.keys() | FLAGS.keys() | JSON_ONLY.keys() == Text2Music.model_fields.keys()
    arguments = [part for name, value in VALUES.items() for part in (option(name), value)]
    result = acestep("generate", *arguments, *FLAGS.values())
    assert result.exit_code == 0, result.output
    data: dict[str, Any] = {**VALUES, "timesteps": [1, 0.8, 0.3], "think": False}
    wanted = Text2Music.model_validate({**data, "normalize": False})
    assert service.asked() == wanted.resolve(PRESET, has_planner=False)


def option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def test_underscores_are_as_good_as_dashes(
    acestep: Callable[..., Result], service: FakeService
) -> None:
    assert acestep(*SONG, "--fade_in", "1", "--guidance_rule", "cfg").exit_code == 0
    assert service.asked().fade_in == 1.0


def test_lyrics_come_from_a_file_after_an_at_sign(
    acestep: Callable[..., Result], service: FakeService
) -> None:
    Path("words.txt").write_text("[Verse]\nüber", encoding="utf-8-sig")
    assert acestep(*SONG, "--lyrics", "@words.txt").exit_code == 0
    assert service.asked().lyrics == "[Verse]\nüber"
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
    assert set(report["seconds"]) == {"loading", "rendering", "total"}
    assert (report["duration"], report["sample_rate"], report["channels"]) == (1.0, 48_000, 2)
    assert (report["model"], report["device"]) == ("fake-turbo", "a test")
    assert report["warnings"] == ["Unknown tag [Chorous] — did you mean [Chorus]?"]


def test_progress_is_a_line_per_stage_on_stderr(acestep: Callable[..., Result]) -> None:
    result = acestep(*SONG)
    assert result.stderr == "rendering\n"
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
    assert service.asked().format == "ogg"
    assert recipe.read_recipe("new/song.ogg")["request"]["format"] == "ogg"
    assert acestep(*SONG, "--out", "song.wav", "--format", "wav24").exit_code == 0
    assert service.asked().format == "wav24"


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
    assert sentence in result.stderr and result.stdout == ""
    assert result.stderr.count("\n") == 1


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


def all_errors(base: type[AceStepError] = AceStepError) -> list[type[AceStepError]]:
    return [base] + [error for child in base.__subclasses__() for error in all_errors(child)]


@pytest.mark.parametrize("kind", all_errors())
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
    assert result.stderr.startswith("This is a bug: ZeroDivisionError: a mistake.")
    assert not caplog.records
    assert acestep(*SONG, "--debug").exit_code == 1
    assert "ZeroDivisionError" in caplog.text and "Traceback" in caplog.text


def test_the_first_interrupt_cancels_and_writes_nothing(
    acestep: Callable[..., Result], service: FakeService
) -> None:
    service.before = lambda request: os.kill(os.getpid(), signal.SIGINT)
    result = acestep(*SONG)
    assert result.exit_code == 130
    assert result.stderr.endswith("Cancelled. Nothing was written.\n")
    assert list(Path().iterdir()) == []
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


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
    first = service.asked()
    again = acestep("run", "first-1.json", "--out", "again.mp3", "--json")
    assert answer(again)["files"] == ["again-1.mp3", "again-2.mp3"]
    assert service.asked() == first.model_copy(update={"format": "mp3"})


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "bad.json is not JSON"),
        ("[1]", "bad.json is not a request: it must be a JSON object."),
        ('{"captoin": "x"}', "There is no field 'captoin'. Did you mean 'caption'?"),
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
    assert data["request"]["caption"] == "warm lo-fi beat" and data["device"] == "a test"
    Path("noise.txt").write_text("x")
    assert acestep("info", "noise.txt").exit_code == 4


def test_replay_uses_the_recipes_model_and_finds_the_same_samples(
    acestep: Callable[..., Result], service: FakeService
) -> None:
    acestep(*SONG, "--takes", "2", "--out", "song.wav")
    result = acestep("replay", "song-2.wav", "--device", "cpu", "--out", "again.flac")
    assert result.exit_code == 0, result.output
    assert result.stdout == "again.flac\nidentical\n"
    assert service.options == ReplayOptions(model="fake-turbo", device="cpu")
    again = recipe.read_recipe("again.flac")
    assert again["take"] == 1 and again["request"]["takes"] == 2


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
        "Not identical: the dit model was fake-turbo (ffffffffffff), is fake-turbo (0123456789ab); "
        "device was a GPU, is a test; torch was 1.9, is 2.0.\n"
    )
    report = answer(acestep("replay", "other.json", "--json"))
    assert report["identical"] is False and len(report["differences"]) == 3


def test_replay_refuses_a_recipe_without_what_it_needs(acestep: Callable[..., Result]) -> None:
    Path("short.json").write_text('{"recipe": 1, "request": {"caption": "x"}}')
    result = acestep("replay", "short.json")
    assert result.exit_code == 4
    assert result.stderr == "The recipe in short.json cannot be replayed: no models in it.\n"


def test_service_options_come_from_flag_then_environment(
    acestep: Callable[..., Result], service: FakeService
) -> None:
    acestep(*SONG, "--model", "some/folder", ACESTEP_MODELS_DIR="weights")
    assert service.options == ServiceOptions(model="some/folder", models_dir=Path("weights"))
    acestep(*SONG, "--models-dir", "mine", ACESTEP_MODELS_DIR="weights")
    assert service.options == ServiceOptions(models_dir=Path("mine"))


def test_a_plan_is_shown_written_and_rendered_after_it_was_edited(
    acestep: Callable[..., Result], service: FakeService, tmp_path: Path
) -> None:
    request = {"caption": "lo-fi", "duration": 10, "seed": 3}
    (tmp_path / "request.json").write_text(json.dumps(request))
    shown = acestep("plan", "request.json", "--out", "planned.json")
    assert shown.exit_code == 0 and answer(shown)["bpm"] == 90
    planned = json.loads((tmp_path / "planned.json").read_text())
    assert planned["plan"] == answer(shown) and planned["seed"] == 3
    planned["plan"]["bpm"] = 96
    (tmp_path / "planned.json").write_text(json.dumps(planned))
    assert acestep("run", "planned.json", "--out", "song.flac").exit_code == 0
    assert service.asked().bpm == 96
    assert acestep("plan", "request.json", "--out", "planned.json").exit_code == 4


def test_the_planner_and_its_engine_are_chosen_by_option(
    acestep: Callable[..., Result], service: FakeService
) -> None:
    acestep("generate", "--caption", "lo-fi", "--lm", "none", "--backend", "pt")
    assert service.options is not None
    assert (service.options.lm, service.options.backend) == ("none", "pt")
    assert acestep("generate", "--caption", "lo-fi", "--backend", "mlx").exit_code == 2


REPAINT = ["repaint", "../song.wav", "--caption", "a flute solo", "--seed", "7"]


def test_a_repaint_takes_its_regions_and_words_and_reports(
    acestep: Callable[..., Result], service: FakeService
) -> None:
    Path("words.txt").write_text("[Verse]\nother words")
    asked = ["--start", "12", "--end", "20.5", "--lyrics", "@words.txt", "--strength", "0.8"]
    result = acestep(*REPAINT, *asked, "--takes", "2", "--out", "edited.wav")
    assert result.exit_code == 0, result.output
    assert service.asked() == Repaint(
        source_audio=Path("../song.wav"),
        caption="a flute solo",
        lyrics="[Verse]\nother words",
        repainting_start=12,
        repainting_end=20.5,
        strength=0.8,
        seed=7,
        takes=2,
        format="wav",
    ).resolve(PRESET, has_planner=False)
    said = result.stdout.splitlines()
    assert said[0].startswith("edited-1.wav") and said[1] == "  Nothing audible changed."
    assert "  Outside the region 0 samples changed." in said
    report = answer(acestep(*REPAINT, *asked, "--json"))["reports"]
    assert report == [{**REPORT.to_dict(), "sentences": REPORT.sentences()}]


def test_a_region_may_begin_before_the_song_and_there_may_be_several(
    acestep: Callable[..., Result], service: FakeService
) -> None:
    assert acestep(*REPAINT, "--start", "-5").exit_code == 0
    asked = service.asked()
    assert isinstance(asked, Repaint) and asked.repainting_start == -5
    assert acestep(*REPAINT, "--repainting-start=-2", "--repainting-end", "1").exit_code == 0
    assert acestep(*REPAINT, "--region", "-5:3", "--region", "40.5:48").exit_code == 0
    asked = service.asked()
    assert isinstance(asked, Repaint) and asked.regions == ((-5, 3), (40.5, 48))


def test_a_cover_takes_its_strength_and_reports(
    acestep: Callable[..., Result], service: FakeService
) -> None:
    song = ["cover", "../song.wav", "--caption", "jazz trio", "--no-quantize"]
    result = acestep(*song, "--strength", "0.4", "--json")
    assert result.exit_code == 0, result.output
    asked = service.asked()
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
    first = service.asked()
    assert acestep("replay", "edited.flac").stdout == "identical\n"
    assert service.asked() == first


def test_understand_says_what_is_heard_but_not_the_codes(acestep: Callable[..., Result]) -> None:
    Path("song.wav").touch()
    assert acestep("understand", "song.wav").stdout == "bpm: 96\nkey_scale: E minor\n"
    heard = answer(acestep("understand", "song.wav", "--json"))
    assert heard["bpm"] == 96 and heard["duration"] is None and "codes" not in heard
