import json

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch.nn import functional as F
from transformers.modeling_outputs import BaseModelOutputWithPooling

import slidekick.copilot.mini
import slidekick.rl.sft
import slidekick.rl.tower
from slidekick.copilot.tools import tool_schemas
from slidekick.copilot.torch_engine import TorchEngine
from slidekick.data.errors import InputError
from slidekick.rl.instructions import make_instructions
from slidekick.rl.sft import (
    IMAGE_TOKENS,
    CachedVisionCollator,
    CachedVisionTrainer,
    Maps,
    align_connector,
    cached_maps,
    load_config,
    train_sft,
)

CONFIG = {
    "tower": {"seed": 7, "steps": 1, "batch": 2, "learning_rate": 1e-4, "label_smoothing": 0.1, "ema": 0.9},
    "views": 2,
    "connector": {"seed": 7, "steps": 2, "batch": 4, "learning_rate": 1e-3},
    "instructions": {"count": 12, "seed": 7, "shares": {"report": 0.3, "compare": 0.3}},
    "lora": {
        "r": 4,
        "lora_alpha": 8,
        "target_modules": ".*language_model.*\\.(q_proj|v_proj|down_proj)",
        "modules_to_save": ["multi_modal_projector"],
    },
    "sft": {
        "num_train_epochs": 1,
        "per_device_train_batch_size": 2,
        "learning_rate": 1e-3,
        "warmup_steps": 1,
        "train_sampling_strategy": "group_by_length",
        "logging_steps": 1,
        "save_steps": 2,
        "save_total_limit": 1,
        "disable_tqdm": True,
        "seed": 7,
    },
}


@pytest.fixture
def tools() -> list[dict]:
    return list(tool_schemas())


def test_cached_maps_give_the_logits_that_the_picture_itself_gives(items, processor, tools, make_model, tmp_path):
    model = make_model()
    maps = cached_maps(model, items, 2, tmp_path / "maps.npy")
    engine = TorchEngine(model, processor)
    one = next(one for one in make_instructions(items, 20, seed=9) if one.task == "classify")
    inputs = engine.encode(one.messages[:1], np.array(Image.open(one.images[0])), tools)
    first = torch.from_numpy(maps.array[[maps.row(one.images[0], 0)]].astype(np.float32))
    with torch.inference_mode():
        live = model(**inputs).logits
        tokens = model.model.multi_modal_projector(first)
        cached = model(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            mm_encoder_outputs={"image": BaseModelOutputWithPooling(pooler_output=tokens)},
        ).logits
        blind = model(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            mm_encoder_outputs={"image": BaseModelOutputWithPooling(pooler_output=tokens * 0)},
        ).logits
    far = (live - blind).abs().max()
    assert (live - cached).abs().max() < 0.05 * far


def test_every_picture_has_its_own_maps_and_unlabelled_ones_a_single_view(items, make_model, tmp_path, monkeypatch):
    model = make_model()
    maps = cached_maps(model, items, 3, tmp_path / "maps.npy")
    views = {item.image: 3 if item.label else 1 for item in items}
    assert maps.array.shape == (sum(views.values()), IMAGE_TOKENS, 1280)
    assert maps.array.dtype == np.float16
    rows = {image: {maps.row(image, pick) for pick in range(10)} for image in views}
    assert {image: len(found) for image, found in rows.items()} == views
    assert sorted(row for found in rows.values() for row in found) == list(range(len(maps.array)))
    monkeypatch.setattr(slidekick.rl.sft, "features", None)  # a second look reads the file
    np.testing.assert_array_equal(cached_maps(model, items, 3, tmp_path / "maps.npy").array, maps.array)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["maps.json", "maps.npy"]
    with pytest.raises(InputError, match=r"maps.npy: 35 maps, not 25: .*train anew"):
        cached_maps(model, items, 2, tmp_path / "maps.npy")


def test_maps_of_other_pictures_or_of_another_tower_are_not_taken_up(items, make_model, tmp_path):
    model, file = make_model(), tmp_path / "maps.npy"
    kept = cached_maps(model, items, 1, file)
    with pytest.raises(InputError, match=r"maps.npy: .*another tower; remove it, or train anew"):
        cached_maps(model, items[::-1], 1, file)
    with pytest.raises(InputError, match=r"another tower"):
        cached_maps(model, items, 1, file, seed=12)
    next(model.model.vision_tower.parameters()).data.add_(1)
    with pytest.raises(InputError, match=r"another tower"):
        cached_maps(model, items, 1, file)
    (tmp_path / "maps.json").unlink()  # maps of earlier versions stand alone
    assert len(cached_maps(model, items, 1, file).array) == len(kept.array)


@pytest.mark.parametrize("section", ["lora", "sft"])
def test_a_key_that_is_none_is_told_before_anything_is_trained(section, labelled, tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(CONFIG | {section: CONFIG[section] | {"no_such_key": 1}}))
    with pytest.raises(InputError, match=rf"config.yaml: {section}: .*no_such_key") as caught:
        train_sft(path, labelled, tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_the_connector_moves_towards_the_labels_and_nothing_else_moves(items, processor, make_model):
    model = make_model()
    labelled = [item for item in items if item.label]
    answers = sorted({item.label for item in labelled})
    rng = np.random.default_rng(0)
    by_label = rng.normal(size=(len(answers), 36, 1280)).astype(np.float16)
    array = np.stack([by_label[answers.index(item.label)] if item.label else by_label[0] for item in items])
    maps = Maps(array, items, views=1)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    def distance() -> float:
        embedding = model.get_input_embeddings().weight
        total = 0.0
        for label, seen in zip(answers, by_label, strict=True):
            target = embedding[processor.tokenizer(" " + label)["input_ids"]].mean(0)
            mean = model.model.multi_modal_projector(torch.from_numpy(seen[None].astype(np.float32))).mean((0, 1))
            total += float(1 - F.cosine_similarity(mean, target, dim=0))
        return total / len(answers)

    with torch.no_grad():
        far = distance()
    align_connector(model, processor, items, maps, {"seed": 1, "steps": 40, "batch": 8, "learning_rate": 3e-3})
    with torch.no_grad():
        assert distance() < far / 3
    moved = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved
    assert all("multi_modal_projector" in name for name in moved)


@pytest.fixture
def small_run(monkeypatch, random_tower, make_model, processor, labelled, tmp_path):
    """Runs `train_sft` on the small mini; `cut`: the language stage is interrupted after so many steps."""

    def load_base(tower=None):
        model = make_model(tower)
        model.name_or_path = model.config._name_or_path = str(tmp_path / "cache" / "base")
        return model, processor

    monkeypatch.setattr(slidekick.rl.sft, "load_base", load_base)
    monkeypatch.setattr(slidekick.copilot.mini, "load_base", load_base)
    monkeypatch.setattr(slidekick.rl.tower, "imagenet_state", lambda: dict(random_tower))
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(CONFIG))
    loss = CachedVisionTrainer.compute_loss

    def run(name: str, resume: bool = False, cut: int | None = None, data=labelled):
        done = []

        def counted(self, *args, **kwargs):
            if len(done) == cut:
                raise KeyboardInterrupt
            done.append(1)
            return loss(self, *args, **kwargs)

        with monkeypatch.context() as patched:
            patched.setattr(CachedVisionTrainer, "compute_loss", counted)
            folder = train_sft(path, data, tmp_path / name, resume=resume)
        return folder, len(done)

    return run


def test_a_run_gives_a_folder_that_loads_as_mini_and_says_what_the_trained_model_says(
    small_run, make_model, items, processor, tools, tmp_path
):
    from safetensors.torch import load_file

    from slidekick.copilot.mini import load_generalist

    folder, steps = small_run("run")
    assert steps == 6
    names = {path.name for path in folder.iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "tower.safetensors"} <= names
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pkl"))]
    for path in folder.iterdir():  # where the base lay is nobody else's business
        assert str(tmp_path).encode() not in path.read_bytes(), path.name
    adapter = load_file(folder / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in adapter.values()} == {torch.float16}
    assert any("multi_modal_projector" in name for name in adapter)
    log = json.loads((tmp_path / "run" / "log.json").read_text())
    assert [entry["step"] for entry in log if "loss" in entry] == list(range(1, 7))

    model, _ = load_generalist(str(folder))
    prompt = TorchEngine(model, processor).encode(
        make_instructions(items, 1, 1)[0].messages[:1], np.zeros((9, 9, 3), np.uint8), tools
    )
    untrained = make_model(folder / "tower.safetensors")
    with torch.inference_mode():
        assert not torch.allclose(model(**prompt).logits, untrained(**prompt).logits, atol=1e-3)
    assert not any("lora" in name for name, _ in model.named_parameters())


@pytest.mark.parametrize("frozen", [True, False])
def test_the_connector_stays_as_it_was_aligned_where_the_configuration_says_so(small_run, tmp_path, frozen):
    from safetensors.torch import load_file

    config = CONFIG | {"connector": CONFIG["connector"] | {"frozen": frozen}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    folder, _ = small_run("run")
    aligned = torch.load(tmp_path / "run" / "connector.pt", weights_only=True)
    adapter = load_file(folder / "adapter_model.safetensors")
    for name, weight in aligned.items():
        (saved,) = (value for key, value in adapter.items() if key.endswith(f"multi_modal_projector.{name}"))
        assert torch.equal(saved, weight.half()) == frozen, name


def test_texts_and_pairs_of_pictures_are_trained_on_too(small_run, rich, monkeypatch):
    shown = []
    collate = CachedVisionCollator.__call__

    def noted(self, rows):
        shown.extend(len(row["map_rows"]) for row in rows)
        return collate(self, rows)

    monkeypatch.setattr(CachedVisionCollator, "__call__", noted)
    folder, steps = small_run("run", data=rich)
    assert steps == 6
    assert set(shown) == {0, 1, 2}
    assert (folder / "adapter_model.safetensors").is_file()


def test_a_set_that_is_held_back_reaches_no_stage(small_run, labelled, tmp_path, monkeypatch):
    path = tmp_path / "config.yaml"
    section = {**CONFIG["instructions"], "held_back": ["gbm40"]}
    path.write_text(yaml.safe_dump({**CONFIG, "instructions": section}))
    given = []
    train_tower = slidekick.rl.sft.train_tower
    monkeypatch.setattr(
        slidekick.rl.sft, "train_tower", lambda items, *rest: (given.extend(items), train_tower(items, *rest))
    )
    small_run("run")
    assert {item.set for item in given} == {"glas", "loose"}
    rows = sum(2 if item.label else 1 for item in given)
    assert len(np.load(tmp_path / "run" / "maps.npy", mmap_mode="r")) == rows


def test_a_run_resumed_in_the_middle_ends_like_one_that_never_stopped(small_run, monkeypatch, tmp_path):
    from safetensors.torch import load_file

    straight, _ = small_run("straight")
    with pytest.raises(KeyboardInterrupt):
        small_run("cut", cut=3)
    for stage in ("train_tower", "features", "align_connector"):  # earlier stages are not done again
        monkeypatch.setattr(slidekick.rl.sft, stage, None)
    resumed, steps = small_run("cut", resume=True)
    assert steps == 4  # from the checkpoint of step 2 on
    first, second = (load_file(folder / "adapter_model.safetensors") for folder in (straight, resumed))
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        torch.testing.assert_close(second[name], tensor, rtol=2e-3, atol=2e-3, msg=name)


def test_a_run_cut_before_its_first_checkpoint_begins_with_the_same_weights(small_run, monkeypatch):
    starts = []

    def noted(trainer, *_, **__):
        weights = trainer.model.state_dict()
        starts.append({name: value.clone() for name, value in weights.items() if "lora" in name})
        raise KeyboardInterrupt

    monkeypatch.setattr(CachedVisionTrainer, "train", noted)
    for resume in (False, True):
        torch.manual_seed(99 + resume)
        with pytest.raises(KeyboardInterrupt):
            small_run("run", resume=resume)
    first, second = starts
    assert all(torch.equal(first[name], second[name]) for name in second)


def test_a_new_run_does_not_take_up_the_checkpoints_of_an_old_one(small_run):
    small_run("run")
    with pytest.raises(KeyboardInterrupt):
        small_run("run", cut=1)
    _, steps = small_run("run", resume=True)
    assert steps == 6


def test_data_without_a_question_is_an_input_error(small_run, labelled, tmp_path):
    with pytest.raises(InputError, match="no labelled picture"):
        train_sft(tmp_path / "config.yaml", labelled / "loose", tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("tower: {", "cannot be read as YAML"),
        ("", "section 'tower' is missing"),
        ("just words", "section 'tower' is missing"),
        (yaml.safe_dump({**CONFIG, "lora": None}), "section 'lora' is no mapping"),
        (yaml.safe_dump({**CONFIG, "views": "many"}), "section 'views' is no whole number"),
        (yaml.safe_dump({key: value for key, value in CONFIG.items() if key != "sft"}), "section 'sft' is missing"),
    ],
)
def test_a_configuration_that_cannot_be_used_is_named_with_the_place(tmp_path, content, told):
    path = tmp_path / "broken.yaml"
    path.write_text(content)
    with pytest.raises(InputError, match=told) as caught:
        load_config(path)
    assert "broken.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_or_binary_configuration_is_an_input_error(tmp_path):
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00\x01")
    for name in ("nowhere.yaml", ".", "binary.yaml"):
        with pytest.raises(InputError, match="cannot be read"):
            load_config(tmp_path / name)
