"""The job table: what outlives an engine, what another engine keeps, and what files bring back."""

import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from fake_engine import FakeEngine, FakeService

from acestep.engine.index import DATABASE, FOLDER
from acestep.engine.jobs import Event, Job
from acestep.engine.table import JobTable
from acestep.errors import Unavailable
from acestep.request import Cover, Text2Music

SONG = Text2Music(caption="x", duration=10, seed=3)


def job(id: str, created: float = 1.0, **fields: object) -> Job:
    known = {"request": {"task": "text2music"}, "config": {}, "out": "songs", "created": created}
    return Job.model_validate({"id": id, **known, **fields})


def changed(table: JobTable, id: str, **fields: object) -> None:
    table.update(table.get(id).model_copy(update=fields))


def query(output_dir: Path, statement: str) -> tuple[object, ...] | None:
    """The first row that a statement gives, asked as another program would."""
    with closing(sqlite3.connect(output_dir / FOLDER / DATABASE)) as connection:
        row = connection.execute(statement).fetchone()
        connection.commit()
    return row


def left_by_a_killed_process(folder: Path) -> None:
    """Two jobs of an engine that was killed: one ran, one waited."""
    program = """
import os, signal, sys
from pathlib import Path
from acestep.engine.jobs import Job
from acestep.engine.table import JobTable

table = JobTable.open(Path(sys.argv[1]))
for id, state in (("ran", "running"), ("waited", "waiting")):
    table.insert(Job(id=id, request={}, config={}, out="", state=state))
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", program, str(folder)])
    assert done.returncode == -signal.SIGKILL


def test_jobs_are_told_newest_first_and_by_what_changed() -> None:
    table = JobTable.in_memory()
    table.insert(job("a"))
    table.insert(job("b", 2.0))
    assert [one.id for one in table.all()] == ["b", "a"]
    version, _ = table.since(0)
    changed(table, "a", state="running")
    assert table.version == version + 1
    assert [one.id for one in table.since(version)[1]] == ["a"]
    with pytest.raises(Unavailable, match="There is no job c"):
        table.get("c")


def test_versions_go_on_above_those_of_an_earlier_start(tmp_path: Path) -> None:
    table = JobTable.open(tmp_path)
    table.insert(job("a", state="done"))
    before = table.version
    table.close()
    after = JobTable.open(tmp_path)
    assert [one.id for one in after.since(before)[1]] == ["a"]
    after.close()


def test_a_table_outlives_its_engine_but_progress_does_not(tmp_path: Path) -> None:
    table = JobTable.open(tmp_path)
    table.insert(job("a"))
    changed(table, "a", state="running", started=2.0)
    steps = [Event(at=3.0, stage="rendering", done=1, total=8)]
    changed(table, "a", events=steps)
    (text,) = (
        sqlite3.connect(tmp_path / FOLDER / DATABASE).execute("SELECT job FROM jobs").fetchone()
    )
    assert Job.model_validate_json(text).events == [], "steps are not written one by one"
    changed(table, "a", state="done", ended=4.0)
    table.close()
    again = JobTable.open(tmp_path)
    assert again.get("a") == job("a", state="done", started=2.0, ended=4.0, events=steps)
    again.close()


def test_half_an_emoji_outlives_the_engine_too(tmp_path: Path) -> None:
    table = JobTable.open(tmp_path)
    table.insert(job("a", state="done", request={"caption": "\ud83d la"}))
    table.close()
    again = JobTable.open(tmp_path)
    assert again.get("a").request == {"caption": "\ud83d la"}
    again.close()


def test_what_a_killed_engine_had_before_it_is_lost_and_says_so(tmp_path: Path) -> None:
    left_by_a_killed_process(tmp_path)
    table = JobTable.open(tmp_path)
    said = {one.id: one.failure.message for one in table.all() if one.failure}
    assert {one.state for one in table.all()} == {"lost"}
    assert said == {
        "ran": "acestep ended while this ran. Run it again.",
        "waited": "acestep ended before this began. Run it again.",
    }
    table.close()
    again = JobTable.open(tmp_path)
    assert {one.state for one in again.all()} == {"lost"}
    again.close()
    assert list((tmp_path / FOLDER).glob("*.engine")) == []


def test_an_engine_that_lives_keeps_its_jobs(tmp_path: Path) -> None:
    first = JobTable.open(tmp_path)
    first.insert(job("a"))
    changed(first, "a", state="running")
    first.insert(job("b", state="done"))
    second = JobTable.open(tmp_path)
    assert [one.id for one in second.all()] == ["b"]
    second.insert(job("c"))
    changed(first, "a", state="done")
    assert first.get("a").state == "done"
    first.close()
    second.close()
    third = JobTable.open(tmp_path)
    assert {one.id: one.state for one in third.all()} == {"a": "done", "b": "done", "c": "waiting"}
    third.close()


def test_what_waits_when_an_engine_closes_runs_at_the_next_start(tmp_path: Path) -> None:
    slow = FakeService(step_seconds=0.1, seconds=1.0)
    engine = FakeEngine(tmp_path, slow, table=JobTable.open(tmp_path))
    jobs = [engine.submit(SONG), engine.submit(SONG)]
    engine.started(jobs[0])
    engine.close()
    assert len(slow.requests) == 1
    engine = FakeEngine(tmp_path, FakeService(seconds=1.0), table=JobTable.open(tmp_path))
    assert engine.job(jobs[0].id).state == "cancelled"
    assert engine.ended(jobs[1]).state == "done"
    engine.close()


def test_a_lost_job_can_be_run_again(tmp_path: Path) -> None:
    table = JobTable.open(tmp_path)
    engine = FakeEngine(tmp_path, FakeService(seconds=1.0), table=table)
    done = engine.ended(engine.submit(SONG))
    table.insert(done.model_copy(update={"id": "l", "state": "lost", "outcome": None}))
    assert engine.ended(engine.rerun("l")).state == "done"
    engine.close()


@pytest.mark.parametrize(
    "content",
    [None, b"", b"this is no database at all " * 400, "half", "other rows"],
    ids=["missing", "empty", "foreign", "cut", "rows"],
)
def test_a_missing_or_damaged_table_is_rebuilt_from_the_songs(
    tmp_path: Path, content: bytes | str | None
) -> None:
    engine = FakeEngine(tmp_path, FakeService(seconds=1.0), table=JobTable.open(tmp_path))
    song = engine.ended(engine.submit(SONG.model_copy(update={"takes": 2})))
    assert song.outcome is not None
    source = Path(song.outcome.takes[0].path)
    cover = engine.ended(engine.submit(Cover(caption="jazz", source_audio=source)))
    engine.close()
    (tmp_path / "2026-11-22").mkdir(exist_ok=True)
    for name in ("0001_foreign.json", "notes.json", "0002_text2music_gone.json"):
        (tmp_path / "2026-11-22" / name).write_text('{"recipe": 1, "request": {"seed": "x"}}')

    database = tmp_path / FOLDER / DATABASE
    if content == "half":
        whole = database.read_bytes()
        database.write_bytes(whole[: len(whole) // 2 // 4096 * 4096 + 100])
    elif content == "other rows":
        query(tmp_path, "UPDATE jobs SET job = '{}'")
    elif isinstance(content, bytes):
        database.write_bytes(content)
    else:
        database.unlink()

    table = JobTable.open(tmp_path)
    assert {one.id for one in table.all()} == {song.id, cover.id}
    again = table.get(song.id)
    assert again.state == "done" and again.outcome is not None
    assert [take.path for take in again.outcome.takes] == [take.path for take in song.outcome.takes]
    assert [take.seed for take in again.outcome.takes] == [3, 4]
    assert again.outcome.takes[0].duration == 1.0
    assert again.config["model"] == song.config["model"] and again.created > 1e9
    edited = table.get(cover.id).outcome
    assert edited is not None and cover.outcome is not None
    assert edited.takes[0].said == cover.outcome.takes[0].said
    table.close()


def test_a_table_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    JobTable.open(tmp_path).close()
    query(tmp_path, "PRAGMA user_version = 99")
    with pytest.raises(Unavailable, match="written by a newer acestep"):
        JobTable.open(tmp_path)
    assert query(tmp_path, "PRAGMA user_version") == (99,)
    assert list((tmp_path / FOLDER).glob("*.engine")) == []


def test_a_folder_that_cannot_hold_a_table_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "songs").write_text("a file")
    with pytest.raises(Unavailable, match=r"^The list of jobs cannot be kept in .*\.$"):
        JobTable.open(tmp_path / "songs")


def test_a_list_that_cannot_be_written_stops_no_song(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table = JobTable.open(tmp_path)
    engine = FakeEngine(tmp_path, FakeService(seconds=1.0), table=table)
    query(tmp_path, "DROP TABLE jobs")
    assert engine.ended(engine.submit(SONG)).state == "done"
    engine.close()
    assert "The list of jobs could not be written" in caplog.text
