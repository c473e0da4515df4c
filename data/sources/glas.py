"""GlaS (Warwick-QU): glands of the colon, benign and malignant.

Sirinukunwattana et al., "Gland segmentation in colon histology images: the GlaS challenge contest", Medical Image
Analysis 35 (2017). The layout is that of the archive: `train_1.bmp`, `train_1_anno.bmp` (object ids), ...,
`testA_1.bmp`, ..., `testB_1.bmp`, ... and `Grade.csv` (patient and grade of each picture), all in one folder.

The challenge's parts share patients, so they are not kept as splits; each item tells its part.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from slidekick.data.errors import InputError
from slidekick.data.sources.published import (
    existing_folder,
    found,
    label_map,
    object_ids,
    partner,
    picture,
    same_size,
    table,
    whole_number,
)
from slidekick.data.sources.sample import Sample, Samples

PAPER = "Sirinukunwattana et al., Medical Image Analysis 35 (2017) 489-502"
LICENCE = "research only, not commercial; the challenge asks for the citation"
MPP = 0.62005  # of the 20x pictures, as the challenge states it
CLASSES = {1: "benign gland", 2: "malignant gland"}
KINDS = {"benign": 1, "malignant": 2}
LABELS = {
    "healthy": "healthy colon gland (benign)",
    "adenomatous": "adenomatous colon gland (benign)",
    "moderately differentiated": "moderately differentiated colorectal adenocarcinoma",
    "moderately-to-poorly differentated": "moderately to poorly differentiated colorectal adenocarcinoma",  # their way
    "poorly differentiated": "poorly differentiated colorectal adenocarcinoma",
}
EXPECTED = "GlaS' train_1.bmp, train_1_anno.bmp, ... and Grade.csv"
_NAME, _PATIENT, _KIND, _GRADE = (
    "name",
    "patient ID",
    "grade (GlaS)",
    "grade (Sirinukunwattana et al. 2015)",
)


def read(folder: Path) -> Samples:
    """The pictures below `folder`, in name order. Raises InputError."""
    existing_folder(folder, EXPECTED)
    images = [path for path in found(folder, "*.bmp", EXPECTED) if not path.stem.endswith("_anno")]
    grades = found(folder, "Grade.csv", EXPECTED)[0]
    rows = {row[_NAME]: row for row in table(grades, (_NAME, _PATIENT, _KIND, _GRADE))}
    parts = []
    for path in images:
        if path.stem not in rows:
            raise InputError(f"{grades}: no row for {path.stem}; expected one for each picture")
        parts.append((path, partner(path, path.with_name(f"{path.stem}_anno.bmp")), _facts(rows[path.stem], grades)))
    return Samples(parts, _sample)


def _facts(row: dict[str, str], path: Path) -> dict:
    for key, known in ((_KIND, KINDS), (_GRADE, LABELS)):
        if row[key] not in known:
            raise InputError(f"{path}: {key} of {row[_NAME]} is {row[key]!r}; expected {', '.join(known)}")
    patient = whole_number(row[_PATIENT], path, f"{_PATIENT} of {row[_NAME]}")
    return {"patient": patient, "kind": KINDS[row[_KIND]], "label": LABELS[row[_GRADE]]}


def _sample(part: tuple[Path, Path, dict]) -> Sample:
    path, annotation, facts = part
    image = picture(path)
    ids = object_ids(label_map(annotation), annotation)
    same_size(image, ids, annotation)
    return Sample(
        id=path.stem,
        image=image,
        group=f"patient_{facts['patient']}",
        mask=np.where(ids > 0, facts["kind"], 0).astype(np.uint8),
        instances=ids,
        classes=CLASSES,
        organ="colon",
        label=facts["label"],
        mpp=MPP,
        magnification=20,
        extra={"part": path.stem.split("_")[0]},
    )
