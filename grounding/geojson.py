"""GeoJSON features, one at a time, checked: from a file of any size, or as parsed. Knows neither pixels nor findings.

Reads what QuPath writes (0.2 onwards): a FeatureCollection, a list of features or a single one; NaN as a measurement,
which is no JSON; classifications as text, {"name"}, {"names"} or with a parent; child objects within properties. Files
are read with the standard library's decoder, feature by feature: a decoder that keeps the path to each value (ijson)
takes memory with the square of the depth, and refuses NaN. Coordinates are level-0 pixels.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from slidekick.data.errors import InputError
from slidekick.grounding.jsontext import JsonText
from slidekick.grounding.outline import Polygon

MOST_FEATURES = 2_000_000  # nuclei of a whole slide; a file of more is read in parts
FARTHEST = 1e9  # pixels from the origin: a thousand times the largest slide
MOST_NAME = 200  # characters of a classification
DEEPEST = 16  # geometry collections within each other, or parents of a classification
_KINDS = {"annotation", "detection", "cell", "tile", "tmaCore", "root"}
_OLD_KINDS = {
    "PathAnnotationObject": "annotation",
    "PathDetectionObject": "detection",
    "PathCellObject": "cell",
    "PathTileObject": "tile",
    "TMACoreObject": "tmaCore",
    "tma_core": "tmaCore",
    "PathRootObject": "root",
}
_GEOMETRIES = {"Point", "MultiPoint", "LineString", "MultiLineString", "Polygon", "MultiPolygon", "GeometryCollection"}


@dataclass(frozen=True)
class Shape:
    """One feature, in level-0 pixels.

    number: its place in the file, from 1. kind: QuPath's object type: annotation, detection, cell, tile, tmaCore or
    root. name: its classification, derived ones as "Tumor: Positive"; "" for none. polygons: its area, each the outer
    ring and its holes, float64 (n, 2) x, y. points: float64 (n, 2). A line, a point, or nothing at all has no area.
    nucleus: the same as polygons, of a cell's nucleus. measurements: as written.
    """

    number: int
    kind: str
    name: str
    polygons: list[Polygon]
    points: np.ndarray
    nucleus: list[Polygon] = field(default_factory=list)
    measurements: dict = field(default_factory=dict)

    def measured(self, name: str, default: float) -> float:
        """The finite number measured as `name`, or `default` where there is none."""
        value = self.measurements.get(name)
        return float(value) if isinstance(value, int | float) and abs(value) <= sys.float_info.max else default


class _BadFeature(ValueError):
    """Why a feature cannot be used."""


def read_geojson(path: str | os.PathLike) -> Iterator[Shape]:
    """The features of a file, as they are read: no more than one is in memory.

    Raises InputError, with the file and the feature's number, for what is missing, no JSON, cut short, not UTF-8,
    no GeoJSON, over MOST_FEATURES, or holds a feature that cannot be used.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path}: is a folder; give one GeoJSON file")
    try:
        with path.open("rb") as stream:
            yield from _shapes(_features(JsonText(stream, str(path))), str(path))
    except OSError as error:
        raise InputError(f"{path}: cannot read ({(error.strerror or '').lower()}); check the path") from error


def shapes(data: dict | list | Iterable[Shape], where: str = "GeoJSON") -> Iterator[Shape]:
    """The features of parsed GeoJSON; what `read_geojson` gives is passed on. where: named in errors.

    Raises InputError for anything else, and as `read_geojson` for a feature that cannot be used.
    """
    if isinstance(data, dict):
        features = data.get("features", [data])
        if not isinstance(features, list):
            raise _no_collection(where)
        return _shapes(features, where)
    if isinstance(data, list) and not any(isinstance(entry, Shape) for entry in data):
        return _shapes(data, where)
    if isinstance(data, str | bytes) or not isinstance(data, Iterable):
        raise _no_collection(where)
    return iter(data)


def _features(text: JsonText) -> Iterator[object]:
    """What stands in the list of a FeatureCollection, or in a bare list; or the one value that is there."""
    opening = text.peek()
    if opening == "[":
        yield from text.items()
    elif opening == "{":
        listed, unlisted, rest = False, False, {}
        for key in text.fields():
            if key == "features" and text.peek() == "[":
                listed = True
                yield from text.items()
            else:
                value = text.value()
                if key in ("type", "id", "geometry", "properties", "nucleusGeometry", "coordinates", "geometries"):
                    rest[key] = value
            unlisted |= key == "features" and not listed
        if unlisted or (not listed and rest.get("type") == "FeatureCollection"):
            raise _no_collection(text.where)
        if not listed:
            yield rest
    elif not opening:
        raise InputError(f"{text.where}: is empty; copy or export it again")
    else:
        raise _no_collection(text.where)
    text.end()


def _shapes(features: Iterable[object], where: str) -> Iterator[Shape]:
    for number, feature in enumerate(features, 1):
        if number > MOST_FEATURES:
            raise InputError(f"{where}: more than {MOST_FEATURES:,} features; export a part of them")
        try:
            yield from _family(feature, number)
        except _BadFeature as error:
            raise InputError(
                f"{where}: feature {number} {error}; draw it again in QuPath, or export without it"
            ) from error


def _family(feature: object, number: int) -> Iterator[Shape]:
    """A feature and the child objects that QuPath may have written into its properties."""
    left = [feature]
    while left:
        feature = left.pop()
        if not isinstance(feature, dict):
            raise _BadFeature(f"is {_kind_of(feature)}, not an object")
        if _is_geometry(feature):  # QuPath makes an annotation of a geometry alone
            feature = {"type": "Feature", "geometry": feature}
        if feature.get("type") != "Feature":
            raise _BadFeature("is no GeoJSON Feature")
        properties = feature.get("properties") or {}
        if not isinstance(properties, dict):
            raise _BadFeature(f"has properties that are {_kind_of(properties)}")
        children = properties.get("childObjects") or properties.get("children") or []
        left += reversed(children) if isinstance(children, list) else []
        shape = _shape(feature, properties, number)
        if shape.kind != "root":  # the picture itself, which QuPath writes without a place
            yield shape


def _shape(feature: dict, properties: dict, number: int) -> Shape:
    polygons, points = _placed(feature.get("geometry"))
    nucleus, _ = _placed(feature.get("nucleusGeometry"))
    kind = next((k for k in map(properties.get, ("objectType", "object_type", "type")) if isinstance(k, str)), None)
    if kind is None and isinstance(feature.get("id"), str):
        kind = _OLD_KINDS.get(feature["id"])  # where QuPath 0.2 told it
    kind = _OLD_KINDS.get(kind, kind)
    measured = properties.get("measurements")
    if isinstance(measured, list):  # before QuPath 0.4
        measured = {m.get("name"): m.get("value") for m in measured if isinstance(m, dict) and _is_text(m.get("name"))}
    return Shape(
        number,
        kind if kind in _KINDS else "annotation",  # as QuPath takes what it does not know
        _class_name(properties.get("classification")),
        polygons,
        points,
        nucleus,
        measured if isinstance(measured, dict) else {},
    )


def _class_name(said: object) -> str:
    """A classification as QuPath shows it."""
    parts: list[str] = []
    for _ in range(DEEPEST):
        if isinstance(said, dict):
            names = said.get("names", [said["name"]] if said.get("name") is not None else [])
            parent = said.get("parentClass")  # before QuPath 0.4
        else:
            names, parent = ([] if said is None else [said]), None
        if not isinstance(names, list):
            raise _BadFeature(f"has class names that are {_kind_of(names)}, not a list")
        if wrong := [name for name in names if not _is_text(name)]:
            raise _BadFeature(f"has a classification that is {_kind_of(wrong[0])}, not text")
        parts = [*names, *parts]
        said = parent
        if said is None:
            break
    name = " ".join(": ".join(parts).split())
    if len(name) > MOST_NAME:
        raise _BadFeature(f"has a classification of {len(name)} characters ({MOST_NAME} at most)")
    return name


def _placed(geometry: object) -> tuple[list[Polygon], np.ndarray]:
    """Areas and points. Of a mixed collection the areas count, else the lines, else the points, as in QuPath."""
    polygons: list[Polygon] = []
    points: list[np.ndarray] = []
    lines = False
    left = [(geometry, 0)]
    while left:
        part, depth = left.pop()
        if part is None:  # GeoJSON's way to say that it is nowhere
            continue
        if not _is_geometry(part):
            raise _BadFeature("has a geometry of no known type")
        kind, coordinates = part["type"], part.get("coordinates")
        if kind == "GeometryCollection":
            inner = part.get("geometries")
            if not isinstance(inner, list) or depth == DEEPEST:
                raise _BadFeature("has a geometry collection that is no list, or nested too deeply")
            left += [(one, depth + 1) for one in reversed(inner)]
        elif not isinstance(coordinates, list):
            raise _BadFeature(f"has coordinates that are {_kind_of(coordinates)}, not a list")
        elif kind in ("Polygon", "MultiPolygon"):
            polygons += map(_polygon, coordinates if kind == "MultiPolygon" else [coordinates])
        elif kind in ("Point", "MultiPoint"):
            points.append(_positions(coordinates if kind == "MultiPoint" else [coordinates]))
        else:
            lines = True
    keep = points if not (lines or polygons) else []
    return [polygon for polygon in polygons if polygon], np.concatenate([np.empty((0, 2)), *keep])


def _polygon(rings: object) -> Polygon:
    if not isinstance(rings, list):
        raise _BadFeature(f"has a polygon that is {_kind_of(rings)}, not a list of rings")
    polygon = []
    for ring in rings:
        places = _positions(ring)
        if len(places) > 1 and (places[0] == places[-1]).all():
            places = places[:-1]
        if 0 < len(places) < 3:
            raise _BadFeature(f"has a ring of {len(places)} points, where an area needs 3")
        polygon.append(places)
    return polygon if polygon and len(polygon[0]) else []


def _positions(places: object) -> np.ndarray:
    """float64 (n, 2); heights are dropped."""
    if not isinstance(places, list):
        raise _BadFeature(f"has a position list that is {_kind_of(places)}")
    if not places:
        return np.empty((0, 2))
    try:
        array = np.array(places, float)
    except (ValueError, TypeError, OverflowError) as error:
        raise _BadFeature("has a coordinate that is no number, or positions of unequal length") from error
    if array.ndim != 2 or not 2 <= array.shape[1] <= 4:
        raise _BadFeature("has positions that are not x, y")
    array = array[:, :2]
    if not np.isfinite(array).all():
        raise _BadFeature("has a coordinate that is no finite number")
    if np.abs(array).max() > FARTHEST:
        raise _BadFeature(f"has a coordinate beyond {FARTHEST:.0e} pixels, where no slide reaches")
    return np.ascontiguousarray(array)


def _is_geometry(value: object) -> bool:
    return isinstance(value, dict) and _is_text(value.get("type")) and value["type"] in _GEOMETRIES


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _kind_of(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def _no_collection(where: str) -> InputError:
    return InputError(f"{where}: no GeoJSON FeatureCollection; export the objects from QuPath as one")
