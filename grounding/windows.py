"""Training windows for the segmentor: which picture, which place, which zoom, which words, and the truth.

Every window follows from (seed, step, index) alone, so a resumed run sees what the first would have seen. Pictures
are decoded once and kept. Knows files and labels; knows no network.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from PIL import Image
from scipy import ndimage
from skimage.morphology import h_maxima
from skimage.segmentation import watershed

from slidekick.data.items import Item
from slidekick.grounding.model import MASK_STRIDE

# Haematoxylin, eosin, residual as optical densities (Ruifrok & Johnston 2001), for stain jitter.
HED = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]], np.float32)
HED_INVERSE = np.linalg.inv(HED).astype(np.float32)


NECK = 1.75  # px by which two middles must stand out over the neck between them to be two objects


@dataclass(frozen=True)
class Source:
    """One picture and what is known of one concept in it. mode: "mask", "whole" (all of it) or "absent"."""

    item: Item
    mode: str
    classes: tuple[int, ...] | None = None  # None: instance ids
    components: bool = False  # each connected piece of the mask is one object
    split: bool = False  # pieces are objects that may touch: parted at their necks


@dataclass(frozen=True)
class Truth:
    """What one prompt should give in one window.

    mask: float32 (w/2, w/2) 0–1. interior: float32, distance to the outline scaled to 1 in each object's middle, or
    None where single objects are not labelled. present: the concept has pixels in the window.
    """

    phrase: str
    mask: np.ndarray
    interior: np.ndarray | None
    present: bool


def concept_sources(entry: dict, items: Sequence[Item]) -> list[Source]:
    """All pictures that say something about one concept of the configuration."""
    found = []
    for item in items:
        classes = entry.get("masks", {}).get(item.set)
        if classes is not None:
            ids = None if classes == "instances" else tuple(classes)
            joined, touching = (item.set in entry.get(key, ()) for key in ("components", "split"))
            found.append(Source(item, "mask", ids, joined, touching))
        elif item.label in entry.get("whole", {}).get(item.set, ()):
            found.append(Source(item, "whole"))
        absent = entry.get("absent", {}).get(item.set, ())
        if absent == "all" or item.label in absent:
            found = [source for source in found if source.item is not item]
            found.append(Source(item, "absent"))
    return found


@lru_cache(maxsize=4000)
def pixels_of(path) -> np.ndarray:
    """uint8 (H, W, 3)."""
    return np.asarray(Image.open(path).convert("RGB"))


@lru_cache(maxsize=4000)
def _raw(path) -> np.ndarray:
    return np.asarray(Image.open(path))


def truth_of(source: Source) -> tuple[np.ndarray, np.ndarray | None]:
    """Mask (bool H, W) and object ids (int32 H, W, or None where objects are not told apart)."""
    height, width = pixels_of(source.item.image).shape[:2]
    if source.mode != "mask":
        mask = np.full((height, width), source.mode == "whole")
        return mask, None
    if source.classes is None:
        ids = _raw(source.item.instances).astype(np.int32)
        return ids > 0, ids
    raw = _raw(source.item.mask)
    mask = np.isin(raw, source.classes)
    if source.item.instances:
        return mask, _raw(source.item.instances).astype(np.int32) * mask
    if source.split:
        return mask, _parted(source.item.mask, source.classes)
    return mask, ndimage.label(mask)[0].astype(np.int32) if source.components else None


@lru_cache(maxsize=4000)
def _parted(path, classes: tuple[int, ...]) -> np.ndarray:
    """Object ids of a mask whose touching objects were merged, parted where they are narrow. int32 (H, W).

    Watershed of the distance map from its maxima that stand out by `NECK` (h-maxima, Soille 1999); a stand-in for
    outlines that the source lost, good enough to teach where middles are.
    """
    mask = np.isin(_raw(path), classes)
    distance = cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, 5)
    seeds = ndimage.label(h_maxima(distance, NECK))[0]
    return watershed(-distance, seeds, mask=mask).astype(np.int32)


def window(
    source: Source, side: int, zoom_range: tuple[float, float], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A random square of `source`'s picture: uint8 (side, side, 3) and the 2×3 matrix that maps picture to window.

    Rotated by quarter turns and mirrored; half of the windows of a mask source are centred on a marked pixel.
    """
    pixels = pixels_of(source.item.image)
    height, width = pixels.shape[:2]
    low, high = zoom_range
    zoom = float(np.exp(rng.uniform(np.log(low), np.log(high))))
    zoom = max(zoom, 0.8 * side / max(height, width))  # little room is left for mirrored filling
    span = side / zoom
    centre = np.array([rng.uniform(*_reach(width, span)), rng.uniform(*_reach(height, span))])
    if source.mode == "mask" and rng.random() < 0.5:
        ys, xs = np.nonzero(truth_of(source)[0])
        if len(ys):
            pick = rng.integers(len(ys))
            centre = np.array([xs[pick], ys[pick]]) + rng.uniform(-0.3, 0.3, 2) * span
    turn = rng.integers(4) * np.pi / 2
    flip = 1 if rng.random() < 0.5 else -1
    rotate = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) @ np.diag([flip, 1])
    matrix = np.hstack([zoom * rotate, (side / 2 - zoom * rotate @ centre)[:, None]])
    return warp(pixels, matrix, side), matrix


def _reach(length: int, span: float) -> tuple[float, float]:
    return (length / 2, length / 2) if span >= length else (span / 2, length - span / 2)


def warp(array: np.ndarray, matrix: np.ndarray, side: int, nearest: bool = False) -> np.ndarray:
    """`array` seen through `matrix`; beyond its edge the picture is mirrored. Shrinking is smoothed first."""
    zoom = float(np.hypot(matrix[0, 0], matrix[1, 0]))
    if not nearest and zoom < 0.75:
        array = cv2.GaussianBlur(array, (0, 0), 0.4 / zoom)
    flags = cv2.INTER_NEAREST if nearest else cv2.INTER_LINEAR
    return cv2.warpAffine(array, matrix, (side, side), flags=flags, borderMode=cv2.BORDER_REFLECT_101)


def window_truth(source: Source, phrase: str, matrix: np.ndarray, side: int) -> Truth:
    """The truth of one concept in a window made by `window`, at the decoder's resolution."""
    mask, ids = truth_of(source)
    size = side // MASK_STRIDE
    drawn = warp(mask.astype(np.uint8), matrix, side, nearest=True).astype(np.float32)
    small = cv2.resize(drawn, (size, size), interpolation=cv2.INTER_AREA)
    interior = None
    if ids is not None:
        interior = interior_map(warp(ids.astype(np.float32), matrix, side, nearest=True)[::2, ::2].astype(np.int32))
    elif source.mode == "absent":
        interior = np.zeros((size, size), np.float32)
    return Truth(phrase, small, interior, bool(drawn.sum() >= 12))


def interior_map(ids: np.ndarray) -> np.ndarray:
    """Distance to each object's own outline, divided by the object's largest: 1 in its middle, 0 outside."""
    out = np.zeros(ids.shape, np.float32)
    for index, box in enumerate(ndimage.find_objects(ids), 1):
        if box is not None:
            one = np.pad(ids[box] == index, 1)
            distance = cv2.distanceTransform(one.astype(np.uint8), cv2.DIST_L2, 3)[1:-1, 1:-1]
            out[box] = np.maximum(out[box], distance / max(float(distance.max()), 1e-6))
    return out


def stain_jitter(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Stain strengths, background and brightness changed at random (Tellez et al. 2019, HED augmentation)."""
    if rng.random() < 0.2:
        return pixels
    density = -np.log((pixels.astype(np.float32) + 1) / 256)
    stains = density @ HED_INVERSE
    stains = stains * rng.uniform(0.7, 1.3, 3).astype(np.float32) + rng.uniform(-0.04, 0.04, 3).astype(np.float32)
    light = np.exp(-stains @ HED) * 256 - 1
    light = light * rng.uniform(0.9, 1.1) + rng.uniform(-10, 10)
    if rng.random() < 0.2:
        light = cv2.GaussianBlur(light, (0, 0), rng.uniform(0.4, 1.2))
    return np.clip(light, 0, 255).astype(np.uint8)
