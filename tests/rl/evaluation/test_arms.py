"""The four arms on the small mini: each asked the same, the mixture held against the others, the router drawn."""

import io
import json

import pytest
import torch
from PIL import Image

from slidekick.copilot.experts import ExpertPlan, Experts
from slidekick.copilot.torch_engine import TorchEngine
from slidekick.data.errors import InputError
from slidekick.rl.evaluation import arms, specialisation, yardsticks
from slidekick.rl.evaluation.arms import CLASSIFIER, Arms, side_by_side
from slidekick.rl.evaluation.run import Plan
from slidekick.rl.instructions import FAMILIES

TARGETS = r".*language_model.*\.(q_proj|v_proj|down_proj)"


@pytest.fixture
def folders(make_model, tmp_path):
    """A mixture of two, one LoRA of equal size, and X-LoRA's classifier over the mixture, all random."""
    from safetensors.torch import save_file

    for name, names, rank in (("mixture", ("first", "second"), 2), ("lora", ("one",), 4)):
        torch.manual_seed(len(name))
        model = make_model()
        width = model.get_input_embeddings().embedding_dim
        made = Experts(model, ExpertPlan(names, rank, 8, TARGETS, 2, 8), width, width)
        for parameter in made.trainable():
            parameter.data.normal_(std=0.5)
        made.save(tmp_path / name, "mini")
    state = {"layers.0.weight": torch.randn(2, 32), "layers.0.bias": torch.randn(2)}
    (tmp_path / "xlora").mkdir()
    save_file(state, tmp_path / "xlora" / CLASSIFIER)
    return tmp_path


@pytest.fixture
def ready(monkeypatch, make_model, processor):
    """Arms load the small mini in place of the real one; the yardsticks run no tower."""
    monkeypatch.setattr(arms, "load_generalist", lambda name: (make_model(), processor))
    monkeypatch.setattr(yardsticks, "Features", lambda copilot: None)
    monkeypatch.setattr(
        yardsticks,
        "guesses",
        lambda features, train, held: {
            name: ["healthy gland"] * len(held) for name in ("linear_probe", "finetuned_head", "commonest")
        },
    )


def test_every_arm_is_asked_the_same_and_the_mixture_is_held_against_each(ready, folders, labelled, tmp_path):
    made = Arms("mini", folders / "mixture", folders / "lora", folders / "xlora")
    out = tmp_path / "out"
    result = side_by_side(made, Plan("classify", labelled, sets=("glas", "gbm40")), out)
    assert list(result["arms"]) == ["none", "lora", "xlora", "experts"]
    assert list(result["less"]) == ["none", "lora", "xlora"]
    rows = {arm: [json.loads(line) for line in (out / arm / "samples.jsonl").open()] for arm in result["arms"]}
    assert len({tuple(row["id"] for row in of_arm) for of_arm in rows.values()}) == 1
    logits = {arm: str([row["logits"] for row in of_arm]) for arm, of_arm in rows.items()}
    assert len(set(logits.values())) == 4, "every arm is a model of its own"
    for arm, less in result["less"].items():
        ours, theirs = (result["arms"][name]["balanced_accuracy_mean"] for name in ("experts", arm))
        assert less["balanced_accuracy_mean"] == pytest.approx(ours - theirs, abs=1e-3)


def test_folders_without_what_an_arm_needs_are_told_before_a_model_is_loaded(folders, labelled, tmp_path):
    plan = Plan("classify", labelled)
    for arm, needed in (("experts", "experts.json"), ("lora", "experts.json"), ("xlora", CLASSIFIER)):
        made = Arms("mini", **{"experts": folders / "mixture"} | {arm: tmp_path})
        with pytest.raises(InputError, match=f"no {needed} in it; give what `slidekick train"):
            side_by_side(made, plan, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_arms_that_are_not_given_are_left_out(ready, folders):
    assert [name for name, _ in Arms("mini", folders / "mixture").copilots(None)] == ["none", "experts"]


def test_the_weights_of_experts_are_told_by_family_and_set_and_drawn(ready, folders, rich):
    mixture = Arms("mini", folders / "mixture").copilot("experts")
    weights = specialisation.expert_weights(mixture.engine, rich, "train")
    assert set(weights["family"]) <= set(FAMILIES)
    assert sum(row["n"] for row in weights["family"].values()) == specialisation.QUESTIONS
    for row in (*weights["family"].values(), *weights["set"].values()):
        assert row["first"] + row["second"] == pytest.approx(1, abs=1e-3)
    picture = Image.open(io.BytesIO(specialisation.heat_map(weights)))
    assert picture.width > picture.height / 4 > 50


def test_a_model_without_experts_is_told(make_model, processor, rich):
    with pytest.raises(InputError, match="has no experts"):
        specialisation.expert_weights(TorchEngine(make_model(), processor, "bare"), rich)
