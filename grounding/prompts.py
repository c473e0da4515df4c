"""Geometric prompts for training, as SAM makes them: boxes, points, and clicks where the last mask was wrong.

Pure functions on arrays; coordinates are (x, y) in px of the window.
"""

from __future__ import annotations

import cv2
import numpy as np

from slidekick.grounding.sizes import CORNER_FIRST, CORNER_LAST, NEGATIVE, NO_POINT, POSITIVE

BOX_NOISE = 0.1  # of a side, standard deviation; SAM's
MAX_BOX_NOISE = 20.0  # px; SAM's
SMALLEST_OBJECT = 12  # px; what is below it is a speck that nobody would point at or draw a box around
Click = tuple[float, float, int]


def pick_object(mask: np.ndarray, ids: np.ndarray | None, rng: np.random.Generator) -> np.ndarray | None:
    """One object of `mask` (bool), by ids or else by connected pieces; None where none has `SMALLEST_OBJECT` px."""
    if ids is None:
        ids = cv2.connectedComponents(mask.astype(np.uint8))[1]
    areas = np.bincount(ids[mask].ravel(), minlength=1)
    areas[0] = 0
    large = np.flatnonzero(areas >= SMALLEST_OBJECT)
    return mask & (ids == rng.choice(large)) if len(large) else None


def box_around(mask: np.ndarray, scale: float, rng: np.random.Generator) -> list[Click]:
    """The two corners of a box around `mask`, loosened as a person would; `scale` px of the window a mask pixel."""
    ys, xs = np.nonzero(mask)
    sides = np.array([xs.max() - xs.min() + 1, ys.max() - ys.min() + 1]) * scale
    low = np.array([xs.min(), ys.min()]) * scale
    noise = np.clip(rng.normal(0, BOX_NOISE, (2, 2)) * sides, -MAX_BOX_NOISE, MAX_BOX_NOISE)
    (x0, y0), (x1, y1) = low + noise[0], low + sides + noise[1]
    return [(float(x0), float(y0), CORNER_FIRST), (float(x1), float(y1), CORNER_LAST)]


def click_in(mask: np.ndarray, label: int, scale: float, rng: np.random.Generator) -> Click:
    """A random point of `mask` (bool, not empty)."""
    ys, xs = np.nonzero(mask)
    pick = rng.integers(len(ys))
    return float((xs[pick] + 0.5) * scale), float((ys[pick] + 0.5) * scale), label


def correcting_click(drawn: np.ndarray, truth: np.ndarray, scale: float, rng: np.random.Generator) -> Click | None:
    """A click on what is wrong: in the largest wrong piece; None where nothing is.

    Half of them at its middle, as a person would click and as evaluation does, half anywhere in it (SAM).
    """
    wrong = drawn != truth
    count, pieces, stats, _ = cv2.connectedComponentsWithStats(wrong.astype(np.uint8))
    if count < 2:
        return None
    piece = pieces == 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())
    if rng.random() < 0.5:
        distance = cv2.distanceTransform(np.pad(piece, 1).astype(np.uint8), cv2.DIST_L2, 3)[1:-1, 1:-1]
        piece = distance >= distance.max()
    x, y, _ = click_in(piece, POSITIVE, scale, rng)
    inside = truth[min(int(y / scale), truth.shape[0] - 1), min(int(x / scale), truth.shape[1] - 1)]
    return x, y, POSITIVE if inside else NEGATIVE


def padded(clicks: list[list[Click]]) -> tuple[np.ndarray, np.ndarray]:
    """float32 (P, N, 2) and int64 (P, N), rows filled up with NO_POINT; N is at least 1."""
    length = max(1, *(len(row) for row in clicks)) if clicks else 1
    points = np.zeros((len(clicks), length, 2), np.float32)
    labels = np.full((len(clicks), length), NO_POINT, np.int64)
    for index, row in enumerate(clicks):
        for place, (x, y, label) in enumerate(row):
            points[index, place], labels[index, place] = (x, y), label
    return points, labels
