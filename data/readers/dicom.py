"""DICOM slides that OpenSlide refuses, through pydicom: JPEG-LS, files without an image type, and folders of files.

One file is one level. Only frames in full order are read (TILED_FULL, or no order stated); labels and overviews are
never read, and no field that may hold an identifier is looked at but the series' own number, which is not told.
"""

from __future__ import annotations

import warnings
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import imagecodecs
import numpy as np

from slidekick.data.errors import InputError
from slidekick.data.readers.header import Header, plausible
from slidekick.data.readers.tiled import Grid, TiledReader

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

SLIDE_CLASS = "1.2.840.10008.5.1.4.1.1.77.1.6"  # VL Whole Slide Microscopy Image Storage
DECODERS = {
    "1.2.840.10008.1.2.4.50": imagecodecs.jpeg8_decode,
    "1.2.840.10008.1.2.4.80": imagecodecs.jpegls_decode,
    "1.2.840.10008.1.2.4.81": imagecodecs.jpegls_decode,
    "1.2.840.10008.1.2.4.90": imagecodecs.jpeg2k_decode,
    "1.2.840.10008.1.2.4.91": imagecodecs.jpeg2k_decode,
}
ITEM = b"\xfe\xff\x00\xe0"  # the tag before each frame
PLAIN = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1")  # little endian, implicit and explicit
ASIDE = ("LABEL", "OVERVIEW", "LOCALIZER", "THUMBNAIL")  # image types that are no level of the slide


def support(path: Path) -> float:
    """0.7 for a slide's level, 1 for its label, which is refused for sure, 0 for anything else."""
    data = _slide_header(path)
    return 0.0 if data is None else 1.0 if _aside(data) else 0.7


def open_file(path: Path) -> DicomReader:
    """Raises InputError for what is not in full order, a label, or damaged."""
    try:
        return DicomReader(path)
    except InputError:
        raise
    except Exception as error:  # as in `_slide_header`
        raise InputError(f"{path}: the DICOM file is damaged or incomplete; copy it again") from error


def level_in(folder: Path) -> Path | None:
    """The largest level among the DICOM files of a folder, from which its series is opened; None where there is none.

    Raises InputError where the folder holds slides of several series.
    """
    found = [(path, _slide_header(path)) for path in sorted(folder.iterdir()) if path.is_file()]
    levels = [(path, data) for path, data in found if data is not None and not _aside(data) and _sized(data)]
    if len({data.get("SeriesInstanceUID") for _, data in levels}) > 1:
        raise InputError(f"{folder}: holds several slides; give a file of the one you mean")
    return max(levels, key=lambda level: _size(level[1])[0], default=(None, None))[0]


def tables_hold(path: Path) -> bool:
    """Whether, of this file and those of its series beside it, every table of frames points at frames."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            own = _read(path)
            for other in sorted(path.parent.iterdir()):
                data = own if other == path else _slide_header(other) if other.is_file() else None
                if data is None or data.get("SeriesInstanceUID") != own.get("SeriesInstanceUID"):
                    continue
                if not _table_holds(other, data):
                    return False
        return True
    except Exception:  # as in `_slide_header`
        return False


class DicomReader(TiledReader):
    """An open level; see `Reader`."""

    def __init__(self, path: Path) -> None:
        data = _read(path)
        syntax = str(data.file_meta.TransferSyntaxUID)
        if _aside(data):
            raise InputError(f"{path}: is a slide's label or overview, which is not read; give a level of the slide")
        if data.get("DimensionOrganizationType", "TILED_FULL") != "TILED_FULL":
            raise InputError(f"{path}: its frames are in no full order; convert it to TILED_FULL")
        if syntax not in DECODERS and syntax not in PLAIN:
            raise InputError(f"{path}: DICOM transfer syntax {syntax} is not read here; convert it to JPEG")
        if data.BitsAllocated != 8 or data.SamplesPerPixel not in (1, 3):
            raise InputError(f"{path}: {data.BitsAllocated} bits of {data.SamplesPerPixel} colours; export 8-bit RGB")
        self._decode = DECODERS.get(syntax)
        size, tile = _size(data), (int(data.Columns), int(data.Rows))
        self._planar = data.get("PlanarConfiguration") == 1  # of plain pixels; decoders give colours side by side
        self.grids = [[Grid.over(size, tile, int(data.SamplesPerPixel), 1, np.uint8)]]
        super().__init__(path)
        try:
            self._frames = _frames(path, data, self._decode is not None)
        except BaseException:
            self.close()
            raise
        self.header = Header("dicom", [size], [tile], _mpp(data), _power(data), icc=_profile(data))

    def decoded(self, level: int, page: int, index: int) -> np.ndarray | None:
        """See `TiledReader.decoded`."""
        if index >= len(self._frames):
            raise self.damaged(f"frame {index} is missing")
        grid = self.grids[0][0]
        data = self.bytes_at(*self._frames[index])
        if self._decode is not None:
            return self._decode(data).reshape(grid.height, grid.width, grid.samples)
        values = np.frombuffer(data, np.uint8)
        if self._planar:
            return values.reshape(grid.samples, grid.height, grid.width).transpose(1, 2, 0)
        return values.reshape(grid.height, grid.width, grid.samples)


def _read(path: Path) -> Dataset:
    import pydicom

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # odd values are common in real files
        return pydicom.dcmread(path, stop_before_pixels=True)


def _slide_header(path: Path) -> Dataset | None:
    """The header of a slide's level or label, read once; None for any other file."""
    try:
        with path.open("rb") as stream:
            if stream.read(132)[128:] != b"DICM":
                return None
        data = _read(path)
        return data if data.SOPClassUID == SLIDE_CLASS else None
    except Exception:  # a damaged header can make the parser raise anything; whatever it is, it is no slide
        return None


def _aside(data: Dataset) -> bool:
    return any(kind in ASIDE for kind in data.get("ImageType") or ())


def _size(data: Dataset) -> tuple[int, int]:
    return int(data.TotalPixelMatrixColumns), int(data.TotalPixelMatrixRows)


def _sized(data: Dataset) -> bool:
    """Whether it says how large its level is."""
    try:
        return min(_size(data)) > 0
    except (AttributeError, TypeError, ValueError):  # missing, or there without a value
        return False


def _mpp(data: Dataset) -> tuple[float, float] | None:
    """(x, y): PixelSpacing is in mm, between rows first."""
    try:
        down, across = data.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing
        return plausible((float(across) * 1000, float(down) * 1000))
    except (AttributeError, IndexError, TypeError, ValueError):
        return None


def _power(data: Dataset) -> float | None:
    try:
        return float(data.OpticalPathSequence[0].ObjectiveLensPower)
    except (AttributeError, IndexError, TypeError, ValueError):
        return None


def _profile(data: Dataset) -> bytes | None:
    try:
        return data.OpticalPathSequence[0].ICCProfile or None
    except (AttributeError, IndexError, TypeError):
        return None


def _table_holds(path: Path, data: Dataset) -> bool:
    from pydicom.encaps import parse_basic_offsets

    if data.file_meta.TransferSyntaxUID in PLAIN:
        return True
    with path.open("rb") as stream:
        _seek_pixels(stream, data)
        offsets = parse_basic_offsets(stream)
        first, size = stream.tell(), path.stat().st_size
        for offset in offsets:
            stream.seek(first + offset)
            head = stream.read(8)
            if head[:4] != ITEM or stream.tell() + int.from_bytes(head[4:], "little") > size:
                return False
    return all(one < other for one, other in pairwise(offsets))


def _seek_pixels(stream: BinaryIO, data: Dataset) -> None:
    """To where the pixels of an open file begin: past their tag, its kind and its length."""
    import pydicom

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pydicom.dcmread(stream, stop_before_pixels=True)  # leaves the stream at the tag
    stream.seek(8 if data.file_meta.TransferSyntaxUID.is_implicit_VR else 12, 1)


def _frames(path: Path, data: Dataset, encapsulated: bool) -> list[tuple[int, int]]:
    """(offset, bytes) of each frame in the file."""
    from pydicom.encaps import parse_basic_offsets, parse_fragments

    number = int(data.get("NumberOfFrames", 1))
    with path.open("rb") as stream:
        _seek_pixels(stream, data)
        if not encapsulated:
            size = int(data.Rows) * int(data.Columns) * int(data.SamplesPerPixel)
            return [(stream.tell() + size * i, size) for i in range(number)]
        parse_basic_offsets(stream)
        _, places = parse_fragments(stream)
        fragments = []
        for place in places:
            stream.seek(place + 4)
            fragments.append((place + 8, int.from_bytes(stream.read(4), "little")))
    if len(fragments) > number:
        raise InputError(f"{path}: frames in several pieces each are not read here; convert it to a tiled TIFF")
    if len(fragments) < number:
        raise InputError(f"{path}: {len(fragments)} frames in place of {number}; copy it again")
    return fragments
