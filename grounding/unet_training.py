"""Training of one U-Net for each data set, against the clock: every set has the same minutes, whatever its size.

Windows, augmentation and losses are the segmentor's own. A run that was cut short goes on at the second of its last
checkpoint. Nothing is chosen on validation pictures.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from time import monotonic

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from slidekick.data.configuration import read_yaml
from slidekick.data.errors import InputError
from slidekick.data.files import write_atomic
from slidekick.data.items import Item, load_items
from slidekick.data.triples import Triple, shows, triples
from slidekick.grounding import tower
from slidekick.grounding.averaging import (
    begin_average,
    falling,
    keep_statistics,
    read_checkpoint,
    update_average,
    write_checkpoint,
)
from slidekick.grounding.lesson import WEIGHTS as SHARES
from slidekick.grounding.lesson import drawing_loss, interior_loss
from slidekick.grounding.runtime import torch_threads
from slidekick.grounding.sizes import MASK_STRIDE
from slidekick.grounding.train import load_config
from slidekick.grounding.unet import ABOUT, WEIGHTS, UNet
from slidekick.grounding.windows import cut, interior_map, stain_jitter, window

CHECKPOINT = "checkpoint.pt"
CLIP = 1.0


@dataclass(frozen=True)
class UNetPlan:
    """Section `training` of a U-Net configuration.

    minutes: for each set. threads: of torch, 0 leaves them as they are. window: px, a multiple of 32. warmup: steps.
    positive_share: of windows, of a picture that holds the drawn concept. checkpoint_seconds: between checkpoints.
    """

    seed: int = 7
    minutes: float = 4.0
    threads: int = 2
    window: int = 256
    batch: int = 8
    learning_rate: float = 1e-3
    encoder_learning_rate: float = 3e-4
    weight_decay: float = 0.02
    warmup: int = 30
    ema: float = 0.99
    positive_share: float = 0.8
    checkpoint_seconds: float = 30.0


@dataclass(frozen=True)
class UNetConfig:
    """A plan, and the concepts as `train.load_config` gives them (kind, zoom, jitter by name)."""

    plan: UNetPlan
    concepts: dict[str, dict]


def load_unet_config(path: Path) -> UNetConfig:
    """The YAML of `train unets`. Raises InputError where it, or the YAML of the concepts, is missing or broken."""
    written = read_yaml(path)
    if complaint := _complaint(written):
        raise InputError(f"{path}: {complaint}; see grounding/configs/unet.yaml")
    concepts = load_config(Path(path).parent / written["concepts"])["concepts"]
    return UNetConfig(UNetPlan(**written.get("training", {})), concepts)


def _complaint(written: object) -> str | None:
    if not isinstance(written, dict) or not isinstance(written.get("concepts"), str):
        return "concepts names no YAML, such as segmentor.yaml"
    plan = written.get("training", {})
    if not isinstance(plan, dict):
        return "section 'training' is no mapping"
    kinds = {field.name: field.type for field in fields(UNetPlan)}
    for key, value in plan.items():
        if key not in kinds:
            return f"training.{key} is unknown"
        allowed = (int,) if kinds[key] == "int" else (int, float)
        if type(value) not in allowed:  # YAML reads 1e-3 as text; 1.0e-3 is a number
            return f"training.{key} is {value!r}, not {'a whole' if len(allowed) == 1 else 'a'} number"
        if not 0 <= value < math.inf or (value == 0 and key in ("minutes", "window", "batch")):
            return f"training.{key} is {value!r}, out of range"
    if plan.get("window", 32) % 32:
        return f"training.window is {plan['window']}, no multiple of 32"
    return None


def sets_to_train(items: Sequence[Item], concepts: Sequence[str]) -> dict[str, list[str]]:
    """Sets, in name order, that mark something in a train and in a test picture -> concepts marked in train ones."""
    drawn: dict[str, dict[str, list[Triple]]] = {}
    for triple in triples(items, list(concepts)):
        if triple.mode == "mask":
            drawn.setdefault(triple.item.set, {}).setdefault(triple.item.split, []).append(triple)
    wanted = {}
    for name in sorted(drawn):
        if not any(shows(triple) for triple in drawn[name].get("test", ())):
            continue
        train = drawn[name].get("train", ())
        marked = [c for c in concepts if any(shows(triple) for triple in train if triple.concept == c)]
        if marked:
            wanted[name] = marked
    return wanted


def train_unets(
    config: UNetConfig, data: Path, out: Path, minutes: float | None = None, threads: int | None = None
) -> dict[str, dict]:
    """A U-Net for each set under `data` that can have one, in name order; those that `out` holds finished are left.

    minutes, threads: in place of the plan's. Returns set -> what its `unet.json` says.
    Raises InputError where no set marks a concept in both a train and a test picture.
    """
    items = load_items(data)
    wanted = sets_to_train(items, list(config.concepts))
    if not wanted:
        raise InputError(f"{data}: no set with masks of a concept in train and test pictures; give labelled sets")
    minutes = config.plan.minutes if minutes is None else minutes
    threads = config.plan.threads if threads is None else threads
    made = {}
    for name in (bar := tqdm(wanted, desc="U-Nets")):
        bar.set_postfix_str(name)
        done = out / name / ABOUT
        made[name] = json.loads(done.read_text()) if done.is_file() else None
        made[name] = made[name] or train_unet(name, items, config, minutes, out, threads)
    return made


def train_unet(
    set_name: str, items: Sequence[Item], config: UNetConfig, minutes: float, out: Path, threads: int = 0
) -> dict:
    """Train on the set's train split for `minutes` and write `<out>/<set>/unet.safetensors`, then `unet.json`.

    A checkpoint that is there is gone on from, and removed at the end. Returns what `unet.json` says: concepts (kind
    and zoom by name), minutes, steps, seed, threads. Raises InputError where the set marks no concept in train
    pictures, and for a checkpoint of other concepts.
    """
    own = [item for item in items if item.set == set_name and item.split == "train"]
    draws = Draws(own, config)
    if not draws.names:
        raise InputError(f"{set_name}: no train picture marks a concept; leave the set out")
    folder = Path(out) / set_name
    with torch_threads(threads):
        run = _Run(draws.kinds, config.plan)
        run.load(folder / CHECKPOINT)
        saved, began = run.spent, monotonic() - run.spent
        while run.spent < 60 * minutes:  # progress is time, so that it ends on time whatever a step costs
            run.step(draws, run.spent / (60 * minutes))
            run.spent = monotonic() - began
            if run.spent - saved >= config.plan.checkpoint_seconds:
                run.save(folder / CHECKPOINT)
                saved = run.spent
        used = torch.get_num_threads()
    about = {
        "concepts": {n: {"kind": draws.kinds[n], "zoom": config.concepts[n]["zoom"]} for n in draws.names},
        "minutes": minutes, "steps": run.steps, "seed": config.plan.seed, "threads": used,
    }  # fmt: skip
    write_atomic(folder / WEIGHTS, tower.float16_bytes(run.average))
    write_atomic(folder / ABOUT, json.dumps(about, indent=1))  # last: its presence says that all is there
    (folder / CHECKPOINT).unlink(missing_ok=True)
    return about


class Draws:
    """Windows of one set with the truth of every concept of it; deterministic in (seed, step).

    names: the concepts that its pictures mark. kinds: of these.
    """

    def __init__(self, items: Sequence[Item], config: UNetConfig) -> None:
        found = triples(items, list(config.concepts))
        marked = {triple.concept for triple in found if triple.mode == "mask" and shows(triple)}
        self.plan, self.concepts = config.plan, config.concepts
        self.names = [name for name in config.concepts if name in marked]
        self.kinds = {name: config.concepts[name]["kind"] for name in self.names}
        self.by_item: dict[Path, dict[str, Triple]] = {}
        self.pools: dict[tuple[str, bool], list[Triple]] = {}
        for triple in found:
            if triple.concept in marked:
                self.by_item.setdefault(triple.item.image, {})[triple.concept] = triple
                self.pools.setdefault((triple.concept, shows(triple)), []).append(triple)

    def batch(self, step: int) -> tuple[torch.Tensor, ...]:
        """Pixels (B, 3, S, S); masks, judged and interiors, float32 (B, C, S/2, S/2); known and told, bool (B, C):
        something is known of the concept there, and its objects are told apart."""
        rng = np.random.default_rng([self.plan.seed, step])
        rows = [self._window(rng) for _ in range(self.plan.batch)]
        pixels, *targets = (np.stack(column) for column in zip(*rows, strict=True))
        pixels = tower.to_tensor(pixels).contiguous(memory_format=torch.channels_last)
        return pixels, *(torch.from_numpy(column) for column in targets)

    def _window(self, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
        name = self.names[rng.integers(len(self.names))]
        positive = rng.random() < self.plan.positive_share or (name, False) not in self.pools
        pool = self.pools[name, positive]
        first = pool[rng.integers(len(pool))]
        pixels, matrix = window(first, self.plan.window, self.concepts[name]["jitter"], rng)
        own = self.by_item[first.item.image]
        known = np.array([name in own for name in self.names])
        told = known.copy()
        size = self.plan.window // MASK_STRIDE
        mask, judged, interior = np.zeros((3, len(self.names), size, size), np.float32)
        for place in np.flatnonzero(known):
            triple = own[self.names[place]]
            mask[place], judged[place], ids = cut(triple, matrix, self.plan.window)
            told[place] = ids is not None or triple.mode == "absent"
            if ids is not None:
                interior[place] = interior_map(ids)
        return stain_jitter(pixels, rng), mask, judged, interior, known, told


def unet_loss(
    model: UNet, logits: torch.Tensor, mask: torch.Tensor, judged: torch.Tensor, interior: torch.Tensor,
    known: torch.Tensor, told: torch.Tensor,
) -> torch.Tensor:  # fmt: skip
    """The segmentor's losses of masks and interiors, over concepts of which something is known.

    logits: (B, C + O, h, w) of `model`; the rest as `Draws.batch` gives it.
    """
    drawn = logits[:, : len(model.names)]
    bce, overlap = drawing_loss(drawn[known], mask[known], judged[known])
    loss = SHARES["mask"] * bce + SHARES["dice"] * overlap
    if not model.objects:
        return loss
    places = [model.names.index(name) for name in model.objects]
    middles = logits[:, len(model.names) :].flatten(0, 1)
    wanted, sure = (tensor[:, places].flatten(0, 1) for tensor in (interior, judged))
    return loss + SHARES["interior"] * interior_loss(middles, wanted, told[:, places].flatten(), sure)


class _Run:
    """A U-Net in training: weights, their average, optimizer, steps and seconds spent."""

    def __init__(self, kinds: Mapping[str, str], plan: UNetPlan) -> None:
        torch.manual_seed(plan.seed)
        self.plan = plan
        self.model = UNet(kinds)
        body = self.model.body
        names = set(body.state_dict())
        body.load_state_dict({name: t for name, t in tower.imagenet_state().items() if name in names})
        self.model.train()
        keep_statistics(self.model)
        rest = [*self.model.up.parameters(), *self.model.head.parameters()]
        self.rates = (plan.encoder_learning_rate, plan.learning_rate)
        groups = [{"params": list(body.parameters())}, {"params": rest}]
        self.optimizer = torch.optim.AdamW(groups, weight_decay=plan.weight_decay)
        self.average = begin_average(self.model)
        self.steps, self.spent = 0, 0.0

    def step(self, draws: Draws, progress: float) -> float:
        """One step at `progress` (0–1) of the cosine; the loss."""
        warm = min(1.0, (self.steps + 1) / max(1, self.plan.warmup))
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * warm * falling(progress)
        pixels, *targets = draws.batch(self.steps)
        loss = unet_loss(self.model, self.model(pixels), *targets)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
        self.optimizer.step()
        update_average(self.average, self.model, self.plan.ema, self.steps)
        self.steps += 1
        return float(loss.detach())

    def save(self, file: Path) -> None:
        """The whole run, or nothing."""
        state = {
            "model": self.model.state_dict(), "average": self.average, "optimizer": self.optimizer.state_dict(),
            "steps": self.steps, "spent": self.spent, "concepts": self.model.names,
        }  # fmt: skip
        write_checkpoint(file, state)

    def load(self, file: Path) -> None:
        """Go on from a checkpoint, if there is one. Raises InputError for one of other concepts."""
        if not file.exists():
            return
        state = read_checkpoint(file)
        if state["concepts"] != self.model.names:
            raise InputError(f"{file}: is of {', '.join(state['concepts'])}; remove it, or give another --out")
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.average, self.steps, self.spent = state["average"], state["steps"], state["spent"]
