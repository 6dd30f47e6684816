"""Files that are whole or not there: a temporary name, flushed to the disk, then renamed."""

import errno
import os
import secrets
from pathlib import Path

from acestep.errors import AudioError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def write_file(path: str | Path, data: bytes | memoryview, *, overwrite: bool = False) -> Path:
    """Write a whole file or none: to a temporary name, to the disk, then renamed.

    Raises:
        AudioError: the file exists, or cannot be written. Nothing is left behind.
    """
    path = Path(path)
    part = path.with_name(f".{secrets.token_hex(8)}.part")
    try:
        if not overwrite and os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, "File exists")
        try:
            with part.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            _rename(part, path, overwrite)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise AudioError(_sentence(path, len(data), error)) from error
    return path


def _rename(part: Path, path: Path, overwrite: bool) -> None:
    if overwrite:
        part.replace(path)
        return
    # `replace` would overwrite and hard links are not everywhere: take the name first.
    path.open("xb").close()
    try:
        part.replace(path)
    except BaseException:
        path.unlink()
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
