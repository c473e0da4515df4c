"""What answers are worth: pure functions of what was said and what is true, each with its formula and its source.

Nothing here reads text or knows of models. An answer that could not be read is None where a function takes one, and it
is always wrong. Where the truth is empty the item stays in the denominator: both empty is right.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from scipy.stats import rankdata

IOU = 0.5  # from this overlap on, a box is the box (PASCAL VOC, Everingham et al. 2010)
CHANCE_DRAWS = 100
Box = Sequence[float]


def macro_f1(truth: Sequence, said: Sequence) -> float:
    """Mean over the classes in `truth` of F1 = 2 TP / (2 TP + FP + FN) (scikit-learn's `f1_score`).

    said: classes, or None for what could not be read, which is a miss of its class and a hit of none.
    """
    from sklearn.metrics import f1_score

    names = sorted(set(truth))
    codes = {name: index for index, name in enumerate(names)}
    coded = [codes[name] for name in truth], [codes.get(name, -1) for name in said]
    return float(f1_score(*coded, labels=range(len(names)), average="macro", zero_division=0))


def macro_auc(truth: np.ndarray, probability: np.ndarray) -> float:
    """Mean over classes of the one-against-rest area under the ROC curve, as the Mann–Whitney statistic.

    AUC = (R − n₊ (n₊ + 1) / 2) / (n₊ n₋), R the sum of the positives' ranks, ties shared (Hanley & McNeil 1982); what
    scikit-learn's `roc_auc_score` gives, fast enough to be resampled. truth: int (N,); probability: float (N, K).
    Classes that none or all of the items have are left out; NaN where none is left.
    """
    ranks = rankdata(probability, axis=0)
    areas = []
    for index in range(probability.shape[1]):
        positive = truth == index
        n, rest = int(positive.sum()), int((~positive).sum())
        if n and rest:
            areas.append((ranks[positive, index].sum() - n * (n + 1) / 2) / (n * rest))
    return float(np.mean(areas)) if areas else float("nan")


def average_precision_50(said: Sequence[Box] | None, truth: Sequence[Box]) -> float:
    """Average precision of one picture's boxes at IoU 0.5: area under the interpolated precision–recall curve.

    said: boxes (x0, y0, x1, y1), likeliest first, since boxes in words carry no score; a true box is matched once, so a
    repeated box is a false one. AP = Σ (rᵢ − rᵢ₋₁) max_{j ≥ i} pⱼ (Everingham et al. 2010, all points). 1 where both
    are empty; 0 where one is, or the answer could not be read (None).
    """
    if said is None or not len(said) or not len(truth):
        return float(said is not None and not len(said) and not len(truth))
    overlap = box_iou(np.asarray(said, float), np.asarray(truth, float))
    free = np.ones(len(truth), bool)
    hit = np.zeros(len(said))
    for index, row in enumerate(overlap):
        best = int(np.where(free, row, -1).argmax())
        if free[best] and row[best] >= IOU:
            hit[index], free[best] = 1, False
    precision = np.cumsum(hit) / np.arange(1, len(hit) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float((envelope * hit).sum() / len(truth))


def box_iou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Intersection over union of every pair: float (N, 4), (M, 4) as (x0, y0, x1, y1) -> (N, M)."""
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    shared = (high - low).clip(0).prod(2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(1) for boxes in (first, second)]
    return shared / np.maximum(areas[0][:, None] + areas[1][None] - shared, 1e-9)


def count_error(said: float | None, truth: float) -> float:
    """|said − truth|. What could not be read counts as nothing seen, and as wrong by one where there is nothing."""
    return float(max(truth, 1)) if said is None else float(abs(said - truth))


def relative_error(said: float | None, truth: float) -> float:
    """|said − truth| / max(truth, 1), so that a picture without objects stays in."""
    return count_error(said, truth) / max(truth, 1)


def quadratic_kappa(truth: Sequence[int], said: Sequence[int | None], grades: int) -> float:
    """Cohen's kappa with weights (i − j)² for ordered grades 0 … grades − 1 (Cohen 1968; scikit-learn's).

    What could not be read counts as the grade farthest from the truth. NaN where kappa is undefined (one grade only).
    """
    from sklearn.metrics import cohen_kappa_score

    if len(set(truth)) < 2:
        return float("nan")
    read = [
        (0 if 2 * true >= grades - 1 else grades - 1) if one is None else one
        for true, one in zip(truth, said, strict=True)
    ]
    return float(cohen_kappa_score(list(truth), read, labels=range(grades), weights="quadratic"))


def token_f1(said: str | None, truth: str) -> float:
    """F1 of words (Rajpurkar et al. 2016), where a word counts once: repeating the right word only costs precision.

    precision = different right words / all words said; recall = different right words / different words of the truth.
    Both as plain words (`parsing.plain`). 1 where both are empty.
    """
    words, wanted = (said or "").split(), set(truth.split())
    if not words or not wanted:
        return float(not words and not wanted)
    right = len(set(words) & wanted)
    return 0.0 if not right else 2 / (len(words) / right + len(wanted) / right)


def rouge_l(said: str | None, truth: str) -> float:
    """ROUGE-L: F1 of the longest common subsequence of words (Lin 2004, β = 1). 1 where both are empty."""
    words, wanted = (said or "").split(), truth.split()
    if not words or not wanted:
        return float(not words and not wanted)
    longest = [0] * (len(wanted) + 1)
    for word in words:
        above = longest[:]
        for index, other in enumerate(wanted, 1):
            longest[index] = above[index - 1] + 1 if word == other else max(above[index], longest[index - 1])
    return 2 * longest[-1] / (len(words) + len(wanted))


def ece(confidence: np.ndarray, correct: np.ndarray) -> float:
    """Expected calibration error over 15 bins of equal width: Σ nₖ/n |mean confidence − accuracy| (Guo et al. 2017)."""
    from slidekick.grounding.calibration import expected_calibration_error

    return expected_calibration_error(confidence, correct)


def ece_by_chance(confidence: np.ndarray) -> float:
    """The calibration error that so many answers of these confidences show on average though each is as often right as
    its confidence says: what few answers cannot go below (`CHANCE_DRAWS` draws, the same ones each time)."""
    rng, sure = np.random.default_rng(0), np.asarray(confidence, float)
    return (
        float(np.mean([ece(sure, rng.random(len(sure)) < sure) for _ in range(CHANCE_DRAWS)])) if len(sure) else np.nan
    )


def risk_coverage(confidence: np.ndarray, correct: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coverage (N,) and the risk (N,) among the answers given, surest first (El-Yaniv & Wiener 2010).

    Answers of equal confidence cannot be told apart, so each of them counts with their mean error.
    """
    values, place, sizes = np.unique(-np.asarray(confidence, float), return_inverse=True, return_counts=True)
    wrong = np.bincount(place, 1 - np.asarray(correct, float), minlength=len(values)) / sizes
    ordered = np.repeat(wrong, sizes)
    given = np.arange(1, len(ordered) + 1)
    return given / max(len(ordered), 1), np.cumsum(ordered) / given


def aurc(confidence: np.ndarray, correct: np.ndarray) -> float:
    """Area under the risk–coverage curve: mean risk over all coverages (Geifman et al. 2019); 0 is best."""
    return float(risk_coverage(confidence, correct)[1].mean()) if len(correct) else float("nan")


def coverage_at_risk(confidence: np.ndarray, correct: np.ndarray, risk: float) -> float:
    """The largest share of questions answered, surest first, with at most `risk` wrong among them; 0 where none is.

    Geifman & El-Yaniv 2017. Answers of equal confidence are given together or not at all.
    """
    if not len(correct):
        return float("nan")
    order = np.argsort(-np.asarray(confidence, float), kind="stable")
    sure = np.asarray(confidence, float)[order]
    last = np.append(sure[1:] != sure[:-1], True)  # only here may a threshold fall
    coverage, risks = risk_coverage(confidence, correct)
    kept = coverage[last & (risks <= risk + 1e-12)]
    return float(kept[-1]) if len(kept) else 0.0


def commonest(values: Sequence):
    """The commonest value, the first in order among equals; None for none: what one says without looking."""
    counts = Counter(values)
    return min(counts, key=lambda value: (-counts[value], str(value))) if counts else None
