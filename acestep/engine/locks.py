"""Locks that end with the process that holds them, however it ends: a sign of life on disk."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from acestep.errors import Unavailable

RETRY_SECONDS = 0.02

if sys.platform == "win32":
    import msvcrt

    def _try(file: BinaryIO) -> bool:
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True
else:
    import fcntl

    def _try(file: BinaryIO) -> bool:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


class FileLock:
    """A file that at most one holder has locked, in this process or another."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: BinaryIO | None = None

    def take(self, seconds: float = 0.0) -> bool:
        """Lock the file, waiting at most so long; whether that succeeded."""
        deadline = time.monotonic() + seconds
        file = self.path.open("ab")
        while not _try(file):
            if time.monotonic() >= deadline:
                file.close()
                return False
            time.sleep(RETRY_SECONDS)
        self._file = file
        return True

    def release(self, *, remove: bool = False) -> None:
        """Let go of the file, if it is held; `remove` it where nobody will ask for it again."""
        if self._file is None:
            return
        self._file.close()
        self._file = None
        if remove:
            self.path.unlink(missing_ok=True)


@contextmanager
def held(path: Path, seconds: float) -> Iterator[None]:
    """Hold a lock for the length of a block.

    Raises:
        Unavailable: another does not let go of it for so long.
    """
    lock = FileLock(path)
    if not lock.take(seconds):
        raise Unavailable(f"Another acestep holds {path} and does not let go.")
    try:
        yield
    finally:
        lock.release()
