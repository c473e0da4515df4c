"""Reinforcement fine-tuning of any image-text-to-text model of the hub: LoRA or QLoRA through trl's GRPOTrainer.

`train_grpo` comes here when its YAML has a section `base` (rl/configs/qwen2_5_vl_3b_grpo.yaml). trl generates (with
vLLM where the YAML says so), runs the tools of an `Instruments` a rollout, and computes loss and KL; rewards are the
task families' and advantages are scaled by task, as for mini. Which questions come next is not steered here: processes
would have to agree on it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from trl import GRPOTrainer

from slidekick.copilot.base import RESPONSE_TEMPLATE
from slidekick.copilot.hub import ADAPTER_CONFIG, Base, load_hub
from slidekick.copilot.tools import Toolbox
from slidekick.copilot.torch_engine import end_tokens
from slidekick.data.errors import InputError, first_line
from slidekick.data.files import write_atomic
from slidekick.data.slide import Region, Roi
from slidekick.rl.curriculum import Spread
from slidekick.rl.grpo import check_reporters, load_segmentor, rewards_of
from slidekick.rl.guards import GuardCallback, Guards
from slidekick.rl.resuming import CHECKPOINTS, go_through
from slidekick.rl.sft import ADAPTER, lora_config
from slidekick.rl.sft_hub import name_base, placement
from slidekick.rl.tasks import Row, ToolStep

RECORD = "record.json"  # of a checkpoint, beside what trainers keep
FOREIGN = ("scale_rewards", "num_iterations", "remove_unused_columns", "output_dir")  # keys that are ours to set


class Instruments:
    """The tools over one rollout's picture, as trl wants an environment: `reset` with the row, methods to call.

    steps: the calls that ran, with their masks, for the rewards.
    """

    segmentor = None  # shared by all rollouts of a process, set before training

    def __init__(self) -> None:
        self.steps: list[ToolStep] = []
        self._box = Toolbox(None, None)

    def reset(self, **row: object) -> None:
        """Begin over the picture of a row."""
        self.steps = []
        roi = None
        if row.get("images"):
            pixels = np.array(row["images"][0].convert("RGB"))
            scale = None if row.get("mpp") is None else (row["mpp"], row["mpp"])
            roi = Roi(pixels, scale, Region(0, 0, pixels.shape[1], pixels.shape[0]), "picture")
        self._box = Toolbox(self.segmentor, roi)

    def segment(self, concept: str) -> str:
        return self._call("segment", concept)

    def count(self, concept: str) -> str:
        return self._call("count", concept)

    def measure(self, concept: str) -> str:
        return self._call("measure", concept)

    def _call(self, name: str, concept: str) -> str:
        if self._box.roi is None:
            return json.dumps({"error": "there is no picture"})
        outcome = self._box.call(name, {"concept": concept}, f"t{len(self.steps) + 1}")
        self.steps.append(ToolStep.of(name, {"concept": concept}, outcome))
        return json.dumps(outcome.result, ensure_ascii=False)


for _name in ("segment", "count", "measure"):  # the words that models are told at inference
    getattr(
        Instruments, _name
    ).__doc__ = f"{getattr(Toolbox, _name).__doc__.rstrip()}\n\n        Returns:\n            JSON"


class HubTaskTrainer(GRPOTrainer):
    """GRPOTrainer whose advantages are scaled by a running deviation of each task's rewards, and which logs what the
    guards look at."""

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.spread = Spread()

    def _calculate_rewards(self, inputs, prompts, completions, completion_ids_list):
        from accelerate.utils import gather_object

        rewards = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        tasks = gather_object([row["task"] for row in inputs])
        said = gather_object([tuple(ids) for ids in completion_ids_list])
        earned, size, log = rewards.nansum(1).tolist(), self.num_generations, self._metrics["train"]
        for start in range(0, len(tasks) - size + 1, size):
            group = earned[start : start + size]
            self.spread.note(tasks[start], group)
            log[f"reward/{tasks[start]}"].append(float(np.mean(group)))
            log[f"length/{tasks[start]}"].append(float(np.mean([len(ids) for ids in said[start : start + size]])))
            log["distinct"].append(len(set(said[start : start + size])) / size)
        log["reward/all"].append(float(np.mean(earned)))
        return rewards

    def _generate_and_score_completions(self, inputs):
        made = super()._generate_and_score_completions(inputs)
        scale = torch.tensor([self.spread.of(row["task"]) for row in inputs], device=made["advantages"].device)
        made["advantages"] = made["advantages"] / scale
        return made

    def _save(self, output_dir: str | None = None, state_dict=None) -> None:
        super()._save(output_dir, state_dict)
        write_atomic(Path(output_dir or self.args.output_dir) / RECORD, json.dumps({"spread": self.spread.state()}))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model=None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        self.spread.restore(json.loads((Path(resume_from_checkpoint) / RECORD).read_text())["spread"])

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        read = [
            value for name, values in self._metrics["train"].items() if name.endswith("/parsed") for value in values
        ]
        if read:
            self._metrics["train"]["parsed"].append(float(np.mean(read)))
        if cut := self._metrics["train"].get("completions/clipped_ratio"):
            self._metrics["train"]["complete"].append(1 - float(np.mean(cut)))
        super().log(logs, start_time)


def train_hub(config: Mapping, where: Path, rows: Sequence[Row], out: Path, resume: bool = False) -> Path:
    """Train an adapter on `rows` and return its folder, ready for `Copilot.from_pretrained`.

    where: the configuration's file, for errors. Runs in one process or in each of `accelerate launch`. Raises
    InputError for a base or settings that cannot be used.
    """
    base, guards = Base.read(config["base"], where), GuardCallback(Guards.read(config["guards"], where))
    arguments = hub_arguments(config["grpo"], where, out)
    start = config.get("start")
    lora = None if start else lora_config(config["lora"], where)
    model, processor = load_hub(base, **placement(base))
    if start:
        model = _adapted(model, Path(str(start)), where)
    tokenizer = processor.tokenizer
    tokenizer.padding_side = "left"
    tokenizer.response_template = RESPONSE_TEMPLATE  # calls as text, which is what the template and we write
    Instruments.segmentor = load_segmentor()
    try:
        trainer = HubTaskTrainer(
            model=model,
            args=arguments,
            reward_funcs=rewards_of(config["rewards"], rows, end_tokens(model, tokenizer))[1],
            train_dataset=table(rows),
            processing_class=processor,
            peft_config=lora,
            environment_factory=Instruments,
            callbacks=[guards],
        )
    except (TypeError, ValueError) as error:
        raise InputError(f"{where}: {first_line(error)}") from error
    go_through(trainer, out, resume)
    history = list(trainer.state.log_history)
    if guards.reason:
        kept = guards.last_good(out / CHECKPOINTS)
        if kept is not None:
            trainer._load_from_checkpoint(str(kept))
        history.append(guards.told(kept, "no checkpoint is older, so what is written is the last step"))
        if trainer.is_world_process_zero():
            print(f"slidekick: {history[-1]['stopped']}", file=sys.stderr)
    trainer.save_model(str(out / ADAPTER))  # by every process: sharded weights are gathered here
    if trainer.is_world_process_zero():
        _finish(out, base, processor, history)
    trainer.accelerator.wait_for_everyone()
    return out / ADAPTER


def table(rows: Sequence[Row]):
    """Rows as trl's data set: messages, pictures, and what the rewards read. Rows without a picture are left out: not
    all processors take a batch of both."""
    from datasets import Dataset, Image, List

    shown = [row for row in rows if row.images]
    if not shown:
        raise InputError("no question shows a picture; give families that do")
    made = Dataset.from_list([row.columns() for row in shown])
    return made.cast_column("images", List(Image()))


def hub_arguments(plan: Mapping, where: Path, out: Path):
    """trl's GRPOConfig of the section `grpo`. Raises InputError for keys that it does not have or that are ours."""
    from trl import GRPOConfig

    check_reporters(plan, where)
    for key in FOREIGN:
        if key in plan:
            raise InputError(f"{where}: grpo.{key} is ours to set; leave it out (see docs/reinforcement.md)")
    ours = {"output_dir": str(out / CHECKPOINTS), "scale_rewards": "none", "remove_unused_columns": False}
    usual = {"report_to": "none", "use_cpu": not torch.cuda.is_available(), "max_tool_calling_iterations": 1}
    try:
        return GRPOConfig(**usual | dict(plan) | ours)
    except (TypeError, ValueError) as error:
        raise InputError(f"{where}: grpo: {first_line(error)}") from error


def _adapted(model, folder: Path, where: Path):
    """The model with the adapter that supervised training made, which learns on; trl keeps a copy as the reference."""
    from peft import PeftModel

    if not (folder / ADAPTER_CONFIG).is_file():
        raise InputError(f"{where}: start: {folder} holds no adapter; give a folder that `train sft` wrote, or none")
    return PeftModel.from_pretrained(model, str(folder), is_trainable=True)


def _finish(out: Path, base: Base, processor, history: Sequence[dict]) -> None:
    folder = out / ADAPTER
    for file in ("training_args.bin", RECORD, "README.md"):  # the last is peft's blank card
        (folder / file).unlink(missing_ok=True)
    name_base(folder, base)
    processor.save_pretrained(folder)
    write_atomic(out / "log.json", json.dumps(list(history), indent=1))
