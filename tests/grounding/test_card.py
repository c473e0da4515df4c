import pytest
from hypothesis import given
from hypothesis import strategies as st

from slidekick.data.errors import InputError
from slidekick.grounding.card import in_order, read_card, scale_text, vocabulary_page
from slidekick.grounding.vocabulary import Concept, Vocabulary


def concept(name: str, level: str = "cell", parents=(), **more) -> Concept:
    return Concept(name, "object", (), (0.25, 0.5), 1.0, level, tuple(parents), **more)


def test_levels_come_in_order_and_cases_below_what_they_are_cases_of():
    concepts = [
        concept("lymphocyte", parents=["nucleus"]),
        concept("gland", "structure"),
        concept("nucleus"),
        concept("T cell", parents=["lymphocyte", "nucleus"]),
        concept("malignant gland", "structure", ["tumour", "gland"]),
        concept("tumour", "region"),
        concept("plasma", parents=["no such"]),
    ]
    found = {
        level: [(entry.concept.name, entry.depth) for entry in entries]
        for level, entries in in_order(Vocabulary(concepts)).items()
    }
    assert list(found) == ["region", "structure", "cell"]
    assert found["structure"] == [("gland", 0), ("malignant gland", 1)], "the first parent of its own level"
    assert found["cell"] == [("nucleus", 0), ("lymphocyte", 1), ("T cell", 2), ("plasma", 0)]


@given(st.lists(st.tuples(st.integers(0, 7), st.lists(st.integers(0, 7), max_size=3)), max_size=8))
def test_every_concept_has_one_place_whatever_its_parents_say(drawn):
    concepts = [concept(f"c{n}", parents=[f"c{p}" for p in parents]) for n, parents in drawn]
    vocabulary = Vocabulary(concepts)
    placed = [entry.concept.name for entries in in_order(vocabulary).values() for entry in entries]
    assert sorted(placed) == sorted(vocabulary.concepts)


def test_what_the_card_says_is_escaped_and_the_page_loads_nothing():
    evil = '</script><script src="https://evil.example/x.js"></script>" onload="x'
    page = vocabulary_page(Vocabulary([concept(evil, organs=(evil,), stains=(evil,))]), evil)
    assert "<script src" not in page
    assert page.count("<script>") == page.count("</script>") == 1
    assert '" onload="x' not in page
    assert "default-src 'none'" in page
    for outward in ("http:", "https://cdn", "@import", "url(", "<link", "<img"):
        assert outward not in page
    assert "Research use only. Not for diagnosis." in page


def test_a_scale_is_a_range_or_one_number():
    assert (scale_text((0.25, 0.5)), scale_text((0.5, 0.5)), scale_text((0.33333, 4))) == (
        "0.25 – 0.5",
        "0.5",
        "0.333 – 4",
    )


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"concepts": [], "calibration": {}}', '{"concepts": [{"name": "x"}]}', "\xff"]
)
def test_a_file_that_is_no_card_is_told(tmp_path, text):
    with pytest.raises(InputError, match=r"vocabulary\.json: no such file; give a folder written by"):
        read_card(tmp_path)
    (tmp_path / "vocabulary.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError, match=r"vocabulary\.json: no vocabulary card of this version"):
        read_card(tmp_path)
