"""From a run to a card: presence and pixels as probabilities, what the card says, and a whole small run finished."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

import slidekick.grounding.train
from slidekick.data.items import load_items
from slidekick.data.triples import Triple, pixels_of, triples, truth
from slidekick.grounding.finding import Finding
from slidekick.grounding.finish import calibrated, card, finish, fit_presence
from slidekick.grounding.segmentor import Segmentor
from slidekick.grounding.train import CHECKPOINT, DEFAULT_CONFIG, LOG, load_config, train
from slidekick.grounding.vocabulary import Concept, Vocabulary

NAMES = ["nucleus", "tumour", "stroma", "gland"]


def simulated(slope: float, offsets, rows: int, seed: int = 0):
    """Presence logits of pictures, whether it is there, and of which concept they are."""
    rng = np.random.default_rng(seed)
    concept = np.repeat(np.arange(len(offsets)), rows)
    logits = rng.normal(0, 4, len(concept)) + np.array(offsets)[concept]
    there = rng.random(len(concept)) < 1 / (1 + np.exp(-slope * (logits - np.array(offsets)[concept])))
    return logits, there, concept


# --- presence


@pytest.mark.parametrize("slope", [0.4, 1.0, 2.5])
def test_slope_and_offsets_are_recovered_from_many_pictures(slope):
    offsets = [-2.0, -0.5, 0.0, 1.0, 3.0]
    found, own = fit_presence(*simulated(slope, offsets, 1500), len(offsets))
    assert found == pytest.approx(slope, rel=0.15)
    np.testing.assert_allclose(own, offsets, atol=0.35)


def test_a_concept_with_few_pictures_is_drawn_towards_the_common_offset():
    logits, there, concept = simulated(1.0, [0.0, 0.0, 0.0], 400)
    own = []
    for number in (0, 2, 8, 60):
        # of a fourth concept: there only from a logit of 4
        sweep = np.linspace(0, 8, number) if number else np.zeros(0)
        _, offsets = fit_presence(
            np.concatenate([logits, sweep]),
            np.concatenate([there, sweep > 4]),
            np.concatenate([concept, np.full(number, 3)]),
            4,
        )
        own.append(offsets[3])
        np.testing.assert_allclose(offsets[:3], 0, atol=0.4)
    assert own[0] == pytest.approx(0, abs=0.3), "without any it is the common one"
    assert own == sorted(own)
    assert own[1] < 2
    assert own[3] > 3, "with many it is its own"


def test_concepts_that_are_always_or_never_there_have_offsets_all_the_same():
    logits, there, concept = simulated(1.0, [0.0, 0.0, 0.0, 0.0], 50)
    there[concept == 2], there[concept == 3] = True, False
    slope, offsets = fit_presence(logits, there, concept, 4)
    assert np.isfinite(offsets).all()
    assert offsets[2] < min(offsets[:2])
    assert offsets[3] > max(offsets[:2])
    assert 0.1 < slope < 3


@settings(deadline=None, max_examples=15)
@given(st.integers(1, 6), st.integers(1, 30), st.integers(0, 99))
def test_whatever_was_said_there_is_a_slope_above_0(number, rows, seed):
    rng = np.random.default_rng(seed)
    said = rng.normal(0, 6, number * rows), rng.random(number * rows) < 0.5, rng.integers(0, number, number * rows)
    slope, offsets = fit_presence(*said, number)
    assert 0 < slope < math.inf
    assert offsets.shape == (number,)
    assert np.isfinite(offsets).all()


# --- the vocabulary of a segmentor


OFFSETS = {"nucleus": 3.0, "tumour": -2.0, "stroma": 0.0, "gland": 0.0}


class Sayer:
    """Says what is there by logits about an offset of each concept's own; of pixels by such as are `pixel` too sure."""

    def __init__(self, items, pixel: float = 1.0) -> None:
        kinds = {"nucleus": "object", "gland": "object"}
        self.vocabulary = Vocabulary(
            [Concept(name, kinds.get(name, "region"), (), (0.5, 0.5), 1.0, offset=9.0) for name in NAMES]
        )
        self.known = {(pixels_of(t.item.image).tobytes(), t.concept): truth(t)[0] for t in triples(items, NAMES)}
        self.pixel, self.rng = pixel, np.random.default_rng(0)

    def segment(self, image, concepts, *, mpp=None, points=None, boxes=None):
        assert all(self.vocabulary.concepts[name].offset == 0 for name in concepts), "calibrated from nothing"
        assert self.vocabulary.calibration.presence == 1
        return [self._one(image, name) for name in concepts]

    def _one(self, image, name: str) -> Finding:
        mask = self.known.get((image.tobytes(), name), np.zeros(image.shape[:2], bool))
        logit = OFFSETS[name] + (4 if mask.any() else -4) + self.rng.normal(0, 3)
        sure = self.rng.normal(0, 2, mask.shape)  # a logit of which the truth is drawn
        drawn = np.where(mask, np.abs(sure), -np.abs(sure)) * np.where(self.rng.random(mask.shape) < 0.9, 1, -1)
        probability = 1 / (1 + np.exp(-drawn * self.pixel))
        return Finding(name, mask, 0.8, 1 / (1 + math.exp(-logit)), prompt=name, probability=probability)


@pytest.fixture(scope="module")
def items(painted):
    return load_items(painted)


def test_a_segmentors_vocabulary_gets_the_offsets_at_which_its_presence_parts_pictures(items):
    marked = triples([item for item in items if item.set == "gbm40"], ["nucleus", "tumour"])
    bare = [item for item in items if item.set != "gbm40"]
    without = [Triple(item, name, "absent") for item in bare for name in ("nucleus", "tumour")]
    vocabulary = calibrated(Sayer(items), (marked * 4 + without * 7) * 8)  # as many with as without
    assert list(vocabulary.concepts) == NAMES
    offsets = [concept.offset for concept in vocabulary.concepts.values()]
    np.testing.assert_allclose(offsets[:2], [OFFSETS["nucleus"], OFFSETS["tumour"]], atol=0.6)
    assert offsets[2:] == pytest.approx([0.5, 0.5], abs=0.6), "of which nothing is known: the common one"
    assert [round(offset, 4) for offset in offsets] == offsets
    assert vocabulary.calibration.presence == pytest.approx(8 / 9, rel=0.25), "of two normal heaps, 2 · 4 / 3²"


def test_masks_that_are_twice_as_sure_get_half_the_slope(items):
    slopes = [calibrated(Sayer(items, pixel), triples(items, NAMES)).calibration.pixel for pixel in (0.5, 1.0, 2.0)]
    np.testing.assert_allclose(np.array(slopes) * (0.5, 1.0, 2.0), slopes[1], rtol=0.08)


def test_pixels_that_nobody_judged_have_no_say_in_the_slope(items, monkeypatch):
    class Astray(Sayer):
        def _one(self, image, name):
            finding = super()._one(image, name)
            finding.probability[:, 48:] = 1 - finding.probability[:, 48:]
            return finding

    def left(triple):
        seen = np.zeros((96, 96), bool)
        seen[:, :48] = True
        return seen

    wanted = triples(items, NAMES)
    right = calibrated(Sayer(items), wanted).calibration.pixel
    monkeypatch.setattr("slidekick.grounding.finish.judged", left)
    assert calibrated(Astray(items), wanted).calibration.pixel == pytest.approx(right, rel=0.15)


def test_pixels_of_nothing_that_is_there_keep_their_slope(items):
    wanted = [t for t in triples(items, ["stroma", "gland"]) if t.mode != "mask"]
    assert calibrated(Sayer(items), wanted).calibration.pixel == 1.0


# --- the card

SIZES = {"window": 64, "width": 32, "heads": 2, "depth": 1, "mlp": 32, "masks": 2}


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    shipped = yaml.safe_load(DEFAULT_CONFIG.read_text())
    plan = {"steps": 1, "batch": 2, "sides": {64: 1}, "log_every": 1, "checkpoint_every": 1, "validate_every": 99}
    concepts = {name: {"mpp": [0.25, 0.5], "zoom": 1.0, "jitter": [0.8, 1.4]} for name in NAMES}
    concepts["nucleus"]["diameter"] = 6.0
    path = tmp_path_factory.mktemp("config") / "config.yaml"
    whole = {"model": SIZES, "training": {**shipped["training"], **plan}, "concepts": concepts}
    path.write_text(yaml.safe_dump(whole, sort_keys=False))
    return path


def test_the_card_says_what_the_pictures_are_that_show_a_concept(config, items):
    told = [
        replace(item, organ=("brain", None, "not stated (mixed)")[n % 3], stain="H&E") for n, item in enumerate(items)
    ]
    entries = {concept.name: concept for concept in card(load_config(config), told)}
    assert list(entries) == NAMES
    nucleus, tumour, stroma, gland = entries.values()
    assert (nucleus.kind, nucleus.level, nucleus.scale, nucleus.zoom) == ("object", "cell", (0.25, 0.5), 1.0)
    assert (nucleus.diameter_um, tumour.diameter_um) == (6.0, None)
    assert "nuclei" in nucleus.synonyms
    assert (nucleus.train, tumour.train, stroma.train, gland.train) == (7, 7, 2, 0)
    assert (nucleus.organs, nucleus.stains, nucleus.sets) == (("brain",), ("H&E",), ("gbm40",))
    assert stroma.sets == ("kather2016_sample",)
    assert (gland.organs, gland.sets) == ((), ())
    assert (nucleus.test, nucleus.dice, nucleus.offset) == (0, None, 0.0)
    assert entries["gland"].parents == ()


def test_what_is_half_as_large_as_nearly_all_labelled_objects_is_none(config, items):
    """Discs of 193 px lie in 48 mask cells; half of that, and no less than what is told apart from a speck."""
    entries = {concept.name: concept for concept in card(load_config(config), items)}
    assert 10 < entries["nucleus"].least <= 25
    assert entries["gland"].least == entries["tumour"].least == 10


# --- a whole run


@pytest.fixture(scope="module")
def finished(config, painted, random_tower, encode, tmp_path_factory):
    """A run of one step, finished: its folder and what was returned."""
    out = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLIDEKICK_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(slidekick.grounding.train, "BASE_SIDE", 64)
        patch.setattr(slidekick.grounding.train, "imagenet_state", lambda: dict(random_tower))
        patch.setattr(slidekick.grounding.train, "encode_phrases", encode)
        train(config, painted, out)
        return out, finish(out, config, painted)


def test_a_finished_run_is_a_folder_of_weights_with_card_figures_and_pictures(finished):
    out, figures = finished
    names = {path.name for path in out.iterdir()}
    assert {
        "config.json", "vocabulary.json", "phrases.safetensors", "model.safetensors", "figures.json", "README.md",
        "curves.png", "best.png", "worst.png", CHECKPOINT, LOG,
    } <= names  # fmt: skip
    assert json.loads((out / "figures.json").read_text()) == json.loads(json.dumps(figures))
    assert "rows" not in figures
    assert figures["figures"]["nucleus"]["dice"]["n"] == 1
    assert {one["concept"] for one in figures["clicks"]} == {"nucleus", "tumour"}


def test_its_card_holds_what_was_measured_and_its_words_all_have_vectors(finished):
    out, figures = finished
    segmentor = Segmentor.from_pretrained(out, runtime="torch")
    concepts = segmentor.vocabulary.concepts
    assert list(concepts) == NAMES
    for name in ("nucleus", "tumour"):
        assert concepts[name].dice == figures["figures"][name]["dice"]["value"]
        assert (concepts[name].train, concepts[name].test) == (5, 1)
    assert concepts["stroma"].train == 1
    assert {word for c in concepts.values() for word in (c.name, *c.synonyms)} == set(segmentor.vocabulary.vectors)
    assert (out / "README.md").read_text().count("nucleus") >= 1


def test_its_weights_are_the_averaged_ones(finished):
    import torch
    from safetensors.torch import load_file

    out, _ = finished
    average = torch.load(out / CHECKPOINT, weights_only=True)["average"]
    for name, tensor in load_file(out / "model.safetensors").items():
        torch.testing.assert_close(tensor.float(), average[name].float(), rtol=1e-3, atol=1e-3, msg=name)
