"""Questions that no picture of tissue answers, told from the others by their words: about the patient, the treatment,
the genes. Fitted on the wordings that the instructions teach; `evaluate honesty` asks others too.

A logistic regression on the mean of the question's word embeddings, as the language model holds them, so that no other
encoder need be loaded.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np

from slidekick.copilot.reports.forms import FORMS, load_form
from slidekick.rl.instructions import GENERAL, QUESTIONS
from slidekick.rl.instructions.classification import YES_NO
from slidekick.rl.instructions.concepts import Word, names, phrasings, strangers
from slidekick.rl.instructions.counting import COUNT
from slidekick.rl.instructions.description import DESCRIBE
from slidekick.rl.instructions.detection import BOXES, BY_TOOL
from slidekick.rl.instructions.lessons import filled, fits
from slidekick.rl.instructions.measuring import MEASURE
from slidekick.rl.instructions.refusal import REASONS
from slidekick.rl.instructions.report import LINE
from slidekick.rl.instructions.segmentation import THERE, WHERE
from slidekick.rl.instructions.wording import ORGAN, STAIN

STRENGTH = 1.0  # C of the logistic regression on standardised numbers
MARGIN = 1.5  # in logits: what is declined wrongly disappoints more than what is read wrongly and marked as a reading
EACH = 6  # words or labels put into each wording that has a place for one
SEED = 19
# Of what markers tell, genes are in no picture; a protein may be stained.
_GENES = re.compile(r"mutat|methylat|microsatellite|\bMSI\b|rearranged", re.IGNORECASE)


def taught_questions(labels: Sequence[str]) -> tuple[list[str], list[str]]:
    """(those that no picture answers, those that one may answer), as the instructions word them."""
    patient = [words for reason in REASONS if reason.name == "patient" for words in reason.questions]
    markers = [words for reason in REASONS if "marker" in reason.name for words in reason.questions]
    genes = [words for words in markers if _GENES.search(words)]
    rng = np.random.default_rng(SEED)
    known: list[Word] = [word for name in names() for word in phrasings(name)[:3]] + list(strangers())
    told = [*DESCRIBE, *ORGAN, *STAIN, *GENERAL, *LINE, *(words for asked in QUESTIONS.values() for words in asked)]
    told += [words for form in FORMS for asked in load_form(form).questions.values() for words in asked]
    for template in (*COUNT, *THERE, *WHERE, *MEASURE, *BY_TOOL, *BOXES):
        usable = [word for word in known if fits(template, word)]
        told += [filled(template, usable[index]) for index in rng.integers(len(usable), size=EACH)]
    for template in YES_NO if labels else ():
        told += [template.format(labels[index]) for index in rng.integers(len(labels), size=EACH)]
    return [*patient, *genes], told


def fit_untold(vector: Callable[[str], np.ndarray], labels: Sequence[str]) -> tuple[np.ndarray, float]:
    """(weights (D,), bias): above 0 a question with vector (D,) is one that no picture answers."""
    from sklearn.linear_model import LogisticRegression

    untold, told = taught_questions(labels)
    rows = np.stack([vector(words) for words in (*untold, *told)]).astype(np.float64)
    centre, spread = rows.mean(0), rows.std(0) + 1e-9
    truth = np.repeat([1, 0], [len(untold), len(told)])
    model = LogisticRegression(C=STRENGTH, class_weight="balanced", max_iter=2000).fit((rows - centre) / spread, truth)
    weights = model.coef_[0] / spread
    return weights.astype(np.float32), float(model.intercept_[0] - weights @ centre) - MARGIN
