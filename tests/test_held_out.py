"""The shipped weights on held-out real tissue: a floor under the figures on the cards, far enough below to hold.

Needs the folder of labelled sets beside the repository, or at $SLIDEKICK_DATA; skipped with a loud word elsewhere.
"""

import os
from pathlib import Path

import numpy as np
import pytest

from slidekick.copilot import Copilot
from slidekick.data.items import load_items
from slidekick.data.slide import read_roi
from slidekick.data.triples import pixels_of, triples, truth
from slidekick.grounding import Segmentor
from slidekick.grounding.evaluate import ask_all, asked
from slidekick.grounding.interaction import point_at_objects
from slidekick.grounding.metrics import dice
from slidekick.rl.evaluation.yardsticks import leaks
from slidekick.rl.instructions import question_for
from slidekick.rl.parsing import plain

DATA = Path(os.environ.get("SLIDEKICK_DATA", Path(__file__).parents[2] / "shared" / "data"))

pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason=f"NO HELD-OUT TISSUE at {DATA}: weights were not measured")


@pytest.fixture(scope="module")
def segmentor():
    return Segmentor.from_pretrained()


def rows(segmentor, concepts: list[str], sets: list[str] | None = None) -> list[dict]:
    return ask_all(segmentor, asked(load_items(DATA, sets, "test"), concepts))


def mean_dice(segmentor, concept: str, sets: list[str], least: int) -> float:
    drawn = [row["dice"] for row in rows(segmentor, [concept], sets) if row["dice"] is not None]
    assert len(drawn) >= least
    return float(np.mean(drawn))


def test_nuclei_of_patients_not_seen_are_outlined(segmentor):
    assert mean_dice(segmentor, "nucleus", ["monuseg", "gbm40", "dsb2018_he"], 20) > 0.7


def test_glands_of_patients_not_seen_are_outlined(segmentor):
    assert mean_dice(segmentor, "gland", ["glas", "ebhi_seg"], 10) > 0.6


def test_tumour_of_patients_not_seen_is_outlined(segmentor):
    assert mean_dice(segmentor, "tumour", ["glas", "ebhi_seg", "prostate_gleason_regions"], 10) > 0.4


def test_what_is_not_in_a_picture_is_mostly_not_found(segmentor):
    absent = [row for row in rows(segmentor, ["glomerulus", "gland", "tumour"]) if not row["there"]]
    assert len(absent) >= 60
    assert np.mean([row["found"] for row in absent]) < 0.25


def test_a_box_outlines_the_object_in_it_and_further_clicks_mend_it(segmentor):
    wanted = asked(load_items(DATA, ["gbm40", "glas"], "test"), ["nucleus", "gland"])
    objects = point_at_objects(segmentor, wanted)
    assert len(objects) >= 15
    assert np.mean([row["box"] for row in objects]) > 0.75
    assert np.mean([row["3_clicks"] for row in objects]) > np.mean([row["click"] for row in objects]) > 0.4


def test_a_finding_is_the_same_whichever_runtime_gives_it(segmentor):
    """On real tissue, in bfloat16 where the processor has it."""
    triple = next(t for t in triples(load_items(DATA, ["monuseg"], "test"), ["nucleus"]) if truth(t)[0].any())
    pixels = pixels_of(triple.item.image)[:256, :256]
    torch = Segmentor.from_pretrained(runtime="torch")
    ours, reference = (one.segment(pixels, ["nucleus"])[0] for one in (segmentor, torch))
    assert dice(ours.mask, reference.mask) > 0.95
    assert ours.presence == pytest.approx(reference.presence, abs=0.05)


def test_lung_and_white_cells_not_seen_are_named_in_words(segmentor):
    copilot = Copilot.from_pretrained("mini", segmentor)
    items = load_items(DATA, ["lc25000_lung", "wbc_zheng"], "test")[::4]
    right = [plain(copilot.ask(read_roi(item.image), question_for(item)).text) == plain(item.label) for item in items]
    assert len(right) >= 20
    assert np.mean(right) > 0.7


def test_no_held_out_picture_or_patient_is_in_training():
    assert leaks(load_items(DATA, split="train"), load_items(DATA, split="test")) == []
