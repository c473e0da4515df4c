"""Models of the hub by the same command: prompts as at inference, loss on the assistant's words, adapters that load."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from slidekick.copilot import Copilot
from slidekick.copilot.hub import Base, load_hub
from slidekick.copilot.tools import tool_schemas
from slidekick.copilot.torch_engine import TorchEngine
from slidekick.data.errors import InputError
from slidekick.data.slide import read_roi
from slidekick.rl import sft
from slidekick.rl.instructions import make_instructions
from slidekick.rl.instructions.turns import Call, called, conversation, said
from slidekick.rl.sft import load_config, train_sft
from slidekick.rl.sft_hub import ConversationCollator, row_of

CONFIG = {
    "base": {"dtype": "float32", "processor": {"size": {"shortest_edge": 28 * 28, "longest_edge": 28 * 28 * 4}}},
    "instructions": {"count": 8, "seed": 7, "shares": {"compare": 0.3}},
    "lora": {
        "r": 4,
        "lora_alpha": 8,
        "target_modules": ".*language_model.*\\.(q_proj|v_proj|down_proj)",
        "modules_to_save": ["visual.merger"],
    },
    "sft": {
        "max_steps": 2,
        "per_device_train_batch_size": 2,
        "learning_rate": 0.05,
        "train_sampling_strategy": "group_by_length",
        "activation_checkpointing": True,
        "logging_steps": 1,
        "save_steps": 1,
        "disable_tqdm": True,
        "seed": 7,
    },
}


@pytest.fixture(scope="module")
def collator(hub_folder) -> ConversationCollator:
    return ConversationCollator(load_hub(Base(str(hub_folder)))[1], tool_schemas())


@pytest.fixture
def picture(tmp_path) -> Path:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)).save(tmp_path / "tile.png")
    return tmp_path / "tile.png"


@pytest.fixture
def lesson(picture):
    exchange = called("How many nuclei?", [Call("count", "nucleus", {"found": True, "count": 3})], "There are 3.")
    return conversation("count", "glas", [picture], exchange, said("And what is it?", "A gland."))


def config_file(folder: Path, name: Path, **changes) -> Path:
    config = {**CONFIG, "base": {**CONFIG["base"], "name": str(name)}}
    for section, values in changes.items():
        config[section] = {**config[section], **values}
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def test_only_what_the_assistant_says_is_learnt_turn_by_turn(collator, lesson, picture):
    text = conversation("vqa", "pathvqa", [], said("Is it blue?", "No."))
    batch = collator([row_of(lesson, collator), row_of(text, collator)])
    ids, labels = batch["input_ids"], batch["labels"]
    decode = collator.tokenizer.decode
    whole = decode(ids[0])
    call = '<tool_call>\n{"name": "count", "arguments": {"concept": "nucleus"}}\n</tool_call><|im_end|>'
    hand_made, at = [], 0
    for turn in (call, "There are 3.<|im_end|>", "A gland.<|im_end|>"):
        start = whole.index("<|im_start|>assistant\n" + turn, at) + len("<|im_start|>assistant\n")
        at = start + len(turn)
        hand_made += range(start, at)
    places = np.cumsum([0] + [len(decode([token])) for token in ids[0].tolist()])
    wanted = torch.tensor([int(place) in hand_made for place in places[:-1]])
    assert torch.equal(labels[0] != -100, wanted)
    assert torch.equal(labels[0][wanted], ids[0][wanted])
    assert decode(labels[1][labels[1] != -100]) == "No.<|im_end|>"
    assert not (labels[batch["attention_mask"] == 0] != -100).any()


def test_the_loss_is_the_mean_over_those_tokens_and_no_others(collator, lesson, hub_folder):
    model, _ = load_hub(Base(str(hub_folder)))
    batch = collator([row_of(lesson, collator)])
    with torch.inference_mode():
        loss = model(**batch).loss
        logs = model(**{key: value for key, value in batch.items() if key != "labels"}).logits.log_softmax(-1)
    answered = [(place, int(token)) for place, token in enumerate(batch["labels"][0]) if token != -100]
    by_hand = -sum(logs[0, place - 1, token] for place, token in answered) / len(answered)
    torch.testing.assert_close(loss, by_hand)


def test_the_templates_marks_and_prefixes_tell_the_same(processor, items):
    collator = ConversationCollator(processor, tool_schemas())
    assert collator.marked
    for one in make_instructions(items, 25, seed=3):
        marks, prefixes = collator._by_marks(one.messages), collator._by_prefixes(one.messages)
        assert marks == prefixes
        assert any(marks[1])


def test_a_training_prompt_is_the_prompt_of_inference_token_by_token(collator, lesson, picture, hub_folder):
    model, processor = load_hub(Base(str(hub_folder)))
    engine, pixels = TorchEngine(model, processor), np.array(Image.open(picture))
    batch = collator([row_of(lesson, collator)])
    ids, learnt = batch["input_ids"][0].tolist(), batch["labels"][0] != -100
    starts = [place for place in range(1, len(ids)) if learnt[place] and not learnt[place - 1]]
    turns = [place for place, message in enumerate(lesson.messages) if message["role"] == "assistant"]
    assert len(starts) == len(turns) == 3
    for start, turn in zip(starts, turns, strict=True):
        prompt = engine.encode(lesson.messages[:turn], pixels, tool_schemas())
        assert prompt["input_ids"][0].tolist() == ids[:start]
    assert torch.equal(prompt["pixel_values"], batch["pixel_values"])


def test_what_people_typed_is_encoded_as_at_inference(collator, picture, hub_folder):
    typed = "why <|im_end|> <|image_pad|> <tool_call>?"
    one = conversation("vqa", "pathvqa", [picture], said(typed, "So <|im_end|> it is."))
    batch = collator([row_of(one, collator)])
    engine = TorchEngine(*load_hub(Base(str(hub_folder))))
    prompt = engine.encode(one.messages[:1], np.array(Image.open(picture)), tool_schemas())["input_ids"][0]
    ids, learnt = batch["input_ids"][0], batch["labels"][0] != -100
    assert torch.equal(ids[: len(prompt)], prompt)
    assert collator.tokenizer.decode(ids[learnt]) == "So <|im_end|> it is.<|im_end|>"
    assert (ids[learnt] == collator.tokenizer.eos_token_id).sum() == 1


def test_a_template_that_turns_earlier_turns_round_is_refused(collator, lesson):
    backwards = ConversationCollator(collator.processor, ())
    backwards.template = (
        "{% for m in messages[::-1] %}{{ m.role }}{% endfor %}{% if add_generation_prompt %}!{% endif %}"
    )
    with pytest.raises(InputError, match="renders a turn anew"):
        backwards._by_prefixes(lesson.messages)


@pytest.fixture(scope="module")
def trained(hub_folder, labelled, tmp_path_factory) -> Path:
    """A run of two steps by the command line."""
    from slidekick.apps.cli import main

    root = tmp_path_factory.mktemp("hub-run")
    path = config_file(root, hub_folder)
    assert main(["train", "sft", str(path), "--data", str(labelled), "--out", str(root / "out"), "--json"]) == 0
    return root / "out"


def test_a_run_gives_an_adapter_with_its_card_and_no_pickle(trained, hub_folder):
    folder = trained / "adapter"
    names = {path.name for path in folder.iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "README.md", "processor_config.json"} <= names
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pkl"))]
    assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == str(hub_folder)
    card = (folder / "README.md").read_text()
    for told in ("Research use only", "see base", "8 conversations", "2 steps", f"base_model: {hub_folder}"):
        assert told in card
    assert yaml.safe_load(card.split("---")[1])["library_name"] == "peft"
    steps = [entry["step"] for entry in json.loads((trained / "log.json").read_text()) if "loss" in entry]
    assert steps == [1, 2]


class NoSegmentor:
    """Finds nothing, since no question here needs it."""

    def segment(self, image, concepts, *, mpp=None):
        raise AssertionError(concepts)


def test_the_adapter_loads_as_a_copilot_that_says_what_the_trained_model_says(trained, hub_folder, labelled, items):
    from peft import PeftModel

    copilot = Copilot.from_pretrained(str(trained / "adapter"), NoSegmentor())
    assert copilot.versions["model"] == "adapter"
    base, processor = load_hub(Base(str(hub_folder), processor=CONFIG["base"]["processor"]))
    untrained, _ = load_hub(Base(str(hub_folder)))
    adapted = PeftModel.from_pretrained(base, str(trained / "adapter"))
    one = next(one for one in make_instructions(items, 20, seed=1) if len(one.images) == 1)
    pixels = np.array(Image.open(one.images[0]))
    prompts = [TorchEngine(m, processor).encode(one.messages[:1], pixels, tool_schemas()) for m in (base, untrained)]
    loaded = copilot.engine.encode(one.messages[:1], pixels, tool_schemas())
    assert loaded["pixel_values"].shape == prompts[0]["pixel_values"].shape  # the adapter's own processor
    with torch.inference_mode():
        mine, theirs = copilot.engine.model(**loaded).logits.cpu(), adapted(**prompts[0]).logits
        before = untrained(**prompts[1]).logits
    torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(mine, before, atol=1e-2)
    copilot.engine.max_new_tokens = 8
    roi = read_roi(one.images[0])
    *_, mine = copilot.engine.turn(one.messages[:1], roi.pixels, tool_schemas(), calls=False)
    *_, theirs = TorchEngine(adapted.merge_and_unload(), processor, max_new_tokens=8).turn(
        one.messages[:1], roi.pixels, tool_schemas(), calls=False
    )
    assert mine.text == theirs.text


def test_a_run_resumed_after_a_checkpoint_ends_like_one_that_never_stopped(trained, hub_folder, labelled, tmp_path):
    import shutil

    from safetensors.torch import load_file

    out = tmp_path / "out"
    shutil.copytree(trained / "checkpoints" / "checkpoint-1", out / "checkpoints" / "checkpoint-1")
    folder = train_sft(config_file(tmp_path, hub_folder), labelled, out, resume=True)
    steps = [entry["step"] for entry in json.loads((out / "log.json").read_text()) if "loss" in entry]
    assert steps == [1, 2]  # the first is the checkpoint's own record
    straight, resumed = (load_file(f / "adapter_model.safetensors") for f in (trained / "adapter", folder))
    assert straight.keys() == resumed.keys()
    for name, tensor in straight.items():
        torch.testing.assert_close(resumed[name], tensor, rtol=1e-4, atol=1e-4, msg=name)


def test_a_run_that_had_ended_learns_nothing_more_when_it_is_resumed(trained, hub_folder, labelled, tmp_path):
    import shutil

    shutil.copytree(trained, out := tmp_path / "out")
    folder = train_sft(config_file(tmp_path, hub_folder), labelled, out, resume=True)
    before, after = ((one / "adapter_model.safetensors").read_bytes() for one in (trained / "adapter", folder))
    assert before == after
    assert [entry["step"] for entry in json.loads((out / "log.json").read_text()) if "loss" in entry] == [1, 2]
    assert {path.name for path in (out / "checkpoints").glob("checkpoint-*")} == {"checkpoint-1", "checkpoint-2"}


def test_qlora_trains_over_a_base_of_four_bits(hub_folder, labelled, tmp_path, monkeypatch):
    pytest.importorskip("bitsandbytes", reason="the extra `train` brings it")
    import slidekick.rl.sft_hub

    loaded, load = [], load_hub
    monkeypatch.setattr(slidekick.rl.sft_hub, "load_hub", lambda *a, **k: loaded.append(load(*a, **k)) or loaded[0])
    base = {"quantization": "nf4", "unquantized": ["model.visual", "lm_head"], "dtype": "bfloat16"}
    folder = train_sft(config_file(tmp_path, hub_folder, base=base), labelled, tmp_path / "out")
    kinds = {name: type(module).__name__ for name, module in loaded[0][0].named_modules()}
    packed = [name for name, kind in kinds.items() if kind == "Linear4bit"]
    assert packed
    assert all("language_model" in name for name in packed)
    losses = [entry["loss"] for entry in json.loads((tmp_path / "out" / "log.json").read_text()) if "loss" in entry]
    assert len(losses) == 2
    assert np.isfinite(losses).all()
    assert "nf4" in (folder / "README.md").read_text()
    copilot = Copilot.from_pretrained(str(folder), NoSegmentor())
    assert not any("lora" in name for name, _ in copilot.engine.model.named_parameters())


def test_two_processes_of_accelerate_train_one_adapter(hub_folder, labelled, tmp_path):
    path = config_file(tmp_path, hub_folder, sft={"max_steps": 1})
    # Its launcher of many GPUs is torchrun; where there is none, the trainer stays on the CPU and they talk over gloo.
    launch = ["accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--main_process_port", "0"]
    command = ["-m", "slidekick.rl.sft", "--config", path, "--data", labelled, "--out", tmp_path / "out"]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", *launch, *map(str, command)], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "out" / "adapter" / "adapter_model.safetensors").is_file()
    checkpoint = tmp_path / "out" / "checkpoints" / "checkpoint-1"
    assert {file.name for file in checkpoint.glob("rng_state*")} == {"rng_state_0.pth", "rng_state_1.pth"}  # of both


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"sft": {"packing": True}}, "sft.packing is not for rows with pictures"),
        ({"sft": {"max_length": 512}}, "sft.max_length is not for rows with pictures"),
        ({"sft": {"no_such_key": 1}}, "no_such_key"),
        ({"lora": {"no_such_key": 1}}, "no_such_key"),
        ({"lora": {"target_modules": "nothing_like_it", "modules_to_save": None}}, "nothing_like_it"),
        ({"base": {"name": "/no/such/folder"}}, "/no/such/folder: no image-text-to-text model"),
    ],
)
def test_settings_that_cannot_be_used_are_told_in_one_line(hub_folder, labelled, tmp_path, changes, told):
    with pytest.raises(InputError, match=told) as caught:
        train_sft(config_file(tmp_path, hub_folder, **changes), labelled, tmp_path / "out")
    assert "\n" not in str(caught.value)


def test_sections_of_a_hub_run_are_asked_for_and_the_shipped_ones_are_whole(hub_folder, tmp_path):
    path = config_file(tmp_path, hub_folder)
    path.write_text(yaml.safe_dump({"base": {"name": "x"}, "instructions": {}, "lora": {}}))
    with pytest.raises(InputError, match=r"section 'sft' is missing; see rl/configs/qwen2_5_vl_3b.yaml"):
        load_config(path)
    shipped = Path(sft.__file__).parent / "configs"
    config = load_config(shipped / "qwen2_5_vl_3b.yaml")
    base = Base.read(config["base"], path)
    assert base.name == "Qwen/Qwen2.5-VL-3B-Instruct"
    from accelerate.commands.config import load_config_from_file

    sharded = load_config_from_file(str(shipped / "fsdp_8gpu.yaml"))
    assert (sharded.num_processes, sharded.fsdp_config["fsdp_version"]) == (8, 2)


def test_the_launched_module_tells_mistakes_in_one_line(tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").write_text("a run")
    arguments = ["--config", tmp_path / "no.yaml", "--data", tmp_path, "--out", tmp_path / "out"]
    assert sft.main([str(one) for one in arguments]) == 2
    assert "not empty" in capsys.readouterr().err
    assert sft.main([*map(str, arguments), "--resume"]) == 2
    assert "no.yaml: cannot be read" in capsys.readouterr().err
