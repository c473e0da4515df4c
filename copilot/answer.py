"""A question's form, the answer, and what stands behind it: plain values with `to_dict`/`from_dict`. No model.

The JSON form is public and versioned; `answer.schema.json` beside this file describes it.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field

from slidekick.data.errors import InputError

SCHEMA = "slidekick.answer/1"
RESEARCH_USE = "Research use only. Not for diagnosis."
MAX_QUESTION = 4000  # characters, some 1000 tokens: a question; longer ones are documents pasted by mistake

MAX_OPTIONS, MAX_OPTION = 64, 200  # options to choose among, and characters of one
KINDS = ("count", "area", "area_fraction", "density", "presence", "diameter")  # what the built-in tools measure
UNITS = ("", "%", "um", "um2", "1/mm2", "px")  # of what other tools measure: those that can be read in a sentence


@dataclass(frozen=True)
class Evidence:
    """One thing measured: `value` in `unit` of `concept`, by the tool call `step`.

    kind: count | area | area_fraction | density | presence | diameter, or what an installed tool calls its quantity.
    found: False when the concept was not found. rle: COCO run-length mask {"size": [h, w], "counts": str} in the
    picture's pixels, None where nothing was found.
    """

    id: str
    kind: str
    concept: str
    value: float | None
    unit: str
    found: bool
    step: str
    rle: dict | None = None


@dataclass(frozen=True)
class Claim:
    """One sentence of the answer. supported: every number and finding in it traces to `evidence` ids.

    kind: "measured" where it states an amount, a place, or that something is there or not; "reading" where it
    is the model's own reading of the picture, which no tool backs and none could (then `evidence` is empty,
    supported True).
    """

    text: str
    evidence: tuple[str, ...]
    supported: bool
    kind: str = "measured"


@dataclass(frozen=True)
class Step:
    """One tool call: what was asked, what came back, how long it took (seconds)."""

    id: str
    name: str
    arguments: dict
    result: dict
    seconds: float


@dataclass(frozen=True)
class Answer:
    """text: all of it, for a person. short: the bare answer ("colon", "yes", "212").

    confidence: 0–1. Of an answer read from the picture, by a model whose confidence was fitted (`confidence.json`): how
    likely it is right, calibrated on held-out pictures. Otherwise the mean token probability of the text, or, where
    that is less, how sure the tools are of what they found and did not find; 1 where an installed tool alone speaks.
    gates: weight of each expert. options: where the answer was chosen among given ones, how likely each of them is.
    looked: (x, y, width, height) at level 0 of the places on a slide that were looked at in full.
    """

    question: str
    text: str
    short: str
    confidence: float
    evidence: tuple[Evidence, ...] = ()
    claims: tuple[Claim, ...] = ()
    steps: tuple[Step, ...] = ()
    gates: dict[str, float] = field(default_factory=dict)
    options: dict[str, float] = field(default_factory=dict)
    looked: tuple[tuple[int, int, int, int], ...] = ()
    warnings: tuple[str, ...] = ()
    versions: dict[str, str] = field(default_factory=dict)
    notice: str = RESEARCH_USE
    schema: str = SCHEMA

    def to_dict(self) -> dict:
        """JSON-ready form; tuples become lists."""
        return _lists(asdict(self))

    @classmethod
    def from_dict(cls, data: object) -> Answer:
        """The reverse of `to_dict`. Raises ValueError for what is none."""
        import msgspec

        try:
            return msgspec.convert(data, cls)
        except (msgspec.ValidationError, ValueError, RecursionError) as error:
            raise ValueError(f"no answer: {error}") from error


def check_question(question: object) -> str:
    """The question without white space around it. Raises InputError where it is empty or too long."""
    if not isinstance(question, str):
        raise InputError(f"the question is {type(question).__name__}, not text; ask in words")
    if len(question) > MAX_QUESTION:
        raise InputError(f"the question has {len(question)} characters, more than {MAX_QUESTION}; shorten it")
    if not re.search(r"\w", question):
        raise InputError('the question is empty; ask something, such as "How many nuclei are there?"')
    return question.strip()


def check_options(options: object) -> tuple[str, ...]:
    """The options without white space around them. Raises InputError for less than two, more than `MAX_OPTIONS`, equal
    ones, or one that is empty or too long."""
    if isinstance(options, str) or not all(isinstance(one, str) for one in options):
        raise InputError("the options are not a list of texts; give two or more")
    found = tuple(" ".join(one.split()) for one in options)
    if not 2 <= len(set(found)) == len(found) <= MAX_OPTIONS:
        raise InputError(f"{len(set(found))} different options of {len(found)}; give 2 to {MAX_OPTIONS}, each once")
    for one in found:
        if not re.search(r"\w", one) or len(one) > MAX_OPTION:
            raise InputError(f"option {one[:40]!r}: give each 1 to {MAX_OPTION} characters with letters or digits")
    return found


def _lists(value):
    if isinstance(value, dict):
        return {key: _lists(item) for key, item in value.items()}
    return [_lists(item) for item in value] if isinstance(value, (list, tuple)) else value
