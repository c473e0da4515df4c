"""Training runs of a few steps: resumed ones, fresh ones, those that start from weights; and broken configurations."""

import json

import numpy as np
import pytest
import torch
import yaml

import slidekick.grounding.train
from slidekick.data.errors import InputError
from slidekick.grounding.sizes import PHRASE_WIDTH, SegmentorConfig
from slidekick.grounding.tower import float16_bytes, to_tensor
from slidekick.grounding.train import (
    CHECKPOINT,
    DEFAULT_CONFIG,
    LOG,
    MODEL,
    build,
    load_config,
    phrase_vectors,
    train,
)

SHIPPED = yaml.safe_load(DEFAULT_CONFIG.read_text())
CONFIG = {
    "model": {"window": 64, "width": 32, "heads": 2, "depth": 1, "mlp": 32, "masks": 2},
    "training": {
        **SHIPPED["training"],
        "seed": 3,
        "steps": 4,
        "batch": 2,
        "sides": {64: 0.7, 96: 0.3},
        "learning_rate": 1e-3,
        "encoder_learning_rate": 3e-4,
        "weight_decay": 0.02,
        "warmup": 2,
        "ema": 0.9,
        "positive_share": 0.7,
        "further": {True: 0.9, False: 0.3},
        "objects": 0.4,
        "corrected": 0.5,
        "checkpoint_every": 2,
        "log_every": 1,
        "validate_every": 4,
    },
    "concepts": {
        "nucleus": {"mpp": [0.25, 0.5], "zoom": 1.0, "jitter": [0.8, 1.4], "weight": 2},
        "tumour": {"mpp": [0.25, 0.5], "zoom": 1.0, "jitter": [0.8, 1.4]},
        "stroma": {"mpp": [0.5, 1.0], "zoom": 1.0, "jitter": [0.8, 1.4]},
        "gland": {"mpp": [1.0, 1.0], "zoom": 1.0, "jitter": [1, 1]},  # never there
    },
}


@pytest.fixture(autouse=True)
def small(monkeypatch, encode, no_download):
    """Batches count windows of 64 px, validation looks at eight of them, and words need no MiniLM."""
    monkeypatch.setattr(slidekick.grounding.train, "BASE_SIDE", 64)
    monkeypatch.setattr(slidekick.grounding.train, "VAL_WINDOWS", 8)
    monkeypatch.setattr(slidekick.grounding.train, "encode_phrases", encode)


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(CONFIG))
    return path


def state_of(out) -> dict:
    return torch.load(out / CHECKPOINT, weights_only=True)


def flat(value, name: str = "") -> dict:
    """Every number and tensor of a checkpoint by its place."""
    if isinstance(value, dict):
        return {k: v for key, part in value.items() for k, v in flat(part, f"{name}.{key}").items()}
    if isinstance(value, list | tuple):
        return {k: v for i, part in enumerate(value) for k, v in flat(part, f"{name}.{i}").items()}
    return {name: value}


def test_a_run_resumed_in_the_middle_ends_with_the_numbers_of_one_that_never_stopped(
    monkeypatch, painted, config, tmp_path
):
    train(config, painted, tmp_path / "straight")
    step = slidekick.grounding.train._step

    def power_cut(*arguments):
        if arguments[-1] == 3:
            raise KeyboardInterrupt
        return step(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(slidekick.grounding.train, "_step", power_cut)
        with pytest.raises(KeyboardInterrupt):
            train(config, painted, tmp_path / "cut")
    assert state_of(tmp_path / "cut")["step"] == 2
    with (tmp_path / "cut" / LOG).open("a") as stream:
        stream.write('{"step": 3, "lo')  # cut in the middle of a line
    torch.manual_seed(99)  # what happens in between must not matter
    np.random.seed(99)
    log = train(config, painted, tmp_path / "cut", resume=True)
    straight, resumed = (flat(state_of(tmp_path / name)) for name in ("straight", "cut"))
    assert straight.keys() == resumed.keys()
    assert straight[".step"] == 4
    for name, value in straight.items():
        same = torch.equal(resumed[name], value) if isinstance(value, torch.Tensor) else resumed[name] == value
        assert same, name
    logged = [json.loads(line) for line in (tmp_path / "cut" / LOG).read_text().splitlines()]
    assert [entry["step"] for entry in logged] == [1, 2, 3, 4]
    assert logged[-1]["loss"] == log["loss"]
    assert sorted(path.name for path in (tmp_path / "cut").iterdir()) == [CHECKPOINT, LOG]


def test_training_moves_the_weights_and_keeps_the_batch_statistics(random_tower, painted, config, tmp_path):
    log = train(config, painted, tmp_path / "run", steps=2)
    assert {"loss", "mask", "dice", "interior", "presence", "rate"} <= set(log)
    assert all(np.isfinite(value) for value in log.values())
    state = state_of(tmp_path / "run")["model"]
    body = {name.removeprefix("encoder.body."): t for name, t in state.items() if name.startswith("encoder.body.")}
    assert not torch.equal(body["conv_stem.weight"], random_tower["conv_stem.weight"])
    statistics = [name for name in body if "running" in name]
    assert statistics
    assert all(torch.equal(body[name], random_tower[name]) for name in statistics)


def test_the_averaged_weights_follow_the_trained_ones_and_are_validated(painted, config, tmp_path):
    log = train(config, painted, tmp_path / "run")
    state = state_of(tmp_path / "run")
    name = "mask_decoder.mask_tokens.weight"
    assert not torch.equal(state["model"][name], state["average"][name])
    assert (state["model"][name] - state["average"][name]).abs().max() < 0.01
    assert 0 <= log["val_dice"] <= 1
    assert 0 <= log["val_presence"] <= 1


def test_a_new_run_in_the_same_folder_starts_a_new_log(painted, config, tmp_path):
    for _ in range(2):
        train(config, painted, tmp_path / "run", steps=1)
    assert len((tmp_path / "run" / LOG).read_text().splitlines()) == 1


def test_the_last_step_is_logged_however_few_there_are(painted, tmp_path):
    seldom = {**CONFIG, "training": {**CONFIG["training"], "log_every": 100}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(seldom))
    train(tmp_path / "config.yaml", painted, tmp_path / "run", steps=2)
    assert [json.loads(line)["step"] for line in (tmp_path / "run" / LOG).read_text().splitlines()] == [2]


def test_sets_that_are_kept_apart_are_not_looked_at(painted, config, tmp_path):
    config.write_text(yaml.safe_dump({**CONFIG, "kept_apart": ["gbm40", "kather2016_sample"]}))
    with pytest.raises(InputError, match="no labelled picture of any concept"):
        train(config, painted, tmp_path / "run")


def write_start(folder, **sizes) -> dict:
    """A folder of weights of a model of some size; the tensors that were written."""
    torch.manual_seed(8)
    tensors = build({"model": {**CONFIG["model"], **sizes}}, None).state_dict()
    tensors = {name: t + 1 if t.dtype.is_floating_point else t for name, t in tensors.items()}
    folder.mkdir()
    (folder / MODEL).write_bytes(float16_bytes(tensors))
    return tensors


def test_a_run_starts_from_a_folder_of_weights(tmp_path):
    tensors = write_start(tmp_path / "start")
    for name, tensor in build(CONFIG, tmp_path / "start").state_dict().items():
        assert tensor.dtype in (torch.float32, torch.int64)
        torch.testing.assert_close(tensor, tensors[name].half().float().to(tensor.dtype), msg=name)


def test_of_weights_of_another_size_only_what_fits_is_taken(tmp_path):
    tensors = write_start(tmp_path / "start", width=16)
    torch.manual_seed(5)
    made = build(CONFIG, tmp_path / "start").state_dict()
    name = "encoder.body.conv_stem.weight"
    torch.testing.assert_close(made[name], tensors[name].half().float())
    assert made["mask_decoder.mask_tokens.weight"].shape == (2, 32)


def test_without_a_start_only_the_tower_is_given(random_tower):
    model = build(CONFIG, None)
    torch.testing.assert_close(model.encoder.body.conv_stem.weight.detach(), random_tower["conv_stem.weight"])


def test_a_start_without_weights_is_an_input_error(painted, config, tmp_path):
    config.write_text(yaml.safe_dump({**CONFIG, "start": str(tmp_path / "nowhere")}))
    with pytest.raises(InputError, match=r"nowhere: model\.safetensors is missing; `start` is a folder of weights"):
        train(config, painted, tmp_path / "run")


def test_a_start_whose_weights_are_broken_is_an_input_error(painted, config, tmp_path):
    write_start(tmp_path / "start")
    whole = (tmp_path / "start" / MODEL).read_bytes()
    config.write_text(yaml.safe_dump({**CONFIG, "start": str(tmp_path / "start")}))
    for content in (whole[:2000], b"", b"no tensors here, only text"):
        (tmp_path / "start" / MODEL).write_bytes(content)
        with pytest.raises(InputError, match=r"start: model\.safetensors"):
            train(config, painted, tmp_path / "run")


def test_every_word_has_a_vector_and_no_words_have_zeros(config):
    concepts = load_config(config)["concepts"]
    vectors = phrase_vectors(concepts)
    words = {word for name, entry in concepts.items() for word in (name, *entry["synonyms"])}
    assert set(vectors) == {None, *words}
    assert "nuclei" in words
    assert not vectors[None].any()
    assert {row.shape for row in vectors.values()} == {(PHRASE_WIDTH,)}


def test_a_concepts_name_kind_and_synonyms_come_from_the_hierarchy(config):
    concepts = load_config(config)["concepts"]
    assert concepts["nucleus"] | {"synonyms": ()} == {
        **CONFIG["concepts"]["nucleus"], "kind": "object", "level": "cell", "parents": (), "synonyms": (),
    }  # fmt: skip
    assert "tumor" in concepts["tumour"]["synonyms"]
    assert concepts["tumour"]["kind"] == "region"


def test_pixels_are_scaled_as_the_tower_expects():
    pixels = np.array([0, 127.5, 255, 0, 0, 255]).reshape(1, 2, 3).astype(np.uint8)
    tensor = to_tensor(pixels)
    assert tensor.shape == (3, 1, 2)
    torch.testing.assert_close(tensor[:, 0, 0], torch.tensor([-1.0, 127 / 127.5 - 1, 1.0]))
    torch.testing.assert_close(tensor[:, 0, 1], torch.tensor([-1.0, -1.0, 1.0]))


def changed(**sections) -> str:
    return yaml.safe_dump({**CONFIG, **sections})


def planned(**numbers) -> str:
    return changed(training={**CONFIG["training"], **numbers})


def without(section: str, key: str) -> str:
    return changed(**{section: {k: v for k, v in CONFIG[section].items() if k != key}})


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("model: {", "cannot be read as YAML"),
        ("", "section 'model' is missing"),
        ("just words", "section 'model' is missing"),
        ("[model, training, concepts]", "section 'model' is missing"),
        (yaml.safe_dump({"model": {}, "training": {}}), "section 'concepts' is missing"),
        (planned(batch=None), "training.batch is None"),
        (without("training", "seed"), "training.seed is missing"),
        (without("training", "corrected"), "training.corrected is missing"),
        (without("training", "sides"), "training.sides is no mapping"),
        (without("training", "objects"), "training.objects"),
        (planned(learning_rate="1e-3"), "training.learning_rate is '1e-3', not a"),
        (planned(sides=[64, 96]), "training.sides is no mapping"),
        (planned(further=0.5), "training.further is no mapping"),
        (planned(sides={64: 0.7, 96: 0.1}), "training.sides"),
        (planned(objects="half"), "training.objects"),
        (changed(training=[1, 2]), "section 'training' is no mapping"),
        (changed(concepts=["nucleus"]), "section 'concepts' is no mapping"),
        (changed(model={"window": 64}), "model.width is missing"),
        (changed(model={**CONFIG["model"], "colour": 3}), "model.colour is unknown"),
        (changed(model={**CONFIG["model"], "encoder": "vit_b"}), "model.encoder"),
        (changed(concepts={"nucleus": {"zoom": 1}}), "concepts.nucleus.mpp is missing"),
        (changed(concepts={"nucleus": None}), "concepts.nucleus.mpp is missing"),
        (changed(concepts={"nucleus": 5}), "concepts.nucleus"),
        (changed(concepts={"disc": CONFIG["concepts"]["nucleus"]}), "concepts.disc is no term of data/ontology.yaml"),
    ],
)
def test_a_configuration_that_cannot_be_used_is_named_with_the_place(tmp_path, content, told):
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


def test_data_without_a_picture_of_any_concept_is_an_input_error(painted, config, tmp_path):
    config.write_text(changed(concepts={"gland": CONFIG["concepts"]["gland"]}))
    with pytest.raises(InputError, match="no labelled picture of any concept"):
        train(config, painted, tmp_path / "run")


def test_the_shipped_configuration_is_complete():
    config = load_config(DEFAULT_CONFIG)
    assert {"nucleus", "gland"} <= set(config["concepts"])
    assert sum(entry["kind"] == "region" for entry in config["concepts"].values()) >= 2
    assert SegmentorConfig(**config["model"]).knows_words
    plan = config["training"]
    assert 0 < plan["objects"] < 1
    assert sum(plan["sides"].values()) == pytest.approx(1)
    assert all(side % 32 == 0 for side in plan["sides"])
    for name, entry in config["concepts"].items():
        (fine, coarse), (low, high) = entry["mpp"], entry["jitter"]
        assert 0 < fine <= coarse, name
        assert low <= entry["zoom"] <= high, name
