"""Whether tools were used as they should be: the right call or none, the right word in it, its numbers and no others.

Judges rows of the family `tools` from what was called, what came back and what was said. Not judged: whether the tool
is right about the picture. Definitions stand in docs/evaluation.md.
"""

from __future__ import annotations

from collections.abc import Sequence

from slidekick.copilot.evidence import denies
from slidekick.copilot.language import Quantity, many_of, quantities
from slidekick.data.ontology import plain
from slidekick.grounding.vocabulary import Vocabulary
from slidekick.rl.evaluation.tool_questions import NO_TOOL

NUMBERS = ("count", "area", "diameter")  # of a tool's result; the main one is the first that stands in it
ASPECTS = ("tool_choice", "tool_arguments", "numbers_equal", "not_found_said")


def judged(row: dict, vocabulary: Vocabulary) -> dict:
    """The row with the columns called_tool, called_argument, returned (of the first call), `ASPECTS` (1.0, 0.0, or
    None where a row has nothing to judge), and with `said`, `right` and `score` by them.

    vocabulary: the segmentor's, which says whether two words mean the same.
    """
    calls, text = row["calls"], row["answer"]
    first = calls[0] if calls else {"tool": None, "argument": None, "result": None}
    results, tools = [call["result"] for call in calls], [call["tool"] for call in calls]
    choice = _choice(row["expected_tool"], calls, text)
    wanted = row["expected_argument"]
    meant = None if wanted is None else same_word(str(first["argument"]), wanted, vocabulary)
    aspects = {
        "tool_choice": choice,
        "tool_arguments": None if meant is None else choice and meant,
        "numbers_equal": numbers_equal(text, results, tools) if any(map(numbers_of, results)) else None,
        "not_found_said": not_found_said(text, row["supported"]) if nothing_found(results) else None,
    }
    known = [value for value in aspects.values() if value is not None]
    return (
        row
        | {"called_tool": first["tool"], "called_argument": first["argument"], "returned": first["result"]}
        | {name: None if value is None else float(value) for name, value in aspects.items()}
        | {
            "said": "; ".join(f"{call['tool']}({call['argument']})" for call in calls) or (NO_TOOL if text else None),
            "right": float(all(known)),
            "score": sum(known) / len(known),
        }
    )


def _choice(expected: str, calls: Sequence[dict], text: str) -> bool:
    """The expected tool alone was called; where none is, there is an answer in words and no call."""
    return {call["tool"] for call in calls} == {expected} if expected != NO_TOOL else bool(text and not calls)


def same_word(called: str, wanted: str, vocabulary: Vocabulary) -> bool:
    """Whether the argument means what is wanted: the same concept to the vocabulary, or, of a word that it does not
    know, the same letters and digits, in the singular or the plural."""
    concept = vocabulary.find(wanted)
    if concept is None:
        return plain(called) in (plain(wanted), plain(many_of(wanted)))
    return vocabulary.find(called) is concept


def numbers_of(result: dict) -> list[Quantity]:
    """The numbers in a tool's result, the main one first."""
    return [number for key in NUMBERS if key in result for number in quantities(str(result[key]))]


def numbers_equal(text: str, results: Sequence[dict], tools: Sequence[str]) -> bool:
    """Whether every number in the text was returned, and the main number of each result is said; of a result of
    `measure`, which may have been asked for a share or a size, any of its numbers."""
    returned = [(tool, numbers) for tool, one in zip(tools, results, strict=True) if (numbers := numbers_of(one))]
    said = quantities(text)
    every = all(any(_equal(one, number) for _, numbers in returned for number in numbers) for one in said)
    wanted = [numbers if tool == "measure" else numbers[:1] for tool, numbers in returned]
    return every and all(any(_equal(one, number) for one in said for number in numbers) for numbers in wanted)


def _equal(said: Quantity, returned: Quantity) -> bool:
    """Equal as written: same unit, same value to the last digit said, "about" allowed, no other limits."""
    limits = said.bound == returned.bound or (said.bound, returned.bound) == ("~", "=")
    return said.unit == returned.unit and limits and abs(said.value - returned.value) <= said.step / 2 + 1e-9


def nothing_found(results: Sequence[dict]) -> bool:
    """Whether tools were called and none found anything."""
    return bool(results) and all(result.get("found") is False for result in results)


def not_found_said(text: str, supported: float | None) -> bool:
    """Whether the text says so, is backed by the evidence in every sentence, and gives no number but 0."""
    return denies(text) and supported == 1 and all(number.value == 0 for number in quantities(text))
