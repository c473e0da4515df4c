"""What a text says beside a label or a number: the things it names, and whether it tells what the tools returned.

Shared by several families. Words are compared as `slidekick.rl.parsing` writes them; tool results by the rules of the
evidence check and of `slidekick evaluate tools`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from slidekick.copilot.answer import Claim, Evidence, Step
from slidekick.copilot.evidence import check_text, denies
from slidekick.copilot.language import clauses, many_of, quantities, sentences, singular
from slidekick.rl.evaluation.tool_use import NUMBERS, nothing_found, numbers_equal, numbers_of
from slidekick.rl.instructions.concepts import names, phrasings
from slidekick.rl.parsing import plain

if TYPE_CHECKING:
    from slidekick.rl.tasks.task import ToolStep

# Words that name nothing by themselves; singular forms.
_NAMELESS = frozenset(
    re.findall(
        r"\w+",
        "a an the this that these those it its they their there here which who and or but with of in on at to for from "
        "by as than so also be is are was were been has have had do does did can could may might will would i we you "
        "he she yes no not none nor neither never without cannot answer picture image photo show shown see seen find "
        "found look cover covered covering measure measured count counted mean diameter area share per cent percent "
        "about approximately around any some all each other s",
    )
)
_KINDS = {"": ("count", "objects", 1.0), "%": ("area_fraction", "fraction", 0.01), "um": ("diameter", "um", 1.0)}


def entities(text: str) -> list[str]:
    """The words that name something, singular and in lower case, in order and as often as they stand; amounts are left
    out, names with digits stay ("pattern 4"). What is said not to be there is marked: "no amyloid" -> "no_amyloid".
    """
    found = []
    for clause in (part for sentence in sentences(text) for part in clauses(sentence)):
        marked = "no_" if denies(clause) else ""
        rest = list(clause)
        for amount in quantities(clause):
            rest[amount.start : amount.end] = " " * (amount.end - amount.start)
        words = (singular(word) for word in plain("".join(rest)).split())
        found += [marked + word for word in words if word not in _NAMELESS]
    return found


def entity_f1(said: str, truth: str) -> float:
    """`bag_f1` of the things named (`entities`): repeating, listing and hedging cost precision. Where the truth names
    nothing all of its words count."""
    wanted = entities(truth)
    return bag_f1(entities(said), wanted) if wanted else bag_f1(plain(said).split(), plain(truth).split())


def bag_f1(said: Sequence[str], wanted: Sequence[str]) -> float:
    """2 · shared / (words said + words wanted), each word as often as it stands (SQuAD's F1, Rajpurkar et al. 2016); 1
    where both are empty. A right word that is said once more than it is wanted is a wrong one."""
    total = len(said) + len(wanted)
    return 2 * (Counter(said) & Counter(wanted)).total() / total if total else 1.0


def evidence_of(steps: Sequence[ToolStep]) -> tuple[tuple[Step, ...], tuple[Evidence, ...]]:
    """Tool steps as the evidence check takes them; values are those that the tools returned, as they were rounded."""
    ran, evidence = [], []
    for number, step in enumerate(steps):
        if "found" not in step.result or not step.concept:
            continue
        name, found = f"t{number}", step.result["found"] is True
        ran.append(Step(name, step.name, step.arguments, step.result, 0.0))
        values = [("presence", float(found), "probability")]
        for amount in _numbers(step) if found else ():
            if amount.unit in _KINDS:
                kind, unit, scale = _KINDS[amount.unit]
                values.append((kind, amount.value * scale * (0.5 if amount.bound == "<" else 1.0), unit))
        evidence += [
            Evidence(f"{name}.{kind}", kind, step.concept, value, unit, found, name) for kind, value, unit in values
        ]
    return tuple(ran), tuple(evidence)


def claims_of(text: str, steps: Sequence[ToolStep]) -> tuple[Claim, ...]:
    """The text's sentences, each with whether the tools back it; see `slidekick.copilot.evidence`."""
    return check_text(text, *evidence_of(steps))[0]


def supported(text: str, steps: Sequence[ToolStep]) -> float:
    """Share of its sentences that trace to a tool result or are readings of the picture; 0 for no sentence."""
    claims = claims_of(text, steps)
    return float(np.mean([claim.supported for claim in claims])) if claims else 0.0


def told(text: str, steps: Sequence[ToolStep]) -> bool:
    """Whether the text tells what the tools returned: every sentence is backed, none stands twice, one at least is
    about something measured, the results' main numbers are said and no others, and what was not found is denied."""
    results = [step.result for step in steps if "found" in step.result]
    if not results:
        return False
    claims = claims_of(text, steps)
    backed = all(claim.supported for claim in claims) and any(claim.kind == "measured" for claim in claims)
    once = len({claim.text.casefold() for claim in claims}) == len(claims)
    if not backed or not once or not numbers_equal(text, results, [s.name for s in steps if "found" in s.result]):
        return False
    found = [result["found"] is True for result in results]
    return denies(text) if nothing_found(results) else not (all(found) and denies(text))


def means(called: str, concept: str) -> bool:
    """Whether a tool was called for what is asked: any phrasing of the same concept on the card, or the same word where
    the card does not know it; in the singular or the plural.

    By the words alone, where `slidekick evaluate tools` also takes what the segmentor's text encoder finds alike: a
    reward must not hang on whether that can be fetched.
    """
    known = _phrasings().get(plain(called))
    return concept in known if known else plain(called) in (plain(concept), plain(many_of(concept)))


@cache
def _phrasings() -> dict[str, set[str]]:
    """Each phrasing of the card, singular and plural, -> the concepts that it means."""
    meant: dict[str, set[str]] = {}
    for concept in names():
        for word in phrasings(concept):
            for form in (word.one, word.many):
                meant.setdefault(plain(form), set()).add(concept)
    return meant


def says(text: str, phrase: str) -> bool:
    """Whether the phrase stands in the text, word by word."""
    return bool(re.search(rf"(?<!\S){re.escape(plain(phrase))}(?!\S)", plain(text)))


def _numbers(step: ToolStep) -> list:
    kept = {key: step.result[key] for key in NUMBERS if isinstance(step.result.get(key), str | int | float)}
    return numbers_of(kept)
