"""`acestep models` and the page's command, around a fake hub and a fake page."""

import hashlib
import inspect
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from fake_engine import FakeEngine
from model_folders import write_lora
from safetensors.torch import save
from typer.testing import CliRunner, Result

from acestep.checkpoints.catalogue import Catalogue
from acestep.checkpoints.hub import Listing, RemoteFile
from acestep.cli import build_app, page
from acestep.config import DEFAULT_MODEL, ServiceConfig
from acestep.library.recipe import read_recipe
from acestep.ui import app as ui_app

NAME = "acestep-5Hz-lm-4B"  # no companions, no published hash
FILES = {
    "config.json": b'{"model_type": "qwen3"}',
    "model.safetensors": save({"a": torch.arange(1000.0)}),
    "tokenizer.json": b"{}",
}


class FakeHub:
    """Has the files above, whatever is asked for."""

    def listing(self, repo: str, revision: str) -> Listing:
        files = (
            RemoteFile(name, len(data), hashlib.sha256(data).hexdigest(), None)
            for name, data in FILES.items()
        )
        return Listing(revision, tuple(files))

    def cached(self, repo: str, commit: str, path: str) -> Path | None:
        return None

    def chunks(self, repo: str, commit: str, path: str, start: int) -> Iterator[bytes]:
        yield FILES[path][start:]


@dataclass
class FakePage:
    """Takes the options of the real page and is closed as soon as it is up."""

    url: str = "http://127.0.0.1:7860"
    options: dict[str, Any] = field(default_factory=dict)
    waited: bool = False

    def launch(self, **options: Any) -> Any:
        inspect.signature(ui_app.launch).bind(**options)
        self.options = options
        return self

    def wait(self) -> None:
        self.waited = True


@pytest.fixture
def fake_page() -> FakePage:
    return FakePage()


@pytest.fixture
def acestep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fake_page: FakePage
) -> Callable[..., Result]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    app = build_app(
        make_page_engine=lambda config, folder: FakeEngine(folder, config=config),
        open_page=fake_page.launch,
        hub=FakeHub(),
    )

    def run(*arguments: str, answer: str = "", **environment: str) -> Result:
        return CliRunner().invoke(app, list(arguments), input=answer, env=environment)

    return run


def models(acestep: Callable[..., Result], *arguments: str, **more: str) -> Result:
    return acestep("models", *arguments, "--models-dir", "models", **more)


def test_list_marks_what_is_here_and_sizes_what_is_not(acestep: Callable[..., Result]) -> None:
    lines = models(acestep, "list").stdout.splitlines()
    turbo = next(line for line in lines if " acestep-v15-turbo " in line)
    assert turbo.startswith("  ") and "4.8 GB" in turbo and "music model" in turbo
    nano = next(line for line in lines if DEFAULT_MODEL in line)
    assert nano.startswith("✔") and "MB" in nano
    rows = json.loads(models(acestep, "list", "--json").stdout)["models"]
    assert {row["name"] for row in rows} == Catalogue.read().models.keys()
    assert {row["name"]: row["state"] for row in rows}[DEFAULT_MODEL] == "ready"


def test_download_shows_what_comes_and_asks_first(acestep: Callable[..., Result]) -> None:
    declined = models(acestep, "download", NAME, answer="n\n")
    assert declined.exit_code == 6 and not Path("models").exists()
    assert "model.safetensors" in declined.stderr and "free on the disk" in declined.stderr
    unattended = models(acestep, "download", NAME)
    assert unattended.exit_code == 6 and "Add --yes" in unattended.stderr
    assert models(acestep, "download", NAME, answer="y\n").exit_code == 0
    assert Path("models", NAME, "model.safetensors").read_bytes() == FILES["model.safetensors"]


def test_download_goes_on_where_it_stopped_and_says_so(acestep: Callable[..., Result]) -> None:
    folder = Path("models", NAME)
    folder.mkdir(parents=True)
    (folder / "model.safetensors.part").write_bytes(FILES["model.safetensors"][:3000])
    result = models(acestep, "download", NAME, "--yes", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["name"] == NAME
    assert "model.safetensors  0.0 MB here already" in result.stderr


def test_verify_finds_the_changed_file(acestep: Callable[..., Result]) -> None:
    models(acestep, "download", NAME, "--yes")
    assert models(acestep, "verify", NAME).stdout == f"✔ {NAME}\n"
    (Path("models") / NAME / "tokenizer.json").write_text("[]")
    result = models(acestep, "verify", NAME, "--json")
    assert result.exit_code == 3
    [model] = json.loads(result.stdout)["models"]
    assert "tokenizer.json does not match its checksum." in model["problems"][0]


def test_verify_without_names_checks_all_that_is_here(acestep: Callable[..., Result]) -> None:
    result = models(acestep, "verify")
    assert result.exit_code == 0 and f"✔ {DEFAULT_MODEL}" in result.stdout


def test_path_prints_the_folder_or_what_to_do(acestep: Callable[..., Result]) -> None:
    folder = Path(models(acestep, "path", DEFAULT_MODEL).stdout.strip())
    assert folder.name == DEFAULT_MODEL and (folder / "config.json").is_file()
    missing = models(acestep, "path", "acestep-v15-turbo-x")
    assert missing.exit_code == 3 and "Did you mean acestep-v15-turbo" in missing.stderr


def test_loras_says_which_adapters_fit_and_why_not(acestep: Callable[..., Result]) -> None:
    empty = models(acestep, "loras")
    assert empty.exit_code == 0 and empty.stdout.startswith("No LoRA is in ")
    write_lora(Path("models/loras/warm.safetensors"))
    Path("models/loras/old.ckpt").write_bytes(b"\x80")
    lines = models(acestep, "loras").stdout.splitlines()
    assert lines[0].startswith("! old.ckpt") and "pickle" in lines[0]
    assert lines[1] == "✔ warm.safetensors  LoRA, rank 2"
    data = json.loads(models(acestep, "loras", "--json").stdout)
    assert [(row["name"], bool(row["problem"])) for row in data["loras"]] == [
        ("old.ckpt", True),
        ("warm.safetensors", False),
    ]


def test_doctor_says_what_is_fine_and_what_to_do(acestep: Callable[..., Result]) -> None:
    result = acestep("doctor", "--device", "cpu", "--models-dir", "models")
    assert result.exit_code == 0, result.output
    assert "✔ Python" in result.stdout
    assert "→ For real songs: acestep models download acestep-v15-turbo" in result.stdout
    failed = acestep("doctor", "--device", "tpu", "--json")
    assert failed.exit_code == 3
    checks = {check["name"]: check for check in json.loads(failed.stdout)["checks"]}
    assert checks["Device"]["status"] == "fail" and "tpu" in checks["Device"]["detail"]


def test_no_command_opens_the_page(acestep: Callable[..., Result], fake_page: FakePage) -> None:
    result = acestep()
    assert result.exit_code == 0, result.output
    assert result.stdout == "ACE-Step is at http://127.0.0.1:7860 (Ctrl+C stops it)\n"
    assert result.stderr == "" and fake_page.waited
    assert fake_page.options["port"] is None and "host" not in fake_page.options
    engine = fake_page.options["make_engine"]()  # the page makes it when it is up
    assert engine.state.config == ServiceConfig()
    assert fake_page.options["config_class"] is ServiceConfig


def test_the_page_gets_the_options(acestep: Callable[..., Result], fake_page: FakePage) -> None:
    result = acestep(
        "--host", "0.0.0.0", "--port", "8000", "--auth", "me:a:b", "--share", "--no-open",
        "--output-dir", "songs", "--model", "some/folder",
        ACESTEP_HOST="::1", ACESTEP_PORT="9",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    options = fake_page.options
    engine = options.pop("make_engine")()
    assert engine.state.config == ServiceConfig(model="some/folder")
    assert engine.output_dir == Path("songs")
    assert options == {
        "config_class": ServiceConfig,
        "host": "0.0.0.0", "port": 8000, "auth": ("me", "a:b"), "share": True,
        "open_browser": False, "output_dir": Path("songs"),
    }  # fmt: skip


def test_the_page_is_where_the_environment_says(
    acestep: Callable[..., Result], fake_page: FakePage
) -> None:
    acestep("ui", ACESTEP_HOST="0.0.0.0", ACESTEP_PORT="9000", ACESTEP_OUTPUT_DIR="songs")
    options = fake_page.options
    assert (options["host"], options["port"], str(options["output_dir"])) == (
        "0.0.0.0", 9000, "songs",
    )  # fmt: skip


def test_a_port_that_was_busy_is_mentioned(
    acestep: Callable[..., Result], fake_page: FakePage
) -> None:
    fake_page.url = "http://127.0.0.1:7861"
    assert acestep("ui").stderr == "Port 7860 is in use; using 7861.\n"
    fake_page.url = "https://abc.gradio.live"
    assert acestep("ui", "--json").stderr == ""


@pytest.mark.parametrize("auth", ["me", "me:", ":secret"])
def test_half_a_password_is_refused(acestep: Callable[..., Result], auth: str) -> None:
    result = acestep("ui", "--auth", auth)
    assert result.exit_code == 4 and result.stderr == "Write --auth as USER:PASSWORD.\n"


def test_the_page_is_where_its_help_says(acestep: Callable[..., Result]) -> None:
    assert (page.DEFAULT_HOST, page.DEFAULT_PORT) == (ui_app.DEFAULT_HOST, ui_app.DEFAULT_PORT)
    shown = " ".join(acestep("ui", "--help").stdout.split())
    assert "[default: 127.0.0.1]" in shown and "[default: 7860, or the next one" in shown


def test_the_shipped_model_makes_a_song_that_replays_identically(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    app = build_app()
    made = CliRunner().invoke(
        app, ["generate", "--caption", "beat", "--duration", "10", "--steps", "1", "--out", "x.wav"]
    )
    assert made.exit_code == 0, made.output
    assert read_recipe("x.wav")["models"]["dit"]["name"] == DEFAULT_MODEL
    again = CliRunner().invoke(app, ["replay", "x.wav"])
    assert again.stdout == "identical\n", again.output
