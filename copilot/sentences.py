"""What is said after a tool call: the result's numbers in a plain sentence, which the evidence check can follow.

mini is taught these sentences; where a model's own words are not backed by what was measured, they stand in for them.
"""

from __future__ import annotations

from collections.abc import Sequence

from slidekick.copilot.answer import Step
from slidekick.copilot.language import is_plural, many_of
from slidekick.grounding import measure
from slidekick.grounding.finding import PICTURE

THE_PICTURE = f"the {PICTURE}"


def measured_text(steps: Sequence[Step], yes_no: bool) -> str:
    """A sentence for each call that looked for something or measured, in their order; yes_no: whether a yes or no is
    asked for.

    "" where no call did, such as one that failed.
    """
    said = []
    for step in steps:
        word = str(step.arguments.get("concept", ""))
        said += quantity_sentences(step.result)
        if "found" not in step.result:
            continue
        if step.name == "segment":
            said.append(segment_sentence(word, step.result, yes_no))
        else:
            said.append({"count": count_sentence, "measure": measure_sentence}[step.name](word, step.result))
    return " ".join(dict.fromkeys(said))


def count_sentence(argument: str, result: dict) -> str:
    """What is said after `count`."""
    if missing := missing_sentence(argument, result):
        return missing
    if "count" not in result:
        return covers_sentence(argument, result)
    one = result["count"] == 1
    counted = f"There {'is' if one else 'are'} {result['count']} {argument if one else many_of(argument)}"
    return f"{counted}{f' in {of}' if (of := _whole(result)) != THE_PICTURE else ''}."


def segment_sentence(argument: str, result: dict, yes: bool) -> str:
    """What is said after `segment`; yes: the question wants a yes or no first."""
    if missing := missing_sentence(argument, result):
        return missing
    of = _whole(result)
    place = f"throughout {of}" if result["where"] == measure.THROUGHOUT else f"in the {result['where']}"
    start = f"Yes: {argument}" if yes else capital(argument)
    return f"{start} {_was(argument)} found, {place}, covering {result['area']} of {of}."


def measure_sentence(argument: str, result: dict) -> str:
    """What is said after `measure`."""
    if missing := missing_sentence(argument, result):
        return missing
    if "count" not in result:
        return covers_sentence(argument, result)
    one = result["count"] == 1
    named = f"{argument} was" if one else f"{many_of(argument)} were"
    size = f", with a mean diameter of {result['diameter']}" if "diameter" in result else ""
    return f"{result['count']} {named} measured, covering {result['area']} of {_whole(result)}{size}."


def missing_sentence(argument: str, result: dict) -> str | None:
    """What is said of a word that was not found or is not known; None where it was found."""
    if result["found"]:
        return None
    if result.get("known") is False:
        nearest = f"; nearest known: {result['nearest']}" if "nearest" in result else ""
        return f'"{argument}" is not in the vocabulary{nearest}.'
    return f"No {argument} {_was(argument)} found in {_whole(result) if 'of' in result else 'this picture'}."


def covers_sentence(argument: str, result: dict) -> str:
    """The area of what was found."""
    return f"{capital(argument)} cover{'' if is_plural(argument) else 's'} {result['area']} of {_whole(result)}."


def quantity_sentences(result: dict) -> list[str]:
    """What is said after a tool of another package: a sentence for each number that it gave (see `Measured`)."""
    return [f"The {name} is {amount}." for name, amount in result.get("measured", {}).items()]


def amounts_text(result: dict) -> str:
    """The same in short: the one amount, or each with its name."""
    measured = result["measured"]
    return next(iter(measured.values())) if len(measured) == 1 else ", ".join(map(" ".join, measured.items()))


def _was(argument: str) -> str:
    return "were" if is_plural(argument) else "was"


def _whole(result: dict) -> str:
    """What was looked at, as it stands in a sentence."""
    return f"the {result.get('of', PICTURE)}"


def capital(text: str) -> str:
    """`text` with a capital letter at its head and the rest as it is."""
    return text[:1].upper() + text[1:]
