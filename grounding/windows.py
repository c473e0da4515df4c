"""Training windows for the segmentor: which picture, which place, which zoom, which words or clicks, and the truth.

Every window follows from (seed, step, index) alone, so a resumed run sees what the first would have seen. Knows
files and labels; knows no network.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from scipy import ndimage

from slidekick.data.items import Item
from slidekick.data.triples import Triple, judged, pixels_of, shows, triples, truth
from slidekick.grounding.prompts import Click, box_around, click_in, pick_object
from slidekick.grounding.sizes import CLOSEST, FILLED, MASK_STRIDE, OBJECT_SHARES, POSITIVE
from slidekick.grounding.tiles import warp

# Haematoxylin, eosin, residual as optical densities (Ruifrok & Johnston 2001), for stain jitter.
HED = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]], np.float32)
HED_INVERSE = np.linalg.inv(HED).astype(np.float32)

LARGE_SET = 50  # pictures; from here on a set is drawn no more often, or easy single cells crowd out hard tissue
SMALLEST_THERE = 12  # marked window px from which a concept is there
BY_BOX = 0.6  # of the prompts for an object; the others are by a click in it
OBJECTS = 3  # prompts of an object window


@dataclass(frozen=True)
class Prompt:
    """One prompt in one window and what it should give.

    phrase: words, or None where only points or a box are given. clicks: (x, y, label) in window px, a box as its two
    corners. mask: float32 (w/2, w/2) 0–1. judged: float32, 1 where somebody judged. interior: float32, distance to
    the outline scaled to 1 in each object's middle, or None where single objects are not labelled. present: the
    concept has pixels in the window.
    """

    phrase: str | None
    clicks: list[Click]
    mask: np.ndarray
    judged: np.ndarray
    interior: np.ndarray | None
    present: bool


class Sampler:
    """Draws balanced windows: concept by weight, then set, then picture; deterministic in (seed, step, index).

    Most ask by words; in a share `objects` of them single objects are asked for by a box or a click, half of the boxes
    with the concept's words, at a zoom that follows from an object's size: who points at something need not name it.
    concepts: section `concepts` of a configuration. plan: its section `training`.
    """

    def __init__(self, concepts: dict[str, dict], items: Sequence[Item], plan: dict) -> None:
        self.concepts, self.plan = concepts, plan
        self.by_item: dict[tuple[Path, bool], list[Triple]] = {}
        self.pools: dict[tuple[str, bool], dict[str, list[Triple]]] = {}
        for triple in triples(items, list(concepts)):
            there = shows(triple)
            self.by_item.setdefault((triple.item.image, there), []).append(triple)
            self.pools.setdefault((triple.concept, there), {}).setdefault(triple.item.set, []).append(triple)
        self.names = [name for name in concepts if (name, True) in self.pools]
        weights = np.array([concepts[name].get("weight", 1) for name in self.names], float)
        self.weights = weights / weights.sum()

    def side(self, step: int) -> int:
        """Side of the windows of a step, px."""
        sides = self.plan["sides"]
        return int(np.random.default_rng([self.plan["seed"], step]).choice(list(sides), p=list(sides.values())))

    def draw(self, step: int, index: int, side: int) -> tuple[np.ndarray, list[Prompt]]:
        """uint8 (side, side, 3) and one to three prompts."""
        rng = np.random.default_rng([self.plan["seed"], step, index])
        triple = self._triple(rng, side)
        if triple.mode == "mask" and rng.random() < self.plan["objects"]:
            mask, ids = truth(triple)
            if (one := pick_object(mask, ids, rng)) is not None:
                return self._object_window(triple, one, side, rng)
        jitter = self.concepts[triple.concept]["jitter"]
        pixels, matrix = window(triple, side, jitter, rng)
        asked = [triple]
        for there, share in self.plan["further"].items():  # what else is there, and what is not, of the same picture
            others = [t for t in self.by_item.get((triple.item.image, there), ()) if t.concept != triple.concept]
            if others and rng.random() < share:
                asked.append(others[rng.integers(len(others))])
        prompts = [self._by_words(one, matrix, side, rng) for one in asked]
        return stain_jitter(pixels, rng), prompts

    def _object_window(self, triple: Triple, one: np.ndarray, side: int, rng: np.random.Generator):
        pixels, matrix = window_at(pixels_of(triple.item.image), one, side, rng)
        mask, weight, ids = cut(triple, matrix, side)
        prompts = []
        for _ in range(OBJECTS):
            if (picked := pick_object(mask >= 0.5, ids, rng)) is None:
                continue
            by_box = rng.random() < BY_BOX
            phrase = self._phrase(triple.concept, rng) if by_box and rng.random() < 0.5 else None
            clicks = box_around(picked, MASK_STRIDE, rng) if by_box else [click_in(picked, POSITIVE, MASK_STRIDE, rng)]
            prompts.append(Prompt(phrase, clicks, mask * picked, weight, interior_map(picked.astype(np.int32)), True))
        return stain_jitter(pixels, rng), prompts or [self._by_words(triple, matrix, side, rng)]

    def _triple(self, rng: np.random.Generator, side: int) -> Triple:
        """A picture for the next window, large enough for it where one is found soon."""
        for _ in range(30):
            name = self.names[rng.choice(len(self.names), p=self.weights)]
            positive = rng.random() < self.plan["positive_share"] or (name, False) not in self.pools
            by_set = self.pools[name, positive]
            sizes = np.sqrt([min(len(rows), LARGE_SET) for rows in by_set.values()])
            rows = list(by_set.values())[rng.choice(len(by_set), p=sizes / sizes.sum())]
            triple = rows[rng.integers(len(rows))]
            longest = max(pixels_of(triple.item.image).shape[:2])
            if side == min(self.plan["sides"]) or longest * self.concepts[name]["jitter"][1] >= FILLED * side:
                break
        return triple

    def _by_words(self, triple: Triple, matrix: np.ndarray, side: int, rng: np.random.Generator) -> Prompt:
        mask, weight, ids = cut(triple, matrix, side)
        interior = interior_map(ids) if ids is not None else None
        if triple.mode == "absent":
            interior = np.zeros(mask.shape, np.float32)
        present = bool(mask.sum() * MASK_STRIDE**2 >= SMALLEST_THERE)
        return Prompt(self._phrase(triple.concept, rng), [], mask, weight, interior, present)

    def _phrase(self, name: str, rng: np.random.Generator) -> str:
        words = [name, *self.concepts[name]["synonyms"]]
        return words[rng.integers(len(words))] if rng.random() < 0.5 else name


def cut(triple: Triple, matrix: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Truth of one triple in a window made by `window`, at the mask's resolution.

    Share of each cell that is it, float32 (s, s); which cells were judged, float32; object ids, int32, or None.
    """
    mask, ids = truth(triple)
    size = side // MASK_STRIDE
    drawn = warp(mask.astype(np.uint8), matrix, side, nearest=True).astype(np.float32)
    small = cv2.resize(drawn, (size, size), interpolation=cv2.INTER_AREA)
    seen = judged(triple)
    weight = np.ones((size, size), np.float32)
    if seen is not None:
        weight = warp(seen.astype(np.uint8), matrix, side, nearest=True)[::2, ::2].astype(np.float32)
    if ids is not None:
        ids = warp(ids.astype(np.float32), matrix, side, nearest=True)[::2, ::2].astype(np.int32)
    return small, weight, ids


def window(
    triple: Triple, side: int, zoom_range: tuple[float, float], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A random square of the picture: uint8 (side, side, 3) and the 2×3 matrix that maps picture to window.

    Turned and mirrored at random; half of the windows of a drawn concept are centred on a marked pixel.
    """
    pixels = pixels_of(triple.item.image)
    height, width = pixels.shape[:2]
    low, high = zoom_range
    zoom = float(np.exp(rng.uniform(np.log(low), np.log(high))))
    zoom = float(np.clip(FILLED * side / max(height, width), zoom, high))  # little is left to mirrored filling
    span = side / zoom
    centre = np.array([rng.uniform(*_reach(width, span)), rng.uniform(*_reach(height, span))])
    if triple.mode == "mask" and rng.random() < 0.5:
        ys, xs = np.nonzero(truth(triple)[0])
        if len(ys):
            pick = rng.integers(len(ys))
            centre = np.array([xs[pick], ys[pick]]) + rng.uniform(-0.3, 0.3, 2) * span
    return _turned(pixels, zoom, centre, side, rng)


def window_at(
    pixels: np.ndarray, one: np.ndarray, side: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """As `window`, around the object `one` (bool (H, W), not empty), which fills a random share of it."""
    ys, xs = np.nonzero(one)
    extent = max(np.ptp(xs), np.ptp(ys)) + 1
    share = float(np.exp(rng.uniform(*np.log(OBJECT_SHARES))))
    zoom = float(np.clip(share * side / extent, FILLED * side / max(one.shape), CLOSEST))
    span = side / zoom
    middle = np.array([xs.min() + xs.max(), ys.min() + ys.max()]) / 2
    centre = middle + rng.uniform(-0.5, 0.5, 2) * max(0.0, span - extent)
    reach = [_reach(length, span) for length in one.shape[::-1]]
    return _turned(pixels, zoom, np.clip(centre, *zip(*reach, strict=True)), side, rng)


def _turned(pixels: np.ndarray, zoom: float, centre: np.ndarray, side: int, rng: np.random.Generator):
    """Rotated by quarter turns and mirrored."""
    turn = rng.integers(4) * np.pi / 2
    flip = 1 if rng.random() < 0.5 else -1
    rotate = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) @ np.diag([flip, 1])
    matrix = np.hstack([zoom * rotate, (side / 2 - zoom * rotate @ centre)[:, None]])
    return warp(pixels, matrix, side), matrix


def _reach(length: int, span: float) -> tuple[float, float]:
    return (length / 2, length / 2) if span >= length else (span / 2, length - span / 2)


def interior_map(ids: np.ndarray) -> np.ndarray:
    """Distance to each object's own outline, divided by the object's largest: 1 in its middle, 0 outside."""
    out = np.zeros(ids.shape, np.float32)
    for index, box in enumerate(ndimage.find_objects(ids), 1):
        if box is not None:
            one = np.pad(ids[box] == index, 1)
            distance = cv2.distanceTransform(one.astype(np.uint8), cv2.DIST_L2, 3)[1:-1, 1:-1]
            out[box] = np.maximum(out[box], distance / max(float(distance.max()), 1e-6))
    return out


def stain_jitter(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Stain strengths, background and brightness changed at random (Tellez et al. 2019, HED augmentation)."""
    if rng.random() < 0.2:
        return pixels
    density = -np.log((pixels.astype(np.float32) + 1) / 256)
    stains = density @ HED_INVERSE
    stains = stains * rng.uniform(0.7, 1.3, 3).astype(np.float32) + rng.uniform(-0.04, 0.04, 3).astype(np.float32)
    light = np.exp(-stains @ HED) * 256 - 1
    light = light * rng.uniform(0.9, 1.1) + rng.uniform(-10, 10)
    if rng.random() < 0.2:
        light = cv2.GaussianBlur(light, (0, 0), rng.uniform(0.4, 1.2))
    return np.clip(light, 0, 255).astype(np.uint8)
