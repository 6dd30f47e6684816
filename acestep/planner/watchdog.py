"""Ends a planner that will not end by itself: one that stalls, and one that repeats itself."""

import queue
import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from acestep.errors import UnsoundResult
from acestep.planner.backends import OnToken

T = TypeVar("T")

STALL_SECONDS = 30.0
FIRST_TOKEN_SECONDS = 300.0  # one piece of the prompt, warming up a GPU
LONGEST_CYCLE = 8  # tokens
LOOP_TOKENS = 150  # half a minute of codes: no music repeats so exactly for so long


def watched(
    generate: Callable[[OnToken], T],
    on_token: OnToken,
    *,
    first: float = FIRST_TOKEN_SECONDS,
    stall: float = STALL_SECONDS,
) -> T:
    """Run `generate` in a thread and pass its progress on; give up on it when it stops moving.

    Errors on either side reach the caller: `on_token` runs in the caller's thread, and when it
    raises (to cancel), `generate` is stopped at its next token.

    Raises:
        UnsoundResult: no token for `stall` seconds; before the first one, no progress in reading
            for `first` seconds.
    """
    events: queue.Queue[tuple[int, int] | None] = queue.Queue()
    outcome: list[T] = []
    failure: list[BaseException] = []
    stopped = threading.Event()

    def tell(done: int, total: int) -> None:
        if stopped.is_set():
            raise _Stopped
        events.put((done, total))

    def work() -> None:
        try:
            with torch.inference_mode():
                outcome.append(generate(tell))
        except _Stopped:
            pass
        except BaseException as error:  # handed to the caller below, whatever it is
            failure.append(error)
        finally:
            events.put(None)

    thread = threading.Thread(target=work, name="planner", daemon=True)
    thread.start()
    patience = first
    try:
        while (event := events.get(timeout=patience)) is not None:
            on_token(*event)
            if event[0] > 0:  # written, not only read
                patience = stall
    except queue.Empty:
        raise UnsoundResult(
            f"The planner has written nothing for {patience:g} s and was given up. "
            "Try again, without Think, or with another 5Hz LM."
        ) from None
    finally:
        stopped.set()
    if failure:
        raise failure[0]
    return outcome[0]


def refuse_loops(
    tokens: Sequence[int], *, longest_cycle: int = LONGEST_CYCLE, run: int = LOOP_TOKENS
) -> None:
    """Refuse a text that goes round in a circle of a few tokens.

    Raises:
        UnsoundResult: `run` tokens in a row each equal the one a short cycle before.
    """
    for cycle in range(1, longest_cycle + 1):
        length = 0
        for token, before in zip(tokens[cycle:], tokens, strict=False):
            length = length + 1 if token == before else 0
            if length >= run:
                raise UnsoundResult(
                    f"The planner repeats the same {cycle} token{'s' * (cycle > 1)} over and over. "
                    "Try another seed or a higher LM Temperature."
                )


class _Stopped(Exception):
    """Ends a generation that nobody waits for any more."""
