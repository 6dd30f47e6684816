import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from acestep.diffusion.noise import draw_noise, renoise
from acestep.seeds import MAX_SEED


@given(seeds=st.lists(st.integers(0, MAX_SEED), min_size=1, max_size=8), data=st.data())
def test_a_takes_noise_is_the_same_alone_and_among_others(
    seeds: list[int], data: st.DataObject
) -> None:
    take = data.draw(st.integers(0, len(seeds) - 1))
    together = draw_noise(seeds, frames=7, channels=3)
    assert together.shape == (len(seeds), 7, 3)
    assert torch.equal(together[take : take + 1], draw_noise([seeds[take]], frames=7, channels=3))


def test_every_seed_has_its_own_noise() -> None:
    a, b = draw_noise([1, 2], frames=50, channels=64)
    assert torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1].abs() < 0.1


def test_noise_is_standard_normal_in_float32_on_the_cpu() -> None:
    noise = draw_noise([11], frames=2000, channels=64)
    assert noise.dtype == torch.float32 and noise.device.type == "cpu"
    assert noise.mean().item() == pytest.approx(0.0, abs=0.02)
    assert noise.std().item() == pytest.approx(1.0, abs=0.02)


def test_drawing_noise_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    draw_noise([1], frames=4, channels=4)
    renoise([1], 4, 4)()
    assert torch.equal(torch.get_rng_state(), before)


def test_renoise_is_fresh_at_every_step_and_the_same_in_every_run() -> None:
    first, second = (renoise([5, 6], frames=6, channels=4) for _ in range(2))
    drawn = [first() for _ in range(3)]
    assert all(torch.equal(noise, second()) for noise in drawn)
    assert not torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[1], drawn[2])
    assert not torch.equal(drawn[0], draw_noise([5, 6], frames=6, channels=4))


def test_renoise_of_a_take_does_not_depend_on_the_other_takes() -> None:
    alone, among = renoise([6], frames=6, channels=4), renoise([5, 6, 7], frames=6, channels=4)
    for _ in range(3):
        assert torch.equal(alone()[0], among()[1])
