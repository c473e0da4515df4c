"""The mixture on a model of the hub's kind: what learns, what is written, and that the router reads the same in use."""

import json

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from slidekick.copilot.experts import load_experts, picture_means
from slidekick.copilot.mini import load_generalist
from slidekick.copilot.tools import tool_schemas
from slidekick.copilot.torch_engine import TorchEngine
from slidekick.rl.instructions import make_instructions
from slidekick.rl.mixture import MixtureTrainer, train_experts
from slidekick.rl.mixture_hub import RoutedConversations
from slidekick.rl.sft_hub import row_of

CONFIG = {
    "experts": {
        "names": ["first", "second", "third"], "rank": 2, "alpha": 4, "top": 2, "hidden": 8,
        "targets": r".*language_model.*\.(q_proj|v_proj|down_proj)",
    },
    "losses": {"balance": 0.02, "z": 0.001},
    "router_rate": 10,
    "instructions": {"count": 8, "seed": 7, "shares": {"compare": 0.3}},
    "sft": {
        "max_steps": 2, "per_device_train_batch_size": 2, "learning_rate": 0.05, "activation_checkpointing": True,
        "logging_steps": 1, "save_steps": 1, "disable_tqdm": True, "seed": 7,
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def trained(hub_folder, rich, tmp_path_factory):
    """The folder of experts that the command's function wrote."""
    root = tmp_path_factory.mktemp("mixture")
    (root / "config.yaml").write_text(yaml.safe_dump(CONFIG | {"start": str(hub_folder)}))
    return train_experts(root / "config.yaml", rich, root / "out")


def test_experts_of_a_hub_model_learn_and_answer_with_their_gates(trained, hub_folder):
    assert {path.name for path in trained.iterdir()} == {
        "first",
        "second",
        "third",
        "router.safetensors",
        "experts.json",
    }
    log = json.loads((trained.parent / "log.json").read_text())
    assert [entry["step"] for entry in log if "loss" in entry] == [1, 2]
    model, processor = load_generalist(str(hub_folder))
    plain = {name: value.clone() for name, value in model.state_dict().items()}
    experts = load_experts(model, trained)
    kept = {name.replace(".base.", "."): value for name, value in model.state_dict().items()}
    assert all(torch.equal(kept[name], value) for name, value in plain.items())
    learnt = [any(v.any() for k, v in experts.expert_state(n).items() if "lora_B" in k) for n in experts.plan.names]
    assert any(learnt)
    engine = TorchEngine(model, processor, max_new_tokens=4, experts=experts)
    asked = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is this?"}]}]
    *_, turn = engine.turn(asked, np.full((60, 80, 3), 90, np.uint8), tool_schemas())
    assert sum(turn.gates.values()) == pytest.approx(1, abs=1e-3)
    adapter = json.loads((trained / "first" / "adapter_config.json").read_text())
    assert adapter["base_model_name_or_path"] == str(hub_folder)


def test_experts_that_were_taught_to_the_end_learn_nothing_more_when_resumed(trained, rich, tmp_path):
    import shutil

    shutil.copytree(trained.parent, out := tmp_path / "out")
    again = train_experts(trained.parent.parent / "config.yaml", rich, out, resume=True)
    for file in trained.rglob("*.safetensors"):
        assert (again / file.relative_to(trained)).read_bytes() == file.read_bytes(), file.name


def test_experts_speak_in_a_model_of_16_bits(trained, hub_folder):
    model, processor = load_generalist(str(hub_folder))
    engine = TorchEngine(model.bfloat16(), processor, max_new_tokens=4, experts=load_experts(model, trained))
    asked = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is this?"}]}]
    *_, turn = engine.turn(asked, np.full((60, 80, 3), 90, np.uint8), tool_schemas())
    assert sum(turn.gates.values()) == pytest.approx(1, abs=1e-2)


def test_the_router_reads_in_training_what_it_reads_in_use(trained, hub_folder, items):
    model, processor = load_generalist(str(hub_folder))
    experts = load_experts(model, trained)
    engine = TorchEngine(model, processor, experts=experts)
    made = [one for one in make_instructions(items, 40, 3) if len(one.images) == 1 and len(one.messages) == 2][:3]
    collator = RoutedConversations(processor, tool_schemas())
    batch = collator([row_of(one, collator) for one in made])
    batch.pop("labels")
    trainer = MixtureTrainer.__new__(MixtureTrainer)
    trainer.experts, trainer.losses = experts, CONFIG["losses"]
    with torch.inference_mode():
        gates, aside = trainer.routed(model, picture_means(model, batch), batch)
    assert aside > 0
    assert not {"question", "counted", "shown"} & set(batch)
    for row, one in zip(gates, made, strict=True):
        pixels = np.array(Image.open(one.images[0]).convert("RGB"))
        inputs = engine.encode(one.messages[:1], pixels, tool_schemas())
        with torch.inference_mode():
            used, _ = experts.route(picture_means(model, inputs), engine.pooled_question(one.messages[:1]))
        torch.testing.assert_close(row, used[0], atol=1e-4, rtol=1e-3)
