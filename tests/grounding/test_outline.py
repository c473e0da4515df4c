import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from slidekick.grounding.outline import fill, trace

MASKS = hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12))


@settings(deadline=None, max_examples=300)
@given(mask=MASKS)
def test_a_mask_and_its_polygons_are_the_same_pixels(mask):
    rings = [ring for polygon in trace(mask) for ring in polygon]
    assert np.array_equal(fill(rings, mask.shape), mask)


@settings(deadline=None, max_examples=200)
@given(mask=MASKS)
def test_each_connected_part_is_one_polygon_whose_holes_are_its_own(mask):
    labels, count = ndimage.label(mask)
    polygons = trace(mask)
    assert len(polygons) == count
    for number, polygon in enumerate(polygons, 1):
        assert np.array_equal(fill(polygon, mask.shape), labels == number)


@settings(deadline=None, max_examples=200)
@given(mask=MASKS)
def test_rings_are_simple_turn_at_every_vertex_and_run_one_way(mask):
    for polygon in trace(mask):
        for position, ring in enumerate(polygon):
            x, y = ring.T
            assert len({tuple(point) for point in ring}) == len(ring) >= 4
            steps = np.roll(ring, -1, axis=0) - ring
            assert (np.count_nonzero(steps, axis=1) == 1).all()
            assert (np.sign(steps) != np.sign(np.roll(steps, 1, axis=0))).any(axis=1).all()
            area = (x * np.roll(y, -1) - np.roll(x, -1) * y).sum() / 2
            assert area > 0 if position == 0 else area < 0


@given(x=st.floats(-5, 15), y=st.floats(-5, 15), w=st.floats(0, 20), h=st.floats(0, 20))
def test_a_rectangle_fills_the_pixels_whose_centres_it_covers(x, y, w, h):
    ring = np.array([(x, y), (x + w, y), (x + w, y + h), (x, y + h)])
    columns, rows = np.meshgrid(np.arange(9) + 0.5, np.arange(7) + 0.5)
    expected = (columns >= x) & (columns < x + w) & (rows >= y) & (rows < y + h)
    assert np.array_equal(fill([ring], (7, 9)), expected)


def test_a_slanted_polygon_covers_its_area():
    ring = np.array([(10.0, 10.0), (190.0, 60.0), (100.0, 180.0)])
    area = abs(180 * 170 - 90 * 50) / 2
    assert abs(fill([ring], (200, 200)).sum() - area) < 0.01 * area
