"""Downloads in the background: their states, cancel and resume, speed and time left."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fake_hub import FILES, WEIGHTS, FakeHub, HubServer, empty_computer

from acestep.checkpoints.hub import HuggingFace, Listing
from acestep.engine.downloads import Download, Downloads, Speed
from acestep.engine.models import Checkpoints, check, verify
from acestep.errors import DownloadError, ModelMissing

MODEL = "acestep-v15-turbo"
CONFIG = FILES["vae/config.json"]
VAE_WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def places(tmp_path: Path) -> Checkpoints:
    return empty_computer(tmp_path)


@pytest.fixture
def server() -> Iterator[HubServer]:
    with HubServer() as running:
        yield running


@pytest.fixture
def downloads(server: HubServer, tmp_path: Path) -> Iterator[Downloads]:
    """The real client, talking to a server of this test."""
    running = Downloads(HuggingFace(server.url, cache=tmp_path / "cache"), retry_seconds=0)
    yield running
    server.go_on.set()
    running.close()


def wait(downloads: Downloads, name: str, until: Callable[[Download], bool]) -> Download:
    """The first row of a model that is as it should be."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        row = next(row for row in downloads.snapshot() if row.name == name)
        if until(row):
            return row
        if row.is_over:
            break
        time.sleep(0.005)
    raise AssertionError(f"{name} never came so far: {downloads.snapshot()}")


def wait_over(downloads: Downloads, name: str) -> Download:
    return wait(downloads, name, lambda row: row.is_over)


class TestDownloads:
    def test_a_model_comes_with_its_companions_and_is_present(
        self, places: Checkpoints, downloads: Downloads
    ) -> None:
        assert downloads.start(MODEL, places).state == "waiting"
        row = wait_over(downloads, MODEL)
        assert row.state == "done" and row.done == row.total > 3 * len(WEIGHTS)
        assert row.sentence == f"{MODEL} is in {row.folder}, and every file was checked."
        assert check(MODEL, "dit", places) is None
        assert verify(row.folder, places) == []

    def test_cancelled_in_the_middle_it_goes_on_from_there(
        self, places: Checkpoints, downloads: Downloads, server: HubServer
    ) -> None:
        server.stalls_after = 100_000
        downloads.start("vae", places)
        row = wait(downloads, "vae", lambda row: row.done >= 100_000 + len(CONFIG))
        assert (row.state, row.file) == ("downloading", VAE_WEIGHTS)
        assert row.sentence.startswith("0.1 MB of 0.2 MB")
        downloads.cancel("vae")
        (row,) = downloads.snapshot()  # at once, although the hub is silent
        assert row.state == "cancelled"
        assert row.sentence == "Stopped at 0.1 MB of 0.2 MB; the next download goes on from there."
        again = downloads.start("vae", places)
        assert again.state == "waiting"
        server.stalls_after = None
        server.go_on.set()
        row = wait_over(downloads, "vae")
        assert row.state == "done", row.sentence
        resumed = server.ranges[-1] or ""
        assert int(resumed.removeprefix("bytes=").removesuffix("-")) >= 100_000
        assert (places.root / "vae" / VAE_WEIGHTS).read_bytes() == WEIGHTS

    def test_one_runs_and_the_others_wait(
        self, places: Checkpoints, downloads: Downloads, server: HubServer
    ) -> None:
        server.stalls_after = 1000
        downloads.start("vae", places)
        wait(downloads, "vae", lambda row: row.done > 1000)
        downloads.start("Qwen3-Embedding-0.6B", places)
        downloads.start(MODEL, places)
        assert [row.state for row in downloads.snapshot()] == ["downloading", "waiting", "waiting"]
        downloads.cancel(MODEL)
        assert downloads.snapshot()[2].state == "cancelled"
        server.go_on.set()
        assert wait_over(downloads, "vae").state == "done"
        assert wait_over(downloads, "Qwen3-Embedding-0.6B").state == "done"
        assert not (places.root / MODEL).exists()

    def test_starting_twice_is_starting_once(
        self, places: Checkpoints, downloads: Downloads, server: HubServer
    ) -> None:
        server.stalls_after = 1000
        downloads.start("vae", places)
        wait(downloads, "vae", lambda row: row.done > 1000)
        assert downloads.start("vae", places).state == "downloading"
        server.go_on.set()
        wait_over(downloads, "vae")
        assert len(server.ranges) == 2

    def test_a_failure_is_a_sentence_and_the_next_try_may_work(self, places: Checkpoints) -> None:
        hub = FakeHub(reachable=False)
        downloads = Downloads(hub, retry_seconds=0)
        downloads.start("vae", places)
        row = wait_over(downloads, "vae")
        assert row.state == "failed" and "cannot be reached (no route to host)" in row.sentence
        hub.reachable = True
        downloads.start("vae", places)
        assert wait_over(downloads, "vae").state == "done"

    def test_a_bug_fails_its_download_and_not_the_next(
        self, places: Checkpoints, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class Buggy(FakeHub):
            def listing(self, repo: str, revision: str) -> Listing:
                if not first:
                    first.append("asked")
                    raise ZeroDivisionError
                return super().listing(repo, revision)

        first: list[str] = []
        logged: list[object] = []
        monkeypatch.setattr(threading, "excepthook", logged.append)
        downloads = Downloads(Buggy(), retry_seconds=0)
        downloads.start("vae", places)
        downloads.start("Qwen3-Embedding-0.6B", places)
        assert wait_over(downloads, "vae").sentence == (
            "The download of vae ended by a bug; the log says which."
        )
        assert wait_over(downloads, "Qwen3-Embedding-0.6B").state == "done"
        assert len(logged) == 1

    def test_what_cannot_be_fetched_is_refused_at_once(
        self, places: Checkpoints, downloads: Downloads
    ) -> None:
        with pytest.raises(ModelMissing, match="Did you mean vae"):
            downloads.start("vea", places)
        with pytest.raises(DownloadError, match="ships with the program"):
            downloads.start("acestep-v15-nano-turbo", places)
        assert downloads.snapshot() == [] and downloads.version == 0
        downloads.cancel("vae")  # nothing to stop

    def test_listeners_hear_every_state_until_they_leave(
        self, places: Checkpoints, downloads: Downloads
    ) -> None:
        part = places.root / "vae" / f"{VAE_WEIGHTS}.part"
        part.parent.mkdir(parents=True)
        part.write_bytes(WEIGHTS[:150_000])
        heard: list[Download] = []
        leave = downloads.subscribe(heard.append)
        downloads.start("vae", places)
        wait_over(downloads, "vae")
        downloads.close()  # the last report may come after the state
        states = list(dict.fromkeys(row.state for row in heard))
        assert states == ["waiting", "planning", "downloading", "checking", "done"]
        assert downloads.version == len(heard)
        assert all(Download.model_validate_json(row.model_dump_json()) == row for row in heard)
        leave()
        downloads.start("vae", places)
        wait_over(downloads, "vae")
        assert heard[-1].state == "done" and downloads.version > len(heard)

    def test_closing_stops_everything(
        self, places: Checkpoints, downloads: Downloads, server: HubServer
    ) -> None:
        server.stalls_after = 1000
        downloads.start("vae", places)
        downloads.start(MODEL, places)
        wait(downloads, "vae", lambda row: row.done > 1000)
        threading.Timer(0.1, server.go_on.set).start()
        downloads.close()
        assert [row.state for row in downloads.snapshot()] == ["cancelled", "cancelled"]
        assert not any(thread.name == "downloads" for thread in threading.enumerate())


class Clock:
    """Time that passes when told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class SteadyHub(FakeHub):
    """Sends 10,000 bytes every tenth of a second, by the clock."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.clock = clock

    def chunks(self, repo: str, commit: str, path: str, start: int) -> Iterator[bytes]:
        for chunk in super().chunks(repo, commit, path, start):
            self.clock.now += 0.1
            yield chunk


class TestSpeed:
    def test_a_resumed_download_counts_only_what_comes_now(self, places: Checkpoints) -> None:
        part = places.root / "vae" / f"{VAE_WEIGHTS}.part"
        part.parent.mkdir(parents=True)
        part.write_bytes(WEIGHTS[:80_000])
        clock = Clock()
        heard: list[Download] = []
        downloads = Downloads(SteadyHub(clock), retry_seconds=0, clock=clock)
        downloads.subscribe(heard.append)
        downloads.start("vae", places)
        assert wait_over(downloads, "vae").state == "done"
        told = [row for row in heard if row.state == "downloading" and row.speed is not None]
        assert told
        for row in told:  # the config and the last piece are shorter than the others
            assert row.speed == pytest.approx(100_000, rel=0.15)
            seconds = (row.total - row.done) / (row.speed or 0)
            assert row.seconds_left == pytest.approx(seconds)
        assert told[0].sentence.endswith(" · 0.1 MB/s · 1 s left")

    def test_it_is_that_of_the_last_seconds(self) -> None:
        speed = Speed()
        for second in range(100):
            speed.add(second, second * 1000)
        assert speed.now(99) == pytest.approx(1000)
        for second in range(100, 120):
            speed.add(second, 99_000 + (second - 99) * 50)
        assert speed.now(119) == pytest.approx(50)

    def test_it_falls_when_nothing_comes(self) -> None:
        speed = Speed()
        for tenth in range(50):
            speed.add(tenth / 10, tenth * 1000)
        assert speed.now(5) == pytest.approx(10_000, rel=0.05)
        assert (speed.now(10) or 0) < 6000
        assert speed.now(30) == 0

    def test_it_is_unknown_before_half_a_second(self) -> None:
        speed = Speed()
        assert speed.now(0) is None
        speed.add(0, 1000)
        assert speed.now(0.4) is None
        speed.add(0.5, 6000)
        assert speed.now(0.5) == pytest.approx(10_000)
