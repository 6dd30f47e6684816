"""The README's own words are run: its Python block as it stands, its commands against the CLI."""

import re
from pathlib import Path

import pytest
import soundfile
import typer

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_python_block_writes_the_song_it_promises(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "README.md", "exec"), {})
    info = soundfile.info("song.flac")
    assert (info.duration, info.samplerate, info.channels) == (20, 48_000, 2)


def test_every_file_the_readme_points_to_exists() -> None:
    paths = re.findall(r"`((?:acestep|scripts|configs)/[\w/.]*)`", README)
    assert paths and [path for path in paths if not (ROOT / path).exists()] == []


def test_every_command_in_the_readme_is_known() -> None:
    from acestep.cli import build_app

    known = set(typer.main.get_command(build_app()).commands)  # pyright: ignore
    written = re.findall(r"^(?:uv run )?acestep (\w+)", README, re.MULTILINE)
    assert written and set(written) <= known
