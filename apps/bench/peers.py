"""Those that ours is held against, each in a virtual environment of its own.

An environment is made on first use from pinned packages and kept in the cache.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from slidekick.data.errors import SourceError
from slidekick.data.files import cache_dir

READY = "ready.json"  # written when all is installed


@dataclass(frozen=True)
class Peer:
    """packages: pinned, with what they need, as wheels. bare: pinned too, installed without what they ask for, where
    that pulls in far more than is used, or built here where there is no wheel. code: what it is asked to do; whoever
    runs it says in which form."""

    name: str
    version: str
    packages: tuple[str, ...]
    code: str
    bare: tuple[str, ...] = ()

    @property
    def told(self) -> str:
        """Name and version."""
        return f"{self.name} {self.version}"


def environment(peer: Peer) -> Path:
    """Its Python, installed where it is not there yet. Raises SourceError where that fails."""
    folder = cache_dir() / "peers" / f"{peer.name}-{peer.version}"
    wanted = [*peer.packages, *peer.bare]
    python = folder / "bin" / "python"
    try:
        if json.loads((folder / READY).read_text()) == wanted:
            return python
    except (OSError, ValueError):
        pass  # not there, or made of other packages
    shutil.rmtree(folder, ignore_errors=True)
    print(f"Installing {peer.told} (once; kept in {folder}) ...", file=sys.stderr, flush=True)
    install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    steps = [[sys.executable, "-m", "venv", str(folder)]]
    steps.append([*install, "--only-binary=:all:", *peer.packages])
    if peer.bare:
        steps.append([*install, "--no-deps", *peer.bare])
    for step in steps:
        done = subprocess.run(step, capture_output=True, text=True)
        if done.returncode:
            raise SourceError(f"{peer.told}: cannot be installed ({last_line(done.stderr)})")
    (folder / READY).write_text(json.dumps(wanted))
    return python


def last_line(text: str) -> str:
    """Of what a program said before it failed: the line that names an error, else the last."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR") or "Error:" in line]
    return (errors or lines or ["no reason given"])[-1][:200]
