"""Training of the segmentor from a YAML: sampling, loss, averaged weights, checkpoints that resume to the step.

Masks are learnt with cross-entropy and Dice, object interiors with cross-entropy on a soft target, presence with
cross-entropy on prompts that are there and prompts that are not. Evaluation and the card are in `evaluate.py`.
"""

from __future__ import annotations

import json
import math
import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import yaml
from torch.nn import functional as F
from tqdm import tqdm

from slidekick.data.errors import InputError
from slidekick.data.files import write_atomic
from slidekick.data.items import load_items
from slidekick.grounding.model import SegmentorConfig, SegmentorModel
from slidekick.grounding.tower import imagenet_state, to_tensor
from slidekick.grounding.windows import (
    Source,
    Truth,
    concept_sources,
    stain_jitter,
    window,
    window_truth,
)

CHECKPOINT, LOG = "checkpoint.pt", "log.jsonl"
DEFAULT_CONFIG = Path(__file__).parent / "configs" / "segmentor.yaml"
LARGE_SET = 50  # pictures; from here on a set is drawn no more often, or easy single cells crowd out hard tissue
DICE_SMOOTH = 16.0  # pixels; keeps near-empty windows from dominating
PLAN = (  # numbers that section `training` must hold
    "seed", "steps", "batch", "learning_rate", "encoder_learning_rate", "weight_decay", "warmup", "ema",
    "positive_share", "checkpoint_every", "log_every",
)  # fmt: skip
CONCEPT = ("kind", "synonyms", "mpp", "zoom", "jitter")  # keys that every concept must hold


@dataclass
class Sampler:
    """Draws balanced windows: concept by weight, then set, then picture; deterministic in (seed, step, index)."""

    concepts: dict[str, dict]
    sources: dict[str, list[Source]]
    side: int
    positive_share: float
    seed: int

    def __post_init__(self) -> None:
        self.names = [name for name in self.concepts if any(s.mode == "mask" for s in self.sources[name])]
        weights = np.array([self.concepts[name].get("weight", 1) for name in self.names], float)
        self.weights = weights / weights.sum()
        self.by_item: dict[Path, dict[str, Source]] = {}
        self.pools: dict[tuple[str, bool], dict[str, list[Source]]] = {}
        for name in self.names:
            for source in self.sources[name]:
                self.by_item.setdefault(source.item.image, {})[name] = source
                pool = self.pools.setdefault((name, source.mode != "absent"), {})
                pool.setdefault(source.item.set, []).append(source)

    def draw(self, step: int, index: int) -> tuple[np.ndarray, list[Truth]]:
        """uint8 (side, side, 3) and the truths of one or two prompts."""
        rng = np.random.default_rng([self.seed, step, index])
        name = self.names[rng.choice(len(self.names), p=self.weights)]
        positive = rng.random() < self.positive_share or (name, False) not in self.pools
        by_set = self.pools[name, positive]
        sizes = np.sqrt([min(len(rows), LARGE_SET) for rows in by_set.values()])
        rows = list(by_set.values())[rng.choice(len(by_set), p=sizes / sizes.sum())]
        source = rows[rng.integers(len(rows))]
        pixels, matrix = window(source, self.side, self.concepts[name]["jitter"], rng)
        prompts = [(name, source)]
        others = [(n, s) for n, s in self.by_item[source.item.image].items() if n != name]
        if others:
            prompts.append(others[rng.integers(len(others))])
        truths = [window_truth(s, self._phrase(n, rng), matrix, self.side) for n, s in prompts]
        return stain_jitter(pixels, rng), truths

    def _phrase(self, name: str, rng: np.random.Generator) -> str:
        words = [name, *self.concepts[name]["synonyms"]]
        return words[rng.integers(len(words))] if rng.random() < 0.5 else name


def prompt_loss(masks, interiors, present, truths: list[Truth]) -> tuple[torch.Tensor, dict[str, float]]:
    """Loss of one window's prompts: mask logits (P, h, w), interior logits (P, h, w), presence logits (P,)."""
    target = torch.from_numpy(np.stack([t.mask for t in truths]))
    bce = F.binary_cross_entropy_with_logits(masks, target)
    drawn = masks.sigmoid()
    overlap = 2 * (drawn * target).sum((1, 2)) + DICE_SMOOTH
    dice = 1 - overlap / (drawn.sum((1, 2)) + target.sum((1, 2)) + DICE_SMOOTH)
    there = torch.tensor([float(t.present) for t in truths])
    seen = F.binary_cross_entropy_with_logits(present, there)
    known = [i for i, t in enumerate(truths) if t.interior is not None]
    inner = masks.new_zeros(())
    if known:
        centre = torch.from_numpy(np.stack([truths[i].interior for i in known]))
        inner = F.binary_cross_entropy_with_logits(interiors[known], centre)
    loss = bce + 0.5 * dice.mean() + inner + 0.3 * seen
    return loss, {
        "mask": bce.item(),
        "dice": dice.mean().item(),
        "interior": inner.item(),
        "presence": seen.item(),
    }


def build(config: dict) -> SegmentorModel:
    """A model with the ImageNet tower inside and the rest at random."""
    model = SegmentorModel(SegmentorConfig(**config["model"]))
    names = set(model.encoder.body.state_dict())
    tower = {name: tensor for name, tensor in imagenet_state().items() if name in names}
    model.encoder.body.load_state_dict(tower)
    return model


def train(config_path: Path, data: Path, out: Path, resume: bool = False, steps: int | None = None) -> dict:
    """Train and leave `checkpoint.pt` and `log.jsonl` in `out`; returns the last logged figures.

    Raises InputError for a configuration or data folder that cannot be used.
    """
    config = load_config(config_path)
    plan = config["training"]
    total = steps or plan["steps"]
    torch.manual_seed(plan["seed"])
    items = load_items(data, split="train")
    sources = {name: concept_sources(entry, items) for name, entry in config["concepts"].items()}
    if not any(source.mode == "mask" for found in sources.values() for source in found):
        raise InputError(f"{data}: no labelled picture of any concept in {config_path}; give the sets it names")
    sampler = Sampler(config["concepts"], sources, config["model"]["window"], plan["positive_share"], plan["seed"])
    model = build(config)
    optimizer = _optimizer(model, plan)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, plan["warmup"], total))
    average = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    start = _load_checkpoint(out, model, optimizer, schedule, average) if resume else 0
    _trim_log(out / LOG, start)
    log = {}
    began = time.time()
    for step in tqdm(range(start, total), initial=start, total=total, desc="segmentor", mininterval=5):
        log = _step(model, optimizer, schedule, sampler, plan, step)
        _update_average(average, model, min(plan["ema"], (1 + step) / (10 + step)))
        if (step + 1) % plan["log_every"] == 0:
            entry = {"step": step + 1, "minutes": (time.time() - began) / 60, **log}
            out.mkdir(parents=True, exist_ok=True)
            with (out / LOG).open("a") as stream:
                stream.write(json.dumps(entry) + "\n")
        if (step + 1) % plan["checkpoint_every"] == 0 or step + 1 == total:
            _save_checkpoint(out, model, optimizer, schedule, average, step + 1)
    return log


def _step(model, optimizer, schedule, sampler: Sampler, plan: dict, step: int) -> dict[str, float]:
    model.train()
    for module in model.modules():  # ImageNet statistics are kept: batches this small would wobble them
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    drawn = [sampler.draw(step, index) for index in range(plan["batch"])]
    pixels = to_tensor(np.stack([p for p, _ in drawn])).contiguous(memory_format=torch.channels_last)
    embeddings = model.encode(pixels)
    parts = [
        prompt_loss(*model.decode(embedding, [t.phrase for t in truths]), truths)
        for embedding, (_, truths) in zip(embeddings, drawn, strict=True)
    ]
    loss = torch.stack([part for part, _ in parts]).mean()
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    schedule.step()
    figures = {key: float(np.mean([f[key] for _, f in parts])) for key in parts[0][1]}
    return {"loss": float(loss.detach()), **figures}


def _optimizer(model: SegmentorModel, plan: dict) -> torch.optim.Optimizer:
    tower = list(model.encoder.body.parameters())
    inside = {id(p) for p in tower}
    rest = [p for p in model.parameters() if id(p) not in inside]
    groups = [
        {"params": tower, "lr": plan["encoder_learning_rate"]},
        {"params": rest, "lr": plan["learning_rate"]},
    ]
    return torch.optim.AdamW(groups, weight_decay=plan["weight_decay"])


def _rate(step: int, warmup: int, total: int) -> float:
    """Linear warm-up, then half a cosine down to 2 %."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


def _update_average(average: dict, model: SegmentorModel, decay: float) -> None:
    for name, tensor in model.state_dict().items():
        if tensor.dtype.is_floating_point:
            average[name].lerp_(tensor.detach(), 1 - decay)


def _save_checkpoint(out: Path, model, optimizer, schedule, average: dict, step: int) -> None:
    out.mkdir(parents=True, exist_ok=True)
    state = {
        "model": model.state_dict(), "average": average, "optimizer": optimizer.state_dict(),
        "schedule": schedule.state_dict(), "step": step,
    }  # fmt: skip
    temporary = out / f"{CHECKPOINT}.part"
    torch.save(state, temporary)
    os.replace(temporary, out / CHECKPOINT)


def _load_checkpoint(out: Path, model, optimizer, schedule, average: dict) -> int:
    if not (out / CHECKPOINT).exists():
        return 0
    state = torch.load(out / CHECKPOINT, weights_only=True)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    schedule.load_state_dict(state["schedule"])
    average.update(state["average"])
    return state["step"]


def _trim_log(file: Path, step: int) -> None:
    """Forget what was logged after `step`: a run that goes on from there logs it again."""
    if file.exists():
        whole = [line for line in file.read_text().splitlines(keepends=True) if line.endswith("\n")]  # not a cut one
        kept = [line for line in whole if json.loads(line)["step"] <= step]
        write_atomic(file, "".join(kept))


def load_config(path: Path) -> dict:
    """The YAML as a dict; InputError where it is missing or broken, or lacks a section, a key or a number."""
    try:
        config = yaml.safe_load(Path(path).read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(
            f"{path}: cannot be read as YAML ({error.__class__.__name__}); give a configuration file"
        ) from error
    if complaint := _complaint(config):
        raise InputError(f"{path}: {complaint}; see grounding/configs/segmentor.yaml")
    return config


def _complaint(config: object) -> str | None:
    """What is wrong with a configuration, in a few words."""
    for section in ("model", "training", "concepts"):
        if not isinstance(config, dict) or section not in config:
            return f"section {section!r} is missing"
        if not isinstance(config[section], dict):
            return f"section {section!r} is no mapping"
    fields = SegmentorConfig.__dataclass_fields__
    numbers = [("model", key) for key in fields] + [("training", key) for key in PLAN]
    for section, key in numbers:
        if key not in config[section]:
            return f"{section}.{key} is missing"
        if not isinstance(value := config[section][key], int | float):  # YAML reads 1e-3 as text; 1.0e-3 is a number
            return f"{section}.{key} is {value!r}, not a number"
    if unknown := [key for key in config["model"] if key not in fields]:
        return f"model.{unknown[0]} is unknown"
    for name, entry in config["concepts"].items():
        if absent := [key for key in CONCEPT if key not in (entry or {})]:
            return f"concepts.{name}.{absent[0]} is missing"
    return None
