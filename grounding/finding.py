"""What a segmentor found for one concept in one picture. Values only: measuring and writing live beside it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage

PICTURE, TISSUE, REGION = "picture", "tissue", "region"  # where a concept was looked for, as people say it


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
    within: bool (H, W), where it was looked for, such as the tissue of a slide; None: everywhere. part: what `within`
    is.
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
    part: str = TISSUE

    @property
    def found(self) -> bool:
        """True when any pixel is marked."""
        return bool(self.mask.any())


def clipped(finding: Finding, within: np.ndarray) -> Finding:
    """What of a finding lies in a region, bool (H, W): its pixels there, or the objects that lie there by half or more.

    Where nothing is left it is not found there, and its presence is 0.
    """
    if finding.instances is None:
        instances, mask = None, finding.mask & within
    else:
        size = np.bincount(finding.instances.ravel())
        inside = np.bincount(finding.instances.ravel(), within.ravel(), minlength=len(size))
        kept = 2 * inside >= size
        kept[0] = False
        instances = np.where(kept[finding.instances], finding.instances, 0).astype(np.int32)
        mask = instances > 0
    presence, score = (finding.presence, finding.score) if mask.any() else (0.0, 0.0)
    return replace(finding, mask=mask, instances=instances, presence=presence, score=score, within=within, part=REGION)


def largest(finding: Finding) -> Finding:
    """The object of a finding with the largest area, or its largest connected part where it is a region, as one object.

    As it is where nothing was found.
    """
    if not finding.found:
        return finding
    parts = finding.instances if finding.instances is not None else ndimage.label(finding.mask)[0]
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    mask = parts == sizes.argmax()
    return replace(finding, concept=f"largest {finding.concept}", mask=mask, instances=mask.astype(np.int32))
