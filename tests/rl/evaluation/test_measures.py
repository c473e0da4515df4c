"""Figures: counted by hand, unreadable answers counted, and of the rows that belong to them."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slidekick.copilot.confidence import Confidence
from slidekick.rl.evaluation.measures import abstaining, consistency, figures, flat, measures_of

ROWS = st.lists(
    st.tuples(st.sampled_from("xy"), st.sampled_from("abc"), st.sampled_from(["a", "b", "c", None]), st.floats(0, 1)),
    min_size=1,
    max_size=25,
)


def row(name="x", truth="a", said="a", sure=0.5, **more):
    right = float(said == truth)
    made = {"id": f"{name}/{more.pop('n', 0)}", "set": name, "group": str(len(more)), "family": "classify"}
    made |= {"kind": "label", "change": "none", "truth": truth, "said": said, "right": right, "score": right}
    made |= {"options": ["a", "b", "c"], "logits": None, "probabilities": None, "confidence": sure}
    return made | {"supported": None} | more


def values(rows):
    return {name: measure.value(measure.rows) for name, measure in measures_of(rows).items()}


@given(ROWS)
@settings(max_examples=60, deadline=None)  # scikit-learn loads with the first
def test_balanced_accuracy_is_the_mean_over_sets_of_the_mean_over_classes(drawn):
    rows = [row(*one) for one in drawn]
    by_set = []
    for name in sorted({r["set"] for r in rows}):
        mine = [r for r in rows if r["set"] == name]
        classes = sorted({r["truth"] for r in mine})
        by_set.append(np.mean([np.mean([r["right"] for r in mine if r["truth"] == c]) for c in classes]))
    told = values(rows)
    assert told["balanced_accuracy_mean"] == pytest.approx(np.mean(by_set))
    assert told["unparsable"] == pytest.approx(np.mean([r["said"] is None for r in rows]))


def test_yardsticks_are_compared_on_the_same_rows():
    rows = [row(truth=t, said="a", linear_probe_right=float(t == "b")) for t in "ab"]
    told = values(rows)
    assert told["balanced_accuracy_mean"] == told["linear_probe"] == 0.5
    assert told["minus_linear_probe"] == 0
    assert "minus_finetuned_head" not in told, "it was not run"


def test_saying_nothing_readable_is_wrong_and_unsure_is_better():
    weighed = {"logits": [0, 0, 0], "probabilities": [0.6, 0.2, 0.2]}
    rows = [row(truth="a", sure=0.6, n=0, **weighed), row(truth="b", said=None, sure=0.0, n=1, **weighed)]
    told = values(rows)
    assert told["accuracy"] == 0.5
    assert told["aurc"] == pytest.approx((0 + 0.5) / 2)
    assert told["coverage"] == 0.5


def test_grades_are_weighed_by_distance():
    grades = ["benign prostate tissue or stroma", "Gleason pattern 3", "Gleason pattern 4", "Gleason pattern 5"]
    near = [row("prostate_gleason", g, s) for g, s in zip(grades, [grades[1], *grades[1:]], strict=True)]
    far = [row("prostate_gleason", g, s) for g, s in zip(grades, [grades[3], *grades[1:]], strict=True)]
    name = "quadratic_kappa.prostate_gleason"
    assert values(near)[name] > values(far)[name]


def test_open_and_closed_questions_are_scored_apart():
    base = {"family": "vqa", "text_only_right": None, "commonest_right": None}
    rows = [row(kind="yes_no", truth="yes", said="yes", **base), row(kind="yes_no", truth="no", said="yes", **base),
            row(kind="text", truth="a gland", said="gland", **base) | {"score": 2 / 3}]  # fmt: skip
    told = values(rows)
    assert told["accuracy"] == told["accuracy.yes_no"] == told["balanced_accuracy.yes_no"] == 0.5
    assert told["token_f1.text"] == pytest.approx(2 / 3)
    assert told["exact.text"] == 0
    assert "accuracy.choice" not in told


def test_pictures_without_the_object_stay_in():
    rows = [
        row(family="detect", kind="boxes", truth=[], said=[]),
        row(family="detect", kind="boxes", truth=[[0, 0, 1, 1]]),
    ]
    rows[0]["score"], rows[1]["score"] = 1.0, 0.0
    told = values(rows)
    assert (told["ap50"], told["ap50.present"], told["ap50.absent"]) == (0.5, 0, 1)


def test_counts_that_could_not_be_read_are_in_the_error():
    rows = [
        row(family="count", kind="number", truth=10.0, said=8.0),
        row(family="count", kind="number", truth=4.0, said=None),
    ]
    told = values(rows)
    assert (told["mae"], told["relative_error"], told["unparsable"]) == (3, pytest.approx(0.6), 0.5)


def test_reports_count_words_and_backed_sentences():
    told = values([row(family="report", kind="text", rouge_l=0.25, supported=0.5)])
    assert (told["rouge_l"], told["supported"]) == (0.25, 0.5)


def test_changed_rows_count_for_consistency_only():
    rows = [row(n=1), row(n=2, said=None), row(n=1, change="JPEG 50"), row(n=2, said=None, change="JPEG 50"),
            row(n=1, said="b", change="stain +10 %")]  # fmt: skip
    assert values(rows)["accuracy"] == 0.5
    told = figures(rows, consistency(rows, {"jpeg": ("JPEG 50",), "stain": ("stain +10 %",), "wording": ()}))
    assert told["consistency_jpeg"].value == 0.5, "two unreadable answers are not the same"
    assert told["consistency_stain"].value == 0
    assert told["consistency_wording"].n == 0


def test_abstaining_answers_what_is_sure_enough():
    rows = [row(sure=0.9, logits=[0]), row(said="b", sure=0.8, logits=[0]), row(said="b", sure=0.1, logits=[0])]
    told = {name: m.value(m.rows) for name, m in abstaining(rows, Confidence(threshold=0.5)).items()}
    assert told == {"answered": pytest.approx(2 / 3), "answered_risk": 0.5}
    spoken = [
        one | {"likelihood": p, "own_words_right": right}
        for one, p, right in zip(rows, (0.9, 0.2, 0.1), (1.0, 0.0, 0.0), strict=True)
    ]
    fitted = Confidence(threshold=0.5, turn_temperature=2, turn_threshold=0.3)
    told = {name: m.value(m.rows) for name, m in abstaining(spoken, fitted).items()}
    # 0.9, 0.2 and 0.1 at temperature 2 are 3 / 4, 1 / 3 and 1 / 4; right, wrong and wrong
    assert told["turns_answered"] == pytest.approx(2 / 3)
    assert told["turns_answered_risk"] == 0.5
    assert told["turns_ece"] == pytest.approx((1 / 4 + 1 / 3 + 1 / 4) / 3)


def test_figures_are_flat_with_interval_and_number_and_none_for_nothing():
    rows = [row(n=i, said="a" if i % 3 else "b", group=str(i)) for i in range(30)]
    metrics = flat(figures(rows, measures_of(rows)))
    low, high = metrics["balanced_accuracy_mean_ci"]
    assert low < metrics["balanced_accuracy_mean"] < high
    assert metrics["balanced_accuracy_mean_n"] == 30
    nothing = flat(figures(rows, consistency(rows, {"jpeg": ()})))
    assert nothing == {"consistency_jpeg": None, "consistency_jpeg_ci": None, "consistency_jpeg_n": 0}
    assert not any(isinstance(v, float) and math.isnan(v) for v in metrics.values())
