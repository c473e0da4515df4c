"""A slide that was surveyed: which tissue each of its tiles is, as findings on its thumbnail, and where to look closer.

A word that means a tissue which the slide encoder was taught is answered from all tiles that were looked at: its mask
is their squares on the thumbnail, its area a share of the tissue.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from slidekick.copilot.slide_tiles import SlideTiles
from slidekick.data.layout import OTHER
from slidekick.data.ontology import load_ontology, plain
from slidekick.data.slide import Region, Roi, Slide
from slidekick.grounding.finding import Finding

if TYPE_CHECKING:
    import torch

    from slidekick.copilot.slide_encoder import SlideEncoder

THUMBNAIL_PX = 1024
SURE = 0.5  # probability from which a tile is looked at as one of a tissue
APART = 4.0  # tiles between the middles of two places, so that they do not show the same


def meant(words: str, encoder: SlideEncoder) -> tuple[str, ...]:
    """The tissues that `words` mean: the one of this name, or all that are a case of it; empty where it means none."""
    said, plan = plain(words), encoder.plan
    named = tuple(name for name in plan.tissues if plain(name) in (said, said.removesuffix("s")))
    if named:
        return named
    terms = {term.name for word in (said, said.removesuffix("s")) for term in load_ontology().of_class(word)}
    return tuple(name for name in plan.tissues if terms & set(plan.kinds.get(name, ())))


@dataclass(frozen=True)
class Survey:
    """tiles: what was looked at; encoder: what reads them."""

    slide: Slide
    tiles: SlideTiles
    encoder: SlideEncoder

    @cached_property
    def thumbnail(self) -> Roi:
        """The whole slide, its longest side `THUMBNAIL_PX` at most."""
        pixels = self.slide.thumbnail(THUMBNAIL_PX)
        width, height = self.slide.dimensions
        mpp = (self.slide.mpp[0] * width / pixels.shape[1], self.slide.mpp[1] * height / pixels.shape[0])
        return Roi(pixels, mpp, Region(0, 0, width, height), self.slide.source)

    @cached_property
    def probabilities(self) -> np.ndarray:
        """float32 (N, K): of each tile, how likely it is which tissue."""
        import torch

        with torch.inference_mode():
            features, places = torch.from_numpy(self.tiles.features).float(), torch.from_numpy(self.tiles.places)
            return (
                self.encoder.tissues(features, places).softmax(-1).numpy()
                if len(features)
                else np.zeros((0, len(self.encoder.plan.tissues)), np.float32)
            )

    @cached_property
    def strange(self) -> float:
        """Share of the tiles that are like none of the tissues which are named; 0 where the encoder knows no such."""
        return self.shares.get(OTHER, 0.0)

    @cached_property
    def shares(self) -> dict[str, float]:
        """Tissue -> share of the tiles that are likeliest it."""
        tissues = self.encoder.plan.tissues
        counts = np.bincount(self.probabilities.argmax(1), minlength=len(tissues))
        return dict(zip(tissues, (counts / max(len(self.tiles), 1)).tolist(), strict=True))

    @cached_property
    def tokens(self) -> torch.Tensor:
        """float32 (36, D): what the language model is given of the slide."""
        import torch

        with torch.inference_mode():
            parts = (self.tiles.features, self.tiles.tokens, self.tiles.places)
            return self.encoder(*(torch.from_numpy(part).float() for part in parts))

    def likely(self, tissues: Sequence[str]) -> np.ndarray:
        """float32 (N,): how likely each tile is one of `tissues`; the heat map of a question about them."""
        columns = [self.encoder.plan.tissues.index(name) for name in tissues]
        return self.probabilities[:, columns].sum(1)

    def draw(self, values: np.ndarray) -> np.ndarray:
        """float32 (H, W): the tiles' values as squares on the thumbnail, 0 elsewhere."""
        height, width = self.thumbnail.pixels.shape[:2]
        out = np.zeros((height, width), np.float32)
        for value, (x0, y0, x1, y1) in zip(values, self._squares, strict=True):
            out[y0:y1, x0:x1] = value
        return out

    def places(self, number: int, among: Sequence[str] = ()) -> list[int]:
        """Tiles to look closer at: spread over the tissue; with `among` the surest of these tissues, apart from each
        other. Fewer where there are no more."""
        where, chosen = self.tiles.places, []
        if among:
            likely = self.likely(among)
            for index in map(int, np.argsort(-likely, kind="stable")):
                if likely[index] < SURE:
                    break
                if len(chosen) < number and all(np.abs(where[index] - where[c]).max() >= APART for c in chosen):
                    chosen.append(index)
            return chosen
        far = np.linalg.norm(where - where.mean(0), axis=1) if len(where) else np.zeros(0)
        while len(chosen) < min(number, len(where)):
            chosen.append(int(far.argmin() if not chosen else far.argmax()))
            gap = np.linalg.norm(where - where[chosen[-1]], axis=1)
            far = gap if len(chosen) == 1 else np.minimum(far, gap)
        return chosen

    def around(self, index: int, um: float) -> tuple[int, int, int, int]:
        """(x, y, width, height) at level 0 of a square of `um` µm around a tile, within the slide."""
        size = [min(round(um / mpp), side) for mpp, side in zip(self.slide.mpp, self.slide.dimensions, strict=True)]
        middle = self.tiles.grid.coords[index] + np.array(self.tiles.grid.size_level0) // 2
        first = np.clip(middle - np.array(size) // 2, 0, np.array(self.slide.dimensions) - size)
        return (*map(int, first), *size)

    @cached_property
    def _squares(self) -> np.ndarray:
        """int (N, 4): x0, y0, x1, y1 of what each tile stands for, in pixels of the thumbnail."""
        scale = np.array(self.thumbnail.downsample)
        size = np.array(self.tiles.grid.size_level0) * self.tiles.step
        first = self.tiles.grid.coords - np.array(self.tiles.grid.size_level0) * (self.tiles.step // 2)
        return np.round(np.concatenate([first, first + size], 1) / np.tile(scale, 2)).clip(0).astype(int)

    def find(self, words: str, tissues: Sequence[str]) -> Finding:
        """Where the slide is one of `tissues`, which `words` mean (see `meant`), as a finding on the thumbnail."""
        shape = self.thumbnail.pixels.shape[:2]
        name = tissues[0] if len(tissues) == 1 else words
        likely = self.likely(tissues)
        columns = [self.encoder.plan.tissues.index(one) for one in tissues]
        best = np.isin(self.probabilities.argmax(1), columns) if len(likely) else np.zeros(0, bool)
        share = float(best.mean()) if len(best) else 0.0
        found = share >= self.encoder.plan.least
        probability = self.draw(likely)
        mask = self.draw(best.astype(np.float32)) > 0 if found else np.zeros(shape, bool)
        score = float(likely[best].mean()) if found else 0.0
        return Finding(
            name, mask, score, self._presence(share), None, True, words, None, probability, within=self.looked_at
        )

    def _presence(self, share: float) -> float:
        """Probability that a tissue with this share of the tiles is there: one half at the share that was fitted."""
        odds = np.log((share + 1e-3) / (self.encoder.plan.least + 1e-3))
        return float(1 / (1 + np.exp(-2 * odds)))

    @cached_property
    def looked_at(self) -> np.ndarray:
        """bool (H, W) of the thumbnail: what the tiles show."""
        return self.draw(np.ones(len(self.tiles), np.float32)) > 0
