"""How a picture is cut into overlapping tiles and how what is seen in them is put together again. Arrays only."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np

from slidekick.grounding.instances import grow_instances
from slidekick.grounding.sizes import DRAWN, LEAST, MASK_STRIDE

TILE = 640  # px; largest square seen at once: most fields of view, at little memory
SMALLEST = 256  # px; what the network was trained on at least, the rest of the tile is mirrored
OVERLAP = 64  # px shared by neighbours: three nuclei at the cells' working scale
SMOOTHED = 0.75  # zoom below which shrinking is smoothed first
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
        """`taper_of` its tiles, float32."""
        return taper_of(self.tile, OVERLAP).astype(np.float32)


def taper_of(tile: tuple[int, int], overlap: int) -> np.ndarray:
    """Weight of each mask cell of a tile, uint32 (h, w), falling towards its rim, so that neighbours blend.

    tile: (height, width) in px. overlap: px over which it falls.
    """
    rows, columns = (
        np.minimum(np.arange(1, cells + 1), np.arange(cells, 0, -1)).clip(max=overlap // MASK_STRIDE)
        for cells in (side // MASK_STRIDE for side in tile)
    )
    return np.outer(rows, columns).astype(np.uint32)


def sigmoid(logits):
    """1 / (1 + e^−x), float32, without overflow."""
    return 0.5 * np.tanh(0.5 * np.asarray(logits, np.float32)) + 0.5


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

    @cached_property  # asked for once all tiles are in
    def drawn(self) -> np.ndarray:
        return self._sums[0] / self._weight

    @cached_property
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


def warp(array: np.ndarray, matrix: np.ndarray, side: int, nearest: bool = False) -> np.ndarray:
    """`array` (H, W, …) seen through `matrix` (2×3, array px -> window px) in a window of `side` px.

    Beyond its edge the picture is mirrored. Shrinking is smoothed first, and only what is seen.
    """
    zoom = float(np.hypot(matrix[0, 0], matrix[1, 0]))
    if not nearest and zoom < SMOOTHED:
        sigma = 0.4 / zoom
        array, matrix = _around(array, matrix, side, margin=1 + round(4 * sigma))
        array = cv2.GaussianBlur(array, (0, 0), sigma)
    flags = cv2.INTER_NEAREST if nearest else cv2.INTER_LINEAR
    return cv2.warpAffine(array, matrix, (side, side), flags=flags, borderMode=cv2.BORDER_REFLECT_101)


def _around(array: np.ndarray, matrix: np.ndarray, side: int, margin: int) -> tuple[np.ndarray, np.ndarray]:
    """The part of `array` that the window shows or mirrors, and `margin` px more; and its matrix."""
    corners = np.array([[x, y] for x in (0, side) for y in (0, side)]) - matrix[:, 2]
    seen = np.linalg.solve(matrix[:, :2], corners.T)
    low, high = np.floor(seen.min(1)).astype(int) - margin, np.ceil(seen.max(1)).astype(int) + margin
    size = np.array(array.shape[1::-1])
    mirrored_to, mirrored_from = -low + 1, 2 * size - 2 - high  # px −n shows px n, and px size − 1 + n size − 1 − n
    low, high = np.minimum(low, mirrored_from).clip(0), np.minimum(np.maximum(high, mirrored_to), size)
    shift = matrix[:, 2] + matrix[:, :2] @ low
    return array[low[1] : high[1], low[0] : high[0]], np.column_stack([matrix[:, :2], shift])
