import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from slidekick.grounding import outline
from slidekick.grounding.outline import fill, fill_window, trace, window_of, work

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


RINGS = st.lists(
    hnp.arrays(float, st.tuples(st.integers(0, 9), st.just(2)), elements=st.floats(-15, 25, width=16)), max_size=3
)


def crossed(rings: list[np.ndarray], shape: tuple[int, int]) -> np.ndarray:
    """What `fill` promises, pixel by pixel and edge by edge."""
    mask = np.zeros(shape, bool)
    for row, column in np.ndindex(shape):
        x, y, odd = column + 0.5, row + 0.5, False
        for ring in rings:
            for (x0, y0), (x1, y1) in zip(ring, np.roll(ring, -1, axis=0), strict=True):
                if (y0 <= y) != (y1 <= y):
                    odd ^= bool(x0 + (y - y0) * (x1 - x0) / (y1 - y0) <= x)
        mask[row, column] = odd
    return mask


@settings(deadline=None, max_examples=150)
@given(rings=RINGS)
def test_any_rings_crossing_themselves_or_not_fill_what_lies_inside_an_odd_number_of_them(rings):
    assert np.array_equal(fill(rings, (7, 9)), crossed(rings, (7, 9)))


@settings(deadline=None, max_examples=100)
@given(rings=RINGS)
def test_the_window_holds_all_that_is_filled_and_can_be_filled_alone(rings):
    window = window_of(rings, (7, 9))
    whole = crossed(rings, (7, 9))
    if window is None:
        assert not whole.any()
        return
    assert np.array_equal(fill_window(rings, window), whole[window])
    whole[window] = False
    assert not whole.any()


def test_many_crossings_are_worked_out_in_blocks_to_the_same_result(monkeypatch):
    rng = np.random.default_rng(0)
    ring = rng.uniform(-10, 210, (300, 2))
    whole = fill([ring], (200, 200))
    monkeypatch.setattr(outline, "BLOCK", 500)
    assert np.array_equal(fill([ring], (200, 200)), whole)


def test_work_grows_with_the_window_and_with_the_crossings():
    square = np.array([(0.0, 0.0), (100.0, 0.0), (100.0, 100.0), (0.0, 100.0)])
    zigzag = np.stack([np.linspace(0, 100, 1000), np.arange(1000) % 2 * 100.0], axis=1)
    window = window_of([square], (100, 100))
    assert work([square], window) == 100 * 100 + outline.CROSSING_COST * 2 * 100
    assert work([zigzag], window) > 1000 * 100 * outline.CROSSING_COST
    assert window_of([square + 200], (100, 100)) is None
    assert window_of([], (100, 100)) is None
