"""Slides and regions: the one way pixels come in.

`open_slide` picks the reader that says it reads the file best; `Slide.roi` gives pixels with their scale and
place; `read_roi` does both for a command. Coordinates are (x, y) in level-0 pixels, origin top left. Nothing
here knows of models, and label or macro pictures of a slide are never read.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from slidekick.data.errors import InputError
from slidekick.data.files import cannot_read
from slidekick.data.readers.header import Header

READ_LIMIT_PX = 50_000_000  # in one read: 150 MB of RGB, about the memory that a few copies of it can stand
STRIP_PX = 10_000_000  # of a level, read at once for a thumbnail: 30 MB, and tiles are cut through seldom
MOST_ENLARGED = 4  # times: a 10x scan may be shown to a model made for 40x; beyond that it is invention
NO_COARSER = 1.005  # a level this much coarser than asked for is taken as the level asked for (0.5 vs 0.4990 µm)


@dataclass(frozen=True)
class Region:
    """A rectangle of a slide in level-0 pixels, and the scale at which to read it.

    `mpp` is µm per pixel of the picture wanted; None reads level-0 pixels as they are.
    """

    x: int
    y: int
    width: int
    height: int
    mpp: float | None = None


@dataclass(frozen=True)
class Roi:
    """Pixels with their scale and place.

    pixels: uint8 (H, W, 3) RGB. mpp: (x, y) µm per pixel of `pixels`, or None where unknown.
    region: the level-0 rectangle it shows. source: the file's name without its folder.
    """

    pixels: np.ndarray
    mpp: tuple[float, float] | None
    region: Region
    source: str = ""

    @property
    def downsample(self) -> tuple[float, float]:
        """Level-0 pixels per pixel, (x, y)."""
        height, width = self.pixels.shape[:2]
        return self.region.width / width, self.region.height / height


@dataclass(frozen=True)
class Level:
    """One resolution of a slide. downsample: level-0 pixels per pixel, mean of x and y."""

    width: int
    height: int
    downsample: float


class Slide:
    """An open slide or picture. Made by `open_slide`; a context manager.

    source: the file's name without its folder. header: what the file tells of itself. levels: largest first.
    mpp: (x, y) µm per level-0 pixel, or None where neither the file nor the caller states it.
    """

    def __init__(self, reader, source: str, mpp: tuple[float, float] | None, path: Path | None = None, to_srgb=None):
        self._reader = reader
        self._to_srgb = to_srgb  # uint8 (H, W, 3) -> the same in sRGB; None shows the colours as they lie in the file
        self.source = source
        self.path = path  # where it lies, for its content's name and for other processes; never shown
        self.header: Header = reader.header
        self.mpp = mpp
        width, height = self.header.levels[0]
        self.levels = [Level(w, h, (width / w + height / h) / 2) for w, h in self.header.levels]

    @property
    def vendor(self) -> str:
        """The scanner's format ("aperio"), or the picture's ("png")."""
        return self.header.vendor

    @property
    def reader(self) -> str:
        """Name of the module in `slidekick.data.readers` that reads it."""
        return type(self._reader).__module__.rpartition(".")[2]

    @property
    def colour(self) -> str | None:
        """What `open_slide` was told of colours."""
        return None if self._to_srgb is None else "srgb"

    @property
    def objective_power(self) -> float | None:
        """As the file states it, or None."""
        return self.header.objective_power

    @property
    def dimensions(self) -> tuple[int, int]:
        """(width, height) of level 0 in pixels."""
        return self.levels[0].width, self.levels[0].height

    def state_scale(self, mpp: float | None) -> bool:
        """Take a scale that was stated, in µm per pixel, where the file states none; whether it was taken. Raises
        InputError for what is no scale."""
        taken = self.mpp is None and mpp is not None
        if taken:
            self.mpp = (checked_mpp(mpp),) * 2
        return taken

    def thumbnail(self, max_px: int) -> np.ndarray:
        """The whole slide, uint8 (H, W, 3) RGB, longest side at most `max_px`; never enlarged.

        A large level is read strip by strip, so that memory does not grow with it.
        """
        if max_px < 1:
            raise InputError(f"{self.source}: a thumbnail of {max_px} pixels; give 1 or more")
        width, height = self.dimensions
        scale = max(1.0, max(width, height) / max_px)
        across, down = max(1, round(width / scale)), max(1, round(height / scale))
        level = self.levels[self._level_for(scale)]
        rows = max(1, int(down * STRIP_PX / (level.width * level.height)))  # of the thumbnail, at once
        if rows >= down:
            return self._scaled(Region(0, 0, width, height), (scale, scale))
        ends = [*range(0, down, rows), down]
        tops = [round(row * height / down) for row in ends]
        strips = zip(ends, ends[1:], tops, tops[1:], strict=False)
        return np.concatenate(
            [self.read(Region(0, top, width, below - top), (across, end - row)) for row, end, top, below in strips]
        )

    def roi(self, region: Region) -> Roi:
        """The pixels of `region` at its scale.

        Raises InputError when the region is not inside the slide, asks for a scale where the slide has none,
        takes more than READ_LIMIT_PX in one read, or cannot be decoded.
        """
        self._check_inside(region)
        scale = (1.0, 1.0)
        if region.mpp is not None:
            if self.mpp is None:
                raise InputError(
                    f"{self.source}: no scale (µm per pixel) in the file, so none can be read at; state it "
                    "with --mpp, or with open_slide(path, mpp=...)"
                )
            wanted = checked_mpp(region.mpp)
            scale = (wanted / self.mpp[0], wanted / self.mpp[1])
            if min(scale) < 1 / MOST_ENLARGED:
                raise InputError(
                    f"{self.source}: {wanted:g} µm per pixel is far finer than its own {max(self.mpp):g}; "
                    f"detail that was not scanned cannot be read, give {max(self.mpp):g} or more"
                )
        pixels = self._scaled(region, scale)
        mpp = None
        if self.mpp is not None:
            height, width = pixels.shape[:2]  # whole pixels: the true scale is a hair off the one asked for
            mpp = (self.mpp[0] * region.width / width, self.mpp[1] * region.height / height)
        return Roi(pixels, mpp, region, self.source)

    def read(self, region: Region, size: tuple[int, int]) -> np.ndarray:
        """What `region` shows as a picture of `size` (width, height): uint8 (H, W, 3), anti-aliased.

        The region may reach beyond the slide, where it is white; its `mpp` is not looked at. Threads may read at once.
        Raises InputError where it is too much for one read, or cannot be decoded.
        """
        width, height = self.dimensions
        left, top = max(0, region.x), max(0, region.y)
        right, bottom = min(width, region.x + region.width), min(height, region.y + region.height)
        scale = (region.width / size[0], region.height / size[1])
        if (left, top, right, bottom) == (region.x, region.y, region.x + region.width, region.y + region.height):
            return self._scaled(region, scale, size)
        out = np.full((size[1], size[0], 3), 255, np.uint8)
        x0, x1 = (round((x - region.x) / scale[0]) for x in (left, right))
        y0, y1 = (round((y - region.y) / scale[1]) for y in (top, bottom))
        if x1 > x0 and y1 > y0:
            inside = Region(left, top, right - left, bottom - top)
            out[y0:y1, x0:x1] = self._scaled(inside, scale, (x1 - x0, y1 - y0))
        return out

    def close(self) -> None:
        """Close the file; reading afterwards is an error."""
        self._reader.close()

    def __enter__(self) -> Slide:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def _check_inside(self, region: Region) -> None:
        width, height = self.dimensions
        inside = min(region.x, region.y) >= 0 and min(region.width, region.height) > 0
        if not (inside and region.x + region.width <= width and region.y + region.height <= height):
            raise InputError(
                f"{self.source}: region {region.x},{region.y},{region.width},{region.height} is not inside "
                f"the {width} x {height} pixels; give x,y,width,height within them"
            )

    def _scaled(self, region: Region, scale: tuple[float, float], size: tuple[int, int] | None = None) -> np.ndarray:
        """`region` with `scale` (x, y) level-0 pixels per pixel, from the coarsest level fine enough.

        size: (width, height) of the picture where it is known to the pixel.
        """
        size = size or (max(1, round(region.width / scale[0])), max(1, round(region.height / scale[1])))
        index = self._level_for(min(scale))
        level = self.levels[index]
        step_x, step_y = self.levels[0].width / level.width, self.levels[0].height / level.height
        left, top = region.x / step_x, region.y / step_y
        right, bottom = (region.x + region.width) / step_x, (region.y + region.height) / step_y
        x, y = math.floor(left), math.floor(top)
        width = max(1, min(math.ceil(right), level.width) - x)
        height = max(1, min(math.ceil(bottom), level.height) - y)
        if max(width * height, size[0] * size[1]) > READ_LIMIT_PX:
            raise InputError(
                f"{self.source}: {width} x {height} pixels to read for a picture of {size[0]} x {size[1]}, "
                f"over the limit of {READ_LIMIT_PX // 1_000_000} million; choose a part with "
                "--region x,y,w,h or a coarser --mpp"
            )
        pixels = self._reader.read(index, x, y, width, height)
        if self._to_srgb is not None:
            pixels = self._to_srgb(pixels)
        if (width, height) == size and (left, top) == (x, y):
            return pixels
        return _resample(pixels, (left - x, top - y, min(right - x, width), min(bottom - y, height)), size)

    def _level_for(self, downsample: float) -> int:
        """The coarsest level that still has all the detail asked for."""
        fit = [i for i, level in enumerate(self.levels) if level.downsample <= downsample * NO_COARSER]
        return max(fit, key=lambda i: self.levels[i].downsample, default=0)


def open_slide(
    path: str | os.PathLike, mpp: float | tuple[float, float] | None = None, colour: str | None = None
) -> Slide:
    """Open a slide or picture. `mpp` states the scale of level 0 (µm per pixel), over what the file says.

    colour: "srgb" shows every pixel as the embedded ICC profile says, which looks alike on any screen; None, and a file
    without a profile, gives the numbers in the file, as models are taught on. A folder is opened where it holds one
    DICOM series.
    Raises InputError, one line with the mend, for what is missing, not a file, empty, unreadable or damaged, and with
    `colour` for a profile that is.
    """
    from slidekick.data.readers import open_best

    if colour not in (None, "srgb"):
        raise InputError(f'colour {colour!r} is not known; give "srgb", or leave it out')
    path = Path(path)
    stated = None
    if mpp is not None:
        pair = mpp if isinstance(mpp, tuple) else (mpp, mpp)
        stated = (checked_mpp(pair[0]), checked_mpp(pair[1]))
    file = _file_of(path)
    _check_file(file)
    reader = open_best(file)
    to_srgb = None
    if colour and reader.header.icc is not None:
        from slidekick.data.colour import srgb_from

        try:
            to_srgb = srgb_from(reader.header.icc, path.name)
        except InputError:
            reader.close()
            raise
    return Slide(reader, path.name, stated or reader.header.mpp, file, to_srgb)


def read_roi(path: str | os.PathLike, region: tuple[int, int, int, int] | None = None, mpp: float | None = None) -> Roi:
    """Pixels of a file, for a command: `region` as x, y, width, height at level 0, or the whole picture.

    Where the file has a scale, `mpp` is the scale to read at; where it has none, `mpp` states it and level-0
    pixels are read. Raises InputError as `open_slide` and `Slide.roi` do.
    """
    wanted = None if mpp is None else checked_mpp(mpp)
    with open_slide(path) as slide:
        x, y, width, height = region or (0, 0, *slide.dimensions)
        if slide.mpp is None and wanted is not None:
            slide.mpp, wanted = (wanted, wanted), None
        return slide.roi(Region(x, y, width, height, wanted))


def checked_mpp(mpp: float) -> float:
    """`mpp` as a positive, finite number of µm per pixel. Raises InputError."""
    try:
        value = float(mpp)
    except (TypeError, ValueError):
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise InputError(f"mpp {mpp!r} is no scale; give µm per pixel above 0, such as 0.5")
    return value


def _file_of(path: Path) -> Path:
    """The file to open: of a folder with a DICOM series its largest level, else `path` itself."""
    try:
        if not path.is_dir():
            return path
        from slidekick.data.readers.dicom import level_in

        found = level_in(path)
    except OSError as error:
        raise InputError(cannot_read(path, error)) from error
    if found is None:
        raise InputError(f"{path}: is a folder; give one picture or slide file, or a folder of one DICOM slide")
    return found


def _check_file(path: Path) -> None:
    try:
        if not path.exists():
            raise InputError(f"{path}: no such file; check the path")
        if not path.is_file():
            raise InputError(f"{path}: is no ordinary file; give a picture or slide file")
        if path.stat().st_size == 0:
            raise InputError(f"{path}: is empty (0 bytes); copy it again")
        with path.open("rb"):
            pass
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        reason = (getattr(error, "strerror", None) or "no valid path").lower()
        raise InputError(f"{str(path)!r}: cannot be read ({reason}); check the path and its rights") from error


def _resample(pixels: np.ndarray, box: tuple[float, float, float, float], size: tuple[int, int]) -> np.ndarray:
    """`box` (float pixels) of `pixels` as a picture of `size` (w, h), antialiased.

    Shrunk a whole number of times, each pixel is the mean of those it covers, as in the levels that scanners write; all
    else is bicubic.
    """
    left, top, right, bottom = box
    across, down = (right - left) / size[0], (bottom - top) / size[1]
    if all(float(value).is_integer() for value in (*box, across, down)) and max(across, down) > 1:
        import cv2

        part = pixels[int(top) : int(bottom), int(left) : int(right)]
        return cv2.resize(part, size, interpolation=cv2.INTER_AREA)
    from PIL import Image

    image = Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC, box=box, reducing_gap=None)
    return np.asarray(image)
