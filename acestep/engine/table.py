"""The jobs that an engine knows, and which of them changed since someone last looked."""

import logging
import sqlite3
import threading
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Self

from acestep.engine.index import Index
from acestep.engine.jobs import Job
from acestep.errors import Unavailable

logger = logging.getLogger(__name__)


def first_version() -> int:
    """Where a count of changes begins: above every count of an earlier start, so that a page which
    outlived a restart sees that everything has changed."""
    return time.time_ns() // 1_000_000


class JobTable:
    """Jobs by id, each with the version at which it last changed. May be used from any thread.

    How far a job is stays in memory; that it began and how it ended is written down.
    """

    def __init__(self, jobs: Iterable[Job] = (), index: Index | None = None) -> None:
        self._index = index
        self._lock = threading.RLock()
        self._jobs: dict[str, Job] = {}
        self._versions: dict[str, int] = {}
        self._version = first_version()
        for job in sorted(jobs, key=lambda job: job.created):
            self._keep(job)

    @classmethod
    def in_memory(cls) -> Self:
        """A table that nothing outlives."""
        return cls()

    @classmethod
    def open(cls, output_dir: Path) -> Self:
        """The table of an output folder: what was done there, and what was left to be done.

        What an engine that is no more left running reads lost, and so does what waited there,
        unless it was closed in order: then that waits on. What an engine in another process has
        before it is that engine's own, and not in this table.

        Raises:
            Unavailable: the table cannot be kept there.
        """
        index = Index(output_dir)
        return cls(index.jobs, index)

    @property
    def version(self) -> int:
        """Rises with every change of any job."""
        return self._version

    def insert(self, job: Job) -> None:
        with self._lock:
            assert job.id not in self._jobs, "ids are given once"
            self._keep(job)
            self._write(job)

    def update(self, job: Job) -> None:
        """Keep a job as it is now."""
        with self._lock:
            before = self._jobs[job.id]
            self._keep(job)
            if job.state != before.state:
                self._write(job)

    def get(self, id: str) -> Job:
        """One job.

        Raises:
            Unavailable: there is none with this id.
        """
        with self._lock:
            if id not in self._jobs:
                raise Unavailable(f"There is no job {id}.")
            return self._jobs[id]

    def all(self) -> Sequence[Job]:
        """Every job, the newest first."""
        with self._lock:
            return list(self._jobs.values())[::-1]

    def since(self, version: int) -> tuple[int, Sequence[Job]]:
        """The version now, and the jobs that changed after another, the newest first."""
        with self._lock:
            changed = [job for job in self.all() if self._versions[job.id] > version]
            return self._version, changed

    def close(self) -> None:
        """Write nothing any more; what waits is for the next start."""
        with self._lock:
            index, self._index = self._index, None
            if index is None:
                return
            try:
                index.close()
            except sqlite3.Error as error:
                logger.warning("The list of jobs could not be written: %s.", error)

    def _write(self, job: Job) -> None:
        """A list that cannot be written stops no song: songs are the truth, and bring it back."""
        try:
            if self._index is not None:
                self._index.write(job)
        except sqlite3.Error as error:
            logger.warning("The list of jobs could not be written: %s.", error)

    def _keep(self, job: Job) -> None:
        self._version += 1
        self._versions[job.id] = self._version
        self._jobs[job.id] = job
