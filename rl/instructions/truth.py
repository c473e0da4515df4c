"""What a labelled picture truly holds of a concept, as the tools would report it; results are invented where no label
tells. The lesson of a tool conversation is which tool to call and to repeat what it says, so an invented result serves,
but where the truth is known the conversation tells it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from slidekick.copilot.tools import compact_result
from slidekick.data.items import Item
from slidekick.data.triples import Triple, triples, truth
from slidekick.grounding import measure
from slidekick.grounding.finding import Finding
from slidekick.rl.instructions.balance import one
from slidekick.rl.instructions.concepts import is_region, names

# Sets that mark every one of these objects by a point or a box: their number is known, their area is not.
COUNTED = {
    "bm_graz_nuclei": ("nucleus", ("cell nucleus",)),
    "crc_histophenotypes": ("nucleus", None),  # None: all of its points
    "bccd_blood_cells": ("white blood cell", ("white blood cell",)),
}
PLACES = (*(place for row in measure.PLACES for place in row), measure.THROUGHOUT)
FOUND = 0.7  # share of results that found something; the rest teaches to say that nothing is there


class Truths:
    """What is known of the concepts in `items`. Masks are opened when they are first asked for."""

    def __init__(self, items: Sequence[Item]) -> None:
        self.known: dict[tuple[str, str, str], Triple] = {}
        self.showing: dict[str, list[Triple]] = defaultdict(list)
        self.lacking: dict[str, list[Triple]] = defaultdict(list)
        self.of_item: dict[tuple[str, str], list[Triple]] = defaultdict(list)
        for triple in triples(items, names()):
            self.known[triple.item.set, triple.item.id, triple.concept] = triple
            (self.lacking if triple.mode == "absent" else self.showing)[triple.concept].append(triple)
            if triple.mode != "absent":
                self.of_item[triple.item.set, triple.item.id].append(triple)
        self._measured: dict[tuple[str, str, str], measure.Measurement | None] = {}

    def result(self, tool: str, item: Item, concept: str) -> dict | None:
        """What `tool` would return if it saw what the labels say; None where they do not tell."""
        if tool == "count" and (number := counted(item, concept)) is not None:
            return {"found": True, "count": number} if number else {"found": False}
        key = (item.set, item.id, concept)
        if key not in self.known:
            return None
        if self.known[key].mode == "absent":
            return {"found": False}
        if key not in self._measured:
            self._measured[key] = _measured(self.known[key])
        measured = self._measured[key]
        return None if measured is None else compact_result(tool, measured)

    def draw(self, rng: np.random.Generator, concept: str) -> Item | None:
        """A picture of which it is known whether it shows the concept; None where there is none."""
        showing, lacking = self.showing.get(concept), self.lacking.get(concept)
        if not showing and not lacking:
            return None
        rows = showing if showing and (not lacking or rng.random() < FOUND) else lacking
        return one(rng, rows).item


def counted(item: Item, concept: str) -> int | None:
    """The number of objects that points or boxes tell; None where they tell none."""
    name, labels = COUNTED.get(item.set, (None, None))
    if name != concept:
        return None
    marks = [mark[-1] for mark in (*item.points, *item.boxes)]
    return len(marks) if labels is None else sum(mark in labels for mark in marks)


def invented(rng: np.random.Generator, tool: str, concept: str) -> dict:
    """A result of a known concept in the tools' form, drawn by chance."""
    if rng.random() >= FOUND:
        return {"found": False}
    area = f"{rng.integers(1, 101)}%" if rng.random() < 0.95 else "<1%"
    number = int(np.exp(rng.uniform(0, np.log(900))))
    if tool == "segment":
        return {"found": True, "area": area, "where": one(rng, PLACES)}
    if is_region(concept):
        return {"found": True, "area": area}
    if tool == "count":
        return {"found": True, "count": number}
    diameter = {"diameter": f"{rng.uniform(3, 60):.1f} um"} if rng.random() < 0.5 else {}
    return {"found": True, "count": number, "area": area, **diameter}


def _measured(triple: Triple) -> measure.Measurement | None:
    """None where the tools would count objects and the labels do not part them."""
    if triple.mode == "whole":
        mask, ids = np.ones((9, 9), bool), None  # all of it, whatever its size
    else:
        mask, ids = truth(triple)
    if is_region(triple.concept):
        ids = None
    elif ids is None:
        return None
    return measure.measure(Finding(triple.concept, mask, 1.0, 1.0, ids), triple.item.scale)
