"""Where a source lies in a song, and that what is kept of it stays bit-identical."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from acestep.errors import InvalidRequest
from acestep.media.audio import SAMPLE_RATE, SAMPLES_PER_FRAME
from acestep.request.regions import settle
from acestep.tasks.timeline import MIN_FRAMES, Timeline


def sound(samples: int, seed: int = 0) -> torch.Tensor:
    noise = torch.rand(1, 2, samples, generator=torch.Generator().manual_seed(seed))
    return noise * 2 - 1


@given(
    st.integers(1, 3 * SAMPLE_RATE),
    st.lists(st.tuples(st.floats(-0.2, 1), st.floats(0.04, 2)), min_size=1, max_size=4),
    st.floats(0, 2),
)
@settings(deadline=None)
def test_any_regions_of_any_length_leave_every_other_sample_alone(
    samples: int, starts_and_lengths: list[tuple[float, float]], crossfade: float
) -> None:
    seconds = samples / SAMPLE_RATE
    wanted = [(at * seconds, max(at * seconds, 0) + more) for at, more in starts_and_lengths]
    try:
        timeline = Timeline.around(samples, settle(wanted, seconds, 600, "regions"))
    except InvalidRequest:
        return
    source, new = sound(samples), sound(timeline.samples, seed=1)[0]
    song = timeline.splice(source, new, crossfade)
    kept, old = timeline.preserved, timeline.lay(source)
    assert torch.equal(song[:, kept], old[:, kept])
    assert song.shape[-1] == timeline.samples == samples + timeline.pre_roll + max(
        0, round(max(end for _, end in wanted) * SAMPLE_RATE) - samples
    )  # fmt: skip
    is_blended = torch.zeros_like(kept)
    for _, (start, end) in timeline.blends(crossfade):
        is_blended[start:end] = True
    assert not (is_blended & kept).any()
    assert torch.equal(song[:, ~kept & ~is_blended], new[:, ~kept & ~is_blended])
    assert song.abs().max() <= 1
    assert len(timeline.inpaint_mask) == timeline.frames >= MIN_FRAMES


@given(st.integers(0, 10 * SAMPLES_PER_FRAME), st.integers(1, 200 * SAMPLES_PER_FRAME))
def test_the_sources_frames_stay_the_frames_it_was_encoded_with(
    pre_roll: int, samples: int
) -> None:
    timeline = Timeline(pre_roll + samples, ((0, max(pre_roll, 1)),), pre_roll, samples)
    assert (timeline.offset + timeline.pre_roll) == timeline.pre_roll_frames * SAMPLES_PER_FRAME
    decoded = torch.arange(timeline.frames * SAMPLES_PER_FRAME).expand(1, 2, -1)
    cut = timeline.cut(decoded)
    assert cut.shape[-1] == timeline.samples
    assert cut[0, 0, pre_roll] == timeline.pre_roll_frames * SAMPLES_PER_FRAME


def test_the_inpaint_mask_holds_every_frame_that_is_heard_in_a_region() -> None:
    timeline = Timeline.around(20 * SAMPLE_RATE, ((1.0, 2.0), (3.01, 3.05)))
    frames = timeline.inpaint_mask.nonzero().flatten().tolist()
    assert frames == [*range(25, 50), 75, 76]  # 3.01 s to 3.05 s begins in 75 and ends in 76


def test_an_extension_adds_exactly_what_was_asked() -> None:
    before = Timeline.around(480_001, ((-2.03, 0.0),))
    assert (before.pre_roll, before.samples, before.replaced) == (97_440, 577_441, [])
    after = Timeline.around(480_001, ((480_001 / SAMPLE_RATE, 12.5),))
    assert (after.pre_roll, after.samples, after.replaced) == (0, 600_000, [])


def test_the_crossfade_is_linear_and_inside_the_region() -> None:
    timeline = Timeline(1000, ((200, 600),), 0, 1000)
    source, new = torch.ones(1, 2, 1000), torch.zeros(2, 1000)
    song = timeline.splice(source, new, 4 / SAMPLE_RATE)[0]
    assert song[198:206].tolist() == pytest.approx([1, 1, 0.8, 0.6, 0.4, 0.2, 0, 0])
    assert song[594:602].tolist() == pytest.approx([0, 0, 0.2, 0.4, 0.6, 0.8, 1, 1])
    hard = timeline.splice(source, new, 0.0)[0]
    assert hard[199:201].tolist() == [1, 0] and hard[599:601].tolist() == [0, 1]


def test_past_its_end_the_source_is_mirrored_so_that_nothing_clicks() -> None:
    timeline = Timeline(20, ((0, 5), (15, 20)), 5, 10)
    ramp = torch.arange(10.0).expand(1, 2, -1) / 10
    song = timeline.splice(ramp, torch.zeros(2, 20), 2 / SAMPLE_RATE)[0]
    assert song[15:18].tolist() == pytest.approx([0.9 * 2 / 3, 0.8 / 3, 0])
    assert song[2:5].tolist() == pytest.approx([0, 0.1 / 3, 0])


def test_a_new_song_has_nothing_to_keep() -> None:
    timeline = Timeline.blank(480_000)
    assert timeline.inpaint_mask.sum() == timeline.frames == 250
    assert not timeline.preserved.any() and timeline.blends(0.04) == [] and timeline.offset == 0
