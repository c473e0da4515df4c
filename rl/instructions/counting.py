"""How many? The `count` tool is called and its number repeated; of regions it gives the area."""

from __future__ import annotations

import numpy as np

from slidekick.copilot.sentences import count_sentence
from slidekick.rl.instructions.balance import one
from slidekick.rl.instructions.concepts import Word, draw_phrasing
from slidekick.rl.instructions.lessons import ToolFamily, asked
from slidekick.rl.instructions.stock import Stock
from slidekick.rl.instructions.truth import COUNTED
from slidekick.rl.instructions.turns import Instruction, conversation

COUNT = (
    "How many {many} are there?",
    "Count the {many}.",
    "How many {many} do you see?",
    "How many {many}?",
    "What is the number of {many}?",
    "How many {many} does this picture hold?",
    "Give the count of {many}.",
    "Tell me how many {many} there are.",
    "What number of {many} is in the picture?",
    "Please count the {many} in this image.",
    "How many of the {many} can you find?",
    "Give me the total of {many}.",
    "Count the {one}.",
    "Do a count of {many}.",
    "The number of {many}?",
    "Say how many {many} you find.",
    "I want to know how many {many} there are.",
    "How many {many} would you count?",
    "How often do {many} occur here?",
    "How large is the number of {many}?",
    "Report the number of {many}.",
    "Go through the picture and count the {many}.",
    "How many {many}, all told?",
    "How many {many} are in view?",
    "How many {many} can you count?",
    "Add up the {many}.",
    "What is the total of {many}?",
    "What is the count of {many}?",
    "Total number of {many}?",
    "Count of {many}?",
    "How many single {many} are there?",
    "Just count the {many}.",
    "How high is the count of {many}?",
    "Make a count of the {many}.",
    "Work out how many {many} there are.",
    "Find the number of {many}.",
    "List how many {many} there are.",
    "Calculate the number of {many}.",
    "Compute how many {many} the picture has.",
    "Determine the number of {many}.",
    "How many {many} have you found?",
    "About how many {many} are there?",
    "Give the exact number of {many}.",
    "The {many}: how many?",
    "Put a number on the {many}.",
    "I would like the number of {many}.",
    "Get me the number of {many}.",
    "Provide a count for the {many}.",
    "Which number of {many} do you get?",
    "Number all the {many} one by one.",
    "State how many {many} the image contains.",
)
MARKED = 0.2  # share of pictures whose objects are all marked by points or boxes


class Counting(ToolFamily):
    """Questions for `count`, some about pictures whose objects are all marked."""

    task = tool = "count"

    def __init__(self, stock: Stock) -> None:
        super().__init__(stock)
        self.marked = [item for item in stock.items if item.set in COUNTED]

    def make(self, rng: np.random.Generator) -> Instruction:
        """A conversation about any picture."""
        if not self.marked or rng.random() >= MARKED:
            return super().make(rng)
        item = one(rng, self.marked)
        word = draw_phrasing(rng, COUNTED[item.set][0])
        result = self.stock.result(rng, self.tool, item, word.concept)
        return conversation(self.task, item.set, [item.image], self.exchange(rng, word, result))

    def wording(self, rng: np.random.Generator, word: Word, result: dict) -> tuple[str, str]:
        """How many; the number, or the area of a region."""
        return asked(rng, COUNT, word), count_sentence(word.one, result)
