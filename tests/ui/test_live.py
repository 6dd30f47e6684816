"""What every page is told of the engine's jobs, and the routes that tell it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import soundfile
from fake_engine import BASE, FakeEngine, FakeService
from fastapi import FastAPI, HTTPException
from fastapi.testclient import TestClient

from acestep.config import ServiceConfig
from acestep.engine.engine import DeviceRow, EngineState, Loaded
from acestep.engine.jobs import Event, Failure, Job, Outcome, Take
from acestep.errors import ModelMissing, OutOfMemory
from acestep.request import Text2Music
from acestep.request.asked import Recording
from acestep.ui import live
from acestep.ui.live import SHOWN_AT_FIRST, Live
from acestep.ui.routes import routes

EVIL = "<img src=x onerror=alert(1)>"


def asked(**values: Any) -> Text2Music:
    return Text2Music(**{"caption": "lo-fi", "duration": 10, "seed": 5, **values})


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[FakeEngine]:
    engine = FakeEngine(tmp_path / "songs", FakeService(step_seconds=0.005))
    yield engine
    engine.close()


@pytest.fixture
def client(engine: FakeEngine) -> Iterator[TestClient]:
    """A page's calls to the routes, past a login that lets everybody in."""
    with TestClient(app(engine)) as client:
        yield client


def app(engine: FakeEngine, login_check: Any = lambda: None) -> FastAPI:
    app = FastAPI()
    app.include_router(routes(engine, Live(engine, engine.output_dir), login_check))
    return app


def rows_of(client: TestClient, since: int = 0, **options: Any) -> dict[str, dict[str, Any]]:
    answer = client.get("/live", params={"since": since, **options}).json()
    return {row["id"]: row for row in answer["rows"]}


def job(**values: Any) -> Job:
    known = {"id": "1", "request": {"task": "text2music"}, "config": {}, "out": "", "created": 1.0}
    return Job(**{**known, **values})


def at(stage: Any, done: int, total: int) -> Job:
    return job(state="running", events=[Event(at=1.0, stage=stage, done=done, total=total)])


@pytest.mark.parametrize(
    ("known", "said"),
    [
        (job(state="running"), "Starting"),
        (at("rendering", 3, 8), "Rendering: step 3 of 8"),
        (at("planning", 300, 1200), "Planning the song: token 300 of 1,200"),
        (at("conditioning", 0, 1), "Reading caption and lyrics"),
        (at("decoding", 3, 8), "Decoding: 37 %"),
        (at("decoding", 0, 0), "Decoding"),
        (at("checking", 2, 4), "Checking"),
        (job(state="cancelled"), "Cancelled."),
        (job(state="lost", failure=Failure(type="E", message="Gone.")), "Lost: Gone."),
        (job(state="failed", failure=Failure(type="E", message="Out.")), "Out."),
    ],
)
def test_every_state_and_stage_has_words(known: Job, said: str) -> None:
    assert live.said(known) == said


def test_a_job_that_waits_says_for_what() -> None:
    assert live.said(job(), ahead=2) == "Waiting: 2 runs before this one"
    assert live.said(job(), ahead=1) == "Waiting: 1 run before this one"
    assert live.said(job(), is_loading=True) == "Loading the model"


def test_a_job_that_is_done_says_how_much_music_it_made_and_how_long_it_took() -> None:
    takes = [Take(path="/a.flac", take=n, seed=n, duration=6.0, seconds={}) for n in range(2)]
    done = job(state="done", started=10.0, ended=13.4, outcome=Outcome(takes=takes))
    assert live.said(done) == "Done: 12 s of music in 3.4 s."


LOADED = Loaded(
    model="nano-base", preset=BASE, has_planner=False, planner="", device="CPU", seconds=1.0
)


@pytest.mark.parametrize(
    ("known", "line"),
    [
        ({"status": "empty"}, "Not loaded: nano-base"),
        ({"status": "loading"}, "Loading nano-base …"),
        (
            {"status": "loading", "loading": Event(at=1, stage="loading", done=1, total=4)},
            "Loading nano-base: 25 %",
        ),
        ({"status": "ready", "loaded": LOADED}, "Ready · nano-base · CPU"),
        (
            {"status": "failed", "failure": Failure(type="E", message="It is not here.")},
            "Not ready. It is not here.",
        ),
        (
            {"status": "ready", "loaded": LOADED, "waiting_for": "1"},
            "Switches to nano-base after the running song",
        ),
    ],
)
def test_the_line_at_the_top_says_what_the_engine_is_about(
    known: dict[str, Any], line: str
) -> None:
    config = ServiceConfig(model="/home/me/models/nano-base")
    assert live.engine_line(EngineState(config=config, **known)) == line


def test_a_page_is_told_what_changed_since_it_last_asked(
    client: TestClient, engine: FakeEngine
) -> None:
    first = client.get("/live", params={"since": 0}).json()
    assert first["rows"] == [] and first["older"] == 0
    done = engine.ended(engine.submit(asked(takes=2)))
    (row,) = rows_of(client, first["version"]).values()
    assert (row["id"], row["state"], row["title"]) == (done.id, "done", "Text2Music")
    assert row["asked"] == "lo-fi" and row["said"].startswith("Done: 20 s of music in")
    assert [take["name"].split("/")[-1][:4] for take in row["takes"]] == ["0001", "0002"]
    assert "Take 2 · seed 6 · 10.0 s of music" in row["takes"][1]["facts"]
    now = client.get("/live", params={"since": 0}).json()["version"]
    assert rows_of(client, now) == {}


def test_a_page_of_an_earlier_server_gets_every_row_again(
    client: TestClient, engine: FakeEngine
) -> None:
    done = engine.ended(engine.submit(asked()))
    assert list(rows_of(client, since=1_000)) == [done.id]


def test_two_pages_are_told_the_same(client: TestClient, engine: FakeEngine) -> None:
    engine.ended(engine.submit(asked()))
    assert rows_of(client) == rows_of(client)


def test_who_waits_knows_its_place_and_is_told_when_it_changes(
    client: TestClient, engine: FakeEngine
) -> None:
    engine.service.step_seconds = 0.2
    running, *waiting = [engine.submit(asked(seed=seed)) for seed in range(3)]
    engine.started(running)
    known = client.get("/live", params={"since": 0}).json()
    said = {row["id"]: row["said"] for row in known["rows"]}
    assert said[running.id].startswith("Rendering: step")
    assert said[waiting[0].id] == "Waiting: 1 run before this one"
    assert said[waiting[1].id] == "Waiting: 2 runs before this one"
    client.post("/live/cancel", json={"id": waiting[0].id})
    changed = rows_of(client, known["version"])
    assert changed[waiting[0].id]["said"] == "Cancelled."
    assert changed[waiting[1].id]["said"] == "Waiting: 1 run before this one"


def test_any_page_cancels_any_job_by_its_id(client: TestClient, engine: FakeEngine) -> None:
    engine.service.step_seconds = 0.2
    running = engine.started(engine.submit(asked(steps=20)))
    assert client.post("/live/cancel", json={"id": running.id}).status_code == 200
    assert rows_of(client)[running.id]["said"] in ("Cancelling", "Cancelled.")
    assert engine.ended(running).state == "cancelled"
    row = rows_of(client)[running.id]
    assert (row["said"], row["can_cancel"], row["can_rerun"]) == ("Cancelled.", False, False)


def test_what_failed_says_why_and_can_be_run_again(client: TestClient, engine: FakeEngine) -> None:
    engine.service.failure = OutOfMemory(f"Out of memory {EVIL}.")
    failed = engine.ended(engine.submit(asked()))
    row = rows_of(client)[failed.id]
    assert (row["said"], row["can_rerun"]) == (f"Out of memory {EVIL}.", True)
    engine.service.failure = None
    again = client.post("/live/rerun", json={"id": failed.id}).json()["id"]
    newest = engine.ended(engine.jobs()[0])
    assert newest.id == again != failed.id and newest.state == "done"


def test_what_ran_out_of_memory_can_be_run_again_lighter(
    client: TestClient, engine: FakeEngine
) -> None:
    engine.service.devices = [DeviceRow(name="cuda:0", about="a GPU")]
    engine.service.failure = OutOfMemory("Out of memory while decoding.")
    failed = engine.ended(engine.submit(asked()))
    assert rows_of(client)[failed.id]["retries"] == [
        {"setting": "offload_dit", "words": "Retry with Offload DiT to CPU"},
        {"setting": "int8", "words": "Retry with INT8 Quantization"},
    ]
    engine.service.failure = None
    answer = client.post("/live/retry", json={"id": failed.id, "setting": "offload_dit"})
    again = engine.ended(engine.job(answer.json()["id"]))
    assert again.state == "done" and again.request == failed.request
    assert ServiceConfig(**again.config) == ServiceConfig(offload_dit=True)
    assert engine.state.config == ServiceConfig(offload_dit=True)  # from now on


def test_a_lighter_retry_is_offered_only_where_it_changes_something(
    client: TestClient, engine: FakeEngine
) -> None:
    engine.service.failure = OutOfMemory("Out of memory while decoding.")
    on_cpu = engine.ended(engine.submit(asked()))
    assert [each["setting"] for each in rows_of(client)[on_cpu.id]["retries"]] == ["int8"]
    refused = client.post("/live/retry", json={"id": on_cpu.id, "setting": "offload_dit"})
    assert refused.status_code == 404 and "would not make" in refused.json()["error"]
    engine.configure(ServiceConfig(int8=True))
    packed = engine.ended(engine.submit(asked()))
    engine.service.failure = ModelMissing("It is not here.")
    missing = engine.ended(engine.submit(asked()))
    rows = rows_of(client)
    assert rows[packed.id]["retries"] == rows[missing.id]["retries"] == []
    # What ran under something else than is chosen now leaves that alone.
    engine.service.failure = None
    answer = client.post("/live/retry", json={"id": on_cpu.id, "setting": "int8"})
    assert engine.ended(engine.job(answer.json()["id"])).state == "done"
    engine.configure(ServiceConfig(lm="none"))
    client.post("/live/retry", json={"id": on_cpu.id, "setting": "int8"})
    assert engine.state.config == ServiceConfig(lm="none")


def test_an_estimate_is_shown_while_it_runs_and_no_longer(
    client: TestClient, engine: FakeEngine
) -> None:
    done = engine.ended(engine.submit(asked()))
    assert done.outcome is not None
    song = Path(done.outcome.takes[0].path)
    engine.service.step_seconds = 0.1
    heard = engine.started(
        engine.submit(Recording(source_audio=song), action="understand"), "planning"
    )
    known = client.get("/live", params={"since": 0}).json()
    row = next(row for row in known["rows"] if row["id"] == heard.id)
    assert row["title"] == "Estimate of BPM and key" and not row["is_gone"]
    engine.ended(heard)
    assert rows_of(client, known["version"])[heard.id]["is_gone"]
    assert list(rows_of(client)) == [done.id]


def test_the_newest_songs_come_first_and_the_rest_when_asked(
    client: TestClient, engine: FakeEngine
) -> None:
    engine.service.step_seconds = 0
    jobs = [engine.ended(engine.submit(asked(seed=seed))) for seed in range(SHOWN_AT_FIRST + 3)]
    answer = client.get("/live", params={"since": 0}).json()
    assert answer["older"] == 3
    assert {row["id"] for row in answer["rows"]} == {job.id for job in jobs[3:]}
    assert len(rows_of(client, every=True)) == SHOWN_AT_FIRST + 3


def test_jobs_of_an_earlier_start_are_shown(engine: FakeEngine) -> None:
    done = engine.ended(engine.submit(asked()))
    assert [row["id"] for row in Live(engine, engine.output_dir).since(0)["rows"]] == [done.id]


def test_a_load_that_failed_is_said(client: TestClient, engine: FakeEngine) -> None:
    before = client.get("/live", params={"since": 0}).json()["engine"]
    engine.service.load_failure = ModelMissing("acestep-v15-turbo is not on this computer.")
    engine.configure(ServiceConfig(model="acestep-v15-turbo"))
    engine.until(lambda: engine.state.status == "failed")
    after = client.get("/live", params={"since": 0}).json()["engine"]
    assert after["said"] == "Not ready. acestep-v15-turbo is not on this computer."
    assert after["mark"] != before["mark"]


def test_a_take_is_played_in_parts_and_saved_under_its_name(
    client: TestClient, engine: FakeEngine, tmp_path: Path
) -> None:
    engine.ended(engine.submit(asked()))
    (take,) = next(iter(rows_of(client).values()))["takes"]
    part = client.get(f"/{take['song']}", headers={"range": "bytes=100-199"})
    assert (part.status_code, len(part.content)) == (206, 100)
    assert part.headers["content-type"] == "audio/flac"
    assert part.headers["content-disposition"].startswith("inline")
    saved = client.get(f"/{take['song']}", params={"save": True})
    name = Path(take["name"]).name
    assert saved.headers["content-disposition"] == f'attachment; filename="{name}"'
    (tmp_path / name).write_bytes(saved.content)
    assert soundfile.info(tmp_path / name).frames == 10 * 48_000
    assert client.get(f"/{take['recipe']}").json()["request"]["seed"] == 5
    assert client.head(f"/{take['song']}").status_code == 200


@pytest.mark.parametrize("path", ["nobody/0", "{id}/1", "{id}/-1", "{id}/..%2f..%2fetc%2fpasswd"])
@pytest.mark.parametrize("kind", ["song", "recipe"])
def test_only_takes_are_served_and_only_by_their_ids(
    client: TestClient, engine: FakeEngine, kind: str, path: str
) -> None:
    done = engine.ended(engine.submit(asked()))
    answer = client.get(f"/live/{kind}/{path.format(id=done.id)}")
    assert answer.status_code in (404, 422)


def test_a_song_that_was_moved_away_is_said(client: TestClient, engine: FakeEngine) -> None:
    done = engine.ended(engine.submit(asked()))
    assert done.outcome is not None
    song = Path(done.outcome.takes[0].path)
    song.unlink()
    answer = client.get(f"/live/song/{done.id}/0")
    assert (answer.status_code, answer.json()["error"]) == (
        404,
        f"{song.name} is no longer where it was saved.",
    )


@pytest.mark.parametrize("verb", ["cancel", "rerun"])
def test_a_job_that_does_not_exist_is_said(client: TestClient, verb: str) -> None:
    answer = client.post(f"/live/{verb}", json={"id": "nobody"})
    assert answer.status_code == 404 and answer.json()["error"].endswith(".")
    assert client.post(f"/live/{verb}", content="nonsense").status_code == 422


def test_no_path_of_this_computer_is_told(
    client: TestClient, engine: FakeEngine, tmp_path: Path
) -> None:
    engine.configure(ServiceConfig(checkpoints=tmp_path))
    engine.ended(engine.submit(asked()))
    assert str(tmp_path) not in client.get("/live", params={"since": 0}).text


def test_every_route_asks_who_is_there(engine: FakeEngine) -> None:
    def refuse() -> None:
        raise HTTPException(401)

    done = engine.ended(engine.submit(asked()))
    with TestClient(app(engine, refuse)) as stranger:
        for path in ("/live", f"/live/song/{done.id}/0", f"/live/recipe/{done.id}/0"):
            assert stranger.get(path).status_code == 401
        for verb in ("cancel", "rerun", "retry"):
            asked_for = {"id": done.id, "setting": "int8"}
            assert stranger.post(f"/live/{verb}", json=asked_for).status_code == 401
