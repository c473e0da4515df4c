"""What is said after a tool call: the result's numbers in a plain sentence, which the evidence check can follow."""

from __future__ import annotations

from slidekick.grounding import measure
from slidekick.rl.instructions.concepts import many_of
from slidekick.rl.instructions.turns import Call
from slidekick.rl.instructions.wording import capital


def count_sentence(argument: str, result: dict) -> str:
    """What is said after `count`."""
    if missing := missing_sentence(argument, result):
        return missing
    if "count" not in result:
        return covers_sentence(argument, result)
    one = result["count"] == 1
    return f"There {'is' if one else 'are'} {result['count']} {argument if one else many_of(argument)}."


def segment_sentence(argument: str, result: dict, yes: bool) -> str:
    """What is said after `segment`; yes: the question wants a yes or no first."""
    if missing := missing_sentence(argument, result):
        return missing
    place = "throughout the picture" if result["where"] == measure.THROUGHOUT else f"in the {result['where']}"
    start = f"Yes: {argument}" if yes else capital(argument)
    return f"{start} was found, {place}, covering {result['area']} of the picture."


def measure_sentence(argument: str, result: dict) -> str:
    """What is said after `measure`."""
    if missing := missing_sentence(argument, result):
        return missing
    if "count" not in result:
        return covers_sentence(argument, result)
    one = result["count"] == 1
    named = f"{argument} was" if one else f"{many_of(argument)} were"
    size = f", with a mean diameter of {result['diameter']}" if "diameter" in result else ""
    return f"{result['count']} {named} measured, covering {result['area']} of the picture{size}."


def compare_sentences(first: Call, second: Call) -> str:
    """What is said after `segment` was called for two concepts: each area, and which covers more."""
    each = " ".join(
        missing_sentence(c.concept, c.result) or covers_sentence(c.concept, c.result) for c in (first, second)
    )
    more = max((first, second), key=share)
    same = share(first) == share(second)
    return each if same else f"{each} {capital(more.concept)} covers more."


def share(call: Call) -> float:
    """The covered area that a result tells, in per cent; 0 where nothing was found."""
    area = call.result.get("area", "0%")
    return 0.5 if area.startswith("<") else float(area.rstrip("%"))


def missing_sentence(argument: str, result: dict) -> str | None:
    """What is said of a word that was not found or is not known; None where it was found."""
    if result["found"]:
        return None
    if result.get("known") is False:
        nearest = f"; nearest known: {result['nearest']}" if "nearest" in result else ""
        return f'"{argument}" is not in the vocabulary{nearest}.'
    return f"No {argument} was found in this picture."


def covers_sentence(argument: str, result: dict) -> str:
    """The area of what was found."""
    return f"{capital(argument)} covers {result['area']} of the picture."
