"""MoNuSeg 2018: every nucleus of 1000 x 1000 px fields of TCGA slides, eight organs.

Kumar et al., "A dataset and a technique for generalized nuclear segmentation for computational pathology", IEEE TMI
36 (2017), and "A multi-organ nucleus segmentation challenge", IEEE TMI 39 (2020). The layout is that of the two
archives: `MoNuSeg 2018 Training Data` with `Tissue Images/*.tif` and `Annotations/*.xml` (Aperio ImageScope), and
`MoNuSegTestData` with both side by side.

As in the challenge's own MATLAB code, outlines are filled in the file's order and where two overlap the earlier keeps
the pixel; a pixel belongs to an outline that holds its middle. Each field is of another patient, so the challenge's
split is kept. Organs follow TCGA's tissue source sites: the fields listed as liver are lung by their barcodes.
"""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from slidekick.data.errors import InputError
from slidekick.data.items import MOST_IDS
from slidekick.data.sources.published import existing_folder, found, partner, picture
from slidekick.data.sources.sample import Sample, Samples

PAPER = "Kumar et al., IEEE Transactions on Medical Imaging 36 (2017) 1550-1560 and 39 (2020) 1380-1391"
LICENCE = "CC BY-NC-SA 4.0"
CLASSES = {1: "nucleus"}
SITES = {
    "bladder": ("CU", "DK", "G2", "ZF"),
    "brain": ("FG", "HT"),
    "breast": ("A7", "AC", "AO", "AR", "E2"),
    "colon": ("A6", "AY", "NH"),
    "kidney": ("2Z", "B0", "GL", "HE", "IZ"),
    "lung": ("18", "21", "38", "44", "49", "50", "69"),
    "prostate": ("CH", "EJ", "G9", "HC"),
    "stomach": ("KB", "RD"),
}
EXPECTED = "MoNuSeg's 'Tissue Images' (*.tif) and 'Annotations' (*.xml), or MoNuSegTestData with both"
_BARCODE = re.compile(r"TCGA-(\w{2})-\w{4}")
_PART = re.compile(r"(?:^|monuseg|[\W_])(test|train)", re.IGNORECASE)  # no "latest"


def read(folder: Path) -> Samples:
    """The fields below `folder`, in name order. Raises InputError."""
    existing_folder(folder, EXPECTED)
    parts = []
    for path in found(folder, "*.tif", EXPECTED):
        if not _BARCODE.match(path.stem):
            raise InputError(f"{path}: not named by a TCGA barcode; expected {EXPECTED}")
        beside = path.with_suffix(".xml")
        outlines = beside if beside.is_file() else path.parents[1] / "Annotations" / beside.name
        parts.append((path, partner(path, outlines), _split(path, folder)))
    return Samples(parts, _sample)


def _split(path: Path, folder: Path) -> str | None:
    """The challenge's part, as the archive's folder tells it; None where no folder does."""
    above = folder.resolve()
    names = [*path.relative_to(folder).parts[-2::-1], above.name]
    if above.name == "Tissue Images":
        names.append(above.parent.name)
    for name in names:
        if told := _PART.search(name):
            return told[1].lower()
    return None


def _sample(part: tuple[Path, Path, str | None]) -> Sample:
    path, annotation, split = part
    image = picture(path)
    mpp, outlines = _outlines(annotation)
    ids = _filled(outlines, image.shape[:2], annotation)
    told = _BARCODE.match(path.stem)
    return Sample(
        id=path.stem,
        image=image,
        group=told[0],
        mask=(ids > 0).astype(np.uint8),
        instances=ids,
        classes=CLASSES,
        organ=next((organ for organ, sites in SITES.items() if told[1] in sites), None),
        mpp=mpp,
        magnification=40,
        split=split,
    )


def _outlines(path: Path) -> tuple[float | None, list[np.ndarray]]:
    """µm per pixel as stated, and each region's corners (N, 2) as x, y from the picture's upper left corner."""
    text = path.read_bytes()
    if b"<!DOCTYPE" in text or b"<!ENTITY" in text:  # ImageScope writes none; they can blow up in memory
        raise InputError(f"{path}: holds entity definitions; expected outlines as ImageScope writes them")
    try:
        root = ElementTree.fromstring(text)
        outlines = [
            np.array([(float(corner.attrib["X"]), float(corner.attrib["Y"])) for corner in region.iter("Vertex")])
            for region in root.iter("Region")
        ]
        mpp = float(root.get("MicronsPerPixel", 0))
    except (ElementTree.ParseError, KeyError, ValueError) as error:
        raise InputError(f"{path}: not a whole ImageScope annotation ({error}); unpack it again") from error
    if not outlines:
        raise InputError(f"{path}: no Region in it; expected the outlines of nuclei as ImageScope writes them")
    if any(not np.isfinite(outline).all() for outline in outlines):
        raise InputError(f"{path}: a corner that is no number; expected pixels of the picture")
    return (mpp if np.isfinite(mpp) and mpp > 0 else None), outlines


def _filled(outlines: list[np.ndarray], shape: tuple[int, int], path: Path) -> np.ndarray:
    """uint16 (H, W): ids of the outlines in their order; those of no area, which the files hold, get none."""
    from skimage.draw import polygon

    ids = np.zeros(shape, np.uint16)
    last = 0
    for outline in outlines:
        if len(outline) < 3:
            continue
        rows, columns = polygon(outline[:, 1] - 0.5, outline[:, 0] - 0.5, shape)  # pixel 0 has its middle at 0.5
        free = ids[rows, columns] == 0
        if not free.any():
            continue
        if last == MOST_IDS:
            raise InputError(f"{path}: over {MOST_IDS} outlines; expected fewer")
        last += 1
        ids[rows[free], columns[free]] = last
    if not last:
        raise InputError(
            f"{path}: no outline lies in the picture of {shape[1]} x {shape[0]}; expected its own outlines"
        )
    return ids
