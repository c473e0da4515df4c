"""From masks to numbers with units: count, area, density, diameter, spacing, place. Pure geometry.

What needs µm is None where the scale is unknown; what needs objects is None where a concept is a region.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import numpy as np
from scipy.spatial import KDTree

from slidekick.grounding.finding import PICTURE, Finding

PLACES = (
    ("upper left", "upper centre", "upper right"),
    ("centre left", "centre", "centre right"),
    ("lower left", "lower centre", "lower right"),
)
THROUGHOUT = "throughout"
PLACES_SEEN = "places looked at"  # beside those of finding.py: what areas are shares of
SPREAD_CELLS = 6  # of the nine cells: a concept with a fair share in two thirds of them has no one place
FAIR_SHARE = 1 / 18  # of the marked pixels: half of what a cell would hold if they were spread evenly


@dataclass(frozen=True)
class Measurement:
    """One concept, measured in one picture.

    count: objects, None for a region. area_px: marked pixels. area_fraction: of what was looked at, 0–1.
    density_per_mm2: objects per mm² of it. mean_diameter: of circles of the objects' areas.
    nearest_neighbour_um: mean distance from an object's centre to the nearest other centre.
    place: where in the picture (see `place_of`), None when nothing was found.
    of: what was looked at: the picture, a region of it, the tissue of a slide, or some places on it.
    """

    concept: str
    found: bool
    count: int | None
    area_px: int
    area_um2: float | None
    area_fraction: float
    density_per_mm2: float | None
    mean_diameter_um: float | None
    mean_diameter_px: float | None
    nearest_neighbour_um: float | None
    place: str | None
    of: str = PICTURE

    def to_dict(self) -> dict:
        """JSON-ready form."""
        return asdict(self)


def measure(finding: Finding, mpp: tuple[float, float] | None) -> Measurement:
    """Measure a finding; `mpp` is (x, y) µm per pixel of its mask, None where unknown."""
    mask = finding.mask
    area_px = int(np.count_nonzero(mask))
    whole_px = mask.size if finding.within is None else max(area_px, int(np.count_nonzero(finding.within)), 1)
    pixel_um2 = mpp[0] * mpp[1] if mpp else None
    areas, centres = objects(finding.instances) if finding.instances is not None else (None, None)
    diameter_px = float(np.sqrt(4 * areas / math.pi).mean()) if areas is not None and len(areas) else None
    known = pixel_um2 is not None
    return Measurement(
        concept=finding.concept,
        found=area_px > 0,
        count=None if areas is None else len(areas),
        area_px=area_px,
        area_um2=area_px * pixel_um2 if known else None,
        area_fraction=area_px / whole_px,
        density_per_mm2=len(areas) / (whole_px * pixel_um2 / 1e6) if known and areas is not None else None,
        mean_diameter_um=diameter_px * math.sqrt(pixel_um2) if known and diameter_px is not None else None,
        mean_diameter_px=diameter_px,
        nearest_neighbour_um=_spacing(centres * mpp) if known and centres is not None else None,
        place=place_of(mask),
        of=PICTURE if finding.within is None else finding.part,
    )


def objects(instances: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Area in pixels (n,) and centre (x, y) (n, 2) of every object of a label picture (H, W), 0 = none."""
    rows, columns = np.nonzero(instances)
    labels = instances[rows, columns]
    _, index = np.unique(labels, return_inverse=True)
    areas = np.bincount(index)
    if not len(areas):
        return areas, np.empty((0, 2))
    centres = np.stack([np.bincount(index, columns), np.bincount(index, rows)], axis=1) / areas[:, None]
    return areas, centres


def place_of(mask: np.ndarray) -> str | None:
    """Where the marked pixels lie, in words of a 3 × 3 grid; "throughout" when most cells hold a fair share.

    The cell of their centre of mass; or, where that cell holds less than an even share (two clusters with
    nothing between), the cell that holds most. None for an empty mask.
    """
    rows, columns = np.nonzero(mask)
    if not len(rows):
        return None
    height, width = mask.shape
    cells = np.bincount(rows * 3 // height * 3 + columns * 3 // width, minlength=9) / len(rows)
    if np.count_nonzero(cells >= FAIR_SHARE) >= SPREAD_CELLS:
        return THROUGHOUT
    row, column = int((rows.mean() + 0.5) * 3 / height), int((columns.mean() + 0.5) * 3 / width)
    if cells[row * 3 + column] < 1 / 9:
        row, column = divmod(int(cells.argmax()), 3)
    return PLACES[row][column]


def _spacing(centres_um: np.ndarray) -> float | None:
    if len(centres_um) < 2:
        return None
    distances, _ = KDTree(centres_um).query(centres_um, k=2)
    return float(distances[:, 1].mean())
