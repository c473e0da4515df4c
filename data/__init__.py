"""Slides, regions and samples come in here."""

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

__all__ = sorted(_HOME)


def __getattr__(name: str):
    """Import a public name's module only when the name is asked for, so that commands start fast."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
