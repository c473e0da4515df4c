"""Objects outlined from boxes or points: each in a window of its own, at a zoom at which it has its usual size."""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np

from slidekick.data.errors import InputError
from slidekick.grounding.sizes import CORNER_FIRST, CORNER_LAST, NEGATIVE, NO_POINT, POSITIVE

NAMELESS = "object"  # what a finding is called that no words name
LARGEST = 0.75  # of the window's side that a box may fill
USUAL = 0.4  # of the window's side that a box without words fills
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

    vector: of the words, zeros for none. zoom: usual for the concept, or None. Returns the probability, float32
    (H, W), and the objects' numbers in the boxes' order, int32 (H, W); where boxes overlap the likelier one wins.
    """
    probability = np.zeros(image.shape[:2], np.float32)
    labels = np.zeros(image.shape[:2], np.int32)
    for number, frame in enumerate(frames or [None], 1):
        corners = [(frame[0], frame[1], CORNER_FIRST), (frame[2], frame[3], CORNER_LAST)] if frame else []
        own = (
            clicks
            if frame is None
            else [c for c in clicks if frame[0] <= c[0] < frame[2] and frame[1] <= c[1] < frame[3]]
        )
        area, drawn = _one(network, image, vector, zoom, [*corners, *own], slope)
        better = (drawn >= 0.5) & (drawn > probability[area])
        labels[area][better] = number
        probability[area] = np.maximum(probability[area], drawn)
    return probability, labels


def _one(network, image, vector, zoom: float | None, marks: Clicks, slope: float):
    """One object: the part of the picture that was looked at, and the probability in it."""
    side = network.config.window
    xs, ys = ([mark[axis] for mark in marks] for axis in (0, 1))
    extent = max(max(xs) - min(xs), max(ys) - min(ys), 1.0)
    has_box = any(mark[2] == CORNER_FIRST for mark in marks)
    if zoom is None:
        zoom = USUAL * side / extent if has_box else 1.0
    zoom = float(np.clip(zoom, side / (2 * max(image.shape[:2])), LARGEST * side / extent))
    left, top = ((max(v) + min(v)) / 2 * zoom - side / 2 for v in (xs, ys))
    matrix = np.array([[zoom, 0, -left], [0, zoom, -top]])
    if not has_box and not network.config.knows_words:  # SAM was taught with an empty point wherever there is no box
        marks = [*marks, (0.0, 0.0, NO_POINT)]
    if zoom < 1:  # shrinking is smoothed first, as in training
        image = cv2.GaussianBlur(image, (0, 0), 0.4 / zoom)
    window = cv2.warpAffine(image, matrix, (side, side), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    points = np.array([[(x * zoom - left, y * zoom - top) for x, y, _ in marks]], np.float32)
    logits, _ = network.decode(
        network.encode(window), vector[None], points, np.array([[label for *_, label in marks]], np.int64)
    )
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
    return np.s_[y0:y1, x0:x1], 0.5 * np.tanh(0.5 * part) + 0.5


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
