import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from acestep.diffusion.context import silence, to_be_made

TRACK = torch.arange(10 * 64, dtype=torch.float32).reshape(1, 10, 64)  # no two frames are equal


@given(frames=st.integers(1, 47))
def test_silence_starts_again_at_its_end(frames: int) -> None:
    tiled = silence(TRACK, frames)
    assert tiled.shape == (1, frames, 64)
    assert all(torch.equal(tiled[0, i], TRACK[0, i % 10]) for i in range(frames))


def test_text2music_is_silence_beside_a_mask_of_ones() -> None:
    context = to_be_made(TRACK, frames=23, batch=3)
    assert context.shape == (3, 23, 128)
    assert all(torch.equal(take, silence(TRACK, 23)[0]) for take in context[..., :64])
    assert (context[..., 64:] == 1.0).all()


@pytest.mark.parametrize("rows", [1, 2])
def test_hints_take_the_place_of_silence(rows: int) -> None:
    source_latents = -torch.rand(rows, 8, 64) - 1.0
    context = to_be_made(TRACK, frames=8, batch=2, source_latents=source_latents)
    assert torch.equal(context[..., :64], source_latents.expand(2, -1, -1))
    assert (context[..., 64:] == 1.0).all()


@pytest.mark.parametrize("rows", [1, 2])
def test_short_hints_are_continued_with_silence_from_its_beginning(rows: int) -> None:
    source_latents = -torch.rand(rows, 5, 64) - 1.0
    context = to_be_made(TRACK, frames=18, batch=2, source_latents=source_latents)
    assert torch.equal(context[:, :5, :64], source_latents.expand(2, -1, -1))
    assert torch.equal(context[1, 5:, :64], silence(TRACK, 13)[0])


def test_long_hints_are_cut() -> None:
    source_latents = torch.rand(1, 9, 64)
    context = to_be_made(TRACK, frames=7, batch=2, source_latents=source_latents)
    assert torch.equal(context[0, :, :64], source_latents[0, :7])


def test_hints_for_another_number_of_takes_are_refused() -> None:
    with pytest.raises(RuntimeError):
        to_be_made(TRACK, frames=7, batch=3, source_latents=torch.rand(2, 9, 64))
