"""NuInsSeg: every nucleus of 665 fields of 512 x 512 px, 31 human and mouse organs.

Mahbod et al., "NuInsSeg: a fully annotated dataset for nuclei instance segmentation in H&E-stained histological
images", Scientific Data 11 (2024). The layout is that of the archive: one folder an organ (`human bladder`, ...), in
it `tissue images/*.png`, `label masks modify/*.tif` (object ids, made for evaluation) and `vague areas/mask binary`
(or `mask binary_vague`), where even experts could not tell; pixels there that are no nucleus count as not judged.

Each organ comes from one slide, so an organ is a group.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from slidekick.data.errors import InputError
from slidekick.data.items import UNLABELLED
from slidekick.data.sources.published import (
    existing_folder,
    found,
    label_map,
    object_ids,
    partner,
    picture,
    same_size,
)
from slidekick.data.sources.sample import Sample, Samples

PAPER = "Mahbod et al., Scientific Data 11 (2024) 295"
LICENCE = "stated on the data set's Kaggle page; not in the files"
CLASSES = {1: "nucleus"}
SPECIES = ("human", "mouse")
SPELT = {"salivory gland": "salivary gland", "tonsile": "tonsil"}  # folder names as published
VAGUE = ("vague areas/mask binary", "vague areas/mask binary_vague")
EXPECTED = "NuInsSeg's folders such as 'human bladder', each with 'tissue images' and 'label masks modify'"


def read(folder: Path) -> Samples:
    """The fields of every organ below `folder`, in name order. Raises InputError."""
    existing_folder(folder, EXPECTED)
    parts = [part for images in found(folder, "tissue images", EXPECTED) for part in _organ(images)]
    if not parts:
        raise InputError(f"{folder}: no tissue images/*.png below it; expected {EXPECTED}")
    return Samples(parts, _sample)


def _organ(images: Path) -> list[tuple]:
    species, _, organ = images.parent.name.partition(" ")
    if species not in SPECIES or not organ:
        raise InputError(f"{images.parent}: not named by species and organ; expected {EXPECTED}")
    vague = next((images.parent / name for name in VAGUE if (images.parent / name).is_dir()), None)
    return [
        (
            path,
            partner(path, images.parent / "label masks modify" / f"{path.stem}.tif"),
            vague and partner(path, vague / path.name),
        )
        for path in found(images, "*.png")
    ]


def _sample(part: tuple[Path, Path, Path | None]) -> Sample:
    path, labels, vague = part
    image = picture(path)
    ids = object_ids(label_map(labels), labels)
    same_size(image, ids, labels)
    mask = (ids > 0).astype(np.uint8)
    if vague:
        unclear = label_map(vague)
        same_size(image, unclear, vague)
        mask[(unclear > 0) & (ids == 0)] = UNLABELLED
    species, _, organ = path.parents[1].name.partition(" ")
    return Sample(
        id=path.stem,
        image=image,
        group=re.sub(r"\W+", "_", f"nuinsseg {species} {organ}"),
        mask=mask,
        instances=ids,
        classes=CLASSES,
        organ=SPELT.get(organ, organ.partition("_")[0]),
        extra={"species": species},
    )
