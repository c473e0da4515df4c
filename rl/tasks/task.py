"""What every task family is made of: a question with its truth, what a model did about it, and what that earns.

A `Task` holds prompt, parser, metric and reward of one family together, so that what is rewarded is what is measured.
Rewards are pure: they look at the rollout and the truth alone, never at a file or a model, and never raise on any text.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from slidekick.copilot.tools import Outcome
from slidekick.rl.instructions.stock import Stock
from slidekick.rl.tasks.form import FORM, form, loops

Truth = Mapping[str, object]


@dataclass(frozen=True)
class ToolStep:
    """One tool call that ran. mask: bool (H, W) over the picture or slide, of any resolution; None where the tool drew
    none or it was not kept."""

    name: str
    arguments: dict
    result: dict
    mask: np.ndarray | None = field(default=None, compare=False)

    @classmethod
    def of(cls, name: str, arguments: dict, outcome: Outcome) -> ToolStep:
        """A call with what `Toolbox.call` gave for it."""
        return cls(name, arguments, outcome.result, outcome.findings[0].mask if outcome.findings else None)

    @property
    def concept(self) -> str:
        """The word that the tool was called with; "" for none."""
        return str(self.arguments.get("concept", ""))


@dataclass(frozen=True)
class Rollout:
    """What a model did about a question. text: its last turn, in words. steps: its tool calls, in their order.
    complete: whether the text ended by itself and not at the length limit."""

    text: str
    steps: tuple[ToolStep, ...] = ()
    complete: bool = True

    @classmethod
    def of_messages(cls, completion: str | Sequence[Mapping], complete: bool = True) -> Rollout:
        """A completion as trl gives it, text or messages, without masks. What is no message of ours is passed over."""
        if isinstance(completion, str):
            return cls(completion, (), complete)
        calls, steps, text = [], [], ""
        for message in completion:
            content = _text(message.get("content"))
            if message.get("role") == "tool":
                name, arguments = calls.pop(0) if calls else (str(message.get("name", "")), {})
                steps.append(ToolStep(name, arguments, _object(content)))
            else:
                made = [call.get("function") or {} for call in message.get("tool_calls") or ()]
                calls += [(str(one.get("name", "")), _object(one.get("arguments"))) for one in made]
                text = "" if made else content
        return cls(text, tuple(steps), complete)


@dataclass(frozen=True)
class Reward:
    """value: 0–1. parts: the numbers it is made of, and figures of the evaluation beside them, each 0–1. parsed:
    whether the answer could be read; one that could not earns nothing."""

    value: float
    parts: dict[str, float]
    parsed: bool


@dataclass(frozen=True)
class Row:
    """One question to train on.

    task: its family. set: the set of its picture or text. truth: what the family's reward needs, JSON-ready; always
    with `answer`, a right answer in words. images: no or one picture. slide: the seed of a composed slide's plan (see
    `slides.SIZES`) where the question is about one. mpp: µm per pixel, where known.
    """

    task: str
    set: str
    question: str
    truth: dict
    images: tuple[Path, ...] = ()
    slide: int | None = None
    mpp: float | None = None

    @property
    def messages(self) -> list[dict]:
        """The question in chat-template form, the picture before it, as in supervised training."""
        shown = [{"type": "image"}] * (len(self.images) + (self.slide is not None))
        return [{"role": "user", "content": [*shown, {"type": "text", "text": self.question}]}]

    def columns(self) -> dict:
        """As a row of a data set for trl: plain values of one type a column; truth as JSON, pictures as paths."""
        return {
            "prompt": [{"role": "user", "content": self.question}],  # trl puts the pictures before it
            "images": [str(path) for path in self.images],
            "task": self.task,
            "set": self.set,
            "truth": json.dumps(self.truth),
            "slide": -1 if self.slide is None else self.slide,
            "mpp": self.mpp,
        }


class Source(Protocol):
    """What a family's rows are drawn from; false where there is nothing to ask about."""

    def __bool__(self) -> bool: ...

    def make(self, rng: np.random.Generator) -> Row:
        """One row, with a question in a taught wording."""
        ...


@dataclass(frozen=True)
class Task:
    """A family.

    source: its rows over training material, None for a reward without rows of its own. read: (rollout, truth) -> what
    the answer says, None where it cannot be read. score: (what was read, rollout, truth) -> parts, each 0–1, among them
    `score`, the family's metric.
    """

    name: str
    source: Callable[[Stock], Source] | None
    read: Callable[[Rollout, Truth], object | None]
    score: Callable[[object, Rollout, Truth], dict[str, float]]

    def reward(self, rollout: Rollout, truth: Truth) -> Reward:
        """score · (1 − `FORM` + `FORM` · form): the metric, less up to a tenth for how it is said.

        Form multiplies and is not added, so that a well-formed guess earns nothing by its form. An answer without
        words, one that loops (`form.loops`), or one that cannot be read earns 0.
        """
        shape = form(rollout.text, str(truth["answer"]), rollout.complete)
        empty = not rollout.text.strip() or loops(rollout.text)
        said = None if empty else self.read(rollout, truth)
        if said is None:
            return Reward(0.0, {"score": 0.0, "form": shape}, False)
        parts = {name: min(max(float(part), 0.0), 1.0) for name, part in self.score(said, rollout, truth).items()}
        return Reward(parts["score"] * (1 - FORM + FORM * shape), parts | {"form": shape}, True)


def _text(content: object) -> str:
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list | tuple) else ()
    return "".join(str(part.get("text") or "") for part in parts if isinstance(part, Mapping))


def _object(written: object) -> dict:
    """A JSON object, or a dict as it is; {} for anything else."""
    if isinstance(written, Mapping):
        return dict(written)
    try:
        read = json.loads(written) if isinstance(written, str) else {}
    except (ValueError, RecursionError):
        return {}
    return read if isinstance(read, dict) else {}
