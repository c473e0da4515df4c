"""Public data sets in the layout in which they are published: read picture by picture, or converted into a set.

A source is a module beside this file with `PAPER` and `LICENCE` (as published), `CLASSES` (mask value -> class), and
`read(folder) -> Samples`, which looks the layout over at once and opens pictures one by one. A new source is one new
file and one line in SOURCES. Nothing is downloaded here. Names are loaded on first use, so that importing the package
costs nothing.
"""

from importlib import import_module
from types import ModuleType

from slidekick.data.errors import InputError
from slidekick.data.lazy import exports

SOURCES = {
    "bcss": "tissue regions of breast cancer, 19 classes",
    "consep": "nuclei of colorectal adenocarcinoma, 7 classes",
    "ebhi_seg": "colorectal biopsies, the lesion of 6 diagnoses",
    "glas": "benign and malignant glands of the colon",
    "lizard": "nuclei of the colon, 6 classes",
    "monuseg": "nuclei of 8 organs",
    "nuinsseg": "nuclei of 31 human and mouse organs",
    "pannuke": "nuclei of 19 organs, 5 classes",
}


def source(name: str) -> ModuleType:
    """The module that reads the data set `name`. Raises InputError for a name that is not in SOURCES."""
    if name not in SOURCES:
        raise InputError(f"no source named {name!r}; there are {', '.join(SOURCES)}")
    return import_module(f"{__name__}.{name}")


_HOME = {"Sample": "sample", "Samples": "sample", "convert": "conversion"}
__all__ = ["SOURCES", "source", *_HOME]
__getattr__, __dir__ = exports(__name__, _HOME)
