import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from slidekick.grounding.finding import Finding
from slidekick.grounding.measure import measure, place_of

LABELS = hnp.arrays(np.int32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=15), elements=st.integers(0, 6))
SCALES = st.floats(0.05, 20)


def objects(labels: np.ndarray) -> Finding:
    return Finding("nucleus", labels > 0, 0.9, 0.9, labels)


def disc(radius: int, side: int) -> np.ndarray:
    y, x = np.mgrid[:side, :side] - side // 2
    return x**2 + y**2 <= radius**2


@settings(deadline=None)
@given(labels=LABELS, x=SCALES, y=SCALES, factor=st.floats(0.1, 10))
def test_areas_scale_with_the_square_of_the_pixel_and_lengths_with_its_side(labels, x, y, factor):
    small, large = measure(objects(labels), (x, y)), measure(objects(labels), (x * factor, y * factor))
    assert large.area_um2 == pytest.approx(small.area_um2 * factor**2)
    assert large.density_per_mm2 == pytest.approx(small.density_per_mm2 / factor**2)
    assert (large.count, large.area_px, large.area_fraction) == (small.count, small.area_px, small.area_fraction)
    for name in ("mean_diameter_um", "nearest_neighbour_um"):
        one, other = getattr(small, name), getattr(large, name)
        assert (one is None) == (other is None)
        assert one is None or other == pytest.approx(one * factor)


@settings(deadline=None)
@given(labels=LABELS, mpp=SCALES)
def test_turning_and_mirroring_a_picture_changes_no_number(labels, mpp):
    first = measure(objects(labels), (mpp, mpp)).to_dict()
    for turned in (labels[::-1], labels[:, ::-1], np.rot90(labels), labels.T):
        second = measure(objects(np.ascontiguousarray(turned)), (mpp, mpp)).to_dict()
        for name in first.keys() - {"place"}:
            assert second[name] == (first[name] if first[name] is None else pytest.approx(first[name])), name


@settings(deadline=None)
@given(labels=LABELS)
def test_numbers_do_not_depend_on_how_objects_are_numbered(labels):
    renumbered = np.where(labels > 0, 1000 - 7 * labels, 0).astype(np.int32)
    first, second = measure(objects(labels), (1, 1)).to_dict(), measure(objects(renumbered), (1, 1)).to_dict()
    for name, value in first.items():
        assert second[name] == (pytest.approx(value) if isinstance(value, float) else value), name


def test_a_disc_has_the_numbers_of_a_disc():
    labels = np.zeros((201, 402), np.int32)
    labels[:, :201][disc(50, 201)] = 1
    labels[:, 201:][disc(50, 201)] = 2
    measured = measure(objects(labels), (0.5, 0.5))
    assert measured.count == 2
    assert measured.mean_diameter_um == pytest.approx(50, rel=0.01)
    assert measured.area_um2 == pytest.approx(2 * math.pi * 25**2, rel=0.01)
    assert measured.nearest_neighbour_um == pytest.approx(100.5)
    assert measured.density_per_mm2 == pytest.approx(2 / (201 * 402 * 0.25 / 1e6))
    assert measured.area_fraction == pytest.approx(2 * math.pi * 50**2 / (201 * 402), rel=0.01)


def test_spacing_heeds_pixels_that_are_not_square():
    labels = np.zeros((10, 10), np.int32)
    labels[2, 2], labels[2, 8], labels[8, 2] = 1, 2, 3
    assert measure(objects(labels), (1.0, 0.5)).nearest_neighbour_um == pytest.approx((3 + 3 + 6) / 3)


def test_without_a_scale_there_is_nothing_in_micrometres():
    measured = measure(objects(np.eye(5, dtype=np.int32)), None)
    said = {name for name, value in measured.to_dict().items() if value is None}
    assert said == {"area_um2", "density_per_mm2", "mean_diameter_um", "nearest_neighbour_um"}
    assert measured.count == 1


def test_a_region_has_an_area_and_no_count():
    measured = measure(Finding("gland", np.ones((4, 6), bool), 0.9, 0.9), (1, 1))
    assert (measured.count, measured.density_per_mm2, measured.mean_diameter_um) == (None, None, None)
    assert (measured.found, measured.area_px, measured.area_um2, measured.area_fraction) == (True, 24, 24, 1)


def test_what_is_not_there_measures_zero_and_lies_nowhere():
    measured = measure(objects(np.zeros((4, 6), np.int32)), (1, 1))
    assert (measured.found, measured.count, measured.area_um2, measured.place) == (False, 0, 0, None)
    assert measured.mean_diameter_um is None


@pytest.mark.parametrize("height", [9, 10, 31])
def test_each_cell_of_the_grid_has_its_name(height):
    names = [
        ["upper left", "upper centre", "upper right"],
        ["centre left", "centre", "centre right"],
        ["lower left", "lower centre", "lower right"],
    ]
    for row in range(3):
        for column in range(3):
            mask = np.zeros((height, 30), bool)
            mask[int((row + 0.5) * height / 3), column * 10 + 5] = True
            assert place_of(mask) == names[row][column]


def test_what_is_spread_out_lies_throughout_and_two_clusters_do_not_lie_between():
    assert place_of(np.ones((30, 30), bool)) == "throughout"
    corners = np.zeros((30, 30), bool)
    corners[2:6, 2:6] = True
    corners[24:28, 24:29] = True
    assert place_of(corners) == "lower right"


@given(mask=hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, max_side=9)))
def test_every_mask_has_a_place_exactly_when_it_marks_something(mask):
    assert (place_of(mask) is not None) == mask.any()
