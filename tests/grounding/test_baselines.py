import json
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

import slidekick.grounding.baselines as baselines
from slidekick.data.errors import InputError
from slidekick.data.items import load_items
from slidekick.data.triples import UNLABELLED
from slidekick.grounding.baselines import GRID, MeanMask, best_cut, by_set, compare, oracle_boxes
from slidekick.grounding.finding import Finding
from slidekick.grounding.unet import ABOUT

CONFIG = {"concepts": {"nucleus": {"kind": "object"}, "stroma": {"kind": "region"}, "gland": {"kind": "object"}}}
SHARES = st.sampled_from([0.0, 0.25, 0.5, 1.0])
TIED = np.array([[[1, 0, 1, 1]], [[1, 0.5, 0, 0.25]], [[1, 0.5, 0, 0.25]]], np.float32)  # half of a tie would be best


def soft_dice(shares: np.ndarray, cut: np.ndarray) -> float:
    return float(np.mean([2 * one[cut].sum() / (cut.sum() + one.sum()) for one in shares]))


@settings(max_examples=60, deadline=None)
@given(arrays(np.float32, st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 5)), elements=SHARES))
@example(TIED)
def test_no_other_value_cuts_the_mean_better(shares):
    shares[:, 0, 0] = 1
    cut, mean = best_cut(shares), shares.astype(np.float64).mean(0)
    assert cut.any()
    assert soft_dice(shares, cut) == pytest.approx(max(soft_dice(shares, mean >= value) for value in np.unique(mean)))
    assert mean[cut].min() > mean[~cut].max(initial=-1)


def entry(folder, name: str, split: str, classes: np.ndarray, extra: dict | None = None) -> dict:
    Image.fromarray(np.full((*classes.shape, 3), 200, np.uint8)).save(folder / f"{name}.image.png")
    Image.fromarray(classes.astype(np.uint8)).save(folder / f"{name}.mask.png")
    own = {"id": name, "image": f"{name}.image.png", "mask": f"{name}.mask.png", "split": split}
    return own | {"classes": {"1": "nucleus", "2": "stroma"}} | (extra or {})


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """Two sets of 64 × 128 px: stroma always on the left half; test pictures with nuclei, specks, unlabelled pixels."""
    root = tmp_path_factory.mktemp("sets")
    left = np.zeros((64, 128), np.uint8)
    left[:, :64] = 2
    for name in ("one", "two"):
        (root / name).mkdir()
        rows = [entry(root / name, f"t{i}", "train", left if i < 2 else left * 0) for i in range(3)]
        held = left.copy()
        held[10:20, 80:90] = 1
        rows.append(entry(root / name, "held", "test", held))
        unlabelled = left.copy()
        unlabelled[:, 96:] = UNLABELLED
        unlabelled[5, 70:73] = 1  # a speck
        rows.append(entry(root / name, "unlabelled", "test", unlabelled))
        rows.append(entry(root / name, "empty", "test", left * 0))
        (root / name / "items.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return root


def test_the_mean_mask_is_where_it_always_is_whatever_the_picture_shows(sets):
    means = MeanMask.learn(load_items(sets, split="train"), list(CONFIG["concepts"]))
    assert set(means.shapes) == {"stroma"}
    assert means.shapes["stroma"].shape == (GRID, GRID)
    rng = np.random.default_rng(0)
    first, second = (means.predict(rng.integers(0, 255, (70, 90, 3)).astype(np.uint8), "stroma") for _ in range(2))
    assert (first.dtype, first.shape) == (bool, (70, 90))
    assert first[:, :45].all()
    assert not first[:, 45:].any()
    np.testing.assert_array_equal(first, second)
    with pytest.raises(InputError, match="'gland' has no mean mask; there are stroma"):
        means.predict(np.zeros((8, 8, 3), np.uint8), "gland")


def test_boxes_are_the_objects_own_and_specks_have_none():
    ids = np.zeros((40, 50), np.int32)
    ids[2:8, 3:13], ids[2:8, 13:20], ids[30:33, 40:43], ids[20:40, 0:5] = 4, 2, 3, 9
    assert oracle_boxes(ids) == [(13, 2, 20, 8), (3, 2, 13, 8), (0, 20, 5, 40)]
    assert oracle_boxes(ids > 0) == [(3, 2, 20, 8), (0, 20, 5, 40)]
    exactly = np.zeros((9, 9), bool)
    exactly[1:4, 2:6] = True
    assert oracle_boxes(exactly) == [(2, 1, 6, 4)]
    assert oracle_boxes(ids * 0) == oracle_boxes(ids < 0) == []


@settings(max_examples=60, deadline=None)
@given(arrays(bool, st.tuples(st.integers(1, 30), st.integers(1, 30)), fill=st.just(True)))
def test_boxes_lie_in_the_picture_and_hold_every_large_piece(mask):
    boxes = oracle_boxes(mask)
    height, width = mask.shape
    assert all(0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height for x0, y0, x1, y1 in boxes)
    outside = mask.copy()
    for x0, y0, x1, y1 in boxes:
        assert mask[y0:y1, x0:x1].sum() >= 12
        outside[y0:y1, x0:x1] = False
    assert oracle_boxes(outside) == []


class Filler:
    """A segmentor that fills its boxes; what it was asked is noted."""

    def __init__(self) -> None:
        self.asked = []

    def segment(self, image, concepts, *, mpp=None, boxes=None):
        self.asked.append((concepts, mpp, boxes))
        mask = np.zeros(image.shape[:2], bool)
        for x0, y0, x1, y1 in boxes:
            mask[y0:y1, x0:x1] = True
        return [Finding("object", mask, 1.0, 1.0, None, True)]


@pytest.fixture
def unet_of_one(tmp_path, monkeypatch):
    """A folder with a U-Net of the set `one` that sees stroma everywhere."""
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / ABOUT).write_text("{}")
    everywhere = SimpleNamespace(
        concepts={"stroma": None}, predict=lambda image, concept: (np.ones(image.shape[:2], bool), None, None)
    )
    monkeypatch.setattr(baselines, "UNetPredictor", SimpleNamespace(load=lambda folder: everywhere))
    return tmp_path


def test_one_row_a_concept_in_a_picture_that_holds_it(sets, unet_of_one):
    segmentor = Filler()
    rows = compare(segmentor, load_items(sets, split="test"), load_items(sets, split="train"), CONFIG, unet_of_one)
    told = {(row["item"], row["concept"]): row for row in rows}
    assert len(rows) == len(told) == 8
    assert {item for item, _ in told} == {"one/held", "one/unlabelled", "two/held", "two/unlabelled"}
    row = told["one/held", "stroma"]
    assert row == {
        "concept": "stroma", "set": "one", "item": "one/held", "unet": pytest.approx(2 / 3), "mean_mask": 1.0,
        "oracle_box": 1.0,
    }  # fmt: skip
    assert told["one/held", "nucleus"]["unet"] is None  # it does not know them
    assert told["one/held", "nucleus"]["mean_mask"] is None  # nor did a training picture
    assert told["one/held", "nucleus"]["oracle_box"] == 1.0
    assert told["one/unlabelled", "nucleus"]["oracle_box"] is None  # a speck
    assert told["two/held", "stroma"]["unet"] is None
    assert all(concepts == [] and mpp is None and boxes for concepts, mpp, boxes in segmentor.asked)
    assert rows == compare(
        segmentor, load_items(sets, split="test"), load_items(sets, split="train"), CONFIG, unet_of_one
    )


def test_pixels_that_nobody_judged_do_not_count(sets, unet_of_one):
    rows = compare(Filler(), load_items(sets, split="test"), load_items(sets, split="train"), CONFIG, unet_of_one)
    (row,) = [row for row in rows if (row["item"], row["concept"]) == ("one/unlabelled", "stroma")]
    assert row["unet"] == pytest.approx(2 * 64 / (64 + 96))


def test_rows_of_a_set_are_summed_up_beside_each_other():
    rows = [
        {"concept": "gland", "set": "a", "item": "a/1", "unet": 0.8, "mean_mask": 0.3, "oracle_box": None},
        {"concept": "gland", "set": "a", "item": "a/2", "unet": 0.6, "mean_mask": None, "oracle_box": 0.9},
        {"concept": "gland", "set": "b", "item": "b/1", "unet": None, "mean_mask": 0.1, "oracle_box": 0.9},
        {"concept": "fat", "set": "a", "item": "a/2", "unet": 0.5, "mean_mask": None, "oracle_box": 0.5},
    ]
    assert by_set(rows) == {
        "fat in a": {"value": 0.5, "mean_mask": None, "oracle_box": 0.5, "n": 1},
        "gland in a": {"value": 0.7, "mean_mask": 0.3, "oracle_box": 0.45, "n": 2},
    }


def test_a_folder_without_any_unet_is_an_input_error(sets, tmp_path):
    with pytest.raises(InputError, match="no trained U-Net in it"):
        compare(Filler(), load_items(sets, split="test"), [], CONFIG, tmp_path / "nowhere")
