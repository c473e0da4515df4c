"""Charts of training and evaluation as PNG bytes: loss curves, Dice per concept, reliability diagrams.

Numbers come in as training and evaluation leave them and nothing is measured here, except that noisy losses are
smoothed to be seen. Needs matplotlib (the `train` extra), which is loaded when a chart is drawn. Drawn without
pyplot, so that no display is needed and no figure outlives its call.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from slidekick.data.errors import InputError
from slidekick.data.statistics import Figure
from slidekick.grounding.calibration import Table, gap
from slidekick.grounding.palette import PALETTE

DPI = 120
NOT_LOSSES = frozenset({"step", "minutes", "rate", "learning_rate"})
VALIDATION = "val"  # keys of validation figures begin with it
SMOOTHING = 0.05  # of the logged points: the span of the running mean
ROUGH = 20  # from so many points on, a running mean is drawn over them
GRID, INK = "#e4e4e4", "#222222"
# Okabe and Ito's colours in the order of their contrast on white, without yellow; dashes tell them apart in grey.
SERIES = tuple(f"#{bytes(PALETTE[index]).hex()}" for index in (5, 4, 3, 6, 2, 1))
DASHES = ("-", "--", "-.", ":")


def curves_png(log_rows: Iterable[Mapping[str, float]]) -> bytes:
    """Every loss of a training log against the step and, below, every validation figure.

    log_rows: as the lines of `log.jsonl`, each with "step" and numbers; a key may be missing from some rows. Keys
    that begin with "val" are validation figures (0–1), `NOT_LOSSES` are left out, all others are losses. Losses of
    20 points or more are drawn pale, with their running mean. Raises ValueError where no row holds a number to draw,
    InputError without matplotlib.
    """
    rows = list(log_rows)
    names = dict.fromkeys(key for row in rows for key, value in row.items() if _number(value))
    losses = [name for name in names if name not in NOT_LOSSES and not name.startswith(VALIDATION)]
    watched = [name for name in names if name.startswith(VALIDATION)]
    if not losses and not watched:
        raise ValueError("the log holds nothing to draw; give rows with a step and a loss")
    groups = [group for group in (("loss", losses), ("validation", watched)) if group[1]]
    figure = _figure(8, 3.2 * len(groups) + 0.6)
    axes = figure.subplots(len(groups), 1, sharex=True, squeeze=False)[:, 0]
    for axis, (label, keys) in zip(axes, groups, strict=True):
        for index, key in enumerate(keys):
            _curve(axis, rows, key, index, smooth=label == "loss")
        axis.set_ylabel(label)
        axis.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(1, 1))
        _tidy(axis)
    axes[-1].set_xlabel("step")
    if losses:
        axes[0].set_ylim(bottom=0)
    if watched:
        axes[-1].set_ylim(0, 1)
    return _png(figure)


def bars_png(figures: Mapping[str, Figure | Mapping], label: str = "Dice", title: str = "") -> bytes:
    """One bar a concept, highest first, with its 95 % interval, value and number of pictures.

    figures: concept -> Figure or its `to_dict`; those without a value are left out, as there is nothing to draw;
    one without an interval has a bar only. The axis runs 0–1. Raises ValueError where no value is left, InputError
    without matplotlib.
    """
    told = {name: one.to_dict() if isinstance(one, Figure) else one for name, one in figures.items()}
    told = {name: one for name, one in told.items() if _number(one["value"])}
    if not told:
        raise ValueError("there is no figure to draw; give at least one with a value")
    names = sorted(told, key=lambda name: (told[name]["value"], name))  # drawn from the bottom up
    values = [told[name]["value"] for name in names]
    figure = _figure(8, 0.34 * len(names) + 1.2)
    axis = figure.subplots()
    axis.barh(range(len(names)), values, color=SERIES[5], height=0.7)
    for place, name in enumerate(names):
        one = told[name]
        if _number(one["low"]) and _number(one["high"]):
            axis.plot([one["low"], one["high"]], [place, place], color=INK, linewidth=1.6, solid_capstyle="butt")
        axis.text(1.015, place, f"{one['value']:.2f}", va="center", fontsize=9, color=INK)
    labels = [f"{name}  (n = {told[name]['n']})" for name in names]
    axis.set_yticks(range(len(names)), labels, fontsize=9, parse_math=False)
    axis.set_ylim(-0.6, len(names) - 0.4)
    axis.set_xlim(0, 1)
    axis.set_xlabel(f"{label}, with 95 % interval")
    _tidy(axis, "x")
    axis.set_title(title, fontsize=11, loc="left", parse_math=False)
    return _png(figure)


def reliability_png(table: Table, title: str = "") -> bytes:
    """Share that is true against the probability given, a point a bin, over a histogram of the items.

    table: rows of `calibration.reliability` or `PixelCalibration.table`. Points on the diagonal are calibrated, below
    it too sure. The histogram's axis is logarithmic: most pixels are easy. Raises ValueError for an empty table,
    InputError without matplotlib.
    """
    if not table:
        raise ValueError("the table holds no item; give a reliability table with at least one row")
    figure = _figure(4.8, 5.6)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    upper.plot([0, 1], [0, 1], color="#888888", linewidth=1, linestyle="--", label="calibrated")
    for row in table:
        upper.plot(
            [row["probability"]] * 2, [row["probability"], row["truth"]], color=SERIES[4], linewidth=3, alpha=0.5
        )
    points = [row["probability"] for row in table], [row["truth"] for row in table]
    upper.plot(*points, "o-", color=SERIES[0], markersize=5, label=f"measured, ECE {gap(table):.3f}")
    upper.set_ylabel("share true")
    upper.set_ylim(-0.02, 1.02)
    upper.legend(frameon=False, fontsize=9, loc="upper left")
    upper.set_title(title, fontsize=11, loc="left", parse_math=False)
    middles = [(row["low"] + row["high"]) / 2 for row in table]
    widths = [max(0.9 * (row["high"] - row["low"]), 0.004) for row in table]
    lower.bar(middles, [row["n"] for row in table], widths, color=SERIES[5])
    lower.set_yscale("log")
    lower.set_ylim(bottom=0.8)  # below one item, or a bin of one would have no bar
    lower.tick_params(which="minor", labelleft=False)
    lower.set_ylabel("items")
    lower.set_xlabel("probability given")
    lower.set_xlim(-0.02, 1.02)
    _tidy(upper)
    _tidy(lower)
    return _png(figure)


def heat_png(tables: Mapping[str, Mapping[str, Mapping[str, float]]], title: str = "") -> bytes:
    """Tables of shares (0-1) side by side, darker for more, each cell with its number.

    tables: title -> row -> column -> share; all rows of a table have the same columns. Raises ValueError where there
    is no row, InputError without matplotlib.
    """
    kept = {name: rows for name, rows in tables.items() if rows}
    if not kept:
        raise ValueError("there is no row to draw; give at least one")
    figure = _figure(6.2 * len(kept), 0.32 * max(map(len, kept.values())) + 1.4)
    for axis, (name, rows) in zip(figure.subplots(1, len(kept), squeeze=False)[0], kept.items(), strict=True):
        columns = list(next(iter(rows.values())))
        shares = np.array([[row[column] for column in columns] for row in rows.values()])
        axis.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        for (y, x), share in np.ndenumerate(shares):
            axis.text(x, y, f"{share:.2f}", ha="center", va="center", fontsize=8, color="white" if share > 0.6 else INK)
        axis.set_xticks(range(len(columns)), columns, fontsize=9, parse_math=False)
        axis.set_yticks(range(len(rows)), list(rows), fontsize=9, parse_math=False)
        axis.set_title(name, fontsize=10, loc="left", parse_math=False)
    figure.suptitle(title, fontsize=11)
    return _png(figure)


def _curve(axis, rows: Sequence[Mapping[str, float]], key: str, index: int, smooth: bool) -> None:
    points = [(row["step"], row[key]) for row in rows if _number(row.get(key))]
    steps, values = zip(*points, strict=True)
    style = {"color": SERIES[index % len(SERIES)], "linestyle": DASHES[index // len(SERIES) % len(DASHES)]}
    if smooth and len(values) >= ROUGH:
        axis.plot(steps, values, alpha=0.25, linewidth=0.8, **style)
        values = _running_mean(values, max(3, round(SMOOTHING * len(values))))
    marker = "o" if len(values) < ROUGH else None
    axis.plot(steps, values, linewidth=1.8, marker=marker, markersize=4, label=key.replace("_", " "), **style)


def _running_mean(values: Sequence[float], span: int) -> np.ndarray:
    """Mean of the `span` values around each, of those there are at the ends."""
    kernel = np.ones(min(span, len(values)))
    return np.convolve(values, kernel, "same") / np.convolve(np.ones(len(values)), kernel, "same")


def _number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _tidy(axis, grid: str = "both") -> None:
    axis.grid(True, axis=grid, color=GRID, linewidth=0.8)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)


def _figure(width: float, height: float):
    """An empty figure of that size in inches, drawn by Agg."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure as Drawing
    except ImportError as error:
        raise InputError("matplotlib is not installed; pip install 'slidekick[train]' brings it") from error
    drawing = Drawing(figsize=(width, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(drawing)
    return drawing


def _png(figure) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", metadata={"Software": None})  # the same numbers give the same bytes
    return stream.getvalue()
