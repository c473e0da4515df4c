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
from slidekick.grounding import Segmentor
from slidekick.grounding.evaluate import dice
from slidekick.grounding.train import DEFAULT_CONFIG, load_config
from slidekick.grounding.windows import concept_sources, pixels_of, truth_of
from slidekick.rl.evaluate import leaks, normalise
from slidekick.rl.instructions import question_for

DATA = Path(os.environ.get("SLIDEKICK_DATA", Path(__file__).parents[2] / "shared" / "data"))

pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason=f"NO HELD-OUT TISSUE at {DATA}: weights were not measured")


@pytest.fixture(scope="module")
def segmentor():
    return Segmentor.from_pretrained()


def mean_dice(segmentor, concept: str, sets: list[str]) -> float:
    entry = load_config(DEFAULT_CONFIG)["concepts"][concept]
    sources = [s for s in concept_sources(entry, load_items(DATA, sets, "test")) if truth_of(s)[0].any()]
    found = [segmentor.segment(pixels_of(source.item.image), [concept])[0].mask for source in sources]
    return float(np.mean([dice(mask, truth_of(source)[0]) for mask, source in zip(found, sources, strict=True)]))


def test_nuclei_of_patients_not_seen_are_outlined(segmentor):
    assert mean_dice(segmentor, "nucleus", ["monuseg", "gbm40", "dsb2018_he"]) > 0.7


def test_glands_of_patients_not_seen_are_outlined(segmentor):
    assert mean_dice(segmentor, "gland", ["glas", "ebhi_seg"]) > 0.6


def test_what_is_not_in_a_picture_is_mostly_not_found(segmentor):
    entry = load_config(DEFAULT_CONFIG)["concepts"]["glomerulus"]
    absent = [s for s in concept_sources(entry, load_items(DATA, ["gbm40", "glas"], "test")) if s.mode == "absent"]
    found = [segmentor.segment(pixels_of(source.item.image), ["glomerulus"])[0].found for source in absent]
    assert len(found) >= 10
    assert np.mean(found) < 0.2


def test_lung_and_white_cells_not_seen_are_named_in_words(segmentor):
    copilot = Copilot.from_pretrained("mini", segmentor)
    items = load_items(DATA, ["lc25000_lung", "wbc_zheng"], "test")[::4]
    right = [
        normalise(copilot.ask(read_roi(item.image), question_for(item)).text) == normalise(item.label) for item in items
    ]
    assert len(right) >= 20
    assert np.mean(right) > 0.7


def test_no_held_out_picture_or_patient_is_in_training():
    assert leaks(load_items(DATA, split="train"), load_items(DATA, split="test")) == []
