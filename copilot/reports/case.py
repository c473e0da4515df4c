"""A draft report on a case in one page: what all its slides say together, then each slide with its own evidence.

The sentences over all slides are put together by the rules of `case.py`, without a model; each names the evidence on
each slide that it rests on. A draft for a person to check, as `report.py` has it of one slide.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from slidekick.copilot.answer import RESEARCH_USE
from slidekick.copilot.case import measured_together, read_together, slide_names, tissue_um2
from slidekick.copilot.copilot import Copilot
from slidekick.copilot.reports.pages import page
from slidekick.copilot.reports.report import Fact, Report, draft_report, to_dict
from slidekick.copilot.survey import Survey
from slidekick.copilot.tools import compact_result
from slidekick.grounding.finding import TISSUE

SCHEMA = "slidekick.case-report/1"


@dataclass(frozen=True)
class CaseSentence:
    """A sentence over all slides. evidence: (number of the slide from 1 on, id in its report) of what it rests on."""

    text: str
    evidence: tuple[tuple[int, str], ...]


@dataclass(frozen=True)
class CaseSlide:
    """A slide of the case, under a name that no other has, and its report."""

    name: str
    report: Report


@dataclass(frozen=True)
class CaseReport:
    """reading: what the model reads on the slides. findings: measured, the most tissue first. absent: what was looked
    for on all slides and is on none."""

    reading: str
    findings: tuple[CaseSentence, ...]
    absent: tuple[str, ...]
    slides: tuple[CaseSlide, ...]
    versions: dict[str, str]
    created: str
    status: str = "DRAFT"
    notice: str = RESEARCH_USE
    schema: str = SCHEMA


def draft_case(copilot: Copilot, surveys: Sequence[Survey], concepts: Sequence[str] | None = None) -> CaseReport:
    """A report on each slide, and what they say together. concepts: see `draft_report`.

    Raises InputError as `draft_report` does, and for no slide or more than 50.
    """
    names = slide_names(surveys)
    reports = [draft_report(copilot, survey, concepts) for survey in surveys]
    read = [" ".join(sentence.text for sentence in report.reading) for report in reports]
    tissue = [tissue_um2(survey) for survey in surveys]
    findings, absent = [], []
    for concept in [fact.measurement.concept for fact in reports[0].facts]:
        facts = [_fact(report, concept) for report in reports]
        if any(fact.measurement.found for fact in facts):
            sentence = CaseSentence(_text(concept, names, facts, tissue), _cited(facts, reports))
            findings.append((_covered(facts, tissue), sentence))
        elif _looked_for(facts[0], reports[0]):
            absent.append(concept)
    return CaseReport(
        reading=read_together(names, read),
        findings=tuple(sentence for _, sentence in sorted(findings, key=lambda one: -one[0])),
        absent=tuple(sorted(absent)),
        slides=tuple(CaseSlide(*one) for one in zip(names, reports, strict=True)),
        versions=copilot.versions,
        created=reports[-1].created,
    )


def case_dict(case: CaseReport) -> dict:
    """JSON-ready form, without pictures."""
    return {
        "schema": case.schema,
        "status": case.status,
        "notice": case.notice,
        "created": case.created,
        "reading": case.reading,
        "findings": [
            {"text": one.text, "evidence": [{"slide": place, "id": name} for place, name in one.evidence]}
            for one in case.findings
        ],
        "absent": list(case.absent),
        "slides": [{"name": slide.name, "report": to_dict(slide.report)} for slide in case.slides],
        "versions": case.versions,
    }


def case_html(case: CaseReport) -> str:
    """One self-contained page: no scripts, nothing fetched, pictures inside."""
    return page("case.html.jinja", case=case)


def _fact(report: Report, concept: str) -> Fact:
    return next(fact for fact in report.facts if fact.measurement.concept == concept)


def _looked_for(fact: Fact, report: Report) -> bool:
    """Whether the word is in the vocabulary, so that "not found" means something."""
    return any(item.value is not None for item in report.evidence if item.id in fact.evidence)


def _covered(facts: Sequence[Fact], tissue: Sequence[float]) -> float:
    """Area of a concept on all slides, as a share of each slide's tissue times that, in µm²."""
    return sum(fact.measurement.area_fraction * area for fact, area in zip(facts, tissue, strict=True))


def _text(concept: str, names: Sequence[str], facts: Sequence[Fact], tissue: Sequence[float]) -> str:
    """What the slides say of a concept together."""
    measured = [fact.measurement for fact in facts]
    tool = "count" if any(one.count is not None for one in measured if one.found) else "segment"
    of_tissue = all(one.of == TISSUE for one in measured)
    share = _covered(facts, tissue) / sum(tissue) if of_tissue and sum(tissue) else None
    return measured_together(tool, concept, names, [compact_result(tool, one) for one in measured], share)


def _cited(facts: Sequence[Fact], reports: Sequence[Report]) -> tuple[tuple[int, str], ...]:
    """Of each slide the evidence behind the number that is told of it; where nothing was found, that it was not."""
    cited = []
    for place, (fact, report) in enumerate(zip(facts, reports, strict=True), 1):
        kinds = {item.kind: item.id for item in report.evidence if item.id in fact.evidence}
        cited.append((place, kinds.get("count") or kinds.get("area_fraction") or kinds["presence"]))
    return tuple(cited)
