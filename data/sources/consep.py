"""CoNSeP: nuclei of seven kinds in 1000 x 1000 px fields of colorectal adenocarcinoma.

Graham et al., "HoVer-Net: simultaneous segmentation and classification of nuclei in multi-tissue histology images",
Medical Image Analysis 58 (2019). The layout is that of the archive: `Train` and `Test`, each with `Images/*.png` and
`Labels/*.mat` (inst_map, type_map).

The 41 fields come from 16 patients whom the files do not name: a field is its own group, and the publishers' test
fields stay the test.
"""

from __future__ import annotations

from pathlib import Path

from slidekick.data.errors import InputError
from slidekick.data.sources.published import (
    class_mask,
    existing_folder,
    found,
    matlab,
    object_ids,
    partner,
    picture,
    same_size,
)
from slidekick.data.sources.sample import Sample, Samples

PAPER = "Graham et al., Medical Image Analysis 58 (2019) 101563"
LICENCE = "none stated; the README asks for the citation"
CLASSES = {
    1: "other cell nucleus",
    2: "inflammatory cell nucleus",
    3: "non-neoplastic epithelial cell nucleus",
    4: "dysplastic or malignant epithelial cell nucleus",
    5: "fibroblast nucleus",
    6: "muscle cell nucleus",
    7: "endothelial cell nucleus",
}
EXPECTED = "CoNSeP's Train and Test, each with Images/*.png and Labels/*.mat"


def read(folder: Path) -> Samples:
    """The fields of both parts below `folder`, in name order. Raises InputError."""
    existing_folder(folder, EXPECTED)
    images = [path for path in found(folder, "*.png") if path.parent.name.lower() == "images"]
    parts = [(path, _part(path), partner(path, path.parents[1] / "Labels" / f"{path.stem}.mat")) for path in images]
    if not parts:
        raise InputError(f"{folder}: no Images/*.png below it; expected {EXPECTED}")
    return Samples(parts, _sample)


def _part(path: Path) -> str:
    part = path.parents[1].name.lower()
    if part not in ("train", "test"):
        raise InputError(f"{path}: neither in Train nor in Test; expected {EXPECTED}")
    return part


def _sample(part: tuple[Path, str, Path]) -> Sample:
    path, split, labels = part
    image, held = picture(path), matlab(labels, "inst_map", "type_map")
    for values in held.values():
        same_size(image, values, labels)
    return Sample(
        id=path.stem,
        image=image,
        group=f"consep_{path.stem}",
        mask=class_mask(held["type_map"], CLASSES, labels),
        instances=object_ids(held["inst_map"], labels),
        classes=CLASSES,
        organ="colon",
        magnification=40,
        split=split,
    )
