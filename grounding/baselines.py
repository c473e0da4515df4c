"""What the segmentor is held against, in one harness: a U-Net for each set, mean masks, and its own oracle boxes.

The U-Nets (`unet.py`, `unet_training.py`) show what a lab would get from its own pictures; mean masks what words alone
can give; oracle boxes how good the outlines are where it is told what to outline. Nothing is trained here.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from scipy import ndimage
from tqdm import tqdm

from slidekick.data.errors import InputError
from slidekick.data.items import Item
from slidekick.data.triples import Triple, judged, pixels_of, triples, truth
from slidekick.grounding.metrics import dice
from slidekick.grounding.prompts import SMALLEST_OBJECT
from slidekick.grounding.segmentor import Segmentor
from slidekick.grounding.unet import ABOUT, UNetPredictor

GRID = 64  # cells of a mean mask's side
PEERS = ("unet", "mean_mask", "oracle_box")  # columns of `compare`


class MeanMask:
    """What words alone can give: where the concept usually is in a picture, whatever the picture shows.

    shapes: concept -> bool (GRID, GRID).
    """

    def __init__(self, shapes: dict[str, np.ndarray]) -> None:
        self.shapes = shapes

    @classmethod
    def learn(cls, items: Sequence[Item], concepts: Sequence[str]) -> MeanMask:
        """From all drawn, non-empty masks of `items`: their mean, cut where their mean Dice is highest."""
        shapes = {}
        for name in concepts:
            masks = [truth(triple)[0] for triple in triples(items, [name]) if triple.mode == "mask"]
            if small := [_small(mask) for mask in masks if mask.any()]:
                shapes[name] = best_cut(np.stack(small))
        return cls(shapes)

    def predict(self, image: np.ndarray, concept: str) -> np.ndarray:
        """Mask, bool (H, W), for a picture uint8 (H, W, 3) whose pixels are not looked at.

        Raises InputError for a concept that no training picture marked.
        """
        if concept not in self.shapes:
            raise InputError(f"concept {concept!r} has no mean mask; there are {', '.join(self.shapes) or 'none'}")
        shape = self.shapes[concept].astype(np.uint8)
        return cv2.resize(shape, image.shape[1::-1], interpolation=cv2.INTER_NEAREST) > 0


def _small(mask: np.ndarray) -> np.ndarray:
    """Share of each of GRID × GRID cells that is marked, float32."""
    return cv2.resize(mask.astype(np.float32), (GRID, GRID), interpolation=cv2.INTER_AREA)


def best_cut(shares: np.ndarray) -> np.ndarray:
    """The mean of `shares` (float, (N, h, w), 0–1, none empty) cut at the value at which the mean Dice is highest.

    Every value of the mean is tried. Dice counts a cell by its share, so it is that of the full-size masks.
    Returns bool (h, w), never empty.
    """
    flat = shares.reshape(len(shares), -1).astype(np.float64)
    mean = flat.mean(0)
    order = np.argsort(-mean, kind="stable")
    number = np.arange(1, len(order) + 1)
    scores = np.zeros(len(order))
    for one in flat:  # of the 1, 2, … cells with the highest mean
        scores += 2 * np.cumsum(one[order]) / (number + one.sum())
    last = np.append(mean[order][1:] < mean[order][:-1], True)  # cells of one value go together
    value = mean[order][np.argmax(np.where(last, scores, -1.0))]
    return (mean >= value).reshape(shares.shape[1:])


def oracle_boxes(objects: np.ndarray) -> list[tuple[int, int, int, int]]:
    """Boxes (x0, y0, x1, y1) around true objects, in the ids' order; x1 and y1 are the first pixels beyond.

    objects: int ids (H, W), 0 outside, or a bool mask (H, W) whose connected pieces (sides, not corners) are the
    objects. Those of less than `SMALLEST_OBJECT` px are left out.
    """
    labels = ndimage.label(objects)[0] if objects.dtype == bool else objects
    areas = np.bincount(labels.ravel())
    return [
        (box[1].start, box[0].start, box[1].stop, box[0].stop)
        for index, box in enumerate(ndimage.find_objects(labels), 1)
        if box is not None and areas[index] >= SMALLEST_OBJECT
    ]


def load_unets(folder: Path) -> dict[str, UNetPredictor]:
    """Set -> its trained U-Net, in name order. Raises InputError for a folder without any."""
    found = sorted(Path(folder).glob(f"*/{ABOUT}"))
    if not found:
        raise InputError(f"{folder}: no trained U-Net in it; give a folder that `slidekick train unets` wrote")
    return {about.parent.name: UNetPredictor.load(about.parent) for about in found}


def compare(
    segmentor: Segmentor, items: Sequence[Item], train: Sequence[Item], config: dict, unets: Path
) -> list[dict]:
    """One row a picture that holds a concept: concept, set, item, and the Dice of each of `PEERS`.

    items: to compare on. train: to learn mean masks from. config: its `concepts` are asked. unets: folder of trained
    U-Nets. unet is None where the set has none of that concept, mean_mask where no training picture marks it,
    oracle_box where every object is a speck. As in `evaluate`, only pixels that somebody judged count.
    Raises InputError for a folder without any U-Net.
    """
    concepts = list(config["concepts"])
    ready = load_unets(unets)
    means = MeanMask.learn(train, concepts)
    wanted = [t for t in triples(items, concepts) if t.mode == "mask" and truth(t)[0].any()]
    return [
        _row(triple, segmentor, ready.get(triple.item.set), means) for triple in tqdm(wanted, "peers", mininterval=5)
    ]


def _row(triple: Triple, segmentor: Segmentor, unet: UNetPredictor | None, means: MeanMask) -> dict:
    item, concept = triple.item, triple.concept
    image, (mask, ids), seen = pixels_of(item.image), truth(triple), judged(triple)
    drawn: dict[str, np.ndarray | None] = dict.fromkeys(PEERS)
    if unet is not None and concept in unet.concepts:
        drawn["unet"] = unet.predict(image, concept)[0]
    if concept in means.shapes:
        drawn["mean_mask"] = means.predict(image, concept)
    if boxes := oracle_boxes(mask if ids is None else ids):
        drawn["oracle_box"] = segmentor.segment(image, [], mpp=item.scale, boxes=boxes)[0].mask
    row = {"concept": concept, "set": item.set, "item": f"{item.set}/{item.id}"}
    for name, one in drawn.items():
        row[name] = None if one is None else dice(one if seen is None else one & seen, mask)
    return row


def by_set(rows: Sequence[dict]) -> dict[str, dict]:
    """Rows of `compare` as "concept in set" -> n, and the mean Dice of the U-Net ("value") and the others.

    For `evaluate.minus_unet`. Only rows that have a U-Net; objects too small for a box count as missed by it; None
    for mean_mask where no picture has one.
    """
    groups: dict[str, list[dict]] = {}
    for row in rows:
        if row["unet"] is not None:
            groups.setdefault(f"{row['concept']} in {row['set']}", []).append(row)
    return {
        name: {
            "value": _mean([row["unet"] for row in group]),
            "mean_mask": _mean([row["mean_mask"] for row in group if row["mean_mask"] is not None]),
            "oracle_box": _mean([row["oracle_box"] or 0.0 for row in group]),
            "n": len(group),
        }
        for name, group in sorted(groups.items())
    }


def _mean(values: Sequence[float]) -> float | None:
    return round(float(np.mean(values)), 4) if values else None
