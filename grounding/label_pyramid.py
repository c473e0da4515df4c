"""A label picture as large as a slide: drawn object by object, in any order, then written as a pyramidal OME-TIFF.

What is drawn waits on disk, by tile, as bits; memory holds some megabytes whatever the slide. Coarser levels take the
nearest pixel, so that they hold labels and no mixtures. Scratch files have no name and go with the process.
"""

from __future__ import annotations

import os
import struct
import tempfile
import uuid
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from slidekick.data.errors import OutputError
from slidekick.data.files import cannot_write, named_atomic

SIDE = 512  # px of a tile: large enough to compress well, small enough to show at once
SMALLEST = 1024  # px; the coarsest level's longer side is at most so
HELD_BYTES = 8 << 20  # of what is drawn, before it goes to disk
LEVEL = 6  # of deflate
_PART = struct.Struct("<IHHHH")  # number, row, column, height, width within a tile
_NAMESPACE = uuid.UUID("2a6d3b0e-6c0f-5a55-8f0a-5d9a3c1b7e42")  # ours, so that equal pictures get equal names


class LabelCanvas:
    """Label numbers on a picture of `shape` (rows, columns) px, 0 where nothing is drawn.

    folder: where the scratch file lies. A context manager, which drops it.
    """

    def __init__(self, shape: tuple[int, int], folder: Path) -> None:
        self.shape = shape
        self._scratch = _Scratch(folder)
        self._held: dict[tuple[int, int], bytearray] = {}
        self._bytes = 0

    def add(self, number: int, corner: tuple[int, int], mask: np.ndarray) -> None:
        """Draw `mask` (bool h, w) with its first pixel at `corner` (row, column); beyond the picture it is cut off."""
        height, width = (min(size, side - at) for size, side, at in zip(mask.shape, self.shape, corner, strict=True))
        for row in range(corner[0] // SIDE, -(-(corner[0] + height) // SIDE)):
            for column in range(corner[1] // SIDE, -(-(corner[1] + width) // SIDE)):
                top, left = max(corner[0], row * SIDE), max(corner[1], column * SIDE)
                bottom, right = min(corner[0] + height, (row + 1) * SIDE), min(corner[1] + width, (column + 1) * SIDE)
                part = mask[top - corner[0] : bottom - corner[0], left - corner[1] : right - corner[1]]
                if part.any():
                    head = _PART.pack(number, top - row * SIDE, left - column * SIDE, *part.shape)
                    record = head + np.packbits(part).tobytes()
                    self._held.setdefault((row, column), bytearray()).extend(record)
                    self._bytes += len(record)
        if self._bytes > HELD_BYTES:
            self._put_away()

    def write(self, path: Path, um_per_px: float, lookup: Callable[[int], int] = int) -> Path:
        """Write the OME-TIFF, whole or not at all: uint32, tiled, deflated, coarser levels as its SubIFDs.

        um_per_px: the scale in its metadata. lookup: the number to write for a number drawn. Equal pictures give
        equal bytes. Raises OutputError where it cannot be written.
        """
        import tifffile

        self._put_away()
        levels = [self.shape]
        while max(levels[-1]) > SMALLEST:
            levels.append(tuple(-(-side // 2) for side in levels[-1]))
        metadata = {
            "axes": "YX",
            "UUID": f"urn:uuid:{uuid.uuid5(_NAMESPACE, path.name)}",
            "PhysicalSizeX": um_per_px,
            "PhysicalSizeXUnit": "µm",
            "PhysicalSizeY": um_per_px,
            "PhysicalSizeYUnit": "µm",
        }
        common = {"dtype": np.uint32, "tile": (SIDE, SIDE), "compression": "adobe_deflate", "photometric": "minisblack"}
        tiles: Callable[[int, int], np.ndarray | None] = lambda row, column: self._tile(row, column, lookup)  # noqa: E731
        with (
            named_atomic(path) as part,
            tifffile.TiffWriter(part, ome=True, bigtiff=True, byteorder="<") as file,
        ):
            for number, shape in enumerate(levels):
                with_levels = {} if number else {"subifds": len(levels) - 1, "metadata": metadata}
                scale = 1e4 / (um_per_px * 2**number)
                coarser = _Coarser(self._scratch, tiles)
                file.write(
                    coarser.packed(shape),
                    shape=shape,
                    subfiletype=int(number > 0),
                    resolution=(scale, scale),
                    resolutionunit="CENTIMETER",
                    **common,
                    **with_levels,
                )
                tiles = coarser.tile
        return path

    def __enter__(self) -> LabelCanvas:
        return self

    def __exit__(self, *_) -> None:
        self._scratch.close()

    def _put_away(self) -> None:
        for key, content in self._held.items():
            self._scratch.add(key, zlib.compress(bytes(content), 1))
        self._held, self._bytes = {}, 0

    def _tile(self, row: int, column: int, lookup: Callable[[int], int]) -> np.ndarray | None:
        """uint32 (SIDE, SIDE), or None where nothing is drawn on it."""
        contents = self._scratch.get((row, column))
        if not contents:
            return None
        tile = np.zeros((SIDE, SIDE), np.uint32)
        for content in map(zlib.decompress, contents):
            at = 0
            while at < len(content):
                number, top, left, height, width = _PART.unpack_from(content, at)
                size = -(-height * width // 8)
                bits = np.frombuffer(content, np.uint8, size, at + _PART.size)
                part = np.unpackbits(bits, count=height * width).reshape(height, width).view(bool)
                tile[top : top + height, left : left + width][part] = lookup(number)
                at += _PART.size + size
        return tile


class _Coarser:
    """Passes a level's tiles on, packed, and keeps of each every second pixel: the next level."""

    def __init__(self, scratch: _Scratch, tiles: Callable[[int, int], np.ndarray | None]) -> None:
        self._kept, self._tiles = _Scratch(scratch.folder), tiles

    def packed(self, shape: tuple[int, int]) -> Iterator[bytes]:
        """The tiles of a level of `shape`, row by row, deflated."""
        nothing = zlib.compress(bytes(4 * SIDE * SIDE), LEVEL)
        for row in range(-(-shape[0] // SIDE)):
            for column in range(-(-shape[1] // SIDE)):
                tile = self._tiles(row, column)
                if tile is not None:
                    self._kept.add((row, column), zlib.compress(np.ascontiguousarray(tile[::2, ::2]).tobytes(), 1))
                yield nothing if tile is None else zlib.compress(tile.astype("<u4").tobytes(), LEVEL)

    def tile(self, row: int, column: int) -> np.ndarray | None:
        """A tile of the next level, of four kept quarters."""
        half, whole = SIDE // 2, None
        for down in (0, 1):
            for right in (0, 1):
                for content in self._kept.get((2 * row + down, 2 * column + right)):
                    whole = np.zeros((SIDE, SIDE), np.uint32) if whole is None else whole
                    quarter = np.frombuffer(zlib.decompress(content), np.uint32).reshape(half, half)
                    whole[down * half : (down + 1) * half, right * half : (right + 1) * half] = quarter
        return whole


class _Scratch:
    """Bytes by key in a file without a name."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115
        self._where: dict[tuple[int, int], list[tuple[int, int]]] = {}
        self._end = 0

    def add(self, key: tuple[int, int], content: bytes) -> None:
        at, left = self._end, memoryview(content)
        try:
            while left:
                written = os.pwrite(self._file.fileno(), left, at)
                at, left = at + written, left[written:]
        except OSError as error:
            raise OutputError(cannot_write(self.folder, error)) from error
        self._where.setdefault(key, []).append((self._end, len(content)))
        self._end = at

    def get(self, key: tuple[int, int]) -> list[bytes]:
        return [os.pread(self._file.fileno(), length, offset) for offset, length in self._where.get(key, ())]

    def close(self) -> None:
        self._file.close()
