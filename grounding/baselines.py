"""What the segmentor is held against: a U-Net for each set (what a lab would train), the mean mask, oracle boxes.

The U-Net (Ronneberger et al. 2015) stands on the same ImageNet tower, sees the same windows and augmentation, is
trained for some minutes on one set's train split, and is read out by the same tiles and the same growing of objects.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import timm
import torch
from torch import nn
from torch.nn import functional as F
from tqdm import tqdm

from slidekick.data.files import write_atomic
from slidekick.data.items import Item, load_items
from slidekick.data.triples import Triple, pixels_of, triples, truth
from slidekick.grounding.instances import grow_instances, label_at_full_size
from slidekick.grounding.lesson import drawing_loss, interior_loss
from slidekick.grounding.metrics import dice
from slidekick.grounding.segmentor import DRAWN, Segmentor, sigmoid, zoom_for
from slidekick.grounding.tiles import Canvas, Tiling, rescale
from slidekick.grounding.tower import ARCHITECTURE, float16_bytes, imagenet_state, to_tensor
from slidekick.grounding.windows import cut, interior_map, stain_jitter, window

UNET, ABOUT = "unet.safetensors", "unet.json"
SIDE, BATCH = 256, 8
WIDTHS = (128, 96, 64, 32)  # of the decoder at strides 16, 8, 4, 2
LEARNING_RATE, ENCODER_RATE, EMA = 1e-3, 3e-4, 0.99
GRID = 64  # cells of a mean mask's side


class UNet(nn.Module):
    """forward: (B, 3, H, W) in −1…1, sides multiples of 32 -> logits (B, concepts, 2, H/2, W/2): mask and interior."""

    def __init__(self, concepts: int) -> None:
        super().__init__()
        self.body = timm.create_model(ARCHITECTURE, features_only=True, pretrained=False)
        *skips, deepest = self.body.feature_info.channels()
        below = (deepest, *WIDTHS[:-1])
        self.up = nn.ModuleList(
            _block(low + skip, width) for low, skip, width in zip(below, skips[::-1], WIDTHS, strict=True)
        )
        self.head = nn.Conv2d(WIDTHS[-1], 2 * concepts, 1)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        *skips, state = self.body(pixels)
        for block, skip in zip(self.up, skips[::-1], strict=True):
            state = block(torch.cat([F.interpolate(state, scale_factor=2.0, mode="bilinear"), skip], 1))
        return self.head(state).unflatten(1, (-1, 2))


def _block(into: int, width: int) -> nn.Sequential:
    layers = []
    for channels in (into, width):
        layers += [nn.Conv2d(channels, width, 3, padding=1), nn.GroupNorm(8, width), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


def sets_to_train(items: Sequence[Item], concepts: dict[str, dict]) -> dict[str, list[str]]:
    """Sets that mark a concept both in a train and in a test picture -> the concepts that they mark in train ones."""
    marked: dict[tuple[str, str], set[str]] = {}
    for triple in triples(items, list(concepts)):
        if triple.mode == "mask" and truth(triple)[0].any():
            marked.setdefault((triple.item.set, triple.item.split), set()).add(triple.concept)
    names = sorted({name for name, _ in marked})
    return {
        name: [c for c in concepts if c in marked[name, "train"]]
        for name in names
        if marked.get((name, "train")) and marked.get((name, "test"))
    }


def train_unets(config: dict, data: Path, out: Path, minutes: float, seed: int = 7) -> dict[str, dict]:
    """A U-Net for each set, `minutes` each; those that `out` already holds are left. Set -> what was written of it."""
    items = load_items(data)
    wanted = sets_to_train(items, config["concepts"])
    made = {}
    for name, concepts in tqdm(wanted.items(), desc="U-Nets"):
        folder = out / name
        if not (folder / ABOUT).is_file():
            own = [item for item in items if item.set == name and item.split == "train"]
            model, steps = train_unet(own, {c: config["concepts"][c] for c in concepts}, minutes, seed)
            write_atomic(folder / UNET, float16_bytes(model.state_dict()))
            about = {"concepts": concepts, "minutes": minutes, "steps": steps, "threads": torch.get_num_threads()}
            write_atomic(folder / ABOUT, json.dumps(about, indent=1))  # last: its presence says that all is there
        made[name] = json.loads((folder / ABOUT).read_text())
    return made


def train_unet(items: Sequence[Item], concepts: dict[str, dict], minutes: float, seed: int) -> tuple[UNet, int]:
    """One U-Net on one set's pictures, with averaged weights; and the number of steps that the minutes allowed."""
    torch.manual_seed(seed)
    by_item: dict[Path, dict[str, Triple]] = {}
    for triple in triples(items, list(concepts)):
        if triple.mode == "mask":
            by_item.setdefault(triple.item.image, {})[triple.concept] = triple
    pictures = [own for own in by_item.values() if own]
    model = UNet(len(concepts))
    names = set(model.body.state_dict())
    model.body.load_state_dict({name: tensor for name, tensor in imagenet_state().items() if name in names})
    tower = list(model.body.parameters())
    rest = [*model.up.parameters(), *model.head.parameters()]
    optimizer = torch.optim.AdamW(
        [{"params": tower, "lr": ENCODER_RATE}, {"params": rest, "lr": LEARNING_RATE}], weight_decay=0.02
    )
    rates = [group["lr"] for group in optimizer.param_groups]
    average = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    began, step = time.monotonic(), 0
    while (done := (time.monotonic() - began) / (60 * minutes)) < 1:
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * min(1, (step + 1) / 30) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))
        rng = np.random.default_rng([seed, step])
        pixels, *targets = _windows(pictures, concepts, rng)
        model.train()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        loss = _loss(model(pixels.contiguous(memory_format=torch.channels_last)), *targets)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
        for name, tensor in model.state_dict().items():
            if tensor.dtype.is_floating_point:
                average[name].lerp_(tensor.detach(), 1 - min(EMA, step / (10 + step)))
    model.load_state_dict(average)
    return model.eval(), step


def _windows(pictures: list[dict[str, Triple]], concepts: dict[str, dict], rng: np.random.Generator):
    """Pixels (B, 3, S, S); masks, judged and interiors (B, C, S/2, S/2); whether a concept is known and its objects
    told apart (B, C)."""
    names = list(concepts)
    rows = []
    for _ in range(BATCH):
        own = pictures[rng.integers(len(pictures))]
        first = own[list(own)[rng.integers(len(own))]]
        pixels, matrix = window(first, SIDE, concepts[first.concept]["jitter"], rng)
        blank = np.zeros((SIDE // 2, SIDE // 2), np.float32)
        cells = [cut(own[name], matrix, SIDE) if name in own else (blank, blank, None) for name in names]
        rows.append(
            (
                stain_jitter(pixels, rng),
                np.stack([mask for mask, _, _ in cells]),
                np.stack([judged for _, judged, _ in cells]),
                np.stack([blank if ids is None else interior_map(ids) for *_, ids in cells]),
                np.array([ids is not None for *_, ids in cells]),
            )
        )
    pixels, *targets = (np.stack(column) for column in zip(*rows, strict=True))
    return to_tensor(pixels), *(torch.from_numpy(column) for column in targets)


def _loss(logits: torch.Tensor, mask, judged, interior, told) -> torch.Tensor:
    flat = [tensor.flatten(0, 1) for tensor in (logits, mask, judged, interior, told)]
    bce, overlap = drawing_loss(flat[0][:, 0], flat[1], flat[2])
    return bce + 0.7 * overlap + interior_loss(flat[0][:, 1], flat[3], flat[4])


class UNetPredictor:
    """A trained U-Net, read out as the segmentor is. folder: as `train_unets` wrote it."""

    def __init__(self, folder: Path, concepts: dict[str, dict]) -> None:
        from safetensors.torch import load_file

        self.names: list[str] = json.loads((folder / ABOUT).read_text())["concepts"]
        self.concepts = concepts
        self.model = UNet(len(self.names))
        self.model.load_state_dict({name: tensor.float() for name, tensor in load_file(folder / UNET).items()})
        self.model.eval()

    @torch.inference_mode()
    def predict(self, image: np.ndarray, concept: str, zoom: float) -> np.ndarray:
        """Mask, bool (H, W), of one concept of the set at `zoom`."""
        scaled = rescale(image, zoom)
        tiling = Tiling.over(*scaled.shape[:2])
        canvas = Canvas(tiling)
        for place, tile in zip(tiling.places, tiling.cut(scaled), strict=True):
            logits = self.model(to_tensor(tile[None]))[0, self.names.index(concept)].numpy()
            canvas.add(place, tiling.taper, sigmoid(logits), 0.0)
        import cv2

        drawn = cv2.resize(canvas.drawn, image.shape[1::-1], interpolation=cv2.INTER_LINEAR) >= DRAWN
        if self.concepts[concept]["kind"] != "object":
            return drawn
        return label_at_full_size(grow_instances(canvas.drawn >= DRAWN, canvas.interior), drawn) > 0


def mean_masks(items: Sequence[Item], concepts: Sequence[str]) -> dict[str, np.ndarray]:
    """What words alone can give: the mean training mask of each concept, cut where its own pictures fare best.

    bool (GRID, GRID) a concept, over all sets.
    """
    import cv2

    found = {}
    for name in concepts:
        masks = [truth(t)[0] for t in triples(items, [name]) if t.mode == "mask"]
        small = [cv2.resize(m.astype(np.float32), (GRID, GRID), interpolation=cv2.INTER_AREA) for m in masks if m.any()]
        if small:
            mean = np.mean(small, axis=0)
            levels = np.quantile(mean, np.linspace(0, 0.95, 12))
            found[name] = mean >= max(levels, key=lambda c: np.mean([dice(mean >= c, one >= 0.5) for one in small]))
    return found


def oracle_boxes(mask: np.ndarray, ids: np.ndarray | None) -> list[tuple[int, int, int, int]]:
    """Boxes (x0, y0, x1, y1) of the true objects, or of a region's connected pieces; no specks under 12 px."""
    from scipy import ndimage

    labels = ndimage.label(mask)[0] if ids is None else ids
    areas = np.bincount(labels.ravel())
    slices = ndimage.find_objects(labels)
    return [
        (box[1].start, box[0].start, box[1].stop, box[0].stop)
        for index, box in enumerate(slices, 1)
        if box is not None and areas[index] >= 12 and min(box[0].stop - box[0].start, box[1].stop - box[1].start) > 1
    ]


def compare(
    segmentor: Segmentor, items: Sequence[Item], train: Sequence[Item], config: dict, unets: Path
) -> list[dict]:
    """One row a picture that holds a concept, with the Dice of its set's U-Net (None without one), of the mean mask,
    and of our own segmentor given the true objects' boxes in place of words."""
    import cv2

    concepts = config["concepts"]
    means = mean_masks(train, list(concepts))
    ready = {folder.parent.name: UNetPredictor(folder.parent, concepts) for folder in sorted(unets.glob(f"*/{ABOUT}"))}
    rows = []
    wanted = [t for t in triples(items, list(concepts)) if t.mode == "mask" and truth(t)[0].any()]
    for triple in tqdm(wanted, desc="peers", mininterval=5):
        image, (mask, ids) = pixels_of(triple.item.image), truth(triple)
        mpp = (triple.item.mpp,) * 2 if triple.item.mpp else None
        row = {"concept": triple.concept, "set": triple.item.set, "item": f"{triple.item.set}/{triple.item.id}"}
        unet = ready.get(triple.item.set)
        zoom = zoom_for(segmentor.vocabulary.concepts[triple.concept], mpp, max(image.shape[:2]))
        known = unet is not None and triple.concept in unet.names
        row["unet"] = dice(unet.predict(image, triple.concept, zoom), mask) if known else None
        size = image.shape[1::-1]
        guess = cv2.resize(means[triple.concept].astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
        row["mean_mask"] = dice(guess > 0, mask)
        boxes = oracle_boxes(mask, ids)
        row["oracle_box"] = dice(segmentor.segment(image, [], mpp=mpp, boxes=boxes)[0].mask, mask) if boxes else None
        rows.append(row)
    return rows


def by_set(rows: Sequence[dict]) -> dict[str, dict]:
    """Rows of `compare` as "concept in set" -> mean Dice of each peer and n, for `evaluate.minus_unet`."""
    groups: dict[str, list[dict]] = {}
    for row in rows:
        if row["unet"] is not None:
            groups.setdefault(f"{row['concept']} in {row['set']}", []).append(row)
    return {
        name: {
            "value": round(float(np.mean([row["unet"] for row in group])), 4),
            "mean_mask": round(float(np.mean([row["mean_mask"] for row in group])), 4),
            "oracle_box": round(float(np.mean([row["oracle_box"] or 0.0 for row in group])), 4),
            "n": len(group),
        }
        for name, group in sorted(groups.items())
    }
