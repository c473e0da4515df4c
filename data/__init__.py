"""Slides, regions and samples come in here.

Names are loaded on first use, so that importing the room costs nothing.
"""

from slidekick.data.lazy import exports

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
    "read_coords": "features",
    "read_features": "features",
    "read_roi": "slide",
    "sample": "samples",
    "write_coords": "features",
    "write_features": "features",
}
__all__ = list(_HOME)
__getattr__, __dir__ = exports(__name__, _HOME)
