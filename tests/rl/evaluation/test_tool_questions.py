"""Questions about tools: the same each time, balanced, and new wordings that training never sees."""

import importlib
import pkgutil
import re
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

import slidekick.rl.instructions
from slidekick.copilot.language import many_of
from slidekick.data.items import load_items
from slidekick.rl.evaluation import tool_wordings
from slidekick.rl.evaluation.tool_questions import (
    EXPECTED,
    MOST,
    NEW,
    PLAIN,
    TAUGHT,
    WORDINGS,
    tool_questions,
)
from slidekick.rl.evaluation.tool_wordings import new_words
from slidekick.rl.instructions.concepts import STRANGERS, Word, vocabulary
from slidekick.rl.instructions.lessons import filled, fits
from slidekick.rl.parsing import plain

NEW_WORDINGS = [wording for name, listed in vars(tool_wordings).items() if name.isupper() and name != "WORDS"
                for wording in listed]  # fmt: skip
WORD = Word("gland", "glands", "gland", True)


def texts(value) -> list[str]:
    """Every string in a value, however nested."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return texts([*value, *value.values()])
    if isinstance(value, tuple | list | set | frozenset):
        return [text for one in value for text in texts(one)]
    return texts(value.questions) if hasattr(value, "questions") else []


def taught() -> set[str]:
    """Every text that a module of the instructions holds, the words in it left open."""
    found = []
    for module in pkgutil.iter_modules(slidekick.rl.instructions.__path__):
        loaded = importlib.import_module(f"slidekick.rl.instructions.{module.name}")
        found += [text for name, value in vars(loaded).items() if name.isupper() for text in texts(value)]
    return {opened(text) for text in found}


def opened(template: str) -> str:
    return plain(re.sub(r"\{\w*\}", "something", template))


@pytest.fixture(scope="module")
def items(rich):
    return load_items(rich)


def test_no_new_wording_is_taught():
    known = taught()
    assert opened("How many {many} are there?") in known
    assert opened("How old is the patient?") in known
    assert opened("Which organ is this?") in known
    assert [wording for wording in NEW_WORDINGS if opened(wording) in known] == []


def test_new_words_are_neither_on_the_card_nor_taught():
    words = new_words()
    assert len(words) == len(tool_wordings.WORDS.split(",")), "a word that the card came to know is no new one"
    strangers = {plain(word) for word in STRANGERS.split(",")}
    assert [word.one for word in words if plain(word.one) in strangers or vocabulary().find(word.many)] == []


def test_new_wordings_are_many_and_each_is_one_of_its_own():
    assert len(set(tool_wordings.REFUSE)) >= 10
    for tool, both in WORDINGS.items():
        assert len(both[NEW]) == len(set(both[NEW])) >= 10, tool
    for kind in ("stain", "organ", "yes or no", "general"):
        assert len(PLAIN[kind].new) == len(set(PLAIN[kind].new)) >= 4, kind


def test_the_same_pictures_give_the_same_questions_and_fewer_are_some_of_them(items):
    whole = tool_questions(items)
    assert whole == tool_questions(list(reversed(items)))
    assert len({one.id for one in whole}) == len(whole) > 0.9 * MOST
    part = tool_questions(items, 40)
    assert {one.id for one in part} <= {one.id for one in whole}
    assert len(part) <= 40


def test_questions_are_balanced_over_tools_wordings_and_words(items):
    made = tool_questions(items, 96)
    tools = Counter(one.notes["expected_tool"] for one in made)
    assert set(tools) == set(EXPECTED)
    assert min(tools.values()) >= 20
    wordings = Counter(one.notes["wording"] for one in made)
    assert abs(wordings[TAUGHT] - wordings[NEW]) <= 8
    words = Counter(one.notes["word"] for one in made if one.notes["asked_word"])
    assert words["name"] == words["synonym"] == words["outside"] + words["outside, new"] == 24
    assert min(Counter(one.set for one in made).values()) >= 3


def test_questions_about_one_picture_stand_together(items):
    pictures = [one.picture for one in tool_questions(items)]
    assert len([i for i, one in enumerate(pictures) if i == 0 or one != pictures[i - 1]]) == len(set(pictures))


def test_a_question_holds_its_word_and_says_what_it_wants(items):
    for one in tool_questions(items):
        notes = one.notes
        if notes["asked_word"] is None:
            assert (notes["expected_tool"], notes["expected_argument"], one.truth) == ("none", None, "none")
            continue
        assert one.truth == f"{notes['expected_tool']}({notes['expected_argument']})"
        assert notes["template"] in WORDINGS[notes["expected_tool"]][notes["wording"]]
        assert notes["expected_argument"] in (
            vocabulary().concepts if notes["word"] in ("name", "synonym") else (notes["asked_word"],)
        )
        word = Word(notes["asked_word"], many_of(notes["asked_word"]), "", True)
        assert word.one in one.question or word.many in one.question


def test_most_questions_about_known_words_are_put_to_pictures_that_hold_them(items):
    from slidekick.rl.instructions.truth import Truths

    truths = Truths(items)
    asked = [one for one in tool_questions(items) if one.notes["word"] in ("name", "synonym")]
    showing = {(c, t.item.image) for c, rows in truths.showing.items() for t in rows}
    askable = [one for one in asked if truths.showing.get(one.notes["expected_argument"])]
    held = [one for one in askable if (one.notes["expected_argument"], one.picture) in showing]
    assert len(held) >= 0.6 * len(askable) > 0


def test_without_tissue_there_is_nothing_to_ask():
    assert tool_questions([]) == []


@given(st.sampled_from([w for both in WORDINGS.values() for w in (*both[TAUGHT], *both[NEW])]))
def test_wordings_hold_one_word_and_end_as_sentences_do(wording):
    asked = filled(wording, WORD)
    assert len(re.findall(r"\bglands?\b", asked)) == 1
    assert asked[0].isupper()
    assert asked[-1] in ".?"
    assert fits(wording, WORD)
