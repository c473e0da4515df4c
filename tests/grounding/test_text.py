import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from slidekick.grounding.text import BUCKETS, TextEncoder, ngram_ids, normalise


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    return TextEncoder(width=16, tokens=2)


@given(st.text(max_size=40))
def test_normalising_twice_changes_nothing_more(phrase):
    once = normalise(phrase)
    assert normalise(once) == once
    assert once == " ".join(once.split())


@given(st.text(max_size=40))
def test_any_phrase_has_buckets_and_the_same_ones_each_time(phrase):
    ids = ngram_ids(phrase)
    assert ids
    assert all(0 <= index < BUCKETS for index in ids)
    assert ngram_ids(phrase) == ids


def test_buckets_never_change_since_trained_weights_lie_in_them():
    assert ngram_ids("gland") == [1525, 197, 2525, 178, 2925, 2648, 466, 1115, 1668, 3567, 1496, 2069, 3120]


def test_a_plural_shares_more_with_its_singular_than_another_word_does():
    nucleus, nuclei, gland = (set(ngram_ids(word)) for word in ("nucleus", "nuclei", "gland"))
    assert len(nucleus & nuclei) > len(nucleus) / 4
    assert len(nucleus & gland) < len(nucleus & nuclei)


def test_phrases_become_prompt_tokens_whatever_stands_beside_them(encoder):
    phrases = ["nucleus", "blood vessel", "", "胶质", "a"]
    together = encoder(phrases)
    assert together.shape == (5, 2, 16)
    assert together.dtype == torch.float32
    for phrase, row in zip(phrases, together, strict=True):
        torch.testing.assert_close(encoder([phrase])[0], row)


def test_case_and_punctuation_do_not_matter(encoder):
    torch.testing.assert_close(encoder(["Blood-Vessel!"]), encoder(["blood vessel"]))


def test_different_words_differ(encoder):
    first, second = encoder(["nucleus", "gland"])
    assert not torch.allclose(first, second)


def test_only_the_words_asked_for_are_taught(encoder):
    encoder.zero_grad()
    encoder(["gland"]).sum().backward()
    rows = encoder.ngrams.weight.grad.abs().sum(1).nonzero().flatten().tolist()
    assert set(rows) <= set(ngram_ids("gland"))
    assert rows
