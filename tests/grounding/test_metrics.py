import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import matthews_corrcoef

from slidekick.data.statistics import bootstrap_figure
from slidekick.grounding.metrics import (
    IOU_THRESHOLDS,
    aggregated_jaccard,
    as_objects,
    cgf1,
    dice,
    matched_ious,
    micro_f1,
    object_counts,
    panoptic_quality,
    presence_mcc,
)

SHAPES = hnp.array_shapes(min_dims=2, max_dims=2, max_side=12)
NAMES = [0, 7, 3, 900, 1]  # new ids for 0..4: another order, gaps, and one far above the number of pixels
NOTHING = np.zeros((4, 4), np.int32)


def pictures(count: int, most: int = 4):
    """`count` label pictures of one shape."""
    return SHAPES.flatmap(
        lambda shape: st.tuples(*[hnp.arrays(np.int32, shape, elements=st.integers(0, most)) for _ in range(count)])
    )


def pairs():
    """A drawn and a true label picture that differ in about a fifth of their pixels."""
    return pictures(3).map(lambda three: (np.where(three[0] == 0, three[1], three[2]), three[2]))


def strip(*ids: int) -> np.ndarray:
    return np.array([ids], np.int32)


def f1_of(pictures, thresholds=IOU_THRESHOLDS) -> float:
    """pmF1 of pairs of drawn and true ids."""
    return micro_f1(np.array([object_counts(drawn, true, thresholds) for drawn, true in pictures]))


# One row of pixels, to be counted by hand. Objects: drawn 1 (3 px), 2 (2 px), 3 (1 px); true 5 (4 px), 6 (2 px).
DRAWN = strip(1, 1, 1, 0, 2, 2, 0, 3)
TRUE = strip(5, 5, 5, 5, 0, 6, 6, 0)  # IoU of 1 and 5 is 3/4, of 2 and 6 it is 1/3


# --- the same by brute force -------------------------------------------------------------------------------


def masks(ids: np.ndarray) -> list[np.ndarray]:
    return [ids == value for value in np.unique(ids) if value]


def iou(one: np.ndarray, other: np.ndarray) -> float:
    return (one & other).sum() / (one | other).sum()


def naive_ious(drawn: np.ndarray, true: np.ndarray) -> np.ndarray:
    return np.array([[iou(d, t) for t in masks(true)] for d in masks(drawn)]).reshape(
        len(masks(drawn)), len(masks(true))
    )


def naive_panoptic(drawn: np.ndarray, true: np.ndarray) -> tuple[float, float, float]:
    ious = naive_ious(drawn, true)
    matched = ious[ious > 0.5]
    unmatched = len(masks(drawn)) + len(masks(true)) - 2 * len(matched)
    if not len(matched):
        return (0.0, 0.0, 0.0) if unmatched else (1.0, 1.0, 1.0)
    found = len(matched) + unmatched / 2
    return matched.sum() / found, matched.mean(), len(matched) / found


def naive_jaccard(drawn: np.ndarray, true: np.ndarray) -> float:
    """Algorithm 1 of Kumar et al. 2017 as a loop over masks; drawn objects in reading order."""
    every = sorted(masks(drawn), key=lambda mask: int(mask.ravel().argmax()))
    shared = union = 0
    used = set()
    for one in masks(true):
        ious = [iou(other, one) for other in every]
        if not ious or not max(ious):
            union += one.sum()
            continue
        best = int(np.argmax(ious))
        used.add(best)
        shared += (one & every[best]).sum()
        union += (one | every[best]).sum()
    union += sum(mask.sum() for index, mask in enumerate(every) if index not in used)
    return shared / union if union else 1.0


# --- Dice --------------------------------------------------------------------------------------------------


def test_dice_of_known_masks():
    left, right, all_of_it = np.zeros((3, 4, 4), bool)
    left[:, :2], right[:, 2:], all_of_it[:] = True, True, True
    assert dice(left, left) == 1
    assert dice(left, right) == 0
    assert dice(left, all_of_it) == pytest.approx(2 * 8 / 24)
    assert dice(NOTHING > 0, NOTHING > 0) == 1
    assert dice(left, NOTHING > 0) == dice(NOTHING > 0, left) == 0


@given(pictures(2, 1))
def test_dice_is_symmetric_and_bounded(pair):
    drawn, true = (ids > 0 for ids in pair)
    assert dice(drawn, true) == dice(true, drawn)
    assert 0 <= dice(drawn, true) <= 1
    assert dice(drawn, drawn) == 1


def test_masks_of_different_shapes_are_refused():
    with pytest.raises(ValueError, match="differ"):
        dice(np.ones((4, 1), bool), np.ones((4, 4), bool))
    for metric in (matched_ious, panoptic_quality, aggregated_jaccard, object_counts):
        with pytest.raises(ValueError, match="differ"):
            metric(strip(1), NOTHING)


@pytest.mark.parametrize("ids", [np.zeros((2, 2)), np.full((2, 2), -1)])
def test_ids_that_are_no_ids_are_refused(ids):
    with pytest.raises(ValueError, match="whole numbers"):
        panoptic_quality(ids, np.zeros((2, 2), int))


# --- objects -----------------------------------------------------------------------------------------------


def test_objects_counted_by_hand():
    assert matched_ious(DRAWN, TRUE).tolist() == pytest.approx([1 / 3, 3 / 4])
    assert panoptic_quality(DRAWN, TRUE) == pytest.approx((3 / 4 * 2 / 5, 3 / 4, 2 / 5))  # 1 found, 2 in vain, 1 missed
    assert aggregated_jaccard(DRAWN, TRUE) == pytest.approx((3 + 1) / (4 + 3 + 1))  # drawn 3 was for nothing: 1 px
    assert object_counts(DRAWN, TRUE, [0.3, 0.5, 0.75, 0.8]).tolist() == [[2, 1, 0], [1, 2, 1], [1, 2, 1], [0, 3, 2]]


def test_one_drawn_object_may_serve_two_true_ones_in_the_jaccard_index_but_not_in_the_matching():
    merged, apart = strip(1, 1, 1, 1, 1), strip(1, 1, 1, 2, 2)
    assert aggregated_jaccard(merged, apart) == pytest.approx((3 + 2) / (5 + 5))
    assert matched_ious(merged, apart).tolist() == [3 / 5]
    assert panoptic_quality(merged, apart) == pytest.approx((3 / 5 * 2 / 3, 3 / 5, 2 / 3))


def test_an_iou_of_a_half_is_found_by_sam_3_and_not_by_the_panoptic_quality():
    half, whole = strip(1, 0), strip(1, 1)
    assert panoptic_quality(half, whole).pq == 0
    assert object_counts(half, whole)[0].tolist() == [1, 0, 0]


def test_an_iou_equal_to_a_threshold_reaches_it():
    for found, of in ((3, 5), (11, 20), (7, 10), (19, 20)):
        drawn, true = np.zeros((1, of), int), np.ones((1, of), int)
        drawn[0, :found] = 1
        assert f1_of([(drawn, true)], [found / of]) == 1
        reached = [t <= found / of for t in IOU_THRESHOLDS]
        assert object_counts(drawn, true)[:, 0].tolist() == reached
    assert len(IOU_THRESHOLDS) == 10


def test_the_matching_is_of_the_largest_sum_and_knows_no_threshold():
    # the pair at 0.55 gives way to two of 0.29: greedy matching would keep it
    drawn = np.repeat([1, 1, 2, 0], [409, 1000, 409, 0])[None]
    true = np.repeat([3, 4, 4, 0], [409, 1000, 409, 0])[None]
    assert matched_ious(drawn, true).tolist() == pytest.approx([409 / 1409, 409 / 1409])
    assert panoptic_quality(drawn, true).sq == pytest.approx(1000 / 1818)


def test_nothing_drawn_of_nothing_is_right_and_of_something_wrong():
    something = strip(1, 1, 0, 2)
    nothing = something * 0
    assert panoptic_quality(nothing, nothing) == (1, 1, 1)
    assert aggregated_jaccard(nothing, nothing) == 1
    assert object_counts(nothing, nothing).tolist() == [[0, 0, 0]] * 10
    for drawn, true, counts in ((something, nothing, [0, 2, 0]), (nothing, something, [0, 0, 2])):
        assert panoptic_quality(drawn, true) == (0, 0, 0)
        assert aggregated_jaccard(drawn, true) == 0
        assert matched_ious(drawn, true).tolist() == []
        assert object_counts(drawn, true).tolist() == [counts] * 10
    assert panoptic_quality(np.zeros((0, 5), int), np.zeros((0, 5), int)) == (1, 1, 1)


@given(pairs())
def test_objects_agree_with_brute_force(pair):
    drawn, true = pair
    assert panoptic_quality(drawn, true) == pytest.approx(naive_panoptic(drawn, true))
    assert aggregated_jaccard(drawn, true) == pytest.approx(naive_jaccard(drawn, true))
    ious = naive_ious(drawn, true)
    best = ious[linear_sum_assignment(-ious)] if ious.size else np.zeros(0)
    assert matched_ious(drawn, true).sum() == pytest.approx(best.sum())
    assert (matched_ious(drawn, true) > 0).all()


@given(pairs())
def test_figures_of_objects_stay_in_their_bounds_and_agree_with_one_another(pair):
    drawn, true = pair
    quality = panoptic_quality(drawn, true)
    assert all(0 <= part <= 1 for part in quality)
    assert quality.sq == 0 or quality.sq > 0.5
    assert quality == panoptic_quality(true, drawn)
    assert 0 <= aggregated_jaccard(drawn, true) <= 1
    counts = object_counts(drawn, true)
    assert (counts >= 0).all()
    assert (counts[:, :2].sum(axis=1) == len(masks(drawn))).all()
    assert (counts[:, ::2].sum(axis=1) == len(masks(true))).all()
    assert (np.diff(counts[:, 0]) <= 0).all()


@given(pictures(1))
def test_a_picture_agrees_with_itself(pair):
    (ids,) = pair
    assert panoptic_quality(ids, ids) == (1, 1, 1)
    assert aggregated_jaccard(ids, ids) == 1
    assert (object_counts(ids, ids)[:, 1:] == 0).all()
    if ids.any():
        assert f1_of([(ids, ids)]) == 1


@given(pairs())
def test_the_names_of_objects_make_no_difference(pair):
    drawn, true = pair
    renamed = np.array(NAMES)[drawn], np.array(NAMES[::-1])[4 - true].astype(np.uint16)
    assert panoptic_quality(*renamed) == panoptic_quality(drawn, true)
    assert aggregated_jaccard(*renamed) == aggregated_jaccard(drawn, true)
    assert np.array_equal(matched_ious(*renamed), matched_ious(drawn, true))


def test_a_thousand_nuclei_are_measured_in_a_moment():
    rng = np.random.default_rng(0)
    true, drawn = np.zeros((2, 1000, 1000), np.int32)
    for index, (y, x) in enumerate(rng.integers(0, 970, (1000, 2)), 1):
        true[y : y + 20, x : x + 20] = index
        drawn[y + 3 : y + 24, x + 2 : x + 20] = index
    metrics = (panoptic_quality, aggregated_jaccard, object_counts)
    for metric in metrics:
        spent = []
        for _ in range(3):
            began = time.perf_counter()
            metric(drawn, true)
            spent.append(time.perf_counter() - began)
        assert min(spent) < 0.2, metric.__name__


def test_regions_are_one_object_each():
    specks = np.zeros((6, 6), bool)
    specks[::2, ::2] = True
    ids = np.arange(36, dtype=np.int32).reshape(6, 6)
    for drawn_ids, true_ids in ((None, None), (ids, None), (None, ids)):
        drawn, true = as_objects(specks, specks, drawn_ids, true_ids)
        assert object_counts(drawn, true)[0].tolist() == [1, 0, 0]
    assert as_objects(ids > 0, ids > 0, ids, ids)[0] is ids


# --- pictures together -------------------------------------------------------------------------------------


def test_micro_f1_adds_objects_up_over_the_pictures_that_hold_the_concept():
    found, missed = (strip(1, 2), strip(1, 2)), (strip(0, 0), strip(1, 2))
    in_vain = (strip(1, 2), strip(0, 0))
    assert f1_of([found, missed]) == pytest.approx(2 * 2 / (2 * 2 + 2))
    assert f1_of([found, missed, in_vain]) == f1_of([found, missed])
    assert np.isnan(f1_of([in_vain]))
    assert np.isnan(f1_of([]))


def test_micro_f1_is_averaged_over_thresholds():
    assert f1_of([(DRAWN, TRUE)], [0.3, 0.8]) == pytest.approx((4 / 5 + 0) / 2)
    three_of_five = strip(1, 1, 1, 0, 0), strip(1, 1, 1, 1, 1)
    assert f1_of([three_of_five]) == pytest.approx(3 / 10)  # found at 0.5, 0.55 and 0.6


@pytest.mark.filterwarnings("ignore:A single label")
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=40))
def test_matthews_correlation_is_that_of_scikit_learn(pairs):
    there, said = np.array(pairs).T
    found = presence_mcc(there, said)
    assert found == pytest.approx(matthews_corrcoef(there, said))
    assert found == presence_mcc(said, there)
    assert -1 - 1e-9 <= found <= 1 + 1e-9


def test_matthews_correlation_of_known_tables():
    there = np.array([True] * 4 + [False] * 4)
    assert presence_mcc(there, there) == 1
    assert presence_mcc(there, ~there) == -1
    assert presence_mcc(there, there | True) == 0
    assert presence_mcc(np.array([]), np.array([])) == 0
    assert presence_mcc(there, np.array([1, 1, 1, 0, 1, 0, 0, 0], bool)) == pytest.approx((9 - 1) / 16)
    with pytest.raises(ValueError, match="differ"):
        presence_mcc(there, there[:3])


def test_cgf1_is_the_product_of_its_two_parts():
    pairs = [(strip(1, 2), strip(1, 2)), (strip(1, 0), strip(1, 2)), (strip(0, 1), strip(0, 0)), (strip(0), strip(0))]
    counts = np.array([object_counts(*pair) for pair in pairs])
    mcc = presence_mcc([True, True, False, False], [True, True, True, False])
    assert mcc == pytest.approx(1 / 3**0.5)
    assert micro_f1(counts) == pytest.approx(2 * 3 / (2 * 3 + 1))
    assert cgf1(counts) == pytest.approx(6 / 7 / 3**0.5)
    assert cgf1(counts[[0, 3]]) == 1
    assert cgf1(counts[[0, 1]]) == 0  # without a picture that lacks the concept nothing is told apart
    assert np.isnan(cgf1(counts[2:]))
    assert np.isnan(cgf1(counts[:0]))


@settings(deadline=None, max_examples=20)
@given(st.lists(pairs(), min_size=1, max_size=6))
def test_cgf1_can_be_resampled_by_picture(measured):
    counts = np.array([object_counts(*pair) for pair in measured])
    figure = bootstrap_figure(counts, cgf1)
    assert np.isnan(figure.value) or -1 <= figure.low <= figure.high <= 1
    assert figure.n == len(measured)
