"""Only a finite, audible, unclipped waveform of the right length is a song."""

import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from acestep.media.audio_checks import SILENCE, check_audio


def music(samples: int = 48_000, level: float = 0.5) -> Tensor:
    """A bass note under noise, nothing flat about it."""
    bass = torch.sin(2 * math.pi * 55 * torch.arange(samples) / 48_000)
    hiss = torch.randn(2, samples, generator=torch.Generator().manual_seed(1))
    return level * (0.8 * bass + 0.1 * hiss)


def test_music_has_no_problem() -> None:
    health = check_audio(music(), 48_000)
    assert health.problem() is None
    assert health.finite and not health.silent and health.clipped_samples == 0
    assert health.peak_db == pytest.approx(20 * math.log10(music().abs().max()), abs=1e-4)
    assert health.rms_db == pytest.approx(10 * math.log10(music().square().mean()), abs=1e-4)


def test_a_level_above_full_scale_is_not_a_problem_before_it_is_normalised() -> None:
    health = check_audio(music(level=8.0), 48_000)
    assert health.peak_db > 10
    assert health.problem() is None


def test_a_pure_low_tone_is_not_called_clipped() -> None:
    time = torch.arange(480_000, dtype=torch.float64) / 48_000
    sine = torch.sin(2 * math.pi * 40 * time).float().repeat(2, 1)
    assert check_audio(sine, 480_000).problem() is None


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_sample_that_is_not_a_number_is_a_problem(value: float) -> None:
    waveform = music()
    waveform[1, 5] = value
    health = check_audio(waveform, 48_000)
    assert health.problem() == "The result contains samples that are not numbers (NaN or infinity)."
    assert health.peak_db == pytest.approx(check_audio(music(), 48_000).peak_db, abs=1e-4)


def test_silence_is_a_problem_and_a_whisper_is_not() -> None:
    assert check_audio(torch.zeros(2, 100), 100).problem() == "The result is silent."
    assert check_audio(torch.full((2, 100), SILENCE), 100).silent
    assert not check_audio(music(level=1e-4), 48_000).silent
    click = torch.zeros(2, 48_000)
    click[0, 7] = 0.1
    assert not check_audio(click, 48_000).silent


@pytest.mark.parametrize("expected", [47_999, 48_001])
def test_a_wrong_length_is_a_problem(expected: int) -> None:
    problem = check_audio(music(), expected).problem()
    assert problem == f"The result is 48,000 samples long; {expected:,} were expected."


def test_nothing_at_all_is_a_problem() -> None:
    assert check_audio(torch.zeros(2, 0), 0).problem() == "The result is silent."
    assert "48,000 were expected" in (check_audio(torch.zeros(2, 0), 48_000).problem() or "")


@pytest.mark.parametrize("gain", [1.0, 0.3])
def test_hard_clipping_is_seen_at_any_level(gain: float) -> None:
    driven = gain * (4 * music()).clamp(-1, 1)
    problem = check_audio(driven, 48_000).problem()
    assert problem is not None and problem.startswith("The result is clipped: ")


def test_clipping_of_the_negative_half_alone_is_seen() -> None:
    lopsided = music()
    lopsided[:, 1000:3000] = -1.0
    assert check_audio(lopsided, 48_000).clipped_samples == 4000


def test_only_runs_of_three_count() -> None:
    waveform = 0.1 * music(100)
    waveform[0, 10:12] = 1.0  # two in a row
    waveform[0, 20:23] = 1.0  # three
    waveform[1, 30:35] = -1.0  # five
    waveform[1, 50:53] = torch.tensor([1.0, -1.0, 1.0])  # loud, not flat
    waveform[1, 97:100] = 1.0  # at the very end
    assert check_audio(waveform, 100).clipped_samples == 3 + 5 + 3


@given(st.lists(st.sampled_from([0.0, 0.25, 1.0, -1.0]), min_size=1, max_size=40))
def test_flat_tops_are_counted_as_a_plain_loop_counts_them(samples: list[float]) -> None:
    peak = max(map(abs, samples))
    count = run = 0
    for before, now in zip([None, *samples], [*samples, None], strict=True):
        if before is not None and before != now:
            count += run if run >= 3 else 0
            run = 0
        run += now is not None and abs(now) == peak
    health = check_audio(torch.tensor([samples, [0.0] * len(samples)]), len(samples))
    assert health.clipped_samples == (count if peak > 0 else 0)


@given(st.floats(1e-30, 1e30))
def test_measurements_are_json_at_any_level(level: float) -> None:
    health = check_audio(level * music(100), 100)
    assert json.loads(json.dumps(health.to_dict(), allow_nan=False)) == health.to_dict()
