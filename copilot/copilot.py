"""The copilot: a question about a picture in, an answer with its evidence out.

Model turn → tool call → measurement → model turn with the numbers → evidence check → `Answer`. The loop is
here and nothing else: decoding is the engine's, measuring the tools', judging the text evidence.py's. It
keeps no state between questions; a conversation is the list of earlier answers.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from slidekick.copilot import mini
from slidekick.copilot.answer import Answer, Claim, Step, check_options, check_question
from slidekick.copilot.confidence import Confidence, load_confidence
from slidekick.copilot.draft import REPLACED as REPLACED
from slidekick.copilot.draft import Draft, Event, Wanted, short_answer
from slidekick.copilot.endpoint import EndpointEngine, is_endpoint
from slidekick.copilot.engine import Engine
from slidekick.copilot.engines import COMPILED, load_engine
from slidekick.copilot.evidence import check_text
from slidekick.copilot.extra_tools import ExtraTool, installed_tools
from slidekick.copilot.grammar import ToolCall, opens_call
from slidekick.copilot.messages import user_message
from slidekick.copilot.pictures import ALONE, PicturesRefused
from slidekick.copilot.sentences import measured_text
from slidekick.copilot.settling import likely, settled
from slidekick.copilot.sight import BLANK, FOREIGN, UNTOLD, Sight, load_taught
from slidekick.copilot.slide_tools import SlideToolbox
from slidekick.copilot.survey import Survey
from slidekick.copilot.together import Making, alone, spoken, together
from slidekick.copilot.tools import NO_EXTRA, TOOL_NAMES, Toolbox, known_words, tool_schemas
from slidekick.copilot.turn import Turn
from slidekick.data.errors import InputError
from slidekick.data.slide import Roi, Slide

if TYPE_CHECKING:
    from slidekick.copilot.slide_reader import SlideReader

READING = "read from the picture, not measured: the model names only what it was taught, however sure it seems"
BY_PHRASE = "“{}” asks for the tool {}: it alone answers, {} was not asked"
UNSURE = "unsure: of answers held for as unlikely as this one, more than {:.0%} are wrong; do not rely on it"
NO_SCALE = "the picture's scale is unknown: areas and diameters in pixels only; give --mpp"
MAX_STEPS = 3  # tool calls an answer may take: no question over three tools needs more, and a loop must end


class Copilot:
    """A generalist with instruments.

    engine: writes turns (see engine.py). segmentor: finds concepts (see `slidekick.grounding.Segmentor`).
    weights: hash of the generalist's trained weights, for `Answer.versions`. confidence: how sure it is among
    given options, where that was fitted (`slidekick evaluate classify --calibrate`). reader: surveys whole slides.
    tools: of other packages, by name, beside the built-in ones. home: the model's folder, where its own reader lies.
    sight: what keeps it from reading pictures that show nothing, or nothing it was taught; None: it reads all.
    """

    def __init__(
        self,
        engine: Engine,
        segmentor,
        weights: str = "",
        confidence: Confidence | None = None,
        reader: SlideReader | None = None,
        tools: Mapping[str, ExtraTool] = NO_EXTRA,
        home: Path | None = None,
        sight: Sight | None = None,
    ) -> None:
        self.engine, self.segmentor, self.weights, self.confidence = engine, segmentor, weights, confidence
        self.tools, self._reader, self.home, self.sight = tools, reader, home, sight

    @property
    def reader(self) -> SlideReader:
        """What surveys slides: the model's own, or mini's. Raises InputError where there is none."""
        if self._reader is None:
            from slidekick.copilot.slide_reader import load_slide_reader

            own = self.home is not None and (self.home / mini.SLIDES).is_dir()
            self._reader = load_slide_reader(self.home if own else mini.WEIGHTS)
        return self._reader

    @classmethod
    def from_pretrained(
        cls,
        name: str = "mini",
        segmentor=None,
        tools: Mapping[str, ExtraTool] | None = None,
        runtime: str = COMPILED,
    ) -> Copilot:
        """The copilot over a named model.

        name: "mini", a folder, a hub id of an image-text-to-text model, or an OpenAI-compatible server as
        "http://host/v1#model". segmentor: the one shipped with Slidekick, with the installed specialists, where None.
        tools: of other packages; the installed ones where None. runtime: "compiled" (mini and what is trained on its
        base, on CPUs, without torch) or "torch" (the reference; what every other model that runs here takes). Raises
        InputError for a name that is no model and for another runtime, SourceError when base weights cannot be fetched,
        PluginError for an installed tool or specialist that cannot be used.
        """
        if segmentor is None:
            from slidekick.grounding import Segmentor
            from slidekick.grounding.specialists import with_specialists

            segmentor = with_specialists(Segmentor.from_pretrained())
        tools = installed_tools(TOOL_NAMES, known_words(segmentor)) if tools is None else tools
        if is_endpoint(name):
            return cls(EndpointEngine(name), segmentor, tools=tools, sight=Sight())
        engine, folder = load_engine(name, known_words(segmentor), runtime), mini.folder_of(name)
        if (folder / mini.ADAPTER_CONFIG).is_file():
            weights = mini.weights_hash(folder)
            confidence, sight = load_confidence(folder, weights), Sight(load_taught(folder))
            return cls(engine, segmentor, weights, confidence, tools=tools, home=folder, sight=sight)
        commit = getattr(engine.model.config, "_commit_hash", None) or ""  # gigabytes are not read through for a name
        confidence = load_confidence(folder, commit) if folder.is_dir() else None
        return cls(engine, segmentor, commit, confidence, tools=tools, sight=Sight())

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
    ) -> Answer:
        """Answer one question about one picture, or about a slide that was surveyed.

        history: earlier answers of the same conversation, oldest first; the model is shown as many as it was
        made for (mini: none). box: the tools over this picture where
        several questions share what was found in it (see `toolbox`); evidence ids then run on from one answer to
        the next. Raises InputError for a question that is empty or longer than 4000 characters.
        """
        return [event.answer for event in self.stream(roi, question, history, box=box)][-1]

    def ask_many(self, asked: Sequence[tuple[Toolbox, str]], firsts: Sequence[Turn] = ()) -> list[Answer]:
        """Answer several questions, each about the picture of its toolbox; the engine writes their turns together.

        firsts: the first turn of each where they were written before. Raises InputError as `ask`.
        """
        makings = [self.answering(Draft(check_question(words), box)) for box, words in asked]
        events = together(self.engine, makings, firsts)
        ended = {index: event.answer for index, event in events if event.kind == "answer"}
        return [ended[index] for index in range(len(makings))]

    def draft(
        self, roi: Roi | Survey, question: str, history: Sequence[Answer] = (), *, box: Toolbox | None = None
    ) -> Draft:
        """The beginning of an answer; arguments and errors as of `ask`."""
        question = check_question(question)
        box = self.toolbox(roi, question) if box is None else box
        return Draft(question, box, list(history)[-self.engine.history :] if self.engine.history else [])

    def stream(
        self,
        roi: Roi | Survey,
        question: str,
        history: Sequence[Answer] = (),
        *,
        box: Toolbox | None = None,
    ) -> Iterator[Event]:
        """The same, as it happens: tool steps, pieces of text, and the answer as the last event."""
        return alone(self.engine, self.answering(self.draft(roi, question, history, box=box)))

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
        asked = user_message(question, with_image=True)
        odds = likely(self.engine, self.confidence, roi.pixels, asked, self.schemas, options)
        text, sure = max(odds.items(), key=lambda pair: pair[1])
        return Answer(
            question=question,
            text=text,
            short=text,
            confidence=round(sure, 4),
            claims=(Claim(text, (), True, "reading"),),
            gates=self.engine.gates([asked], roi.pixels, self.schemas),
            options=odds,
            warnings=(*self._doubts(sure), READING),
            versions=self.versions,
        )

    def _doubts(self, sure: float) -> list[str]:
        """A warning where an answer among given ones is less sure than the threshold."""
        scale = self.confidence
        return [UNSURE.format(scale.risk)] if scale and scale.risk and sure < scale.threshold else []

    def toolbox(self, roi: Roi | Survey, question: str = "", within: np.ndarray | None = None) -> Toolbox:
        """The tools over one picture or slide; give it to several questions so that each concept is looked for once.

        question: what places of a slide to look closer at hang on. within: bool (H, W), a region of a picture that
        alone is measured.
        """
        if isinstance(roi, Survey):
            return SlideToolbox(self.segmentor, roi, question, self.tools)
        _check_roi(roi)
        if within is not None and (within.shape != roi.pixels.shape[:2] or within.dtype != bool or not within.any()):
            raise InputError(f"the region is no bool mask of {roi.pixels.shape[:2]} with any pixel in it; draw it anew")
        return Toolbox(self.segmentor, roi, within, self.tools)

    def _show(self, draft: Draft) -> None:
        """Begin the prompt with what the engine can be shown: a picture, a slide's tokens, or a slide as pictures."""
        if not isinstance(draft.box, SlideToolbox) or getattr(self.engine, "reads_slides", False):
            draft.show(draft.box.shown)
            return
        most = getattr(self.engine, "pictures", 1)
        draft.show(draft.box.pictures(draft.question, most))
        if most == 1:
            draft.warnings.append(ALONE)

    def answering(self, draft: Draft) -> Making:
        """An answer in the making, to be driven by `alone` or `together` (see together.py)."""
        if asked := self._asked_for(draft.question):
            yield from self._told_by_tools(draft, asked)
            return
        if why := self._unanswered(draft):
            yield Event("answer", answer=self._declined(draft, why))
            return
        self._show(draft)
        calls_left = MAX_STEPS
        while True:
            try:
                wanted = Wanted(draft.messages, draft.shown, self.schemas, calls_left > 0, draft.expert)
                turn = yield from spoken(wanted)
            except PicturesRefused:  # the engine now knows, so that this happens once
                self._show(draft)
                continue
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

    def _unanswered(self, draft: Draft) -> str:
        """Why the model is not asked; "" where it is, with a warning for a picture unlike what it was taught."""
        if self.sight is None:
            return ""
        unread = self._unread(draft.box)
        if unread in (BLANK, FOREIGN):
            return unread
        if self.sight.untold(draft.question, self.engine):
            return UNTOLD
        draft.warnings += [unread] if unread else []
        return ""

    def _unread(self, box: Toolbox) -> str:
        """What `Sight.why_not` says of a picture, looked at once; "" for slides, of which tissue alone is looked at."""
        if isinstance(box, SlideToolbox):
            return ""
        if box.unread is None:
            box.unread = self.sight.why_not(box.roi.pixels, self.engine)
        return box.unread

    def _asked_for(self, question: str) -> dict[str, str]:
        """Tools of other packages that a question asks for by a declared phrase, and the phrase; none where the model
        can call them itself."""
        if not getattr(self.engine, "fixed_tools", False):
            return {}
        asked = {name: phrase for name, tool in self.tools.items() if (phrase := tool.phrase(question))}
        return dict(list(asked.items())[:MAX_STEPS])

    def _told_by_tools(self, draft: Draft, asked: dict[str, str]) -> Iterator[Event]:
        """An answer of what these tools measure and nothing else, for a model that was not taught to call them."""
        for name, phrase in asked.items():
            draft.warnings.append(BY_PHRASE.format(phrase, name, self.engine.name))
            yield from self._run(draft, ToolCall(name, {}))
        text = measured_text(draft.steps, False)
        yield Event("answer", answer=self._finish(draft, Turn(text, 1.0 if text else 0.0)))

    def _run(self, draft: Draft, call: ToolCall) -> Iterator[Event]:
        name = f"t{len(draft.steps) + 1}"
        yield Event("tool_start", step=Step(name, call.name, call.arguments, {}, 0.0))
        begun = time.perf_counter()
        outcome = draft.box.call(call.name, call.arguments, name)
        step = Step(name, call.name, call.arguments, outcome.result, round(time.perf_counter() - begun, 3))
        draft.note(step, outcome)
        yield Event("tool_end", step=step, findings=outcome.findings)

    def _finish(self, draft: Draft, turn: Turn) -> Answer:
        claims, reasons = check_text(turn.text, draft.steps, draft.evidence)
        warnings = [*draft.warnings, *reasons]
        if not turn.complete:
            warnings.append("the answer was cut at the length limit")
        if any(claim.kind == "reading" for claim in claims):
            warnings.append(READING)
        sure = min(turn.probability, draft.certainty)
        if held := settled(self.engine, self.confidence, draft, turn, self.schemas):
            sure, turn, claims = held.sure, replace(turn, text=held.text), (Claim(held.text, (), True, "reading"),)
            warnings += self._doubts(sure)
        elif self.confidence and not draft.steps and turn.likelihood:
            sure = self.confidence.of_turn(turn.likelihood)
            if sure < self.confidence.turn_threshold:
                warnings.append(UNSURE.format(self.confidence.risk))
        if draft.box.roi.mpp is None and any(item.kind == "area" for item in draft.evidence):
            warnings.append(NO_SCALE)
        return Answer(
            question=draft.question,
            text=turn.text,
            short=short_answer(draft.question, turn.text, draft.steps),
            confidence=round(sure, 4),
            evidence=tuple(draft.evidence),
            claims=claims,
            steps=tuple(draft.steps),
            gates=turn.gates,
            options=held.likely if held else {},
            warnings=tuple(dict.fromkeys(warnings)),
            looked=draft.looked_at,
            versions=self.versions,
        )

    def _declined(self, draft: Draft, why: str) -> Answer:
        """An answer that says why there is none."""
        return Answer(
            question=draft.question,
            text=why,
            short=why,
            confidence=1.0,
            claims=(Claim(why, (), True, "reading"),),
            warnings=tuple(draft.warnings),
            versions=self.versions,
        )

    @property
    def schemas(self) -> tuple[dict, ...]:
        """The tools as the model is told of them: the built-in ones alone where it can call no other."""
        extra = () if getattr(self.engine, "fixed_tools", False) else self.tools.values()
        return (*tool_schemas(), *(tool.schema for tool in extra))

    @cached_property
    def versions(self) -> dict[str, str]:
        """What made an answer: packages, model and its weights."""
        packages = {name: metadata.version(name) for name in ("slidekick", *getattr(self.engine, "packages", ()))}
        packages |= getattr(self.segmentor, "packages", {})
        packages |= {tool.plugin.package: tool.plugin.version for tool in self.tools.values()}
        return {**packages, "model": self.engine.name, **({"weights": self.weights} if self.weights else {})}


def find_masks(answer: Answer) -> dict[str, np.ndarray]:
    """The masks an answer rests on: concept -> bool (H, W), for what was found."""
    from slidekick.grounding.export import from_rle

    return {item.concept: from_rle(item.rle) for item in answer.evidence if item.rle is not None}


def _check_roi(roi: object) -> None:
    if not isinstance(roi, Roi):
        raise InputError(f"a question needs a picture as Roi, not {type(roi).__name__}; see read_roi")
