"""How well slides are answered, on composed slides whose truth is exact: presence, places, areas, what they mostly are.

Every slide is read as a user's: from the file, through tissue mask, tiles, encoder and tools. Beside it stands what is
usual on such features: their mean over the slide and linear models, trained on the same plans as the encoder.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from slidekick.copilot.survey import Survey
from slidekick.data.errors import InputError
from slidekick.data.items import FILE_NAME
from slidekick.data.layout import GLASS
from slidekick.data.slide import open_slide
from slidekick.data.statistics import bootstrap_figure
from slidekick.rl.instructions.slides import LEAD, UNTAUGHT, WORDINGS
from slidekick.rl.parsing import plain
from slidekick.rl.slide_bags import Bag

SCHEMA = "slidekick.slides/1"


def composed_rows(folder: Path) -> list[dict]:
    """The slides of a folder that `slidekick compose` wrote. Raises InputError where it is none."""
    file = folder / FILE_NAME
    try:
        rows = [json.loads(line) for line in file.read_text().splitlines() if line.strip()]
        if not rows or not all({"tissues", "absent", "cells", "file"} <= row.keys() for row in rows):
            raise ValueError("no composed slides in it")
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(f"{file}: {error}; give a folder that `slidekick compose` wrote") from error
    return rows


def judge_slides(copilot, folder: Path, asked: int, baseline: Baseline | None = None) -> Iterator[dict]:
    """A row of judgements for each slide of `folder`. asked: questions put to the language model of each slide; the
    others are answered by the tools alone. Progress is the caller's."""
    for number, row in enumerate(composed_rows(folder)):
        with open_slide(folder / row["file"]) as slide:
            survey = copilot.survey(slide)
            judged = {"id": row["id"], "case": row["case"], "tiles": len(survey.tiles)}
            judged |= by_tools(survey, row)
            if baseline is not None:
                judged |= {f"baseline_{key}": value for key, value in baseline.judge(survey, row).items()}
            judged["spoken"] = [ask(copilot, survey, row, kind, number) for kind in spoken_kinds(row)[:asked]]
        yield judged


def by_tools(survey: Survey, row: dict) -> dict:
    """Presence, areas, pointing and dominance from the survey; None or an empty list where there is nothing to ask."""
    encoder = survey.encoder
    known = set(encoder.plan.tissues)
    found = {name: survey.find(name, (name,)) for name in (*row["tissues"], *row["absent"]) if name in known}
    shares = {name: float(one.mask.sum() / max(one.within.sum(), 1)) for name, one in found.items()}
    judged = {
        "present": [float(found[name].found) for name in row["tissues"] if name in known],
        "absent": [float(not found[name].found) for name in row["absent"] if name in known],
        "area_errors": [abs(shares[name] - one["share"]) for name, one in row["tissues"].items() if name in known],
        "pointed": [],
    }
    for name in row["tissues"]:
        if name in known and len(survey.tiles):
            judged["pointed"].append(float(tissue_at(survey, int(survey.likely((name,)).argmax()), row) == name))
    if leads(row):
        whole = survey.probabilities.argmax(1)
        named = encoder.plan.tissues[np.bincount(whole, minlength=len(encoder.plan.tissues)).argmax()]
        judged["dominant"] = float(named == row["dominant"])
    return judged


def leads(row: dict) -> bool:
    """Whether the dominant tissue leads far enough to be asked for."""
    shares = sorted((one["share"] for one in row["tissues"].values()), reverse=True)
    return shares[0] - (shares[1] if len(shares) > 1 else 0) >= LEAD


def tissue_at(survey: Survey, tile: int, row: dict) -> str | None:
    """What truly lies in the middle of a tile."""
    cells = np.array(row["cells"])
    side = row["width"] / cells.shape[1]
    x, y = (survey.tiles.grid.coords[tile] + np.array(survey.tiles.grid.size_level0) / 2) / side
    index = cells[min(int(y), len(cells) - 1), min(int(x), cells.shape[1] - 1)]
    return None if index == GLASS else list(row["tissues"])[index]


def spoken_kinds(row: dict) -> list[str]:
    """Kinds of questions to put to the language model about a slide."""
    return [
        *["dominant"] * leads(row),
        "present",
        *["absent"] * bool(row["absent"]),
        *["organ"] * (row["case"] != "mixed"),
        "share",
        "where",
    ]


def ask(copilot, survey: Survey, row: dict, kind: str, number: int) -> dict:
    """One question in a wording that was never taught, and whether its answer is right."""
    rng = np.random.default_rng([number, len(kind)])
    tissues = row["absent"] if kind == "absent" else list(row["tissues"])
    name = tissues[int(rng.integers(len(tissues)))]
    wordings = WORDINGS["present" if kind == "absent" else kind]
    question = wordings[len(wordings) - 1 - int(rng.integers(UNTAUGHT))].format(name)
    answer = copilot.ask(survey, question)
    right = _right(kind, answer, name, row, survey)
    calls = [f"{step.name}({', '.join(map(str, step.arguments.values()))})" for step in answer.steps]
    return {"kind": kind, "question": question, "answer": answer.text, "calls": calls, "right": float(right)}


def _right(kind: str, answer, name: str, row: dict, survey: Survey) -> bool:
    said = plain(answer.short)
    if kind in ("dominant", "organ"):
        return said == plain(row["dominant"] if kind == "dominant" else row["case"])
    if kind in ("present", "absent"):
        return said == ("yes" if kind == "present" else "no")
    found = [item for item in answer.evidence if item.found and plain(item.concept) == plain(name)]
    if kind == "where":
        return bool(found) and tissue_at(survey, int(survey.likely((name,)).argmax()), row) == name
    shares = [item.value for item in found if item.kind == "area_fraction"]
    return bool(shares) and abs(shares[0] - row["tissues"][name]["share"]) <= 0.1


class Baseline:
    """Mean over a slide's features and linear models: logistic regression for presence and dominance, ridge for shares;
    it points to the tile that its presence model likes best."""

    def __init__(self, bags: Sequence[Bag], tissues: Sequence[str]) -> None:
        from sklearn.linear_model import LogisticRegression, Ridge
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        means = np.stack([bag.features.mean(0) for bag in bags])
        shares = np.stack([bag.shares.mean(0) for bag in bags])
        self.tissues = list(tissues)
        self.scaler = StandardScaler().fit(means)
        self._share = make_pipeline(StandardScaler(), Ridge(10.0)).fit(means, shares)
        self._dominant = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000))
        self._dominant.fit(means, shares.argmax(1))
        self._present = {}
        for index, name in enumerate(self.tissues):
            asked = [i for i, bag in enumerate(bags) if name in (*bag.layout.tissues, *bag.absent)]
            there = shares[asked, index] > 0
            if 0 < there.sum() < len(there):
                model = LogisticRegression(C=0.1, max_iter=2000, class_weight="balanced")
                self._present[name] = model.fit(self.scaler.transform(means[asked]), there)

    def judge(self, survey: Survey, row: dict) -> dict:
        """The same judgements as `by_tools`."""
        features = survey.tiles.features.astype(np.float32)
        mean = features.sum(0, keepdims=True) / max(len(features), 1)
        shares = dict(zip(self.tissues, self._share.predict(mean)[0].clip(0, 1).tolist(), strict=True))
        scaled = self.scaler.transform(mean)
        there = {name: bool(model.predict(scaled)[0]) for name, model in self._present.items()}
        judged = {
            "present": [float(there[name]) for name in row["tissues"] if name in there],
            "absent": [float(not there[name]) for name in row["absent"] if name in there],
            "area_errors": [abs(shares[name] - one["share"]) for name, one in row["tissues"].items() if name in shares],
            "pointed": [],
        }
        for name in row["tissues"]:
            if name in self._present and len(features):
                best = int(self._present[name].decision_function(self.scaler.transform(features)).argmax())
                judged["pointed"].append(float(tissue_at(survey, best, row) == name))
        if leads(row):
            judged["dominant"] = float(self.tissues[int(self._dominant.predict(mean)[0])] == row["dominant"])
        return judged


def slide_figures(rows: Sequence[dict]) -> dict[str, dict]:
    """Figures with 95 % intervals over slides, of the tools, of the baseline, and of what was said, by kind."""
    figures: dict[str, dict] = {}

    def add(name: str, having: Callable[[dict], bool], statistic: Callable[[Sequence[dict]], float], n: int) -> None:
        chosen = [row for row in rows if having(row)]
        if chosen:
            figures[name] = bootstrap_figure(chosen, statistic).to_dict() | {"n": n}

    def mean_of(key: str) -> Callable[[Sequence[dict]], float]:
        return lambda some: float(np.mean([value for row in some for value in row[key]] or [np.nan]))

    for side in ("", "baseline_"):
        if not any(f"{side}present" in row for row in rows):
            continue
        both = (mean_of(f"{side}present"), mean_of(f"{side}absent"))
        number = sum(len(row[f"{side}present"]) + len(row[f"{side}absent"]) for row in rows)
        add(f"{side}presence", lambda row: True, lambda some, both=both: (both[0](some) + both[1](some)) / 2, number)
        for name, key in (("pointing", "pointed"), ("area_error", "area_errors")):
            add(
                f"{side}{name}",
                lambda row: True,
                mean_of(f"{side}{key}"),
                sum(len(row[f"{side}{key}"]) for row in rows),
            )
        key = f"{side}dominant"
        add(
            key,
            lambda row, key=key: key in row,
            lambda some, key=key: float(np.mean([row[key] for row in some])),
            sum(key in row for row in rows),
        )
    for kind in sorted({one["kind"] for row in rows for one in row["spoken"]}):
        some = [one["right"] for row in rows for one in row["spoken"] if one["kind"] == kind]
        figures[f"said.{kind}"] = bootstrap_figure(some, lambda values: float(np.mean(values))).to_dict()
    return figures
