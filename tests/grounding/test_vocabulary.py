"""Words on the card and off it: by name, synonym, plural, meaning, and, where nothing else can be had, by spelling."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slidekick.data.errors import SourceError
from slidekick.data.ontology import plain
from slidekick.grounding.sizes import PHRASE_WIDTH
from slidekick.grounding.train import DEFAULT_CONFIG, load_config
from slidekick.grounding.vocabulary import SAME_MEANING, Calibration, Concept, Match, Vocabulary

NUCLEUS = Concept(
    "nucleus",
    "object",
    ("nuclei", "cell nucleus"),
    scale=(0.25, 0.4),
    zoom=1.0,
    level="cell",
    diameter_um=6.0,
    offset=-0.25,
    organs=("colon",),
    stains=("H&E",),
    sets=("monuseg", "gbm40"),
    train=120,
    test=30,
    dice=0.81,
)
VESSEL = Concept("blood vessel", "region", ("vessel", "artery"), (1.0, 1.0), 0.6, parents=("vasculature",))
TUMOUR = Concept("tumour", "region", ("cancer",), (0.8, 1.2), 0.6)
CONCEPTS = [NUCLEUS, VESSEL, TUMOUR]


def towards(**parts: float) -> np.ndarray:
    """A vector of length 1 that has the cosines stated with the words of the card."""
    row = np.zeros(PHRASE_WIDTH, np.float32)
    for name, cosine in parts.items():
        row[["nucleus", "vessel", "tumour", "cancer"].index(name)] = cosine
    row[-1] = np.sqrt(1 - min(1.0, float((row**2).sum())))
    return row


VECTORS = {
    "nucleus": towards(nucleus=1),
    "blood vessel": towards(vessel=1),
    "tumour": towards(tumour=1),
    "cancer": towards(cancer=1),
    "of no concept": towards(),
}
MEANINGS = {
    "karyon": towards(nucleus=0.9, vessel=0.2),
    "capillary": towards(vessel=SAME_MEANING + 0.01),
    "arrow": towards(vessel=SAME_MEANING - 0.01),
    "malignancy": towards(tumour=0.5, cancer=0.8),
    "not a malignancy": towards(tumour=0.5, cancer=0.8),
    "non cancerous": towards(tumour=0.5, cancer=0.8),
    "nothing like it": towards(),
}


class Encoder:
    """Knows what some words mean; counts what it is asked."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error, self.asked = error, []

    def __call__(self, phrases: list[str]) -> np.ndarray:
        self.asked += phrases
        if self.error:
            raise self.error
        return np.stack([MEANINGS.get(phrase, towards()) for phrase in phrases])


@pytest.fixture
def encoder():
    return Encoder()


@pytest.fixture
def vocabulary(encoder):
    return Vocabulary(CONCEPTS, VECTORS, encoder)


@pytest.mark.parametrize("words", ["nucleus", "Nuclei", " cell  nucleus ", "CELL-NUCLEUS"])
def test_a_concept_is_found_by_name_and_synonym_in_any_spelling(vocabulary, encoder, words):
    assert vocabulary.match(words) == Match(NUCLEUS, "nucleus", 1.0)
    assert vocabulary.find(words) is NUCLEUS
    assert encoder.asked == [], "words of the card need no encoder"


def test_a_plural_is_found_though_nobody_listed_it(vocabulary):
    assert vocabulary.find("blood vessels") is VESSEL
    assert vocabulary.find("Tumours") is TUMOUR


def test_a_name_goes_before_anothers_synonym():
    odd = Concept("artery", "region", ("blood vessel",), (1.0, 1.0), 0.6)
    for concepts in ([VESSEL, odd], [odd, VESSEL]):
        vocabulary = Vocabulary(concepts)
        assert vocabulary.find("artery") is odd
        assert vocabulary.find("blood vessel") is VESSEL


def test_other_words_of_the_same_meaning_are_taken_for_the_concept(vocabulary):
    assert vocabulary.find("karyon") is NUCLEUS
    assert vocabulary.match("Capillary!") == Match(VESSEL, "blood vessel", pytest.approx(SAME_MEANING + 0.01))
    assert vocabulary.find("malignancy") is TUMOUR, "a synonym's vector stands for the concept"


def test_words_that_only_come_near_are_outside_and_name_the_nearest(vocabulary):
    assert vocabulary.match("arrow") == Match(None, "blood vessel", pytest.approx(SAME_MEANING - 0.01))
    assert vocabulary.find("arrow") is None
    assert vocabulary.nearest("arrow") == "blood vessel"


@pytest.mark.parametrize("words", ["not a malignancy", "Non-cancerous"])
def test_negated_words_are_never_taken_for_a_concept(vocabulary, words):
    match = vocabulary.match(words)
    assert (match.concept, match.nearest) == (None, "tumour")
    assert match.similarity > SAME_MEANING


def test_a_word_of_no_meaning_is_outside(vocabulary):
    assert vocabulary.find("nothing like it") is None


def test_words_are_encoded_once(vocabulary, encoder):
    for words in ("karyon", "Karyon", " karyon."):
        assert vocabulary.find(words) is NUCLEUS
    assert encoder.asked == ["karyon"]


@pytest.mark.parametrize(
    ("words", "name"), [("nuclear", "nucleus"), ("vesel", "blood vessel"), ("arteries", "blood vessel")]
)
@pytest.mark.parametrize("encode", [None, Encoder(SourceError("minilm: the package index did not give the wheel"))])
def test_without_the_encoder_words_are_compared_by_spelling_and_none_is_guessed(words, name, encode):
    vocabulary = Vocabulary(CONCEPTS, VECTORS, encode)
    assert vocabulary.match(words) == Match(None, name, 0.0)
    assert vocabulary.find("nuclei") is NUCLEUS


def test_without_vectors_words_are_compared_by_spelling(encoder):
    assert Vocabulary(CONCEPTS, None, encoder).match("vesel") == Match(None, "blood vessel", 0.0)
    assert encoder.asked == []


def test_an_error_that_is_a_bug_is_not_taken_for_being_offline():
    with pytest.raises(RuntimeError):
        Vocabulary(CONCEPTS, VECTORS, Encoder(RuntimeError("shapes differ"))).find("karyon")


@pytest.mark.parametrize("words", ["", "...", "胶质"])
def test_words_without_a_letter_are_outside(vocabulary, encoder, words):
    assert vocabulary.find(words) is None
    assert vocabulary.nearest(words) in vocabulary.concepts
    assert encoder.asked == []


@given(st.text(max_size=30))
def test_any_words_have_a_nearest_known_concept(words):
    vocabulary = Vocabulary(CONCEPTS, VECTORS, Encoder())
    assert vocabulary.nearest(words) in vocabulary.concepts


def test_a_card_survives_writing_and_reading(vocabulary, tmp_path, encoder):
    card = tmp_path / "vocabulary.json"
    card.write_text(vocabulary.with_concepts(CONCEPTS, Calibration(0.7, 1.3)).dumps())
    read = Vocabulary.load(card, VECTORS, encoder)
    assert read.concepts == vocabulary.concepts
    assert read.calibration == Calibration(0.7, 1.3)
    assert read.find("karyon").name == "nucleus"
    assert json.loads(card.read_text())["concepts"][0]["dice"] == 0.81
    assert read.dumps() == card.read_text()


@pytest.mark.parametrize(
    "text",
    [
        "", "[]", "{}", '{"concepts": []}', '{"concepts": [1], "calibration": {}}',
        '{"concepts": [{"name": "nucleus"}], "calibration": {}}', '{"calibration": {}}',
    ],
)  # fmt: skip
def test_what_is_no_card_raises_what_is_promised(tmp_path, text):
    card = tmp_path / "vocabulary.json"
    card.write_text(text)
    with pytest.raises((ValueError, TypeError, KeyError, AttributeError)):
        Vocabulary.load(card)


def test_other_entries_keep_words_vectors_and_calibration(vocabulary, encoder):
    vocabulary.calibration = Calibration(2.0, 3.0)
    fewer = vocabulary.with_concepts([NUCLEUS])
    assert list(fewer.concepts) == ["nucleus"]
    assert fewer.vectors is vocabulary.vectors
    assert fewer.calibration == Calibration(2.0, 3.0)
    assert fewer.find("karyon") is NUCLEUS
    assert fewer.nearest("capillary") == "nucleus", "what is not on the card is not named"


def test_pictures_that_show_a_concept_have_a_range_of_scales():
    assert NUCLEUS.mpp_range == (0.025, 1.0)


def test_no_word_of_the_shipped_configuration_means_two_concepts():
    meant = {}
    for name, entry in load_config(DEFAULT_CONFIG)["concepts"].items():
        for word in {plain(word) for word in (name, f"{name}s", *entry["synonyms"])}:
            assert meant.setdefault(word, name) == name
