"""Text prompt to masks to measurements.

Names are loaded on first use, so that importing the room costs nothing.
"""

from importlib import import_module

_HOME = {
    "Finding": "finding",
    "Measurement": "measure",
    "Segmentor": "segmentor",
    "concept_colours": "palette",
    "draw_overlay": "overlay",
    "from_geojson": "export",
    "from_rle": "export",
    "to_geojson": "export",
    "to_rle": "export",
    "write_label_png": "export",
}
__all__ = list(_HOME)


def __getattr__(name: str):
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
