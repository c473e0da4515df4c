"""Objects outlined from boxes or points: each in a window of its own, at a zoom at which it has its usual size."""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np

from slidekick.data.errors import InputError
from slidekick.grounding.sizes import (
    CLOSEST,
    CORNER_FIRST,
    CORNER_LAST,
    DRAWN,
    NEGATIVE,
    NO_POINT,
    OBJECT_SHARES,
    POSITIVE,
)
from slidekick.grounding.tiles import sigmoid, warp

NAMELESS = "object"  # what a finding is called that no words name
USUAL = 0.3  # of the window's side that a box fills, as in training
MOST_PROMPTS = 10_000  # boxes or points; each box is looked at by itself
Clicks = list[tuple[float, float, int]]
Frames = list[tuple[float, float, float, float]]


def checked_points(points: Sequence | None, shape: tuple[int, int]) -> Clicks:
    """Points as (x, y, label). Raises InputError for one outside the picture, or that is none."""
    found: Clicks = []
    for point in _rows(points, "points"):
        if len(point) not in (2, 3) or not all(_number(value) for value in point):
            raise InputError(f"point {_short(point)} is no (x, y, label); give two numbers, and 1 or 0")
        x, y, label = (*point, POSITIVE)[:3]
        if label not in (NEGATIVE, POSITIVE):
            raise InputError(f"point {_short(point)}: label {label} is neither 1 (belongs to it) nor 0 (does not)")
        if not (0 <= x < shape[1] and 0 <= y < shape[0]):
            raise InputError(f"point {_short(point)} is outside the picture of {shape[1]} × {shape[0]} px")
        found.append((float(x), float(y), int(label)))
    return found


def checked_boxes(boxes: Sequence | None, shape: tuple[int, int]) -> Frames:
    """Boxes as (x0, y0, x1, y1), cut to the picture. Raises InputError for an inverted, empty or outside one."""
    found: Frames = []
    for box in _rows(boxes, "boxes"):
        if len(box) != 4 or not all(_number(value) for value in box):
            raise InputError(f"box {_short(box)} is no (x0, y0, x1, y1); give four numbers")
        x0, y0, x1, y1 = (float(value) for value in box)
        if x1 <= x0 or y1 <= y0:
            raise InputError(
                f"box {_short(box)} is inverted or empty; give its upper left, then its lower right corner"
            )
        x0, y0, x1, y1 = max(x0, 0.0), max(y0, 0.0), min(x1, float(shape[1])), min(y1, float(shape[0]))
        if x1 - x0 < 1 or y1 - y0 < 1:
            raise InputError(f"box {_short(box)} is outside the picture of {shape[1]} × {shape[0]} px")
        found.append((x0, y0, x1, y1))
    return found


def outline_objects(
    network, image: np.ndarray, vector: np.ndarray, zoom: float | None, clicks: Clicks, frames: Frames, slope: float
) -> tuple[np.ndarray, np.ndarray]:
    """Outline one object a box, or without boxes the one at the points.

    vector: of the words, zeros for none. zoom: usual for the concept, or None; a box tells its own. Returns the
    probability, float32 (H, W), and the objects' numbers in the boxes' order, int32 (H, W); where boxes overlap the
    likelier one wins. Clicks in a box, or after the first, correct what was drawn without them.
    """
    probability = np.zeros(image.shape[:2], np.float32)
    labels = np.zeros(image.shape[:2], np.int32)
    for number, frame in enumerate(frames or [None], 1):
        if frame is None:
            area, drawn = _at_points(network, image, vector, zoom or 1.0, clicks, slope)
        else:
            corners = [(frame[0], frame[1], CORNER_FIRST), (frame[2], frame[3], CORNER_LAST)]
            own = [c for c in clicks if frame[0] <= c[0] < frame[2] and frame[1] <= c[1] < frame[3]]
            closer = _usual_zoom(image, network.config.window, max(frame[2] - frame[0], frame[3] - frame[1]))
            area, drawn = _look(network, image, vector, closer, corners, own, slope)
        better = (drawn >= DRAWN) & (drawn > probability[area])
        labels[area][better] = number
        probability[area] = np.maximum(probability[area], drawn)
    return probability, labels


def _at_points(network, image, vector, zoom: float, clicks: Clicks, slope: float):
    """The object at the points; looked at once more where its size asks for another zoom."""
    side = network.config.window
    spread = max(max(axis) - min(axis) for axis in list(zip(*clicks, strict=True))[:2])
    zoom = min(zoom, OBJECT_SHARES[1] * side / max(spread, 1.0))
    area, drawn = _look(network, image, vector, zoom, clicks[:1], clicks[1:], slope)
    found = np.argwhere(drawn >= DRAWN)
    if len(found):
        extent = max(float(np.ptp(found, axis=0).max()) + 1, spread)
        if not OBJECT_SHARES[0] <= extent * zoom / side <= OBJECT_SHARES[1]:
            return _look(network, image, vector, _usual_zoom(image, side, extent), clicks[:1], clicks[1:], slope)
    return area, drawn


def _usual_zoom(image: np.ndarray, side: int, extent: float) -> float:
    """Window px per picture px at which something of `extent` px has the size that objects had in training."""
    return float(np.clip(USUAL * side / extent, side / (2 * max(image.shape[:2])), CLOSEST))


def _look(network, image, vector, zoom: float, marks: Clicks, further: Clicks, slope: float):
    """One object by `marks`, then corrected by `further`: the part of the picture looked at, the probability in it."""
    side = network.config.window
    xs, ys = ([mark[axis] for mark in (*marks, *further)] for axis in (0, 1))
    left, top = ((max(v) + min(v)) / 2 * zoom - side / 2 for v in (xs, ys))
    matrix = np.array([[zoom, 0, -left], [0, zoom, -top]])
    maps, logits = network.encode(warp(image, matrix, side)), None
    has_box = marks[0][2] == CORNER_FIRST
    for number in range(len(further) + 1):
        seen = [*marks, *further[:number]]
        if not has_box and not network.config.knows_words:  # SAM was taught with an empty point where there is no box
            seen.append((0.0, 0.0, NO_POINT))
        points = np.array([[(x * zoom - left, y * zoom - top) for x, y, _ in seen]], np.float32)
        labels = np.array([[label for *_, label in seen]], np.int64)
        logits, _ = network.decode(maps, vector[None], points, labels, None if logits is None else logits[:, 0])
    return _back(logits[0, 0] * slope, matrix, zoom, side, image.shape[:2])


def _back(logits: np.ndarray, matrix: np.ndarray, zoom: float, side: int, shape: tuple[int, int]):
    """Mask logits of a window as a probability over the part of the picture that it covers."""
    x0, y0 = (max(0, math.floor(-shift / zoom)) for shift in matrix[:, 2])
    x1 = min(shape[1], math.ceil((side - matrix[0, 2]) / zoom))
    y1 = min(shape[0], math.ceil((side - matrix[1, 2]) / zoom))
    stride = side / logits.shape[0]
    # picture pixel -> mask cell: cell centres lie at (i + ½) · stride − ½ of the window
    there = np.array(
        [[zoom / stride, 0, (x0 * zoom + matrix[0, 2] + 0.5) / stride - 0.5],
         [0, zoom / stride, (y0 * zoom + matrix[1, 2] + 0.5) / stride - 0.5]]
    )  # fmt: skip
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    part = cv2.warpAffine(logits, there, (x1 - x0, y1 - y0), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    return np.s_[y0:y1, x0:x1], sigmoid(part)


def _rows(values: Sequence | None, what: str) -> list:
    try:
        rows = [] if values is None else list(values)
    except TypeError as error:
        raise InputError(f"{what} is {_short(values)}; give a list of tuples") from error
    if len(rows) > MOST_PROMPTS:
        raise InputError(f"{len(rows)} {what}; give {MOST_PROMPTS} at most")
    if bad := [row for row in rows if not isinstance(row, Sequence | np.ndarray) or isinstance(row, str) or _bare(row)]:
        raise InputError(f"{what} hold {_short(bad[0])}; give a list of tuples")
    return rows


def _bare(row: object) -> bool:
    return isinstance(row, np.ndarray) and row.ndim != 1


def _number(value: object) -> bool:
    return isinstance(value, int | float | np.integer | np.floating) and math.isfinite(value)


def _short(value: object) -> str:
    text = str(value.tolist() if isinstance(value, np.ndarray) else tuple(value) if isinstance(value, list) else value)
    return " ".join(text.split())[:60]
