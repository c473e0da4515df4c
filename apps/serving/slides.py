"""Slides kept open for viewers, and their tiles in Microsoft's Deep Zoom layout, which OpenSeadragon and Leaflet read.

Level L of a pyramid shows the slide at 2^(L - last) of its size, the last in full and level 0 as one pixel; tiles of
`TILE` px have no overlap. Label and macro pictures are no part of a `Slide`, so that none can be asked for.
"""

from __future__ import annotations

import io
import math
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from slidekick.data.errors import InputError
from slidekick.data.slide import Region, Slide, open_slide

TILE = 256  # px
QUALITY = 85  # of JPEG, colour at full resolution: a stain is told by it
KEPT_OPEN = 16  # slides: a case in several browsers; each holds file handles and a little memory


@contextmanager
def by_name(file: Path) -> Iterator[None]:
    """Within it errors name a file without its folders, which are nobody else's to know."""
    try:
        yield
    except InputError as error:
        raise InputError(str(error).replace(str(file), file.name)) from None


@dataclass
class _Held:
    slide: Slide
    users: int = 0
    dropped: bool = False


class Shelf:
    """Slides by file, the latest used kept open, in colours for screens. Threads may use it at once."""

    def __init__(self, most: int = KEPT_OPEN) -> None:
        self.most = most
        self._held: OrderedDict[tuple, _Held] = OrderedDict()
        self._lock = threading.Lock()

    @contextmanager
    def open(self, file: Path) -> Iterator[Slide]:
        """The slide in `file`, opened anew where the file changed; it stays open while it is used.

        Raises InputError as `open_slide`.
        """
        key = version(file)
        with self._lock:
            held = self._held.get(key)
            if held is None:
                with by_name(file):
                    held = self._held[key] = _Held(open_slide(file, colour="srgb"))
            self._held.move_to_end(key)
            held.users += 1
            self._tidy()
        try:
            yield held.slide
        finally:
            with self._lock:
                held.users -= 1
                if held.dropped and not held.users:
                    held.slide.close()

    def close(self) -> None:
        """Close all; those in use when their users have done."""
        with self._lock:
            self._tidy(0)

    def _tidy(self, most: int | None = None) -> None:
        while len(self._held) > (self.most if most is None else most):
            _, held = self._held.popitem(last=False)
            held.dropped = True
            if not held.users:
                held.slide.close()


def version(file: Path) -> tuple:
    """What tells a file and its content of now from others. Raises InputError where it is gone."""
    try:
        told = file.stat()
    except OSError as error:
        raise InputError(f"{file.name}: is not there any more ({error.strerror}); list the files anew") from error
    return str(file), told.st_mtime_ns, told.st_size


def last_level(slide: Slide) -> int:
    """Number of the level that shows the slide in full."""
    return math.ceil(math.log2(max(slide.dimensions)))


def descriptor(slide: Slide) -> str:
    """The pyramid's DZI file."""
    width, height = slide.dimensions
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f'<Image xmlns="http://schemas.microsoft.com/deepzoom/2008" Format="jpeg" Overlap="0" TileSize="{TILE}">'
        f'<Size Width="{width}" Height="{height}"/></Image>'
    )


def tile(slide: Slide, level: int, column: int, row: int) -> bytes:
    """One tile as JPEG. Raises InputError where the pyramid has none there, and as `Slide.read`."""
    from PIL import Image

    last = last_level(slide)
    if not 0 <= level <= last:
        raise InputError(f"{slide.source}: has no level {level}; give 0 to {last}")
    step = 2 ** (last - level)  # level-0 pixels a pixel
    width, height = slide.dimensions
    left, top = column * TILE, row * TILE
    wide, high = min(TILE, math.ceil(width / step) - left), min(TILE, math.ceil(height / step) - top)
    if min(column, row) < 0 or min(wide, high) <= 0:
        raise InputError(f"{slide.source}: level {level} has no tile {column}, {row}; see its size")
    x, y = left * step, top * step
    region = Region(x, y, min(wide * step, width - x), min(high * step, height - y))
    stream = io.BytesIO()
    Image.fromarray(slide.read(region, (wide, high))).save(stream, format="JPEG", quality=QUALITY, subsampling=0)
    return stream.getvalue()


def facts(slide: Slide) -> dict:
    """What a viewer needs of a slide; nothing that its label or header tells of a patient."""
    width, height = slide.dimensions
    mpp = None if slide.mpp is None else [slide.mpp[0], slide.mpp[1]]
    return {
        "width": width,
        "height": height,
        "mpp": mpp,
        "objective_power": slide.objective_power,
        "vendor": slide.vendor,
        "levels": last_level(slide) + 1,
        "tile": TILE,
    }
