"""Is it there, and where? The `segment` tool is called; place and area are repeated."""

from __future__ import annotations

import numpy as np

from slidekick.rl.instructions.concepts import Word
from slidekick.rl.instructions.lessons import ToolFamily, asked
from slidekick.rl.instructions.sentences import segment_sentence

THERE = (
    "Is there {a} in this picture?",
    "Is there {a}?",
    "Is there any {one}?",
    "Are there {many}?",
    "Do you see {a}?",
    "Are there any {many} here?",
    "Is {a} present?",
    "Can you find any {many}?",
    "Are any {many} to be seen?",
    "Does the picture contain {a}?",
    "Is {a} in the image?",
    "Have you found any {many}?",
    "Any sign of {a}?",
    "Look for {many}.",
    "Does this image hold any {one}?",
)
WHERE = (
    "Where is the {one}?",
    "Where are the {many}?",
    "Show the {many}.",
    "Outline the {one}.",
    "Segment the {many}.",
    "Where do you see {many}?",
    "Mark the {one}.",
    "Find the {many}.",
    "Draw around the {many}.",
    "Show me where the {one} is.",
    "Localise the {many}.",
    "Please segment the {one}.",
    "Colour in the {many}.",
    "Show the outline of the {one}.",
    "In what part of the picture is the {one}?",
    "Give me the mask of the {one}.",
)


class Segmentation(ToolFamily):
    """Questions for `segment`, half of them of yes or no."""

    task = tool = "segment"

    def wording(self, rng: np.random.Generator, word: Word, result: dict) -> tuple[str, str]:
        """Whether or where; place and area."""
        there = rng.random() < 0.5
        return asked(rng, THERE if there else WHERE, word), segment_sentence(word.one, result, there)
