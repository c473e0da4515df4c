"""Lizard: nuclei of six kinds in 238 regions of the colon at 20x.

Graham et al., "Lizard: a large-scale dataset for colonic nuclear instance segmentation and classification", ICCV
Workshops 2021. The layout is that of the archives: `Lizard_Images1/*.png`, `Lizard_Images2/*.png`,
`Lizard_Labels/Labels/*.mat` (inst_map, id, class) and `Lizard_Labels/info.csv` (source and fold of each region). Its
README calls class 5 neutrophil a second time; in the paper it is eosinophil.

The regions come from other sets. So that none is in training here and in the test there, groups are those of the
sources: GlaS' patient, CoNSeP's field with its split, DigestPath's slide. PanNuke's are not named, see docs/data.md.
The publishers' three folds part slides; each item tells its fold.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from slidekick.data.errors import InputError
from slidekick.data.sources.glas import MPP as GLAS_MPP
from slidekick.data.sources.published import (
    class_mask,
    existing_folder,
    found,
    matlab,
    object_ids,
    picture,
    same_size,
    table,
    whole_number,
)
from slidekick.data.sources.sample import Sample, Samples

PAPER = "Graham et al., ICCV Workshops 2021, arXiv:2108.11195"
LICENCE = "CC BY-NC-SA 4.0, research only"
CLASSES = {
    1: "neutrophil nucleus",
    2: "epithelial cell nucleus",
    3: "lymphocyte nucleus",
    4: "plasma cell nucleus",
    5: "eosinophil nucleus",
    6: "connective tissue cell nucleus",
}
SOURCES = ("consep", "crag", "dpath", "glas", "pannuke")
# GlaS' Grade.csv for the pictures that are in Lizard: patient -> pictures
GLAS_PATIENTS = {
    1: "testB_15 testB_16 train_13 train_14 train_26 train_37",
    2: "testB_11 testB_18 testB_19 train_1 train_71 train_74 train_78 train_82",
    3: "testB_10 train_4 train_17 train_19 train_75",
    4: "testA_16 testA_23 testA_34 testA_48 testA_56",
    7: "testB_2",
    9: "testA_11 train_22 train_33 train_69",
    10: "testA_10 testA_25 testA_28 testA_36 testA_54 testA_58 train_8 train_9 train_11 train_20 train_25 train_46 "
    "train_53 train_72 train_79",
    11: "testA_5 testA_8 testA_19 testA_22 testA_27 testA_29 testA_32 testA_47 testA_57 testA_59 train_5 train_57 "
    "train_81",
    13: "testA_44 train_12",
    14: "train_7",
    15: "testA_35",
}
EXPECTED = "Lizard_Images1 and Lizard_Images2 (*.png), Lizard_Labels/Labels (*.mat) and Lizard_Labels/info.csv"


def read(folder: Path) -> Samples:
    """The regions below `folder`, in name order. Raises InputError."""
    existing_folder(folder, EXPECTED)
    images = [path for path in found(folder, "*.png") if path.parent.name.lower().startswith("lizard_images")]
    if not images:
        raise InputError(f"{folder}: no Lizard_Images*/*.png below it; expected {EXPECTED}")
    labels = {path.stem: path for path in found(folder, "*.mat", EXPECTED)}
    info = found(folder, "info.csv", EXPECTED)[0]
    rows = {row["Filename"]: row for row in table(info, ("Filename", "Source", "Split"))}
    parts = []
    for path in images:
        if path.stem not in labels:
            raise InputError(f"{path}: its labels Labels/{path.stem}.mat are missing; unpack lizard_labels.zip again")
        if path.stem not in rows:
            raise InputError(f"{info}: no row for {path.stem}; expected one for each region")
        parts.append((path, labels[path.stem], _facts(rows[path.stem], info)))
    return Samples(parts, _sample)


def _facts(row: dict[str, str], path: Path) -> dict:
    """Group, published split, scale and fold of a region, out of its row of info.csv."""
    name, source = row["Filename"], row["Source"]
    origin = name.partition("_")[0]
    if origin not in SOURCES:
        raise InputError(f"{path}: {name} comes from an unknown source; expected {', '.join(SOURCES)}")
    facts = {"fold": whole_number(row["Split"], path, f"Split of {name}"), "origin": origin}
    if origin == "glas":
        held = [patient for patient, pictures in GLAS_PATIENTS.items() if source in pictures.split()]
        if not held:
            raise InputError(
                f"{path}: {name} is GlaS' {source!r}, which Lizard does not hold; expected such as train_1"
            )
        return facts | {"group": f"patient_{held[0]}", "mpp": GLAS_MPP}  # taken as they are
    if origin == "consep":
        split = source.partition("_")[0]
        if split not in ("train", "test"):
            raise InputError(f"{path}: {name} is CoNSeP's {source!r}; expected train_1, ... or test_1, ...")
        return facts | {"group": f"consep_{source}", "split": split}
    if origin == "dpath":
        return facts | {"group": f"dpath_{source.partition('-lv1-')[0]}"}
    return facts | {"group": f"crag_{source}" if origin == "crag" else f"lizard_{name}"}


def _sample(part: tuple[Path, Path, dict]) -> Sample:
    path, labels, facts = part
    image, held = picture(path), matlab(labels, "inst_map", "id", "class")
    ids = object_ids(held["inst_map"], labels)
    same_size(image, ids, labels)
    return Sample(
        id=path.stem,
        image=image,
        group=facts["group"],
        mask=_mask(ids, held["id"].ravel(), held["class"].ravel(), labels),
        instances=ids,
        classes=CLASSES,
        organ="colon",
        mpp=facts.get("mpp"),
        magnification=20,
        split=facts.get("split"),
        extra={"fold": facts["fold"], "origin": facts["origin"]},
    )


def _mask(ids: np.ndarray, listed: np.ndarray, classes: np.ndarray, path: Path) -> np.ndarray:
    """uint8 (H, W): each object filled with its class."""
    if len(listed) != len(classes):
        raise InputError(f"{path}: {len(listed)} ids and {len(classes)} classes; expected as many")
    numbers = object_ids(listed.reshape(1, -1), path)[0]
    if odd := sorted(set(np.unique(ids).tolist()) - {0, *numbers.tolist()}):
        raise InputError(f"{path}: object {odd[0]} of inst_map is not listed in id; unpack lizard_labels.zip again")
    values = class_mask(classes.reshape(1, -1), CLASSES, path)[0]
    if not values.all():
        raise InputError(f"{path}: object {numbers[values == 0][0]} has class 0; expected 1 to {max(CLASSES)}")
    by_id = np.zeros(65_536, np.uint8)
    by_id[numbers] = values
    by_id[0] = 0
    return by_id[ids]
