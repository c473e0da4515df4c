"""Which kind of stain a picture or slide shows, by the colours of what is denser than glass: five kinds, or "unknown".

Twelve numbers of the colours (how dark, the mean direction of optical density after Ruifrok & Johnston 2001, how it
spreads, shares of blue and of pink) go through a linear discriminant with a shared, shrunk covariance (Friedman 1989).
Coefficients and figures lie in `stain.json`, which `python -m slidekick.data.stain_fit DATA` makes from the train split
of a folder of sets. The temperature of its probabilities and the distance from which a picture is like none of the
kinds are fitted on sources that were left out, because a stain of another laboratory is what it will meet; so it often
says "unknown". Special stains (PAS, trichrome, silver) are no kind of it: with them among the kinds, one in ten of
another laboratory was found, and haematoxylin and eosin was taken for them. They are told as what they look most like:
a hint for people, never a reason to refuse a slide.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import cv2
import numpy as np

from slidekick.data.slide import Region, Slide
from slidekick.data.tissue import DARK, glass_of, optical_density

UNKNOWN, FLUORESCENCE = "unknown", "fluorescence"
KINDS = {  # name: what data sets call it, lower case; a whole word of the set's `stain`
    "haematoxylin and eosin": ("h&e", "brightfield purple"),
    "immunohistochemistry": ("ihc", "cd31", "prospc", "cc10", "ki67"),
    FLUORESCENCE: ("fluorescence",),
    "Romanowsky (blood, bone marrow)": ("giemsa", "romanowsky", "blood smear"),
    "Papanicolaou": ("pap",),
}
LEAST_PROBABILITY = 0.5  # below it nothing is said: it is as likely another kind
LOOKED_AT_PX = 256  # longest side of what is looked at of one picture
DENSE = 0.12  # mean optical density from which a pixel is no glass
LEAST_SHARE = 0.002  # of pixels that are no glass: fewer tell nothing
TILES, TILE_PX = 12, 512  # of a slide: places over its tissue, level-0 pixels a side
OVERVIEW_PX = 512  # longest side of the picture on which they are found
_FILE = Path(__file__).with_suffix(".json")


@dataclass(frozen=True)
class StainClass:
    """name: one of KINDS, or "unknown". probability: of the likeliest kind, also where the name is "unknown".
    likeliest: that kind; None where there is nothing to judge by, or it is like none of them."""

    name: str
    probability: float
    likeliest: str | None

    def to_dict(self) -> dict:
        """JSON-ready."""
        return asdict(self) | {"probability": round(self.probability, 3)}


def stain_class(shown: np.ndarray | Slide) -> StainClass:
    """The kind of stain of a picture, uint8 (H, W, 3) RGB, or of places over a slide's tissue.

    Raises InputError where a slide's pixels cannot be read.
    """
    if isinstance(shown, Slide) and shown.header.channels:
        return StainClass(FLUORESCENCE, 1.0, FLUORESCENCE)  # the file says so
    pictures = list(_places(shown)) if isinstance(shown, Slide) else [shown]
    found = stain_features(pictures) if pictures else None
    if found is None:
        return StainClass(UNKNOWN, 0.0, None)
    model = _model()
    probability, distance = judged(model, found[None])
    best = int(probability[0].argmax())
    name, value = model["kinds"][best], float(probability[0, best])
    if distance[0] > model["farthest"]:
        return StainClass(UNKNOWN, value, None)
    return StainClass(name if value >= LEAST_PROBABILITY else UNKNOWN, value, name)


def stain_features(pictures: Sequence[np.ndarray]) -> np.ndarray | None:
    """float64 (D,) of the pixels of `pictures`, uint8 (H, W, 3), taken together; None where they show only glass."""
    pixels = np.concatenate([_small(picture).reshape(-1, 3) for picture in pictures]).astype(np.float32)
    bright = np.median(pixels.max(axis=1)) / 255
    glass, density = glass_of(pixels), optical_density(pixels)
    dense = density[density.mean(axis=1) > DENSE]
    if len(dense) < LEAST_SHARE * len(density):
        return None
    total = dense.sum(axis=1)
    shade = dense / total[:, None]  # what each colour takes, whatever the depth; a third each is grey
    weight = np.minimum(total, 3) / np.minimum(total, 3).sum()
    mean = weight @ shade
    off = shade - mean
    spread = (off * weight[:, None]).T @ off
    red, green, blue = shade.T
    cold = (red > green) & (red > 0.39)  # blue and green: haematoxylin alone, what Pap and Masson add
    pink = (green > 0.42) & (blue < 0.36) & (red < 0.36)  # and magenta: eosin, PAS
    found = (
        bright,
        *np.log(glass[1:] / 255),
        mean[0],
        mean[2],
        *np.sqrt(np.diag(spread)),
        spread[0, 2],
        *(np.sqrt(weight @ share) for share in (cold, pink)),
        len(dense) / len(density),
    )
    return np.array(found, float)


def kind_of(stain: str | None) -> str | None:
    """The kind that a set's `stain` names; None for another, or for none."""
    words = (stain or "").lower()
    if "separated" in words:
        return None
    apart = words.replace("-", " ").replace("(", " ").split()
    for kind, names in KINDS.items():
        if any(name in words if " " in name else name in apart for name in names):
            return kind
    return None


def _small(picture: np.ndarray) -> np.ndarray:
    scale = LOOKED_AT_PX / max(picture.shape[:2])
    return picture if scale >= 1 else cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)


def _places(slide: Slide) -> Iterator[np.ndarray]:
    """Pictures of up to TILES places, evenly taken from what is denser than glass; of a small picture itself.

    Not from `tissue_mask`, which costs a second more and would only keep pen away, of which few places are.
    """
    seen = slide.thumbnail(OVERVIEW_PX)
    if max(slide.dimensions) <= 2 * TILE_PX:
        yield seen
        return
    (height, width), full = seen.shape[:2], slide.dimensions
    smooth = cv2.blur(seen, (5, 5))
    dark = np.median(seen) < DARK
    found = smooth.max(axis=2) > DARK / 2 if dark else optical_density(smooth.astype(np.float32)).mean(axis=2) > DENSE
    rows, columns = np.nonzero(found)
    for index in np.linspace(0, len(rows) - 1, min(TILES, len(rows))).round().astype(int):
        middle = (columns[index] * full[0] / width, rows[index] * full[1] / height)
        x, y = (
            int(np.clip(at - TILE_PX / 2, 0, max(0, side - TILE_PX))) for at, side in zip(middle, full, strict=True)
        )
        yield slide.roi(Region(x, y, min(TILE_PX, full[0]), min(TILE_PX, full[1]))).pixels


@cache
def _model() -> dict:
    told = json.loads(_FILE.read_text(encoding="utf-8"))
    return told | {key: np.array(told[key]) for key in ("scale", "means", "precision")}


def judged(model: dict, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Probability (N, K) of each kind, all alike likely before, and squared distance (N,) to the nearest one's mean."""
    off = features[:, None] / model["scale"] - model["means"][None]
    distance = np.einsum("nkd,de,nke->nk", off, model["precision"], off)
    return softmax(-0.5 * distance / model["temperature"]), distance.min(axis=1)


def softmax(score: np.ndarray) -> np.ndarray:
    """Shares (N, K) of scores (N, K) that add up to 1 in each row."""
    likely = np.exp(score - score.max(axis=1, keepdims=True))
    return likely / likely.sum(axis=1, keepdims=True)
