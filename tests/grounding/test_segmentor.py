import json

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from slidekick.data.errors import InputError
from slidekick.grounding.model import SegmentorConfig
from slidekick.grounding.segmentor import CARD, CONFIG, MODEL, Segmentor
from slidekick.grounding.vocabulary import Concept, Vocabulary

CARD_CONCEPTS = [
    Concept("nucleus", "object", ("nuclei",), 0.5, 1.0, presence_threshold=0.0),
    Concept("lymphocyte", "object", (), 0.5, 1.0, presence_threshold=0.0),
    Concept("gland", "object", ("crypt",), 1.0, 0.6, presence_threshold=0.0),
    Concept("tumour", "region", ("cancer",), 1.0, 0.6, presence_threshold=0.0),
]


@pytest.fixture
def segmentor(small_model):
    return Segmentor(small_model, Vocabulary(CARD_CONCEPTS))


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(0, 256, (height // 6 + 1, width // 6 + 1, 3)).astype(np.uint8)
    return cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)


class Bright:
    """Stands in for the network: marks what is bright, and judges a window to hold it where a quarter is."""

    config = SegmentorConfig(window=64)

    def __init__(self) -> None:
        self.windows = 0

    def eval(self):
        return self

    def encode(self, pixels):
        self.windows += len(pixels)
        return F.avg_pool2d(pixels.mean(1, keepdim=True), 2)

    def decode(self, embedding, phrases):
        logits = (embedding * 20).expand(len(phrases), -1, -1)
        present = (embedding > 0).float().mean().expand(len(phrases))
        return logits, logits, (present - 0.25) * 100


def equal(first, second) -> bool:
    same = (first.mask == second.mask).all() and (first.score, first.presence) == (second.score, second.presence)
    return bool(same) and np.array_equal(first.instances, second.instances)


def test_saved_and_loaded_it_finds_the_same(segmentor, tmp_path):
    segmentor.save_pretrained(tmp_path)
    loaded = Segmentor.from_pretrained(tmp_path)
    image = picture(70, 84)
    before, after = (one.segment(image, ["nucleus", "tumour"]) for one in (segmentor, loaded))
    assert any(finding.found and not finding.mask.all() for finding in before)  # else there is nothing to compare
    assert all(equal(*pair) for pair in zip(before, after, strict=True))
    assert loaded.vocabulary.concepts == segmentor.vocabulary.concepts


def test_the_same_picture_gives_the_same_findings(segmentor):
    image = picture(70, 50)
    assert equal(segmentor.segment(image, ["nucleus"])[0], segmentor.segment(image, ["nucleus"])[0])


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
        assert 0 <= finding.presence <= 1
        assert 0 <= finding.score <= 1
        assert (finding.score > 0) == finding.found


def test_objects_have_numbered_instances_that_are_the_mask_and_regions_have_none(segmentor):
    nucleus, tumour = segmentor.segment(picture(80, 70), ["nucleus", "tumour"])
    assert (nucleus.instances.dtype, nucleus.instances.shape) == (np.int32, (80, 70))
    np.testing.assert_array_equal(nucleus.instances > 0, nucleus.mask)
    assert set(np.unique(nucleus.instances)) == set(range(nucleus.instances.max() + 1))
    assert tumour.instances is None


def test_unknown_words_give_an_empty_finding_that_names_the_nearest(segmentor):
    (finding,) = segmentor.segment(picture(30, 40), ["glend"])
    assert (finding.known, finding.found, finding.nearest) == (False, False, "gland")
    assert (finding.concept, finding.prompt, finding.presence) == ("glend", "glend", 0.0)
    assert finding.mask.shape == (30, 40)


def test_findings_come_in_the_order_asked_with_the_words_asked(segmentor):
    words = ["cancer", "unicorn", "Nuclei", "gland", "nucleus"]
    findings = segmentor.segment(picture(50, 60), words)
    assert [finding.prompt for finding in findings] == words
    assert [finding.concept for finding in findings] == ["tumour", "unicorn", "nucleus", "gland", "nucleus"]
    assert equal(findings[2], findings[4])


def test_no_words_no_findings(segmentor):
    assert segmentor.segment(picture(50, 60), []) == []


def test_concepts_of_one_scale_share_one_encoding():
    def windows(*concepts):
        model = Bright()
        Segmentor(model, Vocabulary(CARD_CONCEPTS)).segment(picture(150, 100), concepts)
        return model.windows

    assert windows("nucleus", "lymphocyte", "nuclei") == windows("nucleus")
    assert windows("gland", "tumour") == windows("gland") < windows("nucleus")
    assert windows("nucleus", "gland") == windows("nucleus") + windows("gland")
    assert windows("unicorn") == 0


def test_what_a_concept_looks_like_beside_others_is_what_it_looks_like_alone(segmentor):
    image = picture(80, 100)
    alone = [segmentor.segment(image, [name])[0] for name in ("gland", "tumour")]
    together = segmentor.segment(image, ["gland", "tumour"])
    for one, other in zip(alone, together, strict=True):
        assert (one.mask == other.mask).mean() > 0.999
        assert one.presence == pytest.approx(other.presence, abs=1e-4)


@settings(deadline=None, max_examples=30)
@given(
    st.tuples(st.integers(40, 260), st.integers(40, 260)),
    st.sampled_from([None, (0.25, 0.25), (0.5, 0.5), (0.8, 0.8), (1.3, 1.3)]),
    st.integers(0, 2**32 - 1),
)
def test_whatever_the_windows_and_the_scale_a_mask_lies_on_what_was_drawn(size, mpp, seed):
    rng = np.random.default_rng(seed)
    image = np.zeros((*size, 3), np.uint8)
    h, w = rng.integers(24, 100, 2).clip(max=size)
    y, x = rng.integers(0, size[0] - h + 1), rng.integers(0, size[1] - w + 1)
    image[y : y + h, x : x + w] = 255
    always = Concept("nucleus", "object", (), 0.5, 1.0, presence_threshold=0.0)
    (finding,) = Segmentor(Bright(), Vocabulary([always])).segment(image, ["nucleus"], mpp=mpp)
    unsure = 5  # px of the picture: a mask cell at the coarsest scale tried, rounded to whole cells
    sure = np.zeros(size, bool)
    sure[y + unsure : y + h - unsure, x + unsure : x + w - unsure] = True
    perhaps = np.zeros(size, bool)
    perhaps[max(0, y - unsure) : y + h + unsure, max(0, x - unsure) : x + w + unsure] = True
    assert finding.mask[sure].all()
    assert not finding.mask[~perhaps].any()
    assert finding.instances.max() == 1


def discs(diameter: int, number: int) -> np.ndarray:
    """Bright discs on black, one in each 48-px square of a 192-px picture, from the upper left on."""
    image = np.zeros((192, 192, 3), np.uint8)
    for index in range(number):
        centre = (24 + 48 * (index % 4), 24 + 48 * (index // 4))
        cv2.circle(image, centre, diameter // 2, (255, 255, 255), -1)
    return image


@pytest.mark.parametrize(
    ("diameter", "number", "mpp", "zooms"),
    [
        (32, 12, None, (1.0, 0.5)),  # twice the usual 16 px: seen from too near
        (9, 16, None, (1.0, 2.0)),  # half of it and less, in mask cells
        (16, 12, None, (1.0,)),  # as usual
        (32, 6, None, (1.0,)),  # too few to tell
        (32, 12, (0.5, 0.5), (1.0,)),  # the scale is known
    ],
)
def test_objects_of_unusual_size_in_a_picture_without_a_scale_are_looked_at_again(diameter, number, mpp, zooms):
    image = discs(diameter, number)
    concept = Concept("nucleus", "object", (), mpp=0.5, zoom=1.0, diameter_um=8.0, presence_threshold=0.0)
    model = Bright()
    (finding,) = Segmentor(model, Vocabulary([concept])).segment(image, ["nucleus"], mpp=mpp)
    windows = []
    for zoom in zooms:
        once = Bright()
        Segmentor(once, Vocabulary([concept])).segment(image, ["nucleus"], mpp=(0.5 * zoom, 0.5 * zoom))
        windows.append(once.windows)
    assert model.windows == pytest.approx(sum(windows), abs=sum(windows[1:]) / 3)  # the second zoom is measured
    assert finding.instances.max() == number
    truth = image[..., 0] > 0
    assert 2 * (finding.mask & truth).sum() / (finding.mask.sum() + truth.sum()) > 0.9


def test_where_the_concept_is_judged_absent_nothing_is_marked():
    image = np.zeros((64, 64 * 6, 3), np.uint8)
    image[:, :40] = 255  # fills windows on the left
    image[:12, -14:] = 255  # a speck in the last window: less than a quarter of it
    concept = Concept("nucleus", "object", (), 0.5, 1.0, presence_threshold=0.5)
    (finding,) = Segmentor(Bright(), Vocabulary([concept])).segment(image, ["nucleus"])
    assert finding.mask[:, :36].all()
    assert not finding.mask[:, -20:].any()
    assert finding.presence == pytest.approx(1)


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
def test_anything_but_a_colour_picture_is_refused_with_what_it_was(segmentor, image):
    with pytest.raises(InputError, match="uint8 \\(height, width, 3\\)"):
        segmentor.segment(image, ["nucleus"])


def test_a_string_is_not_taken_for_a_list_of_letters(segmentor):
    with pytest.raises(InputError, match="list"):
        segmentor.segment(picture(10, 10), "nucleus")


@pytest.mark.parametrize("name", [CONFIG, CARD, MODEL])
def test_a_folder_that_lacks_a_file_is_named_with_the_file(segmentor, tmp_path, name):
    segmentor.save_pretrained(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(InputError, match=f"{tmp_path.name}: {name} is missing"):
        Segmentor.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (CONFIG, b"{"),
        (CONFIG, b"[]"),
        (CONFIG, b"\xff\xfe"),
        (CONFIG, json.dumps({"window": 64, "width": 16, "heads": 2, "depth": 1, "mlp": 64}).encode()),
        (CONFIG, json.dumps({"window": 64, "width": 32, "heads": 3, "depth": 1, "mlp": 64}).encode()),
        (CONFIG, json.dumps({"window": 64, "width": 32, "heads": 0, "depth": 1, "mlp": 64}).encode()),
        (CONFIG, json.dumps({"colour": "red"}).encode()),
        (CARD, b"{}"),
        (CARD, b'{"concepts": [{"name": "nucleus"}]}'),
        (CARD, b'{"concepts": []}'),
        (CARD, b'{"concepts": [1]}'),
        (MODEL, b""),
        (MODEL, b"no tensors here, only text that goes on"),
    ],
)
def test_a_broken_file_is_an_input_error_not_a_traceback(segmentor, tmp_path, name, content):
    segmentor.save_pretrained(tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match="not a segmentor of this version"):
        Segmentor.from_pretrained(tmp_path)


def test_a_cut_weights_file_is_an_input_error(segmentor, tmp_path):
    segmentor.save_pretrained(tmp_path)
    whole = (tmp_path / MODEL).read_bytes()
    (tmp_path / MODEL).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="not a segmentor of this version"):
        Segmentor.from_pretrained(tmp_path)


def test_weights_are_kept_in_half_precision_as_safetensors(segmentor, tmp_path):
    from safetensors.torch import load_file

    segmentor.save_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([CONFIG, CARD, MODEL])
    tensors = load_file(tmp_path / MODEL)
    assert {t.dtype for t in tensors.values()} <= {torch.float16, torch.int64}
    assert set(tensors) == set(segmentor.model.state_dict())
