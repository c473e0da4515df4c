"""BCSS: tissue regions of triple negative breast cancer, one large region of each of 151 TCGA slides.

Amgad et al., "Structured crowdsourcing enables convolutional segmentation of histology images", Bioinformatics 35
(2019). The layout is that of the public folder and of the publishers' download script: `rgbs_colorNormalized` (or
`images`) and `masks`, PNG files of equal names that state patient, place and scale, and `meta/gtruth_codes.tsv`.

Value 0 lies outside the annotated region and is nobody's judgement, like "exclude" and "undetermined". The paper's
test set, the slides of six institutes, stays the test. Regions are large: see `tile` of `convert`.
"""

from __future__ import annotations

import re
from pathlib import Path

from slidekick.data.errors import InputError
from slidekick.data.sources.published import (
    class_mask,
    existing_folder,
    found,
    label_map,
    partner,
    picture,
    same_size,
    table,
    whole_number,
)
from slidekick.data.sources.sample import Sample, Samples

PAPER = "Amgad et al., Bioinformatics 35 (2019) 3461-3467"
LICENCE = "CC0 1.0"
CODES = {
    0: "outside_roi",
    1: "tumor",
    2: "stroma",
    3: "lymphocytic_infiltrate",
    4: "necrosis_or_debris",
    5: "glandular_secretions",
    6: "blood",
    7: "exclude",
    8: "metaplasia_NOS",
    9: "fat",
    10: "plasma_cells",
    11: "other_immune_infiltrate",
    12: "mucoid_material",
    13: "normal_acinus_or_duct",
    14: "lymphatics",
    15: "undetermined",
    16: "nerve",
    17: "skin_adnexa",
    18: "blood_vessel",
    19: "angioinvasion",
    20: "dcis",
    21: "other",
}
NOT_JUDGED = (0, 7, 15)
CLASSES = {
    1: "tumour",
    2: "stroma",
    3: "lymphocytic infiltrate",
    4: "necrosis or debris",
    5: "glandular secretion",
    6: "blood",
    8: "metaplasia",
    9: "fat",
    10: "plasma cell infiltrate",
    11: "other immune infiltrate",
    12: "mucoid material",
    13: "normal acinus or duct",
    14: "lymphatic vessel",
    16: "nerve",
    17: "skin adnexa",
    18: "blood vessel",
    19: "angioinvasion",
    20: "ductal carcinoma in situ",
    21: "other tissue",
}
TEST_INSTITUTES = {"OL", "LL", "E2", "EW", "GM", "S3"}
FOLDERS = ("rgbs_colorNormalized", "images")
EXPECTED = "BCSS' rgbs_colorNormalized (or images) and masks, with files such as TCGA-..._MPP-0.2500.png"
_NAME = re.compile(r"(TCGA-(\w{2})-\w{4})-.*_MPP-(\d+\.\d+)")


def read(folder: Path) -> Samples:
    """The regions below `folder`, in name order. Raises InputError."""
    existing_folder(folder, EXPECTED)
    images = [path for path in found(folder, "*.png") if path.parent.name in FOLDERS]
    if not images:
        raise InputError(f"{folder}: no pictures below it; expected {EXPECTED}")
    for path in found(folder, "gtruth_codes.tsv"):
        _check_codes(path)
    parts = [(path, _facts(path), partner(path, path.parents[1] / "masks" / path.name)) for path in images]
    return Samples(parts, _sample)


def _check_codes(path: Path) -> None:
    """The codes beside the files must be those that are known here."""
    for row in table(path, ("label", "GT_code"), delimiter="\t"):
        code = whole_number(row["GT_code"], path, f"GT_code of {row['label']}")
        if CODES.get(code) != row["label"]:
            raise InputError(f"{path}: code {code} is {row['label']!r}; expected {CODES.get(code, 'none')!r}")


def _facts(path: Path) -> tuple[str, str, float]:
    """Patient, institute and µm per pixel, out of the name."""
    told = _NAME.match(path.stem)
    if not told or not float(told[3]) > 0:
        raise InputError(f"{path}: the name does not tell patient and scale; expected {EXPECTED}")
    return told[1], told[2], float(told[3])


def _sample(part: tuple[Path, tuple[str, str, float], Path]) -> Sample:
    path, (patient, institute, mpp), mask = part
    image, values = picture(path), label_map(mask)
    same_size(image, values, mask)
    return Sample(
        id=path.stem,
        image=image,
        group=patient,
        mask=class_mask(values, CLASSES, mask, NOT_JUDGED),
        classes=CLASSES,
        organ="breast",
        mpp=mpp,
        split="test" if institute in TEST_INSTITUTES else "train",
    )
