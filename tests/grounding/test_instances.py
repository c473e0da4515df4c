import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from slidekick.grounding.instances import grow_instances, label_at_full_size
from slidekick.grounding.sizes import LEAST
from slidekick.grounding.windows import interior_map

SEEDS = st.integers(0, 2**32 - 1)


def blobs(seed: int, size: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """A mask of smooth pieces of many sizes, and an interior map that has nothing to do with it."""
    noise = np.random.default_rng(seed).normal(size=(2, size, size))
    mask = ndimage.gaussian_filter(noise[0], 1.5) > 0.1
    interior = ndimage.gaussian_filter(noise[1], 1.5)
    return mask, (interior / np.abs(interior).max()).clip(0, 1).astype(np.float32)


def discs(*centres: tuple[int, int], radius: int = 9) -> np.ndarray:
    """Object ids of discs on a 40 x 60 picture."""
    ids = np.zeros((40, 60), np.int32)
    for index, (x, y) in enumerate(centres, 1):
        cv2.circle(ids, (x, y), radius, index, -1)
    return ids


@settings(deadline=None)
@given(SEEDS)
def test_objects_are_numbered_connected_pieces_inside_the_mask(seed):
    mask, interior = blobs(seed)
    labels = grow_instances(mask, interior)
    assert (labels.dtype, labels.shape) == (np.int32, mask.shape)
    assert not labels[~mask].any()
    assert sorted(set(labels.ravel()) - {0}) == list(range(1, labels.max() + 1))
    for index in range(1, labels.max() + 1):
        assert (labels == index).sum() >= LEAST
        assert ndimage.label(labels == index)[1] == 1


@settings(deadline=None)
@given(SEEDS, st.sampled_from([0, 1]))
def test_where_the_interior_says_nothing_objects_are_the_masks_pieces_minus_specks(seed, value):
    mask, interior = blobs(seed)
    labels = grow_instances(mask, np.full_like(interior, value))
    pieces, number = ndimage.label(mask)
    large = [index for index in range(1, number + 1) if (pieces == index).sum() >= LEAST]
    np.testing.assert_array_equal(labels > 0, np.isin(pieces, large))
    assert labels.max() == len(large)
    assert all(len(np.unique(labels[pieces == index])) == 1 for index in large)


def test_two_touching_discs_are_told_apart():
    ids = discs((20, 20), (36, 20))
    mask = ids > 0
    assert ndimage.label(mask)[1] == 1
    labels = grow_instances(mask, interior_map(ids))
    assert labels.max() == 2
    assert (labels > 0).sum() == mask.sum()
    agree = max(((labels == a) & (ids == 1)).sum() + ((labels == b) & (ids == 2)).sum() for a, b in ((1, 2), (2, 1)))
    assert agree > 0.97 * mask.sum()


def test_nothing_in_nothing_out():
    assert not grow_instances(np.zeros((5, 6), bool), np.ones((5, 6), np.float32)).any()


@settings(deadline=None)
@given(SEEDS, st.integers(81, 100), st.integers(30, 160))
def test_labels_at_full_size_fill_the_mask_near_them_and_nothing_else(seed, height, width):
    small_mask, interior = blobs(seed)
    small = grow_instances(small_mask, interior)
    large = cv2.resize(small_mask.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR) >= 0.5
    labels = label_at_full_size(small, large)
    assert (labels.dtype, labels.shape) == (np.int32, large.shape)
    assert not labels[~large].any()
    assert sorted(set(labels.ravel()) - {0}) == list(range(1, labels.max() + 1))
    nearest = cv2.resize(small.astype(np.float32), (width, height), interpolation=cv2.INTER_NEAREST).astype(int)
    assert labels[large & (nearest > 0)].all()
    away = ndimage.distance_transform_cdt(nearest == 0, "chessboard")
    np.testing.assert_array_equal(labels > 0, large & (away <= 2))


def test_at_full_size_two_discs_stay_two_and_whole():
    small = discs((20, 20), (36, 20))
    mask = cv2.resize((small > 0).astype(np.float32), (120, 80), interpolation=cv2.INTER_LINEAR) >= 0.5
    labels = label_at_full_size(small, mask)
    assert labels.max() == 2
    np.testing.assert_array_equal(labels > 0, mask)


@pytest.mark.parametrize("shape", [(1, 1), (20, 20), (300, 240)])
def test_an_object_that_fills_the_picture_is_one(shape):
    """Its outline is nowhere, so its depth is not measured from it."""
    ones = np.ones(shape)
    labels = grow_instances(ones > 0, ones.astype(np.float32), 1)
    assert labels.shape == shape
    assert (labels == 1).all()
