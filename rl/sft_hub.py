"""Supervised fine-tuning of any image-text-to-text model of the hub: LoRA or QLoRA through trl's SFTTrainer.

`train_sft` comes here when its YAML has a section `base` (rl/configs/qwen2_5_vl_3b.yaml). Pictures go through the
model's own processor and tower at every step. trl's collator for pictures (1.16) is replaced for two reasons: it tells
the template of no tools, and it encodes control tokens typed by people as control tokens, which `TorchEngine` never
does. A row here is encoded as the engine encodes a prompt. Loss and checkpoints are trl's.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from slidekick.copilot.hub import ADAPTER_CONFIG, Base, chat_template, load_hub
from slidekick.copilot.pictures import with_pictures
from slidekick.copilot.tools import tool_schemas
from slidekick.data.errors import InputError, first_line
from slidekick.data.files import write_atomic
from slidekick.rl.adapter_card import adapter_card
from slidekick.rl.instructions import Instruction
from slidekick.rl.resuming import CHECKPOINTS, go_through
from slidekick.rl.sft import ADAPTER, lora_config

# Keys of trl's that do not go with pictures or with our collator: said, not silently left out.
FOREIGN = ("max_length", "packing", "padding_free", "assistant_only_loss", "completion_only_loss")
PICTURE = 256  # tokens a picture is taken for where rows of like length are put together; it decides nothing else


def train_hub(config: dict, where: Path, made: Sequence[Instruction], out: Path, resume: bool = False) -> Path:
    """Train an adapter on `made` and return its folder, ready for `Copilot.from_pretrained`.

    where: the configuration's file, for errors. Runs in one process or in each of `accelerate launch`. Raises
    InputError for a base or settings that cannot be used.
    """
    from accelerate import PartialState
    from datasets import Dataset
    from trl import SFTTrainer

    base, arguments = Base.read(config["base"], where), hub_arguments(config["sft"], where, out)
    lora = lora_config(config["lora"], where)
    model, processor = load_hub(base, **placement(base))
    collator = ConversationCollator(processor, tool_schemas())
    table = Dataset.from_list([row_of(one, collator) for one in made])
    if PartialState().is_main_process and not resume:
        shutil.rmtree(out / CHECKPOINTS, ignore_errors=True)  # else a later resume would take up the old run
    try:
        trainer = SFTTrainer(
            model=model,
            args=arguments,
            train_dataset=table,
            data_collator=collator,
            processing_class=processor,
            peft_config=lora,
        )
    except (TypeError, ValueError) as error:
        raise InputError(f"{where}: {first_line(error)}") from error
    go_through(trainer, out, resume)
    trainer.save_model(str(out / ADAPTER))  # by every process: sharded weights are gathered here
    if trainer.is_world_process_zero():
        _finish(out, base, made, trainer.state.log_history)
    trainer.accelerator.wait_for_everyone()
    return out / ADAPTER


def placement(base: Base) -> dict:
    """Where `from_pretrained` puts the model: a quantised one on its process's own GPU, since it is packed there; any
    other is moved by the trainer."""
    from accelerate import PartialState

    here = base.quantization is not None and torch.cuda.is_available()
    return {"device_map": {"": PartialState().local_process_index}} if here else {}


def hub_arguments(plan: Mapping, where: Path, out: Path):
    """trl's SFTConfig of the section `sft`. Raises InputError for keys that it does not have or cannot keep."""
    from trl import SFTConfig

    for key in FOREIGN:
        if key in plan:
            raise InputError(f"{where}: sft.{key} is not for rows with pictures; leave it out (see docs/training.md)")
    ours = {"output_dir": str(out / CHECKPOINTS), "remove_unused_columns": False, "max_length": None}
    usual = {"report_to": "none", "use_cpu": not torch.cuda.is_available()}
    try:
        return SFTConfig(**usual | dict(plan) | ours)
    except (TypeError, ValueError) as error:
        raise InputError(f"{where}: sft: {first_line(error)}") from error


def row_of(instruction: Instruction, collator: ConversationCollator) -> dict:
    """A row of the training table: messages as JSON (arrow would fill each part with the keys of all others), picture
    paths, and about how many tokens it has."""
    length = len(collator.tokens(instruction.messages)) + PICTURE * len(instruction.images)
    images = [str(image) for image in instruction.images]
    return {"messages": json.dumps(instruction.messages), "images": images, "length": length}


class ConversationCollator:
    """Rows as the model's inputs, padded on the right, with labels that are −100 outside what the assistant says.

    processor: with a chat template that knows tools (`load_hub`). tools: schemas that every conversation is told of.
    What the assistant says is told by the template's own `{% generation %}` marks where it has them, else by what each
    turn adds to the prompt it answers; both end with the turn's end token.
    """

    def __init__(self, processor, tools: Sequence[dict]) -> None:
        self.processor, self.tools = processor, list(tools)
        self.tokenizer, self.template = processor.tokenizer, chat_template(processor)
        if self.template is None:
            raise InputError(f"{type(processor).__name__}: no chat template; use an instruction-tuned model")
        self.marked = "{% generation" in self.template or "{%- generation" in self.template
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token

    def __call__(self, rows: Sequence[dict]) -> dict[str, torch.Tensor]:
        """input_ids, attention_mask, labels: int64 (B, T), and the processor's pixels for all pictures of the rows."""
        told = [json.loads(row["messages"]) for row in rows]
        shown = [
            with_pictures(messages, [_picture(path) for path in row["images"]]) if row["images"] else messages
            for messages, row in zip(told, rows, strict=True)
        ]
        batch = self.processor.apply_chat_template(
            shown,
            tools=self.tools or None,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            sanitize_control_tokens=True,
            processor_kwargs={"padding": True, "padding_side": "right"},
        )
        labels = torch.full_like(batch["input_ids"], -100)
        for row, messages in enumerate(told):
            ids = batch["input_ids"][row, : int(batch["attention_mask"][row].sum())]
            said = self.said(messages, ids.tolist())
            labels[row, : len(ids)][said] = ids[said]
        return {**batch, "labels": labels}

    def said(self, messages: list[dict], ids: list[int]) -> torch.Tensor:
        """bool (T,): which of `ids`, the whole conversation's with its pictures, the assistant says.

        Counted from the end, since pictures, which may take any number of tokens, stand before the first answer.
        Raises InputError where the template does not let it be told.
        """
        for tell in (self._by_marks, self._by_prefixes) if self.marked else (self._by_prefixes,):
            text, said = tell(messages)
            spoken = len(text) - said.index(True) if True in said else 0
            if spoken and ids[-spoken:] == text[-spoken:]:
                return torch.tensor([False] * (len(ids) - spoken) + said[-spoken:])
        raise InputError("the chat template does not tell what the assistant says; no loss can be put on it alone")

    def _by_marks(self, messages: list[dict]) -> tuple[list[int], list[bool]]:
        # Not with `sanitize_control_tokens` at once; where that makes a difference, prefixes tell.
        encoded = self.tokenizer.apply_chat_template(
            messages,
            chat_template=self.template,
            tools=self.tools or None,
            return_dict=True,
            return_assistant_tokens_mask=True,
        )
        return encoded["input_ids"], [bool(mark) for mark in encoded["assistant_masks"]]

    def _by_prefixes(self, messages: list[dict]) -> tuple[list[int], list[bool]]:
        ids = self.tokens(messages)
        said = [False] * len(ids)
        for index, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            prompt = self.tokens(messages[:index], add_generation_prompt=True)
            upto = self.tokens(messages[: index + 1])
            if ids[: len(upto)] != upto or upto[: len(prompt)] != prompt:
                raise InputError("the chat template renders a turn anew when another follows; no loss can be put on it")
            ends = [place for place in range(len(prompt), len(upto)) if upto[place] in self.tokenizer.all_special_ids]
            stop = ends[-1] + 1 if ends else len(upto)  # the line break behind the end token is nobody's words
            said[len(prompt) : stop] = [True] * (stop - len(prompt))
        return ids, said

    def tokens(self, messages: list[dict], add_generation_prompt: bool = False) -> list[int]:
        """Token ids of messages without their pictures; what was typed cannot become a control token."""
        return self.tokenizer.apply_chat_template(
            messages,
            chat_template=self.template,
            tools=self.tools or None,
            add_generation_prompt=add_generation_prompt,
            return_dict=True,
            sanitize_control_tokens=True,
        )["input_ids"]


def _picture(path: str) -> np.ndarray:
    """uint8 (H, W, 3) RGB, as the engine is given pictures."""
    with Image.open(path) as picture:
        return np.array(picture.convert("RGB"))  # a copy: processors want arrays that can be written


def name_base(folder: Path, base: Base) -> None:
    """Write into an adapter's folder which base it belongs to, as it was named and not where it lay."""
    adapter = json.loads((folder / ADAPTER_CONFIG).read_text())
    adapter |= {"base_model_name_or_path": base.name, "revision": base.revision}
    write_atomic(folder / ADAPTER_CONFIG, json.dumps(adapter, indent=1))


def _finish(out: Path, base: Base, made: Sequence[Instruction], history: list[dict]) -> None:
    """What is only ours in the adapter's folder: the base as it was named, its card, no pickle; the loss beside it."""
    folder = out / ADAPTER
    (folder / "training_args.bin").unlink(missing_ok=True)
    name_base(folder, base)
    write_atomic(folder / "README.md", adapter_card(base, made, history))
    write_atomic(out / "log.json", json.dumps(history, indent=1))
