"""The real page around a fake service: driven through gradio_client and plain HTTP."""

import json
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import soundfile
from fake_engine import FakeEngine, FakeService, hum
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from loops import in_loop
from pages import OpenPage, free_port, open_one

from acestep.errors import InvalidRequest, OutOfMemory, PortBusy, Unavailable
from acestep.request import Text2Music
from acestep.ui import api, app
from acestep.ui.app import DEFAULT_PORT, RunningPage

SOON = 30.0

# Gradio's queue uses what pandas 3 has deprecated, on the server's thread.
pytestmark = pytest.mark.filterwarnings("ignore::pandas.errors.Pandas4Warning")


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A caller of one page that these tests share."""
    folder = tmp_path_factory.mktemp("shared")
    page = open_one(folder / "songs")
    yield client_of(page, folder)
    page.close()


def client_of(page: RunningPage, tmp_path: Path) -> Client:
    return in_loop(
        lambda: Client(
            page.url, verbose=False, analytics_enabled=False, download_files=tmp_path / "fetched"
        )
    )


def get(page: RunningPage, path: str, **headers: str) -> httpx.Response:
    return httpx.get(f"{page.url.rstrip('/')}/{path}", headers=headers)


def config(page: RunningPage) -> dict[str, Any]:
    return get(page, "config").json()


def test_what_opens_the_page_imports_neither_gradio_nor_torch() -> None:
    assert imported_by("acestep.ui.app") == []


def test_the_page_itself_imports_no_torch() -> None:
    assert imported_by("acestep.ui.page") == ["gradio"]


def imported_by(module: str) -> list[str]:
    code = f"import sys, {module}; print(*[n for n in ('gradio', 'torch') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_a_request_comes_back_as_a_file_with_its_recipe(client: Client) -> None:
    (take,) = client.predict({"caption": "lo-fi", "duration": 11, "seed": 5}, api_name="/generate")
    sound = soundfile.info(take["file"])
    assert (sound.samplerate, sound.channels, sound.frames) == (48_000, 2, 11 * 48_000)
    assert (take["seed"], take["duration"], take["take"]) == (5, 11, 0)
    assert take["recipe"]["request"]["caption"] == "lo-fi"
    assert take["seconds"]["rendering"] > 0


@pytest.mark.parametrize(
    ("request_", "sentence"),
    [
        ({"caption": "x", "bpm": 12}, "BPM must be a whole number from 30 to 300 (you gave 12)."),
        ({"caption": {"a": 1}}, "Music Caption must be text (you gave {'a': 1})."),
        ({}, "Describe the music you want, or write lyrics."),
        ({"caption": "x", "bmp": 90}, "Text2Music has no field 'bmp'. Did you mean 'bpm'?"),
        ({"caption": "x", "task": "dance"}, "Task must be one of"),
        ({"caption": "x", "reference_audio": "/etc/passwd"}, "Reference Audio must be uploaded"),
        ("lo-fi", "A request is a JSON object"),
    ],
)
def test_a_bad_request_ends_in_its_sentence(
    client: Client, request_: object, sentence: str
) -> None:
    with pytest.raises(AppError, match=re.escape(sentence)):
        client.predict(request_, api_name="/generate")


def raw_call(page: RunningPage, request_json: str) -> str:
    """What the endpoint answers to JSON that gradio_client would not send."""
    call = f"{page.url}gradio_api/call/generate"
    headers = {"content-type": "application/json"}
    event = httpx.post(call, content=f'{{"data": [{request_json}]}}', headers=headers).json()
    return httpx.get(f"{call}/{event['event_id']}", timeout=SOON).text


def test_infinity_in_raw_json_ends_in_the_same_sentence(open_page: OpenPage) -> None:
    answer = raw_call(open_page(), '{"caption": "x", "duration": 1e999}')
    assert "Audio Duration must be a number from 10 to 600 s (you gave inf)." in answer


def test_an_uploaded_reference_reaches_the_service(open_page: OpenPage, tmp_path: Path) -> None:
    service = FakeService()
    voice = tmp_path / "voice.wav"
    soundfile.write(voice, hum(10, 1).T.numpy(), 48_000)
    request = {"caption": "x", "duration": 10, "reference_audio": handle_file(str(voice))}
    client_of(open_page(service), tmp_path).predict(request, api_name="/generate")
    reference = service.requests[0].reference_audio
    assert reference is not None and reference != voice
    assert soundfile.info(reference).frames == 10 * 48_000


@pytest.mark.parametrize(
    "value",
    [
        "/etc/passwd",
        {"path": "/etc/passwd"},
        {"path": "/etc/passwd", "meta": {"_type": "other"}},
        ["/etc/passwd"],
        7,
    ],
)
def test_a_file_of_this_computer_cannot_be_named(value: object) -> None:
    with pytest.raises(InvalidRequest, match="must be uploaded"):
        api.read({"caption": "x", "reference_audio": value})


def test_a_file_marked_as_uploaded_that_was_not_is_refused(
    open_page: OpenPage, tmp_path: Path
) -> None:
    service = FakeService()
    own = tmp_path / "private.wav"
    own.write_bytes(b"RIFF")
    forged = {"path": str(own), "meta": {"_type": "gradio.FileData"}}
    request = json.dumps({"caption": "x", "reference_audio": forged})
    assert "it was not uploaded by a user" in raw_call(open_page(service), request)
    assert service.requests == []


def test_a_caller_that_goes_away_ends_its_run_and_the_next_one_works(
    open_page: OpenPage, tmp_path: Path
) -> None:
    service = FakeService(step_seconds=0.5)
    page = open_page(service)
    engine = page.engine
    assert isinstance(engine, FakeEngine)
    client = client_of(page, tmp_path)
    call = client.submit({"caption": "x", "steps": 20}, api_name="/generate")
    engine.until(lambda: bool(service.requests))
    call.cancel()
    assert engine.ended(engine.jobs()[0]).state == "cancelled"
    service.step_seconds = 0.01
    assert len(client.predict({"caption": "x", "duration": 10}, api_name="/generate")) == 1


def test_a_run_that_fails_tells_the_caller_why(open_page: OpenPage, tmp_path: Path) -> None:
    page = open_page(FakeService(failure=OutOfMemory("Out of memory while rendering.")))
    with pytest.raises(AppError, match="Out of memory while rendering"):
        client_of(page, tmp_path).predict({"caption": "x"}, api_name="/generate")


def test_only_the_documented_endpoint_is_public(open_page: OpenPage) -> None:
    info = get(open_page(), "gradio_api/info").json()
    assert list(info["named_endpoints"]) == ["/generate"]
    assert info["unnamed_endpoints"] == {}
    assert "Text2Music" in json.dumps(info["named_endpoints"]["/generate"])


def test_everything_a_person_reads_is_there(open_page: OpenPage) -> None:
    parts = config(open_page())["components"]
    labels = {str(part["props"].get("label")) for part in parts}
    assert {field.title for name, field in Text2Music.model_fields.items() if field.title} - {
        "Plan"
    } <= labels
    ids = [str(part["props"].get("elem_id")) for part in parts if part["props"].get("elem_id")]
    assert {"caption", "lyrics", "generate", "think", "lm-temperature"} <= set(ids)
    assert {"repaint-source-audio", "repaint-start", "repaint-end", "cover-strength"} <= set(ids)
    assert len(ids) == len(set(ids))
    values = [str(part["props"].get("value")) for part in parts]
    for name in ("cancel", "progress", "jobs"):
        assert sum(f'id="{name}"' in value for value in values) == 1
    assert sum(value.count("<h1") + value.startswith("# ") for value in values) == 1


def test_the_page_asks_for_nothing_elsewhere_and_keeps_its_doors_shut(open_page: OpenPage) -> None:
    page = open_page()
    settings = config(page)
    assert settings["analytics_enabled"] is False
    assert settings["footer_links"] == ["api", "settings"]
    assert settings["max_file_size"] == 256 * 2**20
    assert get(page, "monitoring").status_code in (403, 404)
    assert get(page, "gradio_api/file=/etc/passwd").status_code in (403, 404)


def test_a_foreign_host_or_origin_is_refused_by_the_whole_page(open_page: OpenPage) -> None:
    page = open_page()
    assert get(page, "config", host="evil.example").status_code == 400
    upload = httpx.post(
        f"{page.url}gradio_api/upload",
        files={"files": ("x.wav", b"RIFF")},
        headers={"origin": "https://evil.example"},
    )
    assert upload.status_code == 403
    assert get(page, "").status_code == 200


def test_a_named_port_that_is_taken_is_refused(open_page: OpenPage) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(PortBusy, match=f"Port {port} is in use"):
            open_page(port=port)


def test_without_a_named_port_the_next_free_one_is_taken(open_page: OpenPage) -> None:
    first, second = open_page(port=None), open_page(port=None)
    ports = [int(page.url.rstrip("/").rpartition(":")[2]) for page in (first, second)]
    assert DEFAULT_PORT <= ports[0] < ports[1]


@pytest.mark.parametrize("options", [{"host": "0.0.0.0"}, {"share": True}])
def test_a_page_others_can_reach_needs_a_password(
    open_page: OpenPage, options: dict[str, Any]
) -> None:
    with pytest.raises(Unavailable, match="--auth USER:PASSWORD"):
        open_page(**options)


def test_a_password_is_asked_for(open_page: OpenPage) -> None:
    page = open_page(auth=("me", "secret"))
    assert get(page, "config").status_code == 401
    with httpx.Client(base_url=page.url) as browser:
        wrong = browser.post("login", data={"username": "me", "password": "guess"})
        assert wrong.status_code == 400
        right = browser.post("login", data={"username": "me", "password": "secret"})
        assert right.status_code == 200
        assert browser.get("config").status_code == 200


def test_the_live_list_and_the_songs_are_behind_the_password_too(open_page: OpenPage) -> None:
    page = open_page(auth=("me", "secret"))
    engine = page.engine
    assert isinstance(engine, FakeEngine)
    done = engine.ended(engine.submit(Text2Music(caption="x", duration=10)))
    closed = ("live", f"live/song/{done.id}/0", f"live/recipe/{done.id}/0")
    assert [get(page, path).status_code for path in closed] == [401] * 3
    for verb in ("cancel", "rerun"):
        assert httpx.post(f"{page.url}live/{verb}", json={"id": done.id}).status_code == 401
    with httpx.Client(base_url=page.url) as browser:
        browser.post("login", data={"username": "me", "password": "secret"})
        assert [browser.get(path).status_code for path in closed] == [200] * 3


def test_a_page_without_a_password_shows_its_songs_to_itself_alone(open_page: OpenPage) -> None:
    page = open_page()
    assert get(page, "live").status_code == 200
    foreign = httpx.post(
        f"{page.url}live/cancel", json={"id": "x"}, headers={"origin": "https://evil.example"}
    )
    assert foreign.status_code == 403
    assert get(page, "live", host="evil.example").status_code == 400


def test_the_songs_folder_is_not_open_to_the_page(open_page: OpenPage) -> None:
    page = open_page()
    engine = page.engine
    assert isinstance(engine, FakeEngine)
    done = engine.ended(engine.submit(Text2Music(caption="x", duration=10)))
    assert done.outcome is not None
    answer = get(page, f"gradio_api/file={done.outcome.takes[0].path}")
    assert answer.status_code in (403, 404)


def test_the_port_answers_before_the_page_is_built(
    open_page: OpenPage, monkeypatch: pytest.MonkeyPatch
) -> None:
    from acestep.ui import page as built

    gate, mount = threading.Event(), built.mount

    def slow(*options: Any) -> Any:
        gate.wait(SOON)
        return mount(*options)

    monkeypatch.setattr(built, "mount", slow)
    page = open_page(is_built=False)
    assert "The page is being built" in get(page, "").text
    assert get(page, "live").status_code == 503
    gate.set()
    page.until_ready(SOON)
    assert "gradio_config" in get(page, "").text


def test_waiting_raises_what_kept_the_page_from_being_built(
    open_page: OpenPage, monkeypatch: pytest.MonkeyPatch
) -> None:
    from acestep.ui import page as built

    def broken(*options: Any) -> Any:
        raise ImportError("no such component")

    monkeypatch.setattr(built, "mount", broken)
    page = open_page(is_built=False)
    with pytest.raises(ImportError, match="no such component"):
        page.wait()
    with pytest.raises(httpx.ConnectError):
        get(page, "")


def test_an_engine_that_cannot_be_made_leaves_no_port_taken(tmp_path: Path) -> None:
    port = free_port()

    def make() -> FakeEngine:
        raise Unavailable("There is no such folder.")

    with pytest.raises(Unavailable, match="no such folder"):
        app.launch(make, output_dir=tmp_path, port=port)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", port))


def test_an_address_that_is_not_ours_is_said(open_page: OpenPage) -> None:
    with pytest.raises(Unavailable, match="cannot listen on 192\\.0\\.2\\.1, port"):
        open_page(host="192.0.2.1", auth=("me", "secret"))


@pytest.fixture
def unbuilt(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The splash is all that these tests look at."""
    from acestep.ui import page as built

    gate = threading.Event()
    monkeypatch.setattr(built, "mount", lambda *options: gate.wait(SOON))
    yield
    gate.set()


def test_a_public_link_is_the_pages_address(
    open_page: OpenPage, unbuilt: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gradio import networking

    def tunnel(host: str, port: int, *secrets: Any) -> str:
        assert "The page is being built" in httpx.get(f"http://{host}:{port}/").text
        return "https://1234.gradio.live"

    monkeypatch.setattr(networking, "setup_tunnel", tunnel)
    page = open_page(is_built=False, share=True, auth=("me", "secret"))
    assert page.url == "https://1234.gradio.live"


def test_a_public_link_that_cannot_be_made_is_said_and_nothing_stays_open(
    open_page: OpenPage, unbuilt: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gradio import networking

    def tunnel(*options: Any) -> str:
        raise RuntimeError("Could not get share link from Gradio API Server.")

    monkeypatch.setattr(networking, "setup_tunnel", tunnel)
    port = free_port()
    with pytest.raises(Unavailable, match="No public link could be made: Could not get"):
        open_page(port=port, share=True, auth=("me", "secret"))
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://127.0.0.1:{port}/")


def test_waiting_ends_when_the_page_is_closed(open_page: OpenPage) -> None:
    page = open_page()
    waiting = threading.Thread(target=page.wait)
    waiting.start()
    page.close()
    waiting.join(SOON)
    assert not waiting.is_alive()
    with pytest.raises(httpx.ConnectError):
        get(page, "config")
