"""Plans of composed slides: which tissue lies where, known to the pixel. No pictures here.

A slide is a grid of square cells. Pieces of tissue are blobs on it, each of one tissue with foci of others; their
outlines are where a smooth field passes zero, so the share of tissue in a cell is exact. Everything follows from the
case and the seed. `composed.py` paints plans with real tiles, training composes features by them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import ndimage

CELL_UM = 112.0  # side of a cell: a tile of 224 px at 0.5 µm
GLASS = -1
OTHER = "other tissue"  # stands for any that is not to be named
FINE = 8  # points along a cell's side at which the field is looked at for its share of tissue
PEN_UM, FOLD_UM = (150.0, 400.0), (40.0, 90.0)  # widths
PENS = ((40, 60, 150), (30, 110, 60), (25, 25, 30))  # blue, green and black ink
SINGLE = 0.2  # share of slides that show one tissue alone
SOLE = 4.0  # cells; a focus is never smaller than so many across: less would be a matter of luck


@dataclass(frozen=True)
class Stroke:
    """A pen line or a fold. points: (x, y) in cells. width: in cells. colour: RGB of ink, None for a fold."""

    points: tuple[tuple[float, float], ...]
    width: float
    colour: tuple[int, int, int] | None


@dataclass(frozen=True)
class Layout:
    """case: what the slide shows. tissues: names of what is on it. cells: int16 (rows, columns), index into tissues or
    `GLASS`. field: float32 (rows + 1, columns + 1), above 0 where there is tissue, linear between the cells' corners.
    strokes: pen and folds. seed: what it was made from."""

    case: str
    tissues: tuple[str, ...]
    cells: np.ndarray
    field: np.ndarray
    strokes: tuple[Stroke, ...]
    seed: int

    @cached_property
    def tissue(self) -> np.ndarray:
        """float32 (rows, columns): share of each cell that is tissue; 0 on glass."""
        places = (np.arange(FINE) + 0.5) / FINE
        left, right = self.field[:, :-1, None], self.field[:, 1:, None]
        across = left * (1 - places) + right * places  # (rows + 1, columns, FINE)
        down = across[:-1, :, :, None] * (1 - places) + across[1:, :, :, None] * places
        return (down > 0).mean((2, 3), dtype=np.float32) * (self.cells != GLASS)

    def share(self, tissue: str) -> float:
        """Share of the slide's tissue that is this one, 0–1."""
        if tissue not in self.tissues:
            return 0.0
        return float(self.tissue[self.cells == self.tissues.index(tissue)].sum() / self.tissue.sum())

    @property
    def dominant(self) -> str:
        """The tissue that takes most of it."""
        return max(self.tissues, key=self.share)

    def boxes(self, tissue: str | None = None) -> list[tuple[int, int, int, int]]:
        """(x0, y0, x1, y1) in cells of each connected part of a tissue, largest first; None: of the pieces."""
        shown = self.cells != GLASS if tissue is None else self.cells == self.tissues.index(tissue)
        labels, number = ndimage.label(shown)
        sizes = np.bincount(labels.ravel(), minlength=number + 1)[1:]
        places = ndimage.find_objects(labels)
        order = sorted(range(number), key=lambda one: (-sizes[one], one))
        return [(places[i][1].start, places[i][0].start, places[i][1].stop, places[i][0].stop) for i in order]


def make_layout(
    case: str,
    tissues: Sequence[str],
    seed: int,
    rows: tuple[int, int] = (40, 60),
    columns: tuple[int, int] = (40, 60),
    mixed: bool = False,
) -> Layout:
    """A plan with some of `tissues`; at least one is left out where there are three and more.

    rows, columns: least and most cells. mixed: every piece is of one tissue, as on an array of several organs; else
    one tissue takes most of each piece and others lie in it.
    """
    rng = np.random.default_rng([seed, len(tissues)])
    height, width = int(rng.integers(*rows, endpoint=True)), int(rng.integers(*columns, endpoint=True))
    most = max(1, min(len(tissues) - (len(tissues) > 2), 6 if mixed else 4))
    number = 1 if rng.random() < SINGLE else int(rng.integers(min(2, most), most, endpoint=True))
    chosen = [str(name) for name in rng.choice(list(tissues), number, False)]
    cells = np.full((height, width), GLASS, np.int16)
    field = np.full((height + 1, width + 1), -1.0, np.float32)
    slots = _slots(height, width, len(chosen) if mixed else int(rng.integers(1, 3, endpoint=True)), rng)
    for number, slot in enumerate(slots):
        _put_piece(cells, field, slot, number % len(chosen) if mixed else None, len(chosen), rng)
    shown = [index for index in range(len(chosen)) if (cells == index).any()]
    renamed = np.full(len(chosen) + 1, GLASS, np.int16)
    renamed[shown] = np.arange(len(shown))
    strokes = _strokes(slots, rng)
    return Layout(case, tuple(chosen[i] for i in shown), renamed[cells], field, strokes, seed)


def _slots(height: int, width: int, number: int, rng: np.random.Generator) -> list[tuple[int, int, int, int]]:
    """Rectangles (y0, x0, y1, x1) in cells that do not touch, one a piece, a glass rim around each."""
    columns = int(np.ceil(np.sqrt(number * width / height)))
    columns = min(max(columns, 1), number)
    lines = -(-number // columns)
    places = rng.permutation(lines * columns)[:number]
    found = []
    for place in sorted(places):
        row, column = divmod(int(place), columns)
        y0, y1 = (round(height * (row + part) / lines) for part in (0, 1))
        x0, x1 = (round(width * (column + part) / columns) for part in (0, 1))
        rim_y, rim_x = max(1, (y1 - y0) // 10), max(1, (x1 - x0) // 10)
        found.append((y0 + rim_y, x0 + rim_x, y1 - rim_y, x1 - rim_x))
    return found


def _put_piece(cells, field, slot, only: int | None, number: int, rng: np.random.Generator) -> None:
    """A blob within a slot: of tissue `only`, or of a base with foci of the others."""
    y0, x0, y1, x1 = slot
    blob = _blob(y1 - y0, x1 - x0, rng)
    field[y0 : y1 + 1, x0 : x1 + 1] = np.maximum(field[y0 : y1 + 1, x0 : x1 + 1], blob)
    kinds = np.full((y1 - y0, x1 - x0), int(rng.integers(number)) if only is None else only, np.int16)
    if only is None:
        for other in rng.permutation(number):
            if other != kinds[0, 0] and rng.random() < 0.8:
                kinds[_focus(kinds.shape, rng)] = other
    corners = np.stack([blob[:-1, :-1], blob[1:, :-1], blob[:-1, 1:], blob[1:, 1:]])
    inside = corners.max(0) > 0
    cells[y0:y1, x0:x1][inside] = kinds[inside]


def _blob(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """float32 (height + 1, width + 1): an ellipse with an uneven outline, below 0 along the rim."""
    y, x = np.mgrid[-1 : 1 : (height + 1) * 1j, -1 : 1 : (width + 1) * 1j]
    noise = ndimage.gaussian_filter(rng.standard_normal(y.shape), max(2.0, min(height, width) / 8))
    noise /= max(float(np.abs(noise).max()), 1e-6)
    reach = rng.uniform(0.75, 0.95, 2)
    field = 1 - (y / reach[0]) ** 2 - (x / reach[1]) ** 2 + 0.45 * noise
    field[[0, -1]] = field[:, [0, -1]] = -1
    return field.astype(np.float32)


def _focus(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """bool (h, w): an ellipse somewhere, from a few cells across up to half of the piece."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    radius = [rng.uniform(SOLE / 2, max(SOLE / 2, side * 0.45)) for side in shape]
    centre = [rng.uniform(0.25, 0.75) * side for side in shape]
    return ((y - centre[0]) / radius[0]) ** 2 + ((x - centre[1]) / radius[1]) ** 2 < 1


def _strokes(slots, rng: np.random.Generator) -> tuple[Stroke, ...]:
    """On one slide in three a pen line along a piece, on one in three a fold across one."""
    found = []
    y0, x0, y1, x1 = slots[int(rng.integers(len(slots)))]
    if rng.random() < 1 / 3:
        bent = rng.uniform(-0.6, 0.6, 6)
        points = tuple(
            (float(x0 + (x1 - x0) * part), float(y0 - 0.5 + bow))
            for part, bow in zip(np.linspace(0, 1, 6), bent, strict=True)
        )
        colour = PENS[int(rng.integers(len(PENS)))]
        found.append(Stroke(points, float(rng.uniform(*PEN_UM) / CELL_UM), colour))
    if rng.random() < 1 / 3:
        ends = rng.uniform(0.2, 0.8, 4)
        points = (
            (x0 + (x1 - x0) * ends[0], y0 + (y1 - y0) * ends[1]),
            (x0 + (x1 - x0) * ends[2], y0 + (y1 - y0) * ends[3]),
        )
        found.append(
            Stroke(tuple((float(x), float(y)) for x, y in points), float(rng.uniform(*FOLD_UM) / CELL_UM), None)
        )
    return tuple(found)
