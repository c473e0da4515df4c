"""Slides to measure on, of any size and as scanners write them: pyramidal TIFFs in Aperio's layout, JPEG tiles of 256.

A slide is a plan of square blocks, each glass or one of a few turns of the H&E sample. Tiles that show the same are
encoded once and written as often as the plan says, so a slide of 100 000 pixels a side takes seconds. Every tile is an
ordinary one to a reader: its own place in the file, decoded like any other.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np

BLOCK = 1024  # px of a block's side: its first reduction is one tile
TILE, STEP = 256, 4  # px of the file's tiles; from one level to the next, as Aperio has it
SMALLEST = 2048  # px; the coarsest level's longest side is at most so
QUALITY = 75  # of JPEG, with colours halved across: what Aperio writes
GLASS, TURNS = -1, 4
GLASS_COLOUR = (243, 242, 244)
MPP = 0.5  # µm per pixel of level 0: a 20x scan
THUMBNAIL = 256  # px; Aperio's second page


def tissue_plan(side: int, blocks: int) -> np.ndarray:
    """int8 (rows, columns) for a slide of `side` pixels: `blocks` blocks of tissue, nearest the middle, each `GLASS` or
    a turn."""
    number = -(-side // BLOCK)
    y, x = np.mgrid[:number, :number] - (number - 1) / 2
    # Whole blocks only: the last row and column may be cut by the slide's edge.
    order = np.argsort((y * y + x * x).ravel(), kind="stable")[:blocks]
    plan = np.full(number * number, GLASS, np.int8)
    plan[order] = (order // number + order) % TURNS
    return plan.reshape(number, number)


def write_slide(path: Path, side: int, plan: np.ndarray, picture: np.ndarray, mpp: float = MPP) -> Path:
    """Write a slide of `side` x `side` pixels, atomically and in memory that does not grow with it.

    plan: see `tissue_plan`. picture: uint8 (BLOCK, BLOCK, 3), what a block of tissue shows. Raises OutputError.
    """
    import tifffile

    from slidekick.data.files import named_atomic

    painter = _Painter(plan, picture)
    about = f"Aperio Image Library, made to measure on\r\n{side}x{side}|AppMag = {round(10 / mpp)}|MPP = {mpp:.4f}"
    with named_atomic(path) as part, tifffile.TiffWriter(part, bigtiff=True) as writer:
        options = {"photometric": "ycbcr", "subsampling": (2, 1), "compression": "jpeg", "metadata": None}
        level = 0
        while level == 0 or side // STEP ** (level - 1) > SMALLEST:
            width = side // STEP**level
            writer.write(
                painter.tiles(level, width),
                shape=(width, width, 3),
                dtype=np.uint8,
                tile=(TILE, TILE),
                description=about,
                **options,
            )
            if level == 0:  # a strip of its own, not tiled: readers tell the thumbnail by that
                writer.write(
                    iter([_jpeg(painter.thumbnail())]),
                    shape=(THUMBNAIL, THUMBNAIL, 3),
                    dtype=np.uint8,
                    rowsperstrip=THUMBNAIL,
                    description=about,
                    **options,
                )
            level += 1
    return path


class _Painter:
    """The encoded tiles of a plan's levels; those that show the same are made once."""

    def __init__(self, plan: np.ndarray, picture: np.ndarray) -> None:
        self.plan = plan
        glass = np.full_like(picture, GLASS_COLOUR)
        self.blocks = [np.rot90(picture, turns) for turns in range(TURNS)] + [glass]  # `GLASS` is the last
        self._encoded = lru_cache(4096)(self._encode)

    def tiles(self, level: int, width: int) -> Iterator[bytes]:
        """Level `level`, `width` pixels wide, tile by tile in rows."""
        number = -(-width // TILE)
        for row in range(number):
            for column in range(number):
                yield self._tile(level, row, column)

    def thumbnail(self) -> np.ndarray:
        """uint8 (THUMBNAIL, THUMBNAIL, 3)."""
        import cv2

        colours = np.array([block.mean((0, 1)) for block in self.blocks]).round().astype(np.uint8)[self.plan]
        return cv2.resize(colours, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_NEAREST)

    def _tile(self, level: int, row: int, column: int) -> bytes:
        if level == 0:
            per = BLOCK // TILE
            kind = self.plan[row // per, column // per]
            place = (row % per, column % per) if kind != GLASS else (0, 0)
            return self._encoded(0, (1, 1), kind.tobytes(), place)
        per = STEP**level * TILE // BLOCK  # blocks along a tile
        part = self.plan[row * per : (row + 1) * per, column * per : (column + 1) * per]
        return self._encoded(level, part.shape, part.tobytes(), (0, 0))

    def _encode(self, level: int, shape: tuple[int, int], kinds: bytes, place: tuple[int, int]) -> bytes:
        """One tile: blocks of `kinds` in `shape`, shrunk as `level` says; at level 0 the part of a block at `place`."""
        part = np.frombuffer(kinds, np.int8).reshape(shape)
        if level == 0:
            y, x = (number * TILE for number in place)
            return _jpeg(self.blocks[part[0, 0]][y : y + TILE, x : x + TILE])
        tile = np.full((TILE, TILE, 3), GLASS_COLOUR, np.uint8)
        small = self._shrunk(level)
        side = small[0].shape[0]
        for (row, column), kind in np.ndenumerate(part):
            tile[row * side : (row + 1) * side, column * side : (column + 1) * side] = small[kind]
        return _jpeg(tile)

    def _shrunk(self, level: int) -> list[np.ndarray]:
        import cv2

        side = max(1, BLOCK // STEP**level)
        return [cv2.resize(block, (side, side), interpolation=cv2.INTER_AREA) for block in self.blocks]


def _jpeg(pixels: np.ndarray) -> bytes:
    import imagecodecs

    return imagecodecs.jpeg8_encode(
        np.ascontiguousarray(pixels), level=QUALITY, colorspace="RGB", outcolorspace="YCBCR", subsampling="422"
    )
