"""Is it there, and where? The `segment` tool is called; place and area are repeated."""

from __future__ import annotations

import numpy as np

from slidekick.copilot.sentences import segment_sentence
from slidekick.rl.instructions.concepts import Word
from slidekick.rl.instructions.lessons import ToolFamily, asked

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
    "Can you see {a}?",
    "Do any {many} show up?",
    "Tell me whether there are {many}.",
    "Are {many} there?",
    "Might there be {a} here?",
    "Does the tissue have {many}?",
    "Is there evidence of {many}?",
    "Do we have {many} here?",
    "See if there is {a}.",
    "Has this picture got any {many}?",
    "Does this picture show {many}?",
    "Is {a} shown here?",
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
    "Locate the {many}.",
    "Shade the {many}.",
    "Draw a line round the {one}.",
    "Where can I find {many}?",
    "Which region is {one}?",
    "What part of the image has {many}?",
    "Lay a mask over the {many}.",
    "I want to see the {many}.",
    "Indicate the {one}.",
    "Select all {many}.",
    "Map the {many}.",
    "Let me see where the {one} is.",
    "Frame the {many}.",
)


class Segmentation(ToolFamily):
    """Questions for `segment`, half of them of yes or no."""

    task = tool = "segment"

    def wording(self, rng: np.random.Generator, word: Word, result: dict) -> tuple[str, str]:
        """Whether or where; place and area."""
        there = rng.random() < 0.5
        return asked(rng, THERE if there else WHERE, word), segment_sentence(word.one, result, there)
