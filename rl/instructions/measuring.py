"""How large, how much? The `measure` tool is called; number, area and diameter are repeated."""

from __future__ import annotations

import numpy as np

from slidekick.copilot.sentences import measure_sentence
from slidekick.rl.instructions.concepts import Word
from slidekick.rl.instructions.lessons import ToolFamily, asked

MEASURE = (
    "Measure the {many}.",
    "How large are the {many}?",
    "What area does the {one} cover?",
    "How much {one} is there?",
    "How big is the {one}?",
    "What share of the picture is {one}?",
    "Give the size of the {many}.",
    "What percentage is {one}?",
    "How much of the image is {one}?",
    "What is the area of the {one}?",
    "What proportion does the {one} take?",
    "Tell me how big the {many} are.",
    "What is the diameter of the {many}?",
    "Quantify the {one}.",
    "Calculate the area of the {one}.",
    "How much space does the {one} take up?",
    "What is the extent of the {one}?",
    "How far does the {one} spread?",
    "State the area of the {many}.",
    "Determine the size of the {many}.",
    "How much of the picture do the {many} fill?",
    "How thick are the {many}?",
    "What is the mean diameter of the {many}?",
    "The area of the {one}, please.",
    "In per cent, how much is {one}?",
)


class Measuring(ToolFamily):
    """Questions for `measure`."""

    task = tool = "measure"

    def wording(self, rng: np.random.Generator, word: Word, result: dict) -> tuple[str, str]:
        """How large; number, area and diameter."""
        return asked(rng, MEASURE, word), measure_sentence(word.one, result)
