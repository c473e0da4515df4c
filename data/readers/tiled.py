"""Reading from pictures made of tiles, whatever file they lie in: which tiles, put where, and the last ones kept."""

from __future__ import annotations

import os
import threading
from abc import ABC, abstractmethod
from collections import OrderedDict
from pathlib import Path
from typing import NamedTuple

import numpy as np

from slidekick.data.errors import InputError
from slidekick.data.readers.header import Header

SEGMENT_LIMIT_PX = 150_000_000  # of one tile or strip: what a picture that cannot be read in parts may have
CACHED_BYTES = 64 * 2**20  # of decoded tiles: a row of them across a wide slide


class Grid(NamedTuple):
    """How one plane of a level is cut: tiles of `width` x `height` pixels, `across` and `down` of them.

    samples: colours of a pixel. separate: planes of colours that lie one after the other, else 1. empty: what a tile
    that the file does not hold looks like.
    """

    width: int
    height: int
    across: int
    down: int
    samples: int
    separate: int
    dtype: np.dtype
    empty: int

    @classmethod
    def over(cls, size: tuple[int, int], tile: tuple[int, int], samples: int, separate: int, dtype) -> Grid:
        """A grid of `tile` over a level of `size`, both (width, height). Raises InputError for tiles beyond reason."""
        if not (min(*size, *tile) > 0 and tile[0] * tile[1] <= SEGMENT_LIMIT_PX):
            raise InputError(f"tiles of {tile[0]} x {tile[1]} pixels; convert it to a tiled TIFF")
        empty = 255 if samples >= 3 and dtype == np.uint8 else 0
        across, down = -(-size[0] // tile[0]), -(-size[1] // tile[1])
        return cls(*tile, across, down, samples, separate, np.dtype(dtype), empty)


class TiledReader(ABC):
    """Base of readers whose files hold tiles at known places. Threads may read at once.

    A child sets `header` and `grids` (of each level a grid for each page that makes up its pixels) and says in
    `decoded` what a tile holds.
    """

    header: Header
    grids: list[list[Grid]]

    def __init__(self, path: Path) -> None:
        self.path = path
        self._handle = os.open(path, os.O_RDONLY)
        self._cache = _Cache(CACHED_BYTES)

    @abstractmethod
    def decoded(self, level: int, page: int, index: int) -> np.ndarray | None:
        """Tile `index`, in rows, as (h, w, samples); None where the file holds none."""

    def read(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        """See `Reader.read`; places without a tile come out white."""
        values = self.values(level, x, y, width, height)
        return np.repeat(values, 3, axis=2) if values.shape[2] == 1 else values[:, :, :3]

    def values(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        """The pixels as they lie in the file: (height, width, samples of all pages)."""
        parts = [self._page(level, page, x, y, width, height) for page in range(len(self.grids[level]))]
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=2)

    def close(self) -> None:
        """Give the file back."""
        if self._handle >= 0:
            os.close(self._handle)
        self._handle = -1

    def bytes_at(self, offset: int, count: int) -> bytes:
        """`count` bytes of the file. Raises InputError where it ends before."""
        data = os.pread(self._handle, count, offset)
        if len(data) < count:
            raise self.damaged("it ends before its pixels do")
        return data

    def damaged(self, what: str) -> InputError:
        """The error for a file that is not as it says; by its name alone, for what is read may be told to others."""
        return InputError(f"{self.path.name}: {what}: the file is damaged or incomplete; copy it again")

    def _page(self, level: int, page: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        grid = self.grids[level][page]
        if grid.separate == 1 and (width, height) == (grid.width, grid.height) and not (x % width or y % height):
            whole = self._whole(level, page, y // height * grid.across + x // width)
            if whole is not None and whole.shape == (height, width, grid.samples) and whole.dtype == grid.dtype:
                return whole
        out = np.empty((height, width, grid.samples), grid.dtype)
        for row in range(y // grid.height, (y + height - 1) // grid.height + 1):
            for column in range(x // grid.width, (x + width - 1) // grid.width + 1):
                top, left = row * grid.height - y, column * grid.width - x
                rows = slice(max(0, top), min(height, top + grid.height))
                columns = slice(max(0, left), min(width, left + grid.width))
                for sample in range(grid.separate):
                    tile = self._tile(level, page, (sample * grid.down + row) * grid.across + column)
                    samples = grid.samples // grid.separate
                    place = out[rows, columns, sample * samples : (sample + 1) * samples]
                    if tile is None:
                        place[:] = grid.empty
                        continue
                    part = tile[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
                    if part.shape != place.shape:
                        raise self.damaged(f"the tile at {column},{row} of level {level} is smaller than stated")
                    place[:] = part
        return out

    def _whole(self, level: int, page: int, index: int) -> np.ndarray | None:
        """One tile all by itself: who reads so has no use for it a second time, so it is neither kept nor copied."""
        found = self._cache.get((level, page, index))
        if found is not None:
            return found.copy()
        found = self._decoded(level, page, index)
        return None if found is None else np.require(found, requirements="CW")  # uncompressed ones cannot be written to

    def _tile(self, level: int, page: int, index: int) -> np.ndarray | None:
        found = self._cache.get((level, page, index))
        if found is None:
            found = self._decoded(level, page, index)
            if found is not None:
                self._cache.put((level, page, index), found)
        return found

    def _decoded(self, level: int, page: int, index: int) -> np.ndarray | None:
        try:
            return self.decoded(level, page, index)
        except InputError:
            raise
        except Exception as error:  # decoders raise errors of their own
            raise self.damaged(f"tile {index} of level {level} cannot be decoded") from error


class _Cache:
    """The tiles used last, up to a number of bytes. Threads may share it."""

    def __init__(self, most: int) -> None:
        self._most, self._held = most, 0
        self._tiles: OrderedDict[tuple, np.ndarray] = OrderedDict()
        self._busy = threading.Lock()

    def get(self, key: tuple) -> np.ndarray | None:
        with self._busy:
            if key in self._tiles:
                self._tiles.move_to_end(key)
            return self._tiles.get(key)

    def put(self, key: tuple, tile: np.ndarray) -> None:
        with self._busy:
            if key not in self._tiles:
                self._tiles[key] = tile
                self._held += tile.nbytes
            while self._held > self._most and len(self._tiles) > 1:
                self._held -= self._tiles.popitem(last=False)[1].nbytes
