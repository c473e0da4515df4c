"""Slides for training without pixels: plans filled with the features of tiles that were looked at once.

For each tissue some hundred tiles are painted as a reader would cut them out of a composed slide (four neighbouring
pictures, any offset, any stain strength) and go through the tower. A bag is then a plan whose tiles take features of
their tissues; where two meet, or glass, the features are mixed by area, as the tower's mean over places does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from slidekick.copilot.base import IMAGE_SIDE
from slidekick.copilot.slide_tiles import LEAST_TISSUE, TileTower
from slidekick.data.composed import cell_picture, draw_layout, load_cases, stain_table
from slidekick.data.files import stream_atomic
from slidekick.data.items import Item
from slidekick.data.layout import OTHER, Layout

GLASS_NAME = "glass"
VIEWS = 8  # tiles painted of each picture, within the bounds of a tissue
LEAST_VIEWS, MOST_VIEWS = 120, 320
COARSE = 0.58  # of a tile's resolution, that of a slide at 1 µm: one view in three is no sharper
STRENGTHS = (0.75, 1.3)  # of the stain
AT_ONCE = 32
REPLACED = 0.2  # share of plans on which one tissue is replaced by such as the encoder is not to name


@dataclass(frozen=True)
class Pool:
    """Tiles of one tissue: features float16 (V, 1280), tokens float16 (V, D)."""

    features: np.ndarray
    tokens: np.ndarray


@dataclass(frozen=True)
class Bag:
    """One slide. features float32 (N, 1280), tokens float32 (N, D), places float32 (N, 2) in tiles, shares float32
    (N, K): of each tile's tissue, how much is which; absent: tissues of its case that it does not show."""

    features: np.ndarray
    tokens: np.ndarray
    places: np.ndarray
    shares: np.ndarray
    layout: Layout
    absent: tuple[str, ...]


def tissue_pools(
    items: Sequence[Item], tower: TileTower, seed: int, file: Path | None = None, other: Sequence[str] = ()
) -> dict[str, Pool]:
    """A pool for every tissue that `items` show, and one of glass; kept in `file` where given.

    other: sets whose pictures show tissues that are not to be named, for a pool called `OTHER`.
    """
    from tqdm import tqdm

    if file is not None and file.exists():
        with np.load(file) as kept:
            names = [key.removesuffix("/tokens") for key in kept.files if key.endswith("/tokens")]
            return {name: Pool(kept[f"{name}/features"], kept[f"{name}/tokens"]) for name in names}
    rng = np.random.default_rng(seed)
    pools = {name: pool for case in load_cases(items).values() for name, pool in case.pools.items()}
    made = {}
    for name, pictures in tqdm(sorted(pools.items()), desc="tissues", mininterval=5):
        number = int(np.clip(VIEWS * len(pictures), LEAST_VIEWS, MOST_VIEWS))
        made[name] = _encoded([_painted(pictures, rng) for _ in range(number)], tower)
    strange = [[item for item in items if item.set == name] for name in other]
    if strange := [pictures for pictures in strange if pictures]:
        number = MOST_VIEWS * 2 // len(strange)
        made[OTHER] = _encoded([_painted(pictures, rng) for pictures in strange for _ in range(number)], tower)
    light = rng.uniform(232, 250, (LEAST_VIEWS, 1, 1, 3))
    glass = light + rng.integers(-2, 3, (LEAST_VIEWS, IMAGE_SIDE, IMAGE_SIDE, 1))
    made[GLASS_NAME] = _encoded(list(np.clip(glass, 0, 255).astype(np.uint8)), tower)
    if file is not None:
        with stream_atomic(file) as stream:
            np.savez(
                stream, **{f"{name}/{key}": part for name, pool in made.items() for key, part in vars(pool).items()}
            )
    return made


def joined(pools: Iterable[Pool]) -> Pool:
    """One pool of all views."""
    parts = list(pools)
    return Pool(np.concatenate([one.features for one in parts]), np.concatenate([one.tokens for one in parts]))


def _painted(pictures: Sequence[Item], rng: np.random.Generator) -> np.ndarray:
    """uint8 (192, 192, 3): a tile that lies anyhow over four cells of one tissue, every patient or slide as often."""
    groups: dict[tuple[str, str], list[Item]] = {}
    for item in pictures:
        groups.setdefault((item.set, item.group), []).append(item)
    drawn = [list(groups.values())[one] for one in rng.integers(len(groups), size=4)]
    picks = [some[int(rng.integers(len(some)))] for some in drawn]
    cells = [cell_picture(one.image, IMAGE_SIDE, int(rng.integers(4)), bool(rng.integers(2))) for one in picks]
    block = np.concatenate([np.concatenate(cells[:2], 1), np.concatenate(cells[2:], 1)], 0)
    # One in three lies on the grid of cells, as every tile does where scale and origin agree.
    y, x = (0, 0) if rng.random() < 1 / 3 else rng.integers(IMAGE_SIDE, size=2)
    window = np.ascontiguousarray(block[y : y + IMAGE_SIDE, x : x + IMAGE_SIDE])
    if rng.random() < 1 / 3:
        small = cv2.resize(window, None, fx=COARSE, fy=COARSE, interpolation=cv2.INTER_AREA)
        window = cv2.resize(small, (IMAGE_SIDE, IMAGE_SIDE), interpolation=cv2.INTER_CUBIC)
    return cv2.LUT(window, stain_table(rng.uniform(*STRENGTHS, 3)))


def _encoded(tiles: list[np.ndarray], tower: TileTower) -> Pool:
    parts = [tower(np.stack(tiles[start : start + AT_ONCE])) for start in range(0, len(tiles), AT_ONCE)]
    return Pool(*(np.concatenate(part).astype(np.float16) for part in zip(*parts, strict=True)))


class Bags:
    """Bags of one split; the same seed gives the same bag."""

    def __init__(self, items: Sequence[Item], pools: Mapping[str, Pool], tissues: Sequence[str], **sizes) -> None:
        """tissues: names of the columns of `Bag.shares`. sizes: see `draw_layout`."""
        self.cases, self.pools, self.tissues, self.sizes = load_cases(items), pools, tuple(tissues), sizes

    def draw(self, seed: int) -> Bag:
        """One slide; on some, where there is a pool of such, tissue that is not to be named takes one's place."""
        layout, shown = draw_layout(self.cases, seed, **self.sizes)
        rng = np.random.default_rng([seed, 8])
        if OTHER in self.pools and OTHER in self.tissues and rng.random() < REPLACED:
            gone = int(rng.integers(len(layout.tissues)))
            layout = replace(layout, tissues=(*layout.tissues[:gone], OTHER, *layout.tissues[gone + 1 :]))
        grid = _cover(layout, rng.uniform(0, 1, 2), len(layout.tissues))  # (rows, columns, tissues)
        tissue = grid.sum(-1)
        rows, columns = np.nonzero(tissue > LEAST_TISSUE)
        shares = grid[rows, columns]
        picks, bare = rng.integers(1 << 30, size=shares.shape), rng.integers(1 << 30, size=len(shares))
        features, tokens = (self._mixed(layout.tissues, shares, picks, bare, key) for key in ("features", "tokens"))
        full = np.zeros((len(shares), len(self.tissues)), np.float32)
        for index, name in enumerate(layout.tissues):
            full[:, self.tissues.index(name)] = shares[:, index]
        full /= full.sum(1, keepdims=True)
        absent = tuple(name for name in shown if name not in layout.tissues)
        return Bag(features, tokens, np.stack([columns, rows], 1).astype(np.float32), full, layout, absent)

    def _mixed(self, names, shares: np.ndarray, picks: np.ndarray, glass: np.ndarray, key: str) -> np.ndarray:
        """float32 (N, …): each tile's mean over what it shows; picks: which view of each tissue."""
        bare = getattr(self.pools[GLASS_NAME], key)
        total = (1 - shares.sum(1, keepdims=True)) * bare[glass % len(bare)].astype(np.float32)
        for index, name in enumerate(names):
            pool = getattr(self.pools[name], key)
            there = shares[:, index] > 0
            total[there] += shares[there, index, None] * pool[picks[there, index] % len(pool)].astype(np.float32)
        return total


def _cover(layout: Layout, offset: np.ndarray, number: int) -> np.ndarray:
    """float32 (rows, columns, tissues): how much of each tile is which tissue; tiles are as large as cells and lie
    `offset` (x, y) in cells beside them."""
    shown = np.stack([layout.tissue * (layout.cells == index) for index in range(number)], -1)
    padded = np.pad(shown, ((0, 1), (0, 1), (0, 0)))
    x, y = offset
    lines = padded[:-1] * (1 - y) + padded[1:] * y
    return (lines[:, :-1] * (1 - x) + lines[:, 1:] * x).astype(np.float32)
