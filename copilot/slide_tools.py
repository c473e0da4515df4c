"""The tools over a slide: the same three, answered from its survey, or by looking closer at a few places.

Tissues come from all tiles (`survey.py`). A structure of the segmentor's, such as nuclei, is looked for at full size in
`PLACES` places, spread over the tissue, or over that part of it which the question names; what is counted there is
told as of these places and is never scaled up to the slide.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from slidekick.copilot.engine import SlidePicture
from slidekick.copilot.survey import Survey, meant
from slidekick.copilot.tools import Toolbox
from slidekick.data.ontology import plain
from slidekick.data.slide import Region, Roi
from slidekick.grounding.finding import Finding
from slidekick.grounding.measure import PLACES_SEEN, Measurement, measure, place_of

PLACES = 6  # looked at in full
PLACE_UM, PLACE_MPP = 448.0, 0.5  # side of a place, and the scale it is read at: a field of a 20x objective
CLOSED = (
    "the survey gives every tile to one of the {} tissues it was taught, also where it is none of them; look yourself"
)


@dataclass(frozen=True)
class Look:
    """One place in full: its pixels and what was found there, by concept."""

    roi: Roi
    findings: dict[str, Finding]


class SlideToolbox(Toolbox):
    """The tools over one slide; `roi` is its thumbnail, on which findings are drawn. looks: where it looked closer."""

    def __init__(self, segmentor, survey: Survey, question: str = "") -> None:
        super().__init__(segmentor, survey.thumbnail)
        self.survey, self.question = survey, question
        self.looks: list[Look] = []

    @property
    def shown(self) -> SlidePicture:
        """The slide's tokens, and its thumbnail for models that read pictures only."""
        return SlidePicture(self.roi.pixels, self.survey.tokens)

    @property
    def looked_at(self) -> tuple[tuple[int, int, int, int], ...]:
        """(x, y, width, height) at level 0 of each place."""
        regions = (look.roi.region for look in self.looks)
        return tuple((region.x, region.y, region.width, region.height) for region in regions)

    def _find(self, concepts: list[str]) -> list[Finding]:
        tissues = [meant(words, self.survey.encoder) for words in concepts]
        structures = [words for words, named in zip(concepts, tissues, strict=True) if not named]
        closer = dict(zip(structures, self._look_closer(structures), strict=True)) if structures else {}
        return [
            self.survey.find(words, named) if named else closer[words]
            for words, named in zip(concepts, tissues, strict=True)
        ]

    def _look_closer(self, concepts: Sequence[str]) -> list[Finding]:
        """A finding each on the thumbnail: the places where it was found."""
        if not self.looks:
            among = mentioned(self.question, self.survey)
            regions = [self.survey.around(index, PLACE_UM) for index in self.survey.places(PLACES, among)]
            mpp = max(PLACE_MPP, *self.survey.slide.mpp)
            self.looks = [Look(self.survey.slide.roi(Region(*r, mpp)), {}) for r in regions]
        for look in self.looks:
            found = self.segmentor.segment(look.roi.pixels, list(concepts), mpp=look.roi.mpp)
            look.findings.update(zip(concepts, found, strict=True))
        return [self._as_one(words) for words in concepts]

    def _as_one(self, words: str) -> Finding:
        shape = self.roi.pixels.shape[:2]
        found = [look.findings[words] for look in self.looks]
        if not found:
            return Finding(words, np.zeros(shape, bool), 0.0, 0.0, None, True, words, within=np.zeros(shape, bool))
        within, mask = np.zeros(shape, bool), np.zeros(shape, bool)
        for look, one in zip(self.looks, found, strict=True):
            window = _on_thumbnail(look.roi.region, self.roi)
            within[window] = True
            mask[window] |= one.found
        best = max(found, key=lambda one: one.presence)
        score = max((one.score for one in found if one.found), default=0.0)
        return Finding(best.concept, mask, score, best.presence, None, best.known, words, best.nearest, within=within)

    def _doubts(self, finding: Finding) -> tuple[str, ...]:
        if not finding.found or not meant(finding.prompt, self.survey.encoder):
            return ()
        return (CLOSED.format(len(self.survey.encoder.plan.tissues)),)

    def _measured(self, finding: Finding) -> Measurement:
        seen = [(look.roi, look.findings[finding.prompt]) for look in self.looks if finding.prompt in look.findings]
        return together(seen, finding) if seen else super()._measured(finding)


def together(seen: Sequence[tuple[Roi, Finding]], whole: Finding) -> Measurement:
    """One measurement over several places at full size. whole: the finding on the thumbnail, which tells where."""
    parts = [measure(finding, roi.mpp) for roi, finding in seen]
    counted = [part.count for part in parts if part.count is not None]
    looked_um2 = sum(roi.mpp[0] * roi.mpp[1] * finding.mask.size for roi, finding in seen)
    area = sum(part.area_um2 for part in parts)
    weights = [part.count or 0 for part in parts]

    def mean(name: str) -> float | None:
        known = [
            (getattr(part, name), n) for part, n in zip(parts, weights, strict=True) if getattr(part, name) is not None
        ]
        total = sum(n for _, n in known)
        return sum(value * n for value, n in known) / total if total else None

    return Measurement(
        concept=whole.concept,
        found=whole.found,
        count=sum(counted) if counted else None,
        area_px=sum(part.area_px for part in parts),
        area_um2=area,
        area_fraction=area / looked_um2,
        density_per_mm2=sum(counted) / looked_um2 * 1e6 if counted else None,
        mean_diameter_um=mean("mean_diameter_um"),
        mean_diameter_px=mean("mean_diameter_px"),
        nearest_neighbour_um=mean("nearest_neighbour_um"),
        place=place_of(whole.mask),
        of=PLACES_SEEN,
    )


def mentioned(question: str, survey: Survey) -> tuple[str, ...]:
    """The tissues that a question names beside what it asks for, such as "nuclei in the tumour"."""
    said = plain(question).split()
    spans = [" ".join(said[i : i + n]) for n in range(5, 0, -1) for i in range(len(said) - n + 1)]
    return next((tissues for span in spans if (tissues := meant(span, survey.encoder))), ())


def _on_thumbnail(region: Region, thumbnail: Roi) -> tuple[slice, slice]:
    """Rows and columns of the thumbnail that a region covers, at least one each."""
    across, down = thumbnail.downsample
    x0, y0 = int(region.x / across), int(region.y / down)
    x1, y1 = (
        max(x0 + 1, round((region.x + region.width) / across)),
        max(y0 + 1, round((region.y + region.height) / down)),
    )
    return slice(y0, y1), slice(x0, x1)
