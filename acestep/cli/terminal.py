"""What a command says: results on stdout, everything else on stderr, and how it ends."""

import functools
import json as jsonlib
import logging
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, TextIO, TypeVar

import typer

from acestep.errors import AceStepError, Cancelled

if TYPE_CHECKING:
    from acestep.engine.jobs import Event, Failure
    from acestep.progress import CancelToken, Stage

INTERRUPTED = 130  # 128 + SIGINT, as shells report it
T = TypeVar("T")
WORDS: "Mapping[Stage, str]" = {"loading": "loading model", "reading": "reading audio"}

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Output:
    """How a command speaks. Every command takes these options."""

    json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object on stdout; the rest on stderr.")
    ] = False
    debug: Annotated[
        bool, typer.Option("--debug", "-v", help="Log every stage, and the traceback of a bug.")
    ] = False

    def result(self, data: dict[str, Any], text: str) -> None:
        """The answer: an object for programs, or words for people."""
        # JSON in ASCII, because nobody knows in which encoding a pipe is read; paths as strings.
        print(jsonlib.dumps(data, default=str) if self.json else text, flush=True)

    def note(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def fail(self, failure: "Failure") -> None:
        self.note(failure.message)
        if self.json:
            self.result({"error": failure.model_dump()}, "")


def guarded(function: Callable[..., None]) -> Callable[..., None]:
    """A command whose errors become a sentence and an exit code; its `output` says where."""

    @functools.wraps(function)
    def command(**values: Any) -> None:
        output: Output = values["output"]
        logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")
        logging.getLogger("acestep").setLevel(logging.DEBUG if output.debug else logging.WARNING)
        failure = attempt(lambda: function(**values))
        if failure is not None:
            output.fail(failure)
            raise typer.Exit(failure.exit_code)

    return command


def attempt(work: Callable[[], T]) -> "T | Failure":
    """What the work returned, or why it did not: the one place where any error is caught."""
    from acestep.engine.jobs import Bug, Failure

    try:
        return work()
    except (typer.Exit, typer.Abort, BrokenPipeError):
        raise
    except Cancelled as error:  # on a terminal, only Ctrl+C cancels
        return Failure.of(error).model_copy(update={"exit_code": INTERRUPTED})
    except Exception as error:
        logger.debug("The run ended here.", exc_info=True)
        failure = Failure.of(error)
        if isinstance(error, AceStepError) and not isinstance(error, Bug):
            return failure
        said = f"{failure.message} --debug shows the traceback."
        return failure.model_copy(update={"message": said})


@contextmanager
def interruptible() -> Iterator["CancelToken"]:
    """A token that the first Ctrl+C sets; the second ends the process at once."""
    from acestep.progress import CancelToken

    token = CancelToken()

    def on_interrupt(*_: object) -> None:
        # The default action ends the process even inside a long call to C code.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        print("\nCancelling … (Ctrl+C again quits at once)", file=sys.stderr, flush=True)
        token.cancel()

    before = signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield token
    finally:
        signal.signal(signal.SIGINT, before)


class ProgressLine:
    """Progress on stderr: one line that changes on a terminal, a line per subject elsewhere."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._subject = ""
        self._start = time.perf_counter()

    def __call__(self, event: "Event") -> None:
        """Show how far a job is."""
        subject = WORDS.get(event.stage, event.stage)
        self.show(subject, f"{event.done}/{event.total}")

    def show(self, subject: str, amount: str) -> None:
        if self._stream.isatty():
            seconds = time.perf_counter() - self._start
            # Back to the first column, clear the line.
            self._stream.write(f"\r\x1b[K{subject} {amount}  {seconds:.0f} s")
        elif subject != self._subject:
            self._stream.write(f"{subject}\n")
        self._subject = subject
        self._stream.flush()

    def close(self) -> None:
        """Leave the terminal's line empty for what follows."""
        if self._subject and self._stream.isatty():
            self._stream.write("\r\x1b[K")
            self._stream.flush()


@contextmanager
def progress_line() -> Iterator[ProgressLine]:
    line = ProgressLine()
    try:
        yield line
    finally:
        line.close()
