"""Keeping a repaint to its source, against the formulas of the reference (docs/model.md)."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from acestep.diffusion.context import inpainted, placed, silence
from acestep.diffusion.inpaint import InpaintConstraint, blend, ramps
from acestep.diffusion.sampler import euler
from acestep.diffusion.schedule import from_level, timesteps

FRAMES, CHANNELS = 40, 64


def drawn(seed: int, batch: int = 2) -> Tensor:
    return torch.randn(batch, FRAMES, CHANNELS, generator=torch.Generator().manual_seed(seed))


def window_of(*spans: tuple[int, int], frames: int = FRAMES) -> Tensor:
    window = torch.zeros(frames, dtype=torch.bool)
    for start, end in spans:
        window[start:end] = True
    return window


def field(latents: Tensor, t: float, step: int = 0) -> Tensor:
    """A velocity that depends on place, state and time."""
    return torch.sin(3 * latents) + t * latents.roll(1, dims=1) - 0.3


def soft_mask(window: Tensor, frames: int) -> Tensor:
    """The reference's words: outside each edge up to n frames of linspace(0, 1, n + 2)[1:-1]."""
    mask = window.float()
    if window.all() or not window.any():
        return mask
    ramp = torch.linspace(0, 1, frames + 2)[1:-1]
    for i in range(len(window)):
        if window[i] and i > 0 and not window[i - 1]:
            for k in range(min(frames, i)):
                mask[i - 1 - k] = max(mask[i - 1 - k], ramp[-1 - k])
        if window[i] and i + 1 < len(window) and not window[i + 1]:
            for k in range(min(frames, len(window) - i - 1)):
                mask[i + 1 + k] = max(mask[i + 1 + k], ramp[-1 - k])
    return mask


@pytest.mark.parametrize(
    ("mode", "strength", "share", "blend_frames"),
    [
        ("balanced", 0.5, 0.5, 12),
        ("balanced", 0.2, 0.8, 20),
        ("balanced", 0.0, 1.0, 25),
        ("balanced", 1.0, 0.0, 0),
        ("conservative", 0.9, 1.0, 25),
        ("aggressive", 0.1, 0.0, 0),
    ],
)
@pytest.mark.parametrize("is_turbo", [True, False])
@pytest.mark.parametrize("spans", [[(10, 20)], [(0, 7), (30, 40)], [(0, 40)]])
def test_a_run_equals_the_reference_formulas_restated(
    mode: str,
    strength: float,
    share: float,
    blend_frames: int,
    spans: list[tuple[int, int]],
    is_turbo: bool,
) -> None:
    """The reference's turbo loop is left with the last step's prediction, before the injection."""
    noise, source, window = drawn(1), drawn(2, batch=1), window_of(*spans)
    times = timesteps(is_turbo=is_turbo, steps=8, shift=3.0)
    constraint = InpaintConstraint.of(mode, strength, window, source, is_turbo=is_turbo)  # pyright: ignore
    ours = constraint.after_run(
        euler(field, noise, times, after_step=lambda step: constraint.after_step(step, noise, 8))
    )

    x, mask = noise, window[None, :, None]
    for i in range(8):
        t, t_next = times[i], times[i + 1]
        x = x - (t - t_next) * field(x, t)
        if is_turbo and i == 7:
            break
        if i < round(share * 8):
            x = torch.where(mask, x, t_next * noise + (1 - t_next) * source)
    if blend_frames:
        soft = soft_mask(window, blend_frames)[None, :, None]
        x = soft * x + (1 - soft) * source
    assert torch.allclose(ours, x, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("is_turbo", "blended"), [(True, 25), (False, 0)])
def test_only_a_turbo_run_has_made_latents_to_blend_around_a_conservative_repaint(
    is_turbo: bool, blended: int
) -> None:
    noise, source, window = drawn(1), drawn(2, batch=1), window_of((0, 10))
    constraint = InpaintConstraint.of("conservative", 0.5, window, source, is_turbo=is_turbo)
    result = constraint.after_run(
        euler(
            field,
            noise,
            timesteps(is_turbo=is_turbo, steps=4, shift=3.0),
            after_step=lambda step: constraint.after_step(step, noise, 4),
        )
    )
    changed = (result - source).abs().amax(dim=(0, 2)) > 1e-6
    assert int(changed[10:].sum()) == blended


@given(st.lists(st.booleans(), min_size=1, max_size=60), st.integers(0, 30))
def test_ramps_are_the_references_soft_mask(frames: list[bool], length: int) -> None:
    window = torch.tensor(frames)
    assert torch.allclose(ramps(window, length), soft_mask(window, length), atol=1e-6)


def test_beyond_the_blend_the_latents_are_the_source() -> None:
    result, source, window = drawn(1), drawn(2, batch=1), window_of((15, 20))
    blended = blend(result, source, window, frames=4)
    assert torch.equal(blended[:, 15:20], result[:, 15:20])
    for kept in (slice(0, 11), slice(24, FRAMES)):
        assert torch.equal(blended[:, kept], source[:, kept].expand(2, -1, -1))


def test_a_repaint_context_has_the_source_outside_and_placed_silence_inside() -> None:
    track, source, window = drawn(3, batch=1), drawn(4, batch=1), window_of((10, 20), (35, 40))
    context = inpainted(track, source, window, batch=3)
    assert context.shape == (3, FRAMES, 2 * CHANNELS)
    assert torch.equal(context[2, :, CHANNELS:], window[:, None].float().expand(-1, CHANNELS))
    assert torch.equal(context[1, ~window, :CHANNELS], source[0, ~window])
    assert torch.equal(context[0, window, :CHANNELS], track[0, window])


def test_a_placed_source_has_silence_from_its_beginning_around_it() -> None:
    track, source = drawn(3, batch=1), drawn(4, batch=1)[:, :7]
    latents = placed(track, source, first_frame=5, frames=20)
    assert torch.equal(latents[:, :5], track[:, :5])
    assert torch.equal(latents[:, 5:12], source)
    assert torch.equal(latents[:, 12:], silence(track, 8))


@pytest.mark.parametrize(
    ("level", "rest"), [(1.0, 4), (0.9, 4), (0.6, 2), (0.5, 2), (0.24, 1), (0.0, 1)]
)
def test_a_late_start_is_at_the_nearest_time_and_leaves_a_step(level: float, rest: int) -> None:
    times = (1.0, 0.75, 0.5, 0.25, 0.0)
    assert from_level(times, level) == times[-rest - 1 :]
