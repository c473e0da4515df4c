import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import slidekick.grounding.unet_training as training
from slidekick.data.errors import InputError
from slidekick.data.items import load_items
from slidekick.data.triples import pixels_of, triples, truth
from slidekick.grounding.metrics import dice
from slidekick.grounding.unet import ABOUT, WEIGHTS, UNet, UNetPredictor
from slidekick.grounding.unet_training import (
    CHECKPOINT,
    Draws,
    UNetConfig,
    UNetPlan,
    load_unet_config,
    sets_to_train,
    train_unet,
    train_unets,
    unet_loss,
)

SIDE = 96
CONCEPTS = {
    "nucleus": {"kind": "object", "zoom": 1.0, "jitter": [0.8, 1.5]},
    "stroma": {"kind": "region", "zoom": 1.0, "jitter": [0.8, 1.5]},
    "gland": {"kind": "object", "zoom": 0.6, "jitter": [0.5, 1.0]},
}
CONFIG = UNetConfig(UNetPlan(seed=3, threads=0, window=64, batch=4, warmup=3, ema=0.9), CONCEPTS)


def paint(folder, name: str, seed: int, split: str, empty: bool = False) -> dict:
    """Pale, with three dark discs (nuclei, ids 1–3) and a pink square (stroma); its items.jsonl entry."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(205, 235, (SIDE, SIDE, 3)).astype(np.uint8)
    classes, ids = np.zeros((SIDE, SIDE), np.uint8), np.zeros((SIDE, SIDE), np.uint16)
    ys, xs = np.mgrid[:SIDE, :SIDE]
    for index, x in enumerate((18, 48, 78) if not empty else (), 1):
        disc = (ys - rng.integers(14, 36)) ** 2 + (xs - x) ** 2 < 81
        pixels[disc], classes[disc], ids[disc] = (90, 40, 120), 1, index
    if not empty:
        left = rng.integers(4, 50)
        pixels[56:86, left : left + 36], classes[56:86, left : left + 36] = (230, 90, 140), 2
    for kind, array in (("image", pixels), ("mask", classes), ("instances", ids)):
        Image.fromarray(array).save(folder / f"{name}.{kind}.png")
    return {
        "id": name, "image": f"{name}.image.png", "mask": f"{name}.mask.png", "instances": f"{name}.instances.png",
        "split": split, "classes": {"1": "nucleus", "2": "stroma"},
    }  # fmt: skip


def write_set(root, name: str, entries: list[dict]) -> None:
    (root / name / "items.jsonl").write_text("\n".join(map(json.dumps, entries)))


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """Sets: easy (nuclei and stroma, train and test), blank (test masks are empty), labels (no masks), one-sided."""
    root = tmp_path_factory.mktemp("sets")
    for name, splits, empty in (
        ("easy", ["train"] * 4 + ["test"] * 2, ()),
        ("blank", ["train", "test"], (1,)),
        ("labels", ["train", "test"], ()),
        ("one-sided", ["train", "train"], ()),
    ):
        (root / name).mkdir()
        entries = [paint(root / name, f"p{i}", i, split, i in empty) for i, split in enumerate(splits)]
        if name == "labels":
            entries = [{k: e[k] for k in ("id", "image", "split")} | {"label": "stroma"} for e in entries]
        write_set(root, name, entries)
    return root


@pytest.fixture
def ticking(monkeypatch):
    """A clock that is a second later each time somebody looks: a step a second."""
    ticks = itertools.count(100)
    monkeypatch.setattr(training, "monotonic", lambda: float(next(ticks)))


def seconds(number: int) -> float:
    return number / 60


def test_logits_come_at_half_the_pictures_side_one_channel_a_concept_and_an_interior_for_objects():
    model = UNet({"stroma": "region", "nucleus": "object", "tumour": "region", "gland": "object"}).eval()
    with torch.inference_mode():
        assert model(torch.zeros(2, 3, 64, 96)).shape == (2, 6, 32, 48)
    found = {name: model.channels(name) for name in ("stroma", "nucleus", "tumour", "gland")}
    assert found == {"stroma": (0, None), "nucleus": (1, 4), "tumour": (2, None), "gland": (3, 5)}


def test_a_set_is_trained_that_marks_something_in_train_and_in_test(sets):
    assert sets_to_train(load_items(sets), list(CONCEPTS)) == {"easy": ["nucleus", "stroma"]}
    assert sets_to_train(load_items(sets), ["gland"]) == {}


def test_an_easy_set_is_learnt_and_read_out_from_its_folder(no_download, ticking, sets, tmp_path):
    items = load_items(sets)
    config = replace(CONFIG, plan=replace(CONFIG.plan, learning_rate=3e-3))
    about = train_unet("easy", items, config, seconds(40), tmp_path)
    assert about["steps"] == 40
    assert sorted(path.name for path in (tmp_path / "easy").iterdir()) == [ABOUT, WEIGHTS]
    unet = UNetPredictor.load(tmp_path / "easy")
    assert unet.about == about
    asked = [t for t in triples(items, ["nucleus", "stroma"]) if t.item.split == "test" and t.mode == "mask"]
    asked = [t for t in asked if t.item.set == "easy"]
    assert len(asked) == 4
    for triple in asked:
        image = pixels_of(triple.item.image)
        mask, ids, probability = unet.predict(image, triple.concept)
        assert dice(mask, truth(triple)[0]) > 0.8
        assert (mask.dtype, mask.shape) == (bool, image.shape[:2])
        assert (probability.dtype, probability.shape) == (np.float32, image.shape[:2])
        assert 0 <= probability.min() <= probability.max() <= 1
        if triple.concept == "nucleus":
            assert ids.dtype == np.int32
            assert ids.max() == 3
            np.testing.assert_array_equal(ids > 0, mask)
        else:
            assert ids is None


def test_a_run_cut_short_ends_with_the_weights_of_one_that_never_stopped(
    no_download, ticking, sets, tmp_path, monkeypatch
):
    items, config = load_items(sets), replace(CONFIG, plan=replace(CONFIG.plan, checkpoint_seconds=2))
    straight = train_unet("easy", items, config, seconds(6), tmp_path / "straight")
    step, progress = training._Run.step, []

    def power_cut(run, draws, done):
        if run.steps == 5:
            raise KeyboardInterrupt
        return step(run, draws, done)

    with monkeypatch.context() as patched:
        patched.setattr(training._Run, "step", power_cut)
        with pytest.raises(KeyboardInterrupt):
            train_unet("easy", items, config, seconds(6), tmp_path / "cut")
    assert [path.name for path in (tmp_path / "cut" / "easy").iterdir()] == [CHECKPOINT]
    monkeypatch.setattr(training._Run, "step", lambda *a: progress.append(a[2]) or step(*a))
    torch.manual_seed(99)  # what happens in between must not matter
    resumed = train_unet("easy", items, config, seconds(6), tmp_path / "cut")
    assert resumed == straight
    assert progress == pytest.approx([4 / 6, 5 / 6])
    first, second = (UNetPredictor.load(tmp_path / name / "easy").model.state_dict() for name in ("straight", "cut"))
    for name, tensor in first.items():
        torch.testing.assert_close(second[name], tensor, rtol=1e-3, atol=1e-5, msg=name)


def test_training_moves_the_tower_and_keeps_the_batch_statistics(no_download, random_tower, ticking, sets, tmp_path):
    train_unet("easy", load_items(sets), CONFIG, seconds(2), tmp_path)
    body = UNetPredictor.load(tmp_path / "easy").model.body.state_dict()
    half = {name: tensor.half().float() for name, tensor in random_tower.items()}
    assert not torch.equal(body["conv_stem.weight"], half["conv_stem.weight"])
    statistics = [name for name in body if "running" in name]
    assert statistics
    assert all(torch.equal(body[name], half[name]) for name in statistics)


def test_only_the_sets_own_train_pictures_are_looked_at(no_download, ticking, sets, tmp_path, monkeypatch):
    looked_at = set()
    own = training.window
    monkeypatch.setattr(
        training, "window", lambda triple, *rest: looked_at.add(triple.item.image) or own(triple, *rest)
    )
    train_unet("easy", load_items(sets), CONFIG, seconds(3), tmp_path)
    assert looked_at == {sets / "easy" / f"p{i}.image.png" for i in range(4)}


def test_finished_sets_are_left_and_the_others_made(no_download, ticking, sets, tmp_path):
    config = replace(CONFIG, plan=replace(CONFIG.plan, minutes=seconds(1)))
    made = train_unets(config, sets, tmp_path)
    assert {name: about["steps"] for name, about in made.items()} == {"easy": 1}
    before = (tmp_path / "easy" / WEIGHTS).stat().st_mtime_ns
    assert train_unets(config, sets, tmp_path) == made
    assert (tmp_path / "easy" / WEIGHTS).stat().st_mtime_ns == before
    (tmp_path / "easy" / ABOUT).unlink()
    assert train_unets(config, sets, tmp_path, minutes=seconds(2))["easy"]["steps"] == 2


def test_the_threads_of_torch_are_as_they_were_afterwards(no_download, ticking, sets, tmp_path):
    before = torch.get_num_threads()
    about = train_unet("easy", load_items(sets), CONFIG, seconds(1), tmp_path, threads=before + 1)
    assert about["threads"] == before + 1
    assert torch.get_num_threads() == before


def test_a_batch_follows_from_seed_and_step_alone(sets):
    items = [item for item in load_items(sets) if item.set == "easy" and item.split == "train"]
    draws, again = Draws(items, CONFIG), Draws(items, CONFIG)
    assert draws.names == ["nucleus", "stroma"]
    for one, other in zip(draws.batch(4), again.batch(4), strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(draws.batch(4)[0], draws.batch(5)[0])
    assert [tuple(t.shape) for t in draws.batch(4)] == [(4, 3, 64, 64), *[(4, 2, 32, 32)] * 3, (4, 2), (4, 2)]


def test_pictures_that_are_wholly_it_or_surely_without_it_teach_too(tmp_path):
    """As crc_val_he's labels do, which the hierarchy knows: stroma all over and no stroma; no gland in muscle."""
    folder = tmp_path / "crc_val_he"
    folder.mkdir()
    entries = [paint(folder, f"p{i}", i, "train") for i in range(4)]
    entries[0]["classes"]["1"] = "gland"
    for entry, label in zip(entries[1:], ("cancer-associated stroma", "mucus", "smooth muscle"), strict=True):
        entry["label"] = label
        del entry["mask"], entry["instances"], entry["classes"]
    write_set(tmp_path, "crc_val_he", entries)
    draws = Draws(load_items(tmp_path), CONFIG)
    assert draws.names == ["stroma", "gland"]
    assert {key: len(pool) for key, pool in draws.pools.items()} == {
        ("stroma", True): 2, ("stroma", False): 1, ("gland", True): 1, ("gland", False): 1
    }  # fmt: skip
    seen = set()
    for _, mask, _, _, known, told in map(draws.batch, range(40)):
        for place, name in enumerate(draws.names):
            shares = mask[:, place].mean((1, 2)).tolist()
            amounts = ["none" if share == 0 else "all" if share == 1 else "some" for share in shares]
            seen |= {
                (name, *row) for row in zip(amounts, known[:, place].tolist(), told[:, place].tolist(), strict=True)
            }
    assert {("stroma", "all", True, False), ("stroma", "none", True, True)} <= seen
    assert {("gland", "some", True, True), ("gland", "none", True, True), ("gland", "none", False, False)} <= seen
    assert ("stroma", "some", True, True) not in seen  # a drawn region tells no objects apart


@pytest.fixture(scope="module")
def answer():
    """A model of a region and two objects, its perfect logits for one window, and the targets."""
    model = UNet({"stroma": "region", "nucleus": "object", "gland": "object"})
    mask = torch.zeros(1, 3, 8, 8)
    mask[:, :, 2:6, 2:6] = 1
    known, told = torch.ones(1, 3, dtype=bool), torch.tensor([[False, True, False]])
    logits = torch.cat([mask, mask[:, 1:]], 1) * 40 - 20
    return model, logits, (mask, torch.ones_like(mask), mask.clone(), known, told)


@pytest.mark.parametrize(("channel", "matters"), [(0, True), (1, True), (2, True), (3, True), (4, False)])
def test_a_wrong_channel_costs_where_its_truth_is_known(answer, channel, matters):
    model, logits, targets = answer
    perfect = unet_loss(model, logits, *targets)
    assert perfect < 0.01
    spoilt = logits.clone()
    spoilt[:, channel] *= -1
    assert (unet_loss(model, spoilt, *targets) > perfect + 1) == matters


def test_a_concept_of_which_nothing_is_known_in_a_window_changes_nothing(answer):
    model, logits, (mask, judged, interior, known, told) = answer
    logits, known = logits.clone(), known.clone()
    logits[:, 1] *= -1
    known[:, 1] = False
    assert unet_loss(model, logits, mask, judged, interior, known, told) < 0.01


def test_pixels_that_nobody_judged_cost_nothing(answer):
    model, logits, (mask, judged, *rest) = answer
    logits, judged = logits.clone(), judged.clone()
    logits[..., 4:] *= -1
    assert unet_loss(model, logits, mask, judged, *rest) > 1
    judged[..., 4:] = 0
    assert unet_loss(model, logits, mask, judged, *rest) < 0.01


def test_a_picture_of_several_tiles_and_odd_sides_is_read_out_whole():
    model = UNet({"stroma": "region"})
    torch.nn.init.constant_(model.head.bias, 30.0)
    unet = UNetPredictor(model, {"concepts": {"stroma": {"kind": "region", "zoom": 1.0}}})
    mask, ids, probability = unet.predict(np.full((67, 701, 3), 200, np.uint8), "stroma")
    assert mask.shape == probability.shape == (67, 701)
    assert mask.all()
    assert ids is None


def test_a_concept_of_another_set_is_named(sets):
    unet = UNetPredictor(UNet({"stroma": "region"}), {"concepts": {"stroma": {"kind": "region", "zoom": 1.0}}})
    with pytest.raises(InputError, match="'nucleus' is not of this U-Net; it knows stroma"):
        unet.predict(np.zeros((64, 64, 3), np.uint8), "nucleus")


@pytest.mark.parametrize("about", [None, "{", "[]", "{}", '{"concepts": {"stroma": {"kind": "region", "zoom": 1}}}'])
def test_a_folder_that_holds_no_unet_is_an_input_error(tmp_path, about):
    if about is not None:
        (tmp_path / ABOUT).write_text(about)
        (tmp_path / WEIGHTS).write_bytes(b"not tensors")
    with pytest.raises(InputError, match="no trained U-Net"):
        UNetPredictor.load(tmp_path)


def test_a_checkpoint_of_other_concepts_is_an_input_error(no_download, ticking, sets, tmp_path):
    run = training._Run({"gland": "object"}, CONFIG.plan)
    run.save(tmp_path / "easy" / CHECKPOINT)
    with pytest.raises(InputError, match="is of gland; remove it"):
        train_unet("easy", load_items(sets), CONFIG, seconds(1), tmp_path)


def test_without_any_set_to_train_it_is_told(sets, tmp_path):
    with pytest.raises(InputError, match="no set with masks"):
        train_unets(CONFIG, sets / "labels", tmp_path)
    with pytest.raises(InputError, match="labels: no train picture marks"):
        train_unet("labels", load_items(sets), CONFIG, seconds(1), tmp_path)


def test_the_shipped_configuration_is_complete():
    config = load_unet_config(training.Path(training.__file__).parent / "configs" / "unet.yaml")
    assert config.plan == UNetPlan()
    assert {"nucleus", "gland"} <= set(config.concepts)
    assert all({"kind", "zoom", "jitter"} <= set(entry) for entry in config.concepts.values())


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("concepts: {", "cannot be read as YAML"),
        ("", "concepts names no YAML"),
        ("concepts: {nucleus: 1}", "concepts names no YAML"),
        ("concepts: nowhere.yaml", "nowhere.yaml: cannot be read"),
        ("concepts: a.yaml\ntraining: 4", "'training' is no mapping"),
        ("concepts: a.yaml\ntraining: {colour: 1}", "training.colour is unknown"),
        ("concepts: a.yaml\ntraining: {learning_rate: 1e-3}", "learning_rate is '1e-3', not a number"),
        ("concepts: a.yaml\ntraining: {batch: 1.5}", "batch is 1.5, not a whole number"),
        ("concepts: a.yaml\ntraining: {batch: true}", "batch is True, not a whole number"),
        ("concepts: a.yaml\ntraining: {minutes: 0}", "minutes is 0, out of range"),
        ("concepts: a.yaml\ntraining: {minutes: .inf}", "minutes is inf, out of range"),
        ("concepts: a.yaml\ntraining: {minutes: .nan}", "minutes is nan, out of range"),
        ("concepts: a.yaml\ntraining: {window: 100}", "window is 100, no multiple of 32"),
    ],
)
def test_a_configuration_that_cannot_be_used_is_named_with_the_place(tmp_path, content, told):
    (tmp_path / "unet.yaml").write_text(content)
    with pytest.raises(InputError, match=told) as caught:
        load_unet_config(tmp_path / "unet.yaml")
    assert "\n" not in str(caught.value)
