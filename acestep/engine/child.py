"""The engine's process: a runner at the other end of a pipe, one JSON object per line.

`python -m acestep.engine.child` reads operations and writes what comes of them. It ends with its
input, also while it works, so nothing outlives the program that started it.
"""

import json
import logging
import os
import queue
import signal
import sys
import threading
from collections.abc import Iterable
from typing import Any, Protocol, TextIO

from acestep.config import ServiceConfig
from acestep.engine.jobs import Failure, Job
from acestep.engine.runner import InProcessRunner, Runner
from acestep.progress import CancelToken, Progress

PREPARE_AFTER_SECONDS = 0.5  # after a load, before what the first song needs is prepared
GRACE_SECONDS = 2.0  # to end in order once the input has ended

logger = logging.getLogger(__name__)


class PreparingRunner(Runner, Protocol):
    """A runner that can use an idle moment."""

    def prepare(self) -> None: ...


class Child:
    """Does one operation after another; cancels the running one when it is told to."""

    def __init__(self, runner: PreparingRunner, source: Iterable[bytes], sink: TextIO) -> None:
        self._runner = runner
        self._source = source
        self._sink = sink
        self._operations: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._tokens: dict[str, CancelToken] = {}  # of jobs that were named, by id
        self._is_fresh = False  # loaded, but not prepared yet
        self._has_ended = threading.Event()

    def serve(self) -> None:
        """Work until the input ends."""
        threading.Thread(target=self._read, name="operations", daemon=True).start()
        while (operation := self._next()) is not None:
            try:
                answer = self._do(operation)
            except Exception as error:  # the process's boundary: the other side is told
                logger.debug("%s failed.", operation["op"], exc_info=True)
                answer = {"failure": Failure.of(error).model_dump(mode="json")}
            self._say(answer)
        self._runner.close()
        self._has_ended.set()

    def _do(self, operation: dict[str, Any]) -> dict[str, Any]:
        if operation["op"] == "load":
            config = ServiceConfig.model_validate(operation["config"])
            loaded = self._runner.load(config, self._report)
            self._is_fresh = True
            return {"loaded": loaded.model_dump(mode="json")}
        job = Job.model_validate(operation["job"])
        outcome = self._runner.run(job, self._report, self._token(job.id))
        return {"outcome": outcome.model_dump(mode="json")}

    def _next(self) -> dict[str, Any] | None:
        """The next operation; until there is one, what the first song needs is prepared."""
        if self._is_fresh:
            try:
                return self._operations.get(timeout=PREPARE_AFTER_SECONDS)
            except queue.Empty:
                self._prepare()
        return self._operations.get()

    def _prepare(self) -> None:
        self._is_fresh = False
        try:
            self._runner.prepare()
        except Exception:  # whoever needs it will be told why it cannot be had
            logger.warning("What Think needs could not be prepared.", exc_info=True)

    def _read(self) -> None:
        for line in self._source:
            operation = json.loads(line)
            if operation["op"] == "cancel":
                self._token(operation["id"]).cancel()
            else:
                self._operations.put(operation)
        with self._lock:
            for token in self._tokens.values():
                token.cancel()
        self._operations.put(None)
        self._has_ended.wait(GRACE_SECONDS)
        os._exit(1)  # inside a long call to C code, nothing else ends it

    def _token(self, id: str) -> CancelToken:
        """A job's token, from whoever names the job first."""
        with self._lock:
            return self._tokens.setdefault(id, CancelToken())

    def _report(self, progress: Progress) -> None:
        self._say({"progress": [progress.stage, progress.done, progress.total]})

    def _say(self, message: dict[str, Any]) -> None:
        self._sink.write(json.dumps(message) + "\n")
        self._sink.flush()


def protocol_output() -> TextIO:
    """What was stdout, for the protocol alone: prints of libraries and C code go to stderr."""
    sink = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(2, 1)
    return sink


def main() -> None:
    """Serve on this process's pipes. The argument is the level that `acestep` logs at."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl+C is for the program that started this
    sink = protocol_output()
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("acestep").setLevel(int(sys.argv[1]))
    Child(InProcessRunner(), sys.stdin.buffer, sink).serve()


if __name__ == "__main__":
    main()
