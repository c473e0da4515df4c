"""Findings as OME-Zarr (OME-NGFF 0.5): the picture with a multiscale label image for each concept, one folder.

Layout and metadata follow https://ngff.openmicroscopy.org/0.5/. The arrays are written by zarr, the reference library;
ome-zarr and ngff-zarr would bring dask and forty more packages for the few lines of metadata made here. Places are
those on the slide: in µm where its scale is known, else in pixels of the picture. Reading pictures is not done here.
"""

from __future__ import annotations

import json
import os
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from slidekick.data.errors import InputError
from slidekick.data.files import folder_atomic
from slidekick.data.slide import Roi
from slidekick.grounding.export import unique_slugs
from slidekick.grounding.finding import Finding
from slidekick.grounding.palette import Colour, concept_colours

VERSION = "0.5"
SCHEMA = "slidekick.ome-zarr/1"
CHUNK = 1024  # pixels a side: few enough files, small enough to be fetched over a network
SMALLEST = 256  # pixels: the coarsest level fits a thumbnail
SHADES = (1.0, 0.8, 0.6)  # of a concept's colour, in turn, so that touching objects stay apart
_AXES = ("c", "y", "x")


def need_zarr() -> None:
    """Raises InputError where zarr is not installed."""
    if find_spec("zarr") is None:
        raise InputError("OME-Zarr needs the package zarr; install it with: pip install 'slidekick[zarr]'")


def write_ome_zarr(path: str | os.PathLike, findings: list[Finding], roi: Roi) -> Path:
    """Write the picture and, under labels/, what was found of each concept; a folder there from earlier is replaced.

    Label images are unsigned integers (1, H, W): object numbers, or 1 for a region, 0 elsewhere; as many levels as the
    picture, halved each time (nearest; the picture by its mean). Colours are those of overlays. Raises OutputError
    where the place cannot be written or holds something else, InputError where zarr is not installed.
    """
    need_zarr()
    import zarr

    found = [finding for finding in findings if finding.found]
    names = unique_slugs(finding.concept for finding in found)
    colours = concept_colours(finding.concept for finding in findings)
    with folder_atomic(path, _is_ours) as folder:
        root = zarr.create_group(folder, zarr_format=3, overwrite=True)
        levels = _write_levels(root, roi.pixels.transpose(2, 0, 1), _mean)
        root.update_attributes(
            {
                "ome": {
                    "version": VERSION,
                    "multiscales": [_multiscale(roi, levels, roi.source, "mean")],
                    "omero": _RGB,
                },
                "slidekick": {"schema": SCHEMA, "source": roi.source},
            }
        )
        if found:
            labels = root.create_group("labels", attributes={"ome": {"version": VERSION, "labels": names}})
        for name, finding in zip(names, found, strict=True):
            group = labels.create_group(name)
            _write_levels(group, _label_image(finding)[None], _nearest)
            group.update_attributes(_label_attributes(finding, roi, levels, colours[finding.concept]))
    return Path(path)


def _label_image(finding: Finding) -> np.ndarray:
    labels = finding.mask if finding.instances is None else finding.instances
    return labels.astype(np.min_scalar_type(int(labels.max(initial=1))))


def _label_attributes(finding: Finding, roi: Roi, levels: int, colour: Colour) -> dict:
    values = [1] if finding.instances is None else np.unique(finding.instances[finding.instances > 0]).tolist()
    shade = [[round(channel * factor) for channel in colour] for factor in SHADES]
    return {
        "ome": {
            "version": VERSION,
            "multiscales": [_multiscale(roi, levels, finding.concept, "nearest")],
            "image-label": {
                "version": VERSION,
                "colors": [{"label-value": v, "rgba": [*shade[(v - 1) % len(shade)], 255]} for v in values],
                "properties": [{"label-value": value, "class": finding.concept} for value in values],
                "source": {"image": "../../"},
            },
        },
        "slidekick": {
            "schema": SCHEMA,
            "concept": finding.concept,
            "kind": "region" if finding.instances is None else "object",
            "score": round(finding.score, 6),
            "presence": round(finding.presence, 6),
        },
    }


def _multiscale(roi: Roi, levels: int, name: str, method: str) -> dict:
    space = {"type": "space"} | ({"unit": "micrometer"} if roi.mpp else {})
    return {
        "name": name,
        "type": method,
        "axes": [{"name": "c", "type": "channel"}, {"name": "y"} | space, {"name": "x"} | space],
        "datasets": [
            {"path": str(level), "coordinateTransformations": _transformations(roi, 2**level)}
            for level in range(levels)
        ],
    }


def _transformations(roi: Roi, factor: int) -> list[dict]:
    """Scale, then the place of the first pixel's centre, as seen from the slide's first pixel.

    The unit is µm; or, where no scale is known, a pixel of the picture, as the specification demands.
    """
    scale, translation = [1.0], [0.0]
    for axis, corner in ((1, roi.region.y), (0, roi.region.x)):
        zoom = roi.downsample[axis]
        unit = roi.mpp[axis] if roi.mpp else 1.0
        first = 1 / zoom if roi.mpp else 1.0  # side of the slide's first pixel, in pixels of the picture
        scale.append(factor * unit)
        translation.append((corner / zoom + (factor - first) / 2) * unit)
    return [{"type": "scale", "scale": scale}, {"type": "translation", "translation": translation}]


def _write_levels(group, array: np.ndarray, halve) -> int:
    """Write (C, H, W) as arrays 0, 1, ... of `group`, each half of the one before; returns their number."""
    number = 0
    while True:
        chunks = (array.shape[0], *(min(CHUNK, side) for side in array.shape[1:]))
        group.create_array(str(number), data=array, chunks=chunks, dimension_names=_AXES)
        number += 1
        if max(array.shape[1:]) <= SMALLEST:
            return number
        array = halve(array)


def _nearest(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array[:, ::2, ::2])


def _mean(array: np.ndarray) -> np.ndarray:
    padded = np.pad(array, ((0, 0), (0, array.shape[1] % 2), (0, array.shape[2] % 2)), mode="edge").astype(np.uint16)
    total = padded[:, ::2, ::2] + padded[:, 1::2, ::2] + padded[:, ::2, 1::2] + padded[:, 1::2, 1::2]
    return ((total + 2) // 4).astype(np.uint8)


def _is_ours(folder: Path) -> bool:
    try:
        said = json.loads((folder / "zarr.json").read_text())["attributes"]["slidekick"]["schema"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return said == SCHEMA


_RGB = {
    "channels": [
        {
            "label": label,
            "color": colour,
            "active": True,
            "window": {"min": 0, "max": 255, "start": 0, "end": 255},
        }
        for label, colour in (("red", "FF0000"), ("green", "00FF00"), ("blue", "0000FF"))
    ],
    "rdefs": {"model": "color"},
}
