"""Writing files whole or not at all, and the one folder where downloads are kept. Knows no formats."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from slidekick.data.errors import OutputError

FULL_BYTES = 1_000_000  # a disk with less left is full for what is written here
REFUSALS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)

BLOCK, BLOCKS = 65536, 64  # bytes and number of the parts of a file that name its content
UMASK = os.umask(0)  # can only be read by setting it, for all threads at once: so once, before there are any
os.umask(UMASK)


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
    with stream_atomic(path) as stream:
        stream.write(data.encode("utf-8") if isinstance(data, str) else data)
    return Path(path)


@contextlib.contextmanager
def stream_atomic(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """A stream to write bytes to; `path` is replaced once the block ends well, and left as it was where it does not.

    Missing parent folders are made. Raises OutputError where the place cannot be written.
    """
    path = Path(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        with os.fdopen(descriptor, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o666 & ~UMASK)  # mkstemp makes files private; outputs are ordinary files
        os.replace(temporary, path)
    except OSError as error:
        raise OutputError(cannot_write(path, error)) from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):  # gone after a successful replace
                os.unlink(temporary)


@contextlib.contextmanager
def named_atomic(path: str | os.PathLike) -> Iterator[Path]:
    """As `stream_atomic`, for writers that want a name: a place to write to, in a folder of its own beside `path`.

    What else is put into that folder goes with it. Missing parent folders are made. Raises OutputError where the place
    cannot be written.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", suffix=".part", dir=path.parent) as folder:
            part = Path(folder) / path.name
            yield part
            os.replace(part, path)
    except OSError as error:
        raise OutputError(cannot_write(path, error)) from error


@contextlib.contextmanager
def folder_atomic(path: str | os.PathLike, ours: Callable[[Path], bool]) -> Iterator[Path]:
    """A new empty folder to fill; it becomes `path` once the block ends well, and is removed where it does not.

    ours: says whether a folder that is there already may be replaced. It is set aside first and removed last, so
    that a break between leaves either whole. Raises OutputError where it may not, or the place cannot be written.
    """
    path = Path(path)
    temporary = None
    try:
        if path.exists() and not (path.is_dir() and ours(path)):
            raise OutputError(f"{path}: is there already and was not written here; move it, or choose another folder")
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent))
        yield temporary
        os.chmod(temporary, 0o777 & ~UMASK)
        if path.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".old", dir=path.parent))
            os.replace(path, old)  # onto an empty folder, which a rename may replace
            os.replace(temporary, path)
            shutil.rmtree(old, ignore_errors=True)
        else:
            os.replace(temporary, path)
    except OSError as error:
        raise OutputError(cannot_write(path, error)) from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)  # gone after a successful replace


def content_key(path: str | os.PathLike) -> str:
    """A name for what is in a file, whatever it is called: its size and a hash of `BLOCKS` blocks spread over it.

    A slide of gigabytes is named in milliseconds; two that differ in no block of theirs are taken for one. Raises
    OSError where it cannot be read.
    """
    digest = hashlib.blake2b(digest_size=16)
    with open(path, "rb") as stream:
        size = stream.seek(0, os.SEEK_END)
        digest.update(str(size).encode())
        last = max(0, size - BLOCK)
        for start in sorted({round(last * part / (BLOCKS - 1)) for part in range(BLOCKS)}):
            stream.seek(start)
            digest.update(stream.read(BLOCK))
    return digest.hexdigest()


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
        raise OutputError(cannot_write(folder, error)) from error
    return folder


def cannot_write(path: Path, error: OSError) -> str:
    """What is told where a file cannot be written, in one line with the mend."""
    reason = (error.strerror or type(error).__name__).lower()
    mend = "set SLIDEKICK_CACHE to another" if Path(path).is_relative_to(cache_dir()) else "choose another"
    return f"{path}: cannot write ({reason}); {mend} folder or free this one"


@contextlib.contextmanager
def told_where_full(folder: Path) -> Iterator[None]:
    """Within it, an error of a library that writes below `folder` is an OutputError where no room is left there.

    torch and safetensors tell a full disk each in its own words, and safetensors removes what it wrote of a file.
    """
    try:
        yield
    except OutputError:
        raise
    except Exception as error:
        full = os.strerror(errno.ENOSPC)
        left = shutil.disk_usage(folder).free if folder.is_dir() else FULL_BYTES
        if left >= FULL_BYTES and full.lower() not in str(error).lower():
            raise
        raise OutputError(cannot_write(folder, OSError(errno.ENOSPC, full))) from error


def refused(error: BaseException) -> str | None:
    """The line for what the system refused a command that did not foresee it; None for other errors."""
    if not isinstance(error, OSError) or error.errno not in REFUSALS:
        return None
    return f"{error.filename or 'a file'}: {error.strerror.lower()}; see to its rights and to free space"


def cannot_read(path: Path, error: OSError) -> str:
    """What is told where a file cannot be read, in one line with the mend."""
    return f"{path}: cannot be read ({(error.strerror or 'error').lower()}); check its rights"


def files_hash(files: Iterable[Path]) -> str:
    """First 12 hex digits of the sha256 over some files, in the order of their paths."""
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]
