"""A model of scripted words and a segmentor that draws what it is told: what commands, servers and pages talk to."""

from __future__ import annotations

import time
from typing import ClassVar

import numpy as np

from slidekick.copilot.grammar import ToolCall
from slidekick.copilot.turn import Turn
from slidekick.grounding.finding import Finding


class Vocabulary:
    concepts = dict.fromkeys(("nucleus", "gland", "glomerulus"))
    words: ClassVar = dict(zip(concepts, concepts, strict=True))  # phrase -> concept


class DrawnSegmentor:
    """Two nuclei in the upper left; no gland, no glomerulus; every other word is unknown."""

    vocabulary = Vocabulary

    def segment(self, image, concepts, *, mpp=None):
        return [self._one(words, image.shape[:2]) for words in concepts]

    def _one(self, words, shape):
        labels = np.zeros(shape, np.int32)
        if words == "nucleus":
            labels[4:12, 4:12], labels[4:12, 16:24] = 1, 2
            return Finding("nucleus", labels > 0, 0.9, 0.99, labels, prompt=words)
        known = words in Vocabulary.concepts or words == "positive cell"
        nearest = None if known else "gland"
        return Finding(words, labels > 0, 0.0, 0.02, known=known, prompt=words, nearest=nearest)


class KeywordEngine:
    """Calls a tool for "how many" and "is there", then repeats its result; else says what it is told to."""

    name = "scripted"
    history = 4

    def __init__(self, says="The picture shows colon.", number=None, pause=0.0):
        self.says, self.number, self.pause = says, number, pause
        self.ended = 0  # turns said to the end or left

    def turn(self, messages, image, tools, *, calls=True):
        line = self._line(messages)
        try:
            for i in range(0, len(line), 4):
                time.sleep(self.pause)
                yield line[i : i + 4]
            yield Turn(line, 0.87)
        finally:
            self.ended += 1

    def _line(self, messages):
        last = messages[-1]
        if last["role"] == "tool":
            if '"found": false' in last["content"]:
                return "No glomerulus was found in this picture."
            return f"There are {self.number or 2} nuclei."
        asked = last["content"][-1]["text"].lower()
        if "how many" in asked:
            return ToolCall("count", {"concept": "nucleus"}).to_text()
        if "glomerulus" in asked:
            return ToolCall("segment", {"concept": "glomerulus"}).to_text()
        return self.says
