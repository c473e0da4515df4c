"""The tiles of a slide as the shared tower sees them: read over the tissue, encoded once, kept by the file's content.

A tile is what the tower was taught on: about 112 µm a side. Of a slide with more tissue than `MOST` tiles, every
second, third, … along each side is looked at; what was looked at is told.
"""

from __future__ import annotations

import hashlib
import io
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from slidekick.copilot.base import IMAGE_SIDE
from slidekick.copilot.compiled.eyes import Eyes, eyes_module
from slidekick.data.files import cache_dir, content_key, write_atomic
from slidekick.data.slide import Region, Slide
from slidekick.data.tiles import TileGrid, read_tiles, tile_grid
from slidekick.data.tissue import TissueMask, tissue_mask

TILE_UM = 112.0  # side of a tile
LEAST_TISSUE = 0.3  # share of a tile
MOST = 6000  # tiles looked at: a slide of 4 cm² of tissue has 32 000
AT_ONCE = 16  # tiles through the tower together
LAYOUT = 1  # of the kept files; raise it when what is in them changes


@dataclass(frozen=True)
class SlideTiles:
    """The tiles that were looked at. features: float16 (N, 1280), the tower's pooled map. tokens: float16 (N, D), the
    mean image token. grid: where they lie. step: every so many tiles along each side was looked at. tissue: where
    tissue is; size: (width, height) of level 0."""

    grid: TileGrid
    features: np.ndarray
    tokens: np.ndarray
    step: int
    tissue: TissueMask
    size: tuple[int, int]

    def __len__(self) -> int:
        return len(self.grid)

    @cached_property
    def places(self) -> np.ndarray:
        """float32 (N, 2): (x, y) of each tile in units of the distance between neighbours."""
        return (self.grid.coords / np.array(self.grid.size_level0) / self.step).astype(np.float32)

    def region(self, index: int) -> Region:
        """The rectangle of tile `index`, within the slide."""
        x, y = map(int, self.grid.coords[index])
        width, height = self.grid.size_level0
        return Region(x, y, min(width, self.size[0] - x), min(height, self.size[1] - y), self.grid.mpp)


def slide_tiles(slide: Slide, tower: TileTower, keep: bool = True, threads: int = 2) -> SlideTiles:
    """Read and encode a slide's tiles, or take them from the cache, where they lie by the file's content.

    Raises InputError where the slide states no scale or a tile cannot be decoded.
    """
    tissue = tissue_mask(slide)
    grid, step = _chosen(slide, tissue)
    file = _kept_file(slide, grid, tower) if keep else None
    found = _load(file, len(grid)) if file else None
    if found is None:
        found = _encoded(slide, grid, tower, threads)
        if file:
            stream = io.BytesIO()
            np.savez(stream, features=found[0], tokens=found[1])
            write_atomic(file, stream.getvalue())
    return SlideTiles(grid, *found, step, tissue, slide.dimensions)


def _chosen(slide: Slide, tissue: TissueMask) -> tuple[TileGrid, int]:
    """The grid over the tissue, thinned to `MOST` tiles, and how much."""
    mpp = TILE_UM / IMAGE_SIDE
    grid = tile_grid(slide, IMAGE_SIDE, mpp, tissue=tissue, least_tissue=LEAST_TISSUE)
    step = max(1, int(np.ceil((len(grid) / MOST) ** 0.5)))
    column, row = (grid.coords // np.array(grid.size_level0)).T
    return replace(grid, coords=grid.coords[(column % step == step // 2) & (row % step == step // 2)]), step


def _encoded(slide: Slide, grid: TileGrid, tower: TileTower, threads: int) -> tuple[np.ndarray, np.ndarray]:
    from tqdm import tqdm

    tiles = (pixels for _, pixels in read_tiles(slide, grid, threads))
    bar = tqdm(total=len(grid), desc="tiles", unit="", disable=None, file=sys.stderr, mininterval=0.5)
    seen = []
    with bar:
        for batch in _batches(tiles):
            seen.append(tower(batch))
            bar.update(len(batch))
    if not seen:  # arrays as wide as they would be
        blank = np.full((1, IMAGE_SIDE, IMAGE_SIDE, 3), 255, np.uint8)
        seen = [tuple(one[:0] for one in tower(blank))]
    features, tokens = (np.concatenate(parts).astype(np.float16) for parts in zip(*seen, strict=True))
    return features, tokens


def _batches(tiles: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    held = []
    for pixels in tiles:
        held.append(pixels)
        if len(held) == AT_ONCE:
            yield np.stack(held)
            held = []
    if held:
        yield np.stack(held)


class TileTower:
    """Tower and connector of a model of mini's kind: tiles in, pooled map and mean image token out.

    Run by OpenVINO, several times as fast as torch on a CPU (see `Eyes`); on a GPU, or where the weights have no name,
    by torch.
    """

    def __init__(self, load: Callable[[], object], name: str, on_gpu: bool = False) -> None:
        """load: gives the model; called only where it is needed. name: of its weights, which graph and features are
        kept under."""
        self.name, self._load, self.on_gpu = name, load, on_gpu

    def __call__(self, tiles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """uint8 (B, 192, 192, 3) -> float32 (B, 1280) and (B, D)."""
        pooled, tokens = self._run(tiles)
        return pooled, tokens.mean(1)

    @cached_property
    def _run(self) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
        if self.name and not self.on_gpu:
            return Eyes(self.name, self._load, exact=False)
        import torch

        model = self._load().eval()
        module = eyes_module(model)

        def run(tiles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            with torch.inference_mode():
                pooled, tokens = module(torch.from_numpy(tiles).to(model.device))
            return pooled.float().cpu().numpy(), tokens.float().cpu().numpy()

        return run


def _kept_file(slide: Slide, grid: TileGrid, tower: TileTower) -> Path | None:
    """Where the features of these tiles are kept; None for a slide that is no single file."""
    if slide.path is None:
        return None
    digest = hashlib.blake2b(digest_size=16)
    for part in (content_key(slide.path), tower.name, f"{LAYOUT} {grid.size_level0} {slide.mpp}"):
        digest.update(part.encode() + b"\0")
    digest.update(np.ascontiguousarray(grid.coords).tobytes())
    return cache_dir() / "tiles" / f"{digest.hexdigest()}.npz"


def _load(file: Path, number: int) -> tuple[np.ndarray, np.ndarray] | None:
    try:
        with np.load(file) as kept:
            features, tokens = kept["features"], kept["tokens"]
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):
        return None  # not there, or cut short: made anew
    return (features, tokens) if len(features) == len(tokens) == number else None
