"""The files of a segmented slide: features as they come, a label picture for each concept. Measures nothing."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from slidekick.data.files import stream_atomic
from slidekick.data.slide import Slide
from slidekick.grounding.export import BETWEEN, CLOSING, OPENING, Place, feature, unique_slugs
from slidekick.grounding.label_pyramid import LabelCanvas
from slidekick.grounding.outline import Polygon
from slidekick.grounding.palette import concept_colours


@contextlib.contextmanager
def slide_output(folder: Path, stem: str, slide: Slide, concepts: list[str]) -> Iterator[SlideOutput]:
    """The files of one run, there whole once the block ends well and not at all where it does not."""
    output = SlideOutput(folder, stem, slide, concepts)
    features, lines = output.files["geojson"], output.files["ndjson"]
    with stream_atomic(features) as output.collection, stream_atomic(lines) as output.lines:
        output.collection.write(OPENING)
        yield output
        output.collection.write(CLOSING)


class SlideOutput:
    """Features as they come, label pictures concept by concept. collection, lines: open streams of features."""

    collection: BinaryIO
    lines: BinaryIO

    def __init__(self, folder: Path, stem: str, slide: Slide, concepts: list[str]) -> None:
        self.folder, self._stem, self._slide = folder, stem, slide
        self._colours = concept_colours(concepts)
        self._slugs = dict(zip(concepts, unique_slugs(concepts), strict=True))
        self.files = {"geojson": folder / f"{stem}.geojson", "ndjson": folder / f"{stem}.ndjson"}
        self._some = False

    def add(self, concept: str, kind: str, polygons: list[Polygon], place: Place, numbers: dict, number: int) -> None:
        """One feature into both files."""
        classification = {"name": concept, "color": list(self._colours[concept])}
        seed = (self._slide.source, 0, 0, *self._slide.dimensions, concept, number)
        text = json.dumps(feature(kind, polygons, place, classification, numbers, seed)).encode()
        self.collection.write((BETWEEN if self._some else b"") + text)
        self.lines.write(text + b"\n")
        self._some = True

    def labels(self, concept: str, canvas: LabelCanvas, um_per_px: float, lookup: Callable[[int], int]) -> None:
        """A concept's label picture."""
        path = self.folder / f"{self._stem}.{self._slugs[concept]}.labels.ome.tif"
        self.files[f"labels of {concept}"] = canvas.write(path, um_per_px, lookup)
