"""A short draft report on one picture: what the model reads in it, what was measured, what was looked for and is not
there. Every sentence names its evidence; sentences without it are left out and listed. A draft for a person to
check, never a finding by itself: the page says so at its top.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from slidekick.copilot.answer import RESEARCH_USE, Answer, Evidence
from slidekick.copilot.copilot import REPLACED, Copilot
from slidekick.copilot.language import many_of
from slidekick.copilot.survey import Survey
from slidekick.copilot.tools import Toolbox
from slidekick.data.pages import page_environment
from slidekick.data.slide import Roi
from slidekick.grounding.finding import Finding
from slidekick.grounding.measure import Measurement, measure

SCHEMA = "slidekick.report/1"
TEMPLATES = Path(__file__).parent / "templates"
OPENING, OPENING_SLIDE = "What does this picture show?", "What is the main tissue on this slide?"
MAX_FOUND = 3  # questions on what was found: the table holds the rest, and each question costs two model turns
MAX_ABSENT = 2  # questions on what was not found, likewise
PICTURE_PX = 1400  # longest side of the pictures in the page: sharp on a printed page, a few megabytes at most


@dataclass(frozen=True)
class Sentence:
    """A sentence that stays in the report. evidence: ids in `Report.evidence`; empty for a reading."""

    text: str
    evidence: tuple[str, ...]
    kind: str
    question: str
    confidence: float


@dataclass(frozen=True)
class Fact:
    """One row of the table: a concept, what was measured of it, and the evidence ids. known: it was looked for."""

    measurement: Measurement
    presence: float
    colour: tuple[int, int, int] | None
    evidence: tuple[str, ...]


@dataclass(frozen=True)
class Report:
    """A draft report. image, overlay: PNG files; they are part of the page and not of `to_dict`."""

    source: str
    region: tuple[int, int, int, int]
    size: tuple[int, int]
    mpp: tuple[float, float] | None
    reading: tuple[Sentence, ...]
    findings: tuple[Sentence, ...]
    left_out: tuple[str, ...]
    facts: tuple[Fact, ...]
    evidence: tuple[Evidence, ...]
    warnings: tuple[str, ...]
    versions: dict[str, str]
    created: str
    image: bytes = field(repr=False)
    overlay: bytes = field(repr=False)
    status: str = "DRAFT"
    notice: str = RESEARCH_USE
    schema: str = SCHEMA


def draft_report(copilot: Copilot, picture: Roi | Survey, concepts: Sequence[str] | None = None) -> Report:
    """Ask a fixed set of questions about a picture or a surveyed slide, measure every concept, keep what is backed.

    concepts: what to measure; where None the segmentor's whole vocabulary, or of a slide every tissue that can be told.
    Raises InputError as `Copilot.ask` does.
    """
    slide = isinstance(picture, Survey)
    if concepts is None:
        concepts = picture.encoder.plan.tissues if slide else list(copilot.segmentor.vocabulary.concepts)
    box = copilot.toolbox(picture)
    roi = box.roi
    box.look_for(concepts)
    findings = [box.finding(concept) for concept in concepts]
    facts, evidence = _facts(box, concepts, findings)
    opening = OPENING_SLIDE if slide else OPENING
    answers = [copilot.ask(picture, question, box=box) for question in (opening, *_questions(facts))]
    reading, measured, left_out = _sort_claims(answers, evidence)
    height, width = roi.pixels.shape[:2]
    region = roi.region
    return Report(
        source=roi.source,
        region=(region.x, region.y, region.width, region.height),
        size=(width, height),
        mpp=roi.mpp,
        reading=tuple(reading),
        findings=tuple(measured),
        left_out=tuple(left_out),
        facts=tuple(facts),
        evidence=tuple(evidence),
        warnings=_warnings(answers, roi),
        versions=copilot.versions,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        image=_png(roi.pixels),
        overlay=_png(_overlay(roi, findings)),
    )


def to_dict(report: Report) -> dict:
    """JSON-ready form of a report, without its pictures; masks stand in the evidence as RLE."""
    data = asdict(replace(report, image=b"", overlay=b""))
    return {key: value for key, value in data.items() if key not in ("image", "overlay")}


def to_html(report: Report) -> str:
    """One self-contained page: no scripts, nothing fetched, pictures inside; for the screen and for paper."""
    return page("report.html.jinja", report=report)


def page(template: str, **values) -> str:
    """A page of `TEMPLATES`, which writes quantities and shows PNG files."""
    environment = page_environment(TEMPLATES)
    environment.filters |= {"quantity": quantity, "data_uri": _data_uri}
    return environment.get_template(template).render(**values)


def quantity(value: float | None, unit: str) -> str:
    """A measured number for people, three figures, thousands apart: 12345.6, "µm²" -> "12 300 µm²"."""
    if value is None:
        return "–"
    if unit == "%":
        share = 100 * value
        return "under 1 %" if 0 < share < 0.5 else f"{share:.0f} %"
    rounded = float(f"{value:.3g}") if abs(value) < 1e15 else value
    text = f"{rounded:,.0f}" if abs(rounded) >= 100 else f"{rounded:g}"
    return f"{text.replace(',', ' ')} {unit}".strip()


def _facts(box: Toolbox, concepts: Sequence[str], findings: Sequence[Finding]) -> tuple[list[Fact], list[Evidence]]:
    """Every concept measured; found ones first, largest area first."""
    from slidekick.grounding.palette import concept_colours

    colours = concept_colours(finding.concept for finding in findings if finding.found)
    facts, evidence = [], []
    for i, (concept, finding) in enumerate(zip(concepts, findings, strict=True), start=1):
        outcome = box.call("measure", {"concept": concept}, f"m{i}")
        evidence += outcome.evidence
        ids = tuple(item.id for item in outcome.evidence)
        measured = box.measurement(concept) if finding.known else measure(finding, box.roi.mpp)
        facts.append(Fact(measured, float(finding.presence), colours.get(finding.concept), ids))
    return sorted(facts, key=lambda fact: -fact.measurement.area_px), evidence


def _questions(facts: Sequence[Fact]) -> list[str]:
    found = [fact.measurement for fact in facts if fact.measurement.found]
    absent = [fact.measurement for fact in facts if not fact.measurement.found]
    asked = [
        f"How many {many_of(m.concept)} are there?" if m.count is not None else f"Where is the {m.concept}?"
        for m in found[:MAX_FOUND]
    ]
    return asked + [f"Is there any {m.concept}?" for m in absent[:MAX_ABSENT]]


def _sort_claims(
    answers: Sequence[Answer], evidence: Sequence[Evidence]
) -> tuple[list[Sentence], list[Sentence], list[str]]:
    """Sentences kept as readings (of the opening question) and as measured, and those left out with the reason."""
    same = {(item.concept, item.kind): item.id for item in evidence}
    reading, measured, left_out = [], [], []
    for i, answer in enumerate(answers):
        ids = {item.id: same.get((item.concept, item.kind)) for item in answer.evidence}
        for claim in answer.claims:
            named = tuple(dict.fromkeys(ids[name] for name in claim.evidence if ids[name]))
            sentence = Sentence(claim.text, named, claim.kind, answer.question, answer.confidence)
            if not claim.supported:
                reason = next((w for w in answer.warnings if claim.text in w), claim.text)
                left_out.append(reason.removeprefix("not backed by a measurement: "))
            elif claim.kind == "measured" and named:
                if (claim.text, named) not in [(known.text, known.evidence) for known in measured]:
                    measured.append(sentence)
            elif i == 0 and claim.kind == "reading":
                reading.append(sentence)
            else:
                left_out.append(f"“{claim.text}” (said to “{answer.question}”, with no measurement)")
        replaced = [w.removeprefix(f"{REPLACED}; ") for w in answer.warnings if w.startswith(REPLACED)]
        left_out += [reason.removeprefix("not backed by a measurement: ") for reason in replaced]
    return reading, measured, list(dict.fromkeys(left_out))  # a model that repeats itself is told of once


def _warnings(answers: Sequence[Answer], roi: Roi) -> tuple[str, ...]:
    """What the answers warned of, once each; sentences that were left out or replaced are listed apart."""
    said = [w for answer in answers for w in answer.warnings if not w.startswith(("not backed by", REPLACED))]
    if roi.mpp is None:
        said.append("the picture's scale is unknown: areas and diameters in pixels only; give --mpp")
    return tuple(dict.fromkeys(said))


def _overlay(roi: Roi, findings: Sequence[Finding]) -> np.ndarray:
    from slidekick.grounding.overlay import draw_overlay

    return draw_overlay(roi.pixels, [finding for finding in findings if finding.found], mpp=roi.mpp)


def _png(pixels: np.ndarray) -> bytes:
    from PIL import Image

    picture = Image.fromarray(pixels)
    picture.thumbnail((PICTURE_PX, PICTURE_PX))
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def _data_uri(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
