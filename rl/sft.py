"""Supervised fine-tuning from a YAML: mini's tower, cached maps, connector, then LoRA with trl's SFTTrainer.

The tower is tuned first (`tower.py`) and frozen, so its maps are computed once and the language model trains on
them. Loss counts only what the assistant says. Every stage leaves a file in `out`; `resume` takes up after the last.
Other models are trained by `sft_hub.py`, on many devices by `accelerate launch -m slidekick.rl.sft`.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from PIL import Image
from torch.nn import functional as F
from transformers.modeling_outputs import BaseModelOutputWithPooling
from trl import SFTConfig, SFTTrainer

from slidekick.copilot.base import IMAGE_SIDE, PATCH
from slidekick.copilot.compiled.eyes import squeezed
from slidekick.copilot.mini import ADAPTER_FILE, TOWER, load_base
from slidekick.copilot.tools import tool_schemas
from slidekick.data.allocation import freed_memory_kept
from slidekick.data.configuration import read_yaml
from slidekick.data.errors import InputError, first_line
from slidekick.data.files import stream_atomic, write_atomic
from slidekick.data.items import Item
from slidekick.grounding.tower import float16_bytes
from slidekick.rl.guesses import guesses_of
from slidekick.rl.instructions import Instruction, is_labelled
from slidekick.rl.instructions.material import Plan, gather, make_lessons
from slidekick.rl.launch import launched
from slidekick.rl.resuming import CHECKPOINTS, go_through
from slidekick.rl.tower import augment, features, train_tower

SECTIONS = ("tower", "views", "connector", "instructions", "lora", "sft")
MORE_SECTIONS = ("start", "views", "instructions", "sft")
HUB_SECTIONS = ("base", "instructions", "lora", "sft")
ROUND = 128  # answered positions are padded to a multiple of it
IMAGE_TOKENS = (IMAGE_SIDE // PATCH) ** 2
ADAPTER = "adapter"
BASE = "mini's base, made by slidekick.copilot.base"  # where it lies differs from machine to machine


def load_config(path: Path) -> dict:
    """The YAML as a dict; InputError where it is missing, broken or lacks a section."""
    config = read_yaml(path)
    sections, example = SECTIONS, "rl/configs/mini.yaml"
    if isinstance(config, dict) and "base" in config:
        sections, example = HUB_SECTIONS, "rl/configs/qwen2_5_vl_3b.yaml"
    elif isinstance(config, dict) and "start" in config:
        sections, example = MORE_SECTIONS, "rl/configs/mini-more.yaml"
    kinds = {"views": (int, "whole number"), "start": (str, "folder's name")}
    for section in sections:
        if not isinstance(config, dict) or section not in config:
            raise InputError(f"{path}: section {section!r} is missing; see {example}")
        wanted, told = kinds.get(section, (dict, "mapping"))
        if not isinstance(config[section], wanted):
            raise InputError(f"{path}: section {section!r} is no {told}; see {example}")
    if "start" in sections and not (Path(config["start"]) / TOWER).is_file():
        raise InputError(f"{config['start']}: no {TOWER} in it; give the folder of an adapter trained on mini")
    return config


def train_sft(config_path: Path, data: Path, out: Path, resume: bool = False) -> Path:
    """Train on the train split of `data` and return the adapter's folder, ready for `Copilot.from_pretrained`.

    mini through the stages below; a configuration with a section `base` through `sft_hub`. Raises InputError for a
    configuration or data folder that cannot be used.
    """
    config = load_config(config_path)
    plan = Plan.read(config["instructions"], config_path)
    material = gather(data, plan.held_back)
    items = material.items
    if "base" in config:
        from slidekick.rl.sft_hub import train_hub

        return train_hub(config, config_path, make_lessons(plan, material), out, resume)
    arguments = cached_arguments(config["sft"], out, config_path)
    lora = None if "start" in config else lora_config(config["lora"], config_path)
    if not any(map(is_labelled, items)):
        raise InputError(
            f"{data}: no labelled picture of a set that has questions; see QUESTIONS in rl/instructions/wording.py"
        )
    out.mkdir(parents=True, exist_ok=True)
    if not resume:
        for name in (TOWER, "maps.npy", "maps.json", "connector.pt"):
            (out / name).unlink(missing_ok=True)
        shutil.rmtree(out / CHECKPOINTS, ignore_errors=True)  # else a later resume would take up the old run
    model, processor, maps = _prepared(config, items, out, lora, arguments.seed)
    made = make_lessons(plan, material)
    rows = token_rows(made, processor, maps, plan.seed)
    frozen = bool(config.get("connector", {}).get("frozen"))
    folder = _fit(model, processor, rows, maps, arguments, frozen, out, resume)
    guesses_of(made, processor.tokenizer).save(folder)
    return folder


def _prepared(
    config: dict, items: Sequence[Item], out: Path, lora: LoraConfig | None, seed: int
) -> tuple[PeftModel, object, Maps]:
    """The model with the adapter that learns, its processor and all pictures' maps; what is in `out` is kept.

    lora: of a new adapter, whose matrices are drawn by `seed`, so that a run which was cut begins with the same.
    """
    if not (out / TOWER).exists() and "start" in config:
        write_atomic(out / TOWER, (Path(config["start"]) / TOWER).read_bytes())
    elif not (out / TOWER).exists():
        with freed_memory_kept():
            train_tower(items, config["tower"], out / TOWER)
    model, processor = load_base(out / TOWER)
    maps = cached_maps(model, items, config["views"], out / "maps.npy")
    if "start" in config:
        return PeftModel.from_pretrained(model, config["start"], is_trainable=True), processor, maps
    if not (out / "connector.pt").exists():
        align_connector(model, processor, items, maps, config["connector"])
        with stream_atomic(out / "connector.pt") as stream:
            torch.save(model.model.multi_modal_projector.state_dict(), stream)
    model.model.multi_modal_projector.load_state_dict(torch.load(out / "connector.pt", weights_only=True))
    torch.manual_seed(seed)
    return get_peft_model(model, lora), processor, maps


class Maps:
    """Cached tower maps: float16 (rows, 36, 1280), several views (rows) of each picture."""

    def __init__(self, array: np.ndarray, items: Sequence[Item], views: int) -> None:
        self.array, self.first, self.views, row = array, {}, {}, 0
        for item in items:
            number = _views_of(item, views)
            self.first[item.image], self.views[item.image] = row, number
            row += number

    def row(self, image: Path, pick: int) -> int:
        """Row of one view of a picture, any `pick` folded into the views there are."""
        return self.first[image] + pick % self.views[image]


def _views_of(item: Item, views: int) -> int:
    return views if is_labelled(item) else 1  # tool lessons do not hang on the picture


def cached_maps(model, items: Sequence[Item], views: int, file: Path, seed: int = 11) -> Maps:
    """Maps of all pictures: the first view as it is, the others augmented. Computed once, kept in `file`.

    seed: of the augmentations; those of examples are made by the default. Raises InputError where `file` holds the maps
    of other pictures, views or another tower, as the JSON beside it tells.
    """
    from tqdm import tqdm

    told = file.with_suffix(".json")
    about = {"of": _maps_hash(model, items, views, seed)}
    if not file.exists():
        write_atomic(told, json.dumps(about))  # first: maps are never without what they are of
        rng = np.random.default_rng(seed)
        tower, parts = model.model.vision_tower.timm_model, []
        for start in tqdm(range(0, len(items), 64), desc="maps", mininterval=5):
            pictures = []
            for item in items[start : start + 64]:
                picture = np.asarray(Image.open(item.image).convert("RGB"))
                pictures.append(squeezed(picture))
                pictures += [augment(picture, rng) for _ in range(_views_of(item, views) - 1)]
            parts.append(features(tower, pictures))
        with stream_atomic(file) as stream:
            np.save(stream, np.concatenate(parts))
    array, wanted = np.load(file, mmap_mode="r"), sum(_views_of(item, views) for item in items)
    if len(array) != wanted:
        raise InputError(f"{file}: {len(array)} maps, not {wanted}: the data, views or held_back changed; train anew")
    if told.is_file() and json.loads(told.read_text()) != about:  # maps of earlier versions stand alone
        raise InputError(f"{file}: maps of other pictures, views or another tower; remove it, or train anew")
    return Maps(array, items, views)


def _maps_hash(model, items: Sequence[Item], views: int, seed: int) -> str:
    """Of all that maps hang on. Of a picture's path the last three parts: a data folder may be moved."""
    digest = hashlib.sha256(str(seed).encode())
    for item in items:
        digest.update(f"{'/'.join(item.image.parts[-3:])} {_views_of(item, views)}\n".encode())
    for name, tensor in sorted(model.model.vision_tower.state_dict().items()):
        digest.update(name.encode() + tensor.detach().cpu().float().numpy().tobytes())
    return digest.hexdigest()


def align_connector(model, processor, items: Sequence[Item], maps: Maps, plan: dict) -> None:
    """Fit the connector so that the mean image token is the mean embedding of the label's words.

    A cheap regression (cosine and squared error) on cached maps; it saves the language model thousands of steps.
    """
    torch.manual_seed(plan["seed"])
    rng = np.random.default_rng(plan["seed"])
    embedding = model.get_input_embeddings().weight.detach()
    labelled = [item for item in items if is_labelled(item)]
    texts = sorted({item.label for item in labelled})
    targets = {t: embedding[processor.tokenizer(" " + t)["input_ids"]].mean(0) for t in texts}
    alike = Counter((item.set, item.label) for item in labelled)
    weights = np.array([1 / alike[item.set, item.label] ** 0.5 for item in labelled])
    weights /= weights.sum()
    projector = model.model.multi_modal_projector
    optimizer = torch.optim.AdamW(projector.parameters(), lr=plan["learning_rate"], weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, plan["steps"])
    for _ in range(plan["steps"]):
        picks = [labelled[i] for i in rng.choice(len(labelled), plan["batch"], p=weights)]
        rows = [maps.row(item.image, int(rng.integers(64))) for item in picks]
        tokens = projector(torch.from_numpy(maps.array[rows].astype(np.float32)))
        target = torch.stack([targets[item.label] for item in picks])
        mean = tokens.mean(1)
        spread = F.mse_loss(mean, target) / target.var()
        loss = spread + (1 - F.cosine_similarity(mean, target)).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()


def encode(instruction: Instruction, processor, tools: list[dict]) -> dict[str, list[int]]:
    """input_ids with each image token repeated for every map cell, and labels that are −100 outside what we say."""
    tokenizer = processor.tokenizer
    encoded = tokenizer.apply_chat_template(
        instruction.messages, tools=tools, return_dict=True, return_assistant_tokens_mask=True
    )
    image = tokenizer.convert_tokens_to_ids(processor.image_token)
    ids, labels = [], []
    for token, said in zip(encoded["input_ids"], encoded["assistant_masks"], strict=True):
        repeat = IMAGE_TOKENS if token == image else 1
        ids += [token] * repeat
        labels += [token if said else -100] * repeat
    return {"input_ids": ids, "labels": labels}


def token_rows(made: Sequence[Instruction], processor, maps: Maps, seed: int) -> list[dict]:
    """Token rows of conversations, each with `map_rows`: a view by chance of every picture it shows, in their order."""
    rows = [encode(one, processor, list(tool_schemas())) for one in made]
    rng = np.random.default_rng(seed)
    for row, one in zip(rows, made, strict=True):
        row["map_rows"] = [maps.row(image, int(rng.integers(64))) for image in one.images]
        row["length"] = len(row["input_ids"])
    return rows


class CachedVisionCollator:
    """Pads token rows on the left, so that answers end together, and fetches the maps of all their pictures.

    maps of a batch: float32 (N, 36, 1280), row by row and in each row's order; N is 0 where no row shows a picture.
    """

    def __init__(self, maps: np.ndarray, pad: int) -> None:
        self.maps, self.pad = maps, pad

    def __call__(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        # Few different lengths: oneDNN plans anew for every shape it has not met.
        longest = -(-max(len(row["input_ids"]) for row in rows) // 8) * 8

        def padded(values: list[list[int]], value: int) -> torch.Tensor:
            return torch.tensor([[value] * (longest - len(row)) + row for row in values])

        shown = np.array([map_row for row in rows for map_row in row["map_rows"]], np.int64)
        return {
            "input_ids": padded([row["input_ids"] for row in rows], self.pad),
            "attention_mask": padded([[1] * len(row["input_ids"]) for row in rows], 0),
            "labels": padded([row["labels"] for row in rows], -100),
            "maps": torch.from_numpy(self.maps[shown].astype(np.float32)),
        }


class CachedVisionTrainer(SFTTrainer):
    """SFTTrainer whose batches hold tower maps: only connector and language model run.

    trl's own loss projects every position onto the 49 k words of the vocabulary, half of a step on CPU;
    here only those that are answered. Rows may show any number of pictures.
    """

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        labels = inputs.pop("labels")
        shell = self.accelerator.unwrap_model(model).get_base_model()
        # A batch without pictures passes an empty stack, so that the connector stays part of every step.
        tokens = shell.model.multi_modal_projector(inputs.pop("maps"))
        loss, outputs = answered_loss(model, inputs, tokens, labels, num_items_in_batch)
        return (loss, outputs) if return_outputs else loss


def answered_loss(model, inputs: dict, tokens: torch.Tensor, labels: torch.Tensor, number=None):
    """Loss over what the assistant says, and the outputs; only positions before an answered token are projected.

    tokens: image tokens (N, 36, D) of all rows' pictures. labels: (B, T), −100 outside; A of them are answered. number:
    answered tokens of the whole step; None: of this batch. outputs.logits: (A, V).
    """
    answered = labels[:, 1:] != -100
    count = int(answered.sum())
    head = model.get_output_embeddings()
    # Few different numbers, as with lengths above.
    chosen = head.register_forward_pre_hook(
        lambda _, states: (F.pad(states[0][:, :-1][answered], (0, 0, 0, -count % ROUND)),)
    )
    try:
        outputs = model(
            **inputs,
            mm_encoder_outputs={"image": BaseModelOutputWithPooling(pooler_output=tokens)},
            use_cache=False,
        )
    finally:
        chosen.remove()
    outputs.logits = outputs.logits[:count]
    loss = F.cross_entropy(outputs.logits.float(), labels[:, 1:][answered], reduction="sum")
    return loss / (count if number is None else number), outputs


def lora_config(plan: Mapping, where: Path) -> LoraConfig:
    """PEFT's LoraConfig of the section `lora`. Raises InputError for keys that it does not have."""
    try:
        return LoraConfig(**{"task_type": "CAUSAL_LM"} | dict(plan))
    except (TypeError, ValueError) as error:
        raise InputError(f"{where}: lora: {first_line(error)}") from error


def cached_arguments(plan: Mapping, out: Path, where: Path | str = "configuration") -> SFTConfig:
    """trl's arguments for rows that are tokens and maps already; plan: the YAML's section `sft`.

    where: the configuration's file. Raises InputError for keys that SFTConfig does not have or that are ours to set.
    """
    try:
        return SFTConfig(
            output_dir=str(out / CHECKPOINTS),
            remove_unused_columns=False,
            dataset_kwargs={"skip_prepare_dataset": True},
            max_length=None,
            gradient_checkpointing=False,
            report_to="none",
            use_cpu=not torch.cuda.is_available(),
            **{"bf16": _has_bf16(), **plan},
        )
    except (TypeError, ValueError) as error:
        raise InputError(f"{where}: sft: {first_line(error)}") from error


def _has_bf16() -> bool:
    """Whether the device multiplies in bfloat16: a CPU that only imitates it takes three times as long."""
    able = torch.cpu.get_capabilities()
    return torch.cuda.is_available() or any(able.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def _fit(
    model, processor, rows: list[dict], maps: Maps, arguments: SFTConfig, frozen: bool, out: Path, resume: bool
) -> Path:
    """Train and save. frozen: whether the connector stays as it is."""
    from datasets import Dataset

    trainer = CachedVisionTrainer(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        data_collator=CachedVisionCollator(maps.array, processor.tokenizer.pad_token_id),
        processing_class=processor,
    )
    if frozen:
        # Saved with the adapter all the same, since `modules_to_save` names it.
        for name, parameter in trainer.model.named_parameters():
            if "modules_to_save" in name:
                parameter.requires_grad_(False)
    go_through(trainer, out, resume)
    return _save(trainer, out)


def _save(trainer: SFTTrainer, out: Path) -> Path:
    """The adapter as a PEFT folder in float16, the tower beside it, the loss curve as JSON."""
    from safetensors.torch import load_file

    folder = out / ADAPTER
    trainer.model.save_pretrained(folder)
    weights = folder / ADAPTER_FILE
    write_atomic(weights, float16_bytes(load_file(weights)))
    adapter = json.loads((folder / "adapter_config.json").read_text())
    write_atomic(folder / "adapter_config.json", json.dumps(adapter | {"base_model_name_or_path": BASE}, indent=1))
    (folder / "README.md").unlink(missing_ok=True)  # peft's blank card, which names the base by its path too
    shutil.copy2(out / TOWER, folder / TOWER)
    write_atomic(out / "log.json", json.dumps(trainer.state.log_history, indent=1))
    return folder


def main(arguments: Sequence[str] | None = None) -> int:
    """`slidekick train sft` for launchers, which start a module in each process; 2 for what a user can mend."""
    return launched("sft", train_sft, arguments)


if __name__ == "__main__":
    sys.exit(main())
