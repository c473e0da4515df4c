"""PEFT's X-LoRA over our experts on the small mini: only its classifier learns, and what it says needs no cache."""

import numpy as np
import pytest
import torch
import yaml

import slidekick.rl.mixture
import slidekick.rl.xlora
from slidekick.copilot.experts import ExpertPlan, Experts, load_experts
from slidekick.copilot.tools import tool_schemas
from slidekick.copilot.torch_engine import TorchEngine
from slidekick.data.errors import InputError
from slidekick.rl.xlora import UncachedEngine, load_xlora, put_xlora, train_xlora

ASKED = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is this?"}]}]
OPTIONS = ["healthy gland", "no", "a picture of necrosis"]


@pytest.fixture
def experts(make_model, tmp_path):
    """A folder of two random experts."""
    torch.manual_seed(3)
    plan = ExpertPlan(("first", "second"), 2, 8, r".*language_model.*\.(q_proj|v_proj|down_proj)", 2, 8)
    model = make_model()
    width = model.get_input_embeddings().embedding_dim
    made = Experts(model, plan, width, width)
    for parameter in made.trainable():
        parameter.data.normal_(std=0.3)
    made.save(tmp_path / "experts", "mini")
    return tmp_path / "experts"


def options_of(engine, pixels):
    return engine.options(ASKED, pixels, tool_schemas(), OPTIONS)


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)


def test_only_the_classifier_learns_and_a_reloaded_one_says_the_same(
    monkeypatch, make_model, processor, rich, experts, pixels, tmp_path
):
    monkeypatch.setattr(slidekick.rl.xlora, "load_mini", lambda folder: (make_model(), processor))
    kept = {}
    monkeypatch.setattr(slidekick.rl.xlora, "put_xlora", lambda *args: kept.setdefault("model", put_xlora(*args)))
    sft = {
        "num_train_epochs": 1, "per_device_train_batch_size": 2, "learning_rate": 0.5, "warmup_steps": 0,
        "save_steps": 9, "logging_steps": 1, "disable_tqdm": True, "seed": 7,
    }  # fmt: skip
    config = {"views": 2, "instructions": {"count": 8, "seed": 7}, "sft": sft}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config))
    folder = train_xlora(tmp_path / "c.yaml", rich, tmp_path / "out", experts)
    monkeypatch.undo()
    trained, untrained = kept["model"], put_xlora(make_model(), experts)
    for (name, new), (_, old) in zip(trained.named_parameters(), untrained.named_parameters(), strict=True):
        changed = "internal_xlora_classifier" in name
        assert changed != torch.equal(new, old), name
    reloaded = load_xlora(make_model(), experts, folder)
    said = options_of(UncachedEngine(reloaded, processor), pixels)
    np.testing.assert_allclose(said, options_of(UncachedEngine(trained.eval(), processor), pixels), atol=0.02)
    assert not np.allclose(said, options_of(UncachedEngine(untrained.eval(), processor), pixels), atol=0.02)


def test_a_section_that_is_missing_is_told_with_the_configuration_that_is_right(tmp_path):
    (tmp_path / "c.yaml").write_text("views: 2")
    with pytest.raises(InputError, match=r"section 'instructions' is missing; see rl/configs/xlora.yaml"):
        train_xlora(tmp_path / "c.yaml", tmp_path, tmp_path / "out", tmp_path)


def test_options_without_a_cache_are_those_with_one(make_model, processor, experts, pixels):
    for mixed in (None, experts):
        model = make_model().eval()
        own = load_experts(model, mixed) if mixed else None
        cached = options_of(TorchEngine(model, processor, experts=own), pixels)
        if mixed is None:
            np.testing.assert_allclose(options_of(UncachedEngine(model, processor), pixels), cached, atol=1e-4)
        else:
            assert not np.allclose(cached, options_of(UncachedEngine(make_model(), processor), pixels), atol=1e-3)


def test_experts_with_equal_weights_are_what_an_undecided_classifier_says(make_model, processor, experts, pixels):
    mixed = put_xlora(make_model(), experts).eval()
    for parameter in mixed.base_model.internal_xlora_classifier.parameters():
        parameter.data.zero_()  # half for each of two experts
    model = make_model().eval()
    own = load_experts(model, experts)
    engine = UncachedEngine(model, processor)
    with own.speaking(torch.full((len(OPTIONS), 2), 0.5)):
        expected = options_of(engine, pixels)
    np.testing.assert_allclose(options_of(UncachedEngine(mixed, processor), pixels), expected, atol=1e-3)


def test_folders_that_hold_no_experts_and_no_classifier_are_told(make_model, experts, tmp_path):
    with pytest.raises(InputError, match="no experts; give the folder"):
        put_xlora(make_model(), tmp_path / "none")
    with pytest.raises(InputError, match="no X-LoRA for these experts"):
        load_xlora(make_model(), experts, tmp_path / "none")
