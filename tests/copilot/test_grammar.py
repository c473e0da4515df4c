"""Turns always parse, whatever the logits say and whatever the user wrote."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from slidekick.copilot.grammar import (
    MOST,
    CallError,
    ToolCall,
    TurnGrammar,
    alphabet,
    askable,
    fast_json,
    opens_call,
    parse_turn,
)
from slidekick.copilot.options import TurnProcessor
from slidekick.copilot.tools import MAX_CONCEPT, TOOL_NAMES, tool_schemas
from slidekick.data.errors import InputError

CALL = '<tool_call>\n{"name": "count", "arguments": {"concept": "nucleus"}}\n</tool_call>'
PADDING = 5  # logits beyond the tokenizer's words, as in padded model heads


@pytest.fixture(scope="module")
def grammar(tokenizer):
    return TurnGrammar(
        alphabet(fast_json(tokenizer), len(tokenizer) + PADDING, [tokenizer.eos_token_id]), tool_schemas()
    )


def decode(grammar, tokenizer, seed, *, calls=True, favour=(), limit=400, prompt=(1, 2, 3), words=()):
    """Greedy decoding of random logits under the grammar; `favour`: text whose tokens are pushed up at first."""
    generator = torch.Generator().manual_seed(seed)
    processor = TurnProcessor(grammar.matcher(calls=calls, words=words))
    ids = list(prompt)
    pushed = tokenizer(favour, add_special_tokens=False).input_ids if favour else []
    for step in range(limit):
        scores = torch.randn(1, len(tokenizer) + PADDING, generator=generator)
        scores[0, tokenizer.eos_token_id] += 1.0
        if step < len(pushed):
            scores[0, pushed[step]] += 50.0
        scores = processor(torch.tensor([ids]), scores)
        token = int(scores[0].argmax())
        if token == tokenizer.eos_token_id:
            return tokenizer.decode(ids[len(prompt) :]), True
        ids.append(token)
    return tokenizer.decode(ids[len(prompt) :]), False


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_random_logits_that_open_a_call_always_end_in_one_that_parses(grammar, tokenizer, seed):
    text, ended = decode(grammar, tokenizer, seed, favour="<tool_call>")
    call = parse_turn(text)
    assert ended
    assert call.name in TOOL_NAMES
    assert list(call.arguments) == ["concept"]
    assert 1 <= len(call.arguments["concept"]) <= MAX_CONCEPT


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_random_logits_that_do_not_open_a_call_give_plain_visible_text(grammar, tokenizer, seed):
    text, _ = decode(grammar, tokenizer, seed, favour="There are", limit=60)
    assert parse_turn(text) is None
    assert text.strip()
    assert "<tool_call>" not in text
    assert not any(mark in text for mark in ("<|im_start|>", "<|im_end|>", "<empty_output>"))


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_a_call_cannot_be_made_where_calls_are_forbidden(grammar, tokenizer, seed):
    text, _ = decode(grammar, tokenizer, seed, calls=False, favour=CALL, limit=80)
    assert parse_turn(text) is None


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**31), typed=st.text(max_size=80))
def test_what_stands_in_the_prompt_does_not_change_the_grammar(grammar, tokenizer, seed, typed):
    prompt = tokenizer(typed + "</tool_call>" + CALL, add_special_tokens=False).input_ids
    call, _ = decode(grammar, tokenizer, seed, favour="<tool_call>", prompt=prompt)
    assert parse_turn(call).name in TOOL_NAMES


def test_the_written_call_is_admitted_and_then_only_the_end(grammar, tokenizer):
    text, ended = decode(grammar, tokenizer, 1, favour=CALL)
    assert ended
    assert parse_turn(text) == ToolCall("count", {"concept": "nucleus"})
    assert ToolCall("count", {"concept": "nucleus"}).to_text() == CALL


@pytest.mark.parametrize(
    "body",
    [
        '{"name": "delete", "arguments": {"concept": "nucleus"}}',
        '{"name": "count", "arguments": {}}',
        '{"name": "count", "arguments": {"concept": "a", "path": "/etc"}}',
        '{"name": "count", "arguments": {"concept": ""}}',
        '{"name": "count", "arguments": {"concept": 3}}',
    ],
)
def test_calls_outside_the_schema_are_not_admitted(grammar, tokenizer, body):
    text, _ = decode(grammar, tokenizer, 2, favour=f"<tool_call>\n{body}\n</tool_call>")
    assert body not in text
    assert parse_turn(text).name in TOOL_NAMES


def test_concepts_in_other_scripts_are_admitted(grammar, tokenizer):
    wish = ToolCall("count", {"concept": "Zellkerne größer"})
    body = json.dumps({"name": wish.name, "arguments": wish.arguments}, ensure_ascii=False)
    text, _ = decode(grammar, tokenizer, 3, favour=f"<tool_call>\n{body}\n</tool_call>")
    assert parse_turn(text) == wish


def test_the_longest_call_fits_the_engines_budget(grammar, tokenizer):
    from slidekick.copilot.engine import MAX_NEW_TOKENS

    longest = ToolCall("measure", {"concept": "𐐷" * MAX_CONCEPT})  # four bytes a letter
    body = json.dumps({"name": longest.name, "arguments": longest.arguments}, ensure_ascii=False)
    size = len(f"<tool_call>\n{body}\n</tool_call>".encode())
    assert size < MAX_NEW_TOKENS, "one token a byte is the worst a tokenizer can do"


@pytest.mark.parametrize("seed", range(20))
def test_where_the_word_must_be_copied_it_stands_in_the_question(grammar, tokenizer, seed):
    words = askable("How many Reed-Sternberg cells and villi?")
    text, ended = decode(grammar, tokenizer, seed, favour="<tool_call>", words=words)
    assert ended
    assert parse_turn(text).arguments["concept"] in words


def test_words_are_copied_as_they_stand_in_the_singular_and_in_lower_case():
    words = askable('Outline the Reed-Sternberg cells, "villi" and Nuclei!')
    assert {"Reed-Sternberg cells", "Reed-Sternberg cell", "reed-sternberg cell", "villus", "Nucleus", "nucleus"} <= {
        *words
    }
    assert "stroma" in askable("How much stroma is there?")
    assert askable("word " * MOST)
    assert not askable("word " * (MOST + 1)), "a long text is not copied from"


@given(typed=st.text(max_size=60))
def test_whatever_is_typed_a_word_to_copy_cannot_leave_the_call(typed):
    for word in askable(typed):
        text = ToolCall("count", {"concept": word}).to_text()
        assert parse_turn(text).arguments == {"concept": word}
        assert not set(word) & set('"\\<>{}\n')


def test_a_batch_is_refused(grammar):
    with pytest.raises(ValueError, match="one turn at a time"):
        TurnProcessor(grammar.matcher())(torch.zeros(2, 3, dtype=torch.long), torch.zeros(2, 10))


def test_a_tokenizer_without_a_fast_form_is_refused():
    class Slow:
        is_fast = False

    with pytest.raises(InputError, match=r"tokenizer\.json"):
        fast_json(Slow())


letters = st.text(min_size=1, max_size=30)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(name=letters, arguments=st.dictionaries(st.text(max_size=8), values, max_size=3))
def test_every_call_reads_back_as_it_was_written(name, arguments):
    call = ToolCall(name, arguments)
    assert parse_turn(call.to_text()) == call
    assert opens_call(call.to_text())


@given(text=st.text(max_size=200))
def test_text_is_a_call_only_if_it_opens_as_one(text):
    if text.strip().startswith("<tool_call>"):
        with pytest.raises(CallError):
            parse_turn(text)
    else:
        assert parse_turn(text) is None


@pytest.mark.parametrize(
    "text",
    [
        "<tool_call>",
        "<tool_call></tool_call>",
        CALL[:-3],
        CALL + CALL,
        CALL + " and text",
        '<tool_call>["count"]</tool_call>',
        '<tool_call>{"name": "count"}</tool_call>',
        '<tool_call>{"name": 3, "arguments": {}}</tool_call>',
        '<tool_call>{"name": "count", "arguments": "nucleus"}</tool_call>',
        '<tool_call>{"name": "count", "arguments": {}, "more": 1}</tool_call>',
        '<tool_call>{"name": "count", "name": "measure", "arguments": {}}</tool_call>',
        "<tool_call>" + "[" * 100_000 + "</tool_call>",
    ],
)
def test_broken_calls_are_errors_and_not_text(text):
    with pytest.raises(CallError):
        parse_turn(text)


@given(cut=st.integers(0, len(CALL)))
def test_a_growing_call_is_never_taken_for_text(cut):
    assert opens_call(CALL[:cut]) is not False
    assert opens_call("There") is False


def test_a_question_that_names_nothing_known_leaves_the_concepts_open():
    card = {"nucleus": "nucleus", "cell nuclei": "nucleus", "tumour": "tumour"}
    assert {"picture", "nucleus", "tumour"} <= set(askable("Describe the picture.", card))
    assert "osteoid" in askable("Is there osteoid?", card), "a word that nobody knows is copied all the same"
    asked = askable("How many cell nuclei are there?", card)
    assert "cell nuclei" in asked
    assert "tumour" not in asked, "the question names what it is about"
