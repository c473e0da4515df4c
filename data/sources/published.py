"""What published files hold, checked as they are opened: pictures, label maps, MATLAB files, tables.

Every fault is an InputError that names the file and what was expected of it. Nothing here knows a data set.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from slidekick.data.errors import InputError
from slidekick.data.files import cannot_read
from slidekick.data.items import MOST_IDS, UNLABELLED
from slidekick.data.readers.pillow import FORMATS, PICTURE_LIMIT_PX, quiet

MAX_LABELS = 24  # of unknown values named in a message


def existing_folder(folder: Path, expected: str) -> Path:
    """`folder`, which must be one. Raises InputError with what it is `expected` to hold."""
    if not folder.is_dir():
        what = "is a file, not a folder" if folder.exists() else "no such folder"
        raise InputError(f"{folder}: {what}; give the folder that holds {expected}")
    return folder


def found(folder: Path, pattern: str, expected: str | None = None) -> list[Path]:
    """Files and folders below `folder` whose names match `pattern` (as `Path.rglob`), in name order.

    What archivers of macOS leave behind is passed over. Raises InputError where there is none and `expected` says
    what there should be.
    """
    paths = [path for path in folder.rglob(pattern) if not _left_behind(path.relative_to(folder))]
    if expected and not paths:
        raise InputError(f"{folder}: no {pattern} below it; expected {expected}")
    return sorted(paths)


def _left_behind(path: Path) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in path.parts)


def partner(path: Path, other: Path) -> Path:
    """`other`, the file that belongs to `path`. Raises InputError where it is not there."""
    if not other.is_file():
        raise InputError(f"{path}: its partner {other.parent.name}/{other.name} is missing; unpack the data set again")
    return other


def picture(path: Path) -> np.ndarray:
    """uint8 (H, W, 3) RGB of an 8-bit picture, transparency dropped; of several pages the first."""
    return _decoded(path, lambda image: np.asarray(image.convert("RGB")))


def label_map(path: Path) -> np.ndarray:
    """The stored numbers of a picture of labels, (H, W): a palette's indices, 8 or 16 bits, as they are.

    A colour picture is taken where its channels are equal.
    """
    values = _decoded(path, np.asarray)
    if values.ndim == 3:
        colour = values[..., :3]
        if (colour != colour[..., :1]).any():
            raise InputError(f"{path}: a colour picture; expected one channel of label numbers")
        values = values[..., 0]
    return values


def _decoded(path: Path, take) -> np.ndarray:
    from PIL import Image

    if not path.is_file():
        raise InputError(f"{path}: no such file; unpack the data set again")
    try:
        with quiet(path), Image.open(path, formats=FORMATS) as image:
            if image.width * image.height <= PICTURE_LIMIT_PX:
                return take(image)
    except Image.DecompressionBombError:
        pass  # told below
    except Exception as error:  # a damaged file can make a decoder raise anything
        raise InputError(f"{path}: not a whole picture; copy or unpack it again") from error
    raise InputError(f"{path}: over {PICTURE_LIMIT_PX // 1_000_000} million pixels; no picture of this data set is")


def array_file(path: Path, shape: tuple[int | None, ...], what: str) -> np.ndarray:
    """A NumPy file, mapped from disk and read where it is used.

    shape: the sizes expected, None for any. what: its content, for messages. Pickled objects are not read.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected {what}")
    try:
        values = np.load(path, mmap_mode="r")
    except Exception as error:  # as above
        raise InputError(f"{path}: not a whole NumPy array ({error}); expected {what}") from error
    if not isinstance(values, np.ndarray) or len(values.shape) != len(shape):
        raise InputError(f"{path}: holds {_sizes(getattr(values, 'shape', ()))}; expected {what}")
    if any(wanted not in (None, size) for size, wanted in zip(values.shape, shape, strict=True)):
        raise InputError(f"{path}: holds {_sizes(values.shape)}; expected {what}")
    return values


def matlab(path: Path, *names: str) -> dict[str, np.ndarray]:
    """The arrays `names` of a MATLAB file (version 4 to 7.2)."""
    from scipy.io import loadmat

    if not path.is_file():
        raise InputError(f"{path}: no such file; unpack the data set again")
    try:
        held = loadmat(path, variable_names=list(names))
    except Exception as error:  # as above; a version 7.3 file, which is HDF5, ends here too
        raise InputError(f"{path}: not a whole MATLAB file of version 4 to 7.2; unpack the data set again") from error
    for name in names:
        if not isinstance(held.get(name), np.ndarray) or held[name].dtype.kind not in "biuf":
            raise InputError(f"{path}: no array of numbers named {name}; expected {', '.join(names)}")
    return {name: held[name] for name in names}


def table(path: Path, columns: Iterable[str], delimiter: str = ",") -> list[dict[str, str]]:
    """Rows of a text table as column -> text without blanks around it; whatever ends the lines."""
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected a table of {', '.join(columns)}")
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
        rows = [[text.strip() for text in row] for row in csv.reader(lines, delimiter=delimiter) if any(row)]
    except OSError as error:
        raise InputError(cannot_read(path, error)) from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: not a text table; unpack the data set again") from error
    head = rows[0] if rows else []
    if missing := [name for name in columns if name not in head]:
        raise InputError(f"{path}: no column {missing[0]!r}; expected {', '.join(columns)}")
    for number, row in enumerate(rows[1:], 2):
        if len(row) != len(head):
            raise InputError(f"{path}: row {number} has {len(row)} of {len(head)} columns; unpack the data set again")
    return [dict(zip(head, row, strict=True)) for row in rows[1:]]


def whole_number(text: str, path: Path, what: str) -> int:
    """`text` as a whole number of 0 or more; `what` it is, for the message."""
    if not (text.isascii() and text.isdigit()):
        raise InputError(f"{path}: {what} is {text!r}, not a whole number")
    return int(text)


def same_size(image: np.ndarray, labels: np.ndarray, path: Path) -> None:
    """Labels out of `path` must be as large as their picture."""
    if labels.shape != image.shape[:2]:
        raise InputError(
            f"{path}: labels of {_sizes(labels.shape)}, the picture is {_sizes(image.shape[:2])}; expected equal sizes"
        )


def object_ids(values: np.ndarray, path: Path) -> np.ndarray:
    """Object ids as uint16 (H, W), 0 = no object."""
    whole = whole_numbers(values, path, "object ids")
    if whole.size and whole.max() > MOST_IDS:
        raise InputError(f"{path}: object ids up to {whole.max()}; expected at most {MOST_IDS}")
    return whole.astype(np.uint16)


def class_mask(
    values: np.ndarray, classes: Mapping[int, str], path: Path, not_judged: Iterable[int] = ()
) -> np.ndarray:
    """Class numbers as uint8 (H, W): 0 and the keys of `classes` as they are, those `not_judged` as 255."""
    whole = whole_numbers(values, path, "class numbers")
    not_judged = list(not_judged)
    if unknown := sorted(set(np.unique(whole).tolist()) - {0, *classes, *not_judged}):
        shown = ", ".join(map(str, unknown[:MAX_LABELS]))
        known = ", ".join(f"{number} {name}" for number, name in classes.items())
        raise InputError(f"{path}: unknown class number {shown}; expected 0 or {known}")
    mask = whole.astype(np.uint8)
    mask[np.isin(whole, not_judged)] = UNLABELLED
    return mask


def whole_numbers(values: np.ndarray, path: Path, what: str) -> np.ndarray:
    """int64 (H, W) of numbers that must be whole and not negative; `what` they are, for the message."""
    if values.ndim != 2 or values.dtype.kind not in "biuf":
        raise InputError(f"{path}: {what} of shape {_sizes(values.shape)}; expected height x width whole numbers")
    if values.dtype.kind == "f" and not (np.isfinite(values).all() and (values == np.rint(values)).all()):
        raise InputError(f"{path}: {what} are not whole numbers; expected 0, 1, 2, ...")
    whole = values.astype(np.int64)
    if whole.size and whole.min() < 0:
        raise InputError(f"{path}: {what} go down to {whole.min()}; expected 0, 1, 2, ...")
    return whole


def _sizes(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "a single value"
