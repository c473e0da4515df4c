import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import slidekick.grounding.vocabulary
from slidekick.grounding.text import normalise
from slidekick.grounding.train import load_config
from slidekick.grounding.vocabulary import Concept, Vocabulary

CONFIG = Path(slidekick.grounding.vocabulary.__file__).parent / "configs" / "segmentor.yaml"
NUCLEUS = Concept(
    "nucleus",
    "object",
    ("nuclei", "cell nucleus"),
    mpp=0.35,
    zoom=1.0,
    presence_threshold=0.4,
    train=120,
    test=30,
    dice=0.81,
    sets=("monuseg", "gbm40"),
)
VESSEL = Concept("blood vessel", "region", ("vessel", "artery"), 1.0, 0.6)


@pytest.fixture(scope="module")
def vocabulary():
    return Vocabulary([NUCLEUS, VESSEL])


@pytest.mark.parametrize("words", ["nucleus", "Nuclei", " cell  nucleus ", "CELL-NUCLEUS"])
def test_a_concept_is_found_by_name_and_synonym_in_any_spelling(vocabulary, words):
    assert vocabulary.find(words) is NUCLEUS


def test_a_plural_is_found_though_nobody_listed_it(vocabulary):
    assert vocabulary.find("blood vessels") is VESSEL


@pytest.mark.parametrize("words", ["unicorn", "", "...", "胶质", "nucleus and gland"])
def test_words_outside_are_not_guessed(vocabulary, words):
    assert vocabulary.find(words) is None


@pytest.mark.parametrize(
    ("words", "name"), [("nuclear", "nucleus"), ("vesel", "blood vessel"), ("arteries", "blood vessel")]
)
def test_the_nearest_word_is_the_one_spelt_most_alike(vocabulary, words, name):
    assert vocabulary.nearest(words) == name


@given(st.text(max_size=30))
def test_any_words_have_a_nearest_known_concept(words):
    assert Vocabulary([NUCLEUS, VESSEL]).nearest(words) in ("nucleus", "blood vessel")


def test_a_card_survives_writing_and_reading(vocabulary, tmp_path):
    card = tmp_path / "vocabulary.json"
    card.write_text(vocabulary.dumps())
    assert Vocabulary.load(card).concepts == vocabulary.concepts
    assert json.loads(card.read_text())["concepts"][0]["dice"] == 0.81


def test_no_word_of_the_shipped_configuration_means_two_concepts():
    meant = {}
    for name, entry in load_config(CONFIG)["concepts"].items():
        for word in {normalise(word) for word in (name, f"{name}s", *entry["synonyms"])}:
            assert meant.setdefault(word, name) == name
