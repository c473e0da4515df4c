"""Composed slides: pyramidal TIFFs painted with real tiles by a plan, so that what is on them is known exactly.

Each cell of a plan (`layout.py`) shows one labelled picture of its tissue, turned and mirrored by chance; a split's
slides show that split's pictures only. The scale is nominal, since most sets state none: a picture fills a cell of
112 µm. Written tile by tile, so memory does not grow with the slide.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

import cv2
import numpy as np
import tifffile

from slidekick.data.errors import InputError
from slidekick.data.files import named_atomic, write_atomic
from slidekick.data.items import FILE_NAME, Item
from slidekick.data.layout import CELL_UM, GLASS, Layout, make_layout

SCHEMA = "slidekick.composed/1"
MPPS = (0.25, 0.5, 1.0)  # scales that slides are painted at
TILE, STEP = 256, 4  # px of the file's tiles; from one level to the next
QUALITY = 85  # of JPEG, as scanners have it
SMALLEST = 4096  # px; the coarsest level's longest side is at most so
MIXED = 0.25  # share of slides that show several cases
KEPT = 512  # pictures held; at 0.5 µm a cell is 150 kB, at the finest scale four times so
EDGE_PX = 3.0  # softness of a piece's outline
INK = 0.85  # how much of the light a pen line takes
FOLDED = 1.9  # optical density of a fold against the tissue's
_FILE = Path(__file__).with_name("composed.yaml")


@dataclass(frozen=True)
class Case:
    """stain: of all its pictures. pools: tissue -> the pictures that show it, in the order of the items."""

    stain: str
    pools: Mapping[str, tuple[Item, ...]]


def load_cases(items: Sequence[Item]) -> dict[str, Case]:
    """The cases of `composed.yaml` as far as `items` show them; tissues without a picture are left out."""
    cases = {}
    for name, entry in _written().items():
        pools = {}
        for tissue, about in entry["tissues"].items():
            sources = about["from"]
            chosen = tuple(item for item in items if item.set in sources or f"{item.set}/{item.label}" in sources)
            if chosen:
                pools[tissue] = chosen
        if pools:
            cases[name] = Case(entry["stain"], pools)
    return cases


@cache
def _written() -> dict:
    import yaml

    return yaml.safe_load(_FILE.read_text())


def tissue_terms() -> dict[str, tuple[str, ...]]:
    """Every tissue that composed slides can show -> the ontology's terms that it is a case of."""
    return {
        tissue: tuple(about.get("is", ()))
        for entry in _written().values()
        for tissue, about in entry["tissues"].items()
    }


def tissue_cases() -> dict[str, str]:
    """Every tissue that composed slides can show -> its case, an organ."""
    return {tissue: name for name, entry in _written().items() for tissue in entry["tissues"]}


def draw_layout(cases: Mapping[str, Case], seed: int, **sizes) -> tuple[Layout, dict[str, tuple[Item, ...]]]:
    """A plan from `seed` and the pictures behind its tissues; one in four mixes the H&E cases.

    sizes: `rows`, `columns` as `make_layout` takes them. Raises InputError where there is no case.
    """
    if not cases:
        raise InputError("no picture of a set that composed slides are made of; see data/composed.yaml")
    rng = np.random.default_rng([seed, 7])
    stained = [name for name, case in cases.items() if case.stain == "H&E"]
    if len(stained) > 1 and rng.random() < MIXED:
        pools = {tissue: pool for name in stained for tissue, pool in cases[name].pools.items()}
        return make_layout("mixed", list(pools), seed, mixed=True, **sizes), pools
    # Cases of many tissues have more to ask about.
    weights = np.sqrt([len(case.pools) for case in cases.values()])
    name = list(cases)[rng.choice(len(cases), p=weights / weights.sum())]
    return make_layout(name, list(cases[name].pools), seed, **sizes), dict(cases[name].pools)


def compose_slides(items: Sequence[Item], out: Path, number: int, seed: int, split: str, **sizes) -> Path:
    """Write `number` slides and an items.jsonl that tells what is on each; slides that are there already are kept.

    items: of one split. sizes: see `draw_layout`. Returns the items.jsonl. Raises InputError, OutputError.
    """
    from tqdm import tqdm

    cases, rows = load_cases(items), []
    for index in tqdm(range(number), desc="slides", disable=None):
        layout, pools = draw_layout(cases, seed + index, **sizes)
        mpp = MPPS[int(np.random.default_rng([seed + index, 3]).integers(len(MPPS)))]
        name = f"{split}-{seed + index:05d}"
        if not (out / f"{name}.tif").is_file():
            paint(layout, pools, out / f"{name}.tif", mpp)
        rows.append({"id": name, "file": f"{name}.tif", "split": split, "group": name, **truth(layout, cases, mpp)})
    return write_atomic(out / FILE_NAME, "".join(json.dumps(row) + "\n" for row in rows))


def truth(layout: Layout, cases: Mapping[str, Case], mpp: float) -> dict:
    """JSON-ready: what is on the slide, what could have been and is not, how much, and where in level-0 pixels."""
    side = cell_px(mpp)
    boxes = {name: layout.boxes(name) for name in layout.tissues}
    case = cases.get(layout.case)
    possible = case.pools if case else [name for one in cases.values() if one.stain == "H&E" for name in one.pools]
    return {
        "schema": SCHEMA,
        "case": layout.case,
        "stain": case.stain if case else "H&E",
        "mpp": mpp,
        "width": layout.cells.shape[1] * side,
        "height": layout.cells.shape[0] * side,
        "dominant": layout.dominant,
        "tissues": {
            name: {"share": round(layout.share(name), 4), "boxes": [[side * v for v in box] for box in boxes[name]]}
            for name in layout.tissues
        },
        "absent": [name for name in possible if name not in layout.tissues],
        "cells": layout.cells.tolist(),
        "pieces": [[side * v for v in box] for box in layout.boxes()],
        "pen": any(stroke.colour is not None for stroke in layout.strokes),
        "fold": any(stroke.colour is None for stroke in layout.strokes),
    }


def cell_px(mpp: float) -> int:
    """Side of a cell in level-0 pixels."""
    return round(CELL_UM / mpp)


def paint(layout: Layout, pools: Mapping[str, Sequence[Item]], path: Path, mpp: float) -> None:
    """Write the slide as a pyramidal, tiled JPEG TIFF at `path`, atomically. Raises OutputError, InputError."""
    side = cell_px(mpp)
    rows, columns = layout.cells.shape
    shape = (rows * side, columns * side)
    with named_atomic(path) as part:
        coarser = _Level(part.with_suffix(".1"), shape)  # beside the file, not in /tmp: a level may take gigabytes
        with tifffile.TiffWriter(part, bigtiff=shape[0] * shape[1] > 1_000_000_000) as writer:
            _write_level(writer, coarser.filled(_bands(layout, pools, side)), shape, mpp, False)
            for number in range(2, 20):
                level, coarser = coarser, _Level(part.with_suffix(f".{number}"), coarser.shape)
                _write_level(writer, coarser.filled(level.strips()), level.shape, mpp * STEP ** (number - 1), True)
                if max(level.shape) <= SMALLEST:
                    break


def _write_level(
    writer: tifffile.TiffWriter, strips: Iterator[np.ndarray], shape: tuple[int, int], mpp: float, reduced: bool
) -> None:
    """One level (height, width) as a page of its own, the first as the slide and the others as reductions of it."""
    writer.write(
        _tiles(strips, shape[1]),
        shape=(*shape, 3),
        dtype=np.uint8,
        tile=(TILE, TILE),
        photometric="rgb",
        compression="jpeg",
        compressionargs={"level": QUALITY},
        resolution=(1e4 / mpp, 1e4 / mpp),
        resolutionunit="CENTIMETER",
        subfiletype=int(reduced),
        metadata=None,
    )


class _Level:
    """The next coarser level, filled in passing while a finer one of `shape` is written; on disk, not in memory."""

    def __init__(self, file: Path, finer: tuple[int, int]) -> None:
        self.shape = (max(1, finer[0] // STEP), max(1, finer[1] // STEP))
        self.pixels = np.lib.format.open_memmap(file, "w+", np.uint8, (*self.shape, 3))

    def filled(self, strips: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
        """The strips again; each also shrunk into this level. Heights are multiples of `STEP` but for the last."""
        y = 0
        for strip in strips:
            height = min(strip.shape[0] // STEP, self.shape[0] - y)
            if height:
                part = strip[: height * STEP, : self.shape[1] * STEP]
                self.pixels[y : y + height] = cv2.resize(part, (self.shape[1], height), interpolation=cv2.INTER_AREA)
            y += height
            yield strip

    def strips(self) -> Iterator[np.ndarray]:
        """This level's own pixels."""
        yield from (self.pixels[y : y + TILE] for y in range(0, self.shape[0], TILE))


def _tiles(strips: Iterator[np.ndarray], width: int) -> Iterator[np.ndarray]:
    """(TILE, TILE, 3) tiles, row by row, of strips of any height; what is beyond the edge is white."""
    across = -(-width // TILE) * TILE

    def cut(rows: np.ndarray) -> Iterator[np.ndarray]:
        full = np.full((TILE, across, 3), 255, np.uint8)
        full[: len(rows), :width] = rows
        for x in range(0, across, TILE):
            yield np.ascontiguousarray(full[:, x : x + TILE])

    held = np.empty((0, width, 3), np.uint8)
    for strip in strips:
        held = np.concatenate([held, strip])
        while len(held) >= TILE:
            yield from cut(held[:TILE])
            held = held[TILE:]
    if len(held):
        yield from cut(held)


def _bands(layout: Layout, pools: Mapping[str, Sequence[Item]], side: int) -> Iterator[np.ndarray]:
    """uint8 (side, columns · side, 3): one row of cells after the other."""
    rows, columns = layout.cells.shape
    look = np.random.default_rng([layout.seed, 5])
    gains, glass = look.uniform(0.85, 1.15, 3), look.uniform(236, 247, 3)
    table = stain_table(gains)
    empty = np.clip(glass + look.integers(-2, 3, (side, side, 1)), 0, 255).astype(np.uint8)
    for row in range(rows):
        band = np.tile(empty, (1, columns, 1))
        for column in map(int, np.flatnonzero(layout.cells[row] != GLASS)):
            window = band[:, column * side : (column + 1) * side]
            tissue = cv2.LUT(np.ascontiguousarray(_cell(layout, pools, row, column, side)), table)
            cover = _cover(layout.field[row : row + 2, column : column + 2], side)
            window[:] = tissue if cover is None else _over(window, tissue, cover)
        _mark(band, layout, row, side)
        yield band


def _cover(corners: np.ndarray, side: int) -> np.ndarray | None:
    """float32 (side, side, 1): how much of each pixel of a cell the tissue covers; None: all of the cell.

    corners: the field (2, 2) at the cell's corners.
    """
    steep = max(float(np.abs(np.diff(corners)).max()), float(np.abs(np.diff(corners, axis=0)).max()), 1e-6) / side
    if corners.min() > steep * EDGE_PX:
        return None
    places = (np.arange(side, dtype=np.float32) + 0.5) / side
    lines = corners[:, :1] * (1 - places) + corners[:, 1:] * places  # (2, side)
    field = lines[:1] * (1 - places[:, None]) + lines[1:] * places[:, None]
    return np.clip(field / (steep * EDGE_PX) + 0.5, 0, 1)[..., None]


def _over(below: np.ndarray, above: np.ndarray, cover: np.ndarray) -> np.ndarray:
    """uint8: `above` laid over `below` as far as `cover` (0–1) says."""
    return np.clip(below + cover * (above.astype(np.float32) - below), 0, 255).astype(np.uint8)


def cell_source(layout: Layout, row: int, column: int, pool: int) -> tuple[int, int, bool]:
    """Which of `pool` pictures a cell shows, its quarter turns, and whether it is mirrored."""
    drawn = np.random.default_rng([layout.seed, 4, row, column]).integers(0, 1 << 30, 3)
    return int(drawn[0] % pool), int(drawn[1] % 4), bool(drawn[2] % 2)


def _cell(layout: Layout, pools, row: int, column: int, side: int) -> np.ndarray:
    pool = pools[layout.tissues[layout.cells[row, column]]]
    pick, turns, mirrored = cell_source(layout, row, column, len(pool))
    return cell_picture(pool[pick].image, side, turns, mirrored)


def cell_picture(file: Path, side: int, turns: int, mirrored: bool) -> np.ndarray:
    """uint8 (side, side, 3): a picture as a cell shows it. Raises InputError where it cannot be read."""
    picture = np.rot90(_picture(file, side), turns)
    return picture[:, ::-1] if mirrored else picture


@lru_cache(maxsize=KEPT)
def _picture(file: Path, side: int) -> np.ndarray:
    """uint8 (side, side, 3): the middle square of a picture, resized."""
    from PIL import Image

    from slidekick.data.readers.pillow import read_picture

    picture = read_picture(file).convert("RGB")
    least = min(picture.size)
    left, top = (picture.width - least) // 2, (picture.height - least) // 2
    box = (left, top, left + least, top + least)
    return np.asarray(picture.resize((side, side), Image.Resampling.BICUBIC, box=box))


def stain_table(gains: np.ndarray) -> np.ndarray:
    """uint8 (256, 1, 3): a table that changes optical densities by `gains` (3,), as stains differ between slides."""
    light = (np.arange(256)[:, None] + 1) / 256
    return np.clip(256 * light**gains - 1, 0, 255).astype(np.uint8)[:, None]


def _mark(band: np.ndarray, layout: Layout, row: int, side: int) -> None:
    """Draw the strokes that cross a row of cells into its pixels, in place."""
    coarse = 16  # points of a stroke's mask along a cell's side
    for stroke in layout.strokes:
        mask = np.zeros((coarse, layout.cells.shape[1] * coarse), np.uint8)
        points = np.round((np.array(stroke.points) - (0, row)) * coarse).astype(np.int32)
        cv2.polylines(mask, [points], False, 255, max(1, round(stroke.width * coarse)), cv2.LINE_AA)
        for column in np.flatnonzero(mask.reshape(coarse, -1, coarse).any((0, 2))):
            small = mask[:, column * coarse : (column + 1) * coarse]
            alpha = cv2.resize(small, (side, side), interpolation=cv2.INTER_LINEAR)[..., None] / np.float32(255)
            window = band[:, column * side : (column + 1) * side]
            if stroke.colour is None:
                folded = 255 * ((window + np.float32(1)) / 256) ** np.float32(FOLDED)
                window[:] = _over(window, folded, alpha)
            else:
                window[:] = _over(window, np.float32(stroke.colour), INK * alpha)
