"""The tools over a slide: the same three, answered from its survey, or by looking closer at a few places.

Tissues come from all tiles (`survey.py`). A structure of the segmentor's, such as nuclei, is looked for at full size in
`PLACES` places, spread over the tissue, or over that part of it which the question names; what is counted there is
told as of these places and is never scaled up to the slide.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from slidekick.copilot.extra_tools import ExtraTool, Field
from slidekick.copilot.pictures import Pictures, SlidePicture
from slidekick.copilot.survey import Survey, meant
from slidekick.copilot.tools import NO_EXTRA, Toolbox, names_largest, percent
from slidekick.data.composed import tissue_cases
from slidekick.data.errors import InputError
from slidekick.data.layout import OTHER
from slidekick.data.ontology import plain
from slidekick.data.slide import Region, Roi
from slidekick.grounding.finding import Finding
from slidekick.grounding.measure import PLACES_SEEN, Measurement, measure, place_of

PLACES = 6  # looked at in full
PLACE_UM, PLACE_MPP = 448.0, 0.5  # side of a place, and the scale it is read at: a field of a 20x objective
CLOSED = "the survey was taught {} tissues, and may give the name of one of them to another; look yourself"
STRANGE = "{} of the tissue is like none of the {} that the survey was taught"
UNSEEN = 0.01  # share that a tissue or organ is taken to have which the model names and the survey did not see
MUCH = 0.1  # share of the tissue that is told of as strange


@dataclass(frozen=True)
class Look:
    """One place in full: its pixels and what was found there, by concept."""

    roi: Roi
    findings: dict[str, Finding]


class SlideToolbox(Toolbox):
    """The tools over one slide; `roi` is its thumbnail, on which findings are drawn. looks: where it looked closer."""

    def __init__(
        self, segmentor, survey: Survey, question: str = "", extra: Mapping[str, ExtraTool] = NO_EXTRA
    ) -> None:
        super().__init__(segmentor, survey.thumbnail, extra=extra)
        self.own_words = False  # nor do they tell tissue from picture and places
        self.survey, self.question = survey, question
        self.looks: list[Look] = []
        self._places: dict[int, Roi] = {}

    @property
    def shown(self) -> SlidePicture:
        """The slide as mini is shown it: its tokens."""
        return SlidePicture(self.roi.pixels, self.survey.tokens)

    def pictures(self, question: str, most: int) -> Pictures:
        """The slide for a model that reads pictures only, `most` at most: its thumbnail, and places at full size.

        They are the surest of a tissue that the question names, as far as the survey holds there is any, else spread
        over the tissue.
        """
        among = mentioned(question, self.survey)
        chosen = self.survey.places(most - 1, among) or self.survey.places(most - 1)
        rois = [self._place(index) for index in chosen]
        if not rois:
            return Pictures((self.roi.pixels,))
        regions = tuple((one.region.x, one.region.y, one.region.width, one.region.height) for one in rois)
        return Pictures((self.roi.pixels, *(one.pixels for one in rois)), captions(self.roi, rois), regions)

    def _place(self, index: int) -> Roi:
        """A tile's surroundings at full size, read once."""
        if index not in self._places:
            mpp = max(PLACE_MPP, *self.survey.slide.mpp)
            self._places[index] = self.survey.slide.roi(Region(*self.survey.around(index, PLACE_UM), mpp))
        return self._places[index]

    @property
    def looked_at(self) -> tuple[tuple[int, int, int, int], ...]:
        """(x, y, width, height) at level 0 of each place."""
        regions = (look.roi.region for look in self.looks)
        return tuple((region.x, region.y, region.width, region.height) for region in regions)

    def rivals(self, text: str) -> dict[str, float]:
        """Where `text` names a tissue, or an organ: it and all that are there, with their shares; else empty."""
        tissues = [name for name in self.survey.encoder.plan.tissues if name != OTHER]
        organs = tissue_cases()
        for kinds in ({name: name for name in tissues}, {name: organs[name] for name in tissues if name in organs}):
            if plain(text) not in map(plain, kinds.values()):
                continue
            shares = dict.fromkeys(kinds.values(), 0.0)
            for name, kind in kinds.items():
                shares[kind] += self.survey.shares[name]
            least = self.survey.encoder.plan.least
            there = {kind: share for kind, share in shares.items() if share >= least or plain(kind) == plain(text)}
            return {kind: max(share, UNSEEN) for kind, share in there.items()}
        return {}

    def look_for(self, concepts: Sequence[str]) -> None:
        """See `Toolbox`. Raises InputError for the largest object of a kind: it may lie where nobody looked closely."""
        for words in filter(names_largest, concepts):
            raise InputError(f"{words!r} is looked for in pictures, not in whole slides; ask about a region of it")
        super().look_for(concepts)

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
            self.looks = [Look(self._place(index), {}) for index in self.survey.places(PLACES, among)]
        for look in self.looks:
            found = self.segmentor.segment(look.roi.pixels, list(concepts), mpp=look.roi.mpp)
            look.findings.update(zip(concepts, found, strict=True))
        return [self._as_one(words) for words in concepts]

    def _as_one(self, words: str) -> Finding:
        shape = self.roi.pixels.shape[:2]
        found = [look.findings[words] for look in self.looks]
        if not found:
            return self._nowhere(words, np.zeros(shape, bool))
        within, mask = np.zeros(shape, bool), np.zeros(shape, bool)
        for look, one in zip(self.looks, found, strict=True):
            window = _on_thumbnail(look.roi.region, self.roi)
            within[window] = True
            mask[window] |= one.found
        best = max(found, key=lambda one: one.presence)
        score = max((one.score for one in found if one.found), default=0.0)
        return Finding(best.concept, mask, score, best.presence, None, best.known, words, best.nearest, within=within)

    def _nowhere(self, words: str, nothing: np.ndarray) -> Finding:
        """Of a slide without a place to look at: nothing, under the vocabulary's name as on any other slide."""
        look_up = getattr(getattr(self.segmentor, "vocabulary", None), "match", None)
        match = None if look_up is None else look_up(words)
        if match is not None and match.concept is None:
            return Finding(words, nothing, 0.0, 0.0, None, False, words, match.nearest, within=nothing)
        name = words if match is None else match.concept.name
        return Finding(name, nothing, 0.0, 0.0, None, True, words, within=nothing)

    def _field(self, name: str) -> Field:
        raise InputError(f"{name} measures pictures, not whole slides; ask about a region of it")

    def _doubts(self, finding: Finding) -> tuple[str, ...]:
        if not meant(finding.prompt, self.survey.encoder):
            return ()
        named = sum(name != OTHER for name in self.survey.encoder.plan.tissues)
        closed = (CLOSED.format(named),) if finding.found else ()
        strange = (STRANGE.format(percent(self.survey.strange), named),) if self.survey.strange >= MUCH else ()
        return closed + strange

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


def captions(thumbnail: Roi, places: Sequence[Roi]) -> tuple[str, ...]:
    """A line for each picture of a slide: the whole, then the places, which are told in words of the first picture."""
    width, height = (side * mpp / 1000 for side, mpp in zip(thumbnail.pixels.shape[1::-1], thumbnail.mpp, strict=True))
    lines = [f"Picture 1: the whole slide, {width:.1f} × {height:.1f} mm."]
    for number, place in enumerate(places, 2):
        region, within = place.region, np.zeros(thumbnail.pixels.shape[:2], bool)
        within[_on_thumbnail(region, thumbnail)] = True
        um = place.mpp[0] * place.pixels.shape[1]
        where = f"in the {place_of(within)} of picture 1, at x {region.x}, y {region.y}"
        lines.append(f"Picture {number}: a place of {um:.0f} µm, {where}.")
    return tuple(lines)


def _on_thumbnail(region: Region, thumbnail: Roi) -> tuple[slice, slice]:
    """Rows and columns of the thumbnail that a region covers, at least one each."""
    across, down = thumbnail.downsample
    x0, y0 = int(region.x / across), int(region.y / down)
    x1, y1 = (
        max(x0 + 1, round((region.x + region.width) / across)),
        max(y0 + 1, round((region.y + region.height) / down)),
    )
    return slice(y0, y1), slice(x0, x1)
