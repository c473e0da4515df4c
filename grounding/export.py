"""Findings in the formats of other tools: COCO run-length masks, QuPath GeoJSON, label pictures.

GeoJSON follows QuPath: level-0 pixels, `objectType` annotation for regions and detection for objects, every
measurement a number with its unit in the name. Polygons run along pixel edges, so masks survive the way there
and back (`annotations.py`). Nothing is drawn here.
"""

from __future__ import annotations

import io
import json
import os
import re
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage

from slidekick.data.errors import InputError
from slidekick.data.files import stream_atomic, write_atomic
from slidekick.data.items import MOST_IDS
from slidekick.data.slide import Region, Roi
from slidekick.grounding.finding import Finding
from slidekick.grounding.measure import measure
from slidekick.grounding.outline import Polygon, trace
from slidekick.grounding.palette import concept_colours

OPENING, BETWEEN, CLOSING = b'{"type": "FeatureCollection", "features": [', b", ", b"]}"  # around features
MOST_PIXELS = 1_000_000_000  # of a mask read back: twenty of the largest pictures
MOST_CODES = 7  # characters a run: 35 bits hold any difference of runs within MOST_PIXELS
_NAMESPACE = uuid.UUID("6d1f0a62-4a3e-5f0b-9f7c-2d9f5a1f7c11")  # ours, so that equal results get equal ids


@dataclass(frozen=True)
class Place:
    """Where what is written lies, for what has no pixels at hand; a `Roi` has the same.

    region: the level-0 rectangle. downsample: level-0 pixels per pixel of a polygon, (x, y). mpp: (x, y) µm per pixel
    in which areas are counted, or None.
    """

    region: Region
    downsample: tuple[float, float]
    mpp: tuple[float, float] | None


def to_rle(mask: np.ndarray) -> dict:
    """COCO run-length code of a bool (H, W) mask: {"size": [h, w], "counts": str}, columns first."""
    from pycocotools import mask as coco

    code = coco.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": [int(side) for side in code["size"]], "counts": code["counts"].decode("ascii")}


def from_rle(rle: dict) -> np.ndarray:
    """The bool (H, W) mask of a COCO run-length code. Raises InputError where it is none.

    Decoded here, for pycocotools writes past its memory where a code does not fit its size: 5 bits a character, the
    lowest first, 32 where more follow, 16 for a negative number; from the fourth run on the difference to the last
    but one is kept.
    """
    try:
        height, width = (int(side) for side in rle["size"])
        if not (height >= 0 <= width and height * width <= MOST_PIXELS):
            raise ValueError("no size of a picture")
        runs = _runs(rle["counts"].encode("ascii"))
        if runs.sum() != height * width or (runs < 0).any():
            raise ValueError("the runs do not fill the size")
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise InputError(
            f"{str(rle)[:60]!r} is no COCO run-length mask; give {{'size': [h, w], 'counts': text}}"
        ) from error
    marked = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return np.ascontiguousarray(marked.reshape(width, height).T)


def _runs(counts: bytes) -> np.ndarray:
    """int64 (n,): lengths of the runs, unmarked first. Raises ValueError where `counts` is no code."""
    codes = np.frombuffer(counts, np.uint8).astype(np.int64) - 48
    if not len(codes):
        return codes
    last = np.flatnonzero(codes & 32 == 0)
    first = np.concatenate([[0], last[:-1] + 1]).astype(np.int64)
    lengths = last - first + 1 if len(last) else np.array([99])
    if codes.min() < 0 or codes.max() > 63 or codes[-1] & 32 or lengths.max() > MOST_CODES:
        raise ValueError("no run-length code")
    places = np.arange(len(codes)) - np.repeat(first, lengths)
    values = np.add.reduceat((codes & 31) << 5 * places, first)
    values -= np.where(codes[last] & 16, 1 << 5 * lengths, 0)
    values[1::2], values[2::2] = np.cumsum(values[1::2]), np.cumsum(values[2::2])
    return values


def to_geojson(findings: list[Finding], roi: Roi) -> dict:
    """A QuPath FeatureCollection in level-0 pixels; a concept that was not found adds no feature.

    A region is one annotation; objects are one detection each. Ids depend only on the picture's name and
    place, the concept and the object's number, so the same result is the same file.
    """
    return {"type": "FeatureCollection", "features": list(features_of(findings, roi))}


def features_of(findings: list[Finding], roi: Roi) -> Iterator[dict]:
    """The features of `to_geojson`, one at a time."""
    colours = concept_colours(finding.concept for finding in findings)
    for finding in findings:
        if finding.found:
            yield from _features(finding, roi, colours[finding.concept])


def write_geojson(path: str | os.PathLike, findings: list[Finding], roi: Roi) -> Path:
    """Write `to_geojson` to `path`, feature by feature, so that memory does not grow with their number.

    The same bytes as of json.dumps. Raises OutputError where the file cannot be written.
    """
    with stream_atomic(path) as stream:
        stream.write(OPENING)
        for number, one in enumerate(features_of(findings, roi)):
            stream.write((BETWEEN if number else b"") + json.dumps(one).encode())
        stream.write(CLOSING)
    return Path(path)


def label_png(finding: Finding) -> bytes:
    """A 16-bit grey PNG in the picture's pixels: 0 = nothing, object numbers, or 1 for a region.

    Raises InputError for object numbers over 65 535.
    """
    labels = finding.mask if finding.instances is None else finding.instances
    if labels.max(initial=0) > MOST_IDS:
        raise InputError(f"{finding.concept}: more than {MOST_IDS} objects do not fit a label picture; cut it")
    stream = io.BytesIO()
    Image.fromarray(labels.astype(np.uint16)).save(stream, format="PNG")
    return stream.getvalue()


def write_label_png(path: str | os.PathLike, finding: Finding) -> Path:
    """Write `label_png` to `path`. Raises InputError likewise, OutputError where it cannot be written."""
    return write_atomic(path, label_png(finding))


def unique_slugs(words: Iterable[str]) -> list[str]:
    """File names of `words`: letters, digits and hyphens, each once even where case is not told apart."""
    names: list[str] = []
    taken: set[str] = set()
    for text in words:
        slug = name = re.sub(r"\W+", "-", text).strip("-") or "unnamed"
        number = 2
        while name.lower() in taken:
            name, number = f"{slug}-{number}", number + 1
        taken.add(name.lower())
        names.append(name)
    return names


def _features(finding: Finding, roi: Roi, colour: tuple[int, int, int]) -> Iterator[dict]:
    classification = {"name": finding.concept, "color": list(colour)}
    seed = (roi.source, *_origin(roi), finding.concept)
    said = {"Mean probability (0-1)": finding.score, "Presence probability (0-1)": finding.presence}
    if finding.instances is None:
        measured = measure(finding, roi.mpp)
        numbers = area_numbers(measured.area_px, roi.mpp) | {"Area %": 100 * measured.area_fraction} | said
        yield feature("annotation", trace(finding.mask), roi, classification, numbers, (*seed, 0))
        return
    for label, window in enumerate(ndimage.find_objects(finding.instances), 1):
        if window is None:
            continue
        part = finding.instances[window] == label
        corner = np.array([window[1].start, window[0].start])
        polygons = [[ring + corner for ring in polygon] for polygon in trace(part)]
        numbers = object_numbers(int(np.count_nonzero(part)), roi.mpp)
        yield feature("detection", polygons, roi, classification, numbers | said, (*seed, label))


def feature(
    kind: str, polygons: list[Polygon], roi: Roi | Place, classification: dict, numbers: dict[str, float], seed: tuple
) -> dict:
    """One QuPath feature: `polygons` in pixels of `roi`, measurements with the unit in their names.

    kind: "annotation" or "detection". classification: name and color. seed: what the id follows from.
    """
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


def area_numbers(area_px: int, mpp: tuple[float, float] | None) -> dict[str, float]:
    """Measurements of an area: pixels of the picture that was looked at, which may be coarser than level 0, and µm²."""
    return {"Area px": area_px} | ({"Area µm^2": area_px * mpp[0] * mpp[1]} if mpp else {})


def object_numbers(area_px: int, mpp: tuple[float, float] | None) -> dict[str, float]:
    """Measurements of one object: its area, and the diameter of a circle as large."""
    numbers = area_numbers(area_px, mpp) | {"Diameter px": 2 * (area_px / np.pi) ** 0.5}
    return numbers | ({"Diameter µm": numbers["Diameter px"] * (mpp[0] * mpp[1]) ** 0.5} if mpp else {})


def _origin(roi: Roi | Place) -> tuple[int, int, int, int]:
    return roi.region.x, roi.region.y, roi.region.width, roi.region.height


def _to_level_0(ring: np.ndarray, roi: Roi | Place) -> list[list[float]]:
    """Closed ring in level-0 pixels; thousandths of a pixel are kept, whole numbers stay whole."""
    x, y, width, height = _origin(roi)
    points = np.round(ring * roi.downsample + (x, y), 3)
    points = np.minimum(points, (x + width, y + height))  # a slide's last pixel looked at may reach beyond its end
    whole = [[int(v) if v == int(v) else v for v in point] for point in points.tolist()]
    return [*whole, whole[0]]
