"""A draft report on one picture or slide: what the model reads in it, what was measured, what was looked for and is not
there, in the words of a form. Every sentence names its evidence; sentences without it are left out and listed. A draft
for a person to check, never a finding by itself: each file of it says so.
"""

from __future__ import annotations

import hashlib
import io
from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime

import numpy as np

from slidekick.copilot.answer import RESEARCH_USE, Answer, Evidence, Step
from slidekick.copilot.copilot import NO_SCALE, REPLACED, Copilot
from slidekick.copilot.draft import Event, Wanted
from slidekick.copilot.evidence import UNBACKED
from slidekick.copilot.language import many_of
from slidekick.copilot.reports.checklist import Checklist, Element, gone_through, load_checklist
from slidekick.copilot.reports.forms import check_details, load_form
from slidekick.copilot.sentences import measure_sentence
from slidekick.copilot.survey import Survey
from slidekick.copilot.together import Making, alone, answered
from slidekick.copilot.tools import Toolbox, compact_result, known_words
from slidekick.copilot.turn import Turn
from slidekick.data.ontology import load_ontology
from slidekick.data.slide import Roi
from slidekick.grounding.finding import Finding
from slidekick.grounding.measure import Measurement, measure

SCHEMA = "slidekick.report/2"
LIMITS = (
    "Drafted by a program and not checked by a person; research use only, not for diagnosis.",
    "“Not found” is what the segmentor saw, no proof of absence; it looks for the concepts in the table and no others.",
    "What is marked as read is the model's own impression; no measurement stands behind it.",
)
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
class Reading:
    """What the model read when a form's question was put to it. short: the bare answer. sentences: those that state
    nothing measured."""

    short: str
    confidence: float
    sentences: tuple[Sentence, ...]


@dataclass(frozen=True)
class Fact:
    """One row of the table: a concept, what was measured of it, how surely it is there, its colour in the picture, None
    where it was not found, and the evidence ids."""

    measurement: Measurement
    presence: float
    colour: tuple[int, int, int] | None
    evidence: tuple[str, ...]


@dataclass(frozen=True)
class Report:
    """A draft report. text: its words in Markdown, evidence ids in brackets, as they stand now; drafted: as they were
    drafted. details: what the user stated. steps: tool calls behind the evidence. image, overlay: PNG files; they are
    part of the page and not of `to_dict`."""

    source: str
    form: str
    title: str
    text: str
    drafted: str
    details: dict[str, str]
    region: tuple[int, int, int, int]
    size: tuple[int, int]
    mpp: tuple[float, float] | None
    reading: tuple[Sentence, ...]
    findings: tuple[Sentence, ...]
    elements: tuple[Element, ...]
    left_out: tuple[str, ...]
    facts: tuple[Fact, ...]
    evidence: tuple[Evidence, ...]
    steps: tuple[Step, ...]
    warnings: tuple[str, ...]
    versions: dict[str, str]
    created: str
    image: bytes = field(repr=False)
    overlay: bytes = field(repr=False)
    status: str = "DRAFT"
    notice: str = RESEARCH_USE
    schema: str = SCHEMA

    @property
    def picture_id(self) -> str:
        """What its picture is known by, whatever the file is called: 16 hex digits of SHA-256 of the PNG."""
        return hashlib.sha256(self.image).hexdigest()[:16]


def draft_report(copilot: Copilot, picture: Roi | Survey, *args, **options) -> Report:
    """Draft a report at once. Arguments and errors as of `drafting`."""
    drafted: list[Report] = []

    def making() -> Making:
        drafted.append((yield from drafting(copilot, picture, *args, **options)))

    deque(alone(copilot.engine, making()), maxlen=0)
    return drafted[0]


def drafting(
    copilot: Copilot,
    picture: Roi | Survey,
    concepts: Sequence[str] | None = None,
    form: str = "general",
    details: Mapping[str, str] | None = None,
    checklist: Checklist | None = None,
    box: Toolbox | None = None,
) -> Generator[Event | Wanted, Iterator[str | Turn], Report]:
    """Part of a making: measure every concept of a picture or a surveyed slide, ask a form's questions and of what was
    found, keep what is backed. Returns the report.

    concepts: what to measure; where None of a slide every tissue that can be told, of a picture all that the segmentor
    knows, less what belongs to other organs than the one stated (`Term.reported`). form: see `forms`. details: of
    `forms.DETAILS`, stated by the user. checklist: for a form that goes through one; a short one where None. box: tools
    over the picture that hold findings of a person's, which are then measured and told of. Raises InputError as
    `Copilot.ask`, `load_form` and `check_details` do.
    """
    worded, details, slide = load_form(form), check_details(details), isinstance(picture, Survey)
    checklist = checklist or load_checklist()
    waiting = ()
    if concepts is None:
        concepts, waiting = (picture.encoder.plan.tissues, ()) if slide else _looked_for(copilot, details["organ"])
    box = copilot.toolbox(picture) if box is None else box
    roi = box.roi
    found = _each_once(box, concepts)
    facts, evidence, steps = _facts(box, found)
    asked = worded.asks(slide, details)
    answers = []
    for question in [*asked.values(), *_questions(facts)]:
        yield Event("asked", text=question)
        answers.append((yield from answered(copilot.answering(copilot.draft(picture, question, box=box)))))
    read, measured = dict(zip(asked, answers, strict=False)), answers[len(asked) :]
    readings, said, left_out = _sorted(read, measured, evidence)
    elements = _elements(copilot, picture, box, checklist, facts) if worded.checklist else []
    text = worded.write(
        read={name: readings.get(name) or Reading("", 0.0, ()) for name in worded.questions},
        findings=tuple(said),
        elements=elements,
        details=details,
        checklist=checklist,
    )
    return Report(
        form=worded.name,
        title=worded.title,
        text=text,
        drafted=text,
        details=details,
        reading=tuple(sentence for one in readings.values() for sentence in one.sentences),
        findings=tuple(said),
        elements=tuple(elements),
        left_out=tuple(left_out),
        facts=tuple(facts),
        evidence=tuple(evidence),
        steps=tuple(steps),
        warnings=(*waiting, *_warnings([*read.values(), *measured], roi)),
        versions=copilot.versions,
        **_shown(roi, list(found.values())),
    )


def _looked_for(copilot: Copilot, organ: str) -> tuple[list[str], tuple[str, ...]]:
    """The concepts that a report on `organ` tells of, and, where none was stated, a warning of the others."""
    known, terms = copilot.segmentor.vocabulary.concepts, load_ontology().terms
    waiting = {name: terms[name].reported for name in known if name in terms and not terms[name].belongs(organ)}
    told = ", ".join(f"{name} ({organs[0]})" for name, organs in waiting.items())
    hint = f"no organ was stated, so these were not looked for: {told}; state it, or name what to measure"
    return [name for name in known if name not in waiting], (hint,) if told and not organ else ()


def _each_once(box: Toolbox, concepts: Sequence[str]) -> dict[str, Finding]:
    """Words -> their finding, in order; of words that mean one concept the first."""
    box.look_for(concepts)
    found: dict[str, Finding] = {}
    for words in concepts:
        finding = box.finding(words)
        if finding.concept not in {one.concept for one in found.values()}:
            found[words] = finding
    return found


def _shown(roi: Roi, findings: Sequence[Finding]) -> dict:
    """What a report tells of its picture."""
    region, (height, width) = roi.region, roi.pixels.shape[:2]
    return {
        "source": roi.source,
        "region": (region.x, region.y, region.width, region.height),
        "size": (width, height),
        "mpp": roi.mpp,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "image": _png(roi.pixels),
        "overlay": _png(_overlay(roi, findings)),
    }


def to_dict(report: Report) -> dict:
    """JSON-ready form of a report, without its pictures; masks stand in the evidence as RLE."""
    data = asdict(replace(report, image=b"", overlay=b""))
    return {key: value for key, value in data.items() if key not in ("image", "overlay")}


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


def _facts(box: Toolbox, found: Mapping[str, Finding]):
    """Every concept measured, found ones first, largest area first; the evidence, and the calls behind it.

    found: words -> their finding.
    """
    from slidekick.grounding.palette import concept_colours

    colours = concept_colours(finding.concept for finding in found.values() if finding.found)
    facts, evidence, steps = [], [], []
    for i, (concept, finding) in enumerate(found.items(), start=1):
        outcome = box.call("measure", {"concept": concept}, f"m{i}")
        evidence += outcome.evidence
        steps.append(Step(f"m{i}", "measure", {"concept": concept}, outcome.result, 0.0))
        ids = tuple(item.id for item in outcome.evidence)
        measured = box.measurement(concept) if finding.known else measure(finding, box.roi.mpp)
        facts.append(Fact(measured, float(finding.presence), colours.get(finding.concept), ids))
    return sorted(facts, key=lambda fact: -fact.measurement.area_px), evidence, steps


def _elements(copilot: Copilot, picture: Roi | Survey, box: Toolbox, checklist: Checklist, facts: Sequence[Fact]):
    """The checklist, gone through: what is a concept is measured, what a picture can tell is read."""
    known, of = known_words(copilot.segmentor), {fact.measurement.concept: fact for fact in facts}

    def measured(name: str) -> tuple[str, tuple[str, ...]] | None:
        words = " ".join(name.casefold().split())
        fact = of.get(known.get(words)) or of.get(known.get(words.removesuffix("s")))
        if fact is None:
            return None
        told = compact_result("measure", fact.measurement)
        return measure_sentence(fact.measurement.concept, told), fact.evidence

    def chosen(question: str, options: Sequence[str]) -> tuple[str, float]:
        answer = copilot.choose(box.roi, question, options)
        return answer.short, answer.confidence

    weighs = isinstance(picture, Roi) and hasattr(copilot.engine, "options")
    return gone_through(checklist, measured, chosen if weighs else None)


def _questions(facts: Sequence[Fact]) -> list[str]:
    found = [fact.measurement for fact in facts if fact.measurement.found]
    absent = [fact.measurement for fact in facts if not fact.measurement.found]
    asked = [
        f"How many {many_of(m.concept)} are there?" if m.count is not None else f"Where is the {m.concept}?"
        for m in found[:MAX_FOUND]
    ]
    return asked + [f"Is there any {m.concept}?" for m in absent[:MAX_ABSENT]]


def _sorted(
    read: Mapping[str, Answer], measured: Sequence[Answer], evidence: Sequence[Evidence]
) -> tuple[dict[str, Reading], list[Sentence], list[str]]:
    """What was read, by question; sentences that were measured; those left out, with the reason.

    Evidence of the answers is named by that of the table, which measured the same.
    """
    same = {(item.concept, item.kind): item.id for item in evidence}
    readings, said, left_out = {}, [], []
    for name, answer in [*read.items(), *((None, answer) for answer in measured)]:
        ids = {item.id: same.get((item.concept, item.kind)) for item in answer.evidence}
        kept = []
        for claim in answer.claims:
            named = tuple(dict.fromkeys(ids[one] for one in claim.evidence if ids[one]))
            sentence = Sentence(claim.text, named, claim.kind, answer.question, answer.confidence)
            if not claim.supported:
                reason = next((w for w in answer.warnings if claim.text in w), claim.text)
                left_out.append(reason.removeprefix(UNBACKED))
            elif claim.kind == "measured" and named:
                if (claim.text, named) not in [(known.text, known.evidence) for known in said]:
                    said.append(sentence)
            elif name and claim.kind == "reading":
                kept.append(sentence)
            else:
                left_out.append(f"“{claim.text}” (said to “{answer.question}”, with no measurement)")
        if name:
            readings[name] = Reading(answer.short if kept else "", answer.confidence, tuple(kept))
        replaced = [w.removeprefix(f"{REPLACED}; ") for w in answer.warnings if w.startswith(REPLACED)]
        left_out += [reason.removeprefix(UNBACKED) for reason in replaced]
    return readings, said, list(dict.fromkeys(left_out))  # a model that repeats itself is told of once


def _warnings(answers: Sequence[Answer], roi: Roi) -> tuple[str, ...]:
    """What the answers warned of, once each; sentences that were left out or replaced are listed apart."""
    said = [w for answer in answers for w in answer.warnings if not w.startswith((UNBACKED, REPLACED))]
    if roi.mpp is None:
        said.append(NO_SCALE)
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
