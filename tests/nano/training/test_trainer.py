"""The loop that all nano trainers share, on a network that learns in a second."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from acestep.seeds import generator
from scripts.nano.training import trainer
from scripts.nano.training.muon import orthogonal
from scripts.nano.training.trainer import CURVE_FILE, Training, fast, read_config, train


def toy() -> nn.Linear:
    model = nn.Linear(4, 1)
    with torch.no_grad():
        model.weight.fill_(0.0)
        model.bias.fill_(0.0)
    return model


def loss_of(model: nn.Linear, step: int) -> dict[str, Tensor]:
    x = torch.randn(16, 4, generator=generator(step, "toy"))
    return {"loss": (model(x) - x.sum(dim=-1, keepdim=True)).square().mean()}


def settings(
    steps: int, *, ema: float = 0.0, optimizer: Literal["adamw", "muon"] = "adamw"
) -> Training:
    """Budgets of steps alone, so that two runs see the same learning rates."""
    return Training(
        minutes=1000,
        learning_rate=0.05,
        optimizer=optimizer,
        steps=steps,
        warmup_steps=5,
        ema=ema,
        log_seconds=0.0,
    )


@pytest.mark.parametrize(("optimizer", "ema"), [("adamw", 0.0), ("adamw", 0.9), ("muon", 0.9)])
def test_a_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(
    tmp_path: Path, optimizer: Literal["adamw", "muon"], ema: float
) -> None:
    chosen = settings(60, ema=ema, optimizer=optimizer)
    whole = toy()
    train(whole, lambda step: loss_of(whole, step), chosen, tmp_path / "whole")

    cut = toy()

    def stop_at_40(step: int) -> dict[str, Tensor]:
        if step == 40:
            raise KeyboardInterrupt
        return loss_of(cut, step)

    eager = replace(chosen, save_seconds=0.0)
    with pytest.raises(KeyboardInterrupt):
        train(cut, stop_at_40, eager, tmp_path / "cut")
    fresh = toy()
    progress = train(fresh, lambda step: loss_of(fresh, step), eager, tmp_path / "cut")

    assert progress.step == 60
    assert torch.equal(fresh.weight, whole.weight)
    assert torch.equal(fresh.bias, whole.bias)


def test_the_loss_falls_and_the_curve_is_drawn(tmp_path: Path) -> None:
    model = toy()

    def validate(network: nn.Module) -> float:
        assert isinstance(network, nn.Linear)
        return loss_of(network, 10**6)["loss"].item()

    before = validate(model)
    exported: list[nn.Module] = []
    progress = train(
        model,
        lambda step: loss_of(model, step),
        settings(200, ema=0.9),
        tmp_path,
        validate=validate,
        export=exported.append,
    )
    assert validate(model) < 0.05 * before
    assert progress.held_out[-1] == (200, validate(model))
    assert exported
    assert (tmp_path / CURVE_FILE).read_bytes().startswith(b"\x89PNG")


def test_a_finished_training_does_nothing_when_started_again(tmp_path: Path) -> None:
    model = toy()
    train(model, lambda step: loss_of(model, step), settings(3), tmp_path)
    before = model.weight.clone()
    train(model, lambda step: pytest.fail("trained on"), settings(3), tmp_path)
    assert torch.equal(model.weight, before)


def test_the_learning_rate_warms_up_and_falls() -> None:
    training = settings(100)
    rates = [training.rate(step, 0.0) for step in range(100)]
    assert rates[0] == pytest.approx(0.05 / 5, rel=0.01)
    assert max(rates) == rates[4]
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert rates[-1] < 0.03 * rates[4]


def test_the_budget_in_minutes_ends_a_training() -> None:
    training = Training(minutes=2, learning_rate=1.0)
    assert training.spent(0, 60.0) == 0.5
    assert training.spent(10**6, 120.0) == 1.0


def test_a_config_names_its_training_table(tmp_path: Path) -> None:
    path = tmp_path / "toy.toml"
    path.write_text("seed = 1\n[training]\nminutes = 3\nlearning_rate = 0.1\nbetas = [0.9, 0.95]\n")
    config = read_config(path)
    assert config["seed"] == 1
    assert config["training"] == Training(minutes=3, learning_rate=0.1, betas=(0.9, 0.95))


def test_muon_gives_every_direction_the_same_strength() -> None:
    matrix = torch.randn(48, 20, generator=generator(1, "matrix"))
    strengths = torch.linalg.svdvals(orthogonal(matrix))
    assert strengths.min() > 0.6 and strengths.max() < 1.3
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    assert torch.trace((left @ right).T @ orthogonal(matrix)) > 0.8 * 20


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_products_are_in_bfloat16_where_that_is_fast_and_weights_never(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    monkeypatch.setattr(trainer, "fitting_dtype", lambda _: dtype)
    model = toy()
    with fast(torch.device("cpu")):
        answer = model(torch.randn(3, 4))
    assert answer.dtype == dtype and model.weight.dtype == torch.float32
    answer.float().sum().backward()
    assert model.weight.grad is not None and model.weight.grad.dtype == torch.float32
