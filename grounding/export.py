"""Findings in the formats of other tools: COCO run-length masks, QuPath GeoJSON, label pictures. And back.

GeoJSON follows QuPath: level-0 pixels, `objectType` annotation for regions and detection for objects, every
measurement a number with its unit in the name. Polygons run along pixel edges, so masks survive the way there
and back. Nothing is drawn here.
"""

from __future__ import annotations

import io
import os
import uuid
import warnings
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage

from slidekick.data.errors import InputError
from slidekick.data.files import write_atomic
from slidekick.data.slide import Roi
from slidekick.grounding.finding import Finding
from slidekick.grounding.measure import measure
from slidekick.grounding.outline import Polygon, fill, trace
from slidekick.grounding.palette import concept_colours

MOST_LABELS = 65535  # what a 16-bit label picture can number
_NAMESPACE = uuid.UUID("6d1f0a62-4a3e-5f0b-9f7c-2d9f5a1f7c11")  # ours, so that equal results get equal ids


def to_rle(mask: np.ndarray) -> dict:
    """COCO run-length code of a bool (H, W) mask: {"size": [h, w], "counts": str}, columns first."""
    from pycocotools import mask as coco

    code = coco.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": [int(side) for side in code["size"]], "counts": code["counts"].decode("ascii")}


def from_rle(rle: dict) -> np.ndarray:
    """The bool (H, W) mask of a COCO run-length code. Raises InputError where it is none."""
    from pycocotools import mask as coco

    try:
        height, width = (int(side) for side in rle["size"])
        counts = rle["counts"].encode("ascii")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # pycocotools on NumPy 2's copy keyword
            return coco.decode({"size": [height, width], "counts": counts}).astype(bool)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise InputError(
            f"{str(rle)[:60]!r} is no COCO run-length mask; give {{'size': [h, w], 'counts': text}}"
        ) from error


def to_geojson(findings: list[Finding], roi: Roi) -> dict:
    """A QuPath FeatureCollection in level-0 pixels; a concept that was not found adds no feature.

    A region is one annotation; objects are one detection each. Ids depend only on the picture's name and
    place, the concept and the object's number, so the same result is the same file.
    """
    colours = concept_colours(finding.concept for finding in findings)
    features = []
    for finding in findings:
        if finding.found:
            features += _features(finding, roi, colours[finding.concept])
    return {"type": "FeatureCollection", "features": features}


def from_geojson(data: dict, roi: Roi) -> list[Finding]:
    """Findings of a FeatureCollection as it lies over `roi`'s pixels, one for each classification name.

    Annotations become regions, detections and cells objects; parts outside the picture are cut off; where
    objects overlap the later one wins. score and presence are read back where `to_geojson` wrote them, else 1.
    Raises InputError where `data` is no FeatureCollection of polygons.
    """
    shape = roi.pixels.shape[:2]
    found: dict[tuple[str, bool], Finding] = {}
    try:
        for feature in data["features"]:
            properties = feature["properties"]
            concept = (properties.get("classification") or {}).get("name", "unclassified")
            countable = properties.get("objectType", "annotation") != "annotation"
            mask = fill(_to_picture(feature["geometry"], roi), shape)
            said = properties.get("measurements") or {}
            finding = found.get((concept, countable)) or _blank(concept, countable, shape, said)
            if countable and mask.any():
                finding.instances[mask] = finding.instances.max() + 1
            finding.mask[mask] = True
            found[concept, countable] = finding
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise InputError(f"no GeoJSON FeatureCollection of polygons ({error}); export it from QuPath as one") from error
    return list(found.values())


def label_png(finding: Finding) -> bytes:
    """A 16-bit grey PNG in the picture's pixels: 0 = nothing, object numbers, or 1 for a region.

    Raises InputError for object numbers over 65 535.
    """
    labels = finding.mask if finding.instances is None else finding.instances
    if labels.max(initial=0) > MOST_LABELS:
        raise InputError(f"{finding.concept}: more than {MOST_LABELS} objects do not fit a label picture; cut it")
    stream = io.BytesIO()
    Image.fromarray(labels.astype(np.uint16)).save(stream, format="PNG")
    return stream.getvalue()


def write_label_png(path: str | os.PathLike, finding: Finding) -> Path:
    """Write `label_png` to `path`. Raises InputError likewise, OutputError where it cannot be written."""
    return write_atomic(path, label_png(finding))


def _features(finding: Finding, roi: Roi, colour: tuple[int, int, int]) -> list[dict]:
    classification = {"name": finding.concept, "color": list(colour)}
    seed = (roi.source, *_origin(roi), finding.concept)
    said = {"Mean probability (0-1)": finding.score, "Presence probability (0-1)": finding.presence}
    if finding.instances is None:
        measured = measure(finding, roi.mpp)
        numbers = _areas(measured.area_px, roi) | {"Area %": 100 * measured.area_fraction} | said
        return [_feature("annotation", trace(finding.mask), roi, classification, numbers, (*seed, 0))]
    features = []
    for label, window in enumerate(ndimage.find_objects(finding.instances), 1):
        if window is None:
            continue
        part = finding.instances[window] == label
        corner = np.array([window[1].start, window[0].start])
        polygons = [[ring + corner for ring in polygon] for polygon in trace(part)]
        area = int(np.count_nonzero(part))
        numbers = _areas(area, roi) | {"Diameter px": 2 * (area / np.pi) ** 0.5}
        if roi.mpp:
            numbers["Diameter µm"] = numbers["Diameter px"] * (roi.mpp[0] * roi.mpp[1]) ** 0.5
        features.append(_feature("detection", polygons, roi, classification, numbers | said, (*seed, label)))
    return features


def _feature(kind: str, polygons: list[Polygon], roi: Roi, classification: dict, numbers: dict, seed: tuple) -> dict:
    coordinates = [[_to_level_0(ring, roi) for ring in polygon] for polygon in polygons]
    single = len(coordinates) == 1
    return {
        "type": "Feature",
        "id": str(uuid.uuid5(_NAMESPACE, "|".join(map(str, seed)))),
        "geometry": {
            "type": "Polygon" if single else "MultiPolygon",
            "coordinates": coordinates[0] if single else coordinates,
        },
        "properties": {
            "objectType": kind,
            "classification": classification,
            "measurements": {name: round(float(value), 4) for name, value in numbers.items()},
        },
    }


def _areas(area_px: int, roi: Roi) -> dict[str, float]:
    areas = {"Area px": area_px}  # pixels of the picture that was looked at, which may be coarser than level 0
    return areas | ({"Area µm^2": area_px * roi.mpp[0] * roi.mpp[1]} if roi.mpp else {})


def _origin(roi: Roi) -> tuple[int, int, int, int]:
    return roi.region.x, roi.region.y, roi.region.width, roi.region.height


def _to_level_0(ring: np.ndarray, roi: Roi) -> list[list[float]]:
    """Closed ring in level-0 pixels; thousandths of a pixel are kept, whole numbers stay whole."""
    points = np.round(ring * roi.downsample + (roi.region.x, roi.region.y), 3)
    whole = [[int(v) if v == int(v) else v for v in point] for point in points.tolist()]
    return [*whole, whole[0]]


def _to_picture(geometry: dict, roi: Roi) -> list[np.ndarray]:
    """All rings of a Polygon or MultiPolygon in pixels of `roi`."""
    kinds = {"Polygon": [geometry["coordinates"]], "MultiPolygon": geometry["coordinates"]}
    rings = [ring for polygon in kinds[geometry["type"]] for ring in polygon]
    placed = [(np.asarray(ring, float)[:, :2] - (roi.region.x, roi.region.y)) / roi.downsample for ring in rings]
    if not all(np.isfinite(ring).all() for ring in placed):
        raise ValueError("a coordinate is no finite number")
    return placed


def _blank(concept: str, countable: bool, shape: tuple[int, int], said: dict) -> Finding:
    instances = np.zeros(shape, np.int32) if countable else None
    score, presence = said.get("Mean probability (0-1)", 1.0), said.get("Presence probability (0-1)", 1.0)
    return Finding(concept, np.zeros(shape, bool), float(score), float(presence), instances, prompt=concept)
