"""Single objects out of a mask and an interior map, by seeded watershed. Pure array functions."""

from __future__ import annotations

import cv2
import numpy as np
from scipy import ndimage
from skimage.segmentation import watershed

SMOOTH = 1.0  # mask cells; the decoder's last upsampling leaves a chequered pattern that would split nuclei
REACH = 4  # mask cells over which that smoothing looks: four times SMOOTH
STEPS = 65535  # the interior is counted in so many while it is smoothed
LARGE = 16.0  # mask cells from outline to middle; from here on an object's own ripples would split it
LARGE_SMOOTH = 0.2  # of that depth: smoothing of large objects
SEED = 0.4  # smoothed interior from which a pixel seeds an object; with SMOOTH chosen by the counts on val pictures
LEAST = 10.0  # mask cells (of 2 × 2 window pixels); a speck is more likely stain than an object


def grow_instances(mask: np.ndarray, interior: np.ndarray, least: float = LEAST) -> np.ndarray:
    """Label the objects of `mask` (bool H, W), told apart by `interior` (float32 H, W, 1 in an object's middle).

    Pieces of the interior above `SEED` are seeds; a piece of mask without a seed is an object by itself. Objects of
    fewer than `least` pixels are left out. Returns
    int32 (H, W), 0 outside, 1..n without gaps. Method: marker-controlled watershed (Meyer 1994) in scikit-image.
    What a piece of mask becomes depends only on itself and on the interior up to `REACH` cells around it, to the bit:
    a part of a picture gives the same objects as the whole.
    """
    return _renumber(grow_from_seeds(mask, interior)[0], least)


def grow_from_seeds(mask: np.ndarray, interior: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The objects of any size and the seeds that they grew from, int32 (H, W) each, with the same numbers.

    An object without a seed is its own.
    """
    if not mask.any():
        return np.zeros(mask.shape, np.int32), np.zeros(mask.shape, np.int32)
    pieces, number = ndimage.label(mask)
    smooth = _smoothed(interior, mask, pieces, number)
    seeds, seed_number = ndimage.label((smooth > SEED) & mask)
    owners = np.zeros(seed_number + 1, np.int64)
    owners[seeds[seeds > 0]] = pieces[seeds > 0]
    held = np.bincount(owners[1:], minlength=number + 1)
    whole = np.zeros(number + 1, np.int32)  # of each piece that is one object, its number
    whole[owners[1:]] = np.arange(1, seed_number + 1)
    lonely = np.flatnonzero(held[1:] == 0) + 1
    whole[lonely] = seed_number + np.arange(1, len(lonely) + 1)
    labels = whole[pieces]
    # Piece by piece: a watershed takes equally high seeds in an order that depends on all that it is given.
    boxes = ndimage.find_objects(pieces)
    for piece in np.flatnonzero(held > 1):
        box = boxes[piece - 1]
        own = pieces[box] == piece
        labels[box][own] = watershed(-smooth[box], seeds[box] * own, mask=own)[own]
    return labels, np.where(labels > seed_number, labels, seeds)


def _smoothed(interior: np.ndarray, mask: np.ndarray, pieces: np.ndarray, number: int) -> np.ndarray:
    """The interior smoothed, more so in large pieces, by a share of their depth."""
    # In whole numbers, which OpenCV sums to the same anywhere; floats are rounded otherwise at a row's end.
    steps = np.round(interior.clip(0, 1) * STEPS).astype(np.uint16)
    smooth = cv2.GaussianBlur(steps, (2 * REACH + 1, 2 * REACH + 1), SMOOTH).astype(np.float32) / STEPS
    depth = cv2.distanceTransform(np.pad(mask, 1).astype(np.uint8), cv2.DIST_L2, 3)[1:-1, 1:-1]
    deepest = np.zeros(number + 1, np.float32)
    np.maximum.at(deepest, pieces[mask], depth[mask])
    boxes = ndimage.find_objects(pieces)
    for piece in np.flatnonzero(deepest[1:] >= LARGE) + 1:
        box = boxes[piece - 1]
        own = pieces[box] == piece
        blurred = cv2.GaussianBlur(interior[box] * own, (0, 0), LARGE_SMOOTH * float(deepest[piece]))
        smooth[box][own] = blurred[own]
    return smooth


def label_at_full_size(labels: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """`labels` (int32 h, w) brought to the size of `mask` (bool H, W) and cut to it, its rim filled from neighbours."""
    height, width = mask.shape
    large = cv2.resize(labels.astype(np.float32), (width, height), interpolation=cv2.INTER_NEAREST)
    rim = cv2.dilate(large, np.ones((3, 3), np.uint8), iterations=2)
    return _renumber(np.where(mask, np.where(large > 0, large, rim), 0).astype(np.int32), 1)


def _renumber(labels: np.ndarray, min_area: float) -> np.ndarray:
    areas = np.bincount(labels.ravel())
    keep = areas >= min_area
    keep[0] = False
    new = np.zeros(len(areas), np.int32)
    new[keep] = np.arange(1, keep.sum() + 1)
    return new[labels]
