"""Whether a probability of 0.8 is right eight times in ten: reliability tables and expected calibration error.

Pure functions of probabilities, and one accumulator for the pixels of many pictures. The probability is that of "it is
there" (a picture's presence, a pixel's mask), not of the likelier of two answers, so that both ends are judged. What
is drawn from the tables is in `charts.py`.
"""

from __future__ import annotations

import numpy as np

BINS = 15  # as in Guo et al. 2017
Table = list[dict[str, float]]


def reliability(probability: np.ndarray, truth: np.ndarray, bins: int = BINS) -> Table:
    """One row a bin that holds anything, in order: low, high (its edges), n, probability (mean), truth (share).

    probability: float, any shape, 0–1; truth: bool, the same shape. Bins are (low, high], the first one with 0, of
    equal width. Raises ValueError for unequal shapes, or a probability that is NaN or outside 0–1.
    """
    probability, truth = _checked(probability, truth)
    if not probability.size:
        return []
    edges = np.linspace(0, 1, bins + 1)
    return _table(edges, _sums(probability, truth, edges))


def expected_calibration_error(probability: np.ndarray, truth: np.ndarray, bins: int = BINS) -> float:
    """ECE, 0–1 (Naeini et al. 2015; Guo et al. 2017): |mean probability − share true| a bin, weighted by its items.

    NaN without items. Arguments and errors are those of `reliability`.
    """
    return gap(reliability(probability, truth, bins))


def gap(table: Table) -> float:
    """The expected calibration error of a `reliability` table; NaN for an empty one."""
    items = sum(row["n"] for row in table)
    if not items:
        return float("nan")
    return sum(row["n"] * abs(row["probability"] - row["truth"]) for row in table) / items


class PixelCalibration:
    """Calibration of every pixel of many pictures, kept as three sums a bin and no pixel."""

    def __init__(self, bins: int = BINS) -> None:
        self._edges = np.linspace(0, 1, bins + 1)
        self._sums = np.zeros((3, bins))

    def add(self, probability: np.ndarray, truth: np.ndarray, judged: np.ndarray | None = None) -> None:
        """One picture: float (H, W), 0–1; bool (H, W); and bool (H, W) of the pixels that count, None for all.

        Raises ValueError as `reliability` does.
        """
        probability, truth = _checked(probability, truth)
        if judged is not None:
            probability, truth = probability[judged.ravel()], truth[judged.ravel()]
        self._sums += _sums(probability, truth, self._edges)

    def table(self) -> Table:
        """`reliability` of all pixels so far."""
        return _table(self._edges, self._sums)

    def error(self) -> float:
        """`expected_calibration_error` of all pixels so far; NaN before the first."""
        return gap(self.table())


def _checked(probability: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    probability, truth = np.asarray(probability), np.asarray(truth, bool)
    if probability.shape != truth.shape:
        raise ValueError(f"{probability.shape} probabilities for {truth.shape} truths; give one truth each")
    if not ((probability >= 0) & (probability <= 1)).all():
        raise ValueError("probabilities must lie in 0–1; apply a sigmoid to logits first")
    return probability.ravel(), truth.ravel()


def _sums(probability: np.ndarray, truth: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """float64 (3, bins): items, summed probability and summed truth of each bin."""
    index = np.searchsorted(edges[1:-1], probability)  # what lies on an edge belongs below it
    weights = (None, probability, truth)
    return np.stack([np.bincount(index, weight, minlength=len(edges) - 1) for weight in weights]).astype(float)


def _table(edges: np.ndarray, sums: np.ndarray) -> Table:
    rows = zip(edges[:-1], edges[1:], *sums, strict=True)
    return [
        {"low": float(low), "high": float(high), "n": int(n), "probability": float(p / n), "truth": float(t / n)}
        for low, high, n, p, t in rows
        if n
    ]
