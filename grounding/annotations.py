"""Annotations of other tools (QuPath GeoJSON) over a picture: as findings, as truth for an item, as prompts.

Shapes come from `geojson.py`, in level-0 pixels; here they meet the pixels of a Roi. Areas are filled by their outer
ring (even-odd where it crosses itself) less their holes; what lies outside the picture is cut off.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from slidekick.data.errors import InputError
from slidekick.data.files import write_atomic
from slidekick.data.items import MOST_IDS, UNLABELLED
from slidekick.data.slide import Roi
from slidekick.grounding.finding import Finding
from slidekick.grounding.geojson import Shape, shapes
from slidekick.grounding.outline import Polygon, Window, fill_window, window_of, work

UNCLASSIFIED = "unclassified"  # what areas without a classification are called
MOST_WORK = 2_000_000_000  # pixels and crossings (see `outline.work`) of one import: some seconds
MOST_BYTES = 4_000_000_000  # of all masks of one import
MOST_CLASSES = 254  # an 8-bit mask holds, besides 0 and UNLABELLED
_SHORTEST = 1.0  # pixels of the picture: a smaller box holds nothing to outline

Annotations = dict | list | Iterable[Shape]  # parsed GeoJSON, or what `read_geojson` gives


class Truth(NamedTuple):
    """Labels of a picture. mask: uint8 (H, W), 0 for nothing, values named by `classes`, UNLABELLED for areas whose
    class is to be ignored. instances: int32 (H, W), 0 or the number of a detection or cell."""

    mask: np.ndarray
    instances: np.ndarray
    classes: dict[int, str]


class Prompts(NamedTuple):
    """concepts: words. points: (x, y, label), label 1 for "belongs to it", 0 for "does not". boxes: (x0, y0, x1, y1).
    All in pixels of the picture."""

    concepts: list[str]
    points: list[tuple[float, float, int]]
    boxes: list[tuple[float, float, float, float]]


def from_geojson(data: Annotations, roi: Roi, nuclei: bool = False) -> list[Finding]:
    """Findings of annotations as they lie over `roi`'s pixels, one for each classification and kind.

    Annotations become regions, detections, cells and tiles objects; where objects overlap the later one wins. score
    and presence are read back where `to_geojson` wrote them, else 1. Points and lines have no area and are passed
    over. nuclei: cells that have one are drawn by their nucleus. Raises InputError as `read_geojson` does, for
    annotations of which none has an area, and for more than can be drawn in some seconds or 4 GB.
    """
    painter = _Painter(roi)
    found: dict[tuple[str, bool], Finding] = {}
    count: dict[tuple[str, bool], int] = {}
    for shape, polygons in _areas(data, nuclei):
        key = shape.name or UNCLASSIFIED, shape.kind != "annotation"
        if key not in found:
            painter.reserve(5 if key[1] else 1)
            found[key] = _blank(*key, roi.pixels.shape[:2], shape)
        finding = found[key]
        number = count.get(key, 0) + 1
        for window, part in painter.parts(polygons):
            finding.mask[window] |= part
            if finding.instances is not None:
                finding.instances[window][part] = number
            count[key] = number
    return list(found.values())


def truth_of(data: Annotations, roi: Roi, nuclei: bool = False) -> Truth:
    """Annotations as the labels of a picture: objects lie over regions, and of each the later one wins.

    Classes are numbered in the order in which they come. Those that QuPath ignores (their name ends in *) are areas
    that nobody judged. Raises InputError as `from_geojson` does, and for more than 254 classes.
    """
    painter = _Painter(roi)
    height, width = roi.pixels.shape[:2]
    layers = np.zeros((2, height, width), np.uint8)  # regions, objects
    instances = np.zeros((height, width), np.int32)
    values: dict[str, int] = {}
    count = 0
    for shape, polygons in _areas(data, nuclei):
        name = shape.name or UNCLASSIFIED
        value = UNLABELLED if is_ignored(name) else values.setdefault(name, len(values) + 1)
        if len(values) > MOST_CLASSES:
            raise InputError(f"more than {MOST_CLASSES} classes do not fit a mask; merge some in QuPath")
        countable = shape.kind != "annotation"
        drawn = False
        for window, part in painter.parts(polygons):
            layers[int(countable)][window][part] = value
            if countable:
                instances[window][part] = count + 1
            drawn = True
        count += countable and drawn
    return Truth(np.where(layers[1] > 0, layers[1], layers[0]), instances, {v: name for name, v in values.items()})


def write_item(folder: str | os.PathLike, name: str, roi: Roi, truth: Truth, split: str = "train") -> dict:
    """Write picture, mask and instances as PNG files into `folder`; the line of items.jsonl that tells of them.

    Raises InputError for object numbers over 65 535, OutputError where a file cannot be written.
    """
    folder = Path(folder)
    if truth.instances.max(initial=0) > MOST_IDS:
        raise InputError(f"{name}: more than {MOST_IDS} objects do not fit a label picture; cut it")
    files = {"image": roi.pixels, "mask": truth.mask}
    if truth.instances.any():
        files["instances"] = truth.instances.astype(np.uint16)
    entry: dict = {"id": name, "group": roi.source or name, "split": split}
    for kind, array in files.items():
        stream = io.BytesIO()
        Image.fromarray(array).save(stream, format="PNG")
        entry[kind] = write_atomic(folder / f"{name}.{kind}.png", stream.getvalue()).name
    entry["classes"] = {str(value): class_name for value, class_name in truth.classes.items()}
    return entry | ({"mpp": (roi.mpp[0] * roi.mpp[1]) ** 0.5} if roi.mpp else {})


def prompts_of(data: Annotations, roi: Roi) -> Prompts:
    """Annotations as prompts: each area's bounding box, each point a click, and the classes' names as words.

    Points of a class that is ignored (its name ends in *) or called Negative say "not this"; areas of such a class
    are no prompt. Boxes are cut to the picture; what lies outside of it, or is under a pixel, is left out.
    Raises InputError as `read_geojson` does.
    """
    groups = prompts_by_class(data, roi)
    refused = groups.pop(None, Prompts([], [], []))
    points = [point for group in groups.values() for point in group.points]
    boxes = [box for group in groups.values() for box in group.boxes]
    return Prompts([name for name in groups if name], points + refused.points, boxes)


def prompts_by_class(data: Annotations, roi: Roi) -> dict[str | None, Prompts]:
    """As `prompts_of`, by class name in order of first mention: "" for none, None for clicks that say "not this"."""
    groups: dict[str | None, Prompts] = {}
    height, width = roi.pixels.shape[:2]
    for shape in shapes(data):
        refused = is_ignored(shape.name) or shape.name.lower() == "negative"
        name = None if refused else shape.name
        points, boxes = [], []
        for x, y in _to_picture(shape.points, roi).tolist():
            if 0 <= x < width and 0 <= y < height:
                points.append((x, y, int(not refused)))
        if shape.polygons and not refused:
            corners = _to_picture(np.concatenate([polygon[0] for polygon in shape.polygons]), roi)
            x0, y0 = np.clip(corners.min(axis=0), 0, (width, height)).tolist()
            x1, y1 = np.clip(corners.max(axis=0), 0, (width, height)).tolist()
            if min(x1 - x0, y1 - y0) >= _SHORTEST:
                boxes.append((x0, y0, x1, y1))
        if points or boxes:
            group = groups.setdefault(name, Prompts([name] if name else [], [], []))
            group.points.extend(points)
            group.boxes.extend(boxes)
    return groups


def is_ignored(name: str) -> bool:
    """Whether QuPath leaves a class of that name out of account."""
    return name.endswith("*")


def _areas(data: Annotations, nuclei: bool) -> Iterator[tuple[Shape, list[Polygon]]]:
    """The shapes that have an area, with it. Raises InputError where there are shapes and none has."""
    without = with_area = 0
    for shape in shapes(data):
        polygons = shape.nucleus if nuclei and shape.nucleus else shape.polygons
        if polygons:
            with_area += 1
            yield shape, polygons
        else:
            without += 1
    if without and not with_area:
        raise InputError(f"none of the {without} features has an area; points and lines can be prompts alone")


class _Painter:
    """Fills polygons over a picture, within limits of time and memory."""

    def __init__(self, roi: Roi) -> None:
        self._roi = roi
        self._work, self._bytes = MOST_WORK, MOST_BYTES

    def reserve(self, bytes_a_pixel: int) -> None:
        """Account for masks before they are made."""
        height, width = self._roi.pixels.shape[:2]
        self._bytes -= bytes_a_pixel * height * width
        if self._bytes < 0:
            raise InputError(
                f"masks of so many classes for {width} × {height} pixels take over {MOST_BYTES // 10**9} GB; "
                "choose a smaller region or merge classes in QuPath"
            )

    def parts(self, polygons: list[Polygon]) -> Iterator[tuple[Window, np.ndarray]]:
        """Where each polygon lies, and bool (h, w) of the pixels in it; those without a pixel are left out."""
        for polygon in polygons:
            rings = [_to_picture(ring, self._roi) for ring in polygon]
            window = window_of(rings[:1], self._roi.pixels.shape[:2])
            if window is None:
                continue
            self._work -= work(rings, window)
            if self._work < 0:
                raise InputError("annotations too many or too intricate to draw; simplify them or import fewer")
            part = fill_window(rings[:1], window)
            if len(rings) > 1:
                part &= ~fill_window(rings[1:], window)
            if part.any():
                yield window, part


def _to_picture(places: np.ndarray, roi: Roi) -> np.ndarray:
    return (places - (roi.region.x, roi.region.y)) / roi.downsample


def _blank(name: str, countable: bool, shape: tuple[int, int], first: Shape) -> Finding:
    instances = np.zeros(shape, np.int32) if countable else None
    score, presence = (first.measured(key, 1.0) for key in ("Mean probability (0-1)", "Presence probability (0-1)"))
    return Finding(name, np.zeros(shape, bool), score, presence, instances, prompt=name)
