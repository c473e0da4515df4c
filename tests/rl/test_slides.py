"""Slides without pixels and with: bags against their plans, questions against the truth, training, figures."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from painted_slides import ColourTower
from slide_files import lung_items

import slidekick.rl.slides
from slidekick.copilot import Copilot
from slidekick.copilot.experts import load_experts
from slidekick.copilot.slide_encoder import load_slide_encoder
from slidekick.copilot.slide_reader import SlideReader
from slidekick.data.composed import compose_slides
from slidekick.data.errors import InputError
from slidekick.data.items import Item
from slidekick.data.layout import OTHER
from slidekick.rl.evaluation.slides import Baseline, composed_rows, judge_slides, slide_figures
from slidekick.rl.instructions.slides import BY_TOOL, READ, UNTAUGHT, WORDINGS, exchange, slide_questions
from slidekick.rl.slide_bags import GLASS_NAME, Bags, tissue_pools
from slidekick.rl.slide_regions import region_items
from slidekick.rl.slides import fitted, train_slides, train_tissues

TISSUES = ("benign lung tissue", "lung adenocarcinoma", "lung squamous cell carcinoma")
SIZES = {"rows": (12, 18), "columns": (12, 18)}


class WideTower(ColourTower):
    """As wide as the real tower: the colours, and nothing behind them."""

    features = 1280

    def __call__(self, tiles):
        colours, tokens = super().__call__(tiles)
        return np.pad(colours, ((0, 0), (0, self.features - 3))), tokens


@pytest.fixture(scope="module")
def items(tmp_path_factory):
    return lung_items(tmp_path_factory.mktemp("tiles"), "train")


@pytest.fixture(scope="module")
def bags(items):
    pools = tissue_pools(items, WideTower(), 1)
    return Bags(items, pools, TISSUES, **SIZES)


def test_pools_hold_each_tissue_and_glass_and_are_kept(items, tmp_path):
    tower = ColourTower()
    made = tissue_pools(items, tower, 1, tmp_path / "pools.npz")
    assert {*made} == {*TISSUES, GLASS_NAME}
    seen = tower.seen
    kept = tissue_pools(items, tower, 1, tmp_path / "pools.npz")
    assert tower.seen == seen
    assert all(np.array_equal(kept[name].features, made[name].features) for name in made)
    assert made[GLASS_NAME].features.mean() > 0.85 > made[TISSUES[0]].features.mean()


@given(st.integers(0, 5000))
@settings(max_examples=25, deadline=None)
def test_a_bag_has_the_shares_of_its_plan(bags, seed):
    bag = bags.draw(seed)
    assert np.allclose(bag.shares.sum(1), 1, atol=1e-4)
    assert len(bag.features) == len(bag.tokens) == len(bag.places) > 5
    rim = max(0.08, 4 / len(bag.features))  # tiles there count whole, which is much of a slide of few
    for index, name in enumerate(TISSUES):
        assert bag.shares[:, index].mean() == pytest.approx(bag.layout.share(name), abs=rim)
    assert {*bag.layout.tissues, *bag.absent} == {*TISSUES}
    again = bags.draw(seed)
    assert np.array_equal(again.features, bag.features)


@given(st.integers(0, 5000))
@settings(max_examples=25, deadline=None)
def test_questions_are_true_of_their_plan(bags, seed):
    bag = bags.draw(seed)
    layout = bag.layout
    asked = slide_questions(layout, bag.absent)
    assert {one.kind for one in asked} <= {*READ, *BY_TOOL}
    rng = np.random.default_rng(seed)
    for one in asked:
        if one.kind == "dominant":
            assert one.answer == layout.dominant
        elif one.kind == "organ":
            assert one.answer == "lung"
        elif one.kind in BY_TOOL:
            assert one.present == (one.asked in layout.tissues)
            turns = exchange(one, layout, rng)
            call = turns[1]["tool_calls"][0]["function"]
            assert call["arguments"] == {"concept": one.asked}
            assert json.loads(turns[2]["content"][0]["text"])["found"] == one.present


@pytest.fixture(scope="module")
def strange_bags(items, bags):
    """Bags that may also hold tissue which is not to be named."""
    pools = {**bags.pools, OTHER: bags.pools[GLASS_NAME]}
    return Bags(items, pools, (*TISSUES, OTHER), **SIZES)


def test_tissue_that_is_not_to_be_named_takes_the_place_of_another_and_is_never_asked_about(strange_bags):
    replaced = 0
    for seed in range(60):
        bag = strange_bags.draw(seed)
        asked = slide_questions(bag.layout, bag.absent)
        assert not any(OTHER in (one.asked, one.answer) for one in asked)
        if OTHER in bag.layout.tissues:
            replaced += 1
            assert bag.shares[:, -1].mean() == pytest.approx(bag.layout.share(OTHER), abs=0.08)
            # The tissue whose place it took counts as absent.
            assert {*bag.layout.tissues, *bag.absent} == {*TISSUES, OTHER}
    assert 4 < replaced < 24


def test_regions_are_cut_out_where_one_class_nearly_fills_them(tmp_path):
    from PIL import Image

    rng = np.random.default_rng(0)
    mask = np.zeros((400, 500), np.uint8)
    mask[:, :210], mask[:, 210:] = 1, 2
    Image.fromarray(rng.integers(0, 255, (400, 500, 3), np.uint8)).save(tmp_path / "a.png")
    Image.fromarray(mask).save(tmp_path / "m.png")
    item = Item("outlined", "a", tmp_path / "a.png", "train", mask=tmp_path / "m.png", classes={1: "x", 2: "y"})
    other = replace(item, set="elsewhere")
    found = region_items([item, other], ["outlined"], tmp_path / "cut")
    assert {(one.set, one.label) for one in found} == {("outlined", "x"), ("outlined", "y")}
    for one in found:
        x, y = map(int, one.id.split()[1].split(","))
        window = mask[y : y + 224, x : x + 224]
        assert (window == {"x": 1, "y": 2}[one.label]).mean() >= 0.85
        assert np.array_equal(np.asarray(Image.open(one.image)).shape, (224, 224, 3))
    item.mask.write_bytes(b"no picture")
    with pytest.raises(InputError, match="restore it"):
        region_items([item], ["outlined"], tmp_path / "cut")


def test_some_wordings_are_never_taught(bags):
    bag = bags.draw(1)
    rng = np.random.default_rng(0)
    for one in slide_questions(bag.layout, bag.absent):
        held = {one.wording(len(WORDINGS[one.kind]) - 1 - i) for i in range(UNTAUGHT)}
        said = {exchange(one, bag.layout, rng)[0]["content"][0]["text"] for _ in range(60)}
        assert not said & held


@pytest.fixture(scope="module")
def encoder(bags):
    made = train_tissues(bags, {"steps": 60, "bags": 2, "learning_rate": 3e-3, "noise": 0.05}, 3)
    return fitted(made, [bags.draw(10_000 + number) for number in range(12)])


@pytest.fixture(scope="module")
def composed(items, tmp_path_factory):
    return compose_slides(items, tmp_path_factory.mktemp("composed"), 4, 40, "train", **SIZES).parent


def test_what_is_taught_on_bags_holds_on_slides(encoder, bags, composed):
    copilot = Copilot(None, None, reader=SlideReader(WideTower(), encoder))
    baseline = Baseline([bags.draw(number) for number in range(40)], TISSUES)
    rows = list(judge_slides(copilot, composed, 0, baseline))
    figures = slide_figures(rows)
    assert json.loads(json.dumps(rows)) == rows
    assert len(rows) == 4
    assert figures["presence"]["value"] > 0.9
    assert figures["pointing"]["value"] > 0.9
    assert figures["area_error"]["value"] < 0.06
    assert figures["dominant"]["value"] == 1
    assert {"baseline_presence", "baseline_pointing", "baseline_area_error"} <= figures.keys()


def test_a_folder_without_composed_slides_is_told(tmp_path):
    (tmp_path / "items.jsonl").write_text('{"id": "a"}\n')
    with pytest.raises(InputError, match="slidekick compose"):
        composed_rows(tmp_path)
    with pytest.raises(InputError, match="slidekick compose"):
        composed_rows(tmp_path / "missing")


CONFIG = {
    "start": "unused",
    "bags": {"seed": 1, "rows": [12, 14], "columns": [12, 14], "val": 2, "regions": [], "other": []},
    "tissues": {"seed": 3, "steps": 2, "bags": 1, "learning_rate": 1e-3, "noise": 0.1},
    "reading": {
        "expert": {"rank": 2, "alpha": 4, "targets": r".*language_model.*\.(q_proj|v_proj)"},
        "questions": {"count": 4, "seed": 5},
        "sft": {
            "num_train_epochs": 1, "per_device_train_batch_size": 2, "learning_rate": 1e-2, "weight_decay": 0.0,
            "logging_steps": 1, "save_steps": 1, "save_total_limit": 1, "disable_tqdm": True, "seed": 5,
        },
    },
}  # fmt: skip


@pytest.fixture
def run(monkeypatch, make_model, processor, tmp_path):
    """Trains the slide encoder and its expert on the small mini."""
    data = tmp_path / "data" / "lc25000_lung"
    data.mkdir(parents=True)
    entries = [
        {"id": one.id, "image": one.image.name, "group": one.id, "split": one.split, "label": one.label}
        for split in ("train", "val")
        for one in lung_items(data, split)
    ]
    (data / "items.jsonl").write_text("\n".join(map(json.dumps, entries)))
    monkeypatch.setattr(slidekick.rl.slides, "load_mini", lambda folder: (make_model(), processor))
    monkeypatch.setattr(slidekick.rl.slides, "tower_name", lambda folder: "small")

    def go(name: str, resume: bool = False, **reading):
        changed = CONFIG | {"reading": CONFIG["reading"] | reading}
        (tmp_path / "slides.yaml").write_text(yaml.safe_dump(changed))
        return train_slides(tmp_path / "slides.yaml", tmp_path / "data", tmp_path / name, resume)

    return go


def test_both_stages_write_what_the_product_loads(run, make_model, tmp_path):
    folder = run("out")
    encoder = load_slide_encoder(folder)
    assert encoder.plan.tissues == TISSUES
    assert encoder.plan.kinds["lung adenocarcinoma"] == ("tumour",)
    assert encoder.add.weight.abs().sum() > 0
    assert {path.name for path in (folder / "slide").iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    log = json.loads((tmp_path / "out" / "log.json").read_text())
    assert [entry["step"] for entry in log if "loss" in entry] == [1, 2]


def test_a_finished_run_resumed_stays_as_it_is(run):
    folder = run("out")
    before = {path.name: path.read_bytes() for path in folder.rglob("*.safetensors")}
    run("out", resume=True)
    assert {path.name: path.read_bytes() for path in folder.rglob("*.safetensors")} == before


def test_an_encoder_that_was_not_written_to_its_end_is_taught_again(run):
    folder = run("out")
    (folder / "encoder.json").unlink()
    assert load_slide_encoder(run("out", resume=True)).plan.tissues == TISSUES


@pytest.mark.parametrize(
    ("reading", "told"),
    [
        ({"expert": {"rank": 2, "alpha": 4, "target": "x"}}, "reading.expert has no key 'target'"),
        ({"questions": {"count": 0, "seed": 5}}, "reading.questions.count is 0"),
        ({"sft": None}, "reading.sft is no mapping; see rl/configs/slides.yaml"),
        ({"sft": {"no_such_key": 1}}, "sft: .*no_such_key"),
    ],
)
def test_reading_that_cannot_be_used_is_told_before_tissues_are_taught(run, tmp_path, reading, told):
    with pytest.raises(InputError, match=told) as caught:
        run("out", **reading)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_an_empty_start_is_told_with_the_configuration_that_is_right(tmp_path):
    (tmp_path / "slides.yaml").write_text(yaml.safe_dump(CONFIG | {"start": None}))
    with pytest.raises(InputError, match=r"section 'start' is no folder's name; see rl/configs/slides.yaml"):
        train_slides(tmp_path / "slides.yaml", tmp_path, tmp_path / "out")


def test_the_slide_expert_loads_beside_the_others(run, make_model, tmp_path):
    from slidekick.copilot.experts import ExpertPlan, Experts

    folder = run("out")
    plan = ExpertPlan(("first", "second"), 2, 4, r".*language_model.*\.(q_proj|v_proj)", top=1)
    Experts(make_model(), plan, 32, 32).save(tmp_path / "experts", "base")
    loaded = load_experts(make_model(), tmp_path / "experts", aside={"slide": folder / "slide"})
    gates, logits = loaded.route(torch.randn(3, 32), torch.randn(3, 32))
    assert gates.shape == (3, 3)
    assert logits.shape == (3, 2)
    assert (gates[:, 2] == 0).all()
    assert loaded.alone("slide").tolist() == [[0, 0, 1]]
