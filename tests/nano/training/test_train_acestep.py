"""The DiT's trainer: it shows the network what the product will, and the network learns."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from acestep.models.acestep import AceStep
from acestep.models.text_encoder import TextEncoder
from scripts.nano.data.score import compose
from scripts.nano.data.silence import PERIOD, clocked_silence
from scripts.nano.training import train_acestep
from scripts.nano.training.detokenizer import source_latents
from scripts.nano.training.mean_target import mean_target
from scripts.nano.training.train_acestep import SongObjective, levels_of
from scripts.nano.training.trainer import Training, read_config, train

ROOT = Path(__file__).parents[3]
SECONDS, SONGS = 4.0, 3


class Songs:
    """A library of noise that belongs to scores."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.latents = [rng.standard_normal((100, 64)).astype(np.float16) for _ in range(SONGS)]
        self.scores = [compose(seed, SECONDS) for seed in range(SONGS)]


@pytest.fixture(scope="module")
def silence() -> Tensor:
    return clocked_silence(torch.full((1, 20, 64), 0.25))


def objective(silence: Tensor, task: str) -> SongObjective:
    config = read_config(ROOT / "configs/nano/acestep.toml")
    config |= {"batch": 2, "mean_target_songs": {}, "crops": [50], "tasks": {task: 1.0}}
    encoder = TextEncoder.load(ROOT / "checkpoints/acestep-nano-text-encoder", torch.float32)
    return SongObjective(config, encoder, silence, Songs())  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("task", ["codes", "text", "repaint", "close"])
def test_each_task_is_shown_the_products_context(
    small_acestep: AceStep, silence: Tensor, task: str
) -> None:
    seen: list[tuple[Tensor, ...]] = []
    small_acestep.decoder.register_forward_pre_hook(lambda _, given: seen.append(given))
    lessons = objective(silence, task)
    found = lessons.losses(small_acestep, np.random.default_rng(1), SONGS)
    assert all(torch.isfinite(value) for value in found.values())
    assert ("source_latents" in found) == (task == "codes")
    songs = [torch.from_numpy(x.astype(np.float32)) for x in lessons.library.latents]
    for noisy, t, r, _, context in seen:
        assert torch.equal(t, r) and ((t > 0) & (t < 1)).all()
        frames = noisy.shape[1]
        source, mask = context.chunk(2, dim=-1)
        if task == "text":
            assert torch.equal(source, silence[:, :frames].expand_as(source)) and mask.all()
        elif task == "close":
            places = [song.unfold(0, frames, 1).mT for song in songs]
            assert all(any((p == view).all((1, 2)).any() for p in places) for view in source)
        elif task == "repaint":
            inside = mask[..., 0].bool()
            assert 0 < inside.sum() < inside.numel()
            clocks = [silence[0, shift : shift + frames] for shift in range(PERIOD)]
            for view, span in zip(source, inside, strict=True):
                assert any(torch.equal(view[span], clock[span]) for clock in clocks)


def test_the_loss_falls(small_acestep: AceStep, silence: Tensor, tmp_path: Path) -> None:
    lessons = objective(silence, "codes")
    seen: list[float] = []

    def loss_of(step: int) -> dict[str, Tensor]:
        found = dict(lessons.losses(small_acestep, np.random.default_rng(step), 1))
        seen.append(float(found["source_latents"].detach()))
        return found

    train(small_acestep, loss_of, Training(minutes=10, learning_rate=3e-3, steps=25), tmp_path)
    assert sum(seen[-5:]) < 0.95 * sum(seen[:5])


def test_both_models_are_written_with_the_clock(
    small_acestep: AceStep, silence: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_acestep, "WORK", tmp_path)
    train_acestep.export_acestep(small_acestep, {"model_type": "acestep"}, silence)
    for name in train_acestep.MODELS:
        stored = torch.load(tmp_path / name / "silence_latent.pt", weights_only=True)
        assert torch.equal(stored, silence.mT)


@pytest.mark.parametrize("task", ["text", "codes", "repaint"])
def test_the_first_velocity_is_trained_towards_the_mean_target(
    small_acestep: AceStep, silence: Tensor, task: str
) -> None:
    seen: list[tuple[Tensor, ...]] = []

    def see(_: nn.Module, given: tuple[Tensor, ...], answer: Tensor) -> None:
        seen.append((*given, answer))

    small_acestep.decoder.register_forward_hook(see)
    lessons = objective(silence, task)
    score = lessons.library.scores[0]
    song = torch.from_numpy(lessons.library.latents[0].astype(np.float32))
    facts = levels_of(score)
    found = lessons.mean_target_loss(small_acestep, song, score, task, np.random.default_rng(1))
    ((noise, t, _, _, context, velocity),) = seen
    assert t.tolist() == [1.0]
    source, mask = context.chunk(2, dim=-1)
    inside = mask[0, :, 0].bool()
    assert inside.all() == (task != "repaint")
    if task == "repaint":
        assert torch.equal(source[0, ~inside], song[~inside])
    expected = (
        source_latents(small_acestep, facts[None]) if task == "codes" else silence[:, : len(song)]
    )
    assert torch.equal(source[:, inside], expected[:, inside])
    wanted = mean_target(song, None if task == "text" else facts)
    error = (noise - velocity - wanted)[:, inside].square().mean()
    torch.testing.assert_close(found, error)


def test_hard_songs_are_drawn_as_often_as_asked(silence: Tensor) -> None:
    lessons = objective(silence, "codes")
    lessons.config["hard"] = 0.5
    kinds = [(True, False), (False, False), (True, True)]  # has drums, has a voice
    scores = [compose(1, SECONDS, drums=drums, voice=voice) for drums, voice in kinds]
    lessons.library.scores = scores
    rng = np.random.default_rng(0)
    drawn = [scores.index(lessons.draw(rng, SONGS)[1]) for _ in range(300)]
    assert 130 < drawn.count(0) < 170 and min(drawn.count(1), drawn.count(2)) > 50
    assert all(lessons.draw(rng, 1)[1] is scores[0] for _ in range(9))


def test_model_guidance_is_taught_as_a_share(small_acestep: AceStep, silence: Tensor) -> None:
    seen: list[tuple[Tensor, ...]] = []

    def see(_: nn.Module, given: tuple[Tensor, ...], answer: Tensor) -> None:
        seen.append((given[0], given[1], answer))

    small_acestep.decoder.register_forward_hook(see)
    lessons = objective(silence, "text")
    lessons.config["model_guidance"], lessons.config["dropout"] = 0.4, 0.0
    song = torch.from_numpy(lessons.library.latents[0].astype(np.float32))
    found = lessons.song(
        small_acestep, song, lessons.library.scores[0], 100, np.random.default_rng(3)
    )
    (noisy, t, conditional), (_, _, unconditional) = seen
    times = t[:, None, None]
    music = song[: noisy.shape[1]]
    noise = (noisy - (1 - times) * music) / times
    wanted = noise - music + 0.4 * (conditional - unconditional)
    torch.testing.assert_close(
        found["flow"], (conditional - wanted).square().mean(), rtol=1e-3, atol=1e-3
    )
