"""The copilot: a question about a picture in, an answer with its evidence out.

Model turn → tool call → measurement → model turn with the numbers → evidence check → `Answer`. The loop is
here and nothing else: decoding is the engine's, measuring the tools', judging the text evidence.py's. It
keeps no state between questions; a conversation is the list of earlier answers.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib import metadata
from pathlib import Path

import numpy as np

from slidekick.copilot.answer import Answer, Claim, Evidence, Step, check_options, check_question
from slidekick.copilot.confidence import Confidence, load_confidence
from slidekick.copilot.endpoint import EndpointEngine, is_endpoint
from slidekick.copilot.engine import SLIDE, Engine, TorchEngine, Turn
from slidekick.copilot.evidence import check_text
from slidekick.copilot.experts import EXPERTS, load_experts
from slidekick.copilot.grammar import CallError, ToolCall, opens_call, parse_turn
from slidekick.copilot.messages import history_messages, step_messages, user_message
from slidekick.copilot.sentences import measured_text
from slidekick.copilot.slide_reader import SlideReader, load_slide_reader
from slidekick.copilot.slide_tools import SlideToolbox
from slidekick.copilot.survey import Survey
from slidekick.copilot.tools import Outcome, Toolbox, tool_schemas
from slidekick.data.errors import InputError
from slidekick.data.slide import Roi, Slide
from slidekick.grounding.finding import Finding

READING = "read from the picture, not measured: the model names only what it was taught, however sure it seems"
REPLACED = "the model's own words were replaced by what was measured"
UNSURE = "unsure: of answers held for as unlikely as this one, more than {:.0%} are wrong; do not rely on it"
MAX_STEPS = 3  # tool calls an answer may take: no question over three tools needs more, and a loop must end


@dataclass(frozen=True)
class Event:
    """Something that happened while answering.

    kind: "tool_start" | "tool_end" (`step`; `findings` at the end) | "text" (`text`: what was added) |
    "answer".
    """

    kind: str
    step: Step | None = None
    text: str = ""
    answer: Answer | None = None
    findings: tuple[Finding, ...] = ()


class Copilot:
    """A generalist with instruments.

    engine: writes turns (see engine.py). segmentor: finds concepts (see `slidekick.grounding.Segmentor`).
    weights: hash of the generalist's trained weights, for `Answer.versions`. confidence: how sure it is among
    given options, where that was fitted (`slidekick evaluate classify --calibrate`). reader: surveys whole slides.
    """

    def __init__(
        self,
        engine: Engine,
        segmentor,
        weights: str = "",
        confidence: Confidence | None = None,
        reader: SlideReader | None = None,
    ) -> None:
        self.engine, self.segmentor, self.weights, self.confidence = engine, segmentor, weights, confidence
        self._reader = reader

    @property
    def reader(self) -> SlideReader:
        """What surveys slides: the model's own, or mini's. Raises InputError where there is none."""
        self._reader = self._reader or load_slide_reader()
        return self._reader

    @classmethod
    def from_pretrained(cls, name: str = "mini", segmentor=None) -> Copilot:
        """The copilot over a named model.

        name: "mini", a folder, a hub id of an image-text-to-text model, or an OpenAI-compatible server as
        "http://host/v1#model". segmentor: the one shipped with
        Slidekick where None. Raises InputError for a name that is no model, SourceError when base weights
        cannot be fetched.
        """
        from slidekick.copilot import mini

        if segmentor is None:
            from slidekick.grounding import Segmentor

            segmentor = Segmentor.from_pretrained()
        if is_endpoint(name):
            return cls(EndpointEngine(name), segmentor)
        model, processor = mini.load_generalist(name)
        folder = mini.WEIGHTS if name == "mini" else Path(name)
        shown = folder.name if folder.is_dir() and name != "mini" else name  # answers travel; paths stay here
        if (folder / "adapter_config.json").is_file():
            # Nearly all that we train on are single questions, so earlier turns would be new to it.
            aside = {SLIDE: folder / mini.SLIDES / SLIDE} if (folder / mini.SLIDES / SLIDE).is_dir() else None
            experts = load_experts(model, folder / EXPERTS, aside=aside) if (folder / EXPERTS).is_dir() else None
            engine = TorchEngine(model, processor, shown, history=0, experts=experts, copies=True)
            weights = mini.weights_hash(folder)
            reader = load_slide_reader(folder, model) if (folder / mini.SLIDES).is_dir() else None
            return cls(engine, segmentor, weights, load_confidence(folder, weights), reader)
        commit = getattr(model.config, "_commit_hash", None) or ""  # gigabytes are not read through for a name
        confidence = load_confidence(folder, commit) if folder.is_dir() else None
        return cls(TorchEngine(model, processor, shown), segmentor, commit, confidence)

    def survey(self, slide: Slide) -> Survey:
        """Look over a whole slide once, to ask about it as often as one likes; see `SlideReader.survey`."""
        return self.reader.survey(slide)

    def ask(
        self,
        roi: Roi | Survey,
        question: str,
        history: Sequence[Answer] = (),
        *,
        box: Toolbox | None = None,
        first: Turn | None = None,
    ) -> Answer:
        """Answer one question about one picture, or about a slide that was surveyed.

        history: earlier answers of the same conversation, oldest first; the model is shown as many as it was
        made for (mini: none). box: the tools over this picture where
        several questions share what was found in it (see `toolbox`); evidence ids then run on from one answer to
        the next. first: the model's first turn where it was written before, as `TorchEngine.turns` does for many
        questions at once. Raises InputError for a question that is empty or longer than 4000 characters.
        """
        return [event.answer for event in self.stream(roi, question, history, box=box, first=first)][-1]

    def stream(
        self,
        roi: Roi | Survey,
        question: str,
        history: Sequence[Answer] = (),
        *,
        box: Toolbox | None = None,
        first: Turn | None = None,
    ) -> Iterator[Event]:
        """The same, as it happens: tool steps, pieces of text, and the answer as the last event."""
        question = check_question(question)
        box = self.toolbox(roi, question) if box is None else box
        shown = list(history)[-self.engine.history :] if self.engine.history else []
        return self._answer(_Draft(question, box), shown, first)

    def choose(self, roi: Roi, question: str, options: Sequence[str]) -> Answer:
        """The likeliest of given answers, with `options` telling how likely the model holds each; no tool is used.

        Raises InputError as `ask`, for options that cannot be told apart (see `check_options`), and for a server, which
        does not weigh answers.
        """
        question, options = check_question(question), check_options(options)
        _check_roi(roi)
        if not hasattr(self.engine, "options"):
            raise InputError(
                f"{self.engine.name}: a server does not weigh given answers; choose a model that runs here"
            )
        likely = self._likely(roi.pixels, question, options)
        text, sure = max(likely.items(), key=lambda pair: pair[1])
        return Answer(
            question=question,
            text=text,
            short=text,
            confidence=round(sure, 4),
            claims=(Claim(text, (), True, "reading"),),
            gates=self.engine.gates([user_message(question, with_image=True)], roi.pixels, self.schemas),
            options=likely,
            warnings=(*self._doubts(sure), READING),
            versions=self.versions,
        )

    def _likely(self, shown: np.ndarray, question: str, options: Sequence[str]) -> dict[str, float]:
        """How likely each of given answers is, as far as the confidence was fitted. shown: as an engine takes it."""
        scale, engine = self.confidence or Confidence(), self.engine
        logits = engine.options([user_message(question, with_image=True)], shown, self.schemas, options)
        alike = engine.likeness(shown, options) if scale.likeness else None
        return {name: round(float(p), 4) for name, p in zip(options, scale.probabilities(logits, alike), strict=True)}

    def _doubts(self, sure: float) -> list[str]:
        """A warning where an answer among given ones is less sure than the threshold."""
        scale = self.confidence
        return [UNSURE.format(scale.risk)] if scale and scale.risk and sure < scale.threshold else []

    def toolbox(self, roi: Roi | Survey, question: str = "") -> Toolbox:
        """The tools over one picture or slide; give it to several questions so that each concept is looked for once.

        question: what places of a slide to look closer at hang on.
        """
        if isinstance(roi, Survey):
            return SlideToolbox(self.segmentor, roi, question)
        _check_roi(roi)
        return Toolbox(self.segmentor, roi)

    def _answer(self, draft: _Draft, history: Sequence[Answer], first: Turn | None) -> Iterator[Event]:
        draft.messages = [*history_messages(history), user_message(draft.question, with_image=not history)]
        calls_left = MAX_STEPS
        while True:
            turn = yield from self._turn(draft, calls_left > 0, first)
            first = None
            call = draft.read(turn)
            if call is None or calls_left == 0:
                break
            if draft.repeated(call):
                calls_left = 0
                continue
            calls_left -= 1
            yield from self._run(draft, call)
        if draft.steps and (stated := draft.corrected(turn.text)):
            turn = replace(turn, text=stated)
        elif opens_call(turn.text):  # an engine without a grammar can end like this
            draft.warnings.append("the model did not come to an answer in words")
            turn = replace(turn, text="")
        yield Event("answer", answer=self._finish(draft, turn))

    def _turn(self, draft: _Draft, calls: bool, written: Turn | None) -> Iterator[Event]:
        """One model turn, or the one written before; its text is passed on as it comes unless the turn is a call.
        Returns the turn."""
        held, spoken = "", False
        shown = draft.messages, draft.box.shown, self.schemas
        for piece in (written.text, written) if written else self.engine.turn(*shown, calls=calls):
            if isinstance(piece, Turn):
                turn = piece
            elif spoken:
                yield Event("text", text=piece)
            else:
                held = (held + piece).lstrip()
                if held and opens_call(held) is False:
                    spoken = True
                    yield Event("text", text=held)
        if held and not spoken and opens_call(held) is None:  # the whole turn is the beginning of "<tool_call>"
            yield Event("text", text=held)
        return turn

    def _run(self, draft: _Draft, call: ToolCall) -> Iterator[Event]:
        name = f"t{len(draft.steps) + 1}"
        yield Event("tool_start", step=Step(name, call.name, call.arguments, {}, 0.0))
        begun = time.perf_counter()
        outcome = draft.box.call(call.name, call.arguments, name)
        step = Step(name, call.name, call.arguments, outcome.result, round(time.perf_counter() - begun, 3))
        draft.note(step, outcome)
        yield Event("tool_end", step=step, findings=outcome.findings)

    def _finish(self, draft: _Draft, turn: Turn) -> Answer:
        claims, reasons = check_text(turn.text, draft.steps, draft.evidence)
        warnings = [*draft.warnings, *reasons]
        if not turn.complete:
            warnings.append("the answer was cut at the length limit")
        if any(claim.kind == "reading" for claim in claims):
            warnings.append(READING)
        sure, likely = turn.probability, self._settled(draft, turn)
        if likely:
            text, sure = max(likely.items(), key=lambda pair: pair[1])
            turn, claims = replace(turn, text=text), (Claim(text, (), True, "reading"),)
            warnings += self._doubts(sure)
        elif self.confidence and not draft.steps and turn.likelihood:
            sure = self.confidence.of_turn(turn.likelihood)
            if sure < self.confidence.turn_threshold:
                warnings.append(UNSURE.format(self.confidence.risk))
        if draft.box.roi.mpp is None and any(item.kind == "area" for item in draft.evidence):
            warnings.append("the picture's scale is unknown: areas and diameters in pixels only; give --mpp")
        return Answer(
            question=draft.question,
            text=turn.text,
            short=short_answer(draft.question, turn.text, draft.steps),
            confidence=round(sure, 4),
            evidence=tuple(draft.evidence),
            claims=claims,
            steps=tuple(draft.steps),
            gates=turn.gates,
            options=likely,
            warnings=tuple(dict.fromkeys(warnings)),
            looked=draft.box.looked_at,
            versions=self.versions,
        )

    def _settled(self, draft: _Draft, turn: Turn) -> dict[str, float]:
        """Where the turn is a reading that was taught: how likely it and its rivals are, which holds against the
        wording of the question better than words written greedily do. Else empty."""
        rivals = self.confidence.rivals(turn.text) if self.confidence and not draft.steps else ()
        if len(rivals) < 2 or not hasattr(self.engine, "options"):
            return {}
        return self._likely(draft.box.shown, draft.question, rivals)

    @property
    def schemas(self) -> tuple[dict, ...]:
        """The tools as the model is told of them."""
        return tool_schemas()

    @cached_property
    def versions(self) -> dict[str, str]:
        """What made an answer: packages, model and its weights."""
        packages = {name: metadata.version(name) for name in ("slidekick", "transformers", "torch")}
        return {**packages, "model": self.engine.name, **({"weights": self.weights} if self.weights else {})}


@dataclass
class _Draft:
    """An answer in the making."""

    question: str
    box: Toolbox
    messages: list[dict] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    evidence: list[Evidence] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def read(self, turn: Turn) -> ToolCall | None:
        """The turn's call; None where it is the final text. A broken call (no grammar) counts as text."""
        try:
            return parse_turn(turn.text)
        except CallError as error:
            self.warnings.append(f"the model wrote a tool call that does not parse: {error}")
            return None

    def repeated(self, call: ToolCall) -> bool:
        """Whether the same call was made before; if so the model must now answer with what it has."""
        if not any((step.name, step.arguments) == (call.name, call.arguments) for step in self.steps):
            return False
        words = ", ".join(str(value) for value in call.arguments.values())
        self.warnings.append(f"the model called {call.name}({words}) twice; it then had to answer")
        return True

    def corrected(self, text: str) -> str:
        """What was measured, in plain sentences, where the model's own words are not backed by it or do not say it.

        "" where they are and do. Words that were replaced are told in a warning.
        """
        claims, reasons = check_text(text, self.steps, self.evidence)
        told = [claim for claim in claims if claim.kind == "measured"]
        if isinstance(self.box, SlideToolbox):  # no model's own words tell tissue from picture and places
            return measured_text(self.steps, bool(_YES_NO.match(self.question)))
        if told and not reasons and len(set(claims)) == len(claims):
            return ""
        stated = measured_text(self.steps, bool(_YES_NO.match(self.question)))
        if stated:
            reason = reasons[0] if reasons else f"not what was measured: “{text[:100]}”"
            self.warnings.append(f"{REPLACED}; {reason}")
        return stated

    def note(self, step: Step, outcome: Outcome) -> None:
        self.steps.append(step)
        self.evidence += outcome.evidence
        self.warnings += outcome.warnings
        self.messages += step_messages(step)


def find_masks(answer: Answer) -> dict[str, np.ndarray]:
    """The masks an answer rests on: concept -> bool (H, W), for what was found."""
    from slidekick.grounding.export import from_rle

    return {item.concept: from_rle(item.rle) for item in answer.evidence if item.rle is not None}


def short_answer(question: str, text: str, steps: Sequence[Step]) -> str:
    """The bare answer: what was measured where a tool gave it ("yes", "no", "212", "31%"), else the model's
    words.

    Measured values come from the tool result and not from the text, which may have slipped a digit.
    """
    results = [step.result for step in steps if "found" in step.result]
    said = re.match(r"(yes|no)\b\s*(?:[,.:;–-]|$)", text.strip(), re.IGNORECASE)
    if not results:
        first = re.split(r"(?<=[.!?])\s", text.strip(), maxsplit=1)[0]
        return said[1].lower() if said else first.rstrip(".").strip()
    result = results[-1]
    if result.get("known") is False:
        return "unknown"
    rest = question.lower()
    for value in (str(value).lower() for step in steps for value in step.arguments.values()):
        rest = rest.replace(value, "")  # the digit of "Gleason pattern 4" asks for no amount
    asks_amount = any(char.isdigit() for char in rest)  # "more than 100?": found alone does not answer it
    if _YES_NO.match(question) and not asks_amount:
        return "yes" if result["found"] else "no"
    if _YES_NO.match(question) and said:
        return said[1].lower()
    if not result["found"]:
        return "not found"
    return str(result.get("count", result.get("area", "found")))


_YES_NO = re.compile(r"\s*(?:is|are|was|were|do|does|did|has|have|any)\b", re.IGNORECASE)


def _check_roi(roi: object) -> None:
    if not isinstance(roi, Roi):
        raise InputError(f"a question needs a picture as Roi, not {type(roi).__name__}; see read_roi")
