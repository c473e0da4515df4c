"""Tiled and many-channelled TIFFs through tifffile: SVS, generic pyramids, OME-TIFF with SubIFDs, QPTIFF.

tifffile reads the structure, each tile is then fetched by its offset and decoded by imagecodecs: nothing is held but a
few decoded tiles, threads do not wait for each other, and damaged tiles are errors and not crashes. A plain picture is
left to Pillow, which knows more kinds of pixels. Label and macro pictures are never read.
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tifffile

from slidekick.data.errors import InputError
from slidekick.data.readers.header import ASSOCIATED, Header, plausible
from slidekick.data.readers.tiled import SEGMENT_LIMIT_PX, Grid, TiledReader

RANGE_PX = 4_000_000  # a level of at most so many pixels tells how bright the channels of a fluorescence slide are
BRIGHTEST = 99.8  # per cent of the pixels that are not cut off at the upper end
VENDORS = {"svs": "aperio", "ome": "ome-tiff", "qpi": "qptiff", "ndpi": "hamamatsu", "scn": "leica", "bif": "ventana"}
OWN = ("svs", "ome", "qpi")  # kinds whose structure and scale are read here; the others are OpenSlide's
COLOURS = (
    (0, 0, 1),
    (0, 1, 0),
    (1, 0, 0),
    (0, 1, 1),
    (1, 0, 1),
    (1, 1, 0),
    (1, 1, 1),
)
UNITS_UM = {2: 25400.0, 3: 10000.0}  # µm in a TIFF's ResolutionUnit: inch, centimetre
OME_UNITS_UM = {"µm": 1.0, "μm": 1.0, "um": 1.0, "nm": 1e-3, "mm": 1e3, "cm": 1e4}  # micro sign and Greek mu


def support(path: Path) -> float:
    """0.95 for what is made of tiles, levels or channels, 0.4 for a picture with thumbnails, 0 for anything else."""
    try:
        with _file(path) as file:
            levels = _levels(file)
            kind = _kind(file)
            if kind not in (*OWN, None) or not levels or min(_size(levels[0])) < 1:
                return 0.0
            page = levels[0][0].keyframe
            if not _readable(page):
                return 0.0
            if kind or page.is_tiled or len(levels) > 1 or len(levels[0]) > 1:
                return 0.95
            # A plain picture is Pillow's, unless its thumbnails lie beside it, which Pillow takes for further pages.
            others = file.series[1:]
            return 0.4 if others and all(other.size < file.series[0].size for other in others) else 0.0
    except Exception:  # a damaged structure can make the parser raise anything; whatever it is, it is not read here
        return 0.0


def open_file(path: Path) -> TiffReader:
    """Raises InputError when the file is damaged or of a kind that cannot be shown as colours."""
    try:
        return TiffReader(path)
    except InputError:
        raise
    except Exception as error:  # as in `support`
        raise InputError(f"{path}: the TIFF is damaged or incomplete; copy it again") from error


class TiffReader(TiledReader):
    """An open file; see `Reader`."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        try:
            with _file(path) as file:
                levels = _levels(file)
                _check_alike(path, levels)
                self._pages = [[_Page.of(page) for page in pages] for pages in levels]
                self.grids = [[_grid(page.keyframe) for page in pages] for pages in levels]
                self.header = _header(file, levels, self.grids)
        except BaseException:
            self.close()
            raise
        self._range: np.ndarray | None = None

    def decoded(self, level: int, page: int, index: int) -> np.ndarray | None:
        """See `TiledReader.decoded`."""
        one = self._pages[level][page]
        if index >= min(len(one.offsets), len(one.counts)):
            raise self.damaged(f"tile {index} of level {level} is not in its table")
        if one.counts[index] == 0:
            return None
        data = self.bytes_at(one.offsets[index], one.counts[index])
        tile = one.decode(data, index, jpegtables=one.tables)[0]
        return None if tile is None else tile[0]

    def read(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        """See `Reader.read`; channels are laid over each other in colours."""
        if self.header.channels:
            return self._coloured(self.values(level, x, y, width, height))
        return super().read(level, x, y, width, height)

    def _coloured(self, values: np.ndarray) -> np.ndarray:
        """uint8 (H, W, 3) of channels (H, W, C): each in its colour from the darkest to the brightest of the slide."""
        if self._range is None:
            level = next((i for i, (w, h) in enumerate(self.header.levels) if w * h <= RANGE_PX), -1)
            width, height = self.header.levels[level]
            side = int(RANGE_PX**0.5)  # of the smallest level the middle, where even that is large
            box = (max(0, (width - side) // 2), max(0, (height - side) // 2), min(width, side), min(height, side))
            seen = self.values(level, *box)
            self._range = np.percentile(seen.reshape(-1, seen.shape[2]), (1, BRIGHTEST), axis=0)
        number = values.shape[2]
        shown = np.zeros((*values.shape[:2], 3), np.float32)
        for channel, (low, high) in enumerate(self._range.T):  # one at a time: a large read has room for no more
            bright = values[..., channel].astype(np.float32)
            bright -= np.float32(low)
            bright /= np.float32(max(high - low, 1))
            np.clip(bright, 0, 1, out=bright)
            for colour in np.flatnonzero(COLOURS[channel % len(COLOURS)] if number > 1 else (1, 1, 1)):
                shown[..., colour] += bright
        np.clip(shown, 0, 1, out=shown)
        shown *= 255
        return np.rint(shown, out=shown).astype(np.uint8)


class _Page(NamedTuple):
    """Where a page's tiles lie and how they are decoded. tables: what JPEG tiles share."""

    decode: Callable
    offsets: tuple[int, ...]
    counts: tuple[int, ...]
    tables: bytes | None

    @classmethod
    def of(cls, page) -> _Page:
        key = page.keyframe  # `decode` reads tags, so it is made while the file is open
        return cls(key.decode, tuple(page.dataoffsets), tuple(page.databytecounts), key.jpegtables)


def _grid(page) -> Grid:
    tile = (page.tilewidth, page.tilelength)
    if not page.is_tiled:
        tile = (page.imagewidth, min(page.rowsperstrip, page.imagelength))
    separate = page.samplesperpixel if page.planarconfig == 2 else 1
    return Grid.over((page.imagewidth, page.imagelength), tile, page.samplesperpixel, separate, page.dtype)


@contextlib.contextmanager
def _file(path: Path) -> Iterator[tifffile.TiffFile]:
    """The parsed file; tifffile's complaints about odd tags are kept off the terminal."""
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)
    with tifffile.TiffFile(path) as file:
        yield file


def _kind(file: tifffile.TiffFile) -> str | None:
    """Which scanner's TIFF it is, in tifffile's words; None for a plain one."""
    return next((name for name in VENDORS if name in file.flags), None)


def _levels(file: tifffile.TiffFile) -> list[list]:
    """Pages of each level of the picture that the file is about, largest first; a page a channel."""
    series = next(iter(file.series), None)
    if series is None or not set(series.axes) <= set("YXSC"):
        return []
    levels = [[page for page in level.pages if page is not None] for level in series.levels]
    return sorted(levels, key=lambda pages: -pages[0].keyframe.imagewidth * pages[0].keyframe.imagelength)


def _size(pages: list) -> tuple[int, int]:
    return pages[0].keyframe.imagewidth, pages[0].keyframe.imagelength


def _readable(page) -> bool:
    """Whether its pixels are colours, grey or channels of 8 or 16 bits, under a compression that is known here."""
    known = page.compression == 1 or page.compression in tifffile.TIFF.DECOMPRESSORS
    colour = page.samplesperpixel in (3, 4) and page.dtype == np.uint8 and int(page.photometric) in (2, 6)
    grey = page.samplesperpixel == 1 and page.dtype in (np.uint8, np.uint16) and int(page.photometric) == 1
    return bool(known and (colour or grey))


def _check_alike(path: Path, levels: list[list]) -> None:
    """Raises InputError where levels are not all of the channels and pixels that the first one is of."""
    for number, pages in enumerate(levels):
        if len(pages) != len(levels[0]):
            raise InputError(
                f"{path}: level {number} has {len(pages)} channels and level 0 has {len(levels[0])}: it is damaged; "
                "copy it again"
            )
    first = levels[0][0].keyframe
    kind = (first.dtype, first.samplesperpixel)
    for page in (page.keyframe for pages in levels for page in pages):
        if not _readable(page) or (page.dtype, page.samplesperpixel) != kind:
            raise InputError(f"{path}: its levels are of different kinds of pixels: it is damaged; copy it again")


def tables_hold(path: Path) -> bool:
    """Whether tiles are of a size within reason and end within the file, in every page of a TIFF.

    True as well for what tifffile cannot judge.
    """
    try:
        size = path.stat().st_size
        with _file(path) as file:
            for page in file.pages:
                tile = page.tilewidth * page.tilelength if page.is_tiled else page.imagewidth * page.rowsperstrip
                if min(tile, page.imagewidth * page.imagelength) > SEGMENT_LIMIT_PX:
                    return False
                if page.is_tiled and (tile > SEGMENT_LIMIT_PX or max(page.databytecounts, default=0) > size):
                    return False
        return True
    except Exception:  # as in `support`
        return True


def _header(file: tifffile.TiffFile, levels: list[list], grids: list[list[Grid]]) -> Header:
    kind, page = _kind(file), levels[0][0].keyframe
    several = len(levels[0]) > 1 or page.dtype != np.uint8
    described = page.description or ""
    scale, power, names = _resolution(page), None, ()
    if kind == "svs":
        scale, power = _number(described, r"\bMPP\s*=\s*([\d.]+)"), _number(described, r"\bAppMag\s*=\s*([\d.]+)")
        scale = None if scale is None else (scale, scale)
    elif kind == "ome":
        scale, names = _ome(file.ome_metadata or "")
    elif kind == "qpi":
        power = _number(described, r"<Objective>\s*([\d.]+)x?")
        told = (re.search(r"<Name>([^<]+)</Name>", one.description or "") for one in levels[0])
        names = tuple(_plain(name[1]) for name in told if name)
    channels = tuple(names[i] if i < len(names) else f"channel {i + 1}" for i in range(len(levels[0])))
    associated = tuple(series.name.lower() for series in file.series[1:] if series.name)
    return Header(
        vendor=VENDORS.get(kind, "generic-tiff"),
        levels=[_size(pages) for pages in levels],
        mpp=plausible(scale),
        objective_power=power,
        tiles=[(pages[0].width, pages[0].height) for pages in grids],
        associated=tuple(name for name in associated if name in ASSOCIATED),
        channels=channels if several else (),
        icc=page.tags[34675].value if 34675 in page.tags else None,
    )


def _resolution(page) -> tuple[float, float] | None:
    """(x, y) µm per pixel by a page's resolution tags."""
    unit = UNITS_UM.get(int(page.resolutionunit))
    across, down = page.resolution
    return (unit / across, unit / down) if unit and across > 0 and down > 0 else None


def _ome(text: str) -> tuple[tuple[float, float] | None, tuple[str, ...]]:
    """Scale and names of the channels of the first picture of an OME-XML, by its attributes alone."""
    pixels = re.search(r"<Pixels\b[^>]*>(.*?)</Pixels>", text, re.DOTALL)
    if pixels is None:
        return None, ()
    sizes = []
    for axis in "XY":
        size = _number(pixels[0], rf'\bPhysicalSize{axis}="([\d.eE+-]+)"')
        unit = re.search(rf'\bPhysicalSize{axis}Unit="([^"]+)"', pixels[0])
        factor = OME_UNITS_UM.get(unit[1] if unit else "µm")
        sizes.append(size * factor if size and factor else None)
    names = tuple(_plain(name) for name in re.findall(r'<Channel\b[^>]*\bName="([^"]*)"', pixels[1]))
    return (sizes[0], sizes[1]), names


def _number(text: str, pattern: str) -> float | None:
    found = re.search(pattern, text)
    try:
        return float(found[1]) if found else None
    except ValueError:
        return None


def _plain(name: str) -> str:
    """A channel's name as short printable text: it comes out of a file."""
    return "".join(char for char in name if char.isprintable())[:40]
