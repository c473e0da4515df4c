"""The segmentor as users meet it: words, points, boxes in, findings out. Its network here mostly sees brightness."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slidekick.grounding.runtime import TorchNetwork
from slidekick.grounding.segmentor import (
    KEPT_TILES,
    PROMPTS,
    Segmentor,
    zoom_for,
)
from slidekick.grounding.vocabulary import Calibration, Concept, Vocabulary

ALWAYS = -1000.0  # an offset below any presence
NUCLEUS = Concept("nucleus", "object", ("nuclei",), (0.5, 0.5), 1.0, offset=ALWAYS)
LYMPHOCYTE = Concept("lymphocyte", "object", (), (0.5, 0.5), 1.0, offset=ALWAYS)
GLAND = Concept("gland", "object", ("crypt",), (1.0, 1.0), 0.6, offset=ALWAYS)
TUMOUR = Concept("tumour", "region", ("cancer",), (1.0, 1.0), 0.6, offset=ALWAYS)
AS_IT_IS = Calibration()
CONCEPTS = [NUCLEUS, LYMPHOCYTE, GLAND, TUMOUR]


def vectors(concepts, encode) -> dict[str, np.ndarray]:
    names = [concept.name for concept in concepts]
    return dict(zip(names, encode(names), strict=True))


@pytest.fixture
def segmentor(small_model, encode):
    """One with the real network in small, run by torch."""
    return Segmentor(TorchNetwork(small_model), Vocabulary(CONCEPTS, vectors(CONCEPTS, encode)))


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(0, 256, (height // 6 + 1, width // 6 + 1, 3)).astype(np.uint8)
    return cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)


def equal(first, second) -> bool:
    same = (first.mask == second.mask).all() and (first.score, first.presence) == (second.score, second.presence)
    return (
        bool(same)
        and np.array_equal(first.instances, second.instances)
        and np.array_equal(first.probability, second.probability)
    )


# --- what comes back


@pytest.mark.parametrize(
    ("size", "mpp"),
    [
        *[(size, None) for size in ((1, 1), (1, 37), (2, 3), (63, 65), (300, 37))],
        *[(size, (0.25, 0.25)) for size in ((1, 1), (7, 200), (64, 64))],
        ((30, 65), (1.0, 0.5)),
        ((7, 20), (90.0, 90.0)),
        ((90, 20), (0.001, 0.001)),
    ],
)
def test_pictures_of_any_size_and_scale_give_findings_of_their_size(segmentor, size, mpp):
    for finding in segmentor.segment(picture(*size), ["nucleus", "tumour"], mpp=mpp):
        assert (finding.mask.shape, finding.mask.dtype) == (size, bool)
        assert (finding.probability.shape, finding.probability.dtype) == (size, np.float32)
        assert 0 <= finding.probability.min() <= finding.probability.max() <= 1
        assert 0 <= finding.presence <= 1
        assert 0 <= finding.score <= 1
        assert (finding.score > 0) == finding.found


def test_objects_have_numbered_instances_that_are_the_mask_and_regions_have_none(bright):
    nucleus, tumour = bright().segment(picture(80, 70), ["nucleus", "tumour"])
    assert nucleus.found
    assert (nucleus.instances.dtype, nucleus.instances.shape) == (np.int32, (80, 70))
    np.testing.assert_array_equal(nucleus.instances > 0, nucleus.mask)
    assert set(np.unique(nucleus.instances)) == set(range(nucleus.instances.max() + 1))
    assert tumour.instances is None
    np.testing.assert_array_equal(tumour.mask, tumour.probability >= 0.5)


def test_findings_come_in_the_order_asked_with_the_words_asked(bright):
    words = ["cancer", "unicorn", "Nuclei", "gland", "nucleus"]
    findings = bright().segment(picture(50, 60), words)
    assert [finding.prompt for finding in findings] == words
    assert [finding.concept for finding in findings] == ["tumour", "unicorn", "nucleus", "gland", "nucleus"]
    assert [finding.known for finding in findings] == [True, False, True, True, True]
    assert equal(findings[2], findings[4])


def test_unknown_words_give_an_empty_finding_that_names_the_nearest(bright):
    segmentor = bright()
    (finding,) = segmentor.segment(picture(30, 40), ["glend"])
    assert (finding.known, finding.found, finding.nearest) == (False, False, "gland")
    assert (finding.concept, finding.prompt, finding.presence) == ("glend", "glend", 0.0)
    assert finding.mask.shape == (30, 40)
    assert segmentor.network.windows == [], "nothing is looked at for them"


def test_the_same_picture_gives_the_same_findings(segmentor):
    image = picture(70, 50)
    first = segmentor.segment(image, ["nucleus"])[0]
    segmentor.forget()
    assert equal(first, segmentor.segment(image, ["nucleus"])[0])


def test_what_a_concept_looks_like_beside_others_is_what_it_looks_like_alone(segmentor):
    image = picture(80, 100)
    alone = [segmentor.segment(image, [name])[0] for name in ("gland", "tumour")]
    together = segmentor.segment(image, ["gland", "tumour"])
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_allclose(one.probability, other.probability, atol=1e-4)
        assert (one.mask == other.mask).mean() > 0.99
        assert one.presence == pytest.approx(other.presence, abs=1e-4)


@settings(deadline=None, max_examples=40)
@given(
    st.tuples(st.integers(40, 260), st.integers(40, 260)),
    st.sampled_from([None, (0.25, 0.25), (0.5, 0.5), (0.8, 0.8), (1.6, 1.6), (0.5, 1.0)]),
    st.integers(0, 2**32 - 1),
)
def test_whatever_the_tiles_and_the_scale_a_mask_lies_on_what_was_drawn(bright, size, mpp, seed):
    rng = np.random.default_rng(seed)
    image = np.zeros((*size, 3), np.uint8)
    h, w = rng.integers(24, 100, 2).clip(max=size)
    y, x = rng.integers(0, size[0] - h + 1), rng.integers(0, size[1] - w + 1)
    image[y : y + h, x : x + w] = 255
    (finding,) = bright(NUCLEUS).segment(image, ["nucleus"], mpp=mpp)
    unsure = 5  # px of the picture: a mask cell at the coarsest scale tried, rounded to whole cells
    sure = np.zeros(size, bool)
    sure[y + unsure : y + h - unsure, x + unsure : x + w - unsure] = True
    perhaps = np.zeros(size, bool)
    perhaps[max(0, y - unsure) : y + h + unsure, max(0, x - unsure) : x + w + unsure] = True
    assert finding.mask[sure].all()
    assert not finding.mask[~perhaps].any()
    assert finding.instances.max() == 1


def test_where_the_concept_is_judged_absent_nothing_is_marked(bright):
    image = np.zeros((64, 1000, 3), np.uint8)
    image[:, :400] = 255  # most of the left tile
    image[:12, -50:] = 255  # a speck in the right one: less than a quarter of it
    segmentor = bright(Concept("nucleus", "object", (), (0.5, 0.5), 1.0))
    (finding,) = segmentor.segment(image, ["nucleus"])
    assert len(segmentor.network.windows) == 2
    assert finding.mask[:, :396].all()
    assert not finding.mask[:, 420:].any()
    assert finding.presence == pytest.approx(1)
    (nothing,) = segmentor.segment(image[:, 600:], ["nucleus"])
    assert not nothing.found
    assert (nothing.score, nothing.presence) == (0.0, pytest.approx(0, abs=1e-3))
    assert not nothing.probability.any()


def test_the_offset_is_the_presence_from_which_it_is_there(bright):
    image = np.zeros((64, 64, 3), np.uint8)
    image[:, :24] = 255  # three eighths: a presence of 12.5
    for offset, there in ((10.0, True), (15.0, False)):
        (finding,) = bright(Concept("tumour", "region", (), (0.5, 0.5), 1.0, offset=offset)).segment(
            image, ["tumour"], mpp=(0.5, 0.5)
        )
        assert finding.found == there
        assert (finding.presence > 0.5) == there


def test_the_cards_slopes_make_probabilities_of_logits(bright):
    image = np.full((64, 64, 3), 140, np.uint8)  # logits of about 2 everywhere, a presence of 75
    logit = 20 * (140 / 127.5 - 1)
    for presence, pixel in ((1.0, 1.0), (0.05, 0.25)):
        (finding,) = bright(
            Concept("tumour", "region", (), (0.5, 0.5), 1.0, offset=70.0), calibration=Calibration(presence, pixel)
        ).segment(image, ["tumour"], mpp=(0.5, 0.5))
        assert finding.score == pytest.approx(1 / (1 + np.exp(-pixel * logit)), abs=1e-3)
        assert finding.presence == pytest.approx(1 / (1 + np.exp(-presence * 5)), abs=1e-3)


# --- scales


def discs(diameter: int, number: int) -> np.ndarray:
    """Bright discs on black, one in each 48-px square of a 192-px picture, from the upper left on."""
    image = np.zeros((192, 192, 3), np.uint8)
    for index in range(number):
        centre = (24 + 48 * (index % 4), 24 + 48 * (index // 4))
        cv2.circle(image, centre, diameter // 2, (255, 255, 255), -1)
    return image


@pytest.mark.parametrize(
    ("diameter", "number", "mpp", "looks"),
    [
        (32, 12, None, 2),  # twice the usual 16 px: seen from too near
        (9, 16, None, 2),  # half of it and less, in mask cells
        (16, 12, None, 1),  # as usual
        (32, 6, None, 1),  # too few to tell
        (32, 12, (0.5, 0.5), 1),  # the scale is known
    ],
)
def test_objects_of_unusual_size_in_a_picture_without_a_scale_are_looked_at_again(bright, diameter, number, mpp, looks):
    image = discs(diameter, number)
    segmentor = bright(Concept("nucleus", "object", (), (0.5, 0.5), 1.0, diameter_um=8.0, offset=ALWAYS))
    (finding,) = segmentor.segment(image, ["nucleus"], mpp=mpp)
    assert len(segmentor.network.windows) == looks
    assert finding.instances.max() == number
    truth = image[..., 0] > 0
    assert 2 * (finding.mask & truth).sum() / (finding.mask.sum() + truth.sum()) > 0.9


@given(st.floats(0.01, 50), st.floats(0.01, 50), st.integers(1, 5000))
def test_nothing_is_made_up_or_thrown_away_within_a_concepts_scales(x, y, longest):
    concept = Concept("nucleus", "object", (), (0.25, 0.5), 1.0)
    zoom = zoom_for(concept, (x, y), longest)
    own = (x * y) ** 0.5
    assert 0.05 <= zoom <= 4
    if 0.25 <= own <= 0.5:
        assert zoom == pytest.approx(1)
    elif 0.05 < zoom < 4:
        assert own / zoom == pytest.approx(0.25 if own < 0.25 else 0.5)
    unknown = zoom_for(concept, None, longest)
    assert 1 <= unknown <= 1.4
    assert unknown == 1 or unknown * longest <= 0.7 * 256 + 1e-6


# --- cost


def test_concepts_of_one_scale_share_one_encoding(bright):
    def windows(*words: str) -> int:
        segmentor = bright()
        segmentor.segment(picture(150, 700), words, mpp=(0.5, 0.5))
        return len(segmentor.network.windows)

    assert windows("nucleus", "lymphocyte", "nuclei") == windows("nucleus") == 2
    assert windows("gland", "tumour") == windows("gland") == 1
    assert windows("nucleus", "gland") == windows("nucleus") + windows("gland")
    assert windows("unicorn") == 0


def test_a_further_question_about_the_same_picture_costs_no_encoding(bright):
    segmentor, image = bright(), picture(150, 700)
    first = segmentor.segment(image, ["nucleus"])[0]
    number = len(segmentor.network.windows)
    for words, points in ((["nucleus"], None), (["lymphocyte", "nucleus"], None), (["nucleus"], [(9, 9, 1)])):
        segmentor.segment(image.copy(), words, points=points)
    assert len(segmentor.network.windows) == number
    assert equal(segmentor.segment(image, ["nucleus"])[0], first)
    segmentor.segment(image, ["tumour"])
    further = len(segmentor.network.windows)
    assert further > number, "another scale"
    segmentor.segment(image, ["nucleus", "tumour"])
    assert len(segmentor.network.windows) == further, "both are kept"


def test_another_picture_is_encoded_even_where_one_pixel_or_the_shape_alone_differs(bright):
    segmentor, image = bright(), picture(60, 80)
    segmentor.segment(image, ["nucleus"])
    image[5, 5] ^= 1  # in place
    segmentor.segment(image, ["nucleus"])
    segmentor.segment(np.ascontiguousarray(image.reshape(80, 60, 3)), ["nucleus"])
    assert len(segmentor.network.windows) == 3
    segmentor.forget()
    segmentor.segment(np.ascontiguousarray(image.reshape(80, 60, 3)), ["nucleus"])
    assert len(segmentor.network.windows) == 4


def test_of_pictures_of_many_tiles_nothing_is_kept(bright):
    segmentor, image = bright(), np.zeros((40, 600 * (KEPT_TILES + 1), 3), np.uint8)
    for times in (1, 2):
        segmentor.segment(image, ["nucleus"])
        assert len(segmentor.network.windows) > times * KEPT_TILES


def test_two_hundred_concepts_cost_one_encoding_and_come_in_order(bright, encode):
    concepts = [Concept(f"cell {n}", ("object", "region")[n % 2], (), (0.5, 0.5), 1.0) for n in range(200)]
    segmentor = bright(*concepts)
    names = [concept.name for concept in concepts]
    findings = segmentor.segment(np.full((64, 64, 3), 255, np.uint8), names, mpp=(0.5, 0.5))
    assert [finding.concept for finding in findings] == names
    assert all(finding.mask.all() for finding in findings)
    assert len(segmentor.network.windows) == 1
    said = [asked["phrases"] for asked in segmentor.network.asked]
    assert max(len(rows) for rows in said) <= PROMPTS
    np.testing.assert_array_equal(np.concatenate(said), encode(names))


# --- points and boxes
