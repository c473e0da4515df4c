"""Questions of the families that are reinforced, about held-out pictures: what `slidekick evaluate tasks` asks.

They are drawn as those of training are (`rl/tasks/`), from other pictures: the same share of each family, the same ones
each time. Each answer earns its family's metric, tools, masks and all; form (`Task.reward`) does not count here.
Questions of text alone are left out, since a copilot is always shown a picture.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from slidekick.data.items import Item
from slidekick.grounding.export import from_rle
from slidekick.rl.evaluation.questions import Question, question_of
from slidekick.rl.instructions.stock import Stock
from slidekick.rl.tasks import SLIDE_TASKS, TASKS, Rollout, Row, ToolStep

MOST = 1050  # questions asked where no limit is given: 150 of each family
SEED = 11
TRIES = 20  # draws for one new question, before the family is taken to be exhausted


def task_questions(items: Sequence[Item], most: int | None = None) -> list[Question]:
    """At most `most` (1050) questions about `items`, as many of each family, those about one picture together.

    Each one's truth is a right answer in words; its notes hold the columns `task` and `task_truth`.
    """
    stock, of_picture = Stock(items), {item.image: item for item in items}
    sources = [task.source(stock) for name, task in TASKS.items() if task.source and name not in SLIDE_TASKS]
    ready = [source for source in sources if source]
    made: dict[str, Question] = {}
    for place, source in enumerate(ready):
        rng = np.random.default_rng([SEED, place])
        share = len(range(place, MOST if most is None else most, len(ready)))
        wanted = len(made) + share
        for _ in range(share * TRIES):
            if len(made) == wanted:
                break
            row = source.make(rng)
            if row.images:
                one = _question(row, of_picture[row.images[0]])
                made[one.id] = one
    return sorted(made.values(), key=lambda one: (one.set, str(one.picture), one.id))


def _question(row: Row, item: Item) -> Question:
    notes, part = {"task": row.task, "task_truth": row.truth}, f"{row.task}#{row.question}"
    return question_of(item, "tasks", "text", row.question, row.truth["answer"], part, notes=notes)


def judged(row: dict) -> dict:
    """The row with what its family says of the answer: `score`, `parts`, whether it could be read, and `weight`."""
    steps = [
        ToolStep(call["tool"], {"concept": call["argument"] or ""}, call["result"], _mask(call["rle"]))
        for call in row["calls"]
    ]
    reward = TASKS[row["task"]].reward(Rollout(row["answer"], tuple(steps), row["complete"]), row["task_truth"])
    score = reward.parts["score"]
    return row | {
        "said": row["answer"] if reward.parsed else None,
        "right": float(score >= 0.5),
        "score": score,
        "parts": reward.parts,
        "weight": float(row["task_truth"].get("weight", 1.0)),
    }


def _mask(rle: dict | None) -> np.ndarray | None:
    return None if rle is None else from_rle(rle)
