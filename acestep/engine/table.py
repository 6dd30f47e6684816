"""The jobs that an engine knows, and which of them changed since someone last looked."""

import threading
import time
from collections.abc import Iterable, Sequence
from typing import Self

from acestep.engine.jobs import Job
from acestep.errors import Unavailable


def first_version() -> int:
    """Where a count of changes begins: above every count of an earlier start, so that a page which
    outlived a restart sees that everything has changed."""
    return time.time_ns() // 1_000_000


class JobTable:
    """Jobs by id, each with the version at which it last changed. May be used from any thread."""

    def __init__(self, jobs: Iterable[Job] = ()) -> None:
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

    @property
    def version(self) -> int:
        """Rises with every change of any job."""
        return self._version

    def insert(self, job: Job) -> None:
        with self._lock:
            assert job.id not in self._jobs, "ids are given once"
            self._keep(job)

    def update(self, job: Job) -> None:
        """Keep a job as it is now."""
        with self._lock:
            assert job.id in self._jobs, "only what was inserted changes"
            self._keep(job)

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
        """Let go of what the table is kept in; what waits is for the next start."""

    def _keep(self, job: Job) -> None:
        self._version += 1
        self._versions[job.id] = self._version
        self._jobs[job.id] = job
