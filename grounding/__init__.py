"""Text prompt to masks to measurements.

Names are loaded on first use, so that importing the room costs nothing.
"""

from slidekick.data.lazy import exports

_HOME = {
    "Concept": "vocabulary",
    "Finding": "finding",
    "Measurement": "measure",
    "Segmentor": "segmentor",
    "concept_colours": "palette",
    "draw_overlay": "overlay",
    "from_geojson": "annotations",
    "from_rle": "export",
    "prompts_of": "annotations",
    "read_geojson": "geojson",
    "segment_slide": "stitch",
    "to_geojson": "export",
    "to_rle": "export",
    "truth_of": "annotations",
    "write_geojson": "export",
    "write_item": "annotations",
    "write_label_png": "export",
}
__all__ = list(_HOME)
__getattr__, __dir__ = exports(__name__, _HOME)
