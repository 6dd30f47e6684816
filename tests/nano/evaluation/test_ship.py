"""What ships: the published layout, small, with the figures in the cards."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from acestep.checkpoints.folder import fingerprint
from acestep.checkpoints.locate import Checkpoints
from acestep.models.load import load_acestep, load_silence
from scripts.nano.evaluation import ship
from scripts.nano.evaluation.figures import Figure
from scripts.nano.evaluation.studio import BASE, TURBO

VAE = "acestep-nano-vae"


@pytest.fixture
def shipped(tiny_models: Path, tmp_path: Path) -> Path:
    figures = [
        Figure("think", "tempo", 0.93, (">=", 0.8), 1.0, 100),
        Figure("base", "key", 0.5, (">=", 0.8), None, 25),
    ]
    for name in ship.PARTS:
        ship.ship_checkpoint(name, tiny_models, tmp_path, figures)
    return tmp_path


def test_every_checkpoint_is_complete(shipped: Path) -> None:
    places = Checkpoints(shipped, shipped=shipped)
    for name in ship.PARTS:
        assert places.resolve(name) == shipped / name
    assert places.preset(TURBO).is_turbo and not places.preset(BASE).is_turbo
    assert places.planner(BASE) == shipped / "acestep-5Hz-lm-nano"


def test_base_takes_its_weights_from_turbo(shipped: Path) -> None:
    assert not (shipped / BASE / "model.safetensors").exists()
    turbo, base = (load_acestep(shipped / name).state_dict() for name in (TURBO, BASE))
    assert turbo.keys() == base.keys()
    assert all(torch.equal(turbo[key], base[key]) for key in turbo)
    assert fingerprint(shipped / TURBO) == fingerprint(shipped / BASE)


def test_the_vae_is_rounded_to_half_the_size(shipped: Path, tiny_models: Path) -> None:
    file = "diffusion_pytorch_model.safetensors"
    before, after = load_file(tiny_models / VAE / file), load_file(shipped / VAE / file)
    for key, value in before.items():
        assert after[key].dtype == torch.float16
        torch.testing.assert_close(after[key].float(), value.float(), rtol=1e-3, atol=1e-6)


def test_a_weight_that_is_too_large_is_not_rounded_away(tmp_path: Path) -> None:
    save_file({"a": torch.tensor([1e6])}, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="a does not fit"):
        ship.round_weights(tmp_path / "a.safetensors", tmp_path / "b.safetensors")


def test_a_silence_that_repeats_itself_is_small(shipped: Path, tmp_path: Path) -> None:
    period = torch.randn(1, 64, 10, generator=torch.Generator().manual_seed(0))
    silence = period.repeat(1, 1, 1500)
    torch.save(silence, tmp_path / "silence.pt")
    ship.write_silence(tmp_path / "silence.pt", shipped / TURBO / ship.SILENCE_FILE)
    assert (shipped / TURBO / ship.SILENCE_FILE).stat().st_size < 50_000
    assert torch.equal(load_silence(shipped / TURBO), silence.mT)


def test_cards_tell_what_was_measured_and_what_was_not_reached(shipped: Path) -> None:
    turbo, base = ((shipped / name / "README.md").read_text() for name in (TURBO, BASE))
    assert "| think: tempo | 0.93 | >= 0.8 | 1.00 | 100 |" in turbo
    assert "base: key" not in turbo
    assert "| base: key | 0.50 | >= 0.8 — **not reached** |  | 25 |" in base
    assert "$" not in turbo + base
    assert "an unknown training" in turbo and "0 steps" not in turbo
    assert "license: mit" in turbo


def test_figures_are_read_back_as_they_were_written(tmp_path: Path) -> None:
    rows = [
        {"group": "vae", "name": "distance", "value": 4.2, "bound": ["<=", 3.5], "ceiling": None,
         "count": 3, "is_met": False},
    ]  # fmt: skip
    (tmp_path / "figures.json").write_text(json.dumps({"prompts": 3, "figures": rows}))
    (figure,) = ship.read_figures(tmp_path / "figures.json")
    assert figure == Figure("vae", "distance", 4.2, ("<=", 3.5), None, 3)
    assert figure.is_met is False
