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
from slidekick.data.files import cache_dir, check_writable, content_key, write_atomic
from slidekick.data.slide import Region, Slide
from slidekick.data.tiles import TileGrid, read_tiles, tile_grid
from slidekick.data.tissue import TissueMask, tissue_mask
from slidekick.grounding.runtime import LATENCY, openvino_package, write_graph

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
    features, tokens = [np.zeros((0, tower.features), np.float16)], [np.zeros((0, tower.tokens), np.float16)]
    with bar:
        for batch in _batches(tiles):
            pooled, words = tower(batch)
            features.append(pooled.astype(np.float16))
            tokens.append(words.astype(np.float16))
            bar.update(len(batch))
    return np.concatenate(features), np.concatenate(tokens)


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

    Run by OpenVINO, several times as fast as torch on a CPU, from a graph made once and kept in the cache; on a GPU, or
    where the model has no name, by torch.
    """

    def __init__(self, model, name: str) -> None:
        """model: as `load_generalist` gives it. name: of its weights, which graph and features are kept under."""
        self.model, self.name = model.eval(), name
        self.features = model.model.vision_tower.timm_model.num_features
        self.tokens = model.get_input_embeddings().embedding_dim
        self._run = None

    def __call__(self, tiles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """uint8 (B, 192, 192, 3) -> float32 (B, 1280) and (B, D)."""
        if self._run is None:
            on_cpu = self.model.device.type == "cpu"
            self._run = self._compiled() if self.name and on_cpu else self._torch
        return self._run(tiles)

    def _torch(self, tiles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        import torch

        with torch.inference_mode():
            pooled, tokens = _graph(self.model)(torch.from_numpy(tiles).to(self.model.device))
        return pooled.float().cpu().numpy(), tokens.float().cpu().numpy()

    def _compiled(self) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
        import torch

        openvino = openvino_package()
        file = cache_dir() / "graphs" / f"tiles-{self.name}-{openvino.__version__.split('-')[0]}.xml"
        if not file.is_file():
            check_writable(file.parent)
            example = torch.zeros(2, IMAGE_SIDE, IMAGE_SIDE, 3, dtype=torch.uint8)
            write_graph(_graph(self.model), (example,), [[-1, IMAGE_SIDE, IMAGE_SIDE, 3]], file)
        ready = openvino.Core().compile_model(file, "CPU", LATENCY)

        def run(tiles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            result = ready([np.ascontiguousarray(tiles)])
            return result[0], result[1]

        return run


def _graph(model):
    """A module: uint8 tiles (B, 192, 192, 3) -> pooled maps (B, 1280) and mean image tokens (B, D)."""
    from torch import nn

    from slidekick.grounding.tower import to_tensor

    class Graph(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tower, self.connector = model.model.vision_tower.timm_model, model.model.multi_modal_projector

        def forward(self, tiles):
            maps = self.tower.forward_features(to_tensor(tiles).to(next(self.connector.parameters()).dtype))
            cells = maps.flatten(2).transpose(1, 2)  # (B, 36, 1280)
            return cells.mean(1), self.connector(cells).mean(1)

    return Graph().eval()


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
