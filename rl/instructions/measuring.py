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
    "How big are the {many}?",
    "How much area do the {many} have?",
    "What is the average size of the {many}?",
    "What is the average diameter of the {many}?",
    "How large is the area of {one}?",
    "How much is covered by {one}?",
    "Give the area of the {one} in per cent.",
    "Compute the area of the {one}.",
    "What is the {one} area?",
    "How much of it is {one}?",
    "Give me the percentage of {one}.",
    "Tell me the share of {one}.",
    "What is the proportion of {one}?",
    "How broad are the {many}?",
    "How long are the {many} across?",
    "Measure how much {one} there is.",
    "What are the sizes of the {many}?",
    "How much tissue is {one}?",
    "Give the measurements of the {one}.",
    "Do a measurement of the {many}.",
    "Measure the area of {one}.",
    "Measure the size of the {many}.",
    "How small are the {many}?",
    "Express the {one} as a percentage.",
    "How many per cent is {one}?",
)


class Measuring(ToolFamily):
    """Questions for `measure`."""

    task = tool = "measure"

    def wording(self, rng: np.random.Generator, word: Word, result: dict) -> tuple[str, str]:
        """How large; number, area and diameter."""
        return asked(rng, MEASURE, word), measure_sentence(word.one, result)
