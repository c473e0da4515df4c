"""Two runs side by side: the difference of every figure on the questions that both were asked, with its interval.

Both runs are resampled together, patient by patient, so that what is hard for both does not widen the interval (paired
bootstrap, Efron & Tibshirani 1993, §16). Runs whose answers were read by different rules, or whose questions differ
under the same id, are not compared.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from slidekick.copilot.answer import RESEARCH_USE
from slidekick.data.errors import InputError
from slidekick.data.statistics import Figure, clustered
from slidekick.rl.evaluation.changes import NONE
from slidekick.rl.evaluation.measures import flat, measures_of

SAMPLES = "samples.jsonl"
SAME = ("family", "kind", "question", "options", "truth", "picture_sha256", "group")
NEEDED = ("id", "set", "change", "parser", "said", "right", "score", "logits", *SAME)


def load_run(place: Path) -> list[dict]:
    """Rows of a run, asked as they are: its --out folder or its samples.jsonl. Raises InputError."""
    file = place / SAMPLES if place.is_dir() else place
    if not file.is_file():
        raise InputError(f"{file}: no such file; give a folder that `slidekick evaluate ... --out` wrote")
    rows = []
    for number, line in enumerate(file.read_text(encoding="utf-8").rstrip("\n").split("\n"), 1):
        try:
            row = json.loads(line)
            if missing := [key for key in NEEDED if key not in row]:
                raise ValueError(f"{missing[0]} is missing")
        except (ValueError, TypeError) as error:
            raise InputError(f"{file}:{number}: no sample of an evaluation ({error}); give another run") from error
        if row["change"] == NONE:
            rows.append(row)
    if not rows:
        raise InputError(f"{file}: holds no sample; give another run")
    return rows


def compare(first: Path, second: Path) -> dict:
    """{"metrics": differences second − first with _ci and _n, "figures": {name: {"a", "b", "difference"}}, ...}.

    Raises InputError where the runs cannot be compared.
    """
    a, b = _paired(load_run(first), load_run(second), first, second)
    measures = [measures_of(rows) for rows in (a, b)]
    told: dict[str, Figure] = {}
    values: dict[str, tuple[float, float]] = {}
    for name in (name for name in measures[0] if name in measures[1]):
        one, other = (side[name] for side in measures)
        rows = np.intersect1d(one.rows, other.rows)
        if not len(rows):
            continue
        groups, sets = one.clusters(a, rows)
        resamples = min(one.resamples, other.resamples)

        def difference(index: np.ndarray, one=one, other=other, rows=rows) -> float:
            return other.value(rows[index]) - one.value(rows[index])

        told[name] = clustered(difference, groups, sets, 0, resamples)
        values[name] = one.value(rows), other.value(rows)
    return {
        "what": "compare",
        "notice": RESEARCH_USE,
        "family": a[0]["family"],
        "parser": a[0]["parser"],
        "runs": [first.name, second.name],
        "common": len(a),
        "metrics": flat(told),
        "figures": {
            name: {"a": _number(values[name][0]), "b": _number(values[name][1]), "difference": figure.to_dict()}
            for name, figure in told.items()
        },
    }


def _number(value: float) -> float | None:
    return None if value != value else round(value, 4)


def _paired(a: Sequence[dict], b: Sequence[dict], first: Path, second: Path) -> tuple[list[dict], list[dict]]:
    """The rows of the questions that both runs hold, in the same order."""
    for key, what in (("parser", "read by"), ("family", "asked as")):
        ways = [sorted({row[key] for row in rows}) for rows in (a, b)]
        if ways[0] != ways[1] or len(ways[0]) != 1:
            told = [" and ".join(way) for way in ways]
            raise InputError(f"{first.name} was {what} {told[0]}, {second.name} {what} {told[1]}: run one of them anew")
    others = {row["id"]: row for row in b}
    common = [row for row in a if row["id"] in others]
    if not common:
        raise InputError(f"{first.name} and {second.name} share no question; run both on the same data")
    for row in common:
        other = others[row["id"]]
        if differs := next((key for key in SAME if row[key] != other[key]), None):
            raise InputError(f"{row['id']}: {differs} differs between {first.name} and {second.name}; run one anew")
    return common, [others[row["id"]] for row in common]
