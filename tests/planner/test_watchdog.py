"""A planner that stalls, loops or fails ends in a sentence, never in a hang."""

import threading
import time
from itertools import cycle, islice

import pytest

from acestep.errors import Cancelled, UnsoundResult
from acestep.planner.backends import OnToken
from acestep.planner.watchdog import refuse_loops, watched


def test_tokens_are_passed_on_and_the_result_comes_back() -> None:
    seen: list[tuple[int, int]] = []

    def generate(on_token: OnToken) -> str:
        for done in range(3):
            on_token(done, 3)
        return "a plan"

    assert watched(generate, lambda done, total: seen.append((done, total))) == "a plan"
    assert seen == [(0, 3), (1, 3), (2, 3)]


def test_a_planner_that_stalls_is_given_up() -> None:
    forever = threading.Event()

    def generate(on_token: OnToken) -> None:
        on_token(1, 9)
        forever.wait(20)

    started = time.monotonic()
    with pytest.raises(UnsoundResult, match=r"written nothing for 0\.2 s"):
        watched(generate, lambda done, total: None, stall=0.2)
    assert time.monotonic() - started < 10
    forever.set()


def test_the_first_token_may_take_longer() -> None:
    def generate(on_token: OnToken) -> str:
        time.sleep(0.4)
        on_token(1, 1)
        return "late"

    assert watched(generate, lambda done, total: None, first=30, stall=0.2) == "late"


def test_reading_the_prompt_does_not_shorten_the_patience_for_the_first_token() -> None:
    def generate(on_token: OnToken) -> str:
        for _ in range(2):  # two pieces of a long prompt
            on_token(0, 1)
            time.sleep(0.4)
        on_token(1, 1)
        return "late"

    assert watched(generate, lambda done, total: None, first=30, stall=0.2) == "late"


def test_a_prompt_that_is_never_read_is_given_up() -> None:
    forever = threading.Event()

    def generate(on_token: OnToken) -> None:
        on_token(0, 9)
        forever.wait(20)

    with pytest.raises(UnsoundResult, match=r"written nothing for 0\.2 s"):
        watched(generate, lambda done, total: None, first=0.2, stall=20)
    forever.set()


def test_cancelling_reaches_the_caller_and_stops_the_planner() -> None:
    stopped = threading.Event()

    def generate(on_token: OnToken) -> None:
        try:
            for done in range(10_000):
                on_token(done, 10_000)
                time.sleep(0.001)
        finally:
            stopped.set()

    def cancel(done: int, total: int) -> None:
        raise Cancelled("Cancelled.")

    with pytest.raises(Cancelled):
        watched(generate, cancel)
    assert stopped.wait(10)


def test_an_error_of_the_planner_is_the_callers() -> None:
    def generate(on_token: OnToken) -> None:
        raise UnsoundResult("Meaningless logits.")

    with pytest.raises(UnsoundResult, match="Meaningless"):
        watched(generate, lambda done, total: None)


@pytest.mark.parametrize("pattern", [[7], [7, 8], [1, 2, 3, 4, 5, 6, 7, 8]])
def test_going_round_in_a_short_circle_is_refused(pattern: list[int]) -> None:
    once = [9, 10, 11]
    refuse_loops([*once, *islice(cycle(pattern), 150)])
    with pytest.raises(UnsoundResult, match=f"the same {len(pattern)} token"):
        refuse_loops([*once, *islice(cycle(pattern), 150 + len(pattern))])


def test_long_cycles_are_music() -> None:
    refuse_loops(list(range(16)) * 40)
