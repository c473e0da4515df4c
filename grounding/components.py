"""The connected pieces of a mask too large to be held: found chunk by chunk, each told once it is whole.

A chunk's pieces are joined to those above and to the left of it, as in Hoshen & Kopelman (1976); what is remembered are
the pieces that the last row of chunks leaves open, not the mask. Cells are 4-connected, places are (row, column).
Chunks are the same for everybody, so the order in which pieces are told is too. Knows neither slides nor networks.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from scipy import ndimage

from slidekick.grounding.outline import Polygon, doubled_area, edges, rings
from slidekick.grounding.sizes import DRAWN

CHUNK = 512  # cells; a quarter of a million at a time: some 20 MB of arrays while it is worked on


@dataclass(frozen=True)
class Chunk:
    """One chunk as it was scanned.

    labels: int32 (h, w), its own pieces 1..n. first: the number of piece 1, counted over all chunks. drawn: float32
    (h, w). around: bool (h + 2, w + 2), the mask with a cell more on every side, False beyond the picture.
    """

    rows: slice
    columns: slice
    labels: np.ndarray
    first: int
    drawn: np.ndarray
    around: np.ndarray


@dataclass
class Component:
    """One connected piece. box: rows, columns. seed: one of its cells. area: in cells. pieces: its numbers in chunks;
    the lowest names it."""

    box: tuple[slice, slice]
    seed: tuple[int, int]
    area: int
    pieces: list[int] = field(default_factory=list)


class Scan:
    """One pass over a picture of `shape` (rows, columns) cells.

    read: rows, columns -> drawn, float32 (h, w), 0–1. shows: rows, columns -> False where nothing is drawn, so that
    it need not be read.
    """

    def __init__(
        self,
        read: Callable[[slice, slice], np.ndarray],
        shape: tuple[int, int],
        shows: Callable[[slice, slice], bool] = lambda rows, columns: True,
        chunk: int = CHUNK,
    ) -> None:
        self._read, self._shows, self._shape, self._chunk = read, shows, shape, chunk
        self._across = -(-shape[1] // chunk)
        self._firsts = array("q")  # number of each chunk's first piece
        self.pieces = 0  # met so far
        self._parent: dict[int, int] = {}
        self._open: dict[int, Component] = {}

    def components(self, visit: Callable[[Chunk], None] = lambda chunk: None) -> Iterator[Component]:
        """Each component after the row of chunks in which it ends, those of a row by their first number.

        visit: is shown every chunk that has pieces, before any component that ends in it is told.
        """
        height, width = self._shape
        above = np.full(width, -1, np.int64)  # numbers of the pieces in the last row, -1: none
        for top in range(0, height, self._chunk):
            below, left = np.full(width, -1, np.int64), None
            for start in range(0, width, self._chunk):
                rows = slice(top, min(top + self._chunk, height))
                columns = slice(start, min(start + self._chunk, width))
                self._firsts.append(self.pieces)
                numbers = self._take(rows, columns, visit)
                if numbers is not None:
                    self._join(above[columns], numbers[0])
                    if left is not None:
                        self._join(left, numbers[:, 0])
                    below[columns] = numbers[-1]
                left = None if numbers is None else numbers[:, -1]
            going_on = below[below >= 0] if top + self._chunk < height else below[:0]
            alive = {self._root(number) for number in np.unique(going_on).tolist()}
            yield from self._close(alive)
            above = below

    def chunk_of(self, piece: int) -> tuple[slice, slice]:
        """Rows and columns of the chunk that a piece is of."""
        row, column = divmod(bisect_right(self._firsts, piece) - 1, self._across)
        return tuple(
            slice(number * self._chunk, min((number + 1) * self._chunk, side))
            for number, side in zip((row, column), self._shape, strict=True)
        )

    def label_of(self, piece: int) -> int:
        """A piece's label within its chunk, as `ndimage.label` counts."""
        return piece - self._firsts[bisect_right(self._firsts, piece) - 1] + 1

    def _take(self, rows: slice, columns: slice, visit) -> np.ndarray | None:
        """The numbers (h, w) of a chunk's pieces, -1 elsewhere, or None where there are none."""
        if not self._shows(rows, columns):
            return None
        wide = tuple(
            slice(max(0, cells.start - 1), min(side, cells.stop + 1))
            for cells, side in zip((rows, columns), self._shape, strict=True)
        )
        drawn = self._read(*wide)
        inner = tuple(
            slice(own.start - more.start, own.stop - more.start)
            for own, more in zip((rows, columns), wide, strict=True)
        )
        labels, number = ndimage.label(drawn[inner] >= DRAWN)
        if not number:
            return None
        around = np.zeros((labels.shape[0] + 2, labels.shape[1] + 2), bool)
        low, right = 1 - inner[0].start, 1 - inner[1].start
        around[low : low + drawn.shape[0], right : right + drawn.shape[1]] = drawn >= DRAWN
        areas = np.bincount(labels.ravel())
        for label, box in enumerate(ndimage.find_objects(labels), 1):
            piece = self.pieces + label - 1
            column = int(np.argmax(labels[box[0].start, box[1]] == label)) + box[1].start
            self._parent[piece] = piece
            self._open[piece] = Component(
                (_moved(box[0], rows.start), _moved(box[1], columns.start)),
                (box[0].start + rows.start, column + columns.start),
                int(areas[label]),
                [piece],
            )
        visit(Chunk(rows, columns, labels, self.pieces, drawn[inner], around))
        numbers = np.where(labels > 0, labels.astype(np.int64) + (self.pieces - 1), -1)
        self.pieces += number
        return numbers

    def _join(self, one: np.ndarray, other: np.ndarray) -> None:
        """Join the pieces that lie side by side along a seam."""
        both = (one >= 0) & (other >= 0)
        for first, second in np.unique(np.stack([one[both], other[both]], 1), axis=0).tolist():
            low, high = sorted((self._root(first), self._root(second)))
            if low != high:
                self._parent[high] = low
                kept, gone = self._open[low], self._open.pop(high)
                kept.box = tuple(_spanning(a, b) for a, b in zip(kept.box, gone.box, strict=True))
                kept.area += gone.area
                kept.pieces += gone.pieces

    def _root(self, piece: int) -> int:
        root = piece
        while self._parent[root] != root:
            root = self._parent[root]
        while piece != root:
            self._parent[piece], piece = root, self._parent[piece]
        return root

    def _close(self, alive: set[int]) -> Iterator[Component]:
        for root in sorted(self._open.keys() - alive):
            component = self._open.pop(root)
            for piece in component.pieces:
                del self._parent[piece]
            yield component


class Borders:
    """The outlines of components, kept edge by edge while they are open: memory grows with length, not with area."""

    def __init__(self) -> None:
        self._edges: dict[int, np.ndarray] = {}  # piece -> int32 (n, 3): x, y of the start, direction

    def add(self, chunk: Chunk) -> None:
        """Note the edges of a chunk's pieces; the marked cell is on their right."""
        starts, directions, owner = edges(chunk.around, chunk.labels)
        starts += (chunk.columns.start, chunk.rows.start)
        edge = np.column_stack([starts, directions]).astype(np.int32)
        order = np.argsort(owner, kind="stable")
        cuts = np.searchsorted(owner[order], np.arange(1, chunk.labels.max() + 2))
        for label, (first, last) in enumerate(pairwise(cuts.tolist())):
            self._edges[chunk.first + label] = edge[order[first:last]]

    def take(self, component: Component) -> Polygon:
        """The polygon of a component that is whole, in cells; what was kept of it is dropped."""
        return _polygon(np.concatenate([self._edges.pop(piece) for piece in component.pieces]).astype(np.int64))


def _polygon(edge: np.ndarray) -> Polygon:
    """The outer ring, then the holes, (n, 2) x, y, of one component's edges; as `outline.trace` draws it."""
    edge = edge[np.lexsort((edge[:, 2], edge[:, 0], edge[:, 1]))]  # so that no chunk's place is seen in it
    found = [ring for ring, _ in rings(edge[:, :2], edge[:, 2])]
    return sorted(found, key=doubled_area, reverse=True)  # the outer ring alone has an area above 0


def _moved(cells: slice, by: int) -> slice:
    return slice(cells.start + by, cells.stop + by)


def _spanning(one: slice, other: slice) -> slice:
    return slice(min(one.start, other.start), max(one.stop, other.stop))
