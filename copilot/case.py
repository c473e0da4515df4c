"""Several slides of one patient in one question: each answers for itself, and the case says what they say together.

The text over all is put together from the slides' own results, by fixed rules and without a model: which slides show
it, how much of all tissue it takes, what was counted on all. Each slide's answer stands beside it with its evidence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from slidekick.copilot.answer import RESEARCH_USE, Answer, Step
from slidekick.copilot.copilot import Copilot
from slidekick.copilot.language import is_plural, many_of, singular_of
from slidekick.copilot.sentences import capital
from slidekick.copilot.survey import Survey
from slidekick.copilot.tools import percent
from slidekick.data.errors import InputError

SCHEMA = "slidekick.case/1"
MOST_SLIDES = 50  # of one patient; more is a mistake


@dataclass(frozen=True)
class CaseAnswer:
    """text: over all slides. slides: (name, answer) of each, in their order; names tell equal ones apart."""

    question: str
    text: str
    slides: tuple[tuple[str, Answer], ...]
    notice: str = RESEARCH_USE
    schema: str = SCHEMA

    def to_dict(self) -> dict:
        """JSON-ready form."""
        answers = [{"slide": name, "answer": answer.to_dict()} for name, answer in self.slides]
        return {**asdict(self), "slides": answers}


def ask_case(copilot: Copilot, surveys: Sequence[Survey], question: str) -> CaseAnswer:
    """Ask every slide of a case, and say what they say together.

    Raises InputError as `Copilot.ask` does, and for no slide or more than `MOST_SLIDES`.
    """
    names = slide_names(surveys)
    answers = [copilot.ask(survey, question) for survey in surveys]
    return CaseAnswer(question.strip(), together(names, answers, surveys), tuple(zip(names, answers, strict=True)))


def slide_names(surveys: Sequence[Survey]) -> list[str]:
    """A name for each slide of a case: its file's, with a number behind equal ones. Raises InputError for no slide or
    more than `MOST_SLIDES`."""
    if not 1 <= len(surveys) <= MOST_SLIDES:
        raise InputError(f"{len(surveys)} slides in a case; give 1 to {MOST_SLIDES}")
    seen: dict[str, int] = {}
    names = []
    for source in (survey.slide.source for survey in surveys):
        seen[source] = seen.get(source, 0) + 1
        names.append(source if seen[source] == 1 else f"{source} ({seen[source]})")
    return names


def together(names: Sequence[str], answers: Sequence[Answer], surveys: Sequence[Survey]) -> str:
    """What the answers say over all slides."""
    calls = [[(step.name, str(step.arguments.get("concept", ""))) for step in answer.steps] for answer in answers]
    alike = calls[0] and all(one == calls[0] for one in calls)
    if not alike:
        return read_together(names, [answer.text for answer in answers])
    sentences = []
    for place, (tool, concept) in enumerate(calls[0]):
        steps = [answer.steps[place] for answer in answers]
        if any("error" in step.result for step in steps):
            return read_together(names, [answer.text for answer in answers])
        share = _share(answers, steps, surveys)
        sentences.append(measured_together(tool, concept, names, [step.result for step in steps], share))
    return " ".join(sentences)


def measured_together(tool: str, concept: str, names: Sequence[str], results: list[dict], share: float | None) -> str:
    """One sentence about what one tool found of a concept on all slides. results: the tool's on each (see
    `compact_result`). share: of all their tissue, None where that is not known."""
    if any(result.get("known") is False for result in results):
        return f'"{concept}" is not in the vocabulary.'
    found = [name for name, result in zip(names, results, strict=True) if result["found"]]
    where, was = _slides(len(found), len(names)), "were" if is_plural(concept) else "was"
    if not found:
        return f"No {concept} {was} found on {where}."
    if tool == "count" and all("count" in result for result in results if result["found"]):
        total = sum(result.get("count", 0) for result in results)
        each = ", ".join(f"{n}: {r.get('count', 0)}" for n, r in zip(names, results, strict=True))
        at = "in the places looked at on" if results[0].get("of") else "on"
        return f"{total} {singular_of(concept) if total == 1 else many_of(concept)} {at} {where} ({each})."
    each = ", ".join(f"{name} {result['area']}" for name, result in zip(names, results, strict=True) if result["found"])
    over = f", {percent(share)} of all their tissue" if share is not None and len(names) > 1 else ""
    return f"{capital(concept)} {was} found on {where} ({each}){over}."


def _share(answers: Sequence[Answer], steps: Sequence[Step], surveys: Sequence[Survey]) -> float | None:
    """Share of the tissue of all slides, each weighted by how much tissue it has; None where one does not tell."""
    total = covered = 0.0
    for answer, its_step, survey in zip(answers, steps, surveys, strict=True):
        tissue = tissue_um2(survey)
        evidence = [item for item in answer.evidence if item.step == its_step.id]
        fractions = [item.value for item in evidence if item.kind == "area_fraction"]
        told = any(item.found for item in evidence)
        if told and not fractions:
            return None
        total += tissue
        covered += tissue * (fractions[0] if fractions else 0.0)
    return covered / total if total else None


def tissue_um2(survey: Survey) -> float:
    """How much tissue a slide has: the area that its tiles stand for, in µm²."""
    width, height = survey.tiles.grid.size_level0
    side = survey.tiles.step
    return len(survey.tiles) * width * height * side * side * survey.slide.mpp[0] * survey.slide.mpp[1]


def read_together(names: Sequence[str], texts: Sequence[str]) -> str:
    """What was read on each slide: said once where it is the same on all, else side by side."""
    if len(set(texts)) == 1:
        return f"{texts[0].rstrip('.')} on {_slides(len(names), len(names))}." if texts[0] else ""
    return " ".join(f"{name}: {text.rstrip('.')}." for name, text in zip(names, texts, strict=True) if text)


def _slides(some: int, of: int) -> str:
    """ "2 of 3 slides", "all 3 slides", "both slides", "any of 3 slides", "the slide"."""
    if of == 1:
        return "the slide"
    if some == of == 2:
        return "both slides"
    return f"any of {of} slides" if some == 0 else f"all {of} slides" if some == of else f"{some} of {of} slides"
