import numpy as np
import pytest

from slidekick.rl.evaluation.changes import BLANK, CHANGES, KINDS, NONE, jpeg, stained

PIXELS = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)


def test_every_kind_s_changes_are_known():
    assert {change for changes in KINDS.values() for change in changes} | {NONE, BLANK} == set(CHANGES)


@pytest.mark.parametrize("name", [name for name in CHANGES if name not in (NONE, BLANK)])
def test_changes_are_deterministic_pictures_that_differ(name):
    changed = CHANGES[name](PIXELS)
    assert changed.dtype == np.uint8
    assert sorted(changed.shape[:2]) == [20, 30]
    assert not np.array_equal(changed, PIXELS)
    assert np.array_equal(changed, CHANGES[name](PIXELS))


def test_four_quarter_turns_are_none():
    turned = CHANGES["rotated 90"](CHANGES["rotated 90"](PIXELS))
    assert np.array_equal(turned, CHANGES["rotated 180"](PIXELS))
    assert np.array_equal(CHANGES["rotated 270"](CHANGES["rotated 90"](PIXELS)), PIXELS)


def test_more_stain_is_darker_and_white_stays_white():
    grey = np.full((2, 2, 3), 128, np.uint8)
    assert stained(1.1)(grey).mean() < 128 < stained(0.9)(grey).mean()
    white = np.full((2, 2, 3), 255, np.uint8)
    assert np.array_equal(stained(1.1)(white), white)


def test_blank_pictures_tell_nothing():
    assert np.array_equal(CHANGES[BLANK](PIXELS), CHANGES[BLANK](jpeg(PIXELS)))
