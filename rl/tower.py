"""First stage: the shared tower is tuned on all labelled sets together, then frozen and its maps are cached.

One linear head a set, and one each for organ and stain; a picture trains the heads whose answer it knows. The heads
are thrown away. Cross-entropy with label smoothing; pictures are mixed in pairs (mixup, Zhang et al. 2018; CutMix, Yun
et al. 2019); ImageNet's batch statistics are kept; weights are averaged.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import timm
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F
from tqdm import tqdm

from slidekick.copilot.base import IMAGE_SIDE
from slidekick.data.files import write_atomic
from slidekick.data.items import Item
from slidekick.grounding.averaging import begin_average, update_average
from slidekick.grounding.tower import ARCHITECTURE, float16_bytes, imagenet_state, to_tensor
from slidekick.grounding.windows import pixels_of, stain_jitter


def new_tower() -> nn.Module:
    """The tower without its 1000 classes, ImageNet weights inside; (B, 3, H, W) -> (B, 1280) pooled."""
    tower = timm.create_model(ARCHITECTURE, pretrained=False, num_classes=0)
    tower.load_state_dict({name: t for name, t in imagenet_state().items() if not name.startswith("classifier.")})
    return tower


def folded(tower: nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
    """`tower` in eval mode, each batch normalisation computed into the weights of the convolution before it.

    Same outputs and same gradients of all of `tower`'s parameters, without its passes over every map, a sixth of a
    step.
    """
    bare, pairs, conv = deepcopy(tower), [], ""
    for name, module in tower.named_modules():
        if isinstance(module, nn.Conv2d):
            conv = name
        elif isinstance(module, nn.BatchNorm2d):
            pairs.append((tower.get_submodule(conv), conv, module))
            bare.get_submodule(conv).bias = nn.Parameter(torch.zeros_like(module.bias))
            bare.set_submodule(name, module.act)  # timm's normalisation holds the activation after it

    def forward(pixels: torch.Tensor) -> torch.Tensor:
        weights = {}
        for module, name, norm in pairs:
            scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
            scaled = module.weight * scale[:, None, None, None]
            weights[f"{name}.weight"] = scaled.contiguous(memory_format=torch.channels_last)
            weights[f"{name}.bias"] = norm.bias - norm.running_mean * scale
        return functional_call(bare, weights, (pixels,))

    return forward


def heads_of(items: Sequence[Item]) -> dict[str, list[str]]:
    """Head name -> its answers: a set's labels, organs, stains. Heads with one answer are left out."""
    answers: dict[str, set[str]] = defaultdict(set)
    for item in items:
        for head, answer in _answers(item):
            answers[head].add(answer)
    return {head: sorted(found) for head, found in sorted(answers.items()) if len(found) > 1}


def _answers(item: Item) -> list[tuple[str, str]]:
    found = [("organ", item.organ), ("stain", item.stain), (item.set, item.label)]
    return [(head, answer) for head, answer in found if answer]


def augment(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A random view: 70–100 % of each side, a quarter turn, a mirror image, other stain strengths. uint8 in and out."""
    height, width = pixels.shape[:2]
    share = rng.uniform(0.7, 1.0)
    h, w = max(1, int(height * share)), max(1, int(width * share))
    y, x = rng.integers(height - h + 1), rng.integers(width - w + 1)
    view = np.rot90(pixels[y : y + h, x : x + w], rng.integers(4))
    view = view[:, ::-1] if rng.random() < 0.5 else view
    return stain_jitter(shrink(np.ascontiguousarray(view)), rng)


def shrink(pixels: np.ndarray) -> np.ndarray:
    """Squeezed to the tower's square, smoothed where it gets smaller. uint8 (H, W, 3) -> (side, side, 3)."""
    smaller = min(pixels.shape[:2]) > IMAGE_SIDE
    return cv2.resize(pixels, (IMAGE_SIDE, IMAGE_SIDE), interpolation=cv2.INTER_AREA if smaller else cv2.INTER_CUBIC)


def train_tower(items: Sequence[Item], plan: dict, target: Path) -> None:
    """Tune the tower on `items` and write it to `target` (safetensors, float16, timm's names).

    plan: seed, steps, batch, learning_rate, label_smoothing, ema, mixed (share of steps whose pictures are mixed).
    """
    torch.manual_seed(plan["seed"])
    rng = np.random.default_rng(plan["seed"])
    tower = new_tower().to(memory_format=torch.channels_last)
    answers = heads_of(items)
    heads = {head: nn.Linear(1280, len(found)) for head, found in answers.items()}  # ModuleDict forbids some names
    taught = nn.ModuleList(heads.values()).parameters()
    parameters = [{"params": tower.parameters()}, {"params": taught, "lr": plan["learning_rate"] * 5}]
    optimizer = torch.optim.AdamW(parameters, lr=plan["learning_rate"], weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, [plan["learning_rate"], plan["learning_rate"] * 5], total_steps=plan["steps"], pct_start=0.1
    )
    average = begin_average(tower)
    see = folded(tower.eval())  # batch statistics stay ImageNet's; the weights still learn
    draw = _balanced(items, rng)

    def drawn() -> tuple[list[Item], torch.Tensor, Mix]:
        batch = [draw() for _ in range(plan["batch"])]
        pixels = to_tensor(np.stack([augment(pixels_of(item.image), rng) for item in batch]))
        return batch, *mix(pixels, plan.get("mixed", 0.0), rng)

    began = time.monotonic()
    bar = tqdm(range(plan["steps"]), desc="tower", mininterval=5)
    reader = ThreadPoolExecutor(1)  # one alone, so that what is drawn hangs on the seed only
    coming = reader.submit(drawn)
    for step in bar:
        batch, pixels, mixed = coming.result()
        coming = reader.submit(drawn)
        pooled = see(pixels.contiguous(memory_format=torch.channels_last))
        loss = mixed.share * _loss(pooled, batch, heads, answers, plan)
        if mixed.share < 1:
            others = [batch[i] for i in mixed.partner]
            loss = loss + (1 - mixed.share) * _loss(pooled, others, heads, answers, plan)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        update_average(average, tower, plan["ema"], step)
        if step % 20 == 0:
            bar.set_postfix(loss=f"{loss.item():.3f}", minutes=f"{(time.monotonic() - began) / 60:.1f}")
    reader.shutdown()
    save_tower(average, target)


class Mix(NamedTuple):
    """How a batch was mixed: `share` of each picture is its own, the rest that of the picture `partner` names."""

    partner: np.ndarray
    share: float


def mix(pixels: torch.Tensor, chance: float, rng: np.random.Generator) -> tuple[torch.Tensor, Mix]:
    """With `chance` each picture (B, 3, H, W) is blended with another of the batch, or has a box of it put in.

    Half of the mixtures are blends, half boxes; a picture keeps between a half and all of itself.
    """
    order = rng.permutation(len(pixels))
    if rng.random() >= chance:
        return pixels, Mix(order, 1.0)
    share = rng.uniform(0.5, 1.0)
    if rng.random() < 0.5:
        return share * pixels + (1 - share) * pixels[order], Mix(order, share)
    height, width = pixels.shape[-2:]
    h, w = (round(side * (1 - share) ** 0.5) for side in (height, width))
    y, x = rng.integers(height - h + 1), rng.integers(width - w + 1)
    mixed = pixels.clone()
    mixed[..., y : y + h, x : x + w] = pixels[order][..., y : y + h, x : x + w]
    return mixed, Mix(order, 1 - h * w / (height * width))


def save_tower(state: dict, target: Path) -> None:
    """Write a tower's state dict as float16 safetensors, atomically."""
    write_atomic(target, float16_bytes(state))


def _balanced(items: Sequence[Item], rng: np.random.Generator):
    """A drawer of items: set by the root of its size, then label, then picture."""
    by_set: dict[str, dict[str, list[Item]]] = defaultdict(lambda: defaultdict(list))
    for item in items:
        by_set[item.set][item.label or ""].append(item)
    names = sorted(by_set)
    # Sets without labels only teach organ and stain: a quarter of their share is enough.
    sizes = [sum(map(len, by_set[n].values())) ** 0.5 * (0.25 if list(by_set[n]) == [""] else 1) for n in names]
    weights = np.array(sizes) / sum(sizes)
    labels = {name: sorted(by_set[name]) for name in names}

    def draw() -> Item:
        name = names[rng.choice(len(names), p=weights)]
        rows = by_set[name][labels[name][rng.integers(len(labels[name]))]]
        return rows[rng.integers(len(rows))]

    return draw


def _loss(pooled: torch.Tensor, batch: Sequence[Item], heads, answers: dict, plan: dict) -> torch.Tensor:
    rows: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for index, item in enumerate(batch):
        for head, answer in _answers(item):
            if head in answers:
                rows[head].append((index, answers[head].index(answer)))
    total = pooled.new_zeros(())
    for head, pairs in rows.items():
        index, target = (torch.tensor(column) for column in zip(*pairs, strict=True))
        loss = F.cross_entropy(
            heads[head](pooled[index]), target, label_smoothing=plan["label_smoothing"], reduction="sum"
        )
        total = total + loss * (0.2 if head in ("organ", "stain") else 1.0)
    return total / len(batch)


def features(tower: nn.Module, images: Sequence[np.ndarray], batch: int = 32) -> np.ndarray:
    """Feature maps of pictures already at the tower's size: float16 (N, 36, 1280)."""
    out = []
    with torch.inference_mode():
        for start in range(0, len(images), batch):
            maps = tower.forward_features(to_tensor(np.stack(images[start : start + batch])))
            out.append(maps.flatten(2).transpose(1, 2).half().numpy())
    return np.concatenate(out)
