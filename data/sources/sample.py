"""One picture of a published data set with what its publishers say of it, and the row of them. Opens no files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

Part = TypeVar("Part")


@dataclass(frozen=True, eq=False)
class Sample:
    """One labelled picture.

    id: unique in its data set. image: uint8 (H, W, 3) RGB. group: patient, slide or source picture, as far as the
    publication names it; pictures of one group belong together in one split.
    mask: uint8 (H, W), 0 = none of `classes`, 255 = not judged. instances: uint16 (H, W), 0 = no object.
    mpp: µm per pixel where the publication states it. split: train, val or test where the publishers part the data
    so that no group is torn. extra: further facts, kept as further keys of the item.
    """

    id: str
    image: np.ndarray
    group: str
    mask: np.ndarray | None = None
    instances: np.ndarray | None = None
    classes: dict[int, str] = field(default_factory=dict)
    organ: str | None = None
    stain: str | None = "H&E"
    label: str | None = None
    mpp: float | None = None
    magnification: float | None = None
    split: str | None = None
    extra: dict = field(default_factory=dict)


class Samples(Iterator[Sample]):
    """Samples one after another, each opened when it is asked for; `len` tells how many are left."""

    def __init__(self, parts: Sequence[Part], load: Callable[[Part], Sample]) -> None:
        self._left = len(parts)
        self._samples = map(load, parts)

    def __len__(self) -> int:
        return self._left

    def __next__(self) -> Sample:
        sample = next(self._samples)
        self._left -= 1
        return sample
