"""What is drawn over a slide: a concept's objects as QuPath features, packed for the browser, found by a click."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from slidekick.copilot.slide_tools import SlideToolbox
from slidekick.copilot.tools import Toolbox
from slidekick.data.slide import Roi
from slidekick.grounding.annotations import from_geojson
from slidekick.grounding.export import features_of
from slidekick.grounding.finding import Finding
from slidekick.grounding.outline import fill_window
from slidekick.grounding.overlay import legend_text


@dataclass(frozen=True)
class Layer:
    """One concept on one slide. told: what was found, in words. features: QuPath's GeoJSON, in level-0 pixels, of one
    object each; none where it was not found. quiet: nobody asked for it, so it is drawn when its box is ticked."""

    concept: str
    told: str
    features: tuple[dict, ...] = ()
    version: int = 0
    quiet: bool = False

    @property
    def found(self) -> bool:
        """Whether there is anything to draw."""
        return bool(self.features)

    @cached_property
    def rings(self) -> list[tuple[int, np.ndarray]]:
        """Number of the object, and int32 (n, 2) corners of each of its rings."""
        return [
            (number, np.asarray(ring, float).round().astype(np.int32))
            for number, feature in enumerate(self.features)
            for polygon in _polygons(feature["geometry"])
            for ring in polygon
        ]

    def finding(self, roi: Roi) -> Finding:
        """What it shows, over a picture: of what a person corrected nothing else is left after a restart."""
        if not self.features:
            return Finding(self.concept, np.zeros(roi.pixels.shape[:2], bool), 0.0, 0.0)
        return from_geojson({"type": "FeatureCollection", "features": list(self.features)}, roi)[-1]

    def packed(self) -> bytes:
        """For the browser, little-endian: uint32 number of rings R and of objects; uint32 (R,) the object of each;
        uint32 (R,) where its points end; int32 (points, 2) x and y."""
        owners = np.array([number for number, _ in self.rings], "<u4")
        ends = np.cumsum([len(ring) for _, ring in self.rings], dtype="<u4") if self.rings else np.array([], "<u4")
        head = np.array([len(self.rings), len(self.features)], "<u4")
        points = b"".join(ring.astype("<i4").tobytes() for _, ring in self.rings)
        return head.tobytes() + owners.tobytes() + ends.tobytes() + points

    def at(self, x: float, y: float) -> dict | None:
        """The smallest object around a place, to the pixel; None where there is none."""
        near: dict[int, list[np.ndarray]] = {}
        for (number, ring), (low, high) in zip(self.rings, self._bounds, strict=True):
            if (low <= (x, y)).all() and ((x, y) <= high).all():
                near.setdefault(number, []).append(ring)
        if not near:
            return None
        row, column = int(y), int(x)
        pixel = slice(row, row + 1), slice(column, column + 1)
        around = [number for number, rings in near.items() if fill_window(rings, pixel).any()]
        return self.features[min(around, key=lambda one: max(map(_extent, near[one])))] if around else None

    @cached_property
    def _bounds(self) -> list[tuple[np.ndarray, np.ndarray]]:
        return [(ring.min(0), ring.max(0)) for _, ring in self.rings]


def _extent(ring: np.ndarray) -> float:
    """Area of the box around a ring."""
    return float(np.prod(np.ptp(ring, axis=0)))


def _polygons(geometry: dict) -> Sequence:
    return geometry["coordinates"] if geometry["type"] == "MultiPolygon" else [geometry["coordinates"]]


def layer_of(finding: Finding, box: Toolbox, version: int) -> Layer:
    """A finding as a layer. box: the tools that found it; of a slide, what was seen at places is drawn there."""
    looks = box.looks if isinstance(box, SlideToolbox) else []
    seen = [(look.findings[finding.concept], look.roi) for look in looks if finding.concept in look.findings]
    drawn = seen or [(finding, box.roi)]
    features = [feature for one, roi in drawn if one.found for feature in features_of([one], roi)]
    return Layer(finding.concept, legend_text(finding), tuple(features), version)


@dataclass
class Layers:
    """The layers of a slide, by concept, in the order in which they were looked for."""

    by_concept: dict[str, Layer] = field(default_factory=dict)
    version: int = 0

    def draw(self, findings: Sequence[Finding], box: Toolbox, quiet: bool = False) -> None:
        """Take findings, in place of earlier ones of the same concepts. quiet: what was not drawn before stays so."""
        for finding in findings:
            self.version += 1
            known = self.by_concept.get(finding.concept)
            still = quiet and (known is None or known.quiet)
            self.by_concept[finding.concept] = replace(layer_of(finding, box, self.version), quiet=still)

    def at(self, x: float, y: float) -> tuple[Layer, dict] | None:
        """The layer and feature at a place, the latest layer first."""
        for layer in reversed(self.by_concept.values()):
            if feature := layer.at(x, y):
                return layer, feature
        return None
