"""Downloads against a small hub of our own: planned, interrupted, resumed, refused, verified."""

import dataclasses
import errno
import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from acestep.checkpoints import download as downloads
from acestep.checkpoints.catalogue import Catalogue, Entry
from acestep.checkpoints.download import (
    DownloadPlan,
    DownloadProgress,
    HuggingFace,
    Listing,
    RemoteFile,
    Unreachable,
    download,
    plan,
    verify,
)
from acestep.checkpoints.locate import Checkpoints
from acestep.checkpoints.manifest import Manifest
from acestep.errors import Cancelled, CheckpointError, DownloadError, ModelMissing

REPO = "ACE-Step/Ace-Step1.5"
COMMIT = "c" * 40
WEIGHTS = save({"a": torch.arange(50_000.0)})
FILES = {
    "acestep-v15-turbo/config.json": b'{"model_type": "acestep", "is_turbo": true}',
    "acestep-v15-turbo/model.safetensors": WEIGHTS,
    "acestep-v15-turbo/silence_latent.pt": b"silence" * 1000,
    "acestep-v15-turbo/modeling_acestep_v15_turbo.py": b"print('code')",
    "acestep-v15-turbo/pytorch_model.bin": b"\x80pickle",
    "acestep-v15-turbo/extra/config.json": b"{}",
    "vae/config.json": b'{"downsampling_ratios": [2]}',
    "vae/diffusion_pytorch_model.safetensors": WEIGHTS,
    "Qwen3-Embedding-0.6B/config.json": b'{"model_type": "qwen3"}',
    "Qwen3-Embedding-0.6B/model.safetensors": WEIGHTS,
    "Qwen3-Embedding-0.6B/tokenizer.json": b"{}",
    "Qwen3-Embedding-0.6B/merges.txt": b"a b\n",
    "README.md": b"# hello",
}


def remote(path: str, content: bytes) -> RemoteFile:
    """As the hub lists it: SHA-256 of large files, git's hash of small ones."""
    large = path.endswith((".safetensors", ".pt"))
    git = hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()
    sha256 = hashlib.sha256(content).hexdigest() if large else None
    return RemoteFile(path, len(content), sha256, None if large else git)


class FakeHub:
    """A hub with the files above.

    Attributes:
        sends: what goes over the line, when it is not what was listed.
        breaks_after: bytes after which each connection is lost; None never.
        requests: (path, start) of every connection.
    """

    def __init__(self, *, reachable: bool = True, breaks_after: int | None = None) -> None:
        self.reachable = reachable
        self.breaks_after = breaks_after
        self.sends = dict(FILES)
        self.cache: dict[str, Path] = {}
        self.requests: list[tuple[str, int]] = []

    def listing(self, repo: str, revision: str) -> Listing:
        if not self.reachable:
            raise Unreachable("no route to host")
        assert repo == REPO
        return Listing(COMMIT, tuple(remote(path, content) for path, content in FILES.items()))

    def cached(self, repo: str, commit: str, path: str) -> Path | None:
        return self.cache.get(path)

    def chunks(self, repo: str, commit: str, path: str, start: int) -> Iterator[bytes]:
        assert (repo, commit) == (REPO, COMMIT)
        self.requests.append((path, start))
        if not self.reachable:
            raise Unreachable("no route to host")
        content = self.sends[path][start:]
        line = content if self.breaks_after is None else content[: self.breaks_after]
        for i in range(0, len(line), 10_000):
            yield line[i : i + 10_000]
        if len(line) < len(content):
            raise Unreachable("connection reset")


@pytest.fixture
def places(tmp_path: Path) -> Checkpoints:
    own = Catalogue.read()
    # The published hashes are of the published weights; the fake hub has others.
    models = {name: row.model_copy(update={"sha256": {}}) for name, row in own.models.items()}
    return Checkpoints(
        tmp_path / "checkpoints",
        catalogue=own.model_copy(update={"models": models}),
        cache=tmp_path / "cache",
        shipped=tmp_path / "shipped",
    )


def fetch(planned: DownloadPlan, hub: FakeHub) -> list[DownloadProgress]:
    seen: list[DownloadProgress] = []
    download(planned, seen.append, hub, retry_seconds=0)
    return seen


def row(places: Checkpoints, name: str, **changes: object) -> Checkpoints:
    """The same places with one catalogue row changed."""
    entry: Entry = places.catalogue.models[name].model_copy(update=changes)
    models = {**places.catalogue.models, name: entry}
    catalogue = places.catalogue.model_copy(update={"models": models})
    return Checkpoints(places.root, catalogue=catalogue, cache=Path("/nowhere"))


class TestPlan:
    def test_a_dit_comes_with_the_companions_it_lacks(self, places: Checkpoints) -> None:
        planned = plan("acestep-v15-turbo", places, FakeHub())
        names = {str(file.target.relative_to(places.root)) for file in planned.files}
        skipped = {"modeling_acestep_v15_turbo.py", "pytorch_model.bin", "README.md", "extra"}
        assert names == {path for path in FILES if not skipped & set(path.split("/"))}
        assert planned.size == planned.missing == sum(len(FILES[name]) for name in names)
        assert planned.present == planned.cached == 0
        assert planned.free > 0
        assert planned.folder == places.root / "acestep-v15-turbo"

    def test_the_commit_is_shown_and_whether_it_is_the_pinned_one(
        self, places: Checkpoints
    ) -> None:
        (model,) = plan("vae", places, FakeHub()).models
        assert (model.commit, model.pinned) == (COMMIT, False)
        (model,) = plan("vae", row(places, "vae", revision=COMMIT), FakeHub()).models
        assert model.pinned

    def test_companions_that_are_here_are_not_fetched_again(self, places: Checkpoints) -> None:
        fetch(plan("vae", places, FakeHub()), FakeHub())
        models = plan("acestep-v15-turbo", places, FakeHub()).models
        assert [model.name for model in models] == ["acestep-v15-turbo", "Qwen3-Embedding-0.6B"]

    def test_what_is_here_and_what_is_in_the_cache_is_counted(
        self, places: Checkpoints, tmp_path: Path
    ) -> None:
        fetch(plan("vae", places, FakeHub()), FakeHub())
        (places.root / "vae" / "config.json").unlink()
        hub = FakeHub()
        hub.cache["vae/config.json"] = tmp_path
        planned = plan("vae", places, hub)
        assert planned.present == len(WEIGHTS)
        assert planned.cached == planned.missing == len(FILES["vae/config.json"])

    def test_offline_says_which_files_go_where_and_what_to_run(self, places: Checkpoints) -> None:
        with pytest.raises(DownloadError) as caught:
            plan("acestep-v15-turbo", places, FakeHub(reachable=False))
        sentence = str(caught.value)
        assert "cannot be reached (no route to host)" in sentence
        assert "Put config.json, silence_latent.pt and model.safetensors (or its parts" in sentence
        assert f"into {places.root / 'acestep-v15-turbo'}" in sentence
        assert "ACE-Step/Ace-Step1.5/acestep-v15-turbo (commit 19671f4" in sentence
        assert "`acestep models download acestep-v15-turbo`" in sentence

    def test_what_ships_is_not_downloaded(self, places: Checkpoints) -> None:
        with pytest.raises(DownloadError, match="ships with the program"):
            plan("acestep-v15-nano-turbo", places, FakeHub())

    def test_an_unknown_name_gets_the_nearest_known_one(self, places: Checkpoints) -> None:
        with pytest.raises(ModelMissing, match="Did you mean acestep-v15-base"):
            plan("acestep-v15-bse", places, FakeHub())

    def test_a_repository_without_safetensors_is_refused(self, places: Checkpoints) -> None:
        empty = row(places, "vae", subfolder="acestep-v15-turbo/extra")
        with pytest.raises(DownloadError, match="holds no safetensors weights"):
            plan("vae", empty, FakeHub())


class TestDownload:
    def test_a_fresh_download_is_complete_recorded_and_usable(self, places: Checkpoints) -> None:
        planned = plan("acestep-v15-turbo", places, FakeHub())
        seen = fetch(planned, FakeHub())
        assert [p.done for p in seen] == sorted(p.done for p in seen)
        assert (seen[-1].done, seen[-1].total) == (planned.size, planned.size)
        folder = places.resolve("acestep-v15-turbo", "dit")
        assert (folder / "model.safetensors").read_bytes() == WEIGHTS
        assert not list(places.root.rglob("*.part")) and not list(places.root.rglob("*.py"))
        assert places.companions(folder).vae == places.root / "vae"
        manifest = Manifest.read(folder)
        assert manifest is not None and (manifest.repo, manifest.commit) == (REPO, COMMIT)
        assert manifest.files["model.safetensors"].sha256 == hashlib.sha256(WEIGHTS).hexdigest()
        assert set(manifest.files) == {"config.json", "model.safetensors", "silence_latent.pt"}
        assert verify(folder, places) == []

    def test_lost_connections_are_taken_up_where_they_broke(self, places: Checkpoints) -> None:
        hub = FakeHub(breaks_after=90_000)
        fetch(plan("vae", places, hub), hub)
        starts = [start for path, start in hub.requests if path.endswith(".safetensors")]
        assert starts == [0, 90_000, 180_000]
        assert places.resolve("vae", "vae").is_dir()

    def test_a_cancelled_download_goes_on_from_the_bytes_that_arrived(
        self, places: Checkpoints
    ) -> None:
        def cancel(progress: DownloadProgress) -> None:
            if progress.done > 100_000:
                raise Cancelled("Cancelled.")

        hub = FakeHub()
        with pytest.raises(Cancelled):
            download(plan("vae", places, hub), cancel, hub)
        part = places.root / "vae" / "diffusion_pytorch_model.safetensors.part"
        arrived = part.stat().st_size
        assert 0 < arrived < len(WEIGHTS)
        again = plan("vae", places, hub)
        assert again.present == arrived + len(FILES["vae/config.json"])
        hub.requests.clear()
        fetch(again, hub)
        assert hub.requests == [("vae/diffusion_pytorch_model.safetensors", arrived)]
        assert verify(places.root / "vae", places) == []

    def test_a_connection_lost_for_good_says_how_far_it_came(self, places: Checkpoints) -> None:
        hub = FakeHub(breaks_after=0)
        planned = plan("vae", places, hub)
        with pytest.raises(DownloadError, match=r"Stopped at 0\.0 MB of 0\.2 MB.*connection reset"):
            fetch(planned, hub)
        assert len(hub.requests) == downloads.RETRIES + 1

    def test_a_file_with_the_wrong_hash_is_thrown_away(self, places: Checkpoints) -> None:
        hub = FakeHub()
        hub.sends["vae/diffusion_pytorch_model.safetensors"] = bytes(len(WEIGHTS))
        with pytest.raises(DownloadError, match="does not match its checksum"):
            fetch(plan("vae", places, hub), hub)
        assert [path.name for path in (places.root / "vae").iterdir()] == ["config.json"]

    def test_small_files_are_checked_by_gits_hash(self, places: Checkpoints) -> None:
        hub = FakeHub()
        hub.sends["vae/config.json"] = FILES["vae/config.json"].replace(b"2", b"3")
        with pytest.raises(DownloadError, match=r"config\.json does not match its checksum"):
            fetch(plan("vae", places, hub), hub)

    def test_the_catalogues_hash_outweighs_the_hubs(self, places: Checkpoints) -> None:
        pinned = row(places, "vae", sha256={"diffusion_pytorch_model.safetensors": "0" * 64})
        with pytest.raises(DownloadError, match="does not match its checksum"):
            fetch(plan("vae", pinned, FakeHub()), FakeHub())

    def test_a_part_of_another_commit_is_fetched_anew(self, places: Checkpoints) -> None:
        folder = places.root / "vae"
        folder.mkdir(parents=True)
        (folder / "diffusion_pytorch_model.safetensors.part").write_bytes(b"other" * 100)
        hub = FakeHub()
        seen = fetch(plan("vae", places, hub), hub)
        assert ("vae/diffusion_pytorch_model.safetensors", 0) in hub.requests
        assert seen[-1].done == seen[-1].total
        assert verify(folder, places) == []

    def test_downloading_again_mends_a_corrupt_file_and_fetches_only_it(
        self, places: Checkpoints
    ) -> None:
        fetch(plan("vae", places, FakeHub()), FakeHub())
        path = places.root / "vae" / "diffusion_pytorch_model.safetensors"
        path.write_bytes(WEIGHTS[:-1] + b"x")
        hub = FakeHub()
        fetch(plan("vae", places, hub), hub)
        assert hub.requests == [("vae/diffusion_pytorch_model.safetensors", 0)]
        assert path.read_bytes() == WEIGHTS

    def test_what_the_hub_cache_has_is_copied(self, places: Checkpoints, tmp_path: Path) -> None:
        cached = tmp_path / "blob"
        cached.write_bytes(WEIGHTS)
        hub = FakeHub()
        hub.cache["vae/diffusion_pytorch_model.safetensors"] = cached
        fetch(plan("vae", places, hub), hub)
        assert hub.requests == [("vae/config.json", 0)]
        assert verify(places.root / "vae", places) == []

    def test_a_disk_that_is_too_small_is_told_before_anything_is_fetched(
        self, places: Checkpoints
    ) -> None:
        hub = FakeHub()
        planned = dataclasses.replace(plan("vae", places, hub), free=1000)
        with pytest.raises(DownloadError, match=r"not enough room in .*: 0\.2 MB are needed"):
            fetch(planned, hub)
        assert hub.requests == [] and not places.root.exists()

    def test_a_disk_that_fills_up_says_how_much_more_is_needed(self, places: Checkpoints) -> None:
        class FullDisk(FakeHub):
            def chunks(self, repo: str, commit: str, path: str, start: int) -> Iterator[bytes]:
                raise OSError(errno.ENOSPC, "No space left on device")

        with pytest.raises(DownloadError, match=r"Stopped at 0\.0 MB: no space left in .*needs"):
            fetch(plan("vae", places, FakeHub()), FullDisk())

    def test_weights_that_arrive_as_published_but_are_none_are_refused(
        self, places: Checkpoints
    ) -> None:
        class Wrong(FakeHub):
            def listing(self, repo: str, revision: str) -> Listing:
                path = "vae/diffusion_pytorch_model.safetensors"
                return Listing(COMMIT, (remote("vae/config.json", b"{}"), remote(path, b"zip")))

        hub = Wrong()
        hub.sends |= {
            "vae/config.json": b"{}",
            "vae/diffusion_pytorch_model.safetensors": b"zip",
        }
        with pytest.raises(DownloadError, match="arrived, but cannot be used"):
            fetch(plan("vae", places, hub), hub)


class TestVerify:
    def test_changed_and_missing_files_are_named(self, places: Checkpoints) -> None:
        fetch(plan("Qwen3-Embedding-0.6B", places, FakeHub()), FakeHub())
        folder = places.root / "Qwen3-Embedding-0.6B"
        (folder / "merges.txt").unlink()
        (folder / "tokenizer.json").write_text("[]")
        assert sorted(verify(folder, places)) == [
            "merges.txt is missing.",
            "tokenizer.json does not match its checksum. Download it again.",
        ]

    def test_a_folder_that_came_another_way_is_checked_against_the_catalogue(
        self, places: Checkpoints
    ) -> None:
        fetch(plan("vae", places, FakeHub()), FakeHub())
        folder = places.root / "vae"
        (folder / ".acestep.json").unlink()
        assert verify(folder, places) == []
        other = row(places, "vae", sha256={"diffusion_pytorch_model.safetensors": "0" * 64})
        (problem,) = verify(folder, other)
        assert problem.startswith("diffusion_pytorch_model.safetensors does not match")

    def test_without_any_record_the_headers_are_checked(self, places: Checkpoints) -> None:
        fetch(plan("vae", places, FakeHub()), FakeHub())
        folder = (places.root / "vae").rename(places.root / "mine")
        (folder / ".acestep.json").unlink()
        assert verify(folder, places) == []
        (folder / "diffusion_pytorch_model.safetensors").write_bytes(WEIGHTS[:-4])
        (problem,) = verify(folder, places)
        assert "is cut off" in problem

    def test_a_record_that_points_outside_its_folder_is_refused(self, places: Checkpoints) -> None:
        fetch(plan("vae", places, FakeHub()), FakeHub())
        path = places.root / "vae" / ".acestep.json"
        record = json.loads(path.read_text())
        record["files"]["../../secret"] = {"size": 1, "sha256": "0"}
        path.write_text(json.dumps(record))
        with pytest.raises(CheckpointError, match="outside its folder"):
            verify(path.parent, places)
        path.write_text("{")
        with pytest.raises(CheckpointError, match="is damaged"):
            verify(path.parent, places)


class HubHandler(BaseHTTPRequestHandler):
    """The two requests of the hub's protocol that a download makes."""

    ignores_ranges = False
    ranges: list[str | None]

    def do_GET(self) -> None:
        if self.path.startswith(f"/api/models/{REPO}/revision/"):
            siblings = [
                {
                    "rfilename": file.path,
                    "size": file.size,
                    "blobId": file.git_sha1 or "0" * 40,
                    **(
                        {"lfs": {"sha256": file.sha256, "size": file.size, "pointerSize": 1}}
                        if file.sha256
                        else {}
                    ),
                }
                for file in (remote(path, content) for path, content in FILES.items())
            ]
            self._send(200, json.dumps({"id": REPO, "sha": COMMIT, "siblings": siblings}).encode())
        elif self.path.startswith(f"/{REPO}/resolve/{COMMIT}/"):
            content = FILES[self.path.split(f"{COMMIT}/")[1]]
            asked = self.headers["Range"]
            self.ranges.append(asked)
            if asked and not self.ignores_ranges:
                self._send(206, content[int(asked.removeprefix("bytes=").removesuffix("-")) :])
            else:
                self._send(200, content)
        elif "gated" in self.path:
            self._send(403, b"{}", {"X-Error-Code": "GatedRepo"})
        elif "busy" in self.path:
            self._send(503, b"{}")
        else:
            self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})

    def _send(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def handler() -> type[HubHandler]:
    return type("Handler", (HubHandler,), {"ranges": []})


@pytest.fixture
def hub(handler: type[HubHandler], tmp_path: Path) -> Iterator[HuggingFace]:
    """The real client, talking to a server of this test."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield HuggingFace(f"http://127.0.0.1:{server.server_port}", cache=tmp_path / "cache")
        server.shutdown()
        thread.join()


class TestHuggingFace:
    @pytest.mark.parametrize("ignores_ranges", [False, True])
    def test_the_real_client_plans_resumes_and_verifies(
        self,
        places: Checkpoints,
        hub: HuggingFace,
        handler: type[HubHandler],
        ignores_ranges: bool,
    ) -> None:
        handler.ignores_ranges = ignores_ranges
        folder = places.root / "vae"
        folder.mkdir(parents=True)
        (folder / "diffusion_pytorch_model.safetensors.part").write_bytes(WEIGHTS[:70_001])
        planned = plan("vae", places, hub)
        assert planned.models[0].commit == COMMIT
        download(planned, None, hub, retry_seconds=0)
        assert handler.ranges == [None, "bytes=70001-"]
        assert (folder / "diffusion_pytorch_model.safetensors").read_bytes() == WEIGHTS
        assert verify(folder, places) == []

    def test_a_gated_repository_says_where_to_accept_its_terms(self, hub: HuggingFace) -> None:
        with pytest.raises(DownloadError, match=r"terms.*huggingface\.co/some/gated.*HF_TOKEN"):
            hub.listing("some/gated", "main")

    def test_a_repository_that_is_not_there_says_so(self, hub: HuggingFace) -> None:
        with pytest.raises(DownloadError, match="some/other is not on the hub"):
            hub.listing("some/other", "main")
        with pytest.raises(DownloadError, match="some/other is not on the hub"):
            next(hub.chunks("some/other", COMMIT, "config.json", 0))

    def test_a_busy_or_absent_hub_is_worth_another_try(self, hub: HuggingFace) -> None:
        with pytest.raises(Unreachable, match="503"):
            next(hub.chunks("some/busy", COMMIT, "config.json", 0))
        absent = HuggingFace("http://127.0.0.1:9")
        with pytest.raises(Unreachable):
            absent.listing(REPO, "main")

    def test_the_cache_is_asked_without_network(self, tmp_path: Path) -> None:
        snapshot = tmp_path / "models--ACE-Step--Ace-Step1.5" / "snapshots" / COMMIT / "vae"
        snapshot.mkdir(parents=True)
        (snapshot / "config.json").write_text("{}")
        offline = HuggingFace("http://127.0.0.1:9", cache=tmp_path)
        assert offline.cached(REPO, COMMIT, "vae/config.json") == snapshot / "config.json"
        assert offline.cached(REPO, COMMIT, "vae/other.json") is None
