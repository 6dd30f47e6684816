"""A hub with a few small models: as an object, and as a server on the loopback."""

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Self

import torch
from safetensors.torch import save

from acestep.checkpoints.catalogue import Catalogue
from acestep.checkpoints.hub import Listing, RemoteFile, Unreachable
from acestep.checkpoints.locate import Checkpoints

REPO = "ACE-Step/Ace-Step1.5"
COMMIT = Catalogue.read().models["vae"].revision or ""
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


class HubServer:
    """The two requests of the hub's protocol that a download makes, on the loopback.

    Attributes:
        says: a page that every unknown address answers with; None for the hub's own errors.
        ranges: the Range header of every file request.
        stalls_after: bytes of a file after which its connection waits until `go_on` is set; None
            never.
    """

    def __init__(self) -> None:
        self.ranges: list[str | None] = []
        self.says: bytes | None = None
        self.ignores_ranges = False
        self.stalls_after: int | None = None
        self.go_on = threading.Event()
        handler = type("Handler", (HubHandler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.go_on.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class HubHandler(BaseHTTPRequestHandler):
    hub: HubServer

    def do_GET(self) -> None:
        if self.path.startswith(f"/api/models/{REPO}/revision/"):
            files = [remote(path, content) for path, content in FILES.items()]
            listing = {"id": REPO, "sha": COMMIT, "siblings": [sibling(file) for file in files]}
            self._send(200, json.dumps(listing).encode())
        elif self.path.startswith(f"/{REPO}/resolve/{COMMIT}/"):
            content = FILES[self.path.split(f"{COMMIT}/")[1]]
            asked = self.headers["Range"]
            self.hub.ranges.append(asked)
            if asked and not self.hub.ignores_ranges:
                start = int(asked.removeprefix("bytes=").removesuffix("-"))
                self._send(206, content[start:], until=self.hub.stalls_after)
            else:
                self._send(200, content, until=self.hub.stalls_after)
        elif self.hub.says is not None:
            self._send(200, self.hub.says, {"Content-Type": "text/html; charset=utf-8"})
        elif "gated" in self.path:
            self._send(403, b"{}", {"X-Error-Code": "GatedRepo"})
        elif "busy" in self.path:
            self._send(503, b"{}")
        else:
            self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})

    def _send(
        self,
        status: int,
        content: bytes,
        headers: dict[str, str] | None = None,
        until: int | None = None,
    ) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(content[:until])
        if until is not None and until < len(content):
            self.hub.go_on.wait()
            self.wfile.write(content[until:])

    def log_message(self, format: str, *args: object) -> None:
        pass


def sibling(file: RemoteFile) -> dict[str, object]:
    """A file as the hub's JSON has it."""
    large = {"lfs": {"sha256": file.sha256, "size": file.size, "pointerSize": 1}}
    return {
        "rfilename": file.path,
        "size": file.size,
        "blobId": file.git_sha1 or "0" * 40,
        **(large if file.sha256 else {}),
    }


def empty_computer(folder: Path) -> Checkpoints:
    """No models, no cache, nothing that ships; and a catalogue without the published hashes, which
    are of the published weights."""
    own = Catalogue.read()
    models = {name: row.model_copy(update={"sha256": {}}) for name, row in own.models.items()}
    return Checkpoints(
        folder / "checkpoints",
        catalogue=own.model_copy(update={"models": models}),
        cache=folder / "cache",
        shipped=folder / "shipped",
    )
