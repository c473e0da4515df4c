"""What is done to a picture before it is asked about: nothing, blanked, turned, compressed, stained more or less.

A model that reads tissue says the same of a turned picture, and nothing right of a blank one. Deterministic, uint8
(H, W, 3) RGB in and out.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Mapping

import numpy as np

NONE, BLANK = "none", "blank"
WORDING = "wording "  # and a number: a question in other words, its picture unchanged
GREY, BLANK_SIDE = 128, 192  # a blank picture: middle grey, of mini's own size
QUALITY = 50


def blank(_: np.ndarray | None = None) -> np.ndarray:
    """An even grey square: the question without its picture."""
    return np.full((BLANK_SIDE, BLANK_SIDE, 3), GREY, np.uint8)


def jpeg(pixels: np.ndarray) -> np.ndarray:
    """After JPEG compression at quality 50."""
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format="JPEG", quality=QUALITY)
    return np.asarray(Image.open(stream).convert("RGB"))


def stained(factor: float) -> Callable[[np.ndarray], np.ndarray]:
    """All stains stronger (> 1) or weaker: optical density times `factor` (Beer–Lambert), I' = 255 (I / 255)^factor."""

    def change(pixels: np.ndarray) -> np.ndarray:
        return np.round(255 * (pixels / 255.0) ** factor).astype(np.uint8)

    return change


def turned(quarters: int) -> Callable[[np.ndarray], np.ndarray]:
    """Turned by quarters of a circle."""
    return lambda pixels: np.ascontiguousarray(np.rot90(pixels, quarters))


# kind of disturbance -> its changes by name; "none" and "blank" are no disturbances.
KINDS: dict[str, tuple[str, ...]] = {
    "rotation": ("rotated 90", "rotated 180", "rotated 270"),
    "jpeg": ("JPEG 50",),
    "stain": ("stain -10 %", "stain +10 %"),
}
CHANGES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    NONE: lambda pixels: pixels,
    BLANK: blank,
    **{f"rotated {90 * quarters}": turned(quarters) for quarters in (1, 2, 3)},
    "JPEG 50": jpeg,
    "stain -10 %": stained(0.9),
    "stain +10 %": stained(1.1),
}


def kinds_of(rows: Iterable[Mapping]) -> dict[str, tuple[str, ...]]:
    """Kinds of disturbance -> their changes that occur among rows; other wordings are the kind "wording"."""
    there = {row["change"] for row in rows}
    kinds = {"wording": tuple(sorted(change for change in there if change.startswith(WORDING)))}
    kinds |= {kind: tuple(change for change in changes if change in there) for kind, changes in KINDS.items()}
    return {kind: changes for kind, changes in kinds.items() if changes}
