"""Training samples a second and peak memory: mini's cached loop beside trl's plain loop on the same model and rows.

The plain loop is trl's SFTTrainer as documented for pictures: its own collator, every picture through the tower at
every step, loss on the assistant's words alone. Ours reads the frozen tower's maps, made once before, and projects only
the columns from the first answered one on. Base, LoRA, rows, batch and order are the same; there is no checkpointing of
activations in either. Each runs in a process of its own, in turns. Pictures and words are made here. Samples are
counted by the clock and by processor seconds, which other work on the machine changes less.
`python -m slidekick.apps.bench.training [--json]` takes some minutes on an idle machine.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from slidekick.apps.bench.figures import peak_mb
from slidekick.apps.bench.table import machine, versions

STEPS = 4  # the first plans memory and kernels and is not counted
SIDE = 256  # px of the pictures, a usual tile
PACKAGES = ("slidekick", "torch", "transformers", "trl", "peft")
ASKED = (
    ("What is shown?", "Colon adenocarcinoma."),
    ("Which tissue is this?", "Healthy gland of the colon."),
    ("What kind of cell is in the middle of the picture?", "An eosinophil with two lobes and red granules."),
    ("Is there tumour in this picture?", "Yes."),
    (
        "Describe the picture in a sentence.",
        "Glands of even size stand close together in a stroma with few cells.",
    ),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure both loops and print them beside each other; 2 where one could not be measured."""
    parser = argparse.ArgumentParser(prog="slidekick.apps.bench.training", description="Compare two training loops.")
    parser.add_argument("--json", action="store_true", help="print JSON in place of text")
    parser.add_argument("--rounds", type=int, choices=range(1, 10), default=2, help="runs of each loop (2)")
    parser.add_argument("--only", choices=LOOPS, help=argparse.SUPPRESS)  # how the child processes are called
    args = parser.parse_args(arguments)
    if args.only:
        return measure_here(args.only)
    runs: dict[str, list[dict]] = {name: [] for name in LOOPS}
    for _ in range(args.rounds):
        for name, measured in runs.items():
            command = [sys.executable, "-m", __spec__.name, "--only", name]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
            if done.returncode:
                return 2  # the child has told why on stderr
            measured.append(json.loads(done.stdout.splitlines()[-1]))  # trainers print what they log
    facts = compared(runs)
    facts["versions"] = versions(PACKAGES)
    facts["machine"] = machine()
    print(json.dumps(facts, indent=2) if args.json else as_text(facts))
    return 0


def compared(runs: dict[str, list[dict]]) -> dict:
    """Medians of each loop's runs, and ours over trl's: samples a second (more is better) and memory (less is)."""
    loops = {name: {key: statistics.median(run[key] for run in ran) for key in ran[0]} for name, ran in runs.items()}
    ours, theirs = loops["ours"], loops["trl"]
    ratios = {key: ours[key] / theirs[key] for key in ("samples_s", "samples_cpu_s", "peak_mb")}
    return {"loops": loops, "ratios": ratios, "rounds": len(runs["ours"]), "steps": STEPS}


def measure_here(name: str) -> int:
    """Run one loop in this process and print its figures as JSON."""
    from transformers.utils import logging

    from slidekick.data.errors import SlidekickError

    logging.set_verbosity_error()
    with tempfile.TemporaryDirectory() as folder:
        try:
            trainer, prepared = LOOPS[name](Path(folder))
        except SlidekickError as error:
            print(f"slidekick: {error}", file=sys.stderr)
            return 2
        batch = trainer.args.per_device_train_batch_size
        figures = paces(trainer, batch) | {"prepare_s": prepared, "batch": batch}
    print(json.dumps(figures | {"peak_mb": peak_mb()}))
    return 0


def paces(trainer, batch: int) -> dict[str, float]:
    """Train; samples a second by the clock and by the process's own seconds, first step's end to the last's."""
    from transformers import TrainerCallback

    ends: list[tuple[float, float]] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *_, **__) -> None:
            ends.append((time.perf_counter(), time.process_time()))

    trainer.add_callback(Clock())
    trainer.train()
    samples = batch * (len(ends) - 1)
    clock, own = (last - first for first, last in zip(ends[0], ends[-1], strict=True))
    return {"samples_s": samples / clock, "samples_cpu_s": samples / own}


def conversations(folder: Path, number: int) -> list:
    """`number` instructions, each about a picture of its own that is drawn by chance and written into `folder`."""
    import numpy as np
    from PIL import Image

    from slidekick.rl.instructions.turns import conversation, said

    rng, made = np.random.default_rng(0), []
    for index in range(number):
        path = folder / f"{index}.png"
        Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8)).save(path)
        made.append(conversation("vqa", "drawn", [path], said(*ASKED[index % len(ASKED)])))
    return made


def settings() -> tuple[dict, dict]:
    """(lora, sft) of mini's configuration, for STEPS steps in the order of chance and without checkpoints."""
    from slidekick.rl import sft
    from slidekick.rl.launch import CONFIGS

    config = sft.load_config(CONFIGS / "mini.yaml")
    left_out = ("num_train_epochs", "train_sampling_strategy", "save_steps", "save_total_limit")
    plan = {key: value for key, value in config["sft"].items() if key not in left_out}
    return config["lora"], plan | {"max_steps": STEPS, "save_strategy": "no", "disable_tqdm": True}


def cached_loop(folder: Path):
    """(trainer, seconds to make the maps) of mini's own loop."""
    import numpy as np
    from datasets import Dataset
    from peft import LoraConfig
    from PIL import Image

    from slidekick.copilot.base import IMAGE_SIDE
    from slidekick.copilot.mini import load_base
    from slidekick.rl.sft import CachedVisionCollator, CachedVisionTrainer, cached_arguments, encode
    from slidekick.rl.tower import features

    model, processor = load_base()
    lora, plan = settings()
    made = conversations(folder, STEPS * plan["per_device_train_batch_size"])
    begun = time.perf_counter()
    tower = model.model.vision_tower.timm_model
    side = (IMAGE_SIDE, IMAGE_SIDE)
    squares = [np.asarray(Image.open(one.images[0]).resize(side, Image.Resampling.BICUBIC)) for one in made]
    maps = np.concatenate([features(tower, squares[start : start + 64]) for start in range(0, len(squares), 64)])
    prepared = time.perf_counter() - begun
    rows = [encode(one, processor, []) | {"map_rows": [index]} for index, one in enumerate(made)]
    trainer = CachedVisionTrainer(
        model=model,
        args=cached_arguments(plan, folder),
        train_dataset=Dataset.from_list(rows),
        data_collator=CachedVisionCollator(maps, processor.tokenizer.pad_token_id),
        processing_class=processor,
        peft_config=LoraConfig(task_type="CAUSAL_LM", **lora),
    )
    return trainer, prepared


def plain_loop(folder: Path):
    """(trainer, 0 seconds of preparation) of trl's own loop over messages and pictures."""
    import torch
    from datasets import Dataset, Image, List
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer

    from slidekick.copilot.mini import load_base

    model, processor = load_base()
    lora, plan = settings()
    made = conversations(folder, STEPS * plan["per_device_train_batch_size"])
    rows = [{"messages": as_words(one.messages), "images": [str(one.images[0])]} for one in made]
    arguments = SFTConfig(
        output_dir=str(folder / "checkpoints"),
        assistant_only_loss=True,
        max_length=None,
        activation_checkpointing=False,
        report_to="none",
        use_cpu=not torch.cuda.is_available(),
        **plan,
    )
    trainer = SFTTrainer(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_list(rows).cast_column("images", List(Image())),
        processing_class=processor,
        peft_config=LoraConfig(task_type="CAUSAL_LM", **lora),
    )
    return trainer, 0.0


def as_words(messages: list[dict]) -> list[dict]:
    """Messages with plain text, as trl's data sets have them; its collator puts the picture before the first."""
    from slidekick.rl.instructions.turns import text_of

    return [{"role": message["role"], "content": text_of(message)} for message in messages]


LOOPS: dict[str, Callable] = {"ours": cached_loop, "trl": plain_loop}


def as_text(facts: dict) -> str:
    """The figures for people."""
    told = {"ours": "cached maps, answered columns", "trl": "SFTTrainer, tower at every step"}
    lines = []
    for name, loop in facts["loops"].items():
        before = f", maps made before in {loop['prepare_s']:.1f} s" if loop["prepare_s"] else ""
        lines.append(
            f"{name:<5} {told[name]:<32} {loop['samples_s']:.2f} samples/s, {loop['samples_cpu_s']:.2f} a processor "
            f"second, peak memory {loop['peak_mb']:,.0f} MB{before}"
        )
    clock, own, memory = (facts["ratios"][key] for key in ("samples_s", "samples_cpu_s", "peak_mb"))
    lines.append(f"ours / trl: {clock:.2f} x samples a second, {own:.2f} x a processor second, {memory:.2f} x memory")
    batch = facts["loops"]["ours"]["batch"]
    lines.append(f"batch {batch:g}, medians over {facts['rounds']} runs of {facts['steps']} steps each")
    lines.append(", ".join(f"{name} {number}" for name, number in facts["versions"].items()))
    return "\n".join([*lines, facts["machine"]])


if __name__ == "__main__":
    sys.exit(main())
