"""Two runs side by side: the difference of every figure on the questions that both were asked, with its interval.

Both runs are resampled together, patient by patient, so that what is hard for both does not widen the interval (paired
bootstrap, Efron & Tibshirani 1993, §16). Runs whose answers were read by different rules, or whose questions differ
under the same id, are not compared.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Sequence
from dataclasses import replace
from functools import reduce
from pathlib import Path

import numpy as np

from slidekick.copilot.answer import RESEARCH_USE
from slidekick.data.errors import InputError
from slidekick.data.files import write_atomic
from slidekick.data.statistics import Figure, clustered
from slidekick.rl.evaluation.changes import NONE, kinds_of
from slidekick.rl.evaluation.measures import Measure, consistency, flat, measures_of

FIGURES, SAMPLES = "figures.json", "samples.jsonl"
ZIPPED = f"{SAMPLES}.gz"  # the same, where runs are to be published
SAME = ("family", "kind", "question", "options", "truth", "picture_sha256", "group")
NEEDED = ("id", "set", "change", "parser", "said", "right", "score", "logits", *SAME)


def save_run(place: Path, summary: dict, rows: Sequence[dict], zipped: bool = False) -> None:
    """figures.json and samples.jsonl of a run, into the folder `place`; zipped: as samples.jsonl.gz."""
    write_atomic(place / FIGURES, json.dumps(summary, indent=1))
    lines = "".join(json.dumps(row, ensure_ascii=False, default=np.ndarray.tolist) + "\n" for row in rows)
    if zipped:
        write_atomic(place / ZIPPED, gzip.compress(lines.encode("utf-8"), mtime=0))
    else:
        write_atomic(place / SAMPLES, lines)


def holds_run(place: Path) -> bool:
    """Whether a folder holds a run's rows."""
    return (place / SAMPLES).is_file() or (place / ZIPPED).is_file()


def load_run(place: Path) -> list[dict]:
    """Rows of a run: its --out folder or its samples.jsonl, zipped or not. Raises InputError."""
    file = place
    if place.is_dir():
        file = place / (ZIPPED if (place / ZIPPED).is_file() else SAMPLES)
    if not file.is_file():
        raise InputError(f"{file}: no such file; give a folder that `slidekick evaluate ... --out` wrote")
    try:
        raw = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
        text = raw.decode("utf-8")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise InputError(f"{file}: no samples of an evaluation ({error}); give another run") from error
    rows = []
    for number, line in enumerate(text.rstrip("\n").split("\n"), 1):
        try:
            row = json.loads(line)
            if missing := [key for key in NEEDED if key not in row]:
                raise ValueError(f"{missing[0]} is missing")
        except (ValueError, TypeError) as error:
            raise InputError(f"{file}:{number}: no sample of an evaluation ({error}); give another run") from error
        rows.append(row)
    if not rows:
        raise InputError(f"{file}: holds no sample; give another run")
    return rows


def compare(first: Path | Sequence[Path], second: Path | Sequence[Path]) -> dict:
    """{"metrics": differences second − first with _ci and _n, "figures": {name: {"a", "b", "difference"}}, ...}.

    A side of several runs, such as the same training by several seeds, counts by the mean of their figures; the runs
    are drawn anew with the questions, so that an interval is as wide as seeds differ. Raises InputError where the runs
    cannot be compared.
    """
    places = [[side] if isinstance(side, Path) else list(side) for side in (first, second)]
    every = _paired([place for side in places for place in side])
    sides = [every[: len(places[0])], every[len(places[0]) :]]
    measures = [[measures_of(rows) | consistency(rows, kinds_of(rows)) for rows in side] for side in sides]
    told: dict[str, Figure] = {}
    values: dict[str, list[float]] = {}
    for name in (name for name in measures[0][0] if all(name in one for side in measures for one in side)):
        these = [[one[name] for one in side] for side in measures]
        rows = reduce(np.intersect1d, [one.rows for side in these for one in side])
        if len(rows):
            groups, sets = these[0][0].clusters(every[0], rows)
            values[name] = a, b = [_mean(side, rows) for side in these]
            told[name] = replace(_difference(these, rows, groups, sets), value=b - a)
    return {
        "what": "compare",
        "notice": RESEARCH_USE,
        "family": every[0][0]["family"],
        "parser": every[0][0]["parser"],
        "runs": [", ".join(place.name for place in side) for side in places],
        "common": sum(row["change"] == NONE for row in every[0]),
        "metrics": flat(told),
        "figures": {
            name: {"a": _number(values[name][0]), "b": _number(values[name][1]), "difference": figure.to_dict()}
            for name, figure in told.items()
        },
    }


def _mean(side: Sequence[Measure], rows: np.ndarray) -> float:
    return float(np.mean([one.value(rows) for one in side]))


def _difference(sides: Sequence[Sequence[Measure]], rows: np.ndarray, groups: list, sets: list) -> Figure:
    """The interval of the sides' difference, on questions and runs drawn anew together; its value is one draw's."""
    rng = np.random.default_rng(0)

    def drawn(index: np.ndarray) -> float:
        a, b = ([side[i] for i in rng.integers(len(side), size=len(side))] for side in sides)
        return _mean(b, rows[index]) - _mean(a, rows[index])

    resamples = min(one.resamples for side in sides for one in side)
    return clustered(drawn, groups, sets, 0, resamples)


def _number(value: float) -> float | None:
    return None if value != value else round(value, 4)


def _paired(places: Sequence[Path]) -> list[list[dict]]:
    """The rows of the questions that all runs hold, changed ones beside them, in the same order."""
    runs = [load_run(place) for place in places]
    for key, what in (("parser", "read by"), ("family", "asked as")):
        ways = [sorted({row[key] for row in rows}) for rows in runs]
        for place, way in zip(places, ways, strict=True):
            if way != ways[0] or len(way) != 1:
                told = [" and ".join(one) for one in (ways[0], way)]
                raise InputError(
                    f"{places[0].name} was {what} {told[0]}, {place.name} {what} {told[1]}: run one of them anew"
                )
    by_id = [{(row["id"], row["change"]): row for row in rows} for rows in runs]
    common = [name for name in by_id[0] if all(name in one for one in by_id)]
    if not any(change == NONE for _, change in common):
        raise InputError(f"{' and '.join(place.name for place in places)} share no question; run them on the same data")
    for name in common:
        for place, one in zip(places, by_id, strict=True):
            if differs := next((key for key in SAME if by_id[0][name][key] != one[name][key]), None):
                raise InputError(f"{name[0]}: {differs} differs in {places[0].name} and {place.name}; run one anew")
    return [[one[name] for name in common] for one in by_id]
