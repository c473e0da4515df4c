"""Where the tissue is on a slide: seen on a small picture of it, so it costs a second whatever the slide's size.

Glass is what is bright and grey. Pen is told from tissue by its hue and its smoothness, and only where it is the
smaller part: a slide that is blue all over is stained blue. Fat is mostly empty, so holes up to the size of a lobule
are filled. Fluorescence is dark where nothing is. No learning: Otsu's threshold (1979) on optical density (Ruifrok &
Johnston 2001).
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from slidekick.data.slide import Region, Slide

WORKING_UM, WORKING_PX = 8.0, 2048  # µm per pixel of the picture that is looked at, and its longest side at most
LEAST_PX = 256  # longest side at least, as far as the slide has that much
FLOOR, CEILING = 0.08, 0.25  # optical density, mean of the colours: paler is glass, denser is tissue, Otsu between
TINT = 0.05  # difference between the densest and the palest colour of pale tissue
DARK = 60  # grey values: a picture whose median is below is fluorescence
TEXTURE, WEB_PX = 0.02, 7  # standard deviation of density within so many pixels a side: fat is a web of thin walls
CLOSED_UM, FILLED_UM2, SMALLEST_UM2 = 30.0, 1e5, 1e4  # half of a gap, areas of holes (fat) and of crumbs
PEN_DENSITY, BLACK_DENSITY = 0.5, 1.2
PEN_ROUGH = 0.12  # standard deviation of density within 5 x 5 pixels: ink is smoother than tissue


@dataclass(frozen=True)
class TissueMask:
    """mask: bool (h, w), the whole slide. scale: level-0 pixels per pixel of the mask, (x, y)."""

    mask: np.ndarray
    scale: tuple[float, float]

    @property
    def share(self) -> float:
        """Share of the slide that is tissue."""
        return float(self.mask.mean())

    def share_in(self, region: Region) -> float:
        """Share of a region that is tissue; of one smaller than a pixel of the mask, what that pixel is."""
        left, top = int(region.x / self.scale[0]), int(region.y / self.scale[1])
        right = max(left + 1, int(np.ceil((region.x + region.width) / self.scale[0])))
        bottom = max(top + 1, int(np.ceil((region.y + region.height) / self.scale[1])))
        part = self.mask[top:bottom, left:right]
        return float(part.mean()) if part.size else 0.0


def tissue_mask(slide: Slide) -> TissueMask:
    """The tissue of a slide. Raises InputError where its pixels cannot be read."""
    longest = WORKING_PX
    if slide.mpp:
        extent = max(side * mpp for side, mpp in zip(slide.dimensions, slide.mpp, strict=True))
        longest = round(np.clip(extent / WORKING_UM, LEAST_PX, WORKING_PX))
    picture = slide.thumbnail(longest)
    height, width = picture.shape[:2]
    scale = (slide.dimensions[0] / width, slide.dimensions[1] / height)
    um = slide.mpp[0] * scale[0] if slide.mpp else WORKING_UM
    dark = slide.header.channels or np.median(picture) < DARK
    return TissueMask(_tidied((_bright_on_dark if dark else _stained)(picture), um), scale)


def _stained(picture: np.ndarray) -> np.ndarray:
    """bool (H, W) of uint8 (H, W, 3): what is denser or more coloured than glass, less the pen."""
    density = optical_density(picture)
    smooth = cv2.GaussianBlur(density, (0, 0), 1.5)
    mean, tint = smooth.mean(2), smooth.max(2) - smooth.min(2)
    del smooth
    found = (mean > _otsu(mean)) | ((tint > TINT) & (mean > FLOOR / 2)) | _web(density.mean(2))
    found &= ~_pen(density, found)
    return found


def _web(density: np.ndarray) -> np.ndarray:
    """bool (H, W): what is uneven over a whole window, as fat is, pale as it may be; glass is even."""
    kernel = np.ones((WEB_PX, WEB_PX), np.uint8)
    uneven = cv2.morphologyEx((roughness(density, WEB_PX) > TEXTURE).astype(np.uint8), cv2.MORPH_CLOSE, kernel)
    return cv2.erode(uneven, kernel).astype(bool)  # a window reaches beyond what is in it


def roughness(density: np.ndarray, side: int) -> np.ndarray:
    """Standard deviation of density, float32 (H, W), within `side` x `side` pixels."""
    return np.sqrt(np.maximum(cv2.blur(density * density, (side, side)) - cv2.blur(density, (side, side)) ** 2, 0))


def _bright_on_dark(picture: np.ndarray) -> np.ndarray:
    bright = cv2.GaussianBlur(picture.max(2).astype(np.float32), (0, 0), 2)
    level, _ = cv2.threshold(np.clip(bright, 0, 255).astype(np.uint8), 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    return bright > max(level / 2, 4)


def optical_density(pixels: np.ndarray) -> np.ndarray:
    """float32 (..., 3) of RGB pixels, against their own glass."""
    light = pixels.astype(np.float32)  # the one array: a picture of a slide takes 50 MB
    light += 1
    light /= (glass_of(pixels) + 1).astype(np.float32)
    np.log(light, out=light)
    np.negative(light, out=light)
    return np.maximum(light, 0, out=light)


def glass_of(pixels: np.ndarray) -> np.ndarray:
    """(3,): the brightest common value of each colour."""
    return np.maximum(np.percentile(pixels.reshape(-1, 3), 98, axis=0), 128)


def _otsu(density: np.ndarray) -> float:
    scaled = np.clip(density * 100, 0, 255).astype(np.uint8)
    level, _ = cv2.threshold(scaled, 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    return float(np.clip(level / 100, FLOOR, CEILING))


def _pen(density: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Ink: blue, green and black by their red density, red by what it lets through, each smoother than tissue.

    A colour of half the tissue and more is its stain.
    """
    red, green, blue = (density[:, :, i] for i in range(3))
    inks = (
        (red > 1.25 * green) & (red > PEN_DENSITY),  # green and light blue
        (np.minimum(red, green) > BLACK_DENSITY) & (blue < 0.4 * red),  # dark blue; haematoxylin is paler
        (density.min(2) > BLACK_DENSITY) & (density.max(2) - density.min(2) < 0.35 * density.max(2)),
        (green > PEN_DENSITY) & (blue > 0.75 * green) & (red < 0.3 * green),
    )
    mean = density.mean(2)
    rough = roughness(mean, 5)
    pen = np.zeros_like(found)
    for ink in inks:
        smooth = ink & (cv2.blur((ink & (rough < PEN_ROUGH)).astype(np.float32), (9, 9)) > 0.2)
        if 0 < (ink & found).sum() < 0.5 * found.sum():
            # Its edges are paler and rougher than its middle.
            grown = cv2.dilate(smooth.astype(np.uint8), np.ones((9, 9), np.uint8)).astype(bool)
            pen |= grown & (ink | (red > 0.95 * green))
    return pen


def _tidied(found: np.ndarray, um: float) -> np.ndarray:
    """Gaps closed, small holes filled, crumbs dropped; um: µm per pixel."""
    reach = round(CLOSED_UM / um)
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
    closed = cv2.morphologyEx(found.astype(np.uint8), cv2.MORPH_CLOSE, kernel)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(1 - closed, connectivity=4)
    holes = stats[:, cv2.CC_STAT_AREA] * um * um <= FILLED_UM2
    holes[0] = False
    closed |= holes[labels].astype(np.uint8)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(closed, connectivity=8)
    kept = stats[:, cv2.CC_STAT_AREA] * um * um >= SMALLEST_UM2
    kept[0] = False
    return kept[labels]
