"""Pieces of a mask found chunk by chunk are those of the whole mask, and so are their outlines and their objects."""

from unittest import mock

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from slidekick.grounding import instances
from slidekick.grounding.components import Borders, Scan
from slidekick.grounding.instances import grow_components, grow_instances, refine
from slidekick.grounding.outline import trace

SEEDS = st.integers(0, 2**32 - 1)


def maps(seed: int, longest: int = 70) -> tuple[np.ndarray, np.ndarray]:
    """drawn and interior of any size, fine or coarse, in few or in many steps."""
    rng = np.random.default_rng(seed)
    size = tuple(rng.integers(1, longest, 2))
    drawn, interior = (ndimage.gaussian_filter(rng.normal(size=size), rng.uniform(0.3, 4)) for _ in range(2))
    drawn = (0.6 * drawn / np.abs(drawn).max() + rng.uniform(0.4, 0.65)).clip(0, 1)
    interior = (interior / np.abs(interior).max()).clip(0, 1)
    steps = rng.choice([8, 256, 10**6])  # equal values must not make a difference
    return (np.round(drawn * steps) / steps).astype(np.float32), (np.round(interior * steps) / steps).astype(np.float32)


def grown_in_pieces(drawn, interior, chunk, least) -> np.ndarray:
    scan = Scan(lambda rows, columns: drawn[rows, columns], drawn.shape, chunk=chunk)
    read = lambda rows, columns: (drawn[rows, columns], interior[rows, columns])  # noqa: E731
    labels = np.zeros((2 * drawn.shape[0], 2 * drawn.shape[1]), np.int32)
    for number, grown in enumerate(grow_components(scan.components(), scan, read, drawn.shape, least), 1):
        (row, column), (height, width) = grown.corner, grown.mask.shape
        part = labels[row : row + height, column : column + width]
        assert not part[grown.mask].any(), "no pixel is told twice"
        part[grown.mask] = number
    return labels


def same_but_for_numbers(one: np.ndarray, other: np.ndarray) -> bool:
    pairs = np.unique(np.stack([one.ravel(), other.ravel()]), axis=1).T.tolist()
    there, back = dict(pairs), dict(pair[::-1] for pair in pairs)
    return len(there) == len(back) == len(pairs) and there.get(0, 0) == back.get(0, 0) == 0


@settings(deadline=None, max_examples=60)
@given(SEEDS, st.integers(2, 40))
def test_pieces_and_outlines_are_those_of_the_whole_mask(seed, chunk):
    drawn, _ = maps(seed)
    whole, number = ndimage.label(drawn >= 0.5)
    polygons, boxes = trace(drawn >= 0.5), ndimage.find_objects(whole)
    borders, met = Borders(), []
    scan = Scan(lambda rows, columns: drawn[rows, columns], drawn.shape, chunk=chunk)
    for component in scan.components(borders.add):
        label = whole[component.seed]
        met.append(label)
        assert component.area == (whole == label).sum()
        assert component.box == boxes[label - 1]
        outer, *holes = borders.take(component)
        wanted, *wanted_holes = polygons[label - 1]
        corners = lambda ring: sorted(map(tuple, ring.tolist()))  # noqa: E731
        assert corners(outer) == corners(wanted)
        assert sorted(map(corners, holes)) == sorted(map(corners, wanted_holes))
    assert sorted(met) == list(range(1, number + 1))
    assert not scan._open
    assert not scan._parent, "what is told is forgotten"


@settings(deadline=None, max_examples=30)
@given(SEEDS, st.integers(3, 40))
def test_chunks_are_shown_before_what_ends_in_them_and_tell_where_pieces_are(seed, chunk):
    drawn, _ = maps(seed)
    shown = {}
    scan = Scan(lambda rows, columns: drawn[rows, columns], drawn.shape, chunk=chunk)
    marked = np.zeros(drawn.shape, bool)
    for component in scan.components(lambda one: shown.setdefault((one.rows.start, one.columns.start), one)):
        for piece in component.pieces:
            rows, columns = scan.chunk_of(piece)
            marked[rows, columns] |= shown[rows.start, columns.start].labels == scan.label_of(piece)
    np.testing.assert_array_equal(marked, drawn >= 0.5)


@settings(deadline=None, max_examples=60)
@given(SEEDS, st.integers(3, 40), st.sampled_from([1, 5, 30]), st.sampled_from([0, 100, 1e9]))
def test_objects_grown_in_pieces_are_those_of_the_whole_to_the_pixel(seed, chunk, least, dense):
    drawn, interior = maps(seed)
    whole = refine(grow_instances(drawn >= 0.5, interior, least), drawn)
    with mock.patch.object(instances, "DENSE", dense):  # one by one, or many at once
        assert same_but_for_numbers(whole, grown_in_pieces(drawn, interior, chunk, least))


@settings(deadline=None, max_examples=15)
@given(SEEDS)
def test_a_sheet_grown_chunk_by_chunk_loses_no_pixel_and_hardly_an_object(seed):
    rng = np.random.default_rng(seed)
    size = rng.integers(150, 260, 2)
    drawn = np.full(size, 0.9, np.float32)
    drawn[rng.random(size) < 0.002] = 0.1
    ys, xs = np.indices(size)
    interior = (np.cos(ys * 0.35 + rng.uniform(0, 6)) * np.cos(xs * 0.35 + rng.uniform(0, 6)) * 0.5 + 0.5) ** 2
    interior = interior.astype(np.float32)
    with mock.patch.multiple(instances, SHEET=1, HALO=40, LARGE=1e9):  # ripples are cells here, whatever the depth
        whole = refine(grow_instances(drawn >= 0.5, interior, 5), drawn)
        pieces = grown_in_pieces(drawn, interior, 64, 5)
    assert ((whole > 0) != (pieces > 0)).mean() < 1e-3
    assert whole.max() > 50
    assert abs(int(pieces.max()) - int(whole.max())) <= 0.02 * whole.max()
    pairs, counts = np.unique(np.stack([whole[whole > 0], pieces[whole > 0]]), axis=1, return_counts=True)
    largest = np.zeros(whole.max() + 1)
    np.maximum.at(largest, pairs[0], counts)
    assert (largest[1:] >= 0.9 * np.bincount(whole.ravel())[1:]).mean() > 0.95


@settings(deadline=None)
@given(SEEDS)
def test_refined_labels_lie_in_and_beside_their_cells(seed):
    drawn, interior = maps(seed, 50)
    labels = grow_instances(drawn >= 0.5, interior, 1)
    fine = refine(labels, drawn)
    assert fine.shape == (2 * labels.shape[0], 2 * labels.shape[1])
    coarse = np.kron(labels, np.ones((2, 2), np.int32))
    assert np.isin(fine[coarse == 0], np.unique(labels)).all()
    inside = (coarse > 0) & (fine > 0)
    np.testing.assert_array_equal(fine[inside], coarse[inside])
    away = ndimage.distance_transform_cdt(coarse == 0, "chessboard")
    assert not fine[(away > 1)].any(), "no more than a pixel beyond"


def test_what_shows_nothing_is_not_read():
    read = mock.Mock(side_effect=lambda rows, columns: np.ones((rows.stop - rows.start, columns.stop - columns.start)))
    scan = Scan(read, (100, 100), lambda rows, columns: rows.start == 40 == columns.start, chunk=20)
    (component,) = scan.components()
    assert component.box == (slice(40, 60), slice(40, 60))
    assert read.call_count == 1
