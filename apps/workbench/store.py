"""Where sessions are kept: a folder each, found again by a name that cannot be guessed; nothing is lost by a kill."""

from __future__ import annotations

import json
import os
import re
import secrets
import time
from pathlib import Path

from slidekick.data.errors import InputError, OutputError
from slidekick.data.files import write_atomic

STATE = "session.json"
_NAME = re.compile(r"[0-9a-f]{32}")


def default_root() -> Path:
    """`sessions` in the user's data folder (XDG Base Directory)."""
    data = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(data) / "slidekick" / "sessions"


class Store:
    """Sessions under a folder, which only its owner may read. Raises OutputError where it cannot be made."""

    def __init__(self, root: Path) -> None:
        self.root = root
        try:
            root.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise OutputError(f"{root}: cannot be made ({error.strerror}); give another --sessions") from error

    @property
    def secret(self) -> str:
        """What browsers' copies of a session's name are sealed with; the same after a restart."""
        file = self.root / "secret"
        if not file.is_file():
            write_atomic(file, secrets.token_hex(32))
            file.chmod(0o600)
        return file.read_text(encoding="ascii")

    def new(self) -> str:
        """The name of a new session."""
        name = secrets.token_hex(16)
        self.folder(name).mkdir(mode=0o700)
        return name

    def folder(self, name: object) -> Path:
        """A session's folder. Raises InputError for what is no name of one."""
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise InputError("no such session; begin a new one")
        return self.root / name

    def load(self, name: object) -> dict | None:
        """What was kept; None where there is none, or it cannot be read."""
        file = self.folder(name) / STATE
        try:
            return json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None

    def save(self, name: str, state: dict) -> None:
        """Keep a session's state; what was kept before stays whole until this is."""
        write_atomic(self.folder(name) / STATE, json.dumps({**state, "saved": time.time()}, ensure_ascii=False))
