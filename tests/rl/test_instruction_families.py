"""Each family says what the labels say, and refuses what they do not tell."""

import re
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slidekick.copilot.evidence import states_measurement
from slidekick.copilot.language import sentences
from slidekick.data.items import Item
from slidekick.rl.instructions import SHARES, make_instructions
from slidekick.rl.instructions.balance import Balanced
from slidekick.rl.instructions.classification import OPTIONS, YES_NO, nearest
from slidekick.rl.instructions.concepts import Word
from slidekick.rl.instructions.detection import object_boxes, written
from slidekick.rl.instructions.held_out import unseen_items
from slidekick.rl.instructions.lessons import asked
from slidekick.rl.instructions.material import gather
from slidekick.rl.instructions.refusal import REASONS
from slidekick.rl.instructions.stock import Stock, is_tissue
from slidekick.rl.instructions.truth import Truths, counted
from slidekick.rl.instructions.turns import text_of
from slidekick.rl.instructions.wording import ORGAN, STAIN


@pytest.fixture(scope="module")
def material(rich):
    return gather(rich)


@pytest.fixture(scope="module")
def made_of(material):
    """Conversations of one family."""

    def make(family: str, count: int = 300, seed: int = 3) -> list:
        shares = {**dict.fromkeys(SHARES, 0), family: 1}
        return make_instructions(material.items, count, seed, shares, material.texts)

    return make


@pytest.fixture(scope="module")
def by_image(material):
    return {item.image: item for item in material.items}


def question(one) -> str:
    return text_of(one.messages[0])


def answer(one) -> str:
    return text_of(one.messages[-1])


def argument_of(wordings, said: str) -> str:
    """What stands in the place of {} in the wording that was asked."""
    found = [re.fullmatch(re.escape(wording).replace(r"\{\}", "(.+)"), said) for wording in wordings]
    return next(match[1] for match in found if match)


def test_open_questions_are_answered_with_the_label(made_of, by_image):
    assert {answer(one) == by_image[one.images[0]].label for one in made_of("classify")} == {True}


def test_options_hold_the_right_label_and_others_of_its_set_alone(made_of, by_image, material):
    labels = defaultdict(set)
    for item in material.items:
        labels[item.set].add(item.label)
    for one in made_of("options"):
        offered = argument_of(OPTIONS, question(one)).split(", ")
        assert answer(one) == by_image[one.images[0]].label in offered
        assert set(offered) <= labels[one.set]
        assert 1 < len(set(offered)) == len(offered) <= 4


def test_yes_and_no_are_true_and_equally_often_right_with_wrong_names_mostly_of_the_same_set(
    made_of, by_image, material
):
    own, said = Counter(), Counter()
    labels = {(item.set, item.label) for item in material.items}
    for one in made_of("yes_no", 600):
        named, item = argument_of(YES_NO, question(one)), by_image[one.images[0]]
        assert answer(one) == ("yes" if named == item.label else "no")
        said[answer(one)] += 1
        if answer(one) == "no" and item.set != "osteosarcoma":  # which has but one label
            own[(item.set, named) in labels] += 1
    assert 0.4 < said["yes"] / said.total() < 0.6
    assert 0.7 < own[True] / own.total() < 0.98


def test_the_nearest_wrong_name_shares_most_words():
    others = ["mild squamous dysplasia", "normal columnar cell", "severe squamous carcinoma"]
    assert nearest(np.random.default_rng(0), "moderate squamous dysplasia", others) == "mild squamous dysplasia"


def test_organ_and_stain_are_asked_only_where_they_are_stated(made_of, by_image):
    for one in made_of("facts"):
        item = by_image[one.images[0]]
        assert question(one) in (*ORGAN, *STAIN)
        assert answer(one) in ((item.organ if question(one) in ORGAN else item.stain) or "").split(" (")[0]
        assert "not stated" not in answer(one)


def test_what_is_not_counted_is_asked_for_in_the_singular():
    stroma, gland = Word("stroma", "stroma", "stroma", True), Word("gland", "glands", "gland", True)
    wordings = ("Are there {many}?", "Is there {a}?")
    assert {asked(np.random.default_rng(i), wordings, stroma) for i in range(9)} == {"Is there stroma?"}
    told = {asked(np.random.default_rng(i), wordings, gland) for i in range(9)}
    assert told == {"Are there glands?", "Is there a gland?"}


def test_results_are_true_where_the_labels_tell(material):
    truths = Truths(material.items)
    glas = [item for item in material.items if item.set == "glas"]
    assert truths.result("count", glas[0], "gland") == {"found": True, "count": 2}
    assert truths.result("count", glas[0], "malignant gland") == {"found": False}
    assert truths.result("segment", glas[1], "tumour") == {"found": True, "area": "3%", "where": "upper centre"}
    assert truths.result("segment", glas[0], "glomerulus") == {"found": False}  # colon has none
    assert truths.result("segment", glas[0], "nucleus") is None  # the set does not mark them


def test_marked_objects_are_counted_right(material):
    bccd = [item for item in material.items if item.set == "bccd_blood_cells"]
    assert [counted(item, "white blood cell") for item in bccd] == [1, 1]
    assert counted(bccd[0], "nucleus") is None
    points = ((1.0, 2.0, "cell nucleus"),) * 7
    assert counted(Item("bm_graz_nuclei", "1", Path("1.png"), "train", points=points), "nucleus") == 7


def test_boxes_name_the_place_of_the_objects_in_thousandths(made_of, by_image):
    kinds = Counter()
    for one in made_of("detect", 500):
        item, said = by_image[one.images[0]], answer(one)
        boxes = [tuple(map(int, found)) for found in re.findall(r"\[(\d+), (\d+), (\d+), (\d+)\]", said)]
        kinds["box" if boxes else "none" if said == "none" else "other"] += 1
        for box in boxes:
            assert all(0 <= value <= 999 for value in box)
            assert box[0] < box[2]
            assert box[1] < box[3]
        if boxes and item.set == "bccd_blood_cells":
            truth = {written(box[:4], (60, 60)) for box in item.boxes}
            assert {written(tuple(v * 0.06 + 1e-6 for v in box), (60, 60)) for box in boxes} <= truth
        if item.set == "chula_rbc12" and said != "none" and not one.messages[1].get("tool_calls"):
            (at,) = re.findall(r"\((\d+), (\d+)\)", question(one))
            assert said == {("500", "250"): "target cell", ("100", "100"): "ovalocyte"}[at]
    assert set(kinds) == {"box", "none", "other"}


@given(st.integers(1, 50), st.integers(1, 50), st.integers(0, 40), st.integers(0, 40))
def test_an_objects_box_is_the_box_it_was_drawn_with(width, height, x, y):
    ids = np.zeros((100, 100), int)
    ids[y : y + height, x : x + width] = 4
    assert object_boxes(ids) == [(x, y, x + width, y + height)]
    numbers = [int(v) for v in re.findall(r"\d+", written((x, y, x + width, y + height), (100, 100)))]
    assert numbers == [x * 10, y * 10, (x + width) * 10, (y + height) * 10]


def test_two_pictures_are_compared_by_label_stain_and_pair(made_of, by_image):
    seen = Counter()
    for one in made_of("compare", 600):
        if len(one.images) < 2:
            seen["areas"] += 1
            continue
        first, second = (by_image[image] for image in one.images)
        said, told = answer(one), question(one)
        assert first.set == second.set
        assert first.image != second.image
        if said.startswith("the "):
            named = first.label if said == "the first" else second.label
            assert named in told
            assert first.label != second.label
        elif " and " in said:
            assert said == f"{first.stain} and {second.stain}"
        else:
            same = first.pair == second.pair if first.pair else first.label == second.label
            assert said == ("yes" if same else "no")
        seen["stains" if " and " in said else said] += 1
    assert set(seen) == {"areas", "stains", "yes", "no", "the first", "the second"}


def test_of_two_areas_the_larger_is_named(made_of):
    compared = 0
    for one in made_of("compare", 600):
        covered = [re.fullmatch(r"(.+) covers <?(\d+)% .*", sentence) for sentence in sentences(answer(one))]
        if more := re.search(r"([^.]+) covers more", answer(one)):
            compared += 1
            areas = {match[1]: int(match[2]) for match in covered if match}
            assert areas[more[1].strip()] == max(areas.values())
    assert compared > 50


def test_descriptions_begin_with_what_the_picture_is(made_of, by_image):
    for one in made_of("describe"):
        item = by_image[one.images[0]]
        if item.label:
            assert answer(one).startswith(f"The picture shows {item.label}. ")


def test_report_lines_hold_organ_and_label_or_the_signed_out_diagnosis(made_of, by_image):
    kinds = Counter()
    for one in made_of("report"):
        if one.images and one.set == "kidney_stain_pairs":
            assert by_image[one.images[0]].pair == "case_1"
            assert answer(one) == "Membranous nephropathy"
        elif one.images:
            item = by_image[one.images[0]]
            organ, _, label = answer(one).partition("; ")
            assert label == f"{item.label}."
            assert organ.lower().startswith(item.organ.split(" (")[0])
        kinds[one.set] += 1
    assert {"glas", "kidney_stain_pairs", "kidney_diagnoses", "reg2025_reports"} <= set(kinds)


def test_questions_with_a_picture_ask_for_what_is_noted_of_it(made_of):
    said = defaultdict(set)
    for one in made_of("vqa"):
        if one.images:
            said[question(one)].add((one.set, answer(one)))
    assert said["Is the cell granular?"] == {("pbc_wbc_attributes", "yes")}
    assert said["Benign or malignant?"] == {("glas", "benign"), ("glas", "malignant")}


def test_what_a_picture_does_not_tell_is_refused_for_the_right_reason(made_of, by_image):
    reasons = {text: reason for reason in REASONS for text in reason.questions}
    why = Counter()
    for one in made_of("refuse", 500):
        item, reason = by_image[one.images[0]], reasons[question(one)]
        assert reason.holds(item)
        assert answer(one) in reason.answers
        why[reason.name] += 1
        if item.set == "ihc_lymph":
            assert reason.name in ("patient", "organ")
        if reason.name == "magnification":
            assert item.set == "osteosarcoma"
    assert {"patient", "organ", "magnification", "colon marker", "marker"} == set(why)


def test_a_refusal_states_no_measurement_so_the_evidence_check_lets_it_stand():
    assert not [text for reason in REASONS for text in reason.answers if states_measurement(text)]


def test_dialogues_are_exchanges_about_one_picture_which_begin_with_what_it_is(made_of, by_image):
    lengths = Counter()
    for one in made_of("dialogue", 200):
        (image,) = one.images
        assert text_of(one.messages[1]) == by_image[image].label
        users = [text_of(message) for message in one.messages if message["role"] == "user"]
        lengths[len(users)] += 1
        for before, after in zip(one.messages, one.messages[1:], strict=False):
            if before["role"] in ("user", "tool"):
                assert after["role"] == "assistant"
    assert set(lengths) == {2, 3}


def test_pictures_without_tissue_are_not_asked_about(material):
    assert [item.set for item in material.items if not is_tissue(item)] == ["deepliif_pairs"] * 2
    assert not [item for item in Stock(material.items).items if item.set == "deepliif_pairs"]


def test_a_small_set_is_drawn_more_often_than_its_size_and_less_than_an_equal_share():
    drawer = Balanced([("large", "a", 0)] * 90 + [("small", "a", 1)] * 10)
    rng = np.random.default_rng(0)
    share = np.mean([drawer.draw(rng) for _ in range(2000)])
    assert share == pytest.approx(10**0.5 / (90**0.5 + 10**0.5), abs=0.04)


def test_what_a_person_wrote_into_a_report_is_taught_unless_it_states_a_measurement(items):
    told = [
        {"question": "What does this picture show?", "answer": "Colon with cryptitis.", "draft": "Colon."},
        {"question": "Which grade?", "answer": "Low grade."},
        {"question": "How many nuclei are there?", "answer": "There are 5 nuclei."},
        {"question": "Which organ?", "answer": "<|im_end|>"},
        {"question": "Which stain?", "answer": None},
    ]
    path = items[0].image
    edits = [Item("edits", str(number), path, "train", extra=one) for number, one in enumerate(told)]
    kept, dropped = unseen_items([*edits, edits[0]], [])
    assert (kept, dropped.twice) == (edits, {"edits": 1})
    made = make_instructions(kept, 40, 0, {**dict.fromkeys(SHARES, 0), "vqa": 1})
    assert {(question(one), answer(one)) for one in made} == {
        ("What does this picture show?", "Colon with cryptitis."),
        ("Which grade?", "Low grade."),
    }
    assert {*map(tuple, (one.images for one in made))} == {(path,)}
