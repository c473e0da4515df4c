"""One slide of a session: where it lies, which part of it is asked about, what was found on it, and its corrections."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from slidekick.apps.serving.folders import Folders
from slidekick.apps.serving.pictures import Eyes
from slidekick.apps.serving.requests import SlidePart
from slidekick.apps.serving.slides import Shelf, facts
from slidekick.apps.workbench.layers import Layers
from slidekick.copilot.copilot import Copilot
from slidekick.copilot.slide_tools import SlideToolbox
from slidekick.copilot.survey import Survey
from slidekick.copilot.tools import Toolbox
from slidekick.data.errors import InputError
from slidekick.data.samples import sample
from slidekick.data.slide import Roi
from slidekick.grounding.outline import fill

if TYPE_CHECKING:
    from slidekick.apps.workbench.drafts import Draft

MOST_PX = 16_000_000  # of a region read in full: four fields of a 20x objective squared; larger ones are read coarser
LEAST_PX = 8  # level-0 pixels along each side of a region
MOST_CORNERS = 2000  # of a polygon drawn by hand
UPLOADS = "uploads"  # folder of a session


@dataclass(frozen=True)
class Area:
    """The part of a slide that is asked about. box: x, y, width, height at level 0. polygon: corners (x, y), where it
    is not the whole box."""

    box: tuple[int, int, int, int]
    polygon: tuple[tuple[int, int], ...] = ()

    @classmethod
    def drawn(cls, told: dict, width: int, height: int) -> Area | None:
        """What a viewer tells of a region; None for the whole slide. Raises InputError for what is none."""
        try:
            if told.get("polygon"):
                corners = np.array(told["polygon"], float).round()[:MOST_CORNERS]
                if not np.isfinite(corners).all():
                    raise ValueError("corners beyond all bounds")
                corners = corners.clip(0, (width, height)).astype(int)
                low, high = corners.min(0), corners.max(0)
                box = (*(int(one) for one in low), *(int(one) for one in high - low))
                polygon = tuple((int(x), int(y)) for x, y in corners)
            elif told.get("box"):
                x, y, wide, high = (int(one) for one in told["box"])
                x0, y0 = max(0, x), max(0, y)
                box = (x0, y0, min(width, x + wide) - x0, min(height, y + high) - y0)
                polygon = ()
            else:
                return None
        except (TypeError, ValueError, OverflowError) as error:
            raise InputError("the region is none; give x,y,width,height in level-0 pixels, or draw it anew") from error
        if min(box[2:]) < LEAST_PX:
            raise InputError(f"the region is smaller than {LEAST_PX} pixels across, or outside the slide; draw it anew")
        return cls(box, polygon)

    def within(self, roi: Roi) -> np.ndarray | None:
        """bool (H, W): which pixels of its picture lie in the polygon; None where it is the whole box."""
        if not self.polygon:
            return None
        ring = (np.array(self.polygon, float) - self.box[:2]) / roi.downsample
        mask = fill([ring], roi.pixels.shape[:2])
        if not mask.any():
            raise InputError("the polygon encloses no pixel; draw a larger one")
        return mask


@dataclass
class Sheet:
    """source: "folder:NAME", "upload:NAME" or "sample:NAME". mpp: µm per pixel where the user stated it. points: clicks
    (x, y, inside) in level-0 pixels that correct a concept in this area. by_hand: concepts that a person changed in it.
    draft: of a report."""

    source: str
    mpp: float | None = None
    area: Area | None = None
    layers: Layers = field(default_factory=Layers)
    points: dict[str, list[tuple[int, int, bool]]] = field(default_factory=dict)
    by_hand: list[str] = field(default_factory=list)
    draft: Draft | None = None
    _box: Toolbox | None = None

    @property
    def name(self) -> str:
        """The file's name."""
        return self.source.partition(":")[2].rpartition("/")[2]

    def file(self, folders: Folders, place: Path) -> Path:
        """Where it lies. place: the session's folder. Raises InputError where it is not, or not any more."""
        kind, _, name = self.source.partition(":")
        if kind == "folder":
            return folders.find(name)
        if kind == "sample":
            return sample(name)
        file = place / UPLOADS / Path(name).name
        if kind != "upload" or not file.is_file():
            raise InputError(f"{name}: is not there any more; upload it again")
        return file

    def facts(self, shelf: Shelf, file: Path) -> dict:
        """Size and scale, as the viewer is told."""
        with shelf.open(file) as slide:
            told = facts(slide)
        stated = bool(self.mpp) and told["mpp"] is None
        return told | {"stated": stated} | ({"mpp": [self.mpp, self.mpp]} if stated else {})

    def state(self, mpp: float | None) -> None:
        """Take a scale that the user states; None says nothing new."""
        if mpp is not None and mpp != self.mpp:
            self.mpp, self._box = mpp, None

    def choose(self, area: Area | None) -> None:
        """Ask about another part from now on."""
        if area != self.area:
            self.area, self._box, self.points, self.by_hand = area, None, {}, []

    def toolbox(self, copilot: Copilot, eyes: Eyes, file: Path, known: dict, question: str = "") -> Toolbox:
        """The tools over the area; kept from question to question, but of a slide, whose places hang on the question.

        known: the sheet's facts.
        """
        if self._box is None or isinstance(self._box, SlideToolbox):
            shown = self._look(eyes, file, known)
            within = self.area.within(shown) if self.area and isinstance(shown, Roi) else None
            self._box = copilot.toolbox(shown, question, within)
            if isinstance(shown, Roi):
                self._box.take([self.layers.by_concept[one].finding(shown) for one in self.by_hand])
        return self._box

    def _look(self, eyes: Eyes, file: Path, known: dict) -> Roi | Survey:
        region, mpp = None if self.area is None else self.area.box, self.mpp
        if region is not None and known["mpp"] and not known["stated"] and region[2] * region[3] > MOST_PX:
            mpp = max(known["mpp"]) * math.sqrt(region[2] * region[3] / MOST_PX)
        return eyes.read(file, SlidePart(name=self.name, region=region, mpp=mpp))

    def correct(self, copilot: Copilot, box: Toolbox, concept: str, points: Sequence[tuple[int, int, bool]]) -> None:
        """Look for a concept again with clicks that say what belongs to it and what does not.

        Raises InputError for a slide as a whole, for clicks outside the area, and for a word that is not known.
        """
        if isinstance(box, SlideToolbox):
            raise InputError("a mask of a whole slide is not corrected by clicks; draw a region first")
        region, scale = box.roi.region, np.array(box.roi.downsample)
        places = [((np.array(one[:2]) - (region.x, region.y)) / scale, one[2]) for one in points]
        clicks = [(float(x), float(y), int(inside)) for (x, y), inside in places]
        (finding,) = copilot.segmentor.segment(box.roi.pixels, [concept], mpp=box.roi.mpp, points=clicks)
        if not finding.known:
            raise InputError(f"{concept}: not in the segmentor's vocabulary; see `slidekick vocabulary`")
        finding = box.inside(finding)
        box.keep(finding)
        self.layers.draw([finding], box)
        self.points[finding.concept] = list(points)
        self.by_hand = list(dict.fromkeys([*self.by_hand, finding.concept]))
