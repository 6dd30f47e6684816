"""The job table on disk: sqlite below the output folder, an index over files that are the truth.

One row per job: when it was created, its state, the engine it belongs to, and the whole of it as
JSON. Every engine holds a lock beside the database, so that others can tell whether it still lives.
"""

import json
import logging
import sqlite3
import time
import uuid
from collections.abc import Iterable, Sequence
from pathlib import Path

from acestep.engine.jobs import ENDED, Failure, Job
from acestep.engine.locks import FileLock, held
from acestep.engine.recovery import jobs_of_songs
from acestep.errors import EngineStopped, Unavailable

FOLDER = ".jobs"  # below the output folder
DATABASE = "jobs.sqlite"
VERSION = 1  # sqlite's user_version: rises when a column changes its meaning
OPENING_SECONDS = 30.0  # that another engine may take to open the same table

_TABLE = """
CREATE TABLE jobs (
    id TEXT PRIMARY KEY, created REAL NOT NULL, state TEXT NOT NULL, owner TEXT NOT NULL,
    job TEXT NOT NULL
)
"""
_NOBODY = ""  # owner of what a closed engine left waiting

logger = logging.getLogger(__name__)


class Index:
    """One engine's hold on the database. For one thread at a time."""

    def __init__(self, output_dir: Path) -> None:
        """Open the database, or make it anew from the songs when it is missing or damaged.

        Raises:
            Unavailable: the folder cannot be written to, or a newer acestep made the database.
        """
        self._songs = output_dir
        self._folder = output_dir / FOLDER
        self._owner = uuid.uuid4().hex
        self._alive = FileLock(self._sign(self._owner))
        self._connection: sqlite3.Connection | None = None
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with held(self._folder / "opening.lock", OPENING_SECONDS):
                self._alive.take()
                connection = self._connection = self._open()
                self.jobs: Sequence[Job] = self._adopt(connection)
        except (OSError, sqlite3.Error) as error:
            self._let_go()
            reason = str(getattr(error, "strerror", None) or error).lower()
            raise Unavailable(
                f"The list of jobs cannot be kept in {self._folder}: {reason}."
            ) from error
        except Unavailable:
            self._let_go()
            raise

    def write(self, job: Job) -> None:
        """Keep a job as it is now, as this engine's own.

        Raises:
            sqlite3.Error: the disk is full, or gone.
        """
        assert self._connection is not None, "the table is open"
        _write(self._connection, [job], self._owner)

    def close(self) -> None:
        """Leave what waits to the next engine.

        Raises:
            sqlite3.Error: the disk is full, or gone; everything is let go all the same.
        """
        assert self._connection is not None, "the table is open"
        try:
            self._connection.execute(
                "UPDATE jobs SET owner = ? WHERE owner = ? AND state = 'waiting'",
                (_NOBODY, self._owner),
            )
        finally:
            self._let_go()

    def _let_go(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._alive.release(remove=True)

    def _open(self) -> sqlite3.Connection:
        """A database that has been looked through, or a new one."""
        connection = sqlite3.connect(
            self._folder / DATABASE, isolation_level=None, check_same_thread=False
        )
        try:
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if version > VERSION:
                raise Unavailable(
                    f"The list of jobs in {self._folder} was written by a newer acestep. "
                    "Update acestep, or choose another output folder."
                )
            if version == VERSION and _is_sound(connection):
                return connection
        except sqlite3.DatabaseError as error:
            connection.close()
            if not _is_damage(error):
                raise
            logger.warning("The list of jobs is damaged (%s). It is made anew.", error)
        except Unavailable:
            connection.close()
            raise
        connection.close()
        return self._rebuilt()

    def _rebuilt(self) -> sqlite3.Connection:
        """A new database, with a done job for every run whose songs lie in the output folder."""
        for suffix in ("", "-wal", "-shm"):
            (self._folder / (DATABASE + suffix)).unlink(missing_ok=True)
        connection = sqlite3.connect(
            self._folder / DATABASE, isolation_level=None, check_same_thread=False
        )
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(_TABLE)
        _write(connection, jobs_of_songs(self._songs), self._owner)
        connection.execute(f"PRAGMA user_version = {VERSION}")
        return connection

    def _adopt(self, connection: sqlite3.Connection) -> list[Job]:
        """What was done, what a closed engine left waiting, and what a dead one lost; not what an
        engine that lives still has before it."""
        living = {owner for owner in self._owners() if self._lives(owner)}
        jobs: list[Job] = []
        for state, owner, text in connection.execute("SELECT state, owner, job FROM jobs"):
            job = _read(text)
            if state in ENDED or owner == _NOBODY:
                jobs.append(job)
            elif owner not in living:
                jobs.append(_lost(job))
        _write(connection, [job for job in jobs if job.state in ("waiting", "lost")], self._owner)
        return jobs

    def _owners(self) -> list[str]:
        return [path.stem for path in self._folder.glob("*.engine")]

    def _lives(self, owner: str) -> bool:
        """Whether an engine's process is still there; what one that is not left is tidied away."""
        lock = FileLock(self._sign(owner))
        if owner == self._owner or not lock.take():
            return True
        lock.release(remove=True)
        return False

    def _sign(self, owner: str) -> Path:
        return self._folder / f"{owner}.engine"


def _write(connection: sqlite3.Connection, jobs: Iterable[Job], owner: str) -> None:
    rows = [(job.id, job.created, job.state, owner, _text(job)) for job in jobs]
    connection.execute("BEGIN IMMEDIATE")
    try:
        connection.executemany("INSERT OR REPLACE INTO jobs VALUES (?, ?, ?, ?, ?)", rows)
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def _text(job: Job) -> str:
    # Not pydantic's own JSON, which refuses half an emoji; a caption may hold one.
    return json.dumps(job.model_dump(mode="json"))


def _read(text: str) -> Job:
    return Job.model_validate(json.loads(text))


def _lost(job: Job) -> Job:
    """A job of an engine that is no more."""
    when = "while this ran" if job.state == "running" else "before this began"
    failure = Failure.of(EngineStopped(f"acestep ended {when}. Run it again."))
    return job.model_copy(update={"state": "lost", "failure": failure, "ended": time.time()})


def _is_sound(connection: sqlite3.Connection) -> bool:
    """Whether the database and every job in it can be read."""
    if connection.execute("PRAGMA quick_check").fetchone() != ("ok",):
        return False
    try:
        for (text,) in connection.execute("SELECT job FROM jobs"):
            _read(text)
    except ValueError:  # pydantic's errors are of this kind
        logger.warning("The list of jobs holds something else than jobs. It is made anew.")
        return False
    return True


def _is_damage(error: sqlite3.DatabaseError) -> bool:
    """Whether the file is wrong, and not the disk or another process in the way."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF
    return code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR)
