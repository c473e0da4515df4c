"""Reinforcement of hub models by the same command: a tiny random Qwen2.5-VL, its tools, rewards and adapter."""

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from PIL import Image
from rewarding import LONG, Drawn
from safetensors.torch import load_file

import slidekick.rl.grpo
import slidekick.rl.grpo_hub
from slidekick.copilot import Copilot
from slidekick.data.errors import InputError
from slidekick.rl.grpo import load_config, train_grpo
from slidekick.rl.grpo_hub import Instruments
from slidekick.rl.tasks import reward_functions

CONFIG = {
    "base": {"dtype": "float32", "processor": {"size": {"shortest_edge": 28 * 28, "longest_edge": 28 * 28 * 4}}},
    "rows": {"count": 6, "seed": 3, "tasks": {"classification": 0.5, "closed_vqa": 0.5}},
    "rewards": "tasks",
    "lora": {"r": 4, "lora_alpha": 8, "target_modules": ".*language_model.*\\.(q_proj|v_proj)"},
    "guards": {},
    "grpo": {
        "max_steps": 2, "num_generations": 2, "per_device_train_batch_size": 4, "max_completion_length": 6,
        "learning_rate": 0.01, "beta": 0.05, "loss_type": "dr_grpo", "logging_steps": 1, "save_steps": 1,
        "disable_tqdm": True, "seed": 3, "bf16": False,
    },
}  # fmt: skip

RUNS = ("whole", "cut")


@pytest.fixture
def config_file(tmp_path, hub_folder, monkeypatch):
    monkeypatch.setattr(slidekick.rl.grpo_hub, "load_segmentor", Drawn)
    monkeypatch.setattr(slidekick.rl.grpo_hub, "rewards_of", lambda *_: (LONG, reward_functions(list(LONG.values()))))

    def write(**changes) -> Path:
        config = {**CONFIG, "base": {**CONFIG["base"], "name": str(hub_folder)}}
        for section, values in changes.items():
            config[section] = {**config[section], **values} if isinstance(values, dict) else values
        path = tmp_path / "run.yaml"
        path.write_text(yaml.safe_dump(config))
        return path

    return write


def test_rewards_are_told_which_tokens_end_an_answer(config_file, labelled, tmp_path, monkeypatch):
    given = []

    def noted(kind, rows, ends=()):
        given.append(ends)
        return LONG, reward_functions(list(LONG.values()), ends)

    monkeypatch.setattr(slidekick.rl.grpo_hub, "rewards_of", noted)
    monkeypatch.setattr(slidekick.rl.grpo_hub.HubTaskTrainer, "train", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train_grpo(config_file(), labelled, tmp_path / "out")
    assert given[0]


def test_two_steps_give_an_adapter_that_loads(config_file, labelled, tmp_path, hub_folder):
    folder = train_grpo(config_file(), labelled, tmp_path / "out")
    log = json.loads((tmp_path / "out" / "log.json").read_text())
    steps = [entry for entry in log if "reward/all" in entry]
    assert [entry["step"] for entry in steps] == [1, 2]
    assert all(0 <= entry["parsed"] <= 1 and "kl" in entry and "distinct" in entry for entry in steps)
    assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == str(hub_folder)
    learnt = load_file(folder / "adapter_model.safetensors")
    assert any(value.any() for name, value in learnt.items() if "lora_B" in name)
    copilot = Copilot.from_pretrained(str(folder), Drawn())
    assert copilot.versions["model"] == "adapter"


def test_a_run_resumed_after_a_checkpoint_ends_like_one_that_never_stopped(config_file, labelled, tmp_path):
    whole = train_grpo(config_file(), labelled, tmp_path / "whole")
    first = tmp_path / "whole" / "checkpoints" / "checkpoint-1"
    shutil.copytree(first, tmp_path / "cut" / "checkpoints" / "checkpoint-1")
    resumed = train_grpo(config_file(), labelled, tmp_path / "cut", resume=True)
    assert sorted(file.name for file in whole.iterdir()) == sorted(file.name for file in resumed.iterdir())
    straight, after = (load_file(one / "adapter_model.safetensors") for one in (whole, resumed))
    assert all(straight[name].equal(after[name]) for name in straight)
    spread = [json.loads((tmp_path / run / "checkpoints/checkpoint-2/record.json").read_text()) for run in RUNS]
    assert spread[0] == spread[1] != json.loads((first / "record.json").read_text())
    ended = train_grpo(config_file(), labelled, tmp_path / "whole", resume=True)  # nothing is left to be learnt
    again = load_file(ended / "adapter_model.safetensors")
    assert all(straight[name].equal(again[name]) for name in straight)


def test_two_processes_of_accelerate_train_one_adapter(hub_folder, labelled, tmp_path):
    config = {**CONFIG, "base": {**CONFIG["base"], "name": str(hub_folder)}}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config | {"grpo": {**CONFIG["grpo"], "max_steps": 1}}))
    # Its launcher of many GPUs is torchrun; where there is none, the trainer stays on the CPU and they talk over gloo.
    launch = ["accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--main_process_port", "0"]
    command = ["slidekick.rl.grpo", "--config", tmp_path / "run.yaml", "--data", labelled, "--out", tmp_path / "out"]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", *launch, "-m", *map(str, command)], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "out" / "adapter" / "adapter_model.safetensors").is_file()
    step = json.loads((tmp_path / "out" / "log.json").read_text())[0]
    assert step["num_tokens"] > 0
    told = json.loads((tmp_path / "out" / "checkpoints" / "checkpoint-1" / "record.json").read_text())["spread"]
    groups = 4  # of two answers each: four answers a process
    assert math.prod(1 - weight for weight, *_ in told.values()) == pytest.approx(0.9**groups)


def test_a_guard_ends_a_run_with_the_last_good_checkpoint(config_file, labelled, tmp_path, capsys):
    guards = {"window": 1, "warmup": 1, "truncated": 1, "parsed": 2.0}
    folder = train_grpo(config_file(guards=guards, grpo={"max_steps": 3}), labelled, tmp_path / "out")
    told = json.loads((tmp_path / "out" / "log.json").read_text())[-1]
    assert told["step"] == 2
    assert told["stopped"].endswith("what is written is checkpoint-1")
    assert told["stopped"] in capsys.readouterr().err
    kept, last = (tmp_path / "out" / "checkpoints" / f"checkpoint-{step}" for step in (1, 2))
    mine, good, bad = (load_file(one / "adapter_model.safetensors") for one in (folder, kept, last))
    assert all(mine[name].equal(good[name]) for name in good)
    assert any(not mine[name].equal(bad[name]) for name in bad)


def test_an_instrument_keeps_its_steps_with_their_masks():
    from transformers.utils import get_json_schema

    from slidekick.copilot.tools import tool_schemas

    Instruments.segmentor = Drawn()
    tools = Instruments()
    tools.reset(images=[Image.new("RGB", (20, 10))], mpp=0.5, task="segmentation")
    said = json.loads(tools.segment("gland"))
    assert said["found"] is True
    assert tools.steps[0].mask.shape == (10, 20)
    assert tools.steps[0].concept == "gland"
    tools.reset(images=[], mpp=None)
    assert tools.steps == []
    assert "error" in json.loads(tools.count("gland"))
    for schema in tool_schemas():
        own = get_json_schema(getattr(tools, schema["function"]["name"]))["function"]
        assert own["description"] == schema["function"]["description"]
        assert own["parameters"] == schema["function"]["parameters"]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"grpo": {"scale_rewards": "group"}}, "grpo.scale_rewards is ours to set"),
        ({"grpo": {"no_such_key": 1}}, "no_such_key"),
        ({"lora": {"no_such_key": 1}}, "no_such_key"),
        ({"start": "/no/such/adapter"}, "holds no adapter"),
        ({"rewards": "praise"}, "rewards is 'praise'"),
        ({"guards": {"kl": "much"}}, "guards.kl is 'much'"),
        ({"rows": {"tasks": {"slide_vqa": 1.0}}}, "shows slides"),
    ],
)
def test_settings_that_cannot_be_used_are_told_in_one_line(config_file, labelled, tmp_path, changes, told):
    with pytest.raises(InputError, match=told) as caught:
        train_grpo(config_file(**changes), labelled, tmp_path / "out")
    assert "\n" not in str(caught.value)


def test_the_shipped_configurations_are_whole():
    folder = Path(slidekick.rl.grpo.__file__).parent / "configs"
    for name in ("grpo.yaml", "qwen2_5_vl_3b_grpo.yaml"):
        assert load_config(folder / name)["rewards"] == "tasks"
