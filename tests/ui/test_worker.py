"""Runs belong to the worker: one at a time, in order, saved by it, and cancellable at any point."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_service import FakeService

from acestep.errors import Cancelled, InvalidRequest, ModelMissing, Unavailable
from acestep.request import Text2Music
from acestep.ui import worker as module
from acestep.ui.worker import Run, Worker

SONG = Text2Music(caption="x", duration=10, seed=3)
SOON = 20.0  # seconds, on a busy machine


@pytest.fixture
def service() -> FakeService:
    return FakeService()


@pytest.fixture
def worker(service: FakeService, tmp_path: Path) -> Iterator[Worker]:
    worker = Worker(lambda: service, tmp_path)
    yield worker
    worker.close()


def until_started(run: Run) -> None:
    deadline = time.monotonic() + SOON
    while run.progress is None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert run.progress is not None


def test_takes_are_saved_without_anyone_watching(worker: Worker, tmp_path: Path) -> None:
    run = worker.submit(Text2Music(caption="x", duration=10, seed=3, takes=2))
    assert run.wait(SOON)
    takes = run.result()
    assert [take.seed for take in takes] == [3, 4]
    assert [take.path.parent for take in takes] == [tmp_path, tmp_path]
    assert all(take.path.is_file() and take.duration == 10 for take in takes)
    assert takes[0].recipe["request"]["caption"] == "x"


def test_the_service_is_loaded_once_and_not_before_it_is_needed(tmp_path: Path) -> None:
    loads = []

    def load() -> FakeService:
        loads.append(threading.current_thread().name)
        return FakeService()

    worker = Worker(load, tmp_path)
    assert worker.service is None and loads == []
    for _ in range(2):
        assert worker.submit(SONG).wait(SOON)
    assert len(loads) == 1 and loads[0].startswith("acestep")
    assert worker.service is not None
    worker.close()


def test_a_failed_load_is_told_to_the_run_and_tried_again(tmp_path: Path) -> None:
    answers = iter([ModelMissing("acestep-v15-turbo is not on this computer."), FakeService()])

    def load() -> FakeService:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    worker = Worker(load, tmp_path)
    run = worker.submit(SONG)
    assert run.wait(SOON)
    with pytest.raises(ModelMissing, match="not on this computer"):
        run.result()
    second = worker.submit(SONG)
    assert second.wait(SOON) and len(second.result()) == 1
    worker.close()


def test_runs_go_one_after_the_other_and_know_their_place(
    worker: Worker, service: FakeService
) -> None:
    service.step_seconds = 0.05
    runs = [worker.submit(SONG.model_copy(update={"seed": seed})) for seed in range(3)]
    assert [worker.ahead_of(run) for run in runs] == [0, 1, 2]
    assert all(run.wait(SOON) for run in runs)
    assert [request.seed for request in service.requests] == [0, 1, 2]
    assert [worker.ahead_of(run) for run in runs] == [0, 0, 0]


def test_cancel_stops_a_run_at_its_next_step_and_writes_nothing(
    worker: Worker, service: FakeService, tmp_path: Path
) -> None:
    service.step_seconds = 0.1
    run = worker.submit(SONG.model_copy(update={"steps": 20}))
    until_started(run)
    run.cancel()
    assert run.wait(1.5) and run.cancelled  # 20 steps would take 2 s
    with pytest.raises(Cancelled):
        run.result()
    assert list(tmp_path.iterdir()) == []


def test_a_waiting_run_is_cancelled_at_once_and_never_begins(
    worker: Worker, service: FakeService
) -> None:
    service.step_seconds = 0.05
    first, second = worker.submit(SONG), worker.submit(SONG)
    until_started(first)
    second.cancel()
    assert second.done and not first.done
    with pytest.raises(Cancelled):
        second.result()
    assert first.wait(SOON) and len(service.requests) == 1


def test_what_the_loaded_checkpoint_cannot_do_is_refused_before_it_waits(worker: Worker) -> None:
    assert worker.submit(SONG).wait(SOON)
    with pytest.raises(InvalidRequest, match="Turbo models take 1–20 steps"):
        worker.submit(Text2Music(caption="x", steps=50))


def test_too_many_waiting_runs_are_refused(
    worker: Worker, service: FakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", 2)
    service.step_seconds = 0.1
    runs = [worker.submit(SONG) for _ in range(3)]
    with pytest.raises(Unavailable, match="already waiting"):
        worker.submit(SONG)
    runs[-1].cancel()
    assert not worker.submit(SONG).done


def test_closing_cancels_what_runs_and_what_waits(
    worker: Worker, service: FakeService, tmp_path: Path
) -> None:
    service.step_seconds = 0.1
    runs = [worker.submit(SONG), worker.submit(SONG)]
    until_started(runs[0])
    worker.close()
    for run in runs:
        assert run.wait(SOON)
        with pytest.raises(Cancelled):
            run.result()
    assert list(tmp_path.iterdir()) == []
