"""What simple classifiers reach, and pictures that were seen in training."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from slidekick.data.items import Item, load_items
from slidekick.rl.evaluation.yardsticks import Features, guesses, head, leaks, probe


@pytest.fixture
def item(tmp_path):
    def make(shade: int, group: str = "", split: str = "test", kind: str = "png") -> Item:
        path = tmp_path / f"{shade}-{split}-{group}.{kind}"
        Image.fromarray(np.full((8, 8, 3), shade, np.uint8)).save(path)
        return Item("s", path.stem, path, split, group, label="x")

    return make


def test_the_same_pixels_or_the_same_patient_in_training_are_told(item):
    train = [item(10, "p1", "train")]
    same_pixels, same_patient, clean = item(10, "p2", kind="bmp"), item(20, "p1"), item(30)
    bytes_of = {hashlib.sha256(one.image.read_bytes()).digest() for one in (*train, same_pixels)}
    assert len(bytes_of) == 2, "another file format: other bytes, the same pixels"
    assert leaks(train, [same_pixels, same_patient, clean]) == [f"s/{same_pixels.id}", f"s/{same_patient.id}"]


def test_a_group_of_another_set_is_another_patient(item):
    assert leaks([item(10, "p1", "train")], [replace(item(20, "p1"), set="other")]) == []


@pytest.mark.parametrize("classifier", [probe, head])
def test_classes_that_lie_apart_are_told_apart(classifier):
    rng = np.random.default_rng(0)
    middles = dict(zip("abc", 2 * np.eye(3, 16), strict=True))
    labels = [name for name, n in (("a", 40), ("b", 40), ("c", 25)) for _ in range(n)]
    known = np.stack([rng.normal(middles[name], 0.5) for name in labels]).astype(np.float32)
    unseen = np.stack(list(middles.values())).astype(np.float32)
    assert classifier(known, labels, unseen) == list(middles)
    assert classifier(known, labels, unseen) == classifier(known, labels, unseen)


def test_yardsticks_answer_with_labels_of_the_set(labelled, fake, random_tower, monkeypatch):
    import timm
    import torch

    from slidekick.grounding.tower import ARCHITECTURE
    from slidekick.rl.evaluation import yardsticks

    torch.manual_seed(0)
    tower = timm.create_model(ARCHITECTURE, pretrained=False, num_classes=0).eval()
    monkeypatch.setattr(yardsticks, "_tower", lambda copilot: tower)
    items = load_items(labelled, ["glas", "gbm40"])
    train, held = ([one for one in items if one.split == split] for split in ("train", "test"))
    given = guesses(Features(fake(str)), train, [*held, replace(held[0], set="unknown")])
    labels = {name: {one.label for one in train if one.set == name} for name in ("glas", "gbm40")}
    for said in given.values():
        assert said[-1] is None, "nothing is known of that set"
        assert all(guess in labels[one.set] for guess, one in zip(said, held, strict=False))
    assert given["commonest"][:2] == ["healthy gland", "glioma"]
