"""Drawing evenly: no set and no label crowds out the others."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Generic, TypeVar

import numpy as np

T = TypeVar("T")


class Balanced(Generic[T]):
    """Rows under a set and a label. A draw takes a set with the root of its size, then a label of it, then a row.

    rows: (set, label, row).
    """

    def __init__(self, rows: Iterable[tuple[str, str, T]]) -> None:
        self.rows: dict[str, dict[str, list[T]]] = defaultdict(lambda: defaultdict(list))
        for name, label, row in rows:
            self.rows[name][label].append(row)
        self.sets = sorted(self.rows)
        self._labels = {name: sorted(self.rows[name]) for name in self.sets}  # once, and not for each draw
        sizes = np.sqrt([sum(map(len, self.rows[name].values())) for name in self.sets])
        self.weights = sizes / sizes.sum() if len(sizes) else sizes

    def __bool__(self) -> bool:
        return bool(self.sets)

    def labels(self, name: str) -> list[str]:
        """The labels of a set, in order; none where it has no rows."""
        return self._labels.get(name, [])

    def draw(self, rng: np.random.Generator) -> T:
        """One row."""
        name = self.sets[rng.choice(len(self.sets), p=self.weights)]
        return one(rng, self.rows[name][one(rng, self.labels(name))])


def one(rng: np.random.Generator, options: Sequence[T]) -> T:
    """Any of `options`, each as likely as the others."""
    return options[rng.integers(len(options))]
