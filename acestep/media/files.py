"""Files that are whole or not there: a temporary name, flushed to the disk, then renamed."""

import errno
import os
import secrets
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from acestep.errors import AudioError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def write_file(path: str | Path, data: bytes | memoryview, *, overwrite: bool = False) -> Path:
    """Write a whole file or none: to a temporary name, to the disk, then renamed.

    Raises:
        AudioError: the file exists, or cannot be written. Nothing is left behind.
    """
    path = Path(path)
    write_files({path: data}, overwrite=overwrite)
    return path


def write_files(files: Mapping[Path, bytes | memoryview], *, overwrite: bool = False) -> None:
    """Write several files together or none of them; each is whole when it appears, the last last.

    Raises:
        AudioError: one exists, or cannot be written. Nothing is left behind.
    """
    parts: dict[Path, Path] = {}
    at, size = Path(), 0
    try:
        with ExitStack() as leftovers:
            for path, data in files.items():
                at, size = path, len(data)
                if not overwrite and os.path.lexists(path):
                    raise FileExistsError(errno.EEXIST, "File exists", str(path))
                part = parts[path] = path.with_name(f".{secrets.token_hex(8)}.part")
                with part.open("xb") as file:
                    leftovers.callback(part.unlink, missing_ok=True)
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
            with _claimed(() if overwrite else parts):
                for path, part in parts.items():
                    at, size = path, len(files[path])
                    part.replace(path)
    except FileExistsError as error:
        raise AudioError(_sentence(Path(error.filename), size, error)) from error
    except OSError as error:
        raise AudioError(_sentence(at, size, error)) from error


@contextmanager
def _claimed(paths: Iterable[Path]) -> Iterator[None]:
    """Take names that nothing has, to be replaced; give all of them up when that fails.

    `replace` alone would overwrite, and hard links are not everywhere.
    """
    taken: list[Path] = []
    try:
        for path in paths:
            path.open("xb").close()
            taken.append(path)
        yield
    except BaseException:
        for path in taken:
            path.unlink(missing_ok=True)
        raise


def _sentence(path: Path, size: int, error: OSError) -> str:
    """What went wrong, for the person who chose the path."""
    if error.errno == errno.EEXIST:
        return f"{path.name} exists already and was not overwritten."
    if error.errno in _FULL:
        return f"There is no space left in {path.parent} for {path.name} ({size / 1e6:.1f} MB)."
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return f"{path.name} cannot be saved: there is no folder {path.parent}."
    reason = (error.strerror or str(error)).lower()
    return f"{path.name} cannot be saved in {path.parent}: {reason}."
