"""Tiles of a slide and their features in h5 files, in the layout that CLAM and TRIDENT share; both ways.

`coords` is int64 (N, 2), (x, y) at level 0, with what the tiles are as its attributes; `features`, where there are any,
is (N, D). A slide without tissue holds (0, 2) and (0, D). Attributes are TRIDENT's; where a tile is as fine as a level
of the slide, CLAM's `patch_level` and `downsample` stand beside them, so that CLAM reads the same places. Files of
either tool are read: CLAM's `patches/*.h5` and `h5_files/*.h5`, TRIDENT's `*_patches.h5` and features, also where
`features` has a leading axis of one. CLAM's older bags of pictures (`imgs`) are not: their coordinates are not at
level 0. Nothing but numbers is taken from a file, and nothing that lies outside it.
"""

from __future__ import annotations

import io
import math
import os
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np

from slidekick.data.errors import InputError
from slidekick.data.files import write_atomic
from slidekick.data.slide import NO_COARSER, Slide
from slidekick.data.tiles import LARGEST_GRID, TileGrid

LARGEST_BYTES = 4 * 2**30  # of features: 400 000 tiles of 2560 float32; beyond it the file is broken or none of theirs
MOST_PACKED = 1032  # bytes that a byte of a deflated stream can stand for at most: what else is declared is not there
ATTRIBUTE_BYTES = 65536  # of one attribute: more is none of theirs
LARGEST_TILE = 1_000_000  # pixels a side


@dataclass(frozen=True)
class TileFile:
    """What an h5 file says of a slide's tiles.

    coords: int64 (N, 2), (x, y) of upper left corners at level 0. features: float (N, D) of the dtype in the file, None
    where it holds none. size_px: side of a tile as it is looked at; size_level0: (width, height) in level-0 pixels;
    each None where the file does not say. overlap_px: what neighbours share, in pixels as looked at. attributes: the
    numbers that stood beside the coordinates.
    """

    coords: np.ndarray
    features: np.ndarray | None = None
    size_px: int | None = None
    size_level0: tuple[int, int] | None = None
    overlap_px: int = 0
    attributes: dict = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.coords)

    def grid(self, slide: Slide) -> TileGrid:
        """The same tiles on `slide`, for `read_tiles`.

        Raises InputError where the slide has no scale, is of another size than the file says, or the file does not tell
        how large its tiles are.
        """
        told = (self.attributes.get("level0_width"), self.attributes.get("level0_height"))
        if None not in told and tuple(told) != slide.dimensions:
            raise InputError(
                f"{slide.source}: has {slide.dimensions[0]} x {slide.dimensions[1]} pixels and the tiles' file says "
                f"{told[0]} x {told[1]}; give the slide that the tiles are of"
            )
        size = self.size_level0 or self._size_by_level(slide)
        if self.size_px is None or size is None:
            raise InputError(
                f"{slide.source}: the file does not tell how large its tiles are; give one with patch_size"
            )
        if slide.mpp is None:
            raise InputError(
                f"{slide.source}: no scale (µm per pixel) in the file; open it with open_slide(path, mpp=...)"
            )
        return TileGrid(self.coords, self.size_px, self.overlap_px, slide.mpp[0] * size[0] / self.size_px, size)

    def _size_by_level(self, slide: Slide) -> tuple[int, int] | None:
        """CLAM's files of some versions name the level that was read and leave its scale to the slide."""
        level = self.attributes.get("patch_level")
        if self.size_px is None or not isinstance(level, int) or not 0 <= level < len(slide.levels):
            return None
        scale = _custom(self.attributes)
        full, own = slide.levels[0], slide.levels[level]
        across, down = self.size_px * full.width / own.width, self.size_px * full.height / own.height
        return round(across * scale), round(down * scale)


def write_coords(path: str | os.PathLike, slide: Slide, grid: TileGrid) -> Path:
    """Write where a slide's tiles lie. Equal grids give equal bytes. Raises OutputError where it cannot be written."""
    return _write(path, {"coords": grid.coords}, _attributes(slide, grid))


def write_features(path: str | os.PathLike, slide: Slide, grid: TileGrid, features: np.ndarray) -> Path:
    """Write features, float (N, D), of a grid's N tiles, in their order; float16 stays float16.

    Raises ValueError where they are not of these tiles, OutputError where the file cannot be written. The file is made
    in memory first.
    """
    if features.ndim != 2 or len(features) != len(grid) or features.dtype.kind != "f":
        raise ValueError(f"{features.dtype} features {features.shape} for {len(grid)} tiles")
    return _write(path, {"features": features, "coords": grid.coords}, _attributes(slide, grid))


def read_coords(path: str | os.PathLike) -> TileFile:
    """Where the tiles lie, of a file with features or without.

    Raises InputError for a file that is no such h5, is damaged, or declares what it does not hold.
    """
    return _read(Path(path), wanted=False)


def read_features(path: str | os.PathLike) -> TileFile:
    """Tiles with their features. Raises InputError as `read_coords`, and where there are none or not one a tile."""
    return _read(Path(path), wanted=True)


def _attributes(slide: Slide, grid: TileGrid) -> dict:
    """What TRIDENT writes beside coordinates, and CLAM where it can read the same.

    TRIDENT takes a tile's size at level 0 for patch_size x level0_magnification / target_magnification, and 10 / mpp
    for a magnification; so these are exact, and may differ a little from what is engraved on the objective.
    """
    if slide.mpp is None:
        raise ValueError("a grid over a slide without scale")
    width, height = slide.dimensions
    across, down = grid.size_level0
    found = {
        "patch_size": grid.size_px,
        "patch_size_level0": across,
        "level0_magnification": _whole(10 / slide.mpp[0]),
        "target_magnification": _whole(10 / grid.mpp),
        "overlap": grid.overlap_px,
        "name": Path(slide.source).stem,
        "savetodir": "",  # a folder of this machine is nobody's business elsewhere
        "level0_width": width,
        "level0_height": height,
        "mpp": grid.mpp,
    }
    if down != across:
        found["patch_size_level0_height"] = down
    for number, level in enumerate(slide.levels):
        scale = (width / level.width, height / level.height)
        if all(
            max(a, b) <= NO_COARSER * min(a, b)
            for a, b in zip(scale, (across / grid.size_px, down / grid.size_px), strict=True)
        ):
            return found | {"patch_level": number, "downsample": np.array(scale)}
    return found


def _write(path: str | os.PathLike, arrays: dict[str, np.ndarray], attributes: dict) -> Path:
    held = io.BytesIO()
    with h5py.File(held, "w", libver=("earliest", "v110")) as file:  # h5py of five years ago reads it
        for name, array in arrays.items():
            file.create_dataset(name, data=array)
        file["coords"].attrs.update(attributes)
    return write_atomic(path, held.getbuffer())


def _read(path: Path, wanted: bool) -> TileFile:
    if not path.is_file():
        raise InputError(f"{path}: no such file; give an h5 file of tiles")
    try:
        with h5py.File(path, "r") as file:
            coords = _array(path, file, "coords")
            attributes = _numbers_beside(file["coords"])
            features = _array(path, file, "features") if wanted else None
    except InputError:
        raise
    except Exception as error:  # a damaged structure can make the parser raise anything; whatever it is, it is no h5
        raise InputError(
            f"{path}: is no whole h5 file of tiles as CLAM and TRIDENT write them; copy it again"
        ) from error
    coords = _checked_coords(path, coords)
    if features is not None:
        features = _checked_features(path, features, len(coords))
    size_px, size_level0, overlap = _sizes(path, attributes)
    return TileFile(coords, features, size_px, size_level0, overlap, attributes)


def _array(path: Path, file: h5py.File, name: str) -> np.ndarray:
    """The numbers of dataset `name`, once it is sure that they lie in the file."""
    link = file.get(name, getlink=True)
    if link is None:
        held = ["".join(char for char in key if char.isprintable())[:40] for key in list(file)[:5]]
        raise InputError(f"{path}: holds no {name} ({', '.join(held) or 'nothing'}); give an h5 file with {name}")
    data = file[name] if isinstance(link, h5py.HardLink) else None
    if not isinstance(data, h5py.Dataset) or data.is_virtual or data.external or data.dtype.kind not in "fiu":
        raise InputError(f"{path}: its {name} are no numbers in this file; write it again with CLAM or TRIDENT")
    there = data.id.get_storage_size()
    most = there if data.chunks is None else there * MOST_PACKED
    if data.nbytes > min(most, LARGEST_BYTES) or there > path.stat().st_size:
        raise InputError(f"{path}: declares {name} of {data.shape}, which it does not hold; copy it again")
    return np.asarray(data[()])


def _checked_coords(path: Path, coords: np.ndarray) -> np.ndarray:
    fit = coords.ndim == 2 and coords.shape[1] == 2 and len(coords) <= LARGEST_GRID
    if not fit and coords.size:
        raise InputError(f"{path}: coords of {coords.shape}, not (N, 2); write it again with CLAM or TRIDENT")
    coords = coords.reshape(-1, 2)  # some versions write (0,) for no tile
    whole = coords.astype(np.int64, casting="unsafe") if np.isfinite(coords).all() else np.zeros_like(coords)
    if not (whole == coords).all():
        raise InputError(f"{path}: coords that are no whole pixels; write them at level 0")
    return whole.astype(np.int64)


def _checked_features(path: Path, features: np.ndarray, number: int) -> np.ndarray:
    if features.ndim == 3 and len(features) == 1:
        features = features[0]
    if features.ndim != 2 or len(features) != number or features.dtype.kind != "f":
        raise InputError(
            f"{path}: {features.dtype} features of {features.shape} for {number} tiles; one row a tile is wanted"
        )
    return features


def _sizes(path: Path, attributes: dict) -> tuple[int | None, tuple[int, int] | None, int]:
    """A tile's side in pixels, its size at level 0, and the overlap.

    TRIDENT states the size at level 0; CLAM by the scale of the level that it read, and how much it scaled that.
    """
    size, level0, overlap = (_integer(path, attributes, key) for key in ("patch_size", "patch_size_level0", "overlap"))
    if level0 is not None:
        return size, (level0, _integer(path, attributes, "patch_size_level0_height") or level0), overlap or 0
    down = attributes.get("downsample", 1 if attributes.get("patch_level", 0) == 0 else None)
    pair = down if isinstance(down, list) else [down, down]
    if size is None or len(pair) != 2 or not all(_positive(one) for one in pair):
        return size, None, overlap or 0
    across, down = (round(size * one * _custom(attributes)) for one in pair)
    if max(across, down) > LARGEST_TILE:
        raise InputError(f"{path}: tiles of {across} x {down} pixels; write it again with CLAM or TRIDENT")
    return size, (across, down), overlap or 0


def _custom(attributes: dict) -> float:
    """By how much CLAM scaled what it read."""
    told = attributes.get("custom_downsample", 1)
    return float(told) if _positive(told) else 1.0


def _integer(path: Path, attributes: dict, key: str) -> int | None:
    """An attribute that counts pixels; None where it is not there, or no number: TRIDENT writes the word for None."""
    told = attributes.get(key)
    if told is None:
        return None
    least = 0 if key == "overlap" else 1
    number = isinstance(told, int | float) and math.isfinite(told) and round(told) == told
    if not number or not least <= told <= LARGEST_TILE:
        raise InputError(f"{path}: {key} is {str(told)[:40]!r}, no number of pixels; write it again")
    return int(told)


def _positive(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value) and value > 0


def _numbers_beside(data: h5py.Dataset) -> dict[str, int | float | list]:
    """The attributes that are numbers. Texts lie elsewhere in the file, and HDF5 follows a damaged reference for ever;
    none of them is needed: the slide's name is the file's."""
    found = {}
    for name in data.attrs:
        kind = data.attrs.get_id(name)
        if kind.dtype.kind in "fiu" and kind.get_storage_size() <= ATTRIBUTE_BYTES:
            found[name] = np.asarray(data.attrs[name]).tolist()
    return found


def _whole(value: float) -> int | float:
    """20 for 20.0: TRIDENT's magnifications are whole numbers."""
    return int(value) if value == int(value) else value
