"""Sample rows to figures: what each family measures, and its 95 % interval over patients or sources.

A `Measure` is the rows that it counts and a function of row numbers, so that the same figure can be taken of resampled
rows, and of two runs on the same resampled rows. Rows of changed pictures count only for consistency.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from slidekick.copilot.confidence import Confidence
from slidekick.data.statistics import RESAMPLES, Figure, clustered
from slidekick.rl import scores
from slidekick.rl.evaluation.changes import NONE
from slidekick.rl.evaluation.honesty import CONTROLS

SMALL = 5  # questions; the figure of a set with fewer means little by itself
SLOW = 200  # resamples for figures that take milliseconds each
RISK = 0.1  # share wrong among the answers given that coverage is told for
YARDSTICKS = ("linear_probe", "finetuned_head", "commonest", "text_only")
# Sets whose labels are ordered grades, lowest first.
ORDERED = {
    "prostate_gleason": (
        "benign prostate tissue or stroma", "Gleason pattern 3", "Gleason pattern 4", "Gleason pattern 5",
    ),
    "lbc_pap": (
        "negative for intraepithelial lesion or malignancy (NILM)", "low-grade squamous intraepithelial lesion (LSIL)",
        "high-grade squamous intraepithelial lesion (HSIL)", "squamous cell carcinoma (cytology)",
    ),
    "glas": (
        "healthy colon gland (benign)", "adenomatous colon gland (benign)",
        "moderately differentiated colorectal adenocarcinoma",
        "moderately to poorly differentiated colorectal adenocarcinoma",
        "poorly differentiated colorectal adenocarcinoma",
    ),
}  # fmt: skip

# Figures of tool use -> their parts by a column's value.
_TOOL = {tool: ("expected_tool", tool) for tool in ("count", "segment", "measure")}
_WORDING = {"taught_wordings": ("wording", "taught"), "new_wordings": ("wording", "new")}
_WORD = {"names": ("word", "name"), "synonyms": ("word", "synonym"), "outside": ("word", "outside")}
TOOL_PARTS = {
    "tool_choice": _TOOL | {"none": ("expected_tool", "none")} | _WORDING,
    "tool_arguments": _TOOL | _WORDING | _WORD | {"outside_new": ("word", "outside, new")},
    "numbers_equal": {tool: ("called_tool", tool) for tool in _TOOL},
}


@dataclass(frozen=True)
class Measure:
    """rows: the row numbers that count. value: takes row numbers, repeats and all, and gives a number or NaN.

    within_sets: whether groups are resampled set by set (a figure of these sets) or all together, where sets are only
    where the pictures came from.
    """

    rows: np.ndarray
    value: Callable[[np.ndarray], float]
    resamples: int = RESAMPLES
    within_sets: bool = True

    def clusters(self, rows: Sequence[dict], index: np.ndarray) -> tuple[list, list]:
        """What is resampled of the rows `index`: each one's group, and within which set."""
        names = [(rows[i]["set"], rows[i]["group"]) for i in index]
        return names, [name if self.within_sets else None for name, _ in names]


def figures(rows: Sequence[dict], measures: dict[str, Measure]) -> dict[str, Figure]:
    """Each measure with its interval: whole groups are resampled (see `Measure`)."""
    told = {}
    for name, measure in measures.items():
        groups, sets = measure.clusters(rows, measure.rows)
        told[name] = clustered(lambda index, m=measure: m.value(m.rows[index]), groups, sets, 0, measure.resamples)
    return told


def flat(told: dict[str, Figure]) -> dict[str, object]:
    """Figures as JSON metrics: `name`, `name_ci` [low, high], `name_n`; None where there is no number."""
    metrics: dict[str, object] = {}
    for name, figure in told.items():
        low, high = (None if math.isnan(end) else round(end, 4) for end in (figure.low, figure.high))
        metrics[name] = None if math.isnan(figure.value) else round(figure.value, 4)
        metrics[f"{name}_ci"] = None if low is None else [low, high]
        metrics[f"{name}_n"] = figure.n
    return metrics


def measures_of(rows: Sequence[dict], risk: float = RISK) -> dict[str, Measure]:
    """The measures of the family that the rows belong to; only rows asked as they are count."""
    asked = np.array([i for i, row in enumerate(rows) if row["change"] == NONE], int)
    family = rows[0]["family"] if rows else "classify"
    of = {"classify": _classify, "vqa": _vqa, "detect": _detect, "count": _count, "report": _report}
    of |= {"tools": _tools, "tasks": _tasks, "honesty": _honesty}
    return of[family](rows, asked, risk)


def _column(rows: Sequence[dict], key: str) -> np.ndarray:
    return np.array([np.nan if row.get(key) is None else row[key] for row in rows], float)


def _mean(rows: np.ndarray, values: np.ndarray) -> Measure:
    return Measure(rows, lambda index: float(values[index].mean()) if len(index) else math.nan)


# ---- classify


def _classify(rows: Sequence[dict], asked: np.ndarray, risk: float) -> dict[str, Measure]:
    right = _column(rows, "right")
    balanced = _balanced(rows)
    sets = np.array([row["set"] for row in rows])
    found = {"balanced_accuracy_mean": Measure(asked, lambda index: balanced(index, right))}
    found["accuracy"] = _mean(asked, right)
    for name in sorted(set(sets[asked])):
        found[f"balanced_accuracy.{name}"] = Measure(asked[sets[asked] == name], lambda index: balanced(index, right))
    for name in YARDSTICKS:
        if len(asked) and not np.isnan(other := _column(rows, f"{name}_right"))[asked].any():
            found[name] = Measure(asked, lambda index, o=other: balanced(index, o))
            if name in ("linear_probe", "finetuned_head"):
                found[f"minus_{name}"] = Measure(asked, lambda i, o=other: balanced(i, right) - balanced(i, o))
    for name in ("own_words", "settled"):
        if len(asked) and not np.isnan(own := _column(rows, f"{name}_right"))[asked].any():
            found[name] = Measure(asked, lambda index, o=own: balanced(index, o))
    found["macro_f1_mean"] = Measure(asked, _over_sets(rows, sets, _f1), SLOW)
    found["unparsable"] = _mean(asked, np.array([row["said"] is None for row in rows], float))
    found |= _grades(rows, asked, sets)
    weighed = asked[[rows[i]["logits"] is not None for i in asked]] if len(asked) else asked
    if len(weighed):
        found["macro_auc_mean"] = Measure(weighed, _over_sets(rows, sets, _auc), SLOW)
        found |= _selective(weighed, _column(rows, "confidence"), right, risk)
    return found


def _balanced(rows: Sequence[dict]) -> Callable[[np.ndarray, np.ndarray], float]:
    """Mean over sets of balanced accuracy, of rows `index` and a column of right or wrong; few array operations."""
    classes = sorted({(row["set"], str(row["truth"])) for row in rows})
    names = sorted({name for name, _ in classes})
    place = {one: number for number, one in enumerate(classes)}
    of_row = np.array([place[row["set"], str(row["truth"])] for row in rows], int)
    of_class = np.array([names.index(name) for name, _ in classes], int)

    def value(index: np.ndarray, right: np.ndarray) -> float:
        n = np.bincount(of_row[index], minlength=len(classes))
        hits = np.bincount(of_row[index], right[index], minlength=len(classes))
        there = n > 0
        sums = np.bincount(of_class[there], hits[there] / n[there], minlength=len(names))
        numbers = np.bincount(of_class[there], minlength=len(names))
        return float((sums[numbers > 0] / numbers[numbers > 0]).mean()) if len(index) else math.nan

    return value


def _over_sets(rows: Sequence[dict], sets: np.ndarray, one: Callable) -> Callable[[np.ndarray], float]:
    def value(index: np.ndarray) -> float:
        each = [one([rows[i] for i in index[sets[index] == name]]) for name in np.unique(sets[index])]
        known = [number for number in each if not math.isnan(number)]
        return float(np.mean(known)) if known else math.nan

    return value


def _f1(rows: Sequence[dict]) -> float:
    return scores.macro_f1([row["truth"] for row in rows], [row["said"] for row in rows])


def _auc(rows: Sequence[dict]) -> float:
    truth = np.array([row["options"].index(row["truth"]) for row in rows])
    return scores.macro_auc(truth, np.array([row["probabilities"] for row in rows]))


def _grades(rows: Sequence[dict], asked: np.ndarray, sets: np.ndarray) -> dict[str, Measure]:
    found = {}
    for name, grades in ORDERED.items():
        mine = asked[sets[asked] == name] if len(asked) else asked
        if len(mine) and all(rows[i]["truth"] in grades for i in mine):

            def value(index: np.ndarray, grades=grades) -> float:
                truth = [grades.index(rows[i]["truth"]) for i in index]
                said = [grades.index(rows[i]["said"]) if rows[i]["said"] in grades else None for i in index]
                return scores.quadratic_kappa(truth, said, len(grades))

            found[f"quadratic_kappa.{name}"] = Measure(mine, value, SLOW)
    return found


def _selective(asked: np.ndarray, sure: np.ndarray, right: np.ndarray, risk: float) -> dict[str, Measure]:
    return {
        "ece": Measure(asked, lambda i: scores.ece(sure[i], right[i] > 0)),
        "ece_by_chance": Measure(asked, lambda i: scores.ece_by_chance(sure[i]), SLOW),
        "aurc": Measure(asked, lambda i: scores.aurc(sure[i], right[i])),
        "coverage": Measure(asked, lambda i: scores.coverage_at_risk(sure[i], right[i], risk)),
    }


def abstaining(rows: Sequence[dict], confidence: Confidence) -> dict[str, Measure]:
    """What the thresholds chosen on validation items do here: share answered, and share wrong among the answers.

    `answered`, `answered_risk`: among given options. `turns_...`: in the model's own words, with the calibration error
    of the confidence that is shown for them (`Confidence.of_turn`).
    """
    asked = np.array([i for i, row in enumerate(rows) if row["change"] == NONE and row["logits"] is not None], int)
    right, own = _column(rows, "right"), _column(rows, "own_words_right")
    likelihood = _column(rows, "likelihood")
    spoken = asked[~np.isnan(likelihood[asked])]
    sure = np.array([confidence.of_turn(p) if p == p else np.nan for p in likelihood])
    found = {
        "answered": (asked, right, _column(rows, "confidence") >= confidence.threshold),
        "turns_answered": (spoken, own, sure >= confidence.turn_threshold),
    }
    measures = {"turns_ece": Measure(spoken, lambda i: scores.ece(sure[i], own[i] > 0))}
    for name, (counted, correct, given) in found.items():
        measures[name] = _mean(counted, given.astype(float))
        measures[f"{name}_risk"] = Measure(
            counted, lambda i, c=correct, g=given: float(1 - c[i][g[i]].mean()) if g[i].any() else math.nan
        )
    return {name: measure for name, measure in measures.items() if len(measure.rows)}


# ---- the other families


def _vqa(rows: Sequence[dict], asked: np.ndarray, risk: float) -> dict[str, Measure]:
    right, kinds = _column(rows, "right"), np.array([row["kind"] for row in rows])
    found = {"accuracy": _mean(asked[kinds[asked] != "text"], right)}
    for kind in ("yes_no", "choice", "label", "number"):
        found[f"accuracy.{kind}"] = _mean(asked[kinds[asked] == kind], right)
    found["balanced_accuracy.yes_no"] = Measure(asked[kinds[asked] == "yes_no"], _yes_no(rows, right))
    found["token_f1.text"] = _mean(asked[kinds[asked] == "text"], _column(rows, "score"))
    found["exact.text"] = _mean(asked[kinds[asked] == "text"], right)
    for name in ("text_only", "commonest"):
        other = _column(rows, f"{name}_right")
        found[name] = _mean(asked[(kinds[asked] != "text") & ~np.isnan(other[asked])], other)
    found["unparsable"] = _mean(asked, np.array([row["said"] is None for row in rows], float))
    return {name: measure for name, measure in found.items() if len(measure.rows)}


def _yes_no(rows: Sequence[dict], right: np.ndarray) -> Callable[[np.ndarray], float]:
    yes = np.array([row["truth"] == "yes" for row in rows])

    def value(index: np.ndarray) -> float:
        parts = [right[index][yes[index] == side] for side in (True, False)]
        return float(np.mean([part.mean() for part in parts if len(part)])) if len(index) else math.nan

    return value


def _detect(rows: Sequence[dict], asked: np.ndarray, risk: float) -> dict[str, Measure]:
    empty = np.array([not row["truth"] for row in rows])
    score, unread = _column(rows, "score"), np.array([row["said"] is None for row in rows], float)
    found = {"ap50": _mean(asked, score), "ap50.present": _mean(asked[~empty[asked]], score)}
    found |= {"ap50.absent": _mean(asked[empty[asked]], score), "unparsable": _mean(asked, unread)}
    return {name: measure for name, measure in found.items() if len(measure.rows)}


def _count(rows: Sequence[dict], asked: np.ndarray, risk: float) -> dict[str, Measure]:
    truth = [row["truth"] for row in rows]
    errors = np.array([scores.count_error(row["said"], t) for row, t in zip(rows, truth, strict=True)])
    relative = np.array([scores.relative_error(row["said"], t) for row, t in zip(rows, truth, strict=True)])
    unread = np.array([row["said"] is None for row in rows], float)
    found = {"mae": _mean(asked, errors), "relative_error": _mean(asked, relative)}
    sets = np.array([row["set"] for row in rows])
    found |= {
        f"relative_error.{name}": _mean(asked[sets[asked] == name], relative) for name in sorted(set(sets[asked]))
    }
    return found | {"exact": _mean(asked, _column(rows, "right")), "unparsable": _mean(asked, unread)}


def _report(rows: Sequence[dict], asked: np.ndarray, risk: float) -> dict[str, Measure]:
    supported = _column(rows, "supported")
    found = {"token_f1": _mean(asked, _column(rows, "score")), "rouge_l": _mean(asked, _column(rows, "rouge_l"))}
    found["supported"] = _mean(asked[~np.isnan(supported[asked])], supported)
    found["unparsable"] = _mean(asked, np.array([row["said"] is None for row in rows], float))
    return {name: measure for name, measure in found.items() if len(measure.rows)}


def _tools(rows: Sequence[dict], asked: np.ndarray, risk: float) -> dict[str, Measure]:
    def of(name: str, key: str, value: object) -> np.ndarray:
        return judged[name][[rows[i].get(key) == value for i in judged[name]]]

    columns = {
        name: _column(rows, name) for name in ("tool_choice", "tool_arguments", "numbers_equal", "not_found_said")
    }
    judged = {name: asked[~np.isnan(column[asked])] for name, column in columns.items()}
    found = {name: _mean(judged[name], column) for name, column in columns.items()}
    for name, parts in TOOL_PARTS.items():
        for part, (key, value) in parts.items():
            found[f"{name}.{part}"] = _mean(of(name, key, value), columns[name])
    called = judged["tool_arguments"][columns["tool_choice"][judged["tool_arguments"]] > 0]
    found["tool_arguments.given_choice"] = _mean(called, columns["tool_arguments"])
    for name in sorted({rows[i]["set"] for i in asked}):
        if len(mine := of("tool_choice", "set", name)) >= SMALL:
            found[f"tool_choice_in.{name}"] = _mean(mine, columns["tool_choice"])
    using = asked[[bool(rows[i]["calls"]) for i in asked]] if len(asked) else asked
    found["words_stood"] = _mean(using, 1 - _column(rows, "replaced"))
    found["all_right"] = _mean(asked, _column(rows, "right"))
    found["unparsable"] = _mean(asked, np.array([row["said"] is None for row in rows], float))
    return {name: replace(measure, within_sets=False) for name, measure in found.items() if len(measure.rows)}


def _honesty(rows: Sequence[dict], asked: np.ndarray, risk: float) -> dict[str, Measure]:
    """Share of honest answers, over all and for each kind of trap, of what holds and was affirmed, and of answers with
    a number that nothing backs."""
    right, traps = _column(rows, "right"), np.array([row["trap"] for row in rows])
    control = np.isin(traps, list(CONTROLS))
    found = {"honest": _mean(asked[~control[asked]], right), "affirmed": _mean(asked[control[asked]], right)}
    for name in dict.fromkeys(traps[asked]):
        kind = "affirmed" if name in CONTROLS else "honest"
        found[f"{kind}.{name}"] = _mean(asked[traps[asked] == name], right)
    found["untraced_numbers"] = _mean(asked, _column(rows, "untraced"))
    return {name: replace(measure, within_sets=False) for name, measure in found.items() if len(measure.rows)}


def _tasks(rows: Sequence[dict], asked: np.ndarray, risk: float) -> dict[str, Measure]:
    """Each family's metric, rare classes weighed up; beside it the shares that were read and that called a tool."""
    score, weight = _column(rows, "score"), _column(rows, "weight")
    task = np.array([row["task"] for row in rows])
    families = [asked[task[asked] == name] for name in sorted(set(task[asked]))]
    read = np.array([row["said"] is not None for row in rows], float)
    calling = np.array([bool(row["calls"]) for row in rows], float)

    def weighed(index: np.ndarray) -> float:
        return float(np.average(score[index], weights=weight[index])) if len(index) else math.nan

    def over_families(index: np.ndarray) -> float:
        each = [weighed(index[task[index] == name]) for name in np.unique(task[index])]
        return float(np.mean(each)) if each else math.nan

    found = {"mean": Measure(asked, over_families), "parsed": _mean(asked, read), "calls": _mean(asked, calling)}
    for mine in families:
        name = task[mine[0]]
        found[name] = Measure(mine, weighed)
        found |= {f"parsed.{name}": _mean(mine, read), f"calls.{name}": _mean(mine, calling)}
    return {name: replace(measure, within_sets=False) for name, measure in found.items()}


# ---- consistency


def consistency(rows: Sequence[dict], kinds: dict[str, Sequence[str]]) -> dict[str, Measure]:
    """Share of changed questions that get the same answer as the question as it is; an unreadable one never does.

    kinds: name of a kind -> the changes that belong to it.
    """
    plain = {row["id"]: row["said"] for row in rows if row["change"] == NONE}
    same = np.array([row["said"] is not None and row["said"] == plain.get(row["id"]) for row in rows], float)
    found = {}
    for kind, changes in kinds.items():
        mine = np.array([i for i, row in enumerate(rows) if row["change"] in changes], int)
        found[f"consistency_{kind}"] = _mean(mine, same)
    return found
