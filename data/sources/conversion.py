"""A published data set written as a set of Slidekick's own: `items.jsonl`, `images/`, `masks/`, `instances/`.

The folder appears when it is whole. A break leaves nothing behind; the conversion is then begun again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from slidekick.data.errors import InputError
from slidekick.data.files import folder_atomic
from slidekick.data.items import FILE_NAME, SPLITS, UNLABELLED
from slidekick.data.ontology import load_ontology
from slidekick.data.sources import source
from slidekick.data.sources.sample import Sample, Samples

SCHEMA = "slidekick.convert/1"
ABOUT = "source.json"
TRAIN, VAL = 0.70, 0.15  # of the groups; the rest is test
LEAST_TILE = 64  # px; below, pictures show next to nothing


def convert(
    name: str,
    folder: str | os.PathLike,
    out: str | os.PathLike,
    *,
    tile: int | None = None,
    progress: bool = True,
) -> dict:
    """Read the data set `name` (see SOURCES) from `folder`, as published, and write it as the set `out`.

    The same files give the same set, split for split: a group's split follows from the sha1 of its name alone, so a
    patient who is in two sets has one split, except where the publishers' own split by patient is kept.
    tile: cut pictures above so many px a side into near-equal tiles; those without a judged pixel are left out.
    Returns what `source.json` in the folder says: source, paper, licence, counts, and the classes that the hierarchy
    of names (`data/ontology.yaml`) does not know, on which nothing is trained. Raises InputError for files that are
    not as published, OutputError where `out` cannot be written or holds something else.
    """
    if tile is not None and tile < LEAST_TILE:
        raise InputError(f"tile {tile} is too small; give {LEAST_TILE} px or more")
    reader, folder, out = source(name), Path(folder), Path(out)
    if out.resolve().is_relative_to(folder.resolve()):
        raise InputError(f"{out}: lies in the data set's own folder; give another one for the converted set")
    with _reading(folder):
        samples = reader.read(folder)
    with folder_atomic(out, lambda old: _replaceable(old, name)) as new:
        items = _write(_progress(samples, name, progress), folder, new, tile)
        splits = split_groups(_published(items))
        lines = [{**line, "split": splits[line["group"]]} for line, _ in items]
        about = _about(name, reader, tile, lines)
        (new / ABOUT).write_text(json.dumps(about, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        (new / FILE_NAME).write_text(text, encoding="utf-8")
    return about


def split_groups(published: Mapping[str, set[str]]) -> dict[str, str]:
    """Group -> train, val or test. published: group -> the splits its publishers put it in, none where they do not.

    A group that its publishers tore goes whole to test, else val. Where they name no val, a part of their train is
    taken for it. Other groups fall by the sha1 of their name: about 70 : 15 : 15.
    """
    val_named = any("val" in splits for splits in published.values())
    return {group: _split(group, splits, val_named) for group, splits in published.items()}


def _split(group: str, published: set[str], val_named: bool) -> str:
    for held_out in ("test", "val"):
        if held_out in published:
            return held_out
    # the first digit is passed over, so that sets held out by it stay evenly split
    share = int(hashlib.sha1(group.encode("utf-8")).hexdigest()[1:9], 16) / 16**8
    if "train" in published:
        return "train" if val_named or share < TRAIN + VAL else "val"
    return "train" if share < TRAIN else "val" if share < TRAIN + VAL else "test"


def _replaceable(folder: Path, name: str) -> bool:
    """An empty folder, or an earlier conversion of the same source."""
    try:
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        return about["schema"] == SCHEMA and about["source"] == name
    except (OSError, ValueError, KeyError, TypeError):
        return not any(folder.iterdir())


def _progress(samples: Samples, name: str, progress: bool) -> Iterator[Sample]:
    from tqdm import tqdm

    shown = None if progress else True  # None: only where somebody is at the terminal
    return iter(tqdm(samples, desc=name, unit="picture", disable=shown))


def _write(samples: Iterator[Sample], folder: Path, new: Path, tile: int | None) -> list[tuple[dict, str | None]]:
    """Write the pictures; an item without split, and the publishers' split, for each."""
    items, taken = [], set()
    while True:
        with _reading(folder):
            sample = next(samples, None)
        if sample is None:
            return items
        for part in _tiles(sample, tile):
            stem = re.sub(r"[^\w.-]+", "_", part.id).lstrip(".")
            if stem.lower() in taken:
                raise InputError(f"{folder}: two pictures are called {part.id!r}; give a folder that holds each once")
            taken.add(stem.lower())
            items.append((_item(part, stem, new), part.split))


@contextlib.contextmanager
def _reading(folder: Path) -> Iterator[None]:
    """Whatever cannot be read meanwhile is an InputError; whoever writes would call it theirs."""
    try:
        yield
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        raise InputError(f"{error.filename or folder}: cannot be read ({reason}); unpack the data set again") from error


def _tiles(sample: Sample, side: int | None) -> Iterator[Sample]:
    height, width = sample.image.shape[:2]
    if side is None or max(height, width) <= side:
        yield sample
        return
    rows, columns = _cuts(height, side), _cuts(width, side)
    for row, (top, bottom) in enumerate(rows):
        for column, (left, right) in enumerate(columns):
            window = np.s_[top:bottom, left:right]
            mask = None if sample.mask is None else sample.mask[window]
            if mask is not None and (mask == UNLABELLED).all():
                continue
            yield replace(
                sample,
                id=f"{sample.id}_r{row}c{column}",
                image=sample.image[window],
                mask=mask,
                instances=None if sample.instances is None else sample.instances[window],
            )


def _cuts(length: int, side: int) -> list[tuple[int, int]]:
    edges = np.linspace(0, length, -(-length // side) + 1).round().astype(int).tolist()
    return list(pairwise(edges))


def _item(sample: Sample, stem: str, new: Path) -> dict:
    """Write the sample's pictures; its line of items.jsonl, without the split."""
    from PIL import Image

    item = {"id": sample.id}
    for key, folder, pixels in (
        ("image", "images", sample.image),
        ("mask", "masks", sample.mask),
        ("instances", "instances", sample.instances),
    ):
        if pixels is not None:
            (new / folder).mkdir(exist_ok=True)
            item[key] = f"{folder}/{stem}.png"
            Image.fromarray(np.ascontiguousarray(pixels)).save(new / item[key])
    for key in ("organ", "stain", "label", "mpp", "magnification", "group"):
        if getattr(sample, key) is not None:
            item[key] = getattr(sample, key)
    if sample.classes and (sample.mask is not None or sample.instances is not None):
        item["classes"] = {str(value): name for value, name in sample.classes.items()}
    return item | sample.extra


def _published(items: list[tuple[dict, str | None]]) -> dict[str, set[str]]:
    splits: dict[str, set[str]] = {}
    for item, split in items:
        splits.setdefault(item["group"], set()).update({split} - {None})
    return splits


def _about(name: str, reader, tile: int | None, lines: list[dict]) -> dict:
    items, groups = Counter(line["split"] for line in lines), Counter()
    for _, split in {(line["group"], line["split"]) for line in lines}:
        groups[split] += 1
    return {
        "schema": SCHEMA,
        "source": name,
        "paper": reader.PAPER,
        "licence": reader.LICENCE,
        "tile": tile,
        "items": len(lines),
        "without_labels": sum("mask" not in line and "instances" not in line for line in lines),
        "splits": {split: {"items": items[split], "groups": groups[split]} for split in SPLITS},
        "classes": {str(value): kind for value, kind in reader.CLASSES.items()},
        "unknown_classes": [kind for kind in reader.CLASSES.values() if not load_ontology().of_class(kind)],
    }
