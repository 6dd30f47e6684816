"""Regions of a repaint: what is refused, what a summary says, and that the two agree."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acestep.errors import InvalidRequest
from acestep.request import Repaint, parse_request
from acestep.request.regions import clock, listed, read


def repaint(**fields: object) -> Repaint:
    request = parse_request({"task": "repaint", "source_audio": "song.wav", **fields})
    assert isinstance(request, Repaint)
    return request


def region(start: float, end: float | None = None) -> Repaint:
    return repaint(repainting_start=start, repainting_end=end)


@pytest.mark.parametrize(
    ("start", "end", "sentence"),
    [
        (
            12,
            20,
            "Will replace 0:12.0–0:20.0 (8.0 s). Everything else stays bit-identical.",
        ),
        (
            -10,
            None,
            "Will add 10.0 s before the song. The song itself stays bit-identical. "
            "It will be 1:10.0 long.",
        ),
        (
            60,
            90,
            "Will add 30.0 s after the song. The song itself stays bit-identical. "
            "It will be 1:30.0 long.",
        ),
        (
            -10,
            5,
            "Will add 10.0 s before the song and replace 0:00.0–0:05.0 (5.0 s). "
            "Everything else stays bit-identical. It will be 1:10.0 long.",
        ),
        (
            59.96,
            65,
            "Will add 5.0 s after the song. The song itself stays bit-identical. "
            "It will be 1:05.0 long.",
        ),
        (0, None, "Will replace the whole song (60.0 s). Nothing of it stays."),
    ],
)
def test_a_summary_says_what_will_happen(start: float, end: float | None, sentence: str) -> None:
    assert region(start, end).summary(60.0) == sentence


def test_several_regions_are_sorted_and_those_that_touch_become_one() -> None:
    request = repaint(regions=[[40, 48], [1, 3], [2, 5], [58, 65.5]])
    assert request.regions_of(60.0) == ((1, 5), (40, 48), (58, 65.5))
    assert request.summary(60.0) == (
        "Will replace 0:01.0–0:05.0 (4.0 s), 0:40.0–0:48.0 (8.0 s) and 0:58.0–1:00.0 (2.0 s) and "
        "add 5.5 s after the song. Everything else stays bit-identical. It will be 1:05.5 long."
    )


def test_one_region_may_be_written_without_outer_brackets() -> None:
    assert repaint(regions=[3, 4.5]).regions == ((3.0, 4.5),)


def test_a_region_that_begins_a_hair_past_the_song_begins_at_its_end() -> None:
    assert region(20.1, 30).regions_of(20.04) == ((20.04, 30),)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"repainting_start": 8, "repainting_end": 5}, "A region must end after it begins (you ga"),
        ({"repainting_start": 8, "repainting_end": 8}, "A region must end after it begins (you ga"),
        ({"regions": [[1, 2], [8, 5]]}, "A region must end after it begins (you gave 8 s to 5 s)."),
        ({"regions": [[1, 1.01]]}, "A region must be at least 0.04 s long (you gave 1 s to 1.01 s"),
        ({"regions": [[-5, -2]]}, "The region ends at -2 s, before the song begins: end it at 0 s"),
        ({"regions": [[1]]}, "Regions are pairs of seconds, such as [[12, 20], [40.5, 48]] (you g"),
        ({"regions": [[1, float("nan")]]}, "Regions are pairs of seconds, such as [[12, 20], [40."),
        ({"regions": "1-2"}, "Regions are pairs of seconds, such as [[12, 20], [40.5, 48]] (you g"),
        ({"regions": [[i, i + 0.5] for i in range(33)]}, "Regions takes at most 32 values (you ga"),
        ({"regions": [[1, 2]], "repainting_start": 1}, "Give either Regions or Repainting Start a"),
        ({"repainting_end": -1}, "Repainting End must be a number from 0 to 1,200 s (you gav"),
        ({"fade_out": 1}, "Repaint has no field 'fade_out'."),
        ({"duration": 30}, "Repaint has no field 'duration'."),
        ({"think": True}, "Repaint has no field 'think'."),
        ({"plan": {"bpm": 90}}, "Repaint has no field 'plan'."),
        ({"mode": "wild"}, "Repaint Mode must be one of balanced, conservative, aggressive (you g"),
    ],
)  # fmt: skip
def test_what_no_source_could_make_right_is_refused_at_once(
    fields: dict[str, object], sentence: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        repaint(**fields)
    assert str(caught.value).startswith(sentence) and caught.value.exit_code == 4


@pytest.mark.parametrize(
    ("start", "end", "sentence"),
    [
        (25, 30, "The region begins at 0:25.0, but the song ends at 0:20.0: begin it there or ear"),
        (25, None, "The region begins at 0:25.0, but the song ends at 0:20.0: begin it there or e"),
        (20, None, "A region must end after it begins (you gave 20 s to 20 s)."),
        (5, 1000, "The song would become 1000 s long; 600 s is the most."),
        (-590, 5, "The song would become 610 s long; 600 s is the most."),
        (0, 30, "The region is longer than the song (0:20.0) and would leave nothing of it"),
        (-5, 20, "The region is longer than the song (0:20.0) and would leave nothing of it"),
    ],
)  # fmt: skip
def test_what_this_source_cannot_do_is_refused_by_run_and_summary_alike(
    start: float, end: float | None, sentence: str
) -> None:
    request = region(start, end)
    for judge in (request.regions_of, request.summary):
        with pytest.raises(InvalidRequest) as caught:
            judge(20.0)
        assert str(caught.value).startswith(sentence)


@given(
    st.floats(10, 400),
    st.lists(st.tuples(st.floats(-0.3, 1), st.floats(0.1, 50)), min_size=1, max_size=4),
)
def test_settled_regions_are_apart_in_order_and_reach_the_song(
    seconds: float, starts_and_lengths: list[tuple[float, float]]
) -> None:
    wanted = [(at * seconds, max(at * seconds, 0) + more) for at, more in starts_and_lengths]
    try:
        settled = repaint(regions=wanted).regions_of(seconds)
    except InvalidRequest as error:
        assert "longer than the song" in str(error)
        return
    edges = [edge for area in settled for edge in area]
    assert edges == sorted(edges) and len(set(edges)) == len(edges)
    assert settled[0][1] >= 0 and settled[-1][0] <= seconds
    assert all(any(a <= start and end <= b for a, b in settled) for start, end in wanted)


def test_times_are_written_as_people_read_them() -> None:
    assert [clock(s) for s in (0, 12, 59.96, 600, -5, -0.01)] == [
        "0:00.0", "0:12.0", "1:00.0", "10:00.0", "−0:05.0", "0:00.0",
    ]  # fmt: skip
    assert [listed(words) for words in (["a"], ["a", "b"], ["a", "b", "c"])] == [
        "a", "a and b", "a, b and c",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "pairs"),
    [
        ("12:20", [[12, 20]]),
        ("12 to 20, 40.5–48", [[12, 20], [40.5, 48]]),
        ("-5:3; −2 to 0\n7 : 8", [[-5, 3], [-2, 0], [7, 8]]),
        ("", []),
        ("12", "12"),
        ("1:2, soon", "1:2, soon"),
    ],
)
def test_regions_are_read_as_people_write_them(text: str, pairs: object) -> None:
    assert read(text) == pairs
