"""Clicks and boxes beside words, and prompts that are refused."""

import numpy as np
import pytest

from slidekick.data.errors import InputError
from slidekick.grounding.segmentor import (
    MOST_CONCEPTS,
)
from slidekick.grounding.sizes import PHRASE_WIDTH
from slidekick.grounding.vocabulary import Calibration, Concept

ALWAYS = -1000.0  # an offset below any presence
NUCLEUS = Concept("nucleus", "object", ("nuclei",), (0.5, 0.5), 1.0, offset=ALWAYS)
LYMPHOCYTE = Concept("lymphocyte", "object", (), (0.5, 0.5), 1.0, offset=ALWAYS)
GLAND = Concept("gland", "object", ("crypt",), (1.0, 1.0), 0.6, offset=ALWAYS)
TUMOUR = Concept("tumour", "region", ("cancer",), (1.0, 1.0), 0.6, offset=ALWAYS)
AS_IT_IS = Calibration()
CONCEPTS = [NUCLEUS, LYMPHOCYTE, GLAND, TUMOUR]


def test_clicks_correct_what_words_drew(bright):
    image = np.zeros((100, 120, 3), np.uint8)
    image[20:60, 20:60] = 255
    segmentor = bright(Concept("tumour", "region", (), (0.5, 0.5), 1.0))  # by words judged absent: a seventh is bright
    clicks = [(90.5, 80.5, 1), (40.5, 40.5, 0)]
    (words,) = segmentor.segment(image, ["tumour"], mpp=(0.5, 0.5))
    (corrected,) = segmentor.segment(image, ["tumour"], mpp=(0.5, 0.5), points=clicks)
    assert not words.found
    assert corrected.mask[80, 90]
    assert corrected.mask[25, 25], "clicks are asked even where words see nothing"
    assert not corrected.mask[40, 40]
    _, first, *further = segmentor.network.asked
    assert (first["points"], first["former"]) == (None, None)
    assert [asked["labels"].tolist() for asked in further] == [[[1]], [[1, 0]]]
    np.testing.assert_allclose(further[-1]["points"][0], [c[:2] for c in clicks])
    for before, after in zip((first, *further), further, strict=False):
        drawn, _ = bright().network.decode(segmentor._kept[1][1.0][0], **before)
        np.testing.assert_allclose(after["former"], drawn[:, 0])


@pytest.mark.parametrize("mpp", [(0.5, 0.5), (1.0, 1.0), (0.25, 0.25)])
def test_a_click_lands_where_it_was_made_whatever_the_scale_and_the_tile(bright, mpp):
    image = np.zeros((60, 900, 3), np.uint8)
    for x in (40, 450, 870):
        (finding,) = bright(NUCLEUS).segment(image, ["nucleus"], mpp=mpp, points=[(x + 0.5, 30.5, 1)])
        ys, xs = np.nonzero(finding.mask)
        assert abs(xs.mean() - x) < 4
        assert abs(ys.mean() - 30) < 4
        assert np.ptp(xs) < 40


def test_boxes_give_one_object_each_in_their_order(bright):
    segmentor = bright()
    boxes = [(60, 10, 90, 40), (10, 10, 40, 40)]
    (finding,) = segmentor.segment(np.zeros((80, 100, 3), np.uint8), ["nuclei"], boxes=boxes, mpp=(0.5, 0.5))
    assert (finding.concept, finding.prompt, finding.presence) == ("nucleus", "nuclei", 1.0)
    for index, (x0, y0, x1, y1) in enumerate(boxes, 1):
        assert (finding.instances[y0 + 3 : y1 - 3, x0 + 3 : x1 - 3] == index).all()
    np.testing.assert_array_equal(finding.mask, finding.instances > 0)
    assert finding.score > 0.9
    for asked in segmentor.network.asked:
        np.testing.assert_array_equal(asked["phrases"], segmentor.vocabulary.vectors["nucleus"][None])


def test_boxes_with_several_words_give_a_finding_for_each(bright):
    findings = bright().segment(
        np.zeros((80, 100, 3), np.uint8), ["nucleus", "unicorn", "tumour"], boxes=[(10, 10, 40, 40)]
    )
    assert [finding.concept for finding in findings] == ["nucleus", "unicorn", "tumour"]
    assert [finding.known for finding in findings] == [True, False, True]
    assert [finding.found for finding in findings] == [True, False, True]


def test_without_words_boxes_and_points_give_one_finding_called_object(bright):
    segmentor = bright()
    for prompts in ({"boxes": [(10, 10, 40, 40)]}, {"points": [(30.5, 30.5, 1)]}):
        (finding,) = segmentor.segment(np.zeros((80, 100, 3), np.uint8), [], **prompts)
        assert (finding.concept, finding.prompt, finding.known) == ("object", "object", True)
        assert finding.mask[30, 30]
        assert finding.instances.max() == 1
        assert not segmentor.network.asked[-1]["phrases"].any(), "no words are zeros"
        assert segmentor.network.asked[-1]["phrases"].shape == (1, PHRASE_WIDTH)


# --- what is refused


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((10, 10), np.uint8),
        np.zeros((10, 10, 4), np.uint8),
        np.zeros((10, 10, 3), np.float32),
        np.zeros((10, 10, 3), np.uint16),
        np.zeros((0, 10, 3), np.uint8),
        np.zeros((3, 10, 10), np.uint8),
        [[1, 2, 3]],
        None,
    ],
    ids=str,
)
def test_anything_but_a_colour_picture_is_refused_with_what_it_was(bright, image):
    with pytest.raises(InputError, match="uint8 \\(height, width, 3\\)"):
        bright().segment(image, ["nucleus"])


@pytest.mark.parametrize(
    ("concepts", "more", "told"),
    [
        ("nucleus", {}, r"concepts is one string; give a list, such as \['nucleus'\]"),
        ([""], {}, "concept '' is empty or no text"),
        (["nucleus", "  "], {}, "concept '  ' is empty"),
        ([5], {}, "concept 5 is empty or no text"),
        ([None], {}, "concept None is empty or no text"),
        (["nucleus"] * (MOST_CONCEPTS + 1), {}, f"give {MOST_CONCEPTS} at most"),
        ([], {}, "no prompt; give a concept, a point or a box"),
        ([], {"points": [], "boxes": []}, "no prompt"),
        (["nucleus"], {"points": [(10, 9, 1)]}, "outside the picture of 10 × 10 px"),
        (["nucleus"], {"boxes": [(5, 5, 5, 9)]}, "inverted or empty"),
        (["nucleus"], {"mpp": 0.25}, "mpp"),
        (["nucleus"], {"mpp": (0.25,)}, "mpp"),
        (["nucleus"], {"mpp": (0.25, 0)}, "mpp"),
        (["nucleus"], {"mpp": (-0.25, 0.25)}, "mpp"),
        (["nucleus"], {"mpp": (float("nan"), 0.25)}, "mpp"),
        (["nucleus"], {"mpp": ("0.25", "0.25")}, "mpp"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_prompts_that_cannot_be_meant_are_told_in_one_line(bright, concepts, more, told):
    with pytest.raises(InputError, match=told) as caught:
        bright().segment(np.zeros((10, 10, 3), np.uint8), concepts, **more)
    assert "\n" not in str(caught.value)


# --- files
