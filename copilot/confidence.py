"""How sure an answer among given options is: log-probabilities to probabilities, and when to abstain.

A model's own probabilities are too sure or not sure enough by a factor on the logits, which one number, the
temperature, mends (Guo et al. 2017). The threshold below which no answer should be given is chosen beside it on
validation items so that the error among the answers given stays within a risk, with the certainty that their number
allows (Geifman & El-Yaniv 2017). There is one pair for an answer among given options, and one for an answer in the
model's own words, of which only the probability of the whole turn is known. All lie in `confidence.json` beside the
weights they were fitted for.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from slidekick.data.errors import InputError
from slidekick.data.files import write_atomic

FILE = "confidence.json"
SCHEMA = "slidekick.confidence/1"
RANGE = (0.05, 20.0)  # temperatures looked at; beyond, a model knows nothing or the items are too few
NEVER = 1.01  # a threshold that no probability reaches: abstain always
DOUBT = 0.05  # chance that the error among the answers given is beyond the risk all the same


@dataclass(frozen=True)
class Confidence:
    """temperature: logits are divided by it. threshold: abstain where the best probability is lower.

    turn_temperature, turn_threshold: the same for a turn against everything else that could have been said. risk: the
    error that the thresholds were to keep to; n: validation items behind them; weights: hash of the weights that they
    hold for ("" where there is none to tell).
    """

    temperature: float = 1.0
    threshold: float = 0.0
    risk: float | None = None
    n: int = 0
    weights: str = ""
    turn_temperature: float = 1.0
    turn_threshold: float = 0.0

    def probabilities(self, logits: Sequence[float]) -> np.ndarray:
        """float64 (N,): softmax of one item's log-probabilities over the temperature."""
        return softmax(np.asarray(logits, float) / self.temperature)

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
        found = Confidence(**data)
        if not (min(found.temperature, found.turn_temperature) > 0 and min(found.threshold, found.turn_threshold) >= 0):
            raise ValueError("temperature or threshold out of range")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path}: cannot be read as {SCHEMA} ({error}); remove it, or fit it anew with "
            "`slidekick evaluate classify --calibrate`"
        ) from error
    return found if found.weights == weights else None


def fit_temperature(logits: Sequence[Sequence[float]], truth: Sequence[int]) -> float:
    """The temperature in `RANGE` under which the truths are likeliest (least mean negative log-likelihood).

    logits: each item's log-probabilities, as many as it has options; truth: index of the right one. Convex in
    1 / temperature, so a bounded search finds it. Raises ValueError without items.
    """
    from scipy.optimize import minimize_scalar

    if not len(logits):
        raise ValueError("there are no items to fit a temperature on")
    rows = [np.asarray(row, float) for row in logits]

    def loss(log_temperature: float) -> float:
        scaled = [row / np.exp(log_temperature) for row in rows]
        return float(np.mean([_log_sum(row) - row[right] for row, right in zip(scaled, truth, strict=True)]))

    found = minimize_scalar(loss, bounds=tuple(np.log(RANGE)), method="bounded", options={"xatol": 1e-4})
    return float(np.exp(found.x))


def choose_threshold(confidence: np.ndarray, correct: np.ndarray, risk: float) -> float:
    """The lowest confidence from which on the share wrong is at most `risk` but for a chance of `DOUBT`.

    float (N,), bool (N,). The share's upper bound is Clopper and Pearson's, as Geifman and El-Yaniv guarantee it.
    `NEVER` where no confidence is enough, also where the items are too few to tell.
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
) -> Confidence:
    """Both pairs of temperature and threshold; options: for answers that are the likeliest.

    turns: of each answer in the model's own words its likelihood and whether it was right.
    """
    likelihoods, correct = zip(*turns, strict=True)
    turn = fit_temperature([_against_rest(p) for p in likelihoods], [0 if right else 1 for right in correct])
    scale = Confidence(fit_temperature(logits, truth), turn_temperature=turn)
    tables = [scale.probabilities(row) for row in logits]
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
