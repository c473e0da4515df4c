"""Tiles of a slide: where they lie at a scale, which hold tissue, and their pixels read ahead in a fixed order.

A grid starts at the slide's upper left corner and covers all of it; what its last tiles show beyond the edge is white.
So the same arguments give the same tiles on any machine, and every place of the slide is in one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from slidekick.data.errors import InputError
from slidekick.data.slide import READ_LIMIT_PX, Region, Slide, checked_mpp
from slidekick.data.tissue import TissueMask

AHEAD = 4  # tiles in hand for each reading thread: enough to hide a slow one, few enough to hold
LARGEST_GRID = 20_000_000  # tiles; beyond it an mpp or a size is mistaken


@dataclass(frozen=True)
class TileGrid:
    """Tiles of `size_px` x `size_px` pixels at `mpp`, each sharing `overlap_px` with its neighbours.

    coords: int64 (N, 2), (x, y) of each tile's upper left corner in level-0 pixels, row by row. size_level0: (width,
    height) of a tile in level-0 pixels; they differ where the slide's mpp do.
    """

    coords: np.ndarray
    size_px: int
    overlap_px: int
    mpp: float
    size_level0: tuple[int, int]

    def __len__(self) -> int:
        return len(self.coords)

    def region(self, index: int) -> Region:
        """The rectangle that tile `index` shows; it may reach beyond the slide."""
        x, y = map(int, self.coords[index])
        return Region(x, y, *self.size_level0, self.mpp)


def tile_grid(
    slide: Slide,
    size_px: int,
    mpp: float,
    overlap_px: int = 0,
    tissue: TissueMask | None = None,
    least_tissue: float = 0.0,
) -> TileGrid:
    """The grid over a slide; with `tissue` only tiles of which more than `least_tissue` (0–1) is tissue.

    Raises InputError where the slide states no scale, or size, overlap or scale make no grid.
    """
    if slide.mpp is None:
        raise InputError(
            f"{slide.source}: no scale (µm per pixel) in the file, so tiles have no size on it; state it "
            "with --mpp, or with open_slide(path, mpp=...)"
        )
    if not 0 < size_px <= READ_LIMIT_PX**0.5 or not 0 <= overlap_px < size_px:
        raise InputError(f"tiles of {size_px} pixels that share {overlap_px}; give a size above the overlap")
    scale = np.array([checked_mpp(mpp) / own for own in slide.mpp])
    # Whole level-0 pixels, as other tools have them: the true scale is a hair off the one asked for, and no gap opens.
    size = np.maximum(1, np.round(size_px * scale)).astype(np.int64)
    step = np.maximum(1, size - np.round(overlap_px * scale).astype(np.int64))
    numbers = np.maximum(1, -(-(np.array(slide.dimensions) - size) // step) + 1)
    if numbers.prod() > LARGEST_GRID:
        raise InputError(f"{slide.source}: {numbers.prod()} tiles of {size_px} pixels at {mpp:g} µm; give larger ones")
    xs, ys = (np.arange(number) * one for number, one in zip(numbers, step, strict=True))
    coords = np.stack([np.tile(xs, len(ys)), np.repeat(ys, len(xs))], axis=1)
    grid = TileGrid(coords, size_px, overlap_px, float(mpp), (int(size[0]), int(size[1])))
    if tissue is None:
        return grid
    shares = np.array([tissue.share_in(grid.region(index)) for index in range(len(grid))])
    return TileGrid(coords[shares > least_tissue], size_px, overlap_px, float(mpp), grid.size_level0)


def read_tiles(slide: Slide, grid: TileGrid, threads: int = 2, start: int = 0) -> Iterator[tuple[int, np.ndarray]]:
    """(index, pixels) of each tile from `start` on, in the grid's order: uint8 (size_px, size_px, 3).

    Some tiles are read ahead in threads. Raises InputError, at its turn, for a tile that cannot be decoded.
    """
    side = (grid.size_px, grid.size_px)
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque = deque()
        try:
            for index in range(start, len(grid)):
                waiting.append((index, pool.submit(slide.read, grid.region(index), side)))
                if len(waiting) > threads * AHEAD:
                    first, coming = waiting.popleft()
                    yield first, coming.result()
            while waiting:
                first, coming = waiting.popleft()
                yield first, coming.result()
        finally:
            for _, coming in waiting:
                coming.cancel()
