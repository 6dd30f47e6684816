"""Names, folders, presets: what is found where, and what is said when it is not."""

import subprocess
import sys
from pathlib import Path

import pytest
from model_folders import MakeModel

from acestep.checkpoints.files import KIND_NAMES, Kind
from acestep.checkpoints.folder import problems
from acestep.checkpoints.locate import Checkpoints
from acestep.errors import CheckpointError, ModelMissing


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

    @pytest.mark.parametrize("name", ["a" * 5000, "/" + "a" * 5000, "~nobody-has-this-name/x"])
    def test_a_place_that_cannot_be_looked_at_says_why(
        self, places: Checkpoints, name: str
    ) -> None:
        assert refusal(places, name).startswith("The model's folder cannot be looked at (")

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
        assert f"not a {KIND_NAMES[other]}" in refusal(places, folder, other)

    def test_without_a_tokenizer_that_is_what_is_missing(
        self, places: Checkpoints, make_model: MakeModel
    ) -> None:
        folder = make_model("mine", "lm")
        (folder / "tokenizer.json").unlink()
        assert places.kind(folder) is None
        assert problems(folder, None) == ["tokenizer.json is missing."]
        assert "tokenizer.json is missing." in refusal(places, folder, "lm")


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


def test_importing_checkpoints_costs_neither_torch_nor_the_hub_client() -> None:
    code = (
        "import sys, acestep.checkpoints.locate as c; c.Checkpoints();"
        "print([m for m in ('torch', 'huggingface_hub', 'safetensors') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
