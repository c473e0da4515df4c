"""The hierarchy that ships: its names hang together, and what data sets say is understood."""

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

import slidekick.grounding
from slidekick.data.ontology import LEVELS, Ontology, SetKnowledge, Term, load_ontology, plain

CONFIG = Path(slidekick.grounding.__file__).parent / "configs" / "segmentor.yaml"
OBJECTS = {"components", "necks", "one", "none"}


@pytest.fixture(scope="module")
def ontology():
    return load_ontology()


def test_every_term_has_a_known_level_and_kind_and_parents_that_are_terms(ontology):
    for term in ontology.terms.values():
        assert term.level in LEVELS, term.name
        assert term.kind in ("object", "region"), term.name
        assert set(term.parents) <= set(ontology.terms), term.name


def test_no_term_is_a_case_of_itself(ontology):
    def climb(name: str, below: tuple[str, ...]) -> None:
        assert name not in below, (*below, name)
        for parent in ontology.terms[name].parents:
            climb(parent, (*below, name))

    for name in ontology.terms:
        climb(name, ())


def test_every_concept_that_is_taught_is_a_term(ontology):
    assert set(yaml.safe_load(CONFIG.read_text())["concepts"]) <= set(ontology.terms)


def test_names_synonyms_and_classes_are_understood_in_any_spelling(ontology):
    for term in ontology.terms.values():
        for words in (term.name, *term.synonyms, *term.classes):
            assert term in ontology.of_class(words)
            assert term in ontology.of_class(f" {words.upper().replace(' ', '  ')}.")
    assert ontology.of_class("unicorn") == ()
    assert ontology.of_class("") == ()


def test_a_class_may_be_a_case_of_two_terms(ontology):
    """A tumour that is drawn by its glands."""
    assert {term.name for term in ontology.of_class("colorectal adenocarcinoma")} == {"gland", "tumour"}
    assert [term.name for term in ontology.of_class("metastatic tumour")] == ["tumour"]
    assert [term.name for term in ontology.of_class("Fat vacuole (steatosis)")] == ["fat vacuole"]


def test_a_users_word_means_one_term(ontology):
    meant = {}
    for term in ontology.terms.values():
        for word in {plain(word) for word in (term.name, f"{term.name}s", *term.synonyms)}:
            assert meant.setdefault(word, term.name) == term.name


def test_the_lineage_is_a_term_and_all_that_it_is_a_case_of(ontology):
    terms = ontology.terms
    assert ontology.lineage(terms["malignant gland"]) == {"malignant gland", "gland", "tumour"}
    assert ontology.lineage(terms["white cell nucleus"]) == {"white cell nucleus", "nucleus", "white blood cell"}
    assert ontology.lineage(terms["tumour"]) == {"tumour"}


def test_what_is_known_of_sets_speaks_of_terms(ontology):
    for name, known in ontology.sets.items():
        assert known.objects in OBJECTS, name
        spoken = {*known.skip, *(known.whole or ()), *(known.absent or ())}
        assert spoken <= set(ontology.terms), name
        for labels in (*(known.whole or {}).values(), *(known.absent or {}).values()):
            assert labels == "all" or (isinstance(labels, list) and labels), name


def test_no_set_has_a_term_wholly_there_and_surely_missing_in_the_same_pictures(ontology):
    for name, known in ontology.sets.items():
        for term, labels in (known.whole or {}).items():
            for ancestor in ontology.lineage(ontology.terms[term]):
                missing = (known.absent or {}).get(ancestor, ())
                assert missing != "all", (name, term)
                assert not set(labels) & set(missing), (name, term)


def test_a_set_that_is_not_listed_has_the_usual_rules(ontology):
    assert ontology.knowledge("nobody's set") == SetKnowledge()
    assert ontology.knowledge("prostate_gleason_regions").skip == {"gland", "benign gland"}


@given(st.text(max_size=40))
def test_plain_words_stay_as_they_are(words):
    once = plain(words)
    assert plain(once) == once == " ".join(once.split())


def test_a_name_goes_by_its_own_spelling_and_not_by_parts_of_it():
    ontology = Ontology([Term("gland", "structure", "object"), Term("benign gland", "structure", "object")], {})
    assert [term.name for term in ontology.of_class("Gland")] == ["gland"]
    assert [term.name for term in ontology.of_class("benign-gland")] == ["benign gland"]
    assert ontology.of_class("benign") == ()


def test_a_grade_of_one_organ_is_looked_for_unasked_in_that_organ_alone():
    terms = load_ontology().terms
    told = {organ: terms["Gleason pattern 4"].belongs(organ) for organ in ("", "Brain", "Prostate, apex", "colon")}
    assert told == {"": False, "Brain": False, "Prostate, apex": True, "colon": False}
    assert all(terms["nucleus"].belongs(organ) for organ in told)
