"""The families by name, and rows of them to train on: taught wordings, training pictures, truths from labels.

What is asked here is asked in supervised training too, so wordings that evaluation keeps for itself stay unseen; what
copies a held-out picture or question is left out by `instructions.material.gather`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from slidekick.copilot.grammar import ToolCall
from slidekick.data.errors import InputError
from slidekick.rl.instructions.make import quotas
from slidekick.rl.instructions.material import Material
from slidekick.rl.instructions.stock import Stock
from slidekick.rl.tasks import (
    classification,
    closed_vqa,
    counting,
    detection,
    open_vqa,
    report,
    segmentation,
    slide_classification,
    slide_vqa,
)
from slidekick.rl.tasks.task import Row, Task

log = logging.getLogger(__name__)

TASKS: dict[str, Task] = {
    family.TASK.name: family.TASK
    for family in (
        classification, detection, segmentation, counting, closed_vqa, open_vqa, slide_classification, slide_vqa,
        report,
    )
}  # fmt: skip
READ = ("classification", "closed_vqa", "open_vqa")  # answered from the picture as a whole, in a few words, by no tool
SLIDE_TASKS = ("slide_classification", "slide_vqa")  # their pictures are bags of tiles


def is_read(row: Row) -> bool:
    """Whether a question is answered from the picture or the text that it shows, by no tool: those of `READ`, and
    reports other than descriptions, which measure."""
    return row.task in READ or (row.task == "report" and "word" not in row.truth)


def right_turn(row: Row) -> str | None:
    """The turn that a question should first be answered with, where its truth tells: the right answer of what is read,
    the right call of what is measured. None for detection, which is answered by a call or by boxes."""
    if is_read(row):
        return str(row.truth["answer"])
    tool = {"segmentation": "segment", "counting": "count", "report": "measure"}.get(row.task)
    return tool and ToolCall(tool, {"concept": row.truth["word"]}).to_text()


def rl_rows(material: Material, tasks: Mapping[str, float], count: int, seed: int) -> list[Row]:
    """`count` rows of families over training material, in an order drawn by chance; the same ones for the same seed.

    tasks: name of a family -> its share. A family without anything to ask about hands its share
    on to the others, with a warning. Raises InputError for a name that is none, a count or share below what is needed,
    and where nothing is left to ask.
    """
    for name, share in tasks.items():
        if name not in TASKS:
            raise InputError(f"no task family {name!r}; there are {', '.join(TASKS)}")
        if not 0 <= share < float("inf"):
            raise InputError(f"share of {name} is {share!r}; give a number from 0 on")
    if count < 1:
        raise InputError(f"{count} rows were asked for; give 1 or more")
    stock = Stock(material.items, material.texts)
    sources = {name: TASKS[name].source(stock) for name, share in tasks.items() if share > 0}
    ready = {name: source for name, source in sources.items() if source}
    if not ready:
        raise InputError(f"nothing to ask about for {', '.join(tasks) or 'any family'}; give labelled sets")
    if idle := sorted(set(sources) - set(ready)):
        log.warning("nothing to ask about for %s; their share goes to the other families", ", ".join(idle))
    numbers = quotas({name: tasks[name] for name in ready}, count)
    rng = np.random.default_rng(seed)
    order = rng.permutation([name for name, number in numbers.items() for _ in range(number)])
    scales = {item.image: item.mpp for item in material.items}
    rows = [ready[name].make(rng) for name in order]
    return [replace(row, mpp=scales.get(row.images[0])) if row.images else row for row in rows]
