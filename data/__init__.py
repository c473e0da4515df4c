"""Slides, regions and samples come in here.

Names are loaded on first use, so that importing the room costs nothing.
"""

from importlib import import_module

_HOME = {
    "InputError": "errors",
    "Item": "items",
    "OutputError": "errors",
    "Region": "slide",
    "Roi": "slide",
    "Slide": "slide",
    "SlidekickError": "errors",
    "SourceError": "errors",
    "load_items": "items",
    "open_slide": "slide",
    "read_roi": "slide",
    "sample": "samples",
}
__all__ = list(_HOME)


def __getattr__(name: str):
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
