"""Evaluation of a segmentor that knows the truth, but for what it is told to get wrong."""

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from slidekick.data.errors import InputError
from slidekick.data.items import Item, load_items
from slidekick.data.triples import pixels_of, triples, truth
from slidekick.grounding.calibration import PixelCalibration
from slidekick.grounding.evaluate import (
    ABSENT_PROMPTS,
    ask_all,
    asked,
    dice_mean,
    evaluate_grounding,
    headline,
    minus_unet,
    renderer,
    summary,
)
from slidekick.grounding.finding import Finding
from slidekick.grounding.interaction import CLICKS, MOST_CLICKED
from slidekick.grounding.vocabulary import Concept, Vocabulary

NAMES = ["nucleus", "tumour", "stroma", "gland"]
SETS = ("gbm40", "kather2016_sample")


class Oracle:
    """Draws the truth, and nothing where it is pointed. missed, invented: concepts that it gets wrong everywhere."""

    def __init__(self, items, missed=(), invented=(), sets=SETS) -> None:
        kinds = {"nucleus": "object", "gland": "object"}
        concepts = [Concept(name, kinds.get(name, "region"), (), (0.5, 0.5), 1.0, sets=sets) for name in NAMES]
        self.vocabulary = Vocabulary(concepts)
        self.missed, self.invented = missed, invented
        self.asked: list[dict] = []
        self.known = {(pixels_of(t.item.image).tobytes(), t.concept): truth(t) for t in triples(items, NAMES)}

    def segment(self, image, concepts, *, mpp=None, points=None, boxes=None):
        self.asked.append({"concepts": list(concepts), "mpp": mpp, "points": list(points or [])})
        if boxes or not concepts:
            return [Finding("object", np.zeros(image.shape[:2], bool), 0.0, 1.0)]
        return [self._one(image, name) for name in concepts]

    def _one(self, image, name: str) -> Finding:
        mask, ids = self.known[image.tobytes(), name]
        if name in self.missed:
            mask = np.zeros_like(mask)
        if name in self.invented:
            mask = np.ones_like(mask)
        presence = 0.9 if mask.any() else 0.1
        objects = None if self.vocabulary.concepts[name].kind == "region" else (mask if ids is None else ids * mask)
        probability = np.where(mask, 0.8, 0.1).astype(np.float32)
        instances = None if objects is None else objects.astype(np.int32)
        return Finding(name, mask, 0.8, presence, instances, prompt=name, probability=probability)


@pytest.fixture(scope="module")
def items(painted):
    return load_items(painted)


def row(there: bool, found: bool, presence: float = 0.5, concept: str = "gland", one: str = "a", **more) -> dict:
    base = {"concept": concept, "set": one, "there": there, "found": found, "presence": presence}
    return base | {"group": f"{one} {presence}", "item": f"{one}/1", "dice": 0.0 if there else None} | more


# --- what is asked


def test_every_picture_that_shows_a_concept_is_asked_and_a_fixed_draw_of_those_without_it(items):
    wanted = asked(items, NAMES)
    number = {(t.concept, t.mode): 0 for t in wanted}
    for triple in wanted:
        number[triple.concept, triple.mode] += 1
    assert number == {
        ("nucleus", "mask"): 7,
        ("tumour", "mask"): 7,
        ("stroma", "whole"): 2,
        ("stroma", "absent"): 7,
        ("gland", "absent"): 9,
    }


def test_no_more_absent_prompts_than_are_enough_and_always_the_same(tmp_path):
    many = [Item("gbm40", str(n), tmp_path / f"{n}.png", "test") for n in range(3 * ABSENT_PROMPTS)]
    first, again = asked(many, ["gland", "stroma"]), asked(many[::-1], ["stroma", "gland"])
    for name in ("gland", "stroma"):
        chosen = {t.item.id for t in first if t.concept == name}
        assert len(chosen) == ABSENT_PROMPTS
        assert chosen == {t.item.id for t in again if t.concept == name}
    assert {t.item.id for t in first if t.concept == "gland"} != {t.item.id for t in first if t.concept == "stroma"}


# --- rows


def test_rows_of_a_perfect_segmentor_are_perfect(items):
    oracle, pixels = Oracle(items), PixelCalibration()
    rows = ask_all(oracle, asked(items, NAMES), pixels)
    assert len(rows) == 7 + 7 + 2 + 7 + 9
    assert len(oracle.asked) == 11, "one look a picture"
    for one in rows:
        assert one["found"] == one["there"]
        assert one["dice"] == (1.0 if one["there"] and one["concept"] != "stroma" else None)
    by_concept = {name: [one for one in rows if one["concept"] == name] for name in NAMES}
    for one in by_concept["nucleus"]:
        assert (one["aji"], one["pq"], one["count"]) == (1.0, 1.0, one["true_count"])
        assert 1 <= one["true_count"] <= 3
        assert (one["counts"] == [one["true_count"], 0, 0]).all()
    for one in by_concept["tumour"]:
        assert "aji" not in one
        assert (one["counts"] == [1, 0, 0]).all(), "a region is one object"
    for one in by_concept["stroma"]:
        assert ("counts" in one) != one["there"], "a label says nothing of edges"
    assert not any(one["counts"].any() for one in by_concept["gland"])
    assert {one["item"] for one in by_concept["gland"]} >= {"gbm40/p0", "kather2016_sample/p1"}
    marked = [t for t in asked(items, NAMES) if t.mode == "mask"]
    assert sum(table["n"] for table in pixels.table()) == sum(truth(t)[0].size for t in marked)


def test_rows_of_a_segmentor_that_misses_and_invents(items):
    rows = ask_all(Oracle(items, missed=["nucleus"], invented=["gland"]), asked(items, NAMES))
    for one in rows:
        if one["concept"] == "nucleus":
            assert (one["there"], one["found"], one["dice"], one["aji"]) == (True, False, 0.0, 0.0)
            assert (one["counts"] == [0, 0, one["true_count"]]).all()
        if one["concept"] == "gland":
            assert (one["there"], one["found"], one["dice"]) == (False, True, None)
            assert (one["counts"] == [0, 1, 0]).all()


def test_the_scale_of_the_picture_is_told_where_it_is_known(items):
    oracle = Oracle(items)
    known = [replace(item, mpp=0.25) for item in items]
    ask_all(oracle, triples(known[:1], ["nucleus"]))
    ask_all(oracle, triples(items[:1], ["nucleus"]))
    assert [asked["mpp"] for asked in oracle.asked] == [(0.25, 0.25), None]


def test_what_nobody_judged_counts_neither_for_nor_against(items, tmp_path):
    """The part of the picture that holds all of its nuclei is taken out; the segmentor still draws them there."""
    mask = np.array(Image.open(items[0].mask))
    mask[:60] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    wanted = triples([replace(items[0], mask=tmp_path / "mask.png", instances=None)], ["nucleus", "tumour"])
    pixels = PixelCalibration()
    nucleus, tumour = ask_all(Oracle(items[:1]), wanted, pixels)
    assert (nucleus["there"], nucleus["found"], nucleus["dice"]) == (False, False, None)
    assert not nucleus["counts"].any()
    assert tumour["dice"] == 1.0
    assert sum(table["n"] for table in pixels.table()) == 36 * 96


# --- figures


def test_absent_and_left_unmarked_counts_as_right_and_marked_as_wrong():
    figures = summary([row(False, False), row(False, False), row(False, False), row(False, True)])
    assert figures["gland"]["absent_not_found"]["value"] == 0.75
    assert figures["gland"]["dice"]["n"] == 0
    assert figures["gland"]["dice"]["value"] is None


def test_a_picture_that_holds_it_counts_even_where_nothing_was_found():
    figures = summary([row(True, True, dice=0.8), row(True, False, dice=0.0)])
    assert figures["gland"]["dice"]["value"] == pytest.approx(0.4)
    assert figures["gland"]["found"]["value"] == 0.5
    assert figures["all"]["dice"]["n"] == 2


def test_sets_are_told_apart_where_there_are_several():
    figures = summary([row(True, True, one="easy", dice=1.0), row(True, True, one="hard", dice=0.2)])
    assert figures["gland in easy"]["dice"]["value"] == 1.0
    assert figures["gland in hard"]["dice"]["value"] == 0.2
    assert "gland in a" not in summary([row(True, True)])


def test_a_count_is_judged_by_how_far_it_is_off():
    rows = [row(True, True, dice=1.0, aji=0.5, pq=0.4, count=c, true_count=t) for c, t in ((5, 10), (12, 10))]
    figures = summary([*rows, row(True, True, dice=1.0)])["gland"]
    assert figures["count_relative_error"]["value"] == pytest.approx(0.35)
    assert figures["count_relative_error"]["n"] == figures["aji"]["n"] == 2
    assert (figures["aji"]["value"], figures["pq"]["value"]) == (0.5, 0.4)


def test_every_interval_is_drawn_over_patients(items):
    """Pictures of one patient tell nothing of others, so that no figure of theirs has an interval."""
    rows = ask_all(Oracle(items), asked(items, NAMES))
    alone = [row | {"group": "one patient"} for row in rows]
    for told, several in ((rows, True), (alone, False)):
        figures = {**summary(told)["all"], **headline(told)}
        for name in ("dice", "found", "absent_not_found", "dice_mean", "presence_mcc", "ece"):
            assert (figures[name]["low"] is not None) is several, name
    counted = summary(alone)["all"]["count_relative_error"]
    assert counted["n"] > 1
    assert counted["low"] is None


def test_every_concept_weighs_the_same_in_the_mean():
    rows = [row(True, True, concept="gland", dice=1.0)] * 9 + [row(True, True, concept="nucleus", dice=0.5)]
    assert dice_mean(rows) == pytest.approx(0.75)
    assert np.isnan(dice_mean([]))


def test_ours_less_the_u_nets_is_a_mean_over_concepts_of_the_sets_that_have_one():
    rows = [
        row(True, True, concept="gland", one="a", dice=0.9),
        row(True, True, concept="gland", one="b", dice=0.1),  # no U-Net
        row(True, True, concept="nucleus", one="a", dice=0.6),
        row(False, True, concept="nucleus", one="a"),
    ]
    peers = {"gland in a": {"value": 0.8}, "nucleus in a": {"value": 0.8}}
    assert minus_unet(rows, peers) == pytest.approx((0.1 - 0.2) / 2)
    assert minus_unet(rows, {}) is None


def test_the_headline_of_a_perfect_segmentor_and_of_one_that_is_always_wrong(items):
    wanted = asked(items, NAMES)
    right = headline(ask_all(Oracle(items), wanted))
    for name in ("dice_mean", "cgf1", "pmf1", "presence_mcc", "absent_not_found"):
        assert right[name]["value"] == 1.0, name
        assert right[name]["low"] == 1.0, name
    assert right["ece"]["value"] == pytest.approx(0.1)
    assert right["dice_mean"]["n"] == 14
    assert right["absent_not_found"]["n"] == 16
    wrong = headline(ask_all(Oracle(items, missed=["nucleus", "tumour"], invented=["gland", "stroma"]), wanted))
    assert (wrong["dice_mean"]["value"], wrong["absent_not_found"]["value"]) == (0, 0)
    assert wrong["presence_mcc"]["value"] < 0
    assert json.dumps(right)


# --- all together


def test_evaluation_gives_numbers_figures_and_rows_that_agree(items):
    result = evaluate_grounding(Oracle(items, missed=["tumour"]), items, clicks=True)
    metrics = result["metrics"]
    assert metrics["dice_mean"] == 0.5
    assert (metrics["dice.nucleus"], metrics["dice.tumour"]) == (1.0, 0.0)
    assert (metrics["aji.nucleus"], metrics["pq.nucleus"]) == (1.0, 1.0)
    assert "dice.gland" not in metrics, "it is nowhere drawn"
    assert metrics["absent_not_found"] == 1.0
    assert metrics["dice_mean_minus_unet"] is None
    assert metrics["clicks_to_dice_85"] == pytest.approx(np.mean([0] * MOST_CLICKED + [CLICKS] * MOST_CLICKED))
    assert [metrics[f"object_by_{way}"] for way in ("box", "click")] == [0, 0]
    assert result["headline"]["object_by_box"]["n"] == len(result["objects"]) == 9
    assert result["figures"]["nucleus"]["dice"]["n"] == 7
    assert result["headline"]["pixel_ece"]["n"] == 14 * 96 * 96
    assert len(result["rows"]) == 32
    assert "apart" not in result
    assert {*result["reliability"]} == {"pixels", "presence"}
    json.dumps({key: value for key, value in result.items() if key != "rows"})


def test_sets_that_the_card_does_not_name_are_figured_apart(items):
    strange = [replace(item, set="elsewhere") for item in items if item.set == "gbm40"][:3]
    oracle = Oracle([*items, *strange])
    result = evaluate_grounding(oracle, [*items[3:], *strange])
    assert result["apart"]["nucleus"]["dice"]["n"] == 3
    assert result["figures"]["nucleus"]["dice"]["n"] == 4
    assert len(result["rows"]) == len(asked([*items[3:], *strange], NAMES))
    alone = evaluate_grounding(oracle, strange)
    assert "apart" not in alone, "where nothing else is there it is what is measured"
    assert alone["figures"]["nucleus"]["dice"]["n"] == 3


def test_pictures_without_a_mask_of_any_known_concept_are_an_input_error(items):
    for chosen in ([], [item for item in items if item.set == "kather2016_sample"]):
        with pytest.raises(InputError, match="no mask of any concept that the segmentor knows"):
            evaluate_grounding(Oracle(items), chosen)


# --- pictures


def test_a_row_can_be_drawn_again(items):
    render = renderer(Oracle(items), items)
    rows = ask_all(Oracle(items), asked(items, NAMES))
    pixels, mask, drawn = render(next(one for one in rows if one["concept"] == "nucleus"))
    assert (pixels.shape, pixels.dtype) == ((96, 96, 3), np.uint8)
    np.testing.assert_array_equal(mask, drawn)
    assert mask.any()
