"""An engine that says the lines it is given, lines to give it, and a segmentor that draws what it is told."""

from __future__ import annotations

import numpy as np

from slidekick.copilot.grammar import ToolCall
from slidekick.copilot.turn import Turn
from slidekick.grounding.finding import Finding


def call(name: str, concept: str) -> str:
    """What a model writes to call a tool."""
    return ToolCall(name, {"concept": concept}).to_text()


MEASURED = (
    call("segment", "gland"),
    "Gland was found, in the upper left, covering 25% of the picture.",
    call("count", "nucleus"),
    "There are 3 nuclei.",
)  # what an engine says for a report on gland and nucleus, and what `DrawnSegmentor` lets be measured


class ScriptedEngine:
    """Says the lines it is given, three letters at a time; notes what it was asked."""

    name, packages = "scripted", ("numpy",)
    history = 4
    reads_slides = True

    def __init__(self, *lines: str, complete: bool = True) -> None:
        self.lines, self.complete = list(lines), complete
        self.asked: list[dict] = []

    def turn(self, messages, image, tools, *, calls=True):
        self.asked.append({"messages": list(messages), "image": image, "tools": tools, "calls": calls})
        line = self.lines[len(self.asked) - 1]
        yield from (line[i : i + 3] for i in range(0, len(line), 3))
        yield Turn(line, 0.9, self.complete)


class DrawnSegmentor:
    """Knows nucleus (3 objects, 300 px), gland (a region, upper left quarter), glomerulus (absent); counts calls."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def segment(self, image, concepts, *, mpp=None):
        return [self._one(words, image.shape[:2]) for words in concepts]

    def _one(self, words: str, shape: tuple[int, int]) -> Finding:
        self.calls.append(words)
        empty = np.zeros(shape, dtype=bool)
        name = {"nuclei": "nucleus", "glands": "gland"}.get(words.lower(), words.lower())
        if name == "broken":
            raise RuntimeError("no such layer")
        if name == "nucleus":
            instances = np.zeros(shape, dtype=np.int32)
            for i, x in enumerate((5, 40, 80), start=1):
                instances[10:20, x : x + 10] = i
            return Finding("nucleus", instances > 0, 0.9, 0.99, instances, prompt=words)
        if name == "gland":
            empty[: shape[0] // 2, : shape[1] // 2] = True
            return Finding("gland", empty, 0.8, 0.95, prompt=words)
        if name == "glomerulus":
            return Finding("glomerulus", empty, 0.0, 0.02, prompt=words)
        return Finding(words, empty, 0.0, 0.0, known=False, prompt=words, nearest="gland")
