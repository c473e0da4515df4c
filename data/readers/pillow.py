"""Ordinary pictures as slides of one level, through Pillow: whatever their mode, they come out as 8-bit RGB.

The picture is decoded when it is opened, so damage shows at once. A print resolution (dpi) is no microscope
scale, so `mpp` is always None.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from slidekick.data.errors import InputError
from slidekick.data.memory import is_refused
from slidekick.data.readers.header import Header

# Picture formats only: Pillow's others run outside programs (EPS) or are no pictures of tissue.
FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "WEBP", "GIF", "JPEG2000", "PPM")
PICTURE_LIMIT_PX = 150_000_000  # 450 MB as RGB; a larger scan belongs in a tiled format that is read in parts
# Its debug log tells the values of tags, names of patients among them, to whoever turns on all debug logs.
logging.getLogger("PIL").setLevel(logging.INFO)
_STDERR = threading.Lock()  # there is one for the whole process


def support(path: Path) -> float:
    """0.5 for a picture that Pillow recognises by its content, 0 otherwise."""
    try:
        with quiet(path), _open(path):
            return 0.5
    except Image.DecompressionBombError:
        return 0.5  # recognised; `open_file` says that it is too large
    except Exception:  # a damaged header can make a decoder raise anything; whatever it is, it is no picture
        return 0.0


def open_file(path: Path) -> PillowReader:
    """Raises InputError for a picture that is too large, damaged, animated, or of an unknown range."""
    try:
        with quiet(path), _open(path) as picture:
            _check(picture, path)
            icc = picture.info.get("icc_profile") if picture.mode in ("RGB", "RGBA") else None
            return PillowReader(_rgb(picture, path), f"{picture.format}".lower(), icc)
    except Image.DecompressionBombError as error:
        raise InputError(_too_large(path)) from error
    except InputError:
        raise
    except Exception as error:  # as in `support`
        raise InputError(f"{path}: the picture is damaged or cut short; copy or export it again") from error


def read_picture(path: Path) -> Image.Image:
    """A labelled picture or its mask as it is stored, decoded. Raises InputError where it cannot be read."""
    try:
        with Image.open(path, formats=FORMATS) as picture:
            picture.load()
            return picture
    except Exception as error:  # as in `support`
        if is_refused(error):
            raise
        raise InputError(f"{path}: cannot be read as a picture; restore it") from error


class PillowReader:
    """A decoded picture; see `Reader`."""

    def __init__(self, pixels: np.ndarray, vendor: str, icc: bytes | None = None) -> None:
        self._pixels = pixels
        size = (pixels.shape[1], pixels.shape[0])
        self.header = Header(vendor, [size], [size], icc=icc or None)

    def read(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        """See `Reader.read`."""
        return self._pixels[y : y + height, x : x + width].copy()

    def close(self) -> None:
        self._pixels = np.empty((0, 0, 3), np.uint8)


def _open(path: Path) -> Image.Image:
    return Image.open(path, formats=FORMATS)


@contextlib.contextmanager
def quiet(path: Path) -> Iterator[None]:
    """Without Pillow's warnings: sizes are judged by PICTURE_LIMIT_PX, and odd tags do no harm."""
    with path.open("rb") as stream:
        tiff = stream.read(2) in (b"II", b"MM")
    with _no_stderr() if tiff else contextlib.nullcontext(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def _no_stderr() -> Iterator[None]:
    """libtiff writes its complaints to file descriptor 2 whatever Python says, beside our own one line; they are
    turned away, for the whole process and the moment of decoding."""
    with _STDERR:
        try:
            kept = os.dup(2)
        except OSError:  # a process without stderr has nothing to turn away
            yield
            return
        nowhere = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(nowhere, 2)
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            os.close(nowhere)


def _check(picture: Image.Image, path: Path) -> None:
    """What the header alone can tell, before a pixel is decoded."""
    if picture.width * picture.height > PICTURE_LIMIT_PX:
        raise InputError(_too_large(path, picture.size))
    frames = getattr(picture, "n_frames", 1)
    if frames > 1 and picture.format != "MPO":  # an MPO's later frames are a camera's previews of the first
        raise InputError(f"{path}: holds {frames} frames or pages; save the one you mean as its own picture")


def _too_large(path: Path, size: tuple[int, int] | None = None) -> str:
    stated = f"{size[0]} x {size[1]} pixels is" if size else "the picture is"
    return (
        f"{path}: {stated} over the limit of {PICTURE_LIMIT_PX // 1_000_000} million pixels for an untiled "
        "picture; cut it, or convert it to a tiled pyramidal TIFF"
    )


def _rgb(picture: Image.Image, path: Path) -> np.ndarray:
    """uint8 (H, W, 3): upright as EXIF says, transparency over white, 16 bits scaled by their full range."""
    picture.load()
    picture = ImageOps.exif_transpose(picture)
    if picture.mode in ("I", "F"):
        raise InputError(f"{path}: 32-bit pixels have no known range; export it as 8-bit RGB")
    if picture.mode.startswith("I;16"):
        return _from_16_bits(np.asarray(picture))
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture)
    return np.asarray(picture.convert("RGB"))


def _from_16_bits(values: np.ndarray) -> np.ndarray:
    grey = ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)  # 65535 = 255 x 257
    return np.repeat(grey[:, :, None], 3, axis=2)
