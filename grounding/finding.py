"""What a segmentor found for one concept in one picture. Values only: measuring and writing live beside it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Finding:
    """One concept, looked for in one picture.

    concept: the vocabulary's name for it (the user's words where it is unknown).
    mask: bool (H, W), the picture's own pixels; all False where the concept is not there.
    score: mean mask probability inside the mask, 0–1 (0 for an empty mask).
    presence: probability that the concept is in the picture at all, 0–1.
    instances: int32 (H, W), 0 = none, 1..n = objects; None where the concept is a region, not objects.
    known: False when the words are outside the vocabulary card.
    prompt: the user's words.
    nearest: the nearest known concept where `known` is False.
    probability: float32 (H, W), calibrated probability that a pixel belongs to it; None where it was not kept.
    within: bool (H, W), where it was looked for, such as the tissue of a slide; None: everywhere.
    """

    concept: str
    mask: np.ndarray
    score: float
    presence: float
    instances: np.ndarray | None = None
    known: bool = True
    prompt: str = ""
    nearest: str | None = None
    probability: np.ndarray | None = None
    within: np.ndarray | None = None

    @property
    def found(self) -> bool:
        """True when any pixel is marked."""
        return bool(self.mask.any())
