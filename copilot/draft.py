"""An answer in the making: what was asked and shown, the steps so far, and how the model's turns are read.

Here is also the bare answer (`short_answer`), which is taken from what was measured.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from slidekick.copilot.answer import Answer, Evidence, Step
from slidekick.copilot.evidence import check_text
from slidekick.copilot.grammar import CallError, ToolCall, parse_turn
from slidekick.copilot.messages import history_messages, step_messages, user_message
from slidekick.copilot.pictures import Pictures, Shown
from slidekick.copilot.sentences import amounts_text, measured_text
from slidekick.copilot.tools import Outcome, Toolbox
from slidekick.copilot.turn import Turn
from slidekick.grounding.finding import Finding

REPLACED = "the model's own words were replaced by what was measured"
_YES_NO = re.compile(r"\s*(?:is|are|was|were|do|does|did|has|have|any)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Event:
    """Something that happened while answering.

    kind: "tool_start" | "tool_end" (`step`; `findings` at the end) | "text" (`text`: what was added) | "answer", or
    "turn" where a model's turn by itself was wanted. A report tells "asked" (`text`: the question) before each answer.
    """

    kind: str
    step: Step | None = None
    text: str = ""
    answer: Answer | None = None
    findings: tuple[Finding, ...] = ()
    turn: Turn | None = None


@dataclass(frozen=True)
class Wanted:
    """A turn that an answer in the making waits for: what the engine is to be asked (see `TorchEngine.turn`)."""

    messages: list[dict]
    shown: Shown
    tools: tuple[dict, ...]
    calls: bool = True
    expert: str | None = None


@dataclass
class Draft:
    """What an answer in the making knows. shown: what the model is shown (see `show`); messages: its prompt so far;
    expert: who speaks (see `TorchEngine.turn`); turns: what was written so far."""

    question: str
    box: Toolbox
    history: Sequence[Answer] = ()
    shown: Shown | None = None
    messages: list[dict] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    evidence: list[Evidence] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    expert: str | None = None
    turns: list[Turn] = field(default_factory=list)

    def show(self, shown: Shown) -> None:
        """Begin the prompt, with `shown` in its first question."""
        self.shown = shown
        captions, first = self.captions, not self.history
        question = user_message(self.question, with_image=first, captions=captions if first else ())
        self.messages = [*history_messages(self.history, captions), question]
        for step in self.steps:
            self.messages += step_messages(step)

    @property
    def captions(self) -> tuple[str, ...]:
        """A line of text for each picture shown, where there are several."""
        return self.shown.captions if isinstance(self.shown, Pictures) else ()

    @property
    def looked_at(self) -> tuple[tuple[int, int, int, int], ...]:
        """(x, y, width, height) at level 0 of places that were shown to the model or looked at by a tool."""
        shown = self.shown.places if isinstance(self.shown, Pictures) else ()
        return tuple(dict.fromkeys((*shown, *self.box.looked_at)))

    def read(self, turn: Turn) -> ToolCall | None:
        """The turn's call; None where it is the final text. A broken call (no grammar) counts as text."""
        self.turns.append(turn)
        try:
            return parse_turn(turn.text)
        except CallError as error:
            self.warnings.append(f"the model wrote a tool call that does not parse: {error}")
            return None

    @property
    def certainty(self) -> float:
        """How sure the tools are of what they found and did not find, 0–1: the least of them; 1 without any."""
        told = [one for one in self.evidence if one.kind == "presence" and one.value is not None]
        return min((one.value if one.found else 1 - one.value for one in told), default=1.0)

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
        if not self.box.own_words:
            return measured_text(self.steps, bool(_YES_NO.match(self.question)))
        if told and not reasons and len(set(claims)) == len(claims):
            return ""
        stated = measured_text(self.steps, bool(_YES_NO.match(self.question)))
        if stated:
            reason = reasons[0] if reasons else f"not what was measured: “{text[:100]}”"
            self.warnings.append(f"{REPLACED}; {reason}")
        return stated

    def note(self, step: Step, outcome: Outcome) -> None:
        """Keep a step that was run, and tell the model of it."""
        self.steps.append(step)
        self.evidence += outcome.evidence
        self.warnings += outcome.warnings
        self.messages += step_messages(step)


def short_answer(question: str, text: str, steps: Sequence[Step]) -> str:
    """The bare answer: what was measured where a tool gave it ("yes", "no", "212", "31%", "0.42"), else the
    model's words.

    Measured values come from the tool result and not from the text, which may have slipped a digit.
    """
    results = [step.result for step in steps if "found" in step.result or "measured" in step.result]
    said = re.match(r"(yes|no)\b\s*(?:[,.:;–-]|$)", text.strip(), re.IGNORECASE)
    if not results:
        first = re.split(r"(?<=[.!?])\s", text.strip(), maxsplit=1)[0]
        return said[1].lower() if said else first.rstrip(".").strip()
    result = results[-1]
    if "measured" in result:
        return amounts_text(result)
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
