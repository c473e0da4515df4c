"""How sharp a slide is: the blur of each tile in µm, and a map of tiles over the tissue. No learning.

The measure is the mean squared gradient over the mean squared Laplacian of optical density. It is a length squared,
does not change with contrast, and under a Gaussian blur can only grow: the blur takes most from the frequencies that
weigh most in the denominator (Chebyshev's sum inequality). For straight edges under a Gaussian of standard deviation s
it is 2 s², so the root of its half is told: s, where edges are shown, and less for finer texture. The smoothing that
takes out noise is part of it, so the sharpest tissue has some 0.4 µm. Tissue without detail of its own, such as mucus,
looks blurred to it, as it does to every measure that has no sharp picture beside it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np

from slidekick.data.slide import Slide
from slidekick.data.tiles import TileGrid, read_tiles, tile_grid
from slidekick.data.tissue import TissueMask

MPP = 0.5  # µm per pixel that is looked at: a 20x scan; finer pixels tell of the scanner more than of the focus
COARSEST = 0.6  # µm per pixel of a slide that can still be judged; a coarser scan is softer than its focus
TILE_PX = 256  # 128 µm: tens of nuclei, and smaller than a region that lies out of the focal plane
SMOOTHED_PX = 1.0  # standard deviation: takes the noise of cameras and the blocks of JPEG out of the Laplacian
LEAST_EDGE = 0.01  # root mean square gradient of density a pixel; below it there is no edge to judge by
LEAST_TISSUE = 0.5  # share of a tile
BLURRED_UM = 0.65  # sharp pictures of ten public sets have 0.42 and 0.60 at most but for one in a hundred; a Gaussian
# of 1 µm, under which chromatin runs together, gives 0.69 to 0.92 (medians of the sets)
MOST = 400  # tiles looked at: spread over the tissue, a few seconds


def blur_um(pixels: np.ndarray, mpp: float) -> float:
    """Standard deviation in µm of the Gaussian that would make ideal edges as soft as those of a picture.

    pixels: uint8 (H, W, 3) RGB, 16 pixels a side at least. mpp: its µm per pixel. NaN where it shows no edge.
    """
    density = -np.log((pixels.astype(np.float32).mean(axis=2) + 1) / 256)
    density = cv2.GaussianBlur(density, (0, 0), SMOOTHED_PX, borderType=cv2.BORDER_REFLECT)
    across, down = density[1:-1, 2:] - density[1:-1, :-2], density[2:, 1:-1] - density[:-2, 1:-1]
    bend_x = density[1:-1, 2:] + density[1:-1, :-2] - 2 * density[1:-1, 1:-1]
    bend_y = density[2:, 1:-1] + density[:-2, 1:-1] - 2 * density[1:-1, 1:-1]
    slope = float(np.mean(across * across + down * down)) / 4
    if slope < LEAST_EDGE**2:
        return float("nan")
    bend = float(np.mean((bend_x + bend_y) ** 2))
    return float(np.sqrt(slope / max(bend, 1e-12) / 2) * mpp)


@dataclass(frozen=True)
class FocusMap:
    """Blur of tiles over a slide's tissue. grid: the tiles looked at. blur_um: float (N,), NaN where no edge is."""

    grid: TileGrid
    blur_um: np.ndarray

    @property
    def judged(self) -> int:
        """Number of tiles with an edge to judge by."""
        return int(np.isfinite(self.blur_um).sum())

    @property
    def median_um(self) -> float | None:
        """Of the tiles that could be judged; None where there are none."""
        return float(np.nanmedian(self.blur_um)) if self.judged else None

    @property
    def blurred_share(self) -> float | None:
        """Share of the judged tiles that are blurred beyond BLURRED_UM; None where there are none."""
        return float((self.blur_um > BLURRED_UM).sum() / self.judged) if self.judged else None


def focus_map(slide: Slide, tissue: TissueMask, most: int = MOST) -> FocusMap:
    """The blur of at most `most` tiles, evenly taken from those over the tissue. Equal slides give equal maps.

    Raises InputError where the slide states no scale, or a tile cannot be decoded. Of a slide coarser than COARSEST no
    tile is looked at.
    """
    grid = tile_grid(slide, TILE_PX, MPP, tissue=tissue, least_tissue=LEAST_TISSUE)
    most = most if max(slide.mpp) <= COARSEST else 0
    chosen = np.linspace(0, len(grid) - 1, min(most, len(grid))).round().astype(int)
    grid = replace(grid, coords=grid.coords[chosen])
    found = [blur_um(pixels, grid.mpp) for _, pixels in read_tiles(slide, grid)]
    return FocusMap(grid, np.array(found, float))
