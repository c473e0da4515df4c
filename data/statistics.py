"""Uncertainty of a figure: the percentile bootstrap over items (Efron & Tibshirani 1993). Pure functions."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace

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


def brief(figure: dict) -> str:
    """A figure's `to_dict` for tables: "0.82 [0.79, 0.85]", "0.820" without an interval, "–" without a value."""
    if figure["value"] is None:
        return "–"
    if figure["low"] is None:
        return f"{figure['value']:.3f}"
    return f"{figure['value']:.2f} [{figure['low']:.2f}, {figure['high']:.2f}]"


def bootstrap(statistic: Callable[[np.ndarray], float], n: int, seed: int = 0) -> Figure:
    """`statistic` of all items, and its 2.5 % and 97.5 % points over resampled items.

    statistic: takes an int array of item indices (with repeats) and gives one number; n: how many items there are.
    """
    if n == 0:
        return Figure(float("nan"), float("nan"), float("nan"), 0)
    rng = np.random.default_rng(seed)
    drawn = [statistic(rng.integers(n, size=n)) for _ in range(RESAMPLES)]
    defined = np.array(drawn, float)[~np.isnan(drawn)]
    low, high = np.percentile(defined, [2.5, 97.5]) if len(defined) else (float("nan"), float("nan"))
    return Figure(float(statistic(np.arange(n))), float(low), float(high), n)


def bootstrap_figure(
    rows: Sequence | np.ndarray,
    statistic: Callable[[Sequence | np.ndarray], float],
    groups: Sequence[Hashable] | None = None,
    seed: int = 0,
) -> Figure:
    """`statistic` of all rows with its 95 % interval over resampled groups of rows, for ratios and micro-averages.

    rows: a list, or an array whose first axis is rows (much the faster); statistic: takes some of them, repeats
    and all, in the same form, and gives one number, NaN where it has none. groups: one name a row, such as the
    patient; the rows of a group are drawn together (cluster bootstrap, Davison & Hinkley 1997, §3.8), because
    pictures of one patient say less than as many patients would. None: every row stands alone. The figure's n
    counts rows. The interval is NaN for a single group, which says nothing of others; below some ten groups it is
    too narrow. Raises ValueError where groups and rows differ in number.
    """
    names = range(len(rows)) if groups is None else groups
    if len(names) != len(rows):
        raise ValueError(f"{len(names)} groups for {len(rows)} rows; give one group a row")
    members: dict[Hashable, list[int]] = {}
    for index, name in enumerate(names):
        members.setdefault(name, []).append(index)
    parts = [np.array(indices) for indices in members.values()]

    def of(chosen: np.ndarray) -> float:
        index = np.concatenate([parts[group] for group in chosen])
        return statistic(rows[index] if isinstance(rows, np.ndarray) else [rows[i] for i in index])

    figure = bootstrap(of, len(parts), seed)
    if len(parts) == 1 and groups is not None:
        figure = replace(figure, low=float("nan"), high=float("nan"))
    return replace(figure, n=len(rows))


def draws(
    groups: Sequence[Hashable], strata: Sequence[Hashable] | None = None, seed: int = 0, resamples: int = RESAMPLES
) -> Iterator[np.ndarray]:
    """Resampled items, one int index array a time: whole groups, drawn anew within each stratum.

    groups: one name an item, such as its patient; strata: one name an item, such as its data set, so that each set
    keeps its share (stratified cluster bootstrap, Davison & Hinkley 1997, §3.2 and §3.8). A group in two strata counts
    as two. Equal arguments give equal draws, so two statistics can be compared draw by draw.
    """
    members: dict[Hashable, dict[Hashable, list[int]]] = {}
    for index, name in enumerate(groups):
        members.setdefault(strata[index] if strata is not None else None, {}).setdefault(name, []).append(index)
    parts = [[np.array(indices) for indices in inner.values()] for inner in members.values()]
    rng = np.random.default_rng(seed)
    for _ in range(resamples):
        yield np.concatenate([stratum[g] for stratum in parts for g in rng.integers(len(stratum), size=len(stratum))])


def clustered(
    statistic: Callable[[np.ndarray], float],
    groups: Sequence[Hashable],
    strata: Sequence[Hashable] | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Figure:
    """`statistic` of all items with its 95 % percentile interval over `draws`.

    statistic: takes an int index array, repeats and all, and gives one number, NaN where it has none. The interval is
    NaN where every stratum holds a single group, which says nothing of others. The figure's n counts items.
    """
    if not len(groups):
        return Figure(float("nan"), float("nan"), float("nan"), 0)
    low = high = float("nan")
    parts = [None] * len(groups) if strata is None else list(strata)
    if len(set(zip(parts, groups, strict=True))) > len(set(parts)):
        drawn = np.array([statistic(index) for index in draws(groups, strata, seed, resamples)], float)
        if len(defined := drawn[~np.isnan(drawn)]):
            low, high = np.percentile(defined, [2.5, 97.5])
    return Figure(float(statistic(np.arange(len(groups)))), float(low), float(high), len(groups))


def mean_figure(
    values: Sequence[float] | np.ndarray, groups: Sequence[Hashable] | None = None, seed: int = 0
) -> Figure:
    """Mean of `values` with its interval over resampled groups; see `bootstrap_figure`."""
    return bootstrap_figure(np.asarray(values, float), lambda drawn: float(drawn.mean()), groups, seed)


def balanced_accuracy(truth: np.ndarray, correct: np.ndarray) -> float:
    """Mean over the classes in `truth` of the share answered correctly (macro recall)."""
    return float(np.mean([correct[truth == label].mean() for label in np.unique(truth)]))
