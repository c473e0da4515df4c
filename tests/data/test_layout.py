"""Plans of composed slides: every figure of the truth against one counted from the pixels."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slidekick.data.layout import FINE, GLASS, make_layout

NAMES = ("one", "two", "three", "four")
SIZES = {"rows": (12, 24), "columns": (12, 24)}
plans = st.builds(
    lambda seed, number, mixed: make_layout("case", NAMES[:number], seed, mixed=mixed, **SIZES),
    st.integers(0, 10_000),
    st.integers(1, 4),
    st.booleans(),
)


@given(plans)
@settings(max_examples=60, deadline=None)
def test_what_is_named_is_there_and_glass_surrounds_it(layout):
    assert layout.tissues
    assert all((layout.cells == index).any() for index in range(len(layout.tissues)))
    assert set(np.unique(layout.cells)) <= {GLASS, *range(len(layout.tissues))}
    rim = np.concatenate([layout.tissue[0], layout.tissue[-1], layout.tissue[:, 0], layout.tissue[:, -1]])
    assert rim.max() == 0
    assert 0 < layout.tissue.mean() < 0.9


@given(plans)
@settings(max_examples=60, deadline=None)
def test_shares_add_up_and_the_dominant_leads(layout):
    shares = {name: layout.share(name) for name in layout.tissues}
    assert sum(shares.values()) == pytest.approx(1, abs=1e-5)
    assert max(shares.values()) == shares[layout.dominant]
    assert layout.share("another") == 0


@given(plans)
@settings(max_examples=30, deadline=None)
def test_share_of_a_cell_is_that_of_its_field(layout):
    row, column = (int(one[0]) for one in np.nonzero(layout.cells != GLASS))
    corners = layout.field[row : row + 2, column : column + 2].astype(float)
    places = (np.arange(FINE) + 0.5) / FINE
    values = [
        (corners[0, 0] * (1 - x) + corners[0, 1] * x) * (1 - y) + (corners[1, 0] * (1 - x) + corners[1, 1] * x) * y
        for y in places
        for x in places
    ]
    assert layout.tissue[row, column] == pytest.approx(np.mean(np.array(values) > 0), abs=2 / FINE**2)


@given(plans)
@settings(max_examples=30, deadline=None)
def test_boxes_hold_all_cells_of_their_tissue(layout):
    for index, name in enumerate(layout.tissues):
        held = np.zeros(layout.cells.shape, bool)
        for x0, y0, x1, y1 in layout.boxes(name):
            held[y0:y1, x0:x1] = True
            assert (layout.cells[y0:y1, x0:x1] == index).any()
        assert held[layout.cells == index].all()


def test_a_seed_gives_the_same_plan_and_another_gives_another():
    first, again, other = (make_layout("case", NAMES, seed, **SIZES) for seed in (3, 3, 4))
    assert np.array_equal(first.cells, again.cells)
    assert np.array_equal(first.field, again.field)
    assert first.strokes == again.strokes
    assert first.cells.shape != other.cells.shape or not np.array_equal(first.cells, other.cells)


def test_of_three_tissues_one_is_always_missing():
    assert all(len(make_layout("case", NAMES[:3], seed, **SIZES).tissues) < 3 for seed in range(30))
