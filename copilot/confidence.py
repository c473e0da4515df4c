"""How sure an answer among given options is: log-probabilities to probabilities, and when to abstain.

A model's own probabilities are too sure or not sure enough by a factor on the logits, which one number, the
temperature, mends (Guo et al. 2017). Where the model's image tokens lie near the words for what they show, as mini's
do, how alike picture and option are adds to the logits: it does not hang on how the question is worded. The threshold
below which no answer should be given is chosen beside it on validation items so that the error among the answers
given stays within a risk by an upper bound that their number allows (as Geifman & El-Yaniv 2017 do). There is one pair
for an answer among given options, and one for an answer in the model's own words, of which only the probability of
the whole turn is known. All lie in `confidence.json` beside the weights they were fitted for.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from slidekick.data.errors import InputError
from slidekick.data.files import write_atomic
from slidekick.data.ontology import plain

FILE = "confidence.json"
SCHEMA = "slidekick.confidence/1"
RANGE = (0.05, 20.0)  # temperatures looked at; beyond, a model knows nothing or the items are too few
MOST_LIKENESS = 100.0  # cosines of rivals differ by a few hundredths, so a weight of some tens decides between them
NEVER = 1.01  # a threshold that no probability reaches: abstain always
DOUBT = 0.05  # chance that the error at one threshold is beyond its bound all the same


@dataclass(frozen=True)
class Confidence:
    """temperature: logits are divided by it. likeness: weight of the cosine between picture and option, added to them.
    threshold: abstain where the best probability is lower.

    turn_temperature, turn_threshold: the same for a turn against everything else that could have been said. risk: the
    error that the thresholds were to keep to; n: validation items behind them; weights: hash of the weights that they
    hold for ("" where there is none to tell). readings: answers that exclude each other, such as the blood cells, a
    tuple for each question they were fitted on.
    """

    temperature: float = 1.0
    threshold: float = 0.0
    risk: float | None = None
    n: int = 0
    weights: str = ""
    turn_temperature: float = 1.0
    turn_threshold: float = 0.0
    likeness: float = 0.0
    readings: tuple[tuple[str, ...], ...] = ()

    def probabilities(self, logits: Sequence[float], likeness: Sequence[float] | None = None) -> np.ndarray:
        """float64 (N,): softmax of one item's log-probabilities over the temperature, and of the options' cosines with
        the picture where they are known."""
        scaled = np.asarray(logits, float) / self.temperature
        return softmax(scaled if likeness is None else scaled + self.likeness * np.asarray(likeness, float))

    def rivals(self, reading: str) -> tuple[str, ...]:
        """What else could have been said in place of `reading`, itself among it; empty for any other text."""
        kinds = [kind for kind in self.readings if reading in kind]
        return tuple(dict.fromkeys(name for kind in kinds for name in kind))

    def named(self, question: str) -> str:
        """The taught reading that a question names; "" for none, and for several of which none holds the others."""
        asked = f" {plain(question)} "
        found = {plain(name): name for kind in self.readings for name in kind if f" {plain(name)} " in asked}
        longest = max(found, key=len, default="")
        return found[longest] if longest and all(one in longest for one in found) else ""

    def of_turn(self, likelihood: float) -> float:
        """How likely a turn is right of which the model held the whole for as likely as `likelihood` (0–1)."""
        return float(softmax(np.array(_against_rest(likelihood)) / self.turn_temperature)[0])

    def save(self, folder: Path) -> Path:
        """Write `confidence.json` into a model's folder. Raises OutputError."""
        return write_atomic(folder / FILE, json.dumps({"schema": SCHEMA, **asdict(self)}, indent=1) + "\n")


def load_confidence(folder: Path, weights: str = "") -> Confidence | None:
    """What lies in a model's folder; None where nothing does, or it was fitted for other weights.

    Raises InputError for a file that cannot be used.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        data = json.loads(path.read_text())
        if data.pop("schema") != SCHEMA:
            raise ValueError("another schema")
        data["readings"] = tuple(tuple(map(str, kind)) for kind in data.get("readings", ()))
        found = Confidence(**data)
        if not (
            min(found.temperature, found.turn_temperature) > 0
            and min(found.threshold, found.turn_threshold, found.likeness) >= 0
        ):
            raise ValueError("temperature, threshold or likeness out of range")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(
            f"{path}: cannot be read as {SCHEMA} ({error}); remove it, or fit it anew with "
            "`slidekick evaluate classify --calibrate`"
        ) from error
    return found if found.weights == weights else None


def fit_scale(
    logits: Sequence[Sequence[float]], truth: Sequence[int], likeness: Sequence[Sequence[float]] | None = None
) -> tuple[float, float]:
    """(temperature in `RANGE`, weight of the likeness from 0 on) under which the truths are likeliest.

    logits: each item's log-probabilities, as many as it has options; truth: index of the right one; likeness: the
    options' cosines with the picture, weight 0 where not given. The mean negative log-likelihood is convex in
    1 / temperature and the weight. Raises ValueError without items.
    """
    from scipy.optimize import minimize

    if not len(logits):
        raise ValueError("there are no items to fit a temperature on")
    rows = [np.asarray(row, float) for row in logits]
    alike = [np.zeros_like(row) for row in rows] if likeness is None else [np.asarray(one, float) for one in likeness]

    def loss(values: np.ndarray) -> float:
        scaled = [row * values[0] + values[1] * one for row, one in zip(rows, alike, strict=True)]
        return float(np.mean([_log_sum(row) - row[right] for row, right in zip(scaled, truth, strict=True)]))

    least, most = (1 / one for one in reversed(RANGE))
    bounds = [(least, most), (0.0, 0.0 if likeness is None else MOST_LIKENESS)]
    found = minimize(loss, [1.0, 0.0], method="L-BFGS-B", bounds=bounds)
    return float(1 / found.x[0]), float(found.x[1])


def choose_threshold(confidence: np.ndarray, correct: np.ndarray, risk: float) -> float:
    """The lowest confidence from which on the upper bound of the share wrong is at most `risk`.

    float (N,), bool (N,). The bound is Clopper and Pearson's for one look, as Geifman and El-Yaniv take it. Here as
    many levels are looked at as there are confidences, without a correction for it, so that the risk is aimed at and
    not guaranteed. `NEVER` where no confidence is enough, also where the items are too few to tell.
    """
    confidence, correct = np.asarray(confidence, float), np.asarray(correct, bool)
    for level in np.unique(confidence):
        given = confidence >= level
        if most_wrong(int((given & ~correct).sum()), int(given.sum())) <= risk:
            return float(level)
    return NEVER


def most_wrong(wrong: int, n: int) -> float:
    """Upper bound of a share of which `wrong` in `n` were seen, held but for a chance of `DOUBT`; 1 where all were."""
    from scipy.stats import beta

    return 1.0 if wrong >= n else float(beta.ppf(1 - DOUBT, wrong + 1, n - wrong))


def fit_confidence(
    logits: Sequence[Sequence[float]],
    truth: Sequence[int],
    turns: Sequence[tuple[float, bool]],
    risk: float,
    weights: str,
    likeness: Sequence[Sequence[float]] | None = None,
    readings: Sequence[Sequence[str]] = (),
) -> Confidence:
    """Both scales and thresholds. logits: each item's log-probabilities of its options; truth: index of the right one.

    turns: of each answer in the model's own words its likelihood and whether it was right. likeness: see `fit_scale`.
    readings: see `Confidence`. Raises InputError where there are no items or no turns to fit them on.
    """
    if not len(turns) or not len(logits):
        missing = "answers in the model's own words" if len(logits) else "items"
        raise InputError(f"there are no {missing} to fit the confidence on; give a folder with questions of val")
    likelihoods, correct = zip(*turns, strict=True)
    turn, _ = fit_scale([_against_rest(p) for p in likelihoods], [0 if right else 1 for right in correct])
    temperature, weight = fit_scale(logits, truth, likeness)
    scale = Confidence(temperature, turn_temperature=turn, likeness=weight)
    alike = [None] * len(truth) if likeness is None else likeness
    tables = [scale.probabilities(row, one) for row, one in zip(logits, alike, strict=True)]
    best = np.array([table.max() for table in tables])
    right = np.array([table.argmax() == one for table, one in zip(tables, truth, strict=True)])
    sure = np.array([scale.of_turn(p) for p in likelihoods])
    return replace(
        scale,
        threshold=choose_threshold(best, right, risk),
        turn_threshold=choose_threshold(sure, np.array(correct), risk),
        risk=risk,
        n=len(tables),
        weights=weights,
        readings=tuple(map(tuple, readings)),
    )


def _against_rest(likelihood: float) -> list[float]:
    """Log-probabilities of a turn and of all others together."""
    inside = min(max(likelihood, 1e-12), 1 - 1e-12)
    return [float(np.log(inside)), float(np.log1p(-inside))]


def softmax(logits: np.ndarray) -> np.ndarray:
    """float64 (..., N): probabilities over the last axis."""
    shifted = np.exp(logits - logits.max(-1, keepdims=True))
    return shifted / shifted.sum(-1, keepdims=True)


def _log_sum(row: np.ndarray) -> float:
    top = row.max()
    return float(top + np.log(np.exp(row - top).sum()))
