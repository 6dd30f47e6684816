from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acestep.diffusion.schedule import TURBO_TIMES, shifted, timesteps

PUBLISHED = {  # docs/model.md, Time grids
    1.0: (1, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125),
    2.0: (1, 0.9333333, 0.8571429, 0.7692308, 0.6666667, 0.5454545, 0.4, 0.2222222),
    3.0: (1, 0.9545455, 0.9, 0.8333333, 0.75, 0.6428571, 0.5, 0.3),
}
shifts = st.floats(1.0, 5.0)


@pytest.mark.parametrize("is_turbo", [True, False])
@pytest.mark.parametrize("shift", PUBLISHED)
def test_eight_steps_are_the_published_tables(shift: float, is_turbo: bool) -> None:
    times = timesteps(is_turbo=is_turbo, steps=8, shift=shift)
    assert times[:-1] == pytest.approx(PUBLISHED[shift], abs=5e-8)
    assert times[-1] == 0.0


def test_turbo_times_are_the_twenty_values_of_the_tables() -> None:
    assert len(TURBO_TIMES) == 20
    rounded = {round(t, 7) for t in TURBO_TIMES}
    assert rounded == {round(float(t), 7) for table in PUBLISHED.values() for t in table}


@given(steps=st.integers(1, 200), shift=shifts, is_turbo=st.booleans())
def test_a_grid_falls_from_noise_to_music(steps: int, shift: float, is_turbo: bool) -> None:
    times = timesteps(is_turbo=is_turbo, steps=steps, shift=shift)
    assert len(times) == steps + 1
    assert times[0] == 1.0 and times[-1] == 0.0
    assert all(a > b for a, b in pairwise(times))


@given(t=st.floats(0.0, 1.0), shift=shifts)
def test_shift_moves_times_towards_the_noise_only(t: float, shift: float) -> None:
    assert t - 1e-15 <= shifted(t, shift) <= 1.0
    assert shifted(t, 1.0) == t


def test_turbo_takes_the_shift_as_it_is() -> None:
    times = timesteps(is_turbo=True, steps=8, shift=2.4)
    assert times[4] == pytest.approx(2.4 * 0.5 / (1 + 1.4 * 0.5), abs=1e-15)


def test_custom_times_of_turbo_go_to_the_nearest_known_time() -> None:
    custom = (0.97, 0.76, 0.615, 0.5, 0.395, 0.28, 0.18, 0.085, 0.0)  # upstream's own example
    expected = (0.9545455, 0.7692308, 0.625, 0.5, 0.4, 0.3, 0.2222222, 0.125, 0.0)
    times = timesteps(is_turbo=True, steps=8, shift=3.0, custom=custom)
    assert times == pytest.approx(expected, abs=5e-8)


def test_custom_times_that_meet_at_one_known_time_make_one_step() -> None:
    times = timesteps(is_turbo=True, steps=8, shift=3.0, custom=(1.0, 0.99, 0.51, 0.49, 0.48))
    assert times == (1.0, 0.5, 0.0)


@given(custom=st.lists(st.floats(0.001, 1.0), min_size=1, max_size=20, unique=True))
def test_every_custom_grid_of_turbo_falls_through_known_times(custom: list[float]) -> None:
    times = timesteps(is_turbo=True, steps=8, shift=3.0, custom=sorted(custom, reverse=True))
    assert set(times[:-1]) <= set(TURBO_TIMES)
    assert all(a > b for a, b in pairwise(times))


@pytest.mark.parametrize("terminal", [(), (0.0,)])
def test_base_takes_custom_times_as_they_are(terminal: tuple[float, ...]) -> None:
    times = timesteps(is_turbo=False, steps=50, shift=3.0, custom=(0.97, 0.31, *terminal))
    assert times == (0.97, 0.31, 0.0)
