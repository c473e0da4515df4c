"""What a turn may look like: one tool call that parses, or plain text. Enforced while decoding, checked when
reading.

The grammar is made from the tools' own schemas and from nothing that a user typed. Tokenizers where
`<tool_call>` is one token (Qwen) and where it is plain text (SmolLM2) are both served. Matching is
llguidance's (Lark with embedded JSON schemas); `parse_turn` reads a finished turn as strictly, for engines
that decode without a grammar.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from functools import cache, cached_property
from types import MappingProxyType

import llguidance
import numpy as np

from slidekick.copilot.language import singular_of
from slidekick.copilot.messages import questions
from slidekick.copilot.tools import MAX_CONCEPT
from slidekick.data.errors import InputError
from slidekick.data.ontology import plain

OPEN, CLOSE = "<tool_call>", "</tool_call>"
# An argument starts with a letter or digit and goes on with what names of tissue are written with: no quotes,
# no brackets, no control characters. The bound keeps the longest call inside the engine's token budget.
ARGUMENT = rf"^[\p{{L}}\p{{N}}][\p{{L}}\p{{M}}\p{{N}} ,.'()+/-]{{0,{MAX_CONCEPT - 1}}}$"
# Text begins with something visible and holds no control characters but line breaks and tabs.
TEXT = r"/ ?[^\s\x00-\x1f\x7f]([^\x00-\x1f\x7f]|\n|\t)*/ & ~/(?s:.*)<\/?tool_call(?s:.*)/"
_ARGUMENT = re.compile(rf"[^\W_][\w ,.'()+/-]{{0,{MAX_CONCEPT - 1}}}")  # the same for `re`, which knows no \p
PUNCTUATION = "?!.,;:\"'“”„()[]"
NOTHING: Mapping[str, str] = MappingProxyType({})
LONGEST, MOST = 5, 60  # words of a concept's longest name; of a question that is copied from
# Spaces as `json.dumps` writes them, which is what models were trained on.
SPACING = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


class CallError(ValueError):
    """A turn begins as a tool call and does not parse as one."""


@dataclass(frozen=True)
class ToolCall:
    """What the model asked for: a tool's name and its arguments, not yet checked against the tool."""

    name: str
    arguments: dict

    def to_text(self) -> str:
        """As the model writes it."""
        return f"{OPEN}\n{json.dumps({'name': self.name, 'arguments': self.arguments})}\n{CLOSE}"


def parse_turn(text: str) -> ToolCall | None:
    """The call that a whole turn makes; None where the turn is plain text.

    Strict: one call, nothing around it but white space, exactly the keys `name` (text) and `arguments`
    (object). Raises CallError where the turn opens a call and is anything else.
    """
    body = text.strip()
    if not body.startswith(OPEN):
        return None
    if not body.endswith(CLOSE):
        raise CallError("the call is not closed")
    try:
        data = json.loads(body[len(OPEN) : -len(CLOSE)], object_pairs_hook=_no_twins)
    except ValueError as error:
        raise CallError(f"the call is not JSON: {error}") from error
    except RecursionError as error:
        raise CallError("the call is nested too deeply") from error
    if not isinstance(data, dict) or set(data) != {"name", "arguments"}:
        raise CallError("a call has the keys name and arguments")
    if not isinstance(data["name"], str) or not isinstance(data["arguments"], dict):
        raise CallError("name is text and arguments an object")
    return ToolCall(data["name"], data["arguments"])


def opens_call(text: str) -> bool | None:
    """Whether a turn so far is a call: True, False, or None while too little of it is there to tell."""
    start = text.lstrip()
    if start.startswith(OPEN):
        return True
    return None if OPEN.startswith(start) else False


@dataclass(frozen=True)
class Alphabet:
    """A tokenizer as the matcher knows it, and how the grammar names a call's marks. Takes a third of a second to make
    (`alphabet`), whatever the tools."""

    tokens: llguidance.LLTokenizer
    marks: tuple[str, str]


def alphabet(tokenizer: str, vocab: int, eos: Sequence[int]) -> Alphabet:
    """tokenizer: a fast one as JSON (`fast_json`, or a tokenizer.json's text). vocab: width of the model's logits
    (models pad it). eos: ids that end a turn."""
    added = {one["content"]: one["id"] for one in json.loads(tokenizer)["added_tokens"]}
    return Alphabet(llguidance.LLTokenizer(tokenizer, n_vocab=vocab, eos_token=list(eos)), _marks(added))


class TurnGrammar:
    """The grammar of a turn over an alphabet and one set of tools, compiled once, matched many times.

    schemas: tools in transformers' form.
    """

    def __init__(self, letters: Alphabet, schemas: Sequence[dict]) -> None:
        self._tokens, self._marks, self._schemas = letters.tokens, letters.marks, tuple(schemas)

    @cached_property
    def _call_or_text(self) -> str:
        return self._checked(lark(self._schemas, *self._marks))

    @cached_property
    def _text(self) -> str:
        return self._checked(lark((), *self._marks))

    def _checked(self, grammar: str) -> str:
        failed, messages = llguidance.LLMatcher.validate_grammar_with_warnings(grammar, self._tokens)
        if failed:
            raise InputError(f"tools cannot be put into a grammar: {messages[0].splitlines()[0]}")
        return grammar

    def matcher(self, *, calls: bool = True, words: Sequence[str] = ()) -> TurnMatcher:
        """A fresh matcher for one turn.

        calls: whether the turn may be a tool call. words: what a call's argument must be one of, where any are given.
        """
        grammar = self._call_or_text if calls else self._text
        if calls and words:  # of a grammar that was checked without them; they stand in it as JSON
            grammar = lark(self._schemas, *self._marks, words)
        return TurnMatcher(llguidance.LLMatcher(self._tokens, grammar))


class Grammars:
    """Matchers for an engine's turns; the grammar of each set of tools is made once.

    letters: gives the tokenizer's alphabet, when the first matcher is asked for. copies: what the tools know, phrase ->
    concept; where it is given, a call's word must stand in what was asked (`askable`), which keeps small models from
    misspelling rare words.
    """

    def __init__(self, letters: Callable[[], Alphabet], copies: Mapping[str, str] | None) -> None:
        self._letters, self._copies = cache(letters), copies
        self._made: dict[tuple[str, ...], TurnGrammar] = {}

    def matcher(self, messages: Sequence[dict], tools: Sequence[dict], calls: bool = True) -> TurnMatcher:
        """A fresh matcher for the turn that answers chat messages. calls: as of `TurnGrammar.matcher`."""
        key = tuple(repr(tool) for tool in tools)
        if key not in self._made:
            self._made[key] = TurnGrammar(self._letters(), tools)
        words = () if self._copies is None else askable(" ".join(questions(messages)), self._copies)
        return self._made[key].matcher(calls=calls, words=words)


class TurnMatcher:
    """Where a turn stands in its grammar. One object a turn."""

    def __init__(self, matcher: llguidance.LLMatcher) -> None:
        self._matcher = matcher

    def take(self, token: int) -> None:
        """The turn goes on with `token`."""
        self._matcher.consume_token(token)

    def allowed(self, vocab: int) -> np.ndarray:
        """bool (vocab,): what may come next. Raises RuntimeError where the tokens taken left the grammar."""
        if self._matcher.is_error():
            raise RuntimeError(f"decoding left the grammar: {self._matcher.get_error()}")
        bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        allowed = np.zeros(vocab, bool)
        known = np.unpackbits(bits, bitorder="little")[:vocab].astype(bool)
        allowed[: len(known)] = known
        return allowed

    def forced(self) -> list[int]:
        """Tokens that must come next whatever the model says; none where it has a choice."""
        return self._matcher.compute_ff_tokens()


def fast_json(tokenizer) -> str:
    """A Hugging Face tokenizer as JSON, tokens added later among it. Raises InputError for one without a fast form."""
    if not getattr(tokenizer, "is_fast", False):
        raise InputError(f"{type(tokenizer).__name__} has no fast form; use a model with a tokenizer.json")
    plain_copy = copy(tokenizer.backend_tokenizer)
    plain_copy.no_padding()
    plain_copy.no_truncation()
    return plain_copy.to_str()


def lark(schemas: Sequence[dict], open_mark: str, close_mark: str, words: Sequence[str] = ()) -> str:
    """llguidance's Lark text: `call | text`, or text alone where there are no tools. words: all that an argument may
    be, where any are given."""
    if not schemas:
        return f"start: text\ntext: TEXT\nTEXT: {TEXT}\n"
    bodies = " | ".join(f"%json {json.dumps(_call_schema(schema['function'], words))}" for schema in schemas)
    return (
        "start: call | text\n"
        f'call: {open_mark} "\\n" body "\\n" {close_mark}\n'
        f"body: {bodies}\n"
        f"text: TEXT\nTEXT: {TEXT}\n"
    )


def _marks(added: Mapping[str, int]) -> tuple[str, str]:
    """How the grammar names the call's marks: as one token where the tokenizer has it, else as letters."""
    return tuple(f"<[{added[mark]}]>" if mark in added else json.dumps(mark) for mark in (OPEN, CLOSE))


def _call_schema(function: dict, words: Sequence[str] = ()) -> dict:
    """JSON schema of one call: fixed name, then the tool's parameters, nothing more, text bounded."""
    parameters = function["parameters"]
    properties = {name: _bounded(schema, words) for name, schema in parameters["properties"].items()}
    return {
        "type": "object",
        "properties": {
            "name": {"const": function["name"]},
            "arguments": {
                "type": "object",
                "properties": properties,
                "required": list(parameters.get("required", properties)),
                "additionalProperties": False,
            },
        },
        "required": ["name", "arguments"],
        "additionalProperties": False,
        "x-guidance": SPACING,
    }


def _bounded(schema: dict, words: Sequence[str]) -> dict:
    kept = {key: value for key, value in schema.items() if key != "description"}
    if kept.get("type") != "string" or "enum" in kept:
        return kept
    return {**kept, "enum": list(words)} if words else {**kept, "pattern": ARGUMENT}


def askable(question: str, card: Mapping[str, str] = NOTHING) -> tuple[str, ...]:
    """What a call's argument can be where it must copy from a question: up to `LONGEST` words of it in a row, as they
    stand and with the last one in the singular, in lower case too. Empty for a question of more than `MOST` words.

    card: phrases that the tools know, in plain words, and the concept of each. A question that holds none of them, such
    as "Describe this.", leaves the concepts themselves open too. Only what `ARGUMENT` admits, so that nothing that was
    typed can leave the call's text.
    """
    said = question.split()
    if len(said) > MOST:
        return ()
    found: dict[str, None] = {}
    for start in range(len(said)):
        for end in range(start + 1, min(start + LONGEST, len(said)) + 1):
            *head, last = said[start:end]
            last = last.strip(PUNCTUATION)
            for form in (last, singular_of(last)):
                span = " ".join([*head, form]).strip(PUNCTUATION)
                found |= dict.fromkeys(one for one in (span, span.lower()) if _ARGUMENT.fullmatch(one))
    if not any(plain(one) in card for one in found):
        found |= dict.fromkeys(name for name in sorted(set(card.values())) if _ARGUMENT.fullmatch(name))
    return tuple(found)


def _no_twins(pairs: list[tuple[str, object]]) -> dict:
    keys = [key for key, _ in pairs]
    if len(set(keys)) != len(keys):
        raise ValueError("a key stands twice")
    return dict(pairs)
