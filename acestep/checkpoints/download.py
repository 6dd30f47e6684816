"""Downloads: what would come, then getting it, then checking it.

Files come from a pinned commit, go into an ordinary folder under the checkpoints' root, and are
taken only when their hash is the published one. An interrupted file stays as `NAME.part` and is
continued by the next download, also in another process; the hub client's own (huggingface_hub 2.4)
would start again from nothing there.
"""

import errno
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from acestep.checkpoints.catalogue import COMMIT, Entry
from acestep.checkpoints.files import REQUIRED, SILENCE_FILE, STEMS, Kind, size_text
from acestep.checkpoints.folder import problems
from acestep.checkpoints.hub import Hub, HuggingFace, RemoteFile, Unreachable
from acestep.checkpoints.locate import Checkpoints
from acestep.checkpoints.manifest import MANIFEST_FILE, FileRecord, Manifest
from acestep.errors import CheckpointError, DownloadError, ModelMissing

# Weights, configurations and tokenizers. Never code; the one pickle is read with weights_only.
WANTED = re.compile(rf"[\w.-]+\.(safetensors|json|txt|jinja)|{re.escape(SILENCE_FILE)}", re.ASCII)
CHUNK_BYTES = 1024**2  # read from disk at once
RETRIES = 5  # in a row without a byte arriving


@dataclass(frozen=True)
class PlannedFile:
    """One file to have. `present` bytes are in the folder already, whole or as a part."""

    remote: RemoteFile
    target: Path
    present: int
    cached: Path | None

    @property
    def part(self) -> Path:
        return self.target.with_name(self.target.name + ".part")


@dataclass(frozen=True)
class PlannedModel:
    """One folder to have; `commit` is what the catalogue's revision means."""

    name: str
    kind: Kind
    repo: str
    subfolder: str
    commit: str
    folder: Path
    files: tuple[PlannedFile, ...]


@dataclass(frozen=True)
class DownloadPlan:
    """A model and the companions it lacks: what would be fetched, and whether it fits.

    Attributes:
        free: bytes free on the disk of the target folder.
    """

    name: str
    folder: Path
    models: tuple[PlannedModel, ...]
    free: int

    @property
    def files(self) -> tuple[PlannedFile, ...]:
        return tuple(file for model in self.models for file in model.files)

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.remote.size for file in self.files)

    @property
    def present(self) -> int:
        """Bytes of them that are in their folders already."""
        return sum(file.present for file in self.files)

    @property
    def cached(self) -> int:
        """Bytes of them that will be copied from the Hugging Face cache."""
        missing = (file for file in self.files if file.cached and not file.present)
        return sum(file.remote.size for file in missing)

    @property
    def missing(self) -> int:
        """Bytes that the disk must still take."""
        return self.size - self.present


@dataclass(frozen=True)
class DownloadProgress:
    """`done` of `total` bytes of the whole plan are here and checked.

    Attributes:
        file: the one being fetched or checked.
        fetched: bytes that this download has brought; those that were here are not among them.
        missing: bytes that it has yet to bring.
    """

    file: str
    done: int
    total: int
    fetched: int = 0
    missing: int = 0


def plan(name: str, places: Checkpoints, hub: Hub | None = None) -> DownloadPlan:
    """Ask the hub what a download of `name` would fetch; a DiT's missing companions come with it.

    Raises:
        ModelMissing: nobody knows that name.
        DownloadError: the model ships with the program, or the hub cannot be asked; then the
            sentence says which files to put where by hand.
    """
    hub = hub or HuggingFace()
    models = tuple(_plan_model(n, places, hub) for n in to_download(name, places))
    return DownloadPlan(name, places.root / name, models, _free_bytes(places.root))


def to_download(name: str, places: Checkpoints) -> list[str]:
    """`name` and the companions it lacks.

    Raises:
        ModelMissing: nobody knows that name.
        DownloadError: the model ships with the program.
    """
    entry = places.catalogue.models.get(name)
    if entry is None:
        raise ModelMissing(places.missing(name))
    if entry.repo is None:
        raise DownloadError(f"{name} ships with the program: there is nothing to download.")
    companions = places.catalogue.with_companions(name)[1:]
    return [name, *(n for n in companions if not _usable(places, n))]


def download(
    plan: DownloadPlan,
    on_progress: Callable[[DownloadProgress], None] | None = None,
    hub: Hub | None = None,
    *,
    retry_seconds: float = 1.0,
) -> Path:
    """Fetch what the plan says and check every file; files that are there are checked, too.

    Interrupted, by an exception that `on_progress` raises or otherwise, it keeps what has arrived;
    the next download of the same model goes on from there.

    Args:
        on_progress: called with every piece that arrives or is checked, and before a lost
            connection is tried again.
        retry_seconds: pause before a lost connection is tried again.

    Returns:
        the model's folder.

    Raises:
        DownloadError: the disk is too small, the connection was lost for good, or a file is not
            the published one.
    """
    if plan.missing > plan.free:
        raise DownloadError(
            f"There is not enough room in {plan.folder.parent}: {size_text(plan.missing)} are "
            f"needed, {size_text(plan.free)} are free."
        )
    meter = _Meter(plan, on_progress)
    fetch = _Fetch(hub or HuggingFace(), meter, retry_seconds)
    for model in plan.models:
        try:
            model.folder.mkdir(parents=True, exist_ok=True)
            records = {file.target.name: fetch(model, file) for file in model.files}
            _write_manifest(model, records)
        except OSError as error:
            raise _disk_error(error, model.folder, meter) from error
    return plan.folder


def verify(
    folder: Path,
    places: Checkpoints | None = None,
    on_progress: Callable[[DownloadProgress], None] | None = None,
) -> list[str]:
    """Read every file of a model again and list what is wrong with it, as sentences.

    Files are compared with the hashes that the download left in the folder, or else with those in
    the catalogue. Where neither knows a file, its header is checked.

    Raises:
        CheckpointError: the download's record is itself damaged.
    """
    places = places or Checkpoints()
    entry = places.entry(folder)
    manifest = Manifest.read(folder)
    expected = dict(entry.sha256) if entry else {}
    if manifest is not None:
        expected = {name: record.sha256 for name, record in manifest.files.items()}
    found = problems(folder, places.kind(folder))
    sizes = {n: (folder / n).stat().st_size for n in expected if (folder / n).is_file()}
    total, done = sum(sizes.values()), 0
    for name, digest in expected.items():
        if name not in sizes:
            if manifest is not None and f"{name} is missing." not in found:
                found.append(f"{name} is missing.")
            continue
        hasher = hashlib.sha256()
        for chunk in _read(folder / name):
            hasher.update(chunk)
            done += len(chunk)
            if on_progress is not None:
                on_progress(DownloadProgress(name, done, total))
        if hasher.hexdigest() != digest:
            found.append(f"{name} does not match its checksum. Download it again.")
    return found


class _Meter:
    """Counts the bytes of a plan that are fetched and checked."""

    def __init__(
        self, plan: DownloadPlan, on_progress: Callable[[DownloadProgress], None] | None
    ) -> None:
        self.total = plan.size
        self.done = 0
        self._fetched = 0
        self._unread = plan.present  # bytes that are here, of files whose turn has not come
        self._on_progress = on_progress

    def begin(self, file: PlannedFile) -> None:
        self._unread -= file.present

    def checked(self, file: PlannedFile, count: int) -> None:
        self.done += count
        self.report(file)

    def fetched(self, file: PlannedFile, count: int) -> None:
        self._fetched += count
        self.checked(file, count)

    def thrown_away(self, count: int) -> None:
        self.done -= count

    def report(self, file: PlannedFile) -> None:
        if self._on_progress is not None:
            missing = max(0, self.total - self.done - self._unread)
            name = file.target.name
            progress = DownloadProgress(name, self.done, self.total, self._fetched, missing)
            self._on_progress(progress)


class _Hasher:
    """Both of a file's hashes while its bytes pass: SHA-256, and git's for files without one."""

    def __init__(self, remote: RemoteFile) -> None:
        self._remote = remote
        self._sha256 = hashlib.sha256()
        self._git = hashlib.sha1(f"blob {remote.size}\0".encode(), usedforsecurity=False)
        self.count = 0

    def update(self, chunk: bytes) -> None:
        self._sha256.update(chunk)
        if self._remote.sha256 is None:
            self._git.update(chunk)
        self.count += len(chunk)

    @property
    def matches(self) -> bool:
        if self.count != self._remote.size:
            return False
        if self._remote.sha256 is not None:
            return self._sha256.hexdigest() == self._remote.sha256
        return self._git.hexdigest() == self._remote.git_sha1

    @property
    def record(self) -> FileRecord:
        return FileRecord(size=self.count, sha256=self._sha256.hexdigest())


class _Fetch:
    """Brings one file after another to its place, hashing as the bytes arrive."""

    def __init__(self, hub: Hub, meter: _Meter, retry_seconds: float) -> None:
        self._hub = hub
        self._meter = meter
        self._retry_seconds = retry_seconds

    def __call__(self, model: PlannedModel, file: PlannedFile) -> FileRecord:
        self._meter.begin(file)
        if file.target.is_file():
            hasher = self._hash(file, file.target)
            if hasher.matches:
                return hasher.record
            self._forget(hasher, file.target)
        for _ in range(2):  # a part may be of another commit: then once more, from nothing
            hasher = self._hash(file, file.part)
            resumed = hasher.count > 0
            self._complete(model, file, hasher)
            if hasher.matches:
                file.part.replace(file.target)
                return hasher.record
            self._forget(hasher, file.part)
            if not resumed:
                break
        raise DownloadError(
            f"{file.target.name} does not match its checksum: what {model.repo} sent is not the "
            "published file. It was thrown away; try again, or from another network."
        )

    def _hash(self, file: PlannedFile, path: Path) -> _Hasher:
        hasher = _Hasher(file.remote)
        if path.is_file():
            for chunk in _read(path):
                hasher.update(chunk)
                self._meter.checked(file, len(chunk))
        return hasher

    def _complete(self, model: PlannedModel, file: PlannedFile, hasher: _Hasher) -> None:
        """Append what the part lacks, through as many connections as it takes."""
        failures = 0
        while hasher.count < file.remote.size:
            before = hasher.count
            why = "it ended early"
            try:
                self._append(model, file, hasher)
            except Unreachable as error:
                why = str(error)
            failures = failures + 1 if hasher.count == before else 0
            if failures > RETRIES:
                raise DownloadError(
                    f"Stopped at {size_text(self._meter.done)} of {size_text(self._meter.total)}: "
                    f"the connection was lost ({why}). Run the download again to go on from there."
                )
            if hasher.count < file.remote.size:
                self._meter.report(file)
                time.sleep(self._retry_seconds)

    def _append(self, model: PlannedModel, file: PlannedFile, hasher: _Hasher) -> None:
        if file.cached is not None:
            chunks = _read(file.cached, hasher.count)
        else:
            chunks = self._hub.chunks(model.repo, model.commit, file.remote.path, hasher.count)
        with file.part.open("ab") as part:
            for chunk in chunks:
                part.write(chunk)
                hasher.update(chunk)
                self._meter.fetched(file, len(chunk))
                if hasher.count > file.remote.size:
                    break  # of a file that never ends the disk would be full
            part.flush()
            os.fsync(part.fileno())

    def _forget(self, hasher: _Hasher, path: Path) -> None:
        path.unlink(missing_ok=True)
        self._meter.thrown_away(hasher.count)


def _plan_model(name: str, places: Checkpoints, hub: Hub) -> PlannedModel:
    entry = places.catalogue.models[name]
    folder = places.root / name
    repo, revision = entry.repo or "", entry.revision or "main"
    try:
        listing = hub.listing(repo, revision)
    except Unreachable as error:
        raise DownloadError(_by_hand(name, entry, folder, error)) from error
    if COMMIT.fullmatch(revision) and listing.commit != revision:
        raise DownloadError(
            f"The hub answered with commit {listing.commit[:12]} of {repo}, but {revision[:12]} "
            "was asked for. Nothing was downloaded."
        )
    files = []
    for remote in listing.files:
        where, _, file_name = remote.path.rpartition("/")
        if where == entry.subfolder and WANTED.fullmatch(file_name):
            digest = entry.sha256.get(file_name, remote.sha256)
            if digest is None and remote.git_sha1 is None:
                raise DownloadError(
                    f"The hub tells no checksum of {remote.path} in {repo}, so nothing could tell "
                    "whether the right file came. Nothing was downloaded."
                )
            known = RemoteFile(remote.path, remote.size, digest, remote.git_sha1)
            cached = hub.cached(repo, listing.commit, remote.path)
            target = folder / file_name
            files.append(PlannedFile(known, target, _present(target, remote.size), cached))
    if not any(file.target.suffix == ".safetensors" for file in files):
        raise DownloadError(f"{repo} holds no safetensors weights for {name}.")
    return PlannedModel(
        name=name,
        kind=entry.kind,
        repo=repo,
        subfolder=entry.subfolder,
        commit=listing.commit,
        folder=folder,
        files=tuple(files),
    )


def _by_hand(name: str, entry: Entry, folder: Path, error: Unreachable) -> str:
    source = "/".join(part for part in (entry.repo, entry.subfolder) if part)
    weights = f"{STEMS[entry.kind]}.safetensors (or its parts and their index)"
    files = f"{', '.join(REQUIRED[entry.kind])} and {weights}"
    return (
        f"The Hugging Face Hub cannot be reached ({error}). Put {files} of {source} (commit "
        f"{entry.revision}) into {folder}, or run `acestep models download {name}` on a "
        f"connected computer and copy the folder."
    )


def _present(target: Path, size: int) -> int:
    """Bytes of a file that are in its folder; of a file of another size none will be kept."""
    part = target.with_name(target.name + ".part")
    if target.is_file():
        return size if target.stat().st_size == size else 0
    return min(part.stat().st_size, size) if part.is_file() else 0


def _usable(places: Checkpoints, name: str) -> bool:
    try:
        return places.resolve(name).is_dir()
    except (ModelMissing, CheckpointError):
        return False


def _write_manifest(model: PlannedModel, records: dict[str, FileRecord]) -> None:
    if wrong := problems(model.folder, model.kind):
        raise DownloadError(f"{model.folder} arrived, but cannot be used: {wrong[0]}")
    manifest = Manifest(
        name=model.name,
        repo=model.repo,
        subfolder=model.subfolder,
        commit=model.commit,
        files=records,
    )
    path = model.folder / MANIFEST_FILE
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(json.dumps(manifest.model_dump(), indent=1) + "\n", encoding="utf-8")
    temporary.replace(path)


def _read(path: Path, start: int = 0) -> Iterator[bytes]:
    with path.open("rb") as file:
        file.seek(start)
        while chunk := file.read(CHUNK_BYTES):
            yield chunk


def _free_bytes(folder: Path) -> int:
    """Free bytes where `folder` is or will be."""
    while not folder.is_dir():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def _disk_error(error: OSError, folder: Path, meter: _Meter) -> DownloadError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DownloadError(
            f"Stopped at {size_text(meter.done)}: no space left in {folder} "
            f"(needs {size_text(meter.total - meter.done)} more)."
        )
    return DownloadError(f"{folder} cannot be written ({error.strerror or error}).")
