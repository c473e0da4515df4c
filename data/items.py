"""Samples as `items.jsonl` lists them: one JSON object a line, paths relative to the file's folder.

Lines are checked when they are read; pictures and masks are not opened here.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from slidekick.data.errors import InputError
from slidekick.data.files import cannot_read

FILE_NAME = "items.jsonl"
SPLITS = ("train", "val", "test")
UNLABELLED = 255  # mask value of pixels that nobody judged
MOST_IDS = 65_535  # object ids are kept in 16 bits


@dataclass(frozen=True)
class Item:
    """One labelled picture.

    set: name of the folder it came from. group: patient, slide or source picture; never crosses splits.
    mask: 8-bit class indices named by `classes`, or `UNLABELLED`. instances: 16-bit object ids.
    boxes: (x0, y0, x1, y1, label), points: (x, y, label), in pixels of the picture.
    mpp: µm per pixel where the source states it. extra: every other key of the line.
    """

    set: str
    id: str
    image: Path
    split: str
    group: str = ""
    organ: str | None = None
    stain: str | None = None
    label: str | None = None
    mask: Path | None = None
    instances: Path | None = None
    classes: dict[int, str] = field(default_factory=dict)
    boxes: tuple[tuple[float, float, float, float, str], ...] = ()
    points: tuple[tuple[float, float, str], ...] = ()
    attributes: dict[str, str] = field(default_factory=dict)
    pair: str | None = None
    magnification: float | None = None
    mpp: float | None = None
    extra: dict = field(default_factory=dict)

    @property
    def scale(self) -> tuple[float, float] | None:
        """mpp along x and y, as readers and the segmentor take it; None where it is not stated."""
        return None if self.mpp is None else (self.mpp, self.mpp)


def load_items(root: str | os.PathLike, sets: Iterable[str] | None = None, split: str | None = None) -> list[Item]:
    """Items under `root`: a folder of sets, one set's folder, or an items.jsonl; sets in name order.

    Lines that name a `file` and no `image` are slides, not labelled pictures, and are passed over.
    Raises InputError for a missing place, an unknown set or split, and a bad line (file:line).
    """
    if split is not None and split not in SPLITS:
        raise InputError(f"split {split!r} is unknown; use one of {', '.join(SPLITS)}")
    files = item_files(Path(root), None if sets is None else list(sets))
    return [item for file in files for item in _read(file) if split is None or item.split == split]


def item_files(root: Path, sets: list[str] | None) -> list[Path]:
    """The items.jsonl files of `load_items`' places, in name order. Raises InputError as it does."""
    if root.is_file():
        files = [root]
    elif (root / FILE_NAME).is_file():
        files = [root / FILE_NAME]
    elif root.is_dir():
        files = sorted(root.glob(f"*/{FILE_NAME}"))
    else:
        raise InputError(f"{root}: no such file or folder; give a folder of sets, a set or an {FILE_NAME}")
    if not files:
        raise InputError(f"{root}: no {FILE_NAME} in it or one level below; give a folder of sets")
    if sets is None:
        return files
    by_name = {file.resolve().parent.name: file for file in files}
    if missing := [name for name in sets if name not in by_name]:
        raise InputError(f"{root}: no set named {missing[0]!r}; there are {', '.join(sorted(by_name))}")
    return [by_name[name] for name in dict.fromkeys(sets)]


def _read(file: Path) -> Iterator[Item]:
    try:
        folder, lines = file.resolve().parent, file.read_bytes().split(b"\n")
    except OSError as error:
        raise InputError(cannot_read(file, error)) from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            if not isinstance(entry, dict):
                raise ValueError("not a JSON object")
            if "image" in entry or "file" not in entry:
                yield _item(entry, folder)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            reason = f"{error} is missing" if isinstance(error, KeyError) else error
            raise InputError(f"{file}:{number}: {reason}; mend or remove the line") from error


def _item(entry: dict, folder: Path) -> Item:
    entry = {key: value for key, value in entry.items() if value is not None}
    for key in ("id", "image", "split", "group", "organ", "stain", "label", "mask", "instances", "pair"):
        if key in entry and not isinstance(entry[key], str):
            raise ValueError(f"{key} is {entry[key]!r}, not text")
    if entry["split"] not in SPLITS:
        raise ValueError(f"split is {entry['split']!r}, not one of {', '.join(SPLITS)}")
    known = {key: entry[key] for key in Item.__dataclass_fields__ if key in entry and key not in ("set", "extra")}
    for key in ("image", "mask", "instances"):
        if key in known:
            known[key] = folder / known[key]
            if not _is_file(known[key]):
                raise ValueError(f"{key} {entry[key]!r} is not there")
    if "classes" in known:
        if not isinstance(known["classes"], dict):
            raise ValueError(f"classes is {known['classes']!r}, not a mapping of numbers to names")
        known["classes"] = {int(index): str(name) for index, name in known["classes"].items()}
    for key, size in (("boxes", 5), ("points", 3)):
        if key in known:
            known[key] = tuple(_marked(row, size, key) for row in known[key])
    for key in ("mpp", "magnification"):
        if key in known and not (isinstance(known[key], int | float) and known[key] > 0):
            raise ValueError(f"{key} is {known[key]!r}, not a positive number")
    rest = {key: value for key, value in entry.items() if key not in Item.__dataclass_fields__}
    return Item(set=folder.name, extra=rest, **known)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name longer than any file's, or a folder that may not be looked into
        return False


def _marked(row: list, size: int, key: str) -> tuple:
    if len(row) != size or not all(isinstance(number, int | float) for number in row[:-1]):
        raise ValueError(f"{key} holds {row!r}, not {size - 1} numbers and a label")
    return tuple(row)
