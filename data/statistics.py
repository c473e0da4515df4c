"""Uncertainty of a figure: the percentile bootstrap over items (Efron & Tibshirani 1993). Pure functions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np

RESAMPLES = 2000


@dataclass(frozen=True)
class Figure:
    """A measured value with its 95 % interval and the number of items behind it; NaN where there are none."""

    value: float
    low: float
    high: float
    n: int

    def to_dict(self) -> dict:
        """JSON-ready, rounded to four places; None for NaN."""
        return {key: None if number != number else round(number, 4) for key, number in asdict(self).items()}

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}], n = {self.n}"


def bootstrap(statistic: Callable[[np.ndarray], float], n: int, seed: int = 0) -> Figure:
    """`statistic` of all items, and its 2.5 % and 97.5 % points over resampled items.

    statistic: takes an int array of item indices (with repeats) and gives one number; n: how many items there are.
    """
    if n == 0:
        return Figure(float("nan"), float("nan"), float("nan"), 0)
    rng = np.random.default_rng(seed)
    drawn = [statistic(rng.integers(n, size=n)) for _ in range(RESAMPLES)]
    low, high = np.nanpercentile(drawn, [2.5, 97.5])
    return Figure(float(statistic(np.arange(n))), float(low), float(high), n)


def mean_figure(values: list[float] | np.ndarray, seed: int = 0) -> Figure:
    """Mean of `values` with its bootstrap interval."""
    values = np.asarray(values, float)
    return bootstrap(lambda index: float(values[index].mean()), len(values), seed)


def balanced_accuracy(truth: np.ndarray, correct: np.ndarray) -> float:
    """Mean over the classes in `truth` of the share answered correctly (macro recall)."""
    return float(np.mean([correct[truth == label].mean() for label in np.unique(truth)]))
