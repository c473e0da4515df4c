"""What each family measures: symmetry, order, presence, and where near is less than right."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slidekick.data.composed import _written
from slidekick.grounding.export import to_rle
from slidekick.rl.instructions import QUESTIONS
from slidekick.rl.tasks import TASKS, Rollout, ToolStep
from slidekick.rl.tasks.counting import closeness
from slidekick.rl.tasks.detection import iou_f1, mask_boxes
from slidekick.rl.tasks.labels import COMPOSED, GRADED, HEAVIEST, LIGHTEST, class_weights, label_tree, nearness
from slidekick.rl.tasks.saying import bag_f1, entities, entity_f1, told
from slidekick.rl.tasks.segmentation import sampled
from slidekick.rl.tasks.slides import placed, pointing

SIDE = st.integers(0, 900)
BOX = st.tuples(SIDE, SIDE, st.integers(1, 99), st.integers(1, 99)).map(
    lambda one: [one[0], one[1], one[0] + one[2], one[1] + one[3]]
)
BOXES = st.lists(BOX, max_size=6)
WORDS = st.lists(st.sampled_from(["gland", "tumour", "amyloid", "fat", "nerve"]), max_size=8)
CENTRE = "Gland was found, in the centre, covering 25% of the picture."
SEGMENTED = {"answer": CENTRE, "concept": "gland", "word": "gland", "judged": None}


@given(BOXES, BOXES)
def test_iou_f1_is_symmetric_and_1_only_for_the_same_boxes(first, second):
    assert iou_f1(first, second) == pytest.approx(iou_f1(second, first))
    assert 0 <= iou_f1(first, second) <= 1 + 1e-9
    assert iou_f1(first, first) == pytest.approx(1)
    if sorted(first) != sorted(second):
        assert iou_f1(first, second) < 1 - 1e-9


@given(BOXES.filter(len), BOX)
def test_a_box_too_many_or_twice_costs(boxes, extra):
    assert iou_f1([*boxes, extra], boxes) < 1
    assert iou_f1([*boxes, boxes[0]], boxes) < 1
    assert iou_f1([], boxes) == 0
    assert iou_f1([], []) == 1


def test_boxes_are_read_from_the_text_or_from_what_the_tool_drew():
    mask = np.zeros((50, 100), bool)
    mask[10:20, 20:40] = True
    mask[0, 0] = True  # a speck
    assert mask_boxes(mask) == [[200, 200, 400, 400]]
    truth = {"answer": "[200, 200, 400, 400]", "boxes": [[200, 200, 400, 400]]}
    step = ToolStep("segment", {"concept": "gland"}, {"found": True}, mask)
    by_tool = TASKS["detection"].reward(Rollout("Gland was found.", (step,)), truth)
    assert (by_tool.value, by_tool.parts["ap50"]) == (1, 1)
    assert TASKS["detection"].reward(Rollout("none"), truth).value == 0
    assert not TASKS["detection"].reward(Rollout("Gland was found."), truth).parsed
    crowd = "[1, 1, 999, 999], " * 200
    assert not TASKS["detection"].reward(Rollout(crowd), truth).parsed


@given(st.dictionaries(st.text(max_size=3), st.integers(0, 5000), max_size=12))
def test_class_weights_have_mean_1_are_bounded_and_rare_classes_weigh_no_less(counts):
    weights = class_weights(counts)
    met = {name: n for name, n in counts.items() if n}
    assert set(weights) == set(met)
    assert all(LIGHTEST <= weight <= HEAVIEST for weight in weights.values())
    if met:
        assert sum(met[name] * weights[name] for name in met) / sum(met.values()) == pytest.approx(1)
        ordered = [weights[name] for name in sorted(met, key=met.get)]
        assert ordered == sorted(ordered, reverse=True)


def test_within_the_bounds_the_weighted_mean_is_balanced_accuracy():
    weights = class_weights({"a": 30, "b": 20, "c": 10})
    right = {"a": 12, "b": 20, "c": 1}
    assert sum(weights[name] * n for name, n in right.items()) / 60 == pytest.approx((12 / 30 + 1 + 1 / 10) / 3)


@pytest.mark.parametrize("name", [*QUESTIONS, COMPOSED])
def test_near_labels_earn_a_little_and_only_the_right_one_earns_1(name):
    labels = list(label_tree()[name])
    assert len(labels) == len(set(labels))
    for truth in labels:
        assert nearness(name, truth, truth) == 1
        assert nearness(name, None, truth) == nearness(name, "teapot", truth) == 0
        for said in labels:
            if said != truth:
                assert 0 <= nearness(name, said, truth) <= GRADED
                assert (nearness(name, said, truth) > 0) == (nearness(name, truth, said) > 0)


def test_benign_and_malignant_share_no_branch_and_nearer_is_better():
    assert nearness("glas", "healthy colon gland (benign)", "adenomatous colon gland (benign)") == GRADED
    assert nearness("glas", "healthy colon gland (benign)", "moderately differentiated colorectal adenocarcinoma") == 0
    near, far = (nearness("aml_cytomorphology", said, "myelocyte") for said in ("myeloblast", "eosinophil"))
    assert GRADED >= near > far > 0


def test_the_tree_knows_every_tissue_of_composed_slides():
    tissues = {name for case in _written().values() for name in case["tissues"]}
    assert set(label_tree()[COMPOSED]) == tissues


@given(st.integers(0, 400), st.integers(0, 400), st.integers(0, 400))
def test_counting_is_monotone_in_the_error(truth, first, second):
    near, far = sorted((first, second), key=lambda n: abs(n - truth))
    assert closeness(near, truth) >= closeness(far, truth)
    assert closeness(truth, truth) == 1
    assert closeness(None, truth) == 0
    if near != truth:
        assert closeness(near, truth) < 1


def test_a_number_counts_only_from_the_right_tool_about_the_right_word():
    truth = {"answer": "There are 40 nuclei.", "concept": "nucleus", "word": "nucleus", "count": 40}

    def earned(text, *calls):
        steps = tuple(ToolStep(tool, {"concept": word}, {"found": True, "count": n}) for tool, word, n in calls)
        return TASKS["counting"].reward(Rollout(text, steps), truth).value

    assert earned("There are 40 nuclei.", ("count", "nucleus", 40)) == 1
    assert earned("There are 30 nuclei.", ("count", "nuclei", 30)) == pytest.approx(0.75)
    assert earned("There are 40 nuclei.") == pytest.approx(0.1)
    assert earned("There are 40 glands.", ("count", "gland", 40)) == 0
    assert earned("There are 40 nuclei.", ("count", "nucleus", 30)) == pytest.approx(0.375)  # not what was returned
    assert earned("There are 40 nuclei.", ("count", "nucleus", 40), ("count", "gland", 9)) < 0.6
    assert earned("There are many nuclei.", ("count", "nucleus", 40)) == 0


def _segmented(text: str, mask: np.ndarray, truth: np.ndarray, word="gland", **more) -> float:
    found = bool(mask.any())
    result = {"found": True, "area": "25%", "where": "centre"} if found else {"found": False}
    rollout = Rollout(text, (ToolStep("segment", {"concept": word}, result, mask),))
    return TASKS["segmentation"].reward(rollout, SEGMENTED | {"mask": to_rle(truth)} | more).value


@settings(max_examples=40)
@given(st.integers(0, 2**31))
def test_dice_of_the_drawn_mask_is_earned_and_is_symmetric(seed):
    first, second = np.random.default_rng(seed).random((2, 6, 9)) < 0.4
    first[0, 0] = second[0, 1] = True
    expected = 2 * (first & second).sum() / (first.sum() + second.sum())
    assert _segmented(CENTRE, first, second) == pytest.approx(expected)
    assert _segmented(CENTRE, second, first) == pytest.approx(expected)
    assert _segmented(CENTRE, first, first) == pytest.approx(1)


def test_nothing_there_is_right_where_nothing_is_there_and_was_looked_for():
    nothing, thing = np.zeros((6, 6), bool), np.ones((6, 6), bool)
    said = "No gland was found in this picture."
    assert _segmented(said, nothing, nothing) == 1
    assert _segmented("No tumour was found in this picture.", nothing, nothing, word="tumour") == 0
    assert _segmented(said, nothing, thing) == 0
    assert _segmented(CENTRE, thing, nothing) == 0
    assert _segmented("Yes, there is a gland.", nothing, nothing) == 0.5
    assert TASKS["segmentation"].reward(Rollout(said), SEGMENTED | {"mask": to_rle(nothing)}).value == 0


def test_pixels_that_nobody_judged_do_not_count_and_size_makes_no_difference():
    truth, seen = np.zeros((8, 8), bool), np.zeros((8, 8), bool)
    truth[:4, :4] = seen[:, :4] = True
    upper = np.zeros((8, 8), bool)
    upper[:4] = True
    assert _segmented(CENTRE, upper, truth, judged=to_rle(seen)) == 1
    assert _segmented(CENTRE, np.kron(truth, np.ones((3, 5))) > 0, truth) == 1
    assert sampled(np.zeros((0, 4), bool), (2, 2)).sum() == 0


@given(WORDS, WORDS)
def test_entity_f1_is_symmetric_and_more_of_a_right_word_is_less(first, second):
    assert bag_f1(first, second) == bag_f1(second, first)
    assert entity_f1(" ".join(first), " ".join(first)) == 1
    if first:
        assert entity_f1(" ".join([*first, first[0]]), " ".join(first)) < 1


def test_entities_know_negation_grades_and_amounts():
    assert entities("There are 212 glands, but no amyloid.") == ["gland", "no_amyloid"]
    assert entities("Gleason pattern 4") != entities("Gleason pattern 3")
    assert entity_f1("no amyloid", "amyloid") == 0
    assert entity_f1("The colon.", "colon") == 1
    assert entity_f1("colon, liver, lung, kidney, breast or brain", "colon") < 0.3


def test_told_wants_the_tools_numbers_and_places_once_and_no_others():
    step = ToolStep("segment", {"concept": "gland"}, {"found": True, "area": "9%", "where": "upper left"})
    right = "Gland was found, in the upper left, covering 9% of the picture."
    assert told(right, [step])
    for text in ("", "yes", right.replace("9", "8"), right.replace("left", "right"), f"{right} {right}",
                 "No gland was found.", f"{right} There are 4 glands.", right.replace("Gland", "Tumour")):  # fmt: skip
        assert not told(text, [step]), text
    assert not told(right, [])


def test_pointing_is_to_lie_on_the_truth():
    cells = np.zeros((6, 6), bool)
    cells[:2, :2] = True
    rle, full = to_rle(cells), np.ones((30, 60), bool)
    on = np.kron(cells, np.ones((5, 10))) > 0

    def by(text="", mask=None):
        return pointing(Rollout(text, (ToolStep("segment", {"concept": "x"}, {"found": True}, mask),)), rle)

    assert by(mask=on) == 1
    assert by(mask=full) == pytest.approx(cells.mean())
    assert by(mask=~on) == by("It is here.") == 0
    assert by("[0, 0, 300, 300]") == 1
    assert by("[0, 0, 300, 300], [600, 600, 900, 900]") == 0.5
    assert by("in the upper left") == 0.5
    assert placed("in the upper left", cells) == 1
    assert by("in the lower right") == by("throughout") == 0
    assert by("in the upper left, the lower left, the upper right and the lower right") < 0.25
    assert placed("in the upper left", np.zeros((4, 4), bool)) == 0


def test_half_of_a_slide_answer_is_pointing():
    cells = np.zeros((6, 6), bool)
    cells[:2, :2] = True
    truth = {"answer": "Yes.", "kind": "present", "concept": "x", "share": 0.1, "cells": to_rle(cells)}
    step = ToolStep("segment", {"concept": "x"}, {"found": True}, cells)
    reward = TASKS["slide_vqa"].reward
    assert reward(Rollout("Yes.", (step,)), truth).value == 1
    assert reward(Rollout("Yes."), truth).value == 0.5
    assert reward(Rollout("No.", (step,)), truth).value == 0
    assert reward(Rollout("No."), truth | {"cells": None}).value == 1
    share = truth | {"kind": "share"}
    earned = [reward(Rollout(f"It covers {n}%.", (step,)), share).value for n in (10, 15, 20, 40)]
    assert earned == sorted(earned, reverse=True)
    assert (earned[0], earned[-1]) == (1, 0.5)
    assert not reward(Rollout("10% or 20%"), share).parsed


def test_a_report_must_say_what_was_measured_and_must_not_contradict():
    answer = "The picture shows neutrophil. 3 nuclei were measured, covering 9% of the picture."
    truth = {"answer": answer, "others": ["lymphocyte"], "facts": ["neutrophil"], "measured": ["nucleus"]}
    step = ToolStep("measure", {"concept": "nucleus"}, {"found": True, "count": 3, "area": "9%"})
    right = Rollout(answer, (step,))
    reward = TASKS["report"].reward
    assert reward(right, truth).value == 1
    assert reward(replace(right, steps=()), truth).value < 0.5
    assert reward(replace(right, text=answer.replace("3 nuclei", "5 nuclei")), truth).value < 0.5
    assert reward(replace(right, text=answer.replace("neutrophil", "lymphocyte")), truth).value == 0
    assert reward(replace(right, text=f"{answer} Or lymphocyte."), truth).value == 0
    assert reward(replace(right, text="The picture shows neutrophil."), truth).value < 0.8
    of_cells = ToolStep("measure", {"concept": "lymphocyte"}, {"found": False})
    text = "The picture shows neutrophil. No lymphocyte was found in this picture."
    assert reward(Rollout(text, (of_cells,)), truth | {"measured": ["lymphocyte"]}).parts["uncontradicted"] == 1


def test_a_description_may_measure_any_concept_that_the_picture_holds():
    first, second = (
        "The picture shows kidney. 3 nuclei were measured.",
        "The picture shows kidney. 2 tubules were measured.",
    )
    truth = {"answer": first, "answers": [first, second], "others": [], "facts": ["kidney"]}
    truth |= {"measured": ["nucleus", "tubule"], "word": "nucleus"}
    tubules = ToolStep("measure", {"concept": "tubule"}, {"found": True, "count": 2})
    glands = ToolStep("measure", {"concept": "gland"}, {"found": True, "count": 2})
    reward = TASKS["report"].reward
    assert reward(Rollout(second, (tubules,)), truth).value == 1
    assert reward(Rollout("The picture shows kidney. 2 glands were measured.", (glands,)), truth).value < 0.6
