"""The engine of one computer: one job at a time, in order, each under its own configuration."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_engine import FakeEngine, FakeService

from acestep.config import ServiceConfig
from acestep.request import Text2Music

SONG = Text2Music(caption="x", duration=10, seed=3)
BASE = ServiceConfig(model="acestep-v15-nano-base")


@pytest.fixture
def service() -> FakeService:
    return FakeService()


@pytest.fixture
def engine(service: FakeService, tmp_path: Path) -> Iterator[FakeEngine]:
    engine = FakeEngine(tmp_path / "songs", service)
    yield engine
    engine.close()


def test_takes_are_saved_without_anyone_watching(engine: FakeEngine) -> None:
    job = engine.ended(engine.submit(SONG.model_copy(update={"takes": 2})))
    assert job.state == "done" and job.outcome is not None
    takes = job.outcome.takes
    assert [take.seed for take in takes] == [3, 4]
    assert all(Path(take.path).is_file() and take.duration == 10 for take in takes)
    assert {Path(take.path).parent.parent for take in takes} == {engine.output_dir}
    assert takes[0].recipe["request"]["caption"] == "x" and takes[0].recipe["job"] == job.id
    assert job.outcome.model == "acestep-v15-nano-turbo"
    assert job.outcome.seconds["total"] >= job.outcome.seconds["loading"] >= 0
