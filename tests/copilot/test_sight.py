"""What a picture must show before it is read: tissue, not glass, noise or a photograph."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import skimage.data
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted import DrawnSegmentor, ScriptedEngine, call
from slide_files import tissue_like

from slidekick.copilot.copilot import Copilot
from slidekick.copilot.mini import SIGHT, TOWER, WEIGHTS
from slidekick.copilot.sight import (
    BLANK,
    FOREIGN,
    STRANGE,
    UNTOLD,
    Sight,
    Taught,
    fit_taught,
    is_blank,
    is_colourless,
    load_taught,
)
from slidekick.data.errors import InputError
from slidekick.data.samples import sample
from slidekick.data.slide import Region, Roi, read_roi

PHOTOGRAPHS = ("astronaut", "camera", "cat", "coffee", "rocket", "page", "clock", "coins", "moon", "grass", "gravel")


def roi(pixels: np.ndarray) -> Roi:
    return Roi(pixels, None, Region(0, 0, pixels.shape[1], pixels.shape[0]), "here")


@given(level=st.integers(0, 255), grain=st.floats(0, 6), shade=st.integers(0, 12), seed=st.integers(0, 9))
@settings(deadline=None, max_examples=30)
def test_glass_is_blank_whatever_its_brightness_grain_and_lamp(level, grain, shade, seed):
    light = np.linspace(0, 1, 300)[None, :, None] * shade * (level > 200)
    pixels = level - light + np.random.default_rng(seed).normal(0, grain, (200, 300, 3)) * (level > 60)
    assert is_blank(np.clip(pixels, 0, 255).astype(np.uint8))


def test_noise_is_blank_and_tissue_is_not():
    assert is_blank(np.random.default_rng(0).integers(0, 256, (512, 512, 3), np.uint8))
    assert not is_blank(skimage.data.immunohistochemistry())
    assert not is_blank(tissue_like(400, 300))
    speck = np.full((512, 512, 3), 240, np.uint8)
    speck[200:300, 200:300] = skimage.data.immunohistochemistry()[:100, :100]
    assert not is_blank(speck), "a little tissue on glass"


def test_stained_tissue_has_colour_and_fluorescence_is_dark():
    grey = skimage.data.immunohistochemistry().mean(2, keepdims=True).astype(np.uint8).repeat(3, 2)
    assert is_colourless(grey)
    assert not is_colourless(skimage.data.immunohistochemistry())
    assert not is_colourless(grey // 5), "dark as fluorescence is"


def test_of_a_blank_picture_nothing_is_asked_and_the_answer_says_so():
    copilot = Copilot(ScriptedEngine("lung"), DrawnSegmentor(), sight=Sight())
    glass = roi(np.full((64, 64, 3), 240, np.uint8))
    events = list(copilot.stream(glass, "Which organ is this?"))
    assert [event.kind for event in events] == ["answer"]
    assert events[0].answer.text == events[0].answer.short == BLANK
    assert copilot.engine.asked == []
    assert copilot.ask_many([(copilot.toolbox(glass), "How many nuclei are there?")])[0].text == BLANK
    assert Copilot(ScriptedEngine("lung"), DrawnSegmentor()).ask(glass, "Which organ is this?").text == "lung"


class Seeing(ScriptedEngine):
    """Sees a picture as its mean colours."""

    def pooled(self, pixels):
        return pixels.reshape(-1, 3).mean(0).astype(np.float32)


@dataclass(frozen=True)
class Unlike(Taught):
    """Every picture is as unlike what was taught as it is told to be."""

    unlike: str = STRANGE

    def why_not(self, pooled):
        return self.unlike


NONE = Sight(Unlike(np.zeros(3, np.float32), np.eye(3, dtype=np.float32), 0.5))


def test_what_was_never_taught_is_told_with_the_answer():
    engine = Seeing("It is lung.", call("count", "nucleus"), "There are 2 nuclei.")
    copilot = Copilot(engine, DrawnSegmentor(), sight=NONE)
    for question, text in (("Which organ is this?", "It is lung."), ("How many nuclei?", "There are 2 nuclei.")):
        answer = copilot.ask(roi(tissue_like(80, 60)), question)
        assert answer.text == text
        assert STRANGE in answer.warnings


def test_what_is_no_tissue_is_not_measured_either():
    copilot = Copilot(Seeing(), DrawnSegmentor(), sight=Sight(replace(NONE.taught, unlike=FOREIGN)))
    assert copilot.ask(roi(tissue_like(80, 60)), "How many nuclei are there?").text == FOREIGN
    assert copilot.engine.asked == []


def test_what_lies_along_the_axes_is_known_and_what_lies_beside_is_strange():
    rng = np.random.default_rng(0)
    spread = rng.normal(size=(140, 300)) * np.linspace(3, 0.5, 140)[:, None]  # pictures vary in 140 directions of 300
    taught = rng.normal(size=(900, 140)) @ spread + 5
    sight = fit_taught(taught, rng.normal(size=(300, 140)) @ spread + 5)
    near, far = rng.normal(size=(200, 140)) @ spread + 5, 5 + rng.normal(size=(200, 300)) * 30
    assert np.mean([sight.why_not(one) == "" for one in near]) > 0.97
    assert np.mean([sight.why_not(one) == FOREIGN for one in far]) > 0.97
    with pytest.raises(InputError, match="100 pictures taught, 9 held out; fitting takes more than 128 and 1"):
        fit_taught(taught[:100], taught[:9])


def test_a_question_that_no_picture_answers_is_declined_and_slides_are_no_exception():
    asked = np.array([1.0, 0.0], np.float32)
    taught = Unlike(np.zeros(3, np.float32), np.eye(3, dtype=np.float32), 0.5, asked=asked, bias=-0.5, unlike="")

    class Asking(Seeing):
        def question(self, words):
            return np.array(["patient" in words, 1.0], np.float32)

    copilot = Copilot(Asking("It is lung."), DrawnSegmentor(), sight=Sight(taught))
    assert copilot.ask(roi(tissue_like(80, 60)), "How old is the patient?").text == UNTOLD
    assert copilot.engine.asked == []
    assert copilot.ask(roi(tissue_like(80, 60)), "Which organ is this?").text == "It is lung."


def test_it_lies_beside_the_tower_that_it_was_fitted_for(tmp_path):
    rng = np.random.default_rng(1)
    (tmp_path / TOWER).write_bytes(b"weights")
    assert load_taught(tmp_path) is None
    made = fit_taught(rng.normal(size=(200, 150)), rng.normal(size=(50, 150)))
    made.save(tmp_path)
    assert not load_taught(tmp_path).untold(np.ones(4)), "as it was before questions were fitted"
    made = replace(made, asked=np.array([1, -2, 0.5, 0], np.float32), bias=0.25)
    made.save(tmp_path)
    loaded = load_taught(tmp_path)
    assert (loaded.bias, loaded.asked.tolist()) == (0.25, [1, -2, 0.5, 0])
    maps = rng.normal(size=(20, 150)).astype(np.float32)
    np.testing.assert_allclose(loaded.outside(maps), made.outside(maps), atol=2e-3)
    (tmp_path / TOWER).write_bytes(b"others")
    assert load_taught(tmp_path) is None
    for content in (b"", b"\x08\0\0\0\0\0\0\0{}", (tmp_path / SIGHT).read_bytes()[:-900]):
        (tmp_path / SIGHT).write_bytes(content)
        with pytest.raises(InputError, match=r"sight\.safetensors: cannot be read as slidekick\.sight/1"):
            load_taught(tmp_path)


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_mini_reads_no_photograph(mini, name):
    picture = np.atleast_3d(getattr(skimage.data, name)())
    pixels = np.ascontiguousarray(np.broadcast_to(picture[..., :3], (*picture.shape[:2], 3)))
    for question in ("Which organ is this?", "Is it malignant?", "What does this picture show?", "How many nuclei?"):
        assert mini.ask(roi(pixels), question).text == FOREIGN


@pytest.mark.parametrize("words", [
    "Which organ is this?", "How many nuclei are there?", "What is the diagnosis?", "Is it malignant?",
    "Describe this.",
    "How much of the tissue is tumour?", "Are there mitoses?", "What is the Gleason score?", "Is this HER2 staining?",
])  # fmt: skip
def test_what_a_picture_may_answer_is_asked(mini, words):
    assert not mini.sight.untold(words, mini.engine)


@pytest.mark.parametrize("words", [
    "How old is the patient?", "Is the patient alive?", "What is the patient's name?",
    "Which drugs does the patient take?", "Does the patient have a cough?", "Was chemotherapy given?",
    "Is the KRAS gene mutated?",
])  # fmt: skip
def test_what_no_picture_answers_is_not(mini, words):
    assert mini.sight.untold(words, mini.engine)


def test_both_engines_see_alike(mini):
    from slidekick.copilot.engines import load_engine

    pixels = skimage.data.immunohistochemistry()
    reference = load_engine("mini", {}, "torch")
    words = "How old is the patient?"
    np.testing.assert_allclose(mini.engine.question(words), reference.question(words), atol=2e-3)
    ours, theirs = mini.engine.pooled(pixels), reference.pooled(pixels)
    assert np.corrcoef(ours, theirs)[0, 1] > 0.999
    taught = load_taught(WEIGHTS)
    assert taught.why_not(ours) == taught.why_not(theirs) == STRANGE, "no colon stained with antibodies was taught"
    he = read_roi(sample("he")).pixels
    assert taught.why_not(mini.engine.pooled(he)) == ""


@pytest.fixture(scope="module")
def mini() -> Copilot:
    return Copilot.from_pretrained("mini")
