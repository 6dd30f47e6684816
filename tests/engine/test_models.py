"""Lists of models, and choices that cannot be loaded."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from fake_hub import WEIGHTS, empty_computer
from model_folders import write_model

from acestep.engine.models import Checkpoints, ModelRow, check, rows

MODEL = "acestep-v15-turbo"


@pytest.fixture
def places(tmp_path: Path) -> Checkpoints:
    return empty_computer(tmp_path)


class TestRows:
    def test_present_incomplete_downloadable_and_missing_are_told_apart(
        self, places: Checkpoints
    ) -> None:
        write_model(places.root / "vae", "vae")
        broken = write_model(places.root / "Qwen3-Embedding-0.6B", "text_encoder")
        (broken / "tokenizer.json").unlink()
        found = {row.name: row for row in rows(places)}
        assert found["vae"].presence == "present" and found["vae"].label == "✔ vae"
        encoder = found["Qwen3-Embedding-0.6B"]
        assert (encoder.presence, encoder.problem) == ("incomplete", "tokenizer.json is missing.")
        assert encoder.label == "! Qwen3-Embedding-0.6B (incomplete)"
        assert found[MODEL].presence == "downloadable"
        assert found["acestep-nano-vae"].label == "– acestep-nano-vae (missing)"

    def test_a_download_is_as_large_as_what_lacks(self, places: Checkpoints) -> None:
        sizes = {name: entry.size or 0 for name, entry in places.catalogue.models.items()}

        def turbo() -> ModelRow:
            return next(row for row in rows(places, "dit") if row.name == MODEL)

        all_three = sizes[MODEL] + sizes["vae"] + sizes["Qwen3-Embedding-0.6B"]
        assert (turbo().size, turbo().download) == (sizes[MODEL], all_three)
        assert turbo().label == "⬇ acestep-v15-turbo (6.3 GB)"
        write_model(places.root / "vae", "vae")
        assert turbo().download == all_three - sizes["vae"]
        write_model(places.root / MODEL, "dit")
        assert turbo().presence == "incomplete"
        assert turbo().problem.startswith("Qwen3-Embedding-0.6B is not on this computer (1.2 GB)")
        assert turbo().download == sizes["Qwen3-Embedding-0.6B"]
        write_model(places.root / "Qwen3-Embedding-0.6B", "text_encoder")
        assert (turbo().presence, turbo().download, turbo().problem) == ("present", None, "")

    def test_only_one_kind_is_listed_when_asked_for_and_folders_of_ones_own_too(
        self, places: Checkpoints
    ) -> None:
        write_model(places.root / "mine", "vae")
        names = [row.name for row in rows(places, "vae")]
        assert names == ["vae", "acestep-nano-vae", "mine"]

    def test_a_download_that_was_stopped_says_so(self, places: Checkpoints) -> None:
        folder = places.root / "vae"
        folder.mkdir(parents=True)
        (folder / "diffusion_pytorch_model.safetensors.part").write_bytes(b"x" * 1000)
        row = next(row for row in rows(places) if row.name == "vae")
        assert row.presence == "incomplete" and row.size == 1000
        assert row.problem.startswith("The download of vae is not finished")

    def test_rows_are_json(self, places: Checkpoints) -> None:
        for row in rows(places):
            assert ModelRow.model_validate(json.loads(row.model_dump_json())) == row


class TestCheck:
    @pytest.mark.parametrize("choice", ["auto", "none"])
    def test_a_planner_need_not_be_named(self, places: Checkpoints, choice: str) -> None:
        assert check(choice, "lm", places) is None
        assert check(choice, "dit", places) is not None

    def test_a_complete_set_can_be_loaded(self, places: Checkpoints) -> None:
        folder = write_model(places.root / MODEL, "dit")
        write_model(places.root / "vae", "vae")
        write_model(places.root / "Qwen3-Embedding-0.6B", "text_encoder")
        assert check(MODEL, "dit", places) is None
        assert check(str(folder), "dit", places) is None

    def test_a_model_without_its_vae_names_the_vae(self, places: Checkpoints) -> None:
        write_model(places.root / MODEL, "dit")
        sentence = check(MODEL, "dit", places) or ""
        assert sentence.startswith("vae is not on this computer (0.3 GB)")

    def test_an_unknown_name_gets_the_known_ones_of_its_kind(self, places: Checkpoints) -> None:
        assert check("acestep-5Hz-lm-9B", "lm", places) == (
            f"`acestep-5Hz-lm-9B` was not found in {places.root}. Known names: "
            "acestep-5Hz-lm-0.6B, acestep-5Hz-lm-1.7B, acestep-5Hz-lm-4B, acestep-5Hz-lm-nano."
        )

    def test_a_known_name_that_is_not_here_can_be_downloaded(self, places: Checkpoints) -> None:
        assert check(MODEL, "dit", places) == (
            "acestep-v15-turbo is not on this computer (4.8 GB). Download it."
        )

    @pytest.mark.parametrize(
        ("choice", "sentence"),
        [
            ("", "Choose a music model: a name or a folder."),
            ("  ", "Choose a music model: a name or a folder."),
            ("vae", "vae is a VAE, not a music model."),
            ("acestep-v15-nano-turbo", "Install the program again."),
            ("./gone", "There is no folder gone."),
            ("a" * 5000, "The model's folder cannot be looked at"),
            ("a\0b", "was not found in"),
        ],
    )
    def test_a_choice_that_is_none_is_told_in_a_sentence(
        self, places: Checkpoints, choice: str, sentence: str
    ) -> None:
        assert sentence in (check(choice, "dit", places) or "")

    def test_typed_folders_say_what_they_lack(self, places: Checkpoints, tmp_path: Path) -> None:
        folder = tmp_path / "mine"
        folder.mkdir()

        def said() -> str:
            return check(str(folder), "dit", places) or ""

        assert said() == "This folder has no model.safetensors and config.json."
        (folder / "config.json").write_text('{"model_type": "acestep"}')
        assert said() == "This folder has no model.safetensors."
        (folder / "pytorch_model.bin").write_bytes(b"\x80")
        assert said() == "Only .safetensors weights are loaded; found pytorch_model.bin."
        (folder / "model.safetensors").write_bytes(WEIGHTS[:-1])
        assert "model.safetensors is cut off" in said()
        (folder / "config.json").write_text('{"model_type": "llama"}')
        assert said() == "mine cannot be used: config.json is of no network this program knows."
        (folder / "config.json").write_text('{"downsampling_ratios": [2]}')
        assert said() == "mine is a VAE, not a music model."

    def test_a_file_is_not_a_folder(self, places: Checkpoints) -> None:
        folder = write_model(places.root / "mine", "dit")
        path = folder / "model.safetensors"
        assert check(str(path), "dit", places) == f"{path} is a file: choose its folder."


def test_importing_it_costs_neither_torch_nor_the_hub_client() -> None:
    code = (
        "import sys, acestep.engine.models;"
        "print([m for m in ('torch', 'huggingface_hub', 'gradio') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
