"""How many clicks a mask costs: a simulated user who corrects the worst error until the mask is good enough.

The protocol of interactive segmentation (NoC: number of clicks; RITM, Sofiiuk et al. 2022, arXiv 2102.06583; SAM,
Kirillov et al. 2023). Deterministic. Training draws its own, random clicks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from slidekick.grounding.metrics import dice

ENOUGH = 0.85  # Dice
MOST_CLICKS = 20  # a mask that is not good enough by then counts as this many (RITM's NoC)
Click = tuple[float, float, int]  # x, y in px of the picture, at the middle of a pixel; 1 = belongs to it, 0 = does not


@dataclass(frozen=True)
class Clicking:
    """What the clicks came to.

    needed: clicks until the Dice was enough, or the most allowed; dice: after each click.
    """

    needed: int
    dice: tuple[float, ...]


def clicks_to(
    target: np.ndarray,
    session: Callable[[list[Click]], np.ndarray],
    enough: float = ENOUGH,
    most: int = MOST_CLICKS,
    go_on: bool = False,
    start: np.ndarray | None = None,
) -> Clicking:
    """Click until `session` draws `target` (bool (H, W)) with a Dice of `enough`, at most `most` times.

    session: takes all clicks so far and gives a bool (H, W) mask. start: what was drawn before any click, such as by
    words; without it the first click is in the middle of the target. Each further one is where `next_click` says.
    go_on: click on after enough is reached, so that `dice` has `most` entries and can be averaged over pictures (a
    mask without any error left stays as it is, and is not asked again).
    Pixels that nobody judged are left out by taking them out of `target` and of what `session` gives. Raises
    ValueError for an empty target or a mask of another shape.
    """
    target = np.asarray(target, bool)
    if not target.any():
        raise ValueError("the target is empty; clicks are counted only where there is something to draw")
    drawn = np.zeros_like(target) if start is None else np.asarray(start, bool)
    clicks: list[Click] = []
    scores = [dice(drawn, target)]  # before the first click, then after each
    while len(clicks) < most and (go_on or scores[-1] < enough):
        click = next_click(drawn, target, clicks)
        if click is None:
            break
        clicks.append(click)
        drawn = np.asarray(session(list(clicks)), bool)
        scores.append(dice(drawn, target))
    if go_on:
        scores += scores[-1:] * (most - len(clicks))
    first = next((count for count, score in enumerate(scores) if score >= enough), None)
    return Clicking(most if first is None else first, tuple(scores[1:]))


def next_click(drawn: np.ndarray, target: np.ndarray, clicked: list[Click] | tuple[Click, ...] = ()) -> Click | None:
    """Where a user would click next: the pixel deepest inside an error, missed (label 1) or false (0).

    drawn, target: bool (H, W). Depth is the distance to the nearest pixel that is right, in px; beyond the picture's
    edge counts as right, so that clicks do not cling to it. Pixels already clicked are passed over; between equals
    false ones come first (both as in RITM), then reading order. None where nothing is wrong or all of it is clicked.
    """
    missed, false = _depth(target & ~drawn), _depth(drawn & ~target)
    for x, y, _ in clicked:
        missed[int(y), int(x)] = false[int(y), int(x)] = 0
    depth, label = (missed, 1) if missed.max() > false.max() else (false, 0)
    if not depth.max():
        return None
    row, column = np.unravel_index(int(depth.argmax()), depth.shape)
    return float(column) + 0.5, float(row) + 0.5, label


def _depth(error: np.ndarray) -> np.ndarray:
    """float32 (H, W): distance of each pixel of `error` to what is right, exact; 0 elsewhere."""
    framed = np.pad(error, 1).astype(np.uint8)
    return cv2.distanceTransform(framed, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]
