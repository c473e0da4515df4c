"""How a picture is cut into overlapping tiles and how what is seen in them is put together again. Arrays only."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from slidekick.grounding.instances import LEAST, grow_instances
from slidekick.grounding.sizes import DRAWN, MASK_STRIDE

TILE = 640  # px; largest square seen at once: most fields of view, at little memory
SMALLEST = 256  # px; what the network was trained on at least, the rest of the tile is mirrored
OVERLAP = 64  # px shared by neighbours: three nuclei at the cells' working scale
GRID = 32  # px; the encoder's coarsest stride


@dataclass(frozen=True)
class Tiling:
    """Tiles of one size over a picture of height × width px. places: (y, x) of their corners, even numbers."""

    height: int
    width: int
    tile: tuple[int, int]
    places: tuple[tuple[int, int], ...]

    @classmethod
    def over(cls, height: int, width: int) -> Tiling:
        """As few tiles as `TILE` allows, all equal, the last ones flush with the end."""
        tall, rows = _axis(height)
        wide, columns = _axis(width)
        return cls(height, width, (tall, wide), tuple((y, x) for y in rows for x in columns))

    def cut(self, picture: np.ndarray) -> Iterator[np.ndarray]:
        """The tiles' pixels, (tile, 3) each; beyond the picture's end it is mirrored."""
        tall, wide = self.tile
        for y, x in self.places:
            piece = picture[y : y + tall, x : x + wide]
            low, right = tall - piece.shape[0], wide - piece.shape[1]
            if low or right:
                piece = cv2.copyMakeBorder(piece, 0, low, 0, right, cv2.BORDER_REFLECT)
            yield piece

    @property
    def taper(self) -> np.ndarray:
        """Weight of a tile's mask cells, falling towards its rim, so that neighbours blend."""
        rows, columns = (
            np.minimum(np.arange(1, n + 1), np.arange(n, 0, -1)).clip(max=OVERLAP // MASK_STRIDE).astype(np.float32)
            for n in (side // MASK_STRIDE for side in self.tile)
        )
        return np.outer(rows, columns)


def _axis(length: int) -> tuple[int, list[int]]:
    """Tile side and first pixels along one axis."""
    if length <= TILE:
        return max(SMALLEST, -(-length // GRID) * GRID), [0]
    number = -(-(length - OVERLAP) // (TILE - OVERLAP))
    side = -(-(length + (number - 1) * OVERLAP) // (number * GRID)) * GRID
    last = max(0, length - side)
    return side, [round(last * i / (number - 1) / MASK_STRIDE) * MASK_STRIDE for i in range(number)]


class Canvas:
    """Means over tiles at the masks' resolution: drawn and interior, float32 (h, w); presence: the highest logit."""

    def __init__(self, tiling: Tiling) -> None:
        self._shape = (-(-tiling.height // MASK_STRIDE), -(-tiling.width // MASK_STRIDE))
        self._sums = np.zeros((2, *self._shape), np.float32)
        self._weight = np.zeros(self._shape, np.float32)
        self.presence = -np.inf
        self._objects: dict[float, np.ndarray] = {}

    def add(self, place: tuple[int, int], taper: np.ndarray, maps: np.ndarray | None, presence: float) -> None:
        """What one tile shows: maps (2, h, w), or None where the concept is judged absent from it."""
        y, x = (start // MASK_STRIDE for start in place)
        area = np.s_[y : min(y + taper.shape[0], self._shape[0]), x : min(x + taper.shape[1], self._shape[1])]
        height, width = self._weight[area].shape
        self._weight[area] += taper[:height, :width]
        self.presence = max(self.presence, presence)
        if maps is not None:
            self._sums[:, area[0], area[1]] += taper[:height, :width] * maps[:, :height, :width]

    def objects(self, least: float = LEAST) -> np.ndarray:
        """Labels of the objects of `least` cells or more, int32 (h, w); asked for once all tiles are in, grown once."""
        if least not in self._objects:
            self._objects[least] = grow_instances(self.drawn >= DRAWN, self.interior, least)
        return self._objects[least]

    @property
    def drawn(self) -> np.ndarray:
        return self._sums[0] / self._weight

    @property
    def interior(self) -> np.ndarray:
        return self._sums[1] / self._weight


def rescale(image: np.ndarray, zoom: float) -> np.ndarray:
    """`image` at `zoom`, its sides even so that mask cells are whole."""
    height, width = image.shape[:2]
    if abs(zoom - 1) >= 0.02:
        height, width = (max(8, round(length * zoom)) for length in (height, width))
    height, width = height + height % 2, width + width % 2
    if (height, width) == image.shape[:2]:
        return image
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if zoom < 1 else cv2.INTER_LINEAR)
