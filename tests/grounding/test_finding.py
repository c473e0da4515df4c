"""What of a finding lies in a region."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from slidekick.grounding.finding import PICTURE, REGION, Finding, clipped, largest
from slidekick.grounding.measure import measure

masks = arrays(bool, (6, 7))


def test_objects_stay_whole_that_lie_inside_by_half():
    instances = np.zeros((4, 12), np.int32)
    instances[:, 0:4], instances[:, 4:8], instances[:, 8:12] = 1, 2, 3
    within = np.zeros((4, 12), bool)
    within[:, :6] = True
    kept = clipped(Finding("nucleus", instances > 0, 0.9, 0.99, instances), within)
    assert sorted(np.unique(kept.instances)) == [0, 1, 2]
    assert kept.mask.sum() == 32, "the second reaches out of the region"
    told = measure(kept, (0.5, 0.5))
    assert (told.count, told.of) == (2, REGION)


def test_a_share_is_of_the_region():
    mask = np.zeros((10, 10), bool)
    mask[:5] = True
    within = np.zeros((10, 10), bool)
    within[:, :2] = True
    told = measure(clipped(Finding("gland", mask, 0.9, 0.99), within), None)
    assert (told.area_px, told.area_fraction, told.of) == (10, 0.5, REGION)
    assert measure(Finding("gland", mask, 0.9, 0.99), None).of == PICTURE


def test_what_lies_elsewhere_is_not_found_here():
    mask = np.zeros((4, 4), bool)
    mask[0, 0] = True
    within = ~mask
    kept = clipped(Finding("gland", mask, 0.9, 0.99), within)
    assert (kept.found, kept.presence, kept.score) == (False, 0.0, 0.0)
    assert kept.known


@given(masks, masks)
def test_nothing_is_added_and_a_region_of_all_takes_nothing(mask, within):
    finding = Finding("gland", mask, 0.5, 0.5)
    assert not (clipped(finding, within).mask & ~(mask & within)).any()
    assert np.array_equal(clipped(finding, np.ones_like(within)).mask, mask)


@given(arrays(np.int32, (6, 7), elements=st.integers(0, 3)), masks)
def test_objects_are_kept_whole_or_not_at_all(instances, within):
    kept = clipped(Finding("nucleus", instances > 0, 0.5, 0.5, instances), within)
    for number in range(1, 4):
        part = kept.instances == number
        assert not part.any() or np.array_equal(part, instances == number)
    assert np.array_equal(kept.mask, kept.instances > 0)


def test_the_largest_is_an_object_or_a_connected_part():
    mask = np.zeros((6, 9), bool)
    mask[0, 0], mask[2:4, 2:4], mask[5, 5:9] = True, True, True
    part = largest(Finding("gland", mask, 0.9, 0.99))
    assert part.mask.sum() == 4
    assert part.concept == "largest gland"
    assert measure(part, None).count == 1
    nothing = Finding("gland", np.zeros((3, 3), bool), 0.0, 0.01)
    assert largest(nothing) is nothing
