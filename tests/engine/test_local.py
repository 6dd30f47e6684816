"""The engine of one computer: one job at a time, in order, each under its own configuration."""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from fake_engine import FakeEngine, FakeService, until

from acestep.config import ServiceConfig
from acestep.engine import local
from acestep.engine.engine import Change, EngineState
from acestep.engine.jobs import Job
from acestep.errors import AudioError, EngineStopped, InvalidRequest, ModelMissing, Unavailable
from acestep.request import Cover, Repaint, Text2Music
from acestep.request.asked import Recording

SONG = Text2Music(caption="x", duration=10, seed=3)
BASE = ServiceConfig(model="acestep-v15-nano-base")


@pytest.fixture
def service() -> FakeService:
    return FakeService(seconds=1.0)


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
    assert all(Path(take.path).is_file() and take.duration == 1 for take in takes)
    assert {Path(take.path).parent.parent for take in takes} == {engine.output_dir}
    assert takes[0].recipe["request"]["caption"] == "x" and takes[0].recipe["job"] == job.id
    assert job.outcome.model == "acestep-v15-nano-turbo"
    assert job.outcome.seconds["total"] >= job.outcome.seconds["loading"] >= 0


def test_the_service_is_loaded_once_and_not_before_it_is_needed(
    engine: FakeEngine, service: FakeService
) -> None:
    assert engine.state.status == "empty" and service.loads == []
    for _ in range(2):
        engine.ended(engine.submit(SONG))
    assert len(service.loads) == 1
    assert engine.state.status == "ready" and engine.state.loaded is not None
    assert engine.state.loaded.preset.name == "nano-turbo"


def test_jobs_run_one_after_the_other_in_their_order(
    engine: FakeEngine, service: FakeService
) -> None:
    service.step_seconds = 0.03
    jobs = [engine.submit(SONG.model_copy(update={"seed": seed})) for seed in range(3)]
    engine.started(jobs[0])
    assert [engine.job(job.id).state for job in jobs] == ["running", "waiting", "waiting"]
    ended = [engine.ended(job) for job in jobs]
    assert [request.seed for request in service.requests] == [0, 1, 2]
    assert [job.id for job in engine.jobs()] == [job.id for job in reversed(jobs)]
    assert all(a.ended <= b.started for a, b in pairwise(ended))  # type: ignore


def test_events_keep_the_last_of_each_stage_in_order(engine: FakeEngine) -> None:
    job = engine.ended(engine.submit(SONG))
    stages = [event.stage for event in job.events]
    assert stages == ["loading", "conditioning", "rendering", "decoding", "saving"]
    rendering = job.events[2]
    assert (rendering.done, rendering.total) == (7, 8) and rendering.at > job.created


def test_cancel_stops_a_job_at_its_next_step_and_writes_nothing(
    engine: FakeEngine, service: FakeService
) -> None:
    service.step_seconds = 0.1
    job = engine.submit(SONG.model_copy(update={"steps": 20}))
    engine.started(job)
    engine.cancel(job.id)
    job = engine.ended(job, 1.5)  # 20 steps would take 2 s
    assert job.state == "cancelled" and job.failure is not None
    assert job.failure.message == "Cancelled. Nothing was written."
    assert not engine.output_dir.exists() and engine.state.status == "ready"
    engine.cancel(job.id)  # what is over stays as it is
    with pytest.raises(Unavailable, match="There is no job nonsense"):
        engine.cancel("nonsense")


def test_a_waiting_job_is_cancelled_at_once_and_never_begins(
    engine: FakeEngine, service: FakeService
) -> None:
    service.step_seconds = 0.05
    first, second = engine.submit(SONG), engine.submit(SONG)
    engine.started(first)
    engine.cancel(second.id)
    assert engine.job(second.id).state == "cancelled" and engine.job(first.id).state == "running"
    assert engine.ended(first).state == "done" and len(service.requests) == 1


def test_a_job_cancelled_while_its_models_load_does_not_begin(
    engine: FakeEngine, service: FakeService
) -> None:
    service.load_seconds = 0.3
    job = engine.submit(SONG)
    engine.started(job, "loading")
    engine.cancel(job.id)
    assert engine.ended(job).state == "cancelled" and service.requests == []
    assert engine.state.status == "ready"


def test_a_switch_waits_for_what_runs_and_what_waits(
    engine: FakeEngine, service: FakeService
) -> None:
    service.step_seconds = 0.05
    jobs = [engine.submit(SONG), engine.submit(SONG)]
    engine.started(jobs[0])
    version = engine.state.version
    engine.configure(BASE)
    state = engine.state
    assert state.waiting_for == jobs[0].id and state.config == BASE and state.version > version
    assert state.loaded is not None and state.loaded.model == "acestep-v15-nano-turbo"
    after = engine.submit(Text2Music(caption="x", steps=50, duration=10))
    for job in (*jobs, after):
        assert engine.ended(job).state == "done"
    assert [load.model for load in service.loads] == [
        "acestep-v15-nano-turbo",
        "acestep-v15-nano-base",
    ]
    assert engine.job(jobs[1].id).outcome.model == "acestep-v15-nano-turbo"  # type: ignore
    assert engine.job(after.id).outcome.model == "acestep-v15-nano-base"  # type: ignore
    assert engine.state.waiting_for is None and engine.state.loaded.preset.name == "nano-base"  # type: ignore


def test_configuring_twice_loads_the_last_one_only(
    engine: FakeEngine, service: FakeService
) -> None:
    service.step_seconds = 0.05
    job = engine.submit(SONG)
    engine.started(job)
    engine.configure(BASE)
    engine.configure(ServiceConfig())
    assert engine.state.waiting_for is None, "it is loaded already"
    engine.ended(job)
    engine.ended(engine.submit(SONG))
    assert len(service.loads) == 1


def test_a_job_done_again_runs_under_its_own_configuration_and_the_chosen_one_returns(
    engine: FakeEngine, service: FakeService
) -> None:
    job = engine.ended(engine.submit(SONG))
    engine.configure(BASE)
    until(lambda: engine.state.status == "ready" and engine.state.loaded.model == BASE.model)  # type: ignore
    again = engine.rerun(job.id)
    assert again.id != job.id and again.request == job.request and again.config == job.config
    again = engine.ended(again)
    assert again.outcome is not None and again.outcome.model == "acestep-v15-nano-turbo"
    until(lambda: len(service.loads) == 4)
    assert service.loads[-1] == engine.state.config == BASE
    with pytest.raises(Unavailable, match="There is no job"):
        engine.rerun("nonsense")


def test_a_failed_load_fails_the_jobs_that_need_it_and_nothing_else(
    engine: FakeEngine, service: FakeService
) -> None:
    service.load_failure = ModelMissing("acestep-v15-turbo is not on this computer.")
    service.load_seconds = 0.2
    jobs = [engine.submit(SONG), engine.submit(SONG)]
    engine.configure(BASE)
    other = engine.submit(SONG)
    engine.started(jobs[0], "loading")
    for job in map(engine.ended, jobs):
        assert job.state == "failed" and job.failure is not None
        assert job.failure.message == "acestep-v15-turbo is not on this computer."
        assert (job.failure.type, job.failure.exit_code) == ("ModelMissing", 3)
    assert len(service.loads) <= 2 and service.requests == []
    engine.ended(other)
    until(lambda: engine.state.status == "failed")
    assert engine.state.failure is not None and engine.state.loaded is None
    service.load_failure = None
    assert engine.ended(engine.submit(SONG)).state == "done"
    assert engine.state.status == "ready" and engine.state.failure is None


def test_a_lost_process_loses_its_job_and_the_next_loads_again(
    engine: FakeEngine, service: FakeService
) -> None:
    service.failure = EngineStopped("The engine's process was ended by signal 9.")
    job = engine.ended(engine.submit(SONG))
    assert job.state == "lost" and job.failure is not None
    assert job.failure.message == "The engine's process was ended by signal 9."


def test_a_bug_is_a_failure_that_says_so(engine: FakeEngine, service: FakeService) -> None:
    service.failure = ZeroDivisionError("division by zero")
    job = engine.ended(engine.submit(SONG))
    assert job.state == "failed" and job.failure is not None
    assert job.failure.message == "This is a bug: ZeroDivisionError: division by zero."
    assert (job.failure.type, job.failure.exit_code) == ("ZeroDivisionError", 1)


def test_what_was_chosen_and_is_ready_can_be_unloaded(engine: FakeEngine) -> None:
    engine.configure(ServiceConfig())
    engine.until(lambda: engine.state.status == "ready")
    engine.unload()
    assert engine.state.status == "empty"


def test_what_nobody_needs_for_a_while_is_unloaded(
    engine: FakeEngine, service: FakeService
) -> None:
    engine.configure(ServiceConfig(unload_after=0.001))
    until(lambda: engine.state.status == "ready")
    until(lambda: engine.state.status == "empty")
    assert engine.state.loaded is None and engine.state.failure is None
    engine.ended(engine.submit(SONG))  # and is loaded again when it is
    assert len(service.loads) == 2


def test_adapters_change_without_loading_again(engine: FakeEngine, service: FakeService) -> None:
    engine.ended(engine.submit(SONG))
    engine.configure(ServiceConfig(lora=("warm:0.5",)))
    until(lambda: engine.state.loaded is not None and engine.state.loaded.adapters != [])
    assert len(service.loads) == 1 and service.adapted == [ServiceConfig(lora=("warm:0.5",))]
    assert engine.state.loaded is not None
    assert engine.state.loaded.adapters == ["warm:0.5 acts."]
    job = engine.ended(engine.submit(SONG))
    assert job.config["lora"] == ["warm:0.5"] and len(service.loads) == 1


def test_an_adapter_that_cannot_be_had_leaves_the_next_choice_open(
    engine: FakeEngine, service: FakeService
) -> None:
    engine.ended(engine.submit(SONG))
    service.load_failure = ModelMissing("warm is not here.")
    engine.configure(ServiceConfig(lora=("warm",)))
    until(lambda: engine.state.status == "failed")
    assert engine.state.failure is not None and engine.state.failure.message == "warm is not here."
    service.load_failure = None
    engine.configure(ServiceConfig())
    until(lambda: engine.state.status == "ready")
    assert len(service.loads) == 1


def test_unloading_names_the_job_it_would_end(engine: FakeEngine, service: FakeService) -> None:
    service.step_seconds = 0.1
    job = engine.submit(SONG)
    engine.started(job)
    sentence = r"^Finish or cancel the running job first: text2music “x”\.$"
    with pytest.raises(Unavailable, match=sentence):
        engine.unload()
    engine.cancel(job.id)
    engine.ended(job)
    until(lambda: engine.state.status == "ready")
    engine.unload()
    assert engine.state.status == "empty" and engine.state.loaded is None
    assert engine.ended(engine.submit(SONG)).state == "done" and len(service.loads) == 2


def test_what_the_loaded_checkpoint_cannot_do_is_refused_before_it_waits(
    engine: FakeEngine,
) -> None:
    too_many = Text2Music(caption="x", steps=50)
    job = engine.ended(engine.submit(too_many))  # nothing was loaded that could have known
    assert job.state == "failed" and job.failure is not None and job.failure.field == "steps"
    with pytest.raises(InvalidRequest, match="Turbo models take 1–20 steps"):
        engine.submit(too_many)
    engine.configure(BASE)
    engine.submit(too_many)


def test_too_many_waiting_jobs_are_refused(
    engine: FakeEngine, service: FakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "MAX_WAITING", 2)
    service.step_seconds = 0.1
    first = engine.submit(SONG)
    engine.started(first)
    jobs = [engine.submit(SONG) for _ in range(2)]
    with pytest.raises(Unavailable, match="2 songs are already waiting"):
        engine.submit(SONG)
    engine.cancel(jobs[-1].id)
    assert engine.submit(SONG).state == "waiting"


def test_everyone_who_listens_is_told_of_every_change_in_order(
    engine: FakeEngine, service: FakeService
) -> None:
    changes: list[Change] = []
    deaf: list[Change] = []

    def breaks(change: Change) -> None:
        raise BrokenPipeError

    ends = [engine.subscribe(listener) for listener in (breaks, changes.append, deaf.append)]
    ends[2]()
    job = engine.ended(engine.submit(SONG))
    states = [change.state for change in changes if isinstance(change, Job)]
    assert list(dict.fromkeys(states)) == ["waiting", "running", "done"]
    statuses = [change.status for change in changes if isinstance(change, EngineState)]
    assert list(dict.fromkeys(statuses)) == ["loading", "ready"]
    assert deaf == [] and changes[-1] in (job, engine.state)


def test_what_changed_since_a_version_is_told_once(engine: FakeEngine) -> None:
    start, jobs = engine.since(0)
    assert list(jobs) == []
    job = engine.ended(engine.submit(SONG))
    version, jobs = engine.since(start)
    assert list(jobs) == [job] and version > start
    assert engine.since(version) == (version, [])


def test_plans_and_understandings_are_jobs_too(
    engine: FakeEngine, service: FakeService, tmp_path: Path
) -> None:
    planned = engine.ended(engine.submit(SONG, action="plan"))
    assert planned.outcome is not None and planned.outcome.plan is not None
    assert planned.outcome.plan["caption"] == "a dusty loop" and planned.outcome.takes == []
    song = Path(engine.ended(engine.submit(SONG)).outcome.takes[0].path)  # type: ignore
    heard = engine.ended(engine.submit(Recording(source_audio=song), action="understand"))
    assert heard.outcome is not None and heard.outcome.plan is not None
    assert heard.outcome.plan["key_scale"] == "E minor" and service.heard == [song]
    assert heard.name == f"understand “{song.name}”"
    with pytest.raises(AudioError, match=r"gone\.wav does not exist"):
        engine.submit(Recording(source_audio=tmp_path / "gone.wav"), action="understand")


def test_an_edit_of_a_copy_starts_from_our_own_song(
    engine: FakeEngine, service: FakeService, tmp_path: Path
) -> None:
    song = Path(engine.ended(engine.submit(SONG)).outcome.takes[0].path)  # type: ignore
    copy = tmp_path / "cache" / song.name
    copy.parent.mkdir()
    copy.write_bytes(song.read_bytes())
    job = engine.ended(engine.submit(Cover(caption="jazz", source_audio=copy)))
    assert job.request["source_audio"] == str(song) and job.outcome is not None
    assert job.outcome.takes[0].said == [
        "Harmony: 0.83 like the source (1 is the same, 0 unrelated).",
        "Compared with the source.",
    ]
    with pytest.raises(InvalidRequest, match="The region begins at 0:30"):
        engine.submit(Repaint(source_audio=copy, repainting_start=30))


def test_a_song_goes_where_it_is_sent_or_nowhere(engine: FakeEngine, tmp_path: Path) -> None:
    job = engine.ended(engine.submit(SONG, out=str(tmp_path / "a.ogg")))
    assert job.outcome is not None and (tmp_path / "a.ogg").is_file()
    assert job.request["format"] == "ogg" and (tmp_path / "a.json").is_file()
    with pytest.raises(InvalidRequest, match="exists already and is not overwritten"):
        engine.submit(SONG, out=str(tmp_path / "a.ogg"))
    with pytest.raises(InvalidRequest, match="cannot hold the format flac"):
        engine.submit(Text2Music(caption="x", format="flac"), out=str(tmp_path / "b.ogg"))
    job = engine.ended(engine.submit(SONG, out=""))
    assert job.outcome is not None and job.outcome.takes[0].path == ""
    assert not engine.output_dir.exists() and job.outcome.takes[0].sha256


def test_two_jobs_for_one_name_do_not_both_render(
    engine: FakeEngine, service: FakeService, tmp_path: Path
) -> None:
    service.step_seconds = 0.05
    jobs = [engine.submit(SONG, out=str(tmp_path / "a.flac")) for _ in range(2)]
    assert [engine.ended(job).state for job in jobs] == ["done", "failed"]
    assert len(service.requests) == 1


def test_closing_cancels_what_runs_and_keeps_what_waits(
    engine: FakeEngine, service: FakeService
) -> None:
    service.step_seconds = 0.1
    jobs = [engine.submit(SONG), engine.submit(SONG)]
    engine.started(jobs[0])
    engine.close()
    assert [engine.job(job.id).state for job in jobs] == ["cancelled", "waiting"]
    assert not engine.output_dir.exists()
    with pytest.raises(Unavailable, match="closed"):
        engine.submit(SONG)


def test_an_estimate_is_the_median_of_what_was_done_here(
    engine: FakeEngine, service: FakeService
) -> None:
    assert engine.estimate(SONG).seconds is None
    service.step_seconds, service.seconds = 0.02, None
    job = [engine.ended(engine.submit(SONG)) for _ in range(3)][-1]
    assert job.outcome is not None
    took = job.outcome.seconds["total"] - job.outcome.seconds["loading"]
    estimate = engine.estimate(SONG).seconds
    assert estimate is not None and 0.3 * took < estimate < 3 * took
    twice = engine.estimate(SONG.model_copy(update={"duration": 20.0})).seconds
    assert twice == pytest.approx(2 * estimate)
    steps = engine.estimate(SONG.model_copy(update={"steps": 16, "takes": 2})).seconds
    assert steps == pytest.approx(4 * estimate)
    source = Path(job.outcome.takes[0].path)
    assert engine.estimate(Cover(caption="jazz", source_audio=source)).seconds is None
    engine.configure(BASE)
    assert engine.estimate(SONG).seconds is None
