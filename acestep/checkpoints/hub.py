"""The Hugging Face Hub: what a repository holds, and the bytes of its files.

The one module that uses the network, and only when a download was asked for.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pydantic import BaseModel, Field

from acestep.errors import DownloadError

TIMEOUT_SECONDS = 30.0
NOT_THE_HUB = "what answers is not the hub; this network may want you to log in first"


@dataclass(frozen=True)
class RemoteFile:
    """A file of a repository. `sha256` is known of large files, the git hash of all."""

    path: str
    size: int
    sha256: str | None
    git_sha1: str | None


@dataclass(frozen=True)
class Listing:
    """A repository's files at one commit."""

    commit: str
    files: tuple[RemoteFile, ...]


class Unreachable(Exception):
    """The hub does not answer, or no longer. Trying again may help."""


class Hub(Protocol):
    """What a download needs from a hub: raises Unreachable, and DownloadError for what a
    repetition cannot cure."""

    def listing(self, repo: str, revision: str) -> Listing: ...

    def cached(self, repo: str, commit: str, path: str) -> Path | None:
        """The file, when another program has fetched that commit of it already."""
        ...

    def chunks(self, repo: str, commit: str, path: str, start: int) -> Iterator[bytes]:
        """The file's bytes from `start` on."""
        ...


class HuggingFace:
    """The Hugging Face Hub, with the user's own settings: its client reads HF_TOKEN and others."""

    def __init__(self, endpoint: str | None = None, cache: Path | None = None) -> None:
        self._endpoint = endpoint
        self._cache = cache

    def listing(self, repo: str, revision: str) -> Listing:
        from huggingface_hub import HfApi

        with _explained(repo):
            info = HfApi(endpoint=self._endpoint).model_info(
                repo, revision=revision, files_metadata=True, timeout=TIMEOUT_SECONDS
            )
            return _Answer.model_validate(info, from_attributes=True).listing()

    def cached(self, repo: str, commit: str, path: str) -> Path | None:
        from huggingface_hub import try_to_load_from_cache

        hit = try_to_load_from_cache(repo, path, cache_dir=self._cache, revision=commit)
        return Path(hit) if isinstance(hit, str) else None

    def chunks(self, repo: str, commit: str, path: str, start: int) -> Iterator[bytes]:
        from huggingface_hub import get_session, hf_hub_url
        from huggingface_hub.utils import build_hf_headers, hf_raise_for_status

        url = hf_hub_url(repo, path, revision=commit, endpoint=self._endpoint)
        # Compressed on the way, neither the offset nor the count of bytes would be the file's.
        headers = {**build_hf_headers(), "Accept-Encoding": "identity"}
        if start:
            headers["Range"] = f"bytes={start}-"
        session = get_session()
        with (
            _explained(repo),
            session.stream("GET", url, headers=headers, timeout=TIMEOUT_SECONDS) as response,
        ):
            hf_raise_for_status(response)
            if response.headers.get("Content-Type", "").startswith("text/html"):
                raise Unreachable(NOT_THE_HUB)
            # A server may ignore the range and send the file from its beginning.
            skip = start if response.status_code == 200 else 0
            # As they arrive: on a slow line a full MiB would keep a cancelled download waiting.
            for chunk in response.iter_bytes():
                rest = chunk[skip:]
                skip -= len(chunk) - len(rest)
                if rest:
                    yield rest


class _Hashes(BaseModel):
    sha256: str


class _Sibling(BaseModel):
    rfilename: str
    size: int | None = Field(ge=0)
    lfs: _Hashes | None
    blob_id: str | None


class _Answer(BaseModel):
    """The parts of the hub's answer that are used, of the types they must be: the client passes on
    what it is sent."""

    sha: str
    siblings: list[_Sibling]

    def listing(self) -> Listing:
        files = (
            RemoteFile(
                path=file.rfilename,
                size=file.size or 0,
                sha256=file.lfs.sha256 if file.lfs else None,
                git_sha1=None if file.lfs else file.blob_id,
            )
            for file in self.siblings
        )
        return Listing(commit=self.sha, files=tuple(files))


@contextmanager
def _explained(repo: str) -> Iterator[None]:
    """Turn the hub client's many errors into ours."""
    from huggingface_hub import errors

    # What the client's own HTTP library raises: httpx or httpx2, depending on its version.
    transport_error = next(b for b in errors.HfHubHTTPError.__bases__ if issubclass(b, Exception))
    try:
        yield
    except errors.GatedRepoError:
        raise DownloadError(
            f"{repo} asks you to accept its terms: do so on https://huggingface.co/{repo}, put a "
            "token of your account into HF_TOKEN, and try again."
        ) from None
    except (errors.RepositoryNotFoundError, errors.EntryNotFoundError):
        raise DownloadError(f"{repo} is not on the hub, or is not open to you.") from None
    except errors.RevisionNotFoundError:
        raise DownloadError(
            f"{repo} no longer has the commit that this program asks for."
        ) from None
    except errors.HfHubHTTPError as error:
        raise Unreachable(f"the hub answered {error.response.status_code}") from error
    except errors.OfflineModeIsEnabled:
        raise Unreachable("HF_HUB_OFFLINE is set") from None
    except (transport_error, OSError) as error:
        raise Unreachable(str(error) or type(error).__name__) from error
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        # What the client raises when it cannot make sense of an answer.
        raise Unreachable(NOT_THE_HUB) from error
