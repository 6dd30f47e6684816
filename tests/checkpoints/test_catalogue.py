"""The tables of models and presets: what they must say, and what is refused."""

import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest

from acestep.checkpoints import catalogue as catalogues
from acestep.checkpoints.catalogue import Catalogue
from acestep.checkpoints.files import STEMS, Kind
from acestep.config import DEFAULT_MODEL
from acestep.errors import CheckpointError
from acestep.request import Text2Music

PUBLISHED: Mapping[str, Kind] = {
    "acestep-v15-turbo": "dit",
    "acestep-v15-turbo-shift1": "dit",
    "acestep-v15-turbo-shift3": "dit",
    "acestep-v15-turbo-continuous": "dit",
    "acestep-v15-base": "dit",
    "acestep-v15-sft": "dit",
    "acestep-v15-xl-turbo": "dit",
    "acestep-v15-xl-base": "dit",
    "acestep-v15-xl-sft": "dit",
    "acestep-5Hz-lm-0.6B": "lm",
    "acestep-5Hz-lm-1.7B": "lm",
    "acestep-5Hz-lm-4B": "lm",
    "vae": "vae",
    "Qwen3-Embedding-0.6B": "text_encoder",
}
OURS: Mapping[str, Kind] = {
    "acestep-v15-nano-turbo": "dit",
    "acestep-v15-nano-base": "dit",
    "acestep-5Hz-lm-nano": "lm",
    "acestep-nano-vae": "vae",
    "acestep-nano-text-encoder": "text_encoder",
}


class TestCatalogue:
    def test_every_published_name_is_known_with_its_kind(self) -> None:
        kinds = {name: entry.kind for name, entry in Catalogue.read().models.items()}
        assert kinds == {**PUBLISHED, **OURS}

    def test_every_published_model_is_pinned_to_a_commit(self) -> None:
        models = Catalogue.read().models
        for name in PUBLISHED:
            entry = models[name]
            assert entry.repo is not None and entry.repo.startswith("ACE-Step/")
            assert catalogues.COMMIT.fullmatch(entry.revision or "")
            assert entry.size is not None and entry.size > 300e6
        assert all(models[name].ships for name in OURS)

    def test_the_model_that_is_loaded_when_nobody_chose_ships_with_the_program(self) -> None:
        assert Catalogue.read().models[DEFAULT_MODEL].ships

    def test_published_hashes_are_sha256_of_the_weights(self) -> None:
        for entry in Catalogue.read().models.values():
            for file, digest in entry.sha256.items():
                assert file == f"{STEMS[entry.kind]}.safetensors"
                assert len(digest) == 64 and int(digest, 16)

    @pytest.mark.parametrize(
        "name", [n for n, kind in {**PUBLISHED, **OURS}.items() if kind == "dit"]
    )
    def test_every_preset_resolves_a_request(self, name: str) -> None:
        catalogue = Catalogue.read()
        preset = catalogue.presets[catalogue.models[name].preset or ""]
        resolved = Text2Music(caption="x").resolve(preset)
        assert resolved.steps == preset.steps <= preset.max_steps
        assert resolved.shift == preset.shift
        assert resolved.guidance_scale == preset.guidance_scale
        assert preset.is_turbo == ("turbo" in name)
        assert preset.duration == (20.0 if "nano" in name else 120.0)

    def test_presets_are_those_the_families_were_trained_with(self) -> None:
        presets = Catalogue.read().presets
        numbers = {
            name: (p.steps, p.max_steps, p.shift, p.guidance_scale) for name, p in presets.items()
        }
        assert numbers["turbo"] == numbers["turbo-shift3"] == (8, 20, 3.0, 1.0)
        assert numbers["turbo-shift1"] == (8, 20, 1.0, 1.0)
        assert numbers["base"] == numbers["sft"] == (50, 200, 1.0, 7.0)

    def test_turbo_is_wavelet_corrected_and_the_users_words_stand(self) -> None:
        presets = Catalogue.read().presets
        official = {name: p for name, p in presets.items() if not name.startswith("nano")}
        assert {name for name, p in official.items() if p.dcw == "double"} == {
            "turbo", "turbo-shift1", "turbo-shift3", "turbo-continuous"
        }  # fmt: skip
        assert all(p.dcw in ("double", "off") for p in presets.values())
        assert not any(p.rewrite_caption for p in official.values())
        assert presets["nano-turbo"].rewrite_caption and presets["nano-base"].rewrite_caption

    def test_a_dit_brings_its_companions(self) -> None:
        catalogue = Catalogue.read()
        assert catalogue.with_companions("acestep-v15-xl-sft") == (
            "acestep-v15-xl-sft",
            "vae",
            "Qwen3-Embedding-0.6B",
        )
        assert catalogue.with_companions("vae") == ("vae",)

    @pytest.mark.parametrize(
        ("models", "sentence"),
        [
            ('[a]\nkind = "dit"\n', "license"),
            ('[a]\nkind = "lm"\nlicense = "MIT"\ndescription = ""\ncolour = 1\n', "colour"),
            ('[a]\nkind = "dit"\nlicense = "MIT"\ndescription = ""\n', "belong to a dit"),
            ('[a]\nkind = "lm"\nlicense = "MIT"\ndescription = ""\nrepo = "x/y"\n', "revision"),
            ("[a\n", "cannot be read"),
        ],
    )
    def test_a_wrong_table_is_refused(self, tmp_path: Path, models: str, sentence: str) -> None:
        (tmp_path / "models.toml").write_text(models)
        (tmp_path / "presets.toml").write_text("")
        with pytest.raises(CheckpointError, match=sentence):
            Catalogue.read(tmp_path)

    def test_a_row_that_names_what_is_not_there_is_refused(self, tmp_path: Path) -> None:
        shutil.copytree(catalogues.configs_folder(), tmp_path, dirs_exist_ok=True)
        (tmp_path / "presets.toml").write_text("")
        with pytest.raises(CheckpointError, match="names the preset 'turbo', which is not there"):
            Catalogue.read(tmp_path)

    def test_a_missing_table_says_so(self, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match="install the program again"):
            Catalogue.read(tmp_path)
