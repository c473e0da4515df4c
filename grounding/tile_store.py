"""What was seen in a slide's tiles: where they lie, kept on disk as soon as it is known, blended where it is asked for.

A log is only ever added to, record by record, each with its length and a checksum, so that whatever ends a run loses
one tile of a worker at most. Everything is counted in whole numbers: what a window shows does not depend on where it
is cut, nor on who saw which tile first. Knows no network.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np

from slidekick.data.errors import InputError, OutputError
from slidekick.data.files import cannot_write
from slidekick.data.slide import Region, Slide
from slidekick.grounding.sizes import MASK_STRIDE
from slidekick.grounding.tiles import OVERLAP, TILE, taper_of

STEP = TILE - OVERLAP  # px from one tile to the next
LEVELS = 256  # probabilities are kept as the middle of so many equal steps, so that 0.5 parts them as before
KEPT_BYTES = 64 << 20  # of decoded tiles held: three rows of tiles across the largest windows
MOST_TILES = 4_000_000  # beyond it a scale is mistaken
_RECORD = struct.Struct("<4sIII")  # mark, tile, bytes that follow, their checksum
_MARK, _HEADER = b"tile", 0xFFFFFFFF
_SEEN = struct.Struct("<fI")  # presence logit, bytes of the maps that follow (0: judged absent)

Seen = list[tuple[float, np.ndarray | None]]  # of each concept: presence logit, maps (2, h, w) 0–1 or None


@dataclass(frozen=True)
class SlideTiling:
    """Tiles of `TILE` px over a whole slide at one zoom, each sharing `OVERLAP` px with its neighbours.

    width, height: of the slide in level-0 pixels. unit: level-0 pixels of `OVERLAP` px looked at, a whole number, so
    that tiles begin on whole pixels and on whole mask cells; zooms are so rounded by at most 3 %, at zoom 4.
    """

    width: int
    height: int
    unit: int

    @classmethod
    def over(cls, slide: Slide, zoom: float) -> SlideTiling:
        """The tiling whose scale is nearest to `zoom` px looked at per level-0 pixel. Raises InputError."""
        tiling = cls(*slide.dimensions, max(1, round(OVERLAP / zoom)))
        if tiling.number > MOST_TILES:
            raise InputError(f"{slide.source}: {tiling.number} tiles at a zoom of {zoom:g}; correct its --mpp")
        return tiling

    @cached_property
    def shape(self) -> tuple[int, int]:
        """(rows, columns) of mask cells that cover the slide."""
        return tuple(-(-side * OVERLAP // (self.unit * MASK_STRIDE)) for side in (self.height, self.width))

    @cached_property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of tiles."""
        return tuple(max(1, -(-(side * MASK_STRIDE - OVERLAP) // STEP)) for side in self.shape)

    @property
    def number(self) -> int:
        """Of tiles."""
        return self.grid[0] * self.grid[1]

    def place(self, tile: int) -> tuple[int, int]:
        """(row, column) of a tile's first mask cell."""
        row, column = divmod(tile, self.grid[1])
        return row * STEP // MASK_STRIDE, column * STEP // MASK_STRIDE

    def region(self, tile: int) -> Region:
        """The part of a tile that lies on the slide."""
        row, column = divmod(tile, self.grid[1])
        x, y = (number * self.unit * STEP // OVERLAP for number in (column, row))
        side = self.unit * TILE // OVERLAP
        return Region(x, y, min(side, self.width - x), min(side, self.height - y))

    def read(self, slide: Slide, tile: int) -> np.ndarray:
        """uint8 (TILE, TILE, 3); beyond the slide's end it is mirrored. Raises InputError where it cannot be read."""
        region = self.region(tile)
        wide, tall = (max(1, round(side * OVERLAP / self.unit)) for side in (region.width, region.height))
        pixels = slide.read(region, (wide, tall))
        return cv2.copyMakeBorder(pixels, 0, TILE - tall, 0, TILE - wide, cv2.BORDER_REFLECT)

    def touching(self, rows: slice, columns: slice) -> Iterator[int]:
        """The tiles that show any of a window of mask cells."""
        step, side = STEP // MASK_STRIDE, TILE // MASK_STRIDE
        spans = [
            range(max(0, (cells.start - side) // step + 1), min(number, (cells.stop - 1) // step + 1))
            for cells, number in zip((rows, columns), self.grid, strict=True)
        ]
        yield from (row * self.grid[1] + column for row in spans[0] for column in spans[1])


class TileLog:
    """A file to which one worker adds what it saw, tile by tile."""

    def __init__(self, folder: Path, question: dict) -> None:
        """Begin a new log beside those in `folder`, bound to a `question` (JSON-ready). Raises OutputError."""
        self._folder, number = folder, 0
        while True:
            try:
                self._file = os.open(folder / f"{number:04d}.log", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
                break
            except FileExistsError:
                number += 1
            except OSError as error:
                raise _unwritten(folder, error) from error
        self._add(_HEADER, json.dumps(question, sort_keys=True).encode())

    def add(self, tile: int, seen: Seen) -> None:
        """Keep what a tile shows of each concept of the question, in its order."""
        parts = []
        for presence, maps in seen:
            packed = b"" if maps is None else zlib.compress(_in_steps(maps).tobytes(), 1)
            parts += [_SEEN.pack(presence, len(packed)), packed]
        self._add(tile, b"".join(parts))

    def close(self) -> None:
        os.close(self._file)

    def _add(self, tile: int, content: bytes) -> None:
        record = memoryview(_RECORD.pack(_MARK, tile, len(content), zlib.crc32(content)) + content)
        try:
            while record:
                record = record[os.write(self._file, record) :]
        except OSError as error:
            raise _unwritten(self._folder, error) from error


class TileStore:
    """All logs of one question in a folder, to be read.

    concepts: of the question, in its order. presence: float32 (tiles, concepts), NaN where a tile is not there yet.
    strangers: logs in the folder that are of another question, or none; they are left alone.
    """

    def __init__(self, folder: Path, question: dict, tiling: SlideTiling, concepts: int) -> None:
        self.tiling = tiling
        self.presence = np.full((tiling.number, concepts), np.nan, np.float32)
        self._where = np.zeros((tiling.number, concepts, 3), np.int64)  # file, offset and bytes of its maps
        self._files: list[int] = []
        self._kept: OrderedDict[tuple[int, int], np.ndarray] = OrderedDict()
        self.strangers: list[Path] = []
        said = json.dumps(question, sort_keys=True).encode()
        for path in sorted(folder.glob("*.log")):
            try:
                self._files.append(os.open(path, os.O_RDONLY))
            except OSError:  # no right to read it: its tiles are looked at anew
                self.strangers.append(path)
                continue
            if not self._take(len(self._files) - 1, said):
                self.strangers.append(path)
        self._taper = taper_of((TILE, TILE), OVERLAP)

    def close(self) -> None:
        for file in self._files:
            os.close(file)
        self._files = []

    def done(self) -> np.ndarray:
        """bool (tiles,): which are there."""
        return ~np.isnan(self.presence[:, 0])

    def shows(self, concept: int, rows: slice, columns: slice) -> bool:
        """Whether any tile that touches a window of cells holds the concept; where none does, nothing is drawn."""
        return any(self._where[tile, concept, 2] > 0 for tile in self.tiling.touching(rows, columns))

    def window(self, concept: int, rows: slice, columns: slice) -> tuple[np.ndarray, np.ndarray]:
        """drawn and interior of a window of cells, float32 (h, w), 0–1: weighted means of the tiles that show them.

        A tile that judged the concept absent counts as nothing drawn; where no tile was looked at, nothing is.
        """
        shape = rows.stop - rows.start, columns.stop - columns.start
        sums, weight = np.zeros((2, *shape), np.uint32), np.zeros(shape, np.uint32)
        for tile in self.tiling.touching(rows, columns):
            if np.isnan(self.presence[tile, concept]):
                continue
            here, there = _overlap(self.tiling.place(tile), self._taper.shape, rows, columns)
            weight[here] += self._taper[there]
            if self._where[tile, concept, 2]:
                sums[(slice(None), *here)] += self._taper[there] * self._maps(tile, concept)[(slice(None), *there)]
        seen = np.maximum(weight, 1).astype(np.float32)
        blended = (sums.astype(np.float32) / seen + np.float32(0.5)) / np.float32(LEVELS)
        blended[:, weight == 0] = 0
        return blended[0], blended[1]

    def _maps(self, tile: int, concept: int) -> np.ndarray:
        key = tile, concept
        if key in self._kept:
            self._kept.move_to_end(key)
        else:
            file, offset, length = self._where[tile, concept]
            packed = os.pread(self._files[file], int(length), int(offset))
            self._kept[key] = np.frombuffer(zlib.decompress(packed), np.uint8).reshape(2, *self._taper.shape)
            while len(self._kept) * self._kept[key].nbytes > KEPT_BYTES:
                self._kept.popitem(last=False)
        return self._kept[key]

    def _take(self, file: int, said: bytes) -> bool:
        """Note the records of a log as far as it is whole; False where it is not of the question."""
        ours = False
        for number, (tile, offset, content) in enumerate(_records(self._files[file])):
            if number == 0:
                ours = tile == _HEADER and content == said
            if not ours:
                return False
            if tile < len(self.presence) and np.isnan(self.presence[tile, 0]):
                at = 0
                for concept in range(self.presence.shape[1]):
                    self.presence[tile, concept], length = _SEEN.unpack_from(content, at)
                    self._where[tile, concept] = file, offset + at + _SEEN.size, length
                    at += _SEEN.size + length
        return ours


def _unwritten(folder: Path, error: OSError) -> OutputError:
    return OutputError(f"{cannot_write(folder, error)} and run the same again, what was seen is kept")


def _records(file: int) -> Iterable[tuple[int, int, bytes]]:
    """Tile, place and content of each record; ends at the first that is torn or damaged."""
    at = 0
    while len(head := os.pread(file, _RECORD.size, at)) == _RECORD.size:
        mark, tile, length, checksum = _RECORD.unpack(head)
        if mark != _MARK:
            return
        content = os.pread(file, length, at + _RECORD.size)
        if len(content) != length or zlib.crc32(content) != checksum:
            return
        yield tile, at + _RECORD.size, content
        at += _RECORD.size + length


def _in_steps(maps: np.ndarray) -> np.ndarray:
    return np.minimum(maps * np.float32(LEVELS), LEVELS - 1).astype(np.uint8)


def _overlap(place, size, rows: slice, columns: slice):
    """The cells that a window and a tile at `place` share: index into the window, index into the tile."""
    here, there = [], []
    for start, length, cells in zip(place, size, (rows, columns), strict=True):
        first, last = max(start, cells.start), min(start + length, cells.stop)
        here.append(slice(first - cells.start, last - cells.start))
        there.append(slice(first - start, last - start))
    return tuple(here), tuple(there)
