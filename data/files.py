"""Writing files whole or not at all, and the one folder where downloads are kept. Knows no formats."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from pathlib import Path

from slidekick.data.errors import OutputError


def cache_dir() -> Path:
    """The folder for fetched and converted files, not created here.

    `$SLIDEKICK_CACHE` where set; else `$XDG_CACHE_HOME/slidekick`; else the platform's own cache folder.
    """
    if own := os.environ.get("SLIDEKICK_CACHE"):
        return Path(own).expanduser()
    if xdg := os.environ.get("XDG_CACHE_HOME"):
        return Path(xdg).expanduser() / "slidekick"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "slidekick"
    return Path.home() / ".cache" / "slidekick"


def write_atomic(path: str | os.PathLike, data: bytes | str) -> Path:
    """Write `data` (text as UTF-8) so that readers see the old file or the whole new one, never half.

    Missing parent folders are made. Raises OutputError where the place cannot be written.
    """
    path = Path(path)
    payload = data.encode("utf-8") if isinstance(data, str) else data
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(payload)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o666 & ~_umask())  # mkstemp makes files private; outputs are ordinary files
        os.replace(temporary, path)
    except OSError as error:
        raise OutputError(_cannot_write(path, error)) from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):  # gone after a successful replace
                os.unlink(temporary)
    return path


def check_writable(folder: str | os.PathLike) -> Path:
    """Find out before the work whether files can be written under `folder`; leaves nothing behind.

    A folder that is not there yet is judged by its nearest parent. Raises OutputError.
    """
    folder = Path(folder)
    place = folder
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir():
        raise OutputError(f"{folder}: {place.name} is a file, not a folder; give another --out folder")
    try:
        descriptor, probe = tempfile.mkstemp(prefix=".slidekick.", dir=place)
        os.close(descriptor)
        os.unlink(probe)
    except OSError as error:
        raise OutputError(_cannot_write(folder, error)) from error
    return folder


def _cannot_write(path: Path, error: OSError) -> str:
    reason = (error.strerror or type(error).__name__).lower()
    return f"{path}: cannot write ({reason}); choose another folder or free this one"


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
