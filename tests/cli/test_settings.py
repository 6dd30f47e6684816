"""Settings of the service: which of flag, variable, file and default wins, and what is kept."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_engine import FakeEngine, FakeService
from typer.testing import CliRunner, Result

from acestep.cli import build_app
from acestep.config import ServiceConfig
from acestep.request.schema import setting

SONG = ["generate", "--caption", "lo-fi", "--duration", "10", "--steps", "1", "--out", "songs/"]


class Tuned(ServiceConfig):
    """A configuration with one setting more."""

    is_quiet: bool = setting(
        False, "memory", "Quiet", "Make less noise.", flags=("--quiet",), recorded=True
    )
    threads: int | None = setting(None, "memory", "Threads", "At most these.", ge=1, le=64)


@pytest.fixture
def service() -> FakeService:
    return FakeService(seconds=0.1, step_seconds=0.0)


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the system keeps this user's settings."""
    monkeypatch.setattr("typer.get_app_dir", lambda name: str(tmp_path / "home" / name))
    return tmp_path / "home" / "acestep" / "config.toml"


@pytest.fixture
def acestep(
    service: FakeService, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Result]:
    monkeypatch.chdir(tmp_path)
    app = build_app(lambda config: FakeEngine(Path(), service, config), config=Tuned)

    def run(*arguments: str, **environment: str) -> Result:
        return CliRunner().invoke(app, list(arguments), env=environment)

    return run


def write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")


def shown(acestep: Callable[..., Result], **environment: str) -> dict[str, dict[str, Any]]:
    result = acestep("config", "show", "--json", **environment)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)["settings"]


def test_a_flag_wins_over_a_variable_that_over_the_file_and_that_over_the_default(
    acestep: Callable[..., Result], service: FakeService, file: Path
) -> None:
    acestep(*SONG)
    assert service.loads[-1] == Tuned()
    write(file, 'lm = "in-file"\nmodel = "in-file"\nbackend = "pt"\n')
    acestep(*SONG, "--model", "in-flag", ACESTEP_LM="in-variable", ACESTEP_MODEL="in-variable")
    assert service.loads[-1] == Tuned(model="in-flag", lm="in-variable", backend="pt")


def test_show_says_where_each_value_comes_from(acestep: Callable[..., Result], file: Path) -> None:
    write(file, 'lm = "none"\nbackend = "pt"\n')
    settings = shown(acestep, ACESTEP_LM="other", ACESTEP_MODELS_DIR="weights")
    assert settings["lm"] == {"value": "other", "from": "ACESTEP_LM"}
    assert settings["checkpoints"] == {"value": "weights", "from": "ACESTEP_MODELS_DIR"}
    assert settings["backend"] == {"value": "pt", "from": str(file)}
    assert settings["device"] == {"value": "auto", "from": "default"}
    assert settings.keys() == Tuned.model_fields.keys()
    lines = acestep("config", "show").stdout.splitlines()
    assert lines[1].split() == ["lm", "none", str(file)]
    assert lines[-1] == f"Kept in {file}"


def test_a_folder_of_models_is_set_under_both_of_its_names(acestep: Callable[..., Result]) -> None:
    for name in ("ACESTEP_MODELS_DIR", "ACESTEP_CHECKPOINTS"):
        assert shown(acestep, **{name: "weights"})["checkpoints"]["value"] == "weights"
    assert shown(acestep, ACESTEP_CHECKPOINTS="")["checkpoints"]["from"] == "default"
    for flag in ("--models-dir", "--checkpoints"):
        found = acestep("models", "path", "acestep-v15-turbo", flag, "weights")
        assert found.exit_code == 3 and "weights" in found.stderr


def test_a_new_setting_is_an_option_a_variable_and_a_key_of_the_file_by_itself(
    acestep: Callable[..., Result], service: FakeService, file: Path
) -> None:
    for command in ("generate", "repaint", "cover", "run", "plan", "understand", "replay", "ui"):
        words = " ".join(acestep(command, "--help").stdout.split())
        assert "--quiet" in words and "Make less noise." in words
        assert "env var: ACESTEP_QUIET;" in words
    acestep(*SONG, "--quiet", "--threads", "2")
    assert service.loads[-1] == Tuned(is_quiet=True, threads=2)
    acestep(*SONG, ACESTEP_QUIET="1", ACESTEP_THREADS="3")
    assert service.loads[-1] == Tuned(is_quiet=True, threads=3)
    write(file, "is_quiet = true\nthreads = 4\n")
    acestep(*SONG, "--no-quiet")
    assert service.loads[-1] == Tuned(is_quiet=False, threads=4)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('modle = "x"', "There is no field 'modle'. Did you mean 'model'?"),
        ("threads = 0", "Threads must be a whole number from 1 to 64 (you gave 0)."),
        ("[service]", "There is no field 'service'."),
        ("model = ", "is not TOML: "),
    ],
)
def test_what_is_wrong_in_the_file_is_said_with_its_name(
    acestep: Callable[..., Result], service: FakeService, file: Path, text: str, sentence: str
) -> None:
    write(file, text)
    result = acestep(*SONG)
    assert result.exit_code == 4 and service.loads == []
    assert str(file) in result.stderr and sentence in result.stderr


def test_what_is_wrong_in_a_variable_is_said_with_its_name(acestep: Callable[..., Result]) -> None:
    result = acestep("config", "show", ACESTEP_BACKEND="mlx")
    assert result.exit_code == 4
    assert result.stderr == (
        "ACESTEP_BACKEND: 5Hz LM Backend must be one of auto, pt, vllm (you gave mlx).\n"
    )


def test_a_file_that_a_variable_names_must_be_there(
    acestep: Callable[..., Result], tmp_path: Path
) -> None:
    named = str(tmp_path / "mine.toml")
    missing = acestep("config", "show", ACESTEP_CONFIG=named)
    assert missing.exit_code == 4
    assert missing.stderr == f"The configuration file {named} does not exist.\n"
    assert acestep("config", "set", "lm", "none", ACESTEP_CONFIG=named).exit_code == 0
    assert shown(acestep, ACESTEP_CONFIG=named)["lm"] == {"value": "none", "from": named}
    assert acestep("config", "path", ACESTEP_CONFIG=named).stdout == f"{named}\n"


def test_set_keeps_a_value_for_all_commands(
    acestep: Callable[..., Result], service: FakeService, file: Path
) -> None:
    assert acestep("config", "show").stdout.splitlines()[-1] == (
        f"Nothing is kept yet: {file} is not there."
    )
    done = acestep("config", "set", "lm-device", "cuda:1")
    assert done.exit_code == 0, done.output
    assert done.stdout == "lm_device is cuda:1 from now on.\n"
    assert file.read_text() == 'lm_device = "cuda:1"\n'
    acestep("config", "set", "quiet", "yes")
    acestep(*SONG)
    assert service.loads[-1] == Tuned(lm_device="cuda:1", is_quiet=True)


def test_set_changes_one_line_and_keeps_the_rest(
    acestep: Callable[..., Result], file: Path
) -> None:
    write(file, "# mine\nmodel = 'old'  # the good one\n\nlm = \"none\" # no LM\nthreads = 2")
    acestep("config", "set", "model", 'a "new" é')
    acestep("config", "set", "threads", "3")
    acestep("config", "set", "device", "cpu")
    acestep("config", "set", "model", 'a "new" é')
    assert file.read_text(encoding="utf-8") == (
        '# mine\nmodel = "a \\"new\\" é"  # the good one\n\nlm = "none" # no LM\nthreads = 3\n'
        'device = "cpu"\n'
    )


def test_what_may_be_repeated_is_kept_as_a_list(
    acestep: Callable[..., Result], service: FakeService, file: Path
) -> None:
    done = acestep("config", "set", "lora", "warm:0.5, a [b] c")
    assert done.stdout == "lora is warm:0.5, a [b] c from now on.\n", done.output
    assert file.read_text() == 'lora = ["warm:0.5", "a [b] c"]\n'
    acestep(*SONG)
    assert service.loads[-1].lora == ("warm:0.5", "a [b] c")
    assert "warm:0.5, a [b] c" in acestep("config", "show").stdout
    write(file, 'lora = [\'it, [1]\', "b"]  # both\nlm = "none"\n')
    assert acestep("config", "set", "lora", "cool").exit_code == 0
    assert file.read_text() == 'lora = ["cool"]  # both\nlm = "none"\n'
    acestep(*SONG, "--lora", "a", "--lora", "b:2")
    assert service.loads[-1].lora == ("a", "b:2")
    acestep("config", "set", "lora", "")
    assert file.read_text() == 'lm = "none"\n'


def test_set_puts_a_wrong_value_right(acestep: Callable[..., Result], file: Path) -> None:
    write(file, 'backend = "mlx"\nthreads = 0\n')
    still = acestep("config", "set", "backend", "pt")
    assert still.exit_code == 4 and str(file) in still.stderr and "Threads" in still.stderr
    write(file, 'backend = "mlx"\n')
    assert acestep("config", "set", "backend", "pt").exit_code == 0
    assert file.read_text() == 'backend = "pt"\n'


def test_a_folder_is_kept_with_its_whole_path(
    acestep: Callable[..., Result], file: Path, tmp_path: Path
) -> None:
    acestep("config", "set", "models-dir", "weights")
    assert shown(acestep)["checkpoints"]["value"] == str(tmp_path / "weights")


def test_what_is_empty_sets_nothing(
    acestep: Callable[..., Result], service: FakeService, file: Path
) -> None:
    write(file, 'checkpoints = ""\nlm = "none"\nbackend = "pt"\n')
    acestep(*SONG, "--models-dir", "", ACESTEP_DEVICE="")
    assert service.loads[-1] == Tuned(lm="none", backend="pt")
    done = acestep("config", "set", "lm", "")
    assert done.stdout == "lm is no longer kept.\n"
    assert file.read_text() == 'checkpoints = ""\nbackend = "pt"\n'


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("modle", "x", "There is no field 'modle'. Did you mean 'model'?"),
        ("modle", "", "There is no field 'modle'. Did you mean 'model'?"),
        ("threads", "0", "Threads must be a whole number from 1 to 64 (you gave 0)."),
    ],
)
def test_set_refuses_what_cannot_be_used(
    acestep: Callable[..., Result], file: Path, key: str, value: str, sentence: str
) -> None:
    refused = acestep("config", "set", key, value, "--json")
    assert refused.exit_code == 4 and refused.stderr == f"{sentence}\n"
    assert json.loads(refused.stdout)["error"]["field"] == key
    assert not file.exists()


def test_set_leaves_a_file_alone_that_it_cannot_change(
    acestep: Callable[..., Result], file: Path
) -> None:
    text = 'model = """\nlm = "none"\n"""\n'
    write(file, text)
    refused = acestep("config", "set", "lm", "other")
    assert refused.exit_code == 4 and "edit it by hand" in refused.stderr
    assert file.read_text() == text
