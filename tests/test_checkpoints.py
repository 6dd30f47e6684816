"""Names, folders, presets: what is found where, and what is said when it is not."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from acestep import checkpoints
from acestep.checkpoints import Catalogue, Checkpoints, Kind
from acestep.errors import CheckpointError, ModelMissing
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
CONFIGS: Mapping[Kind, dict[str, Any]] = {
    "dit": {"model_type": "acestep", "text_hidden_dim": 1024, "is_turbo": True},
    "lm": {"model_type": "qwen3", "hidden_size": 1024},
    "text_encoder": {"model_type": "qwen3", "hidden_size": 1024},
    "vae": {"_class_name": "AutoencoderOobleck", "downsampling_ratios": [2, 4, 4, 6, 10]},
}

MakeModel = Callable[..., Path]


@pytest.fixture
def make_model(tmp_path: Path) -> MakeModel:
    """Write a folder that is complete as far as headers tell."""

    def make(name: str, kind: Kind, *, into: Path | None = None, **config: Any) -> Path:
        folder = (into or tmp_path / "checkpoints") / name
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps(CONFIGS[kind] | config))
        stem = checkpoints.STEMS[kind]
        save_file({"a": torch.arange(9000.0)}, folder / f"{stem}.safetensors")
        if kind == "dit":
            (folder / "silence_latent.pt").write_bytes(b"silence")
        if kind in ("lm", "text_encoder"):
            added = ["<think>", *(["<|audio_code_0|>"] if kind == "lm" else [])]
            (folder / "tokenizer.json").write_text(json.dumps({"added_tokens": added}))
        return folder

    return make


@pytest.fixture
def places(tmp_path: Path) -> Checkpoints:
    """An empty computer: no models, no cache, nothing that ships."""
    return Checkpoints(
        tmp_path / "checkpoints", cache=tmp_path / "cache", shipped=tmp_path / "shipped"
    )


def missing_sentence(places: Checkpoints, name: str | Path) -> str:
    with pytest.raises(ModelMissing) as caught:
        places.resolve(name)
    return str(caught.value)


def refusal(places: Checkpoints, name: str | Path, kind: Kind | None = None) -> str:
    with pytest.raises(CheckpointError) as caught:
        places.resolve(name, kind)
    return str(caught.value)


class TestCatalogue:
    def test_every_published_name_is_known_with_its_kind(self) -> None:
        kinds = {name: entry.kind for name, entry in Catalogue.read().models.items()}
        assert kinds == {**PUBLISHED, **OURS}

    def test_every_published_model_is_pinned_to_a_commit(self) -> None:
        models = Catalogue.read().models
        for name in PUBLISHED:
            entry = models[name]
            assert entry.repo is not None and entry.repo.startswith("ACE-Step/")
            assert checkpoints.COMMIT.fullmatch(entry.revision or "")
            assert entry.size is not None and entry.size > 300e6
        assert all(models[name].ships for name in OURS)

    def test_published_hashes_are_sha256_of_the_weights(self) -> None:
        for entry in Catalogue.read().models.values():
            for file, digest in entry.sha256.items():
                assert file == f"{checkpoints.STEMS[entry.kind]}.safetensors"
                assert len(digest) == 64 and int(digest, 16)

    @pytest.mark.parametrize(
        "name", [n for n, kind in {**PUBLISHED, **OURS}.items() if kind == "dit"]
    )
    def test_every_preset_resolves_a_request(self, name: str) -> None:
        catalogue = Catalogue.read()
        preset = catalogue.presets[catalogue.models[name].preset or ""]
        resolved = Text2Music(caption="x").resolve(preset, has_planner=False)
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
        shutil.copytree(checkpoints.configs_folder(), tmp_path, dirs_exist_ok=True)
        (tmp_path / "presets.toml").write_text("")
        with pytest.raises(CheckpointError, match="names the preset 'turbo', which is not there"):
            Catalogue.read(tmp_path)

    def test_a_missing_table_says_so(self, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match="install the program again"):
            Catalogue.read(tmp_path)


class TestResolve:
    def test_a_name_is_a_folder_in_the_root(
        self, places: Checkpoints, make_model: MakeModel
    ) -> None:
        folder = make_model("acestep-v15-turbo", "dit")
        assert places.resolve("acestep-v15-turbo") == folder

    def test_a_path_is_taken_as_it_is(
        self, places: Checkpoints, make_model: MakeModel, tmp_path: Path
    ) -> None:
        make_model("mine", "dit")
        other = make_model("mine", "dit", into=tmp_path / "elsewhere")
        assert places.resolve(other) == places.resolve(str(other)) == other

    def test_the_root_comes_before_what_ships(
        self, places: Checkpoints, make_model: MakeModel, tmp_path: Path
    ) -> None:
        shipped = make_model("acestep-v15-nano-turbo", "dit", into=tmp_path / "shipped")
        assert places.resolve("acestep-v15-nano-turbo") == shipped
        own = make_model("acestep-v15-nano-turbo", "dit")
        assert places.resolve("acestep-v15-nano-turbo") == own

    @pytest.mark.parametrize("reference", ["pinned", "main"])
    def test_a_complete_snapshot_in_the_hub_cache_is_used_without_network(
        self, places: Checkpoints, make_model: MakeModel, tmp_path: Path, reference: str
    ) -> None:
        pinned = places.catalogue.models["acestep-v15-turbo"].revision or ""
        commit = pinned if reference == "pinned" else "a" * 40
        repo = tmp_path / "cache" / "models--ACE-Step--Ace-Step1.5"
        (repo / "refs").mkdir(parents=True)
        (repo / "refs" / "main").write_text(commit)
        folder = make_model("acestep-v15-turbo", "dit", into=repo / "snapshots" / commit)
        assert places.resolve("acestep-v15-turbo") == folder

    def test_a_repository_of_its_own_is_recognised_in_the_hub_cache(
        self, places: Checkpoints, make_model: MakeModel, tmp_path: Path
    ) -> None:
        commit = places.catalogue.models["acestep-v15-turbo-shift1"].revision or ""
        repo = tmp_path / "cache" / "models--ACE-Step--acestep-v15-turbo-shift1"
        folder = make_model(commit, "dit", into=repo / "snapshots")
        assert places.resolve("acestep-v15-turbo-shift1") == folder
        assert places.preset(folder).name == "turbo-shift1"

    def test_an_incomplete_snapshot_in_the_hub_cache_is_not_used(
        self, places: Checkpoints, make_model: MakeModel, tmp_path: Path
    ) -> None:
        commit = places.catalogue.models["acestep-v15-base"].revision or ""
        repo = tmp_path / "cache" / "models--ACE-Step--acestep-v15-base"
        folder = make_model(commit, "dit", into=repo / "snapshots")
        (folder / "model.safetensors").unlink()
        assert "is not on this computer" in missing_sentence(places, "acestep-v15-base")

    def test_a_known_model_that_is_not_here_names_folder_and_command(
        self, places: Checkpoints, tmp_path: Path
    ) -> None:
        assert missing_sentence(places, "acestep-v15-turbo") == (
            "acestep-v15-turbo is not on this computer (4.8 GB): there is no folder "
            f"{tmp_path / 'checkpoints' / 'acestep-v15-turbo'}. "
            "Run `acestep models download acestep-v15-turbo`."
        )

    def test_a_misspelt_name_gets_the_nearest_known_ones(self, places: Checkpoints) -> None:
        assert "Did you mean acestep-v15-turbo " in missing_sentence(places, "acestep-v15-trubo")
        assert "Did you mean acestep-5Hz-lm-4B" in missing_sentence(places, "acestep-5hz-lm-4b")
        assert "See `acestep models list`" in missing_sentence(places, "zzz")

    def test_a_path_that_is_not_there_says_so(self, places: Checkpoints, tmp_path: Path) -> None:
        path = tmp_path / "gone"
        assert missing_sentence(places, str(path)) == f"There is no folder {path}."

    def test_what_ships_and_is_gone_asks_for_a_new_installation(self, places: Checkpoints) -> None:
        sentence = missing_sentence(places, "acestep-v15-nano-turbo")
        assert sentence.endswith("Install the program again.")

    def test_an_incomplete_folder_names_what_lacks_and_the_cure(
        self, places: Checkpoints, make_model: MakeModel
    ) -> None:
        folder = make_model("acestep-v15-turbo", "dit")
        (folder / "silence_latent.pt").unlink()
        sentence = refusal(places, "acestep-v15-turbo")
        assert "silence_latent.pt is missing." in sentence
        assert sentence.endswith("Run `acestep models download acestep-v15-turbo`.")

    def test_another_kind_of_model_is_refused(
        self, places: Checkpoints, make_model: MakeModel
    ) -> None:
        make_model("acestep-5Hz-lm-0.6B", "lm")
        assert refusal(places, "acestep-5Hz-lm-0.6B", "dit") == (
            "acestep-5Hz-lm-0.6B is a 5Hz language model, not a music model."
        )

    @pytest.mark.parametrize("name", ["mine", "my-lm-tuned"])
    @pytest.mark.parametrize("kind", ["lm", "text_encoder"])
    def test_a_language_model_is_told_from_a_text_encoder_by_its_tokens(
        self, places: Checkpoints, make_model: MakeModel, name: str, kind: Kind
    ) -> None:
        folder = make_model(name, kind)
        assert places.kind(folder) == kind
        assert places.resolve(folder, kind) == folder
        other: Kind = "lm" if kind == "text_encoder" else "text_encoder"
        assert f"not a {checkpoints.KIND_NAMES[other]}" in refusal(places, folder, other)

    def test_without_a_tokenizer_that_is_what_is_missing(
        self, places: Checkpoints, make_model: MakeModel
    ) -> None:
        folder = make_model("mine", "lm")
        (folder / "tokenizer.json").unlink()
        assert places.kind(folder) is None
        assert checkpoints.problems(folder, None) == ["tokenizer.json is missing."]
        assert "tokenizer.json is missing." in refusal(places, folder, "lm")


class TestProblems:
    def test_a_sharded_checkpoint_is_complete_when_every_shard_is(
        self, places: Checkpoints, make_model: MakeModel
    ) -> None:
        folder = make_model("acestep-v15-xl-turbo", "dit")
        single = folder / "model.safetensors"
        shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
        single.rename(folder / shards[0])
        save_file({"b": torch.zeros(2)}, folder / shards[1])
        index = {"weight_map": {"a": shards[0], "b": shards[1]}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        assert checkpoints.problems(folder, "dit") == []
        (folder / shards[1]).unlink()
        (problem,) = checkpoints.problems(folder, "dit")
        assert problem.startswith(f"{shards[1]} is missing: ")

    @pytest.mark.parametrize(
        ("content", "sentence"),
        [
            (b"", "is empty; "),
            (b"PK\x03\x04 a renamed pickle", "is a pickle archive"),
            (b"\x05\0\0\0\0\0\0\0{oops", "is damaged: its header cannot be read."),
            (b"\x02\0\0\0\0\0\0\0{}tail", "is damaged: 4 bytes follow its tensors."),
            (b"\xff" * 40, "is damaged; "),
        ],
    )
    def test_weights_that_are_none_are_seen_by_content(
        self, make_model: MakeModel, content: bytes, sentence: str
    ) -> None:
        folder = make_model("acestep-v15-turbo", "dit")
        (folder / "model.safetensors").write_bytes(content)
        (problem,) = checkpoints.problems(folder, "dit")
        assert problem.startswith(f"model.safetensors {sentence}")

    def test_a_cut_off_file_is_seen_by_its_length(self, make_model: MakeModel) -> None:
        folder = make_model("acestep-v15-turbo", "dit")
        path = folder / "model.safetensors"
        content = path.read_bytes()
        path.write_bytes(content[:-1])
        (problem,) = checkpoints.problems(folder, "dit")
        assert problem.startswith(
            f"model.safetensors is cut off: {len(content) - 1:,} bytes of {len(content):,}"
        )

    def test_a_pickle_is_named_and_not_loaded(self, make_model: MakeModel) -> None:
        folder = make_model("acestep-5Hz-lm-0.6B", "lm")
        (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
        (problem,) = checkpoints.problems(folder, "lm")
        assert "only pytorch_model.bin, a pickle file" in problem

    def test_an_index_cannot_point_outside_its_folder(self, make_model: MakeModel) -> None:
        folder = make_model("acestep-v15-xl-turbo", "dit")
        (folder / "model.safetensors").unlink()
        index = {"weight_map": {"a": "../../secret.safetensors"}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        (problem,) = checkpoints.problems(folder, "dit")
        assert problem.startswith("model.safetensors.index.json points outside its folder")

    def test_a_folder_of_another_program_is_no_model(self, tmp_path: Path) -> None:
        assert checkpoints.problems(tmp_path, "dit") == ["config.json is missing."]
        (tmp_path / "config.json").write_text("[1]")
        assert checkpoints.problems(tmp_path, "dit") == ["config.json is not a JSON object."]
        (tmp_path / "config.json").write_text('{"model_type": "llama"}')
        assert checkpoints.problems(tmp_path, None) == [
            "config.json is of no network this program knows."
        ]


class TestCompanions:
    def test_upstreams_folder_works_as_it_is(
        self, places: Checkpoints, make_model: MakeModel
    ) -> None:
        make_model("acestep-v15-turbo", "dit")
        vae = make_model("vae", "vae")
        encoder = make_model("Qwen3-Embedding-0.6B", "text_encoder")
        found = places.companions("acestep-v15-turbo")
        assert (found.vae, found.text_encoder) == (vae, encoder)

    def test_a_folders_own_networks_come_first(
        self, places: Checkpoints, make_model: MakeModel
    ) -> None:
        dit = make_model("mine", "dit")
        make_model("vae", "vae")
        make_model("Qwen3-Embedding-0.6B", "text_encoder")
        vae = make_model("vae", "vae", into=dit)
        encoder = make_model("text_encoder", "text_encoder", into=dit)
        found = places.companions(dit)
        assert (found.vae, found.text_encoder) == (vae, encoder)

    def test_a_dit_of_ones_own_gets_the_text_encoder_of_its_width(
        self, places: Checkpoints, make_model: MakeModel
    ) -> None:
        wide = make_model("wide", "dit", text_hidden_dim=1024)
        narrow = make_model("narrow", "dit", text_hidden_dim=64)
        make_model("vae", "vae")
        make_model("Qwen3-Embedding-0.6B", "text_encoder")
        make_model("acestep-nano-vae", "vae")
        make_model("acestep-nano-text-encoder", "text_encoder", hidden_size=64)
        assert places.companions(wide).text_encoder.name == "Qwen3-Embedding-0.6B"
        assert places.companions(narrow).text_encoder.name == "acestep-nano-text-encoder"
        assert places.companions(narrow).vae.name == "acestep-nano-vae"

    def test_a_missing_companion_names_its_download(
        self, places: Checkpoints, make_model: MakeModel
    ) -> None:
        make_model("acestep-v15-turbo", "dit")
        with pytest.raises(ModelMissing, match="Run `acestep models download vae`"):
            places.companions("acestep-v15-turbo")


class TestPreset:
    def test_a_known_name_has_its_own_preset(
        self, places: Checkpoints, make_model: MakeModel
    ) -> None:
        make_model("acestep-v15-turbo-shift1", "dit")
        assert places.preset("acestep-v15-turbo-shift1").shift == 1.0

    @pytest.mark.parametrize(("is_turbo", "preset"), [(True, "turbo"), (False, "base")])
    def test_an_unknown_folder_gets_the_preset_of_its_config(
        self, places: Checkpoints, make_model: MakeModel, is_turbo: bool, preset: str
    ) -> None:
        folder = make_model("mine", "dit", is_turbo=is_turbo)
        assert places.preset(folder).name == preset

    def test_the_config_outweighs_the_name(
        self, places: Checkpoints, make_model: MakeModel
    ) -> None:
        make_model("acestep-v15-turbo", "dit", is_turbo=False)
        assert places.preset("acestep-v15-turbo").name == "base"


def test_installed_lists_known_models_first_and_own_folders_after(
    places: Checkpoints, make_model: MakeModel
) -> None:
    make_model("acestep-v15-turbo", "dit")
    broken = make_model("vae", "vae")
    (broken / "diffusion_pytorch_model.safetensors").write_bytes(b"x")
    make_model("my-song-model", "dit")
    found = {model.name: model for model in places.installed()}
    assert list(found) == [*places.catalogue.models, "my-song-model"]
    assert found["acestep-v15-turbo"].state == "ready"
    assert found["acestep-v15-turbo"].size == sum(
        path.stat().st_size for path in (broken.parent / "acestep-v15-turbo").iterdir()
    )
    assert found["vae"].state == "incomplete" and found["vae"].problems
    assert found["acestep-v15-base"].state == "missing"
    assert found["acestep-v15-base"].size == places.catalogue.models["acestep-v15-base"].size
    assert (found["my-song-model"].kind, found["my-song-model"].state) == ("dit", "ready")


def test_a_fingerprint_follows_the_weights_and_nothing_else(make_model: MakeModel) -> None:
    folder = make_model("acestep-v15-turbo", "dit")
    before = checkpoints.fingerprint(folder)
    (folder / "notes.txt").write_text("mine")
    assert checkpoints.fingerprint(folder) == before
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert checkpoints.fingerprint(folder) != before


def test_importing_checkpoints_costs_neither_torch_nor_the_hub_client() -> None:
    code = (
        "import sys, acestep.checkpoints as c; c.Catalogue.read();"
        "print([m for m in ('torch', 'huggingface_hub', 'safetensors') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
