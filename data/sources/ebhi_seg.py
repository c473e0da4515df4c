"""EBHI-Seg: biopsies of colon and rectum, 224 x 224 px, the region of the picture's diagnosis.

Shi et al., "EBHI-Seg: a novel enteroscope biopsy histopathological hematoxylin and eosin image dataset for image
segmentation tasks", Frontiers in Medicine 10 (2023). The layout is that of the archive: one folder a diagnosis
(`Adenocarcinoma`, `High-grade IN`, ...), in it `image/*.png` and `label/*.png` of equal names.

Names begin with the case (GT2001837-1-400-001), which is the group. A picture without a label is kept with its
diagnosis alone; the files hold a few.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from slidekick.data.errors import InputError
from slidekick.data.sources.published import existing_folder, found, picture, same_size
from slidekick.data.sources.sample import Sample, Samples

PAPER = "Shi et al., Frontiers in Medicine 10 (2023) 1114673"
LICENCE = "CC BY 4.0"
CLASSES = {
    1: "colorectal adenocarcinoma",
    2: "high-grade intraepithelial neoplasia",
    3: "low-grade intraepithelial neoplasia",
    4: "normal colon mucosa",
    5: "colorectal polyp",
    6: "serrated adenoma",
}
FOLDERS = {
    "adenocarcinoma": 1,
    "high-grade in": 2,
    "low-grade in": 3,
    "normal": 4,
    "polyp": 5,
    "serrated adenoma": 6,
}
HALF = 127  # labels are black and white
EXPECTED = "EBHI-Seg's Adenocarcinoma, High-grade IN, Low-grade IN, Normal, Polyp and Serrated adenoma"


def read(folder: Path) -> Samples:
    """The pictures of every diagnosis below `folder`, in name order. Raises InputError."""
    existing_folder(folder, EXPECTED)
    spelling: dict[str, str] = {}  # cases are written GTXC... and GTxc...: one spelling, so that no case is torn
    parts = []
    for images in found(folder, "image", f"{EXPECTED}, each with image and label"):
        if images.parent.name.lower() not in FOLDERS:
            raise InputError(f"{images.parent}: unknown diagnosis; expected {EXPECTED}")
        labels = existing_folder(images.parent / "label", "the labels of its pictures")
        for path in found(images, "*.png", "pictures of the diagnosis"):
            case = path.stem.partition("-")[0]
            parts.append((path, labels / path.name, spelling.setdefault(case.upper(), case)))
    if not any(label.is_file() for _, label, _ in parts):
        raise InputError(f"{folder}: no picture has a label of its name; expected {EXPECTED}, unpacked whole")
    return Samples(parts, _sample)


def _sample(part: tuple[Path, Path, str]) -> Sample:
    path, label, case = part
    value = FOLDERS[path.parents[1].name.lower()]
    image, mask = picture(path), None
    if label.is_file():
        drawn = picture(label)[..., 0]  # as it looks: copies store 1 bit, grey, palette or colour
        same_size(image, drawn, label)
        mask = np.where(drawn > HALF, value, 0).astype(np.uint8)
    return Sample(
        id=f"{path.stem}_{value}",
        image=image,
        group=case,
        mask=mask,
        classes=CLASSES,
        organ="colon and rectum",
        label=CLASSES[value],
        magnification=40,
    )
