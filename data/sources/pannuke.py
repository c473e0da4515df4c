"""PanNuke: nuclei of five kinds in 256 x 256 px fields of 19 organs.

Gamper et al., "PanNuke: an open pan-cancer histology dataset for nuclei instance segmentation and classification",
ECDP 2019, and "PanNuke dataset extension, insights and baselines", arXiv:2003.10778. The layout is that of the three
archives: `Fold 1/images/fold1/{images,types}.npy` and `Fold 1/masks/fold1/masks.npy`; channels of the masks are
neoplastic, inflammatory, connective, dead, epithelial (not neoplastic), each with object ids, and background.

Fields carry no patient, so a fold is one group: the folds are train, validation and test as in the paper's first
round. They are mapped from disk, a field at a time.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from slidekick.data.errors import InputError
from slidekick.data.sources.published import array_file, existing_folder, found, whole_numbers
from slidekick.data.sources.sample import Sample, Samples

PAPER = "Gamper et al., arXiv:2003.10778 (2020)"
LICENCE = "CC BY-NC-SA 4.0"
MPP = 0.25  # the fields are at 40x
CLASSES = {
    1: "neoplastic cell nucleus",
    2: "inflammatory cell nucleus",
    3: "connective tissue cell nucleus",
    4: "dead cell nucleus",
    5: "non-neoplastic epithelial cell nucleus",
}
SPLITS = {1: "train", 2: "val", 3: "test"}
ORGANS = {
    "Adrenal_gland": "adrenal gland",
    "Bile-duct": "bile duct",
    "Bladder": "bladder",
    "Breast": "breast",
    "Cervix": "cervix",
    "Colon": "colon",
    "Esophagus": "oesophagus",
    "HeadNeck": "head and neck",
    "Kidney": "kidney",
    "Liver": "liver",
    "Lung": "lung",
    "Ovarian": "ovary",
    "Pancreatic": "pancreas",
    "Prostate": "prostate",
    "Skin": "skin",
    "Stomach": "stomach",
    "Testis": "testis",
    "Thyroid": "thyroid",
    "Uterus": "uterus",
}
_FOLD = re.compile(r"fold[ _-]*([123])(?!\d)", re.IGNORECASE)


@dataclass(frozen=True)
class _Fold:
    number: int
    images: np.ndarray  # (N, H, W, 3), 0 to 255, as floats
    masks: np.ndarray  # (N, H, W, 6)
    organs: list[str]
    path: Path  # of the masks, for messages


def read(folder: Path) -> Samples:
    """The fields of every fold below `folder`, in order. Raises InputError."""
    existing_folder(folder, "'Fold 1', 'Fold 2' and 'Fold 3' of PanNuke")
    images = _by_fold(folder, "images.npy")
    masks = _by_fold(folder, "masks.npy")
    if odd := sorted(set(images) ^ set(masks)):
        raise InputError(f"{folder}: fold {odd[0]} lacks its images.npy or masks.npy; unpack its archive again")
    folds = [_fold(number, images[number], masks[number]) for number in sorted(images)]
    return Samples([(fold, index) for fold in folds for index in range(len(fold.organs))], _sample)


def _by_fold(folder: Path, name: str) -> dict[int, Path]:
    paths = {}
    for path in found(folder, name, "PanNuke's 'Fold 1/images/fold1/images.npy' and 'Fold 1/masks/fold1/masks.npy'"):
        numbers = _FOLD.findall(str(path.relative_to(folder).parent)) or _FOLD.findall(folder.resolve().name)
        if not numbers:
            raise InputError(f"{path}: no folder above it tells its fold; expected 'fold1', 'fold2' or 'fold3'")
        if paths.setdefault(int(numbers[-1]), path) != path:
            raise InputError(f"{path}: fold {numbers[-1]} is there twice; give a folder that holds it once")
    return paths


def _fold(number: int, images: Path, masks: Path) -> _Fold:
    pixels = array_file(images, (None, None, None, 3), "fields as (N, 256, 256, 3)")
    labels = array_file(
        masks, (*pixels.shape[:3], 6), f"masks of the {len(pixels)} fields of {images.name}, 6 channels"
    )
    path = images.with_name("types.npy")
    types = array_file(path, (len(pixels),), f"the organs of the {len(pixels)} fields of {images.name}")
    names = types.tolist()
    if unknown := sorted({str(name) for name in names} - set(ORGANS)):
        raise InputError(f"{path}: unknown organ {unknown[0]!r}; expected {', '.join(ORGANS)}")
    return _Fold(number, pixels, labels, [ORGANS[name] for name in names], masks)


def _sample(part: tuple[_Fold, int]) -> Sample:
    fold, index = part
    mask, ids = _labels(np.asarray(fold.masks[index]), fold.path)
    return Sample(
        id=f"fold{fold.number}_{index:04d}",
        image=_pixels(np.asarray(fold.images[index]), fold, index),
        group=f"pannuke_fold{fold.number}",
        mask=mask,
        instances=ids,
        classes=CLASSES,
        organ=fold.organs[index],
        mpp=MPP,
        magnification=40,
        split=SPLITS[fold.number],
        extra={"fold": fold.number},
    )


def _pixels(values: np.ndarray, fold: _Fold, index: int) -> np.ndarray:
    if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 255):
        raise InputError(f"images.npy of fold {fold.number}: field {index} is not within 0 to 255; unpack it again")
    return np.rint(values).astype(np.uint8)


def _labels(channels: np.ndarray, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Classes uint8 and ids uint16, (H, W), of (H, W, 6); where kinds overlap, the earlier channel keeps the pixel.

    Ids start anew in every channel of the files; here they run on, so that no two nuclei share one.
    """
    mask = np.zeros(channels.shape[:2], np.uint8)
    ids = np.zeros(channels.shape[:2], np.uint16)
    last = 0
    for value in CLASSES:
        layer = whole_numbers(channels[..., value - 1], path, "object ids")
        held = np.unique(layer[layer > 0])
        free = (layer > 0) & (mask == 0)
        mask[free] = value
        ids[free] = np.searchsorted(held, layer[free]) + 1 + last
        last += len(held)
    return mask, ids
