import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from slidekick.grounding.finding import Finding
from slidekick.grounding.overlay import draw_overlay, legend_text
from slidekick.grounding.palette import PALETTE, concept_colours

LABELS = hnp.arrays(np.int32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=20), elements=st.integers(0, 3))
GREY = 120


@settings(deadline=None, max_examples=60)
@given(labels=LABELS)
def test_what_is_not_marked_is_not_touched_and_the_picture_given_never(labels):
    pixels = np.full((*labels.shape, 3), GREY, np.uint8)
    drawn = draw_overlay(pixels, [Finding("nucleus", labels > 0, 1, 1, labels)], legend=False)
    assert (pixels == GREY).all()
    assert drawn.dtype == np.uint8
    assert np.array_equal((drawn != GREY).any(axis=2), labels > 0)


def test_an_outline_is_the_concepts_colour_and_the_inside_only_tinted():
    mask = np.zeros((40, 40), bool)
    mask[10:30, 10:30] = True
    drawn = draw_overlay(np.full((40, 40, 3), GREY, np.uint8), [Finding("gland", mask, 1, 1)], legend=False)
    colour = np.array(concept_colours(["gland"])["gland"])
    assert (drawn[10, 10:30] == colour).all()
    assert (drawn[10:30, 29] == colour).all()
    inside = drawn[20, 20].astype(int)
    assert (np.abs(inside - GREY) <= 0.25 * np.abs(colour - GREY)).all()
    assert (inside != GREY).any()


def test_objects_that_touch_are_kept_apart_by_their_outlines():
    labels = np.ones((20, 40), np.int32)
    labels[:, 20:] = 2
    drawn = draw_overlay(np.full((20, 40, 3), GREY, np.uint8), [Finding("n", labels > 0, 1, 1, labels)], legend=False)
    colour = concept_colours(["n"])["n"]
    assert (drawn[5:15, 19:21] == colour).all()
    assert (drawn[5:15, 10] != colour).any(axis=-1).all()


def test_the_legend_stands_below_the_picture_and_says_what_was_found():
    labels = np.zeros((200, 300), np.int32)
    labels[5:9, 5:9], labels[20:24, 5:9] = 1, 2
    nuclei = Finding("nucleus", labels > 0, 1, 1, labels)
    stroma = Finding("stroma", np.ones((200, 300), bool), 1, 1)
    absent = Finding("gland", np.zeros((200, 300), bool), 0, 0)
    unknown = Finding("unicorn", np.zeros((200, 300), bool), 0, 0, known=False)
    said = [legend_text(finding) for finding in (nuclei, stroma, absent, unknown)]
    assert said == ["nucleus: 2", "stroma: 100 %", "gland: not found", "unicorn: not in the vocabulary"]
    assert legend_text(Finding("stroma", labels > 0, 1, 1)) == "stroma: under 1 %"
    pixels = np.full((200, 300, 3), GREY, np.uint8)
    drawn = draw_overlay(pixels, [absent], (0.5, 0.5))
    assert np.array_equal(drawn[:200], pixels)
    strip = drawn[200:]
    assert strip.shape[0] > 10
    assert (strip == concept_colours(["gland"])["gland"]).all(axis=2).any()
    assert (strip == 0).all(axis=2).any()


def test_the_scale_bar_is_as_long_as_it_says():
    pixels = np.full((300, 400, 3), GREY, np.uint8)
    with_bar, without = draw_overlay(pixels, [], (0.5, 0.5)), draw_overlay(pixels, [])
    assert without.shape == pixels.shape
    black = (with_bar[300:] == 0).all(axis=2)
    assert black.sum(axis=1).max() == 100  # 50 um at 0.5 um a pixel, the longest round length in a quarter of 400


@settings(deadline=None, max_examples=40)
@given(width=st.integers(1, 80), height=st.integers(1, 80), mpp=st.floats(1e-3, 1e3))
def test_pictures_of_any_size_and_scale_can_be_drawn(width, height, mpp):
    finding = Finding("a concept with a long name µ", np.ones((height, width), bool), 1, 1)
    drawn = draw_overlay(np.zeros((height, width, 3), np.uint8), [finding, finding], (mpp, mpp))
    assert drawn.shape[0] > height
    assert drawn.shape[1:] == (width, 3)


def test_colours_are_told_apart_and_start_over_only_when_used_up():
    assert len(set(PALETTE)) == len(PALETTE)
    colours = concept_colours(["a", "b", "a", "c"])
    assert list(colours) == ["a", "b", "c"]
    assert len(set(colours.values())) == 3
    assert concept_colours(map(str, range(8)))["7"] == PALETTE[0]
