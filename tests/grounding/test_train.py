import json

import numpy as np
import pytest
import torch
import yaml

import slidekick.grounding.train
from slidekick.data.errors import InputError
from slidekick.data.items import load_items
from slidekick.grounding.tower import to_tensor
from slidekick.grounding.train import CHECKPOINT, Sampler, load_config, prompt_loss, train
from slidekick.grounding.windows import Truth, concept_sources

CONFIG = {
    "model": {"window": 64, "width": 32, "heads": 2, "depth": 1, "mlp": 32},
    "training": {
        "seed": 3,
        "steps": 4,
        "batch": 2,
        "prompts": 2,
        "learning_rate": 1e-3,
        "encoder_learning_rate": 3e-4,
        "weight_decay": 0.02,
        "warmup": 2,
        "ema": 0.9,
        "positive_share": 0.7,
        "checkpoint_every": 2,
        "log_every": 1,
    },
    "concepts": {
        "disc": {
            "kind": "object",
            "synonyms": ["discs", "round thing"],
            "mpp": 0.5,
            "zoom": 1.0,
            "jitter": [0.8, 1.4],
            "weight": 2,
            "masks": {"painted": "instances"},
            "absent": {"plain": ["sparse"]},
        },
        "square": {
            "kind": "region",
            "synonyms": [],
            "mpp": 0.5,
            "zoom": 1.0,
            "jitter": [0.8, 1.4],
            "masks": {"painted": [2]},
            "whole": {"plain": ["dense"]},
        },
        "never drawn": {
            "kind": "region",
            "synonyms": [],
            "mpp": 1.0,
            "zoom": 1.0,
            "jitter": [1, 1],
            "absent": {"plain": "all"},
        },
    },
}


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(CONFIG))
    return path


@pytest.fixture(scope="module")
def sampler(painted):
    items = load_items(painted, split="train")
    sources = {name: concept_sources(entry, items) for name, entry in CONFIG["concepts"].items()}
    return Sampler(CONFIG["concepts"], sources, side=64, positive_share=0.7, seed=3)


def weights(out) -> dict:
    state = torch.load(out / CHECKPOINT, weights_only=True)
    assert state["step"] == 4
    return {f"{kind}.{name}": t for kind in ("model", "average") for name, t in state[kind].items()}


def test_a_run_resumed_in_the_middle_ends_with_the_weights_of_one_that_never_stopped(
    no_download, monkeypatch, painted, config, tmp_path
):
    train(config, painted, tmp_path / "straight")
    step = slidekick.grounding.train._step

    def power_cut(model, optimizer, schedule, drawer, plan, number):
        if number == 2:
            raise KeyboardInterrupt
        return step(model, optimizer, schedule, drawer, plan, number)

    with monkeypatch.context() as patched:
        patched.setattr(slidekick.grounding.train, "_step", power_cut)
        with pytest.raises(KeyboardInterrupt):
            train(config, painted, tmp_path / "cut")
    torch.manual_seed(99)  # what happens in between must not matter
    log = train(config, painted, tmp_path / "cut", resume=True)
    straight, resumed = weights(tmp_path / "straight"), weights(tmp_path / "cut")
    assert straight.keys() == resumed.keys()
    for name, tensor in straight.items():
        torch.testing.assert_close(resumed[name], tensor, rtol=1e-5, atol=1e-6, msg=name)
    logged = [json.loads(line) for line in (tmp_path / "cut" / "log.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in logged] == [1, 2, 3, 4]
    assert logged[-1]["loss"] == log["loss"]
    assert sorted(path.name for path in (tmp_path / "cut").iterdir()) == [CHECKPOINT, "log.jsonl"]


def test_training_moves_the_weights_and_keeps_the_batch_statistics(
    no_download, random_tower, painted, config, tmp_path
):
    log = train(config, painted, tmp_path / "run", steps=2)
    assert {"loss", "mask", "dice", "interior", "presence"} <= set(log)
    assert all(np.isfinite(value) for value in log.values())
    state = torch.load(tmp_path / "run" / CHECKPOINT, weights_only=True)["model"]
    body = {name.removeprefix("encoder.body."): t for name, t in state.items() if name.startswith("encoder.body.")}
    assert not torch.equal(body["conv_stem.weight"], random_tower["conv_stem.weight"])
    statistics = [name for name in body if "running" in name]
    assert statistics
    assert all(torch.equal(body[name], random_tower[name]) for name in statistics)


def test_a_new_run_in_the_same_folder_starts_a_new_log(no_download, painted, config, tmp_path):
    for _ in range(2):
        train(config, painted, tmp_path / "run", steps=1)
    assert len((tmp_path / "run" / "log.jsonl").read_text().splitlines()) == 1


def test_a_draw_follows_from_seed_step_and_index_alone(sampler):
    first, again = sampler.draw(5, 1), sampler.draw(5, 1)
    np.testing.assert_array_equal(first[0], again[0])
    assert [t.phrase for t in first[1]] == [t.phrase for t in again[1]]
    assert all((a.mask == b.mask).all() for a, b in zip(first[1], again[1], strict=True))
    seen = {sampler.draw(step, index)[0].tobytes() for step in range(3) for index in range(3)}
    assert len(seen) == 9
    other = Sampler(sampler.concepts, sampler.sources, sampler.side, sampler.positive_share, seed=4)
    assert other.draw(5, 1)[0].tobytes() != first[0].tobytes()


def test_draws_hold_windows_of_the_asked_size_and_words_of_the_configuration(sampler):
    draws = [sampler.draw(step, 0) for step in range(60)]
    phrases = [truth.phrase for _, truths in draws for truth in truths]
    assert {pixels.shape for pixels, _ in draws} == {(64, 64, 3)}
    assert {len(truths) for _, truths in draws} == {1, 2}
    assert (
        {"disc", "discs", "round thing", "square"}
        <= set(phrases)
        <= {"disc", "discs", "round thing", "square", "never drawn"}
    )
    shares = [truths[0].present for _, truths in draws]
    assert 0.4 < np.mean(shares) < 0.95
    assert any(truth.interior is None for _, truths in draws for truth in truths)


def test_a_perfect_drawing_costs_less_than_a_wrong_one_and_unknown_interiors_cost_nothing():
    mask = np.zeros((8, 8), np.float32)
    mask[2:6, 2:6] = 1
    truths = [Truth("disc", mask, mask, True), Truth("square", 1 - mask, None, False)]
    right = torch.from_numpy(np.stack([mask, 1 - mask]) * 40 - 20)
    presence = torch.tensor([20.0, -20.0])
    perfect, parts = prompt_loss(right, right, presence, truths)
    assert perfect < 0.01
    assert set(parts) == {"mask", "dice", "interior", "presence"}
    assert prompt_loss(-right, right, presence, truths)[0] > perfect + 1
    assert prompt_loss(right, right, -presence, truths)[0] > perfect + 1
    spoilt = right.clone()
    spoilt[1] = -spoilt[1]
    assert prompt_loss(right, spoilt, presence, truths)[0] == perfect
    spoilt[0] = -spoilt[0]
    assert prompt_loss(right, spoilt, presence, truths)[0] > perfect + 1


def test_pixels_are_scaled_as_the_tower_expects():
    pixels = np.array([0, 127.5, 255, 0, 0, 255]).reshape(1, 2, 3).astype(np.uint8)
    tensor = to_tensor(pixels)
    assert tensor.shape == (3, 1, 2)
    torch.testing.assert_close(tensor[:, 0, 0], torch.tensor([-1.0, 127 / 127.5 - 1, 1.0]))
    torch.testing.assert_close(tensor[:, 0, 1], torch.tensor([-1.0, -1.0, 1.0]))


def changed(**sections) -> str:
    return yaml.safe_dump({**CONFIG, **sections})


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("model: {", "cannot be read as YAML"),
        ("", "section 'model' is missing"),
        ("just words", "section 'model' is missing"),
        ("[model, training, concepts]", "section 'model' is missing"),
        (yaml.safe_dump({"model": {}, "training": {}}), "section 'concepts' is missing"),
        (changed(training={**CONFIG["training"], "batch": None}), "training.batch is None"),
        (changed(training={k: v for k, v in CONFIG["training"].items() if k != "seed"}), "training.seed is missing"),
        (changed(training={**CONFIG["training"], "learning_rate": "1e-3"}), "training.learning_rate is '1e-3', not a"),
        (changed(training=[1, 2]), "section 'training' is no mapping"),
        (changed(model={"window": 64}), "model.width is missing"),
        (changed(model={**CONFIG["model"], "colour": 3}), "model.colour is unknown"),
        (changed(concepts={"disc": {"kind": "object"}}), "concepts.disc.synonyms is missing"),
    ],
)
def test_a_configuration_that_cannot_be_used_is_named_with_the_place(painted, tmp_path, content, told):
    path = tmp_path / "broken.yaml"
    path.write_text(content)
    with pytest.raises(InputError, match=told) as caught:
        load_config(path)
    assert "broken.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["nowhere.yaml", "."])
def test_a_missing_configuration_is_an_input_error(tmp_path, name):
    with pytest.raises(InputError, match="cannot be read"):
        load_config(tmp_path / name)


def test_a_configuration_that_is_no_text_is_an_input_error(tmp_path):
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(InputError, match="cannot be read"):
        load_config(tmp_path / "binary.yaml")


def test_data_without_a_picture_of_any_concept_is_an_input_error(no_download, painted, config, tmp_path):
    with pytest.raises(InputError, match="no labelled picture"):
        train(config, painted / "plain", tmp_path / "run")


def test_the_shipped_configuration_is_complete():
    config = load_config(slidekick.grounding.train.DEFAULT_CONFIG)
    assert {"nucleus", "gland"} <= set(config["concepts"])
    assert sum(entry["kind"] == "region" for entry in config["concepts"].values()) >= 2
