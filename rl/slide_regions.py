"""Pictures of one tissue, cut out of those on which regions are outlined: for tissues that few pictures show alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from slidekick.data.files import named_atomic
from slidekick.data.items import Item
from slidekick.data.readers.pillow import read_picture

SIDE, APART = 224, 94  # px of a crop, and from one to the next
PURE = 0.85  # share of a crop that its class takes at least


def region_items(items: Sequence[Item], sets: Sequence[str], out: Path) -> list[Item]:
    """Crops that one class of a mask nearly fills, as items of their set labelled by the class; PNG files in `out`.

    items: those of other sets are passed over. Raises InputError for a picture or mask that cannot be read.
    """
    return [crop for item in items if item.set in sets and item.mask for crop in _crops(item, out)]


def _crops(item: Item, out: Path) -> Iterator[Item]:
    picture, mask = read_picture(item.image).convert("RGB"), np.asarray(read_picture(item.mask))
    for y in range(0, mask.shape[0] - SIDE + 1, APART):
        for x in range(0, mask.shape[1] - SIDE + 1, APART):
            window = mask[y : y + SIDE, x : x + SIDE]
            name = next((name for index, name in item.classes.items() if (window == index).mean() >= PURE), None)
            if name is None:
                continue
            file = out / f"{item.set}-{item.id.replace('/', '_')}-{y}-{x}.png"
            if not file.is_file():
                with named_atomic(file) as part:
                    picture.crop((x, y, x + SIDE, y + SIDE)).save(part, "PNG")
            yield replace(item, id=f"{item.id} {x},{y}", image=file, label=name, mask=None, classes={})
