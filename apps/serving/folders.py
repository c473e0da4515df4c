"""The folders that a user opened, and the rule that nothing outside them is read.

A file is named by its path below an opened folder, that folder's own name first: "slides/2024/a.svs". Names come from
the network and are data: what leads out of the folder, by `..`, by an absolute path or by a link, is answered like what
is not there, so that nothing can be learnt of the rest of the disk.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from slidekick.data.errors import InputError
from slidekick.data.readers import SUFFIXES

MAX_NAME = 400  # characters of a name
MOST_LISTED = 2000  # files in one listing: more is not looked through by eye


class Folders:
    """folders: those opened. Raises InputError for one that is none, or two of one name."""

    def __init__(self, folders: Sequence[Path] = ()) -> None:
        self.opened: dict[str, Path] = {}
        for folder in folders:
            if not folder.is_dir():
                raise InputError(f"{folder}: not a folder; give one that holds slides or pictures")
            root = folder.resolve()
            name = root.name or "root"
            if self.opened.setdefault(name, root) != root:
                raise InputError(f"{folder}: a folder named {name} is opened already; give one of them another name")

    def find(self, name: object) -> Path:
        """The file of a name. Raises InputError where there is none of that name in an opened folder."""
        refused = InputError(f"{shown(name)}: no such file in the opened folders; see the list of files")
        if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME or not name.isprintable():
            raise refused
        first, _, rest = name.partition("/")
        parts = rest.split("/")
        if first not in self.opened or any(part.startswith(".") or not part for part in parts):
            raise refused  # "..", hidden files such as .ssh, and "a//b"
        root = self.opened[first]
        try:
            path = root.joinpath(*parts).resolve(strict=True)
        except (OSError, ValueError, RuntimeError):  # RuntimeError: links in a circle
            raise refused from None
        if not path.is_relative_to(root) or not path.is_file() or path.suffix.lower() not in SUFFIXES:
            raise refused
        return path

    def files(self) -> list[str]:
        """Names of all slides and pictures below the opened folders, `MOST_LISTED` at most; links are not followed."""
        found: list[str] = []
        for first, root in self.opened.items():
            for name in _below(root):
                if len(found) == MOST_LISTED:
                    return found
                found.append(f"{first}/{name}")
        return found


def _below(root: Path) -> Iterator[str]:
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(one for one in folders if not one.startswith("."))
        for file in sorted(files):
            if not file.startswith(".") and file.isprintable() and Path(file).suffix.lower() in SUFFIXES:
                yield Path(folder, file).relative_to(root).as_posix()


def shown(name: object) -> str:
    """A name from outside as it may be repeated: short, without control characters."""
    text = name if isinstance(name, str) else type(name).__name__
    text = "".join(char if char.isprintable() else "?" for char in text)
    return text if len(text) <= 80 else f"{text[:80]}…"
