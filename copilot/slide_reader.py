"""The specialist that surveys slides: mini's tower and connector over the tiles, and the slide encoder behind them.

It serves any language model: mini reads its tokens, others get the thumbnail and some places as pictures, and the tools
(`slide_tools.py`) answer both.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from slidekick.copilot.mini import SLIDES, WEIGHTS, load_mini, tower_name
from slidekick.copilot.slide_encoder import SlideEncoder, load_slide_encoder
from slidekick.copilot.slide_tiles import TileTower, slide_tiles
from slidekick.copilot.survey import Survey
from slidekick.data.errors import InputError
from slidekick.data.slide import Slide


@dataclass(frozen=True)
class SlideReader:
    """tower: over the tiles. encoder: over a slide's tiles."""

    tower: TileTower
    encoder: SlideEncoder

    def survey(self, slide: Slide, keep: bool = True) -> Survey:
        """Look over a slide: read and encode its tiles, or take them from the cache. Progress goes to stderr.

        keep: whether the tiles' features are kept in the cache, by the file's content. Raises InputError for a slide
        without a scale, or with a tile that cannot be decoded.
        """
        if slide.mpp is None:
            raise InputError(f"{slide.source}: no scale (µm per pixel) in the file; state it with --mpp")
        return Survey(slide, slide_tiles(slide, self.tower, keep), self.encoder)


def load_slide_reader(folder: Path = WEIGHTS) -> SlideReader:
    """The reader whose encoder lies in `folder`/slides, over the tower of mini in `folder`.

    Raises InputError where there is none.
    """
    return SlideReader(TileTower(lambda: load_mini(folder)[0], tower_name(folder)), load_slide_encoder(folder / SLIDES))
