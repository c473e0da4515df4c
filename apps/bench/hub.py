"""What training a model of the hub takes on this machine: memory and seconds a step, by the configurations shipped.

Nothing is fetched: the model has the published shape of a Qwen2.5-VL and random numbers, which take as much memory and
time as trained ones; its tokenizer is made of the questions' own words. Answers by chance rarely end and call no tool,
so that reinforcement samples every answer to its limit, and the segmentor does not run. Each measurement is a process
of its own through the commands' own code.
`python -m slidekick.apps.bench.hub --shape 3b --data DATA [--json]` wants a GPU; `--shape tiny` runs anywhere.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from slidekick.apps.bench.table import machine, versions
from slidekick.data.errors import InputError, SlidekickError

KINDS = ("sft", "sft nf4", "grpo", "grpo nf4", "ask")
PACKAGES = ("slidekick", "torch", "transformers", "trl", "peft", "bitsandbytes")
STEPS = {"sft": 6, "grpo": 4}
LEFT_OUT = {"sft": 2, "grpo": 1}  # the first steps plan kernels
WORDS = 120  # tokens of an answer in reinforcement, as in docs/reinforcement.md
ASKED = 4  # questions of `ask`, the first not counted
QUESTION = "Describe what is shown."

# Published configurations of Qwen2.5-VL: text, then vision.
_VISION = {"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "patch_size": 14}
_VISION |= {"fullatt_block_indexes": [7, 15, 23, 31], "window_size": 112}
_ROPE = {"rope_type": "default", "mrope_section": [16, 24, 24], "rope_theta": 1e6}
SHAPES = {
    "tiny": (
        {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
        | {"num_key_value_heads": 1, "rope_parameters": _ROPE | {"mrope_section": [2, 3, 3]}},
        {"depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "fullatt_block_indexes": [1]}
        | {"window_size": 56},
    ),
    "3b": (
        {"hidden_size": 2048, "intermediate_size": 11008, "num_hidden_layers": 36, "num_attention_heads": 16}
        | {"num_key_value_heads": 2, "vocab_size": 151936, "tie_word_embeddings": True, "rope_parameters": _ROPE},
        _VISION,
    ),
    "7b": (
        {"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28}
        | {"num_key_value_heads": 4, "vocab_size": 152064, "tie_word_embeddings": False, "rope_parameters": _ROPE},
        _VISION,
    ),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is asked for and print it; 2 for what a user can mend."""
    parser = argparse.ArgumentParser(prog="slidekick.apps.bench.hub", description="Memory and time of hub models.")
    parser.add_argument("--shape", choices=SHAPES, default="3b", help="whose shape the random model has (3b)")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="folder of sets, to ask about")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS, metavar="KIND", help=", ".join(KINDS))
    parser.add_argument(
        "--batch", type=int, metavar="N", help="rows on the GPU at once, a step's staying what they are"
    )
    parser.add_argument("--json", action="store_true", help="print JSON in place of a table")
    parser.add_argument("--only", type=Path, help=argparse.SUPPRESS)  # the base, where a child process is called
    args = parser.parse_args(arguments)
    try:
        if args.only:
            print(json.dumps(measure_here(args.kinds[0], args.only, args.data, args.batch)))
            return 0
        with tempfile.TemporaryDirectory() as folder:
            base = made_base(args.shape, args.data, Path(folder) / "base")
            rows = [row for kind in args.kinds if (row := _measured(kind, base, args.data, args.batch)) is not None]
    except SlidekickError as error:
        print(f"slidekick: {error}", file=sys.stderr)
        return 2
    facts = {"shape": args.shape, "rows": rows, "versions": versions(PACKAGES), "machine": told_machine()}
    print(json.dumps(facts, indent=1) if args.json else as_text(facts))
    return 0 if len(rows) == len(args.kinds) else 2


def told_machine() -> str:
    """The GPU's name where there is one, and what the rest of the machine is."""
    import torch

    gpu = [torch.cuda.get_device_name(0)] if torch.cuda.is_available() else []
    return ", ".join([*gpu, machine()])


def _measured(kind: str, base: Path, data: Path, batch: int | None) -> dict | None:
    """A row, measured in a process of its own; None where that failed and has told why on stderr."""
    command = [sys.executable, "-m", __spec__.name, "--kinds", kind, "--only", str(base), "--data", str(data)]
    command += ["--batch", str(batch)] if batch else []
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        return None
    row = {"kind": kind} | json.loads(done.stdout.splitlines()[-1])  # trainers print what they log
    print(f"measured: {row}", file=sys.stderr)
    return row


def made_base(shape: str, data: Path, folder: Path) -> Path:
    """A folder with a model of a shape, random numbers in bfloat16, and a processor; what `from_pretrained` reads."""
    import torch
    from transformers import AutoModelForImageTextToText

    processor, tokens = made_processor(data)
    config = config_of(shape, len(processor.tokenizer), tokens)
    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = AutoModelForImageTextToText.from_config(config, dtype=torch.bfloat16)
    model.generation_config.eos_token_id = processor.tokenizer.eos_token_id
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def config_of(shape: str, words: int, tokens: dict):
    """The Qwen2_5_VLConfig of a shape. words: of its vocabulary, where the shape does not tell. tokens: control ids."""
    from transformers import Qwen2_5_VLConfig

    text, vision = SHAPES[shape]
    text = {"vocab_size": words} | text
    vision = vision | {"out_hidden_size": text["hidden_size"]}
    tied = text.get("tie_word_embeddings", False)
    return Qwen2_5_VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=tied, **tokens)


def made_processor(data: Path):
    """(processor, token ids of the configuration): Qwen2.5-VL's own template over a tokenizer of the questions' words,
    which cuts them about as Qwen's does."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast, Qwen2VLProcessor
    from transformers.models.qwen2_vl import Qwen2VLImageProcessor, Qwen2VLVideoProcessor
    from trl.chat_template_utils import qwen2_5_vl_chat_template

    from slidekick.copilot.tools import tool_schemas
    from slidekick.rl.instructions.material import Plan, gather, make_lessons

    lessons = make_lessons(Plan(2000, 7), gather(data, ()))
    words = [json.dumps(lesson.messages) for lesson in lessons] + [json.dumps(tool_schemas())]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    ends = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=4000, special_tokens=ends, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(words, trainer)
    tokenizer.add_tokens([AddedToken(mark, special=False) for mark in ("<tool_call>", "</tool_call>")])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=ends[2], pad_token=ends[0])
    marks = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
    tokenizer.add_special_tokens({"additional_special_tokens": marks})
    start, end, image, video = tokenizer.convert_tokens_to_ids(marks)
    pictures = Qwen2VLImageProcessor(min_pixels=56 * 56, max_pixels=28 * 28 * 1280)
    template = qwen2_5_vl_chat_template
    processor = Qwen2VLProcessor(pictures, tokenizer, Qwen2VLVideoProcessor(), chat_template=template)
    ids = {"image_token_id": image, "video_token_id": video, "vision_start_token_id": start, "vision_end_token_id": end}
    return processor, ids | {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id}


def measure_here(kind: str, base: Path, data: Path, batch: int | None = None) -> dict:
    """Seconds and memory of one kind in this process."""
    import torch
    from transformers.utils import logging

    logging.set_verbosity_error()
    what, _, quantization = kind.partition(" ")
    figures = asked(base, data) if what == "ask" else trained(what, base, data, quantization or None, batch)
    if torch.cuda.is_available():
        figures["peak_gb"] = torch.cuda.max_memory_allocated() / 1e9
        figures["held_gb"] = torch.cuda.max_memory_reserved() / 1e9
    return figures


def trained(what: str, base: Path, data: Path, quantization: str | None, batch: int | None = None) -> dict:
    """Some steps of `train sft` or `train grpo` by the configuration shipped for Qwen2.5-VL; see `main` for `batch`."""
    import yaml

    from slidekick.data.configuration import read_yaml
    from slidekick.rl import grpo, sft
    from slidekick.rl.launch import CONFIGS

    name = {"sft": "qwen2_5_vl_3b.yaml", "grpo": "qwen2_5_vl_3b_grpo.yaml"}[what]
    config = read_yaml(CONFIGS / name)
    config["base"] |= {"name": str(base), "revision": None} | ({"quantization": quantization} if quantization else {})
    config[what] |= {"max_steps": STEPS[what], "save_strategy": "no", "logging_steps": 1, "disable_tqdm": True}
    if batch:
        rows = config[what]["per_device_train_batch_size"] * config[what]["gradient_accumulation_steps"]
        config[what] |= {"per_device_train_batch_size": batch, "gradient_accumulation_steps": max(1, rows // batch)}
    if what == "grpo":
        config[what] |= {"max_completion_length": WORDS, "report_to": "none"}
        config["rows"]["count"] = 400
        config["guards"] = {"warmup": 1000}  # a model of chance would be stopped at once
    else:
        config["instructions"]["count"] = 600
    with tempfile.TemporaryDirectory() as folder:
        (path := Path(folder) / name).write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
        ends, train = clock(), {"sft": sft.train_sft, "grpo": grpo.train_grpo}[what]
        train(path, data, Path(folder) / "out")
        log = json.loads((Path(folder) / "out" / "log.json").read_text())
    took = [later - sooner for sooner, later in pairwise(ends)][LEFT_OUT[what] - 1 :]
    read = [step["num_tokens"] for step in log if "num_tokens" in step]
    return {"step_s": statistics.median(took), "step_tokens": (read[-1] - read[0]) / (len(read) - 1)}


def clock() -> list[float]:
    """When each step of the trainings that follow in this process has ended, GPU work included."""
    import torch
    from transformers import TrainerCallback
    from transformers.trainer import DEFAULT_CALLBACKS

    ends: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *_, **__) -> None:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            ends.append(time.perf_counter())

    DEFAULT_CALLBACKS.append(Clock)
    return ends


def asked(base: Path, data: Path) -> dict:
    """Seconds of a first turn by the engine that `slidekick ask` takes, and its tokens a second, picture included."""
    from slidekick.copilot.engines import load_engine
    from slidekick.copilot.messages import user_message
    from slidekick.copilot.tools import tool_schemas
    from slidekick.data import read_roi
    from slidekick.rl.instructions.material import gather

    pictures = [one.image for one in gather(data, ()).items[:ASKED]]
    if not pictures:
        raise InputError(f"{data}: no picture to ask about")
    engine, took, tokens = load_engine(str(base), {}), [], []
    for picture in pictures:
        pixels, begun = read_roi(picture).pixels, time.perf_counter()
        turn = list(engine.turn([user_message(QUESTION, with_image=True)], pixels, tool_schemas()))[-1]
        took.append(time.perf_counter() - begun)
        tokens.append(len(turn.tokens))
    return {"answer_s": statistics.median(took[1:]), "answer_tokens_s": sum(tokens[1:]) / sum(took[1:])}


def as_text(facts: dict) -> str:
    """The rows as a table for people."""
    lines = [f"Qwen2.5-VL's shape {facts['shape']}, random numbers; {facts['machine']}"]
    for row in facts["rows"]:
        told = [f"{name} {value:.3g}" for name, value in row.items() if name != "kind"]
        lines.append(f"  {row['kind']:10s} " + "  ".join(told))
    return "\n".join([*lines, ", ".join(f"{name} {number}" for name, number in facts["versions"].items())])


if __name__ == "__main__":
    sys.exit(main())
