"""The instruments the model may call: `segment`, `count` and `measure`, and what each call leaves behind.

Each tool is a typed method whose docstring is its JSON schema; those of other packages come beside them
(`extra_tools.py`). A call gives the model one compact result and the answer its evidence. What the model or the user
typed is data here: it is checked, looked up and never run. A tool that fails answers with an error result, so that a
conversation does not end on it. No model, no text generation.
"""

from __future__ import annotations

import inspect
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from types import MappingProxyType

import numpy as np

from slidekick.copilot.answer import Evidence, Step
from slidekick.copilot.evidence import check_text
from slidekick.copilot.extra_tools import ExtraTool, Field, Measured
from slidekick.copilot.language import amount_text
from slidekick.copilot.sentences import quantity_sentences
from slidekick.data.errors import SlidekickError
from slidekick.data.slide import Roi
from slidekick.grounding.finding import PICTURE, REGION, Finding, clipped, largest
from slidekick.grounding.measure import Measurement, measure

MAX_CONCEPT = 48  # characters; the vocabulary's longest phrase has 27
TOOL_NAMES = ("segment", "count", "measure")

_LARGEST = re.compile(r"(?:the )?(?:largest|biggest) (.+)", re.IGNORECASE)  # in front of a concept: one object of it

NO_EXTRA: Mapping[str, ExtraTool] = MappingProxyType({})

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """What one call gave: `result` for the model, `evidence` for the answer, `findings` for drawing."""

    result: dict
    evidence: tuple[Evidence, ...] = ()
    findings: tuple[Finding, ...] = ()
    warnings: tuple[str, ...] = ()


class Toolbox:
    """The tools over one picture.

    segmentor: anything with `segment(image, concepts, mpp=)` as in `slidekick.grounding.Segmentor`; None gives a box
    that holds what it is given (`take`) and cannot look for more. Each concept is looked for once and remembered.
    within: bool (H, W), a region of the picture that alone is measured; None: all of it. extra: tools of other
    packages, by name. own_words: whether a model's words can tell what was looked at: they speak of the picture.
    """

    def __init__(
        self,
        segmentor,
        roi: Roi | None,
        within: np.ndarray | None = None,
        extra: Mapping[str, ExtraTool] = NO_EXTRA,
    ) -> None:
        self.segmentor = segmentor
        self.roi = roi
        self.within = within
        self.extra = extra
        self.own_words = within is None
        self.unread: str | None = None  # why a model does not read the picture, once that was looked at
        self._seen: dict[str, Finding] = {}
        self._made = 0

    @property
    def shown(self) -> np.ndarray:
        """What the model is shown: white outside a region."""
        return self.roi.pixels if self.within is None else np.where(self.within[..., None], self.roi.pixels, 255)

    @property
    def looked_at(self) -> tuple[tuple[int, int, int, int], ...]:
        """(x, y, width, height) at level 0 of places that were looked at more closely than what is shown."""
        return ()

    def segment(self, concept: str) -> dict:
        """Find one kind of structure in the picture: whether it is there, where, and how much it covers.

        Args:
            concept: The structure, in one or two words, such as gland.
        """
        return compact_result("segment", self.measurement(concept))

    def count(self, concept: str) -> dict:
        """Count the objects of one kind in the picture.

        Args:
            concept: The objects, in one or two words, such as nucleus.
        """
        return compact_result("count", self.measurement(concept))

    def measure(self, concept: str) -> dict:
        """Measure one kind of structure in the picture: number, covered area and mean diameter.

        Args:
            concept: The structure, in one or two words, such as nucleus.
        """
        return compact_result("measure", self.measurement(concept))

    def finding(self, concept: str) -> Finding:
        """The concept's finding in this picture, looked for on first use."""
        self.look_for([concept])
        return self._seen[_key(concept)]

    def look_for(self, concepts: Sequence[str]) -> None:
        """Look for several concepts at once, which costs one look at the picture; those seen before cost nothing.

        "largest gland" is the largest object of what "gland" finds.
        """
        named = {_key(concept): " ".join(concept.split()) for concept in concepts if _key(concept) not in self._seen}
        picked = {key: match[1] for key, words in named.items() if (match := _LARGEST.fullmatch(words))}
        new = {key: words for key, words in named.items() if key not in picked}
        new |= {_key(words): words for words in picked.values() if _key(words) not in self._seen}
        if new:
            self._seen.update(zip(new, self._find(list(new.values())), strict=True))
        self._seen |= {key: largest(self._seen[_key(words)]) for key, words in picked.items()}

    def keep(self, finding: Finding) -> None:
        """Take a finding, such as one that a person corrected, for its concept, however that is called."""
        for key, seen in list(self._seen.items()):
            if seen.concept == finding.concept:
                self._seen[key] = finding
            elif seen.concept == f"largest {finding.concept}":
                del self._seen[key]
        self._seen[_key(finding.concept)] = finding

    def take(self, findings: Sequence[Finding]) -> list[str]:
        """Take findings that a person drew, under the segmentor's name of a concept where it knows the word; those
        names. Objects stand in for a region of the same concept."""
        known, names = known_words(self.segmentor), []
        for finding in sorted(findings, key=lambda one: one.instances is not None):
            names.append(known.get(_key(finding.concept), finding.concept))
            self.keep(self.inside(replace(finding, concept=names[-1])))
        return list(dict.fromkeys(names))

    def _find(self, concepts: list[str]) -> list[Finding]:
        return [self.inside(one) for one in self.segmentor.segment(self.roi.pixels, concepts, mpp=self.roi.mpp)]

    def inside(self, finding: Finding) -> Finding:
        """What of a finding lies in the region; all of it where there is none."""
        return finding if self.within is None else clipped(finding, self.within)

    def measurement(self, concept: str) -> Measurement | Finding:
        """What can be measured of it; the finding itself where the word is outside the vocabulary."""
        finding = self.finding(concept)
        return self._measured(finding) if finding.known else finding

    def call(self, name: str, arguments: object, step: str) -> Outcome:
        """Run one call of the model's and keep what backs it. Never raises for what the model wrote."""
        if isinstance(name, str) and name in self.extra:
            return self._measured_by(self.extra[name], arguments, step)
        tool = self._tool(name)
        if tool is None:
            return Outcome({"error": f"no tool named {name!r}; there are {', '.join((*TOOL_NAMES, *self.extra))}"})
        complaint = _complaint(name, arguments)
        if complaint:
            return Outcome({"error": complaint})
        concept = arguments["concept"].strip()
        try:
            result = tool(concept)
            finding = self.finding(concept)
            evidence = self._evidence(name, finding, step)
        except SlidekickError as error:
            return Outcome({"error": str(error)}, warnings=(f"{name} could not run: {error}",))
        except Exception as error:  # a broken tool must not end the conversation; the log keeps the trace
            log.exception("tool %s failed on %r", name, concept)
            what = f"{name} failed ({type(error).__name__})"
            return Outcome({"error": what}, warnings=(f"{what}; see the log",))
        return Outcome(
            result, evidence, (finding,), (*_cautions(name, finding, concept, result), *self._doubts(finding))
        )

    def _measured_by(self, tool: ExtraTool, arguments: object, step: str) -> Outcome:
        """What another package's tool gives, with its evidence; an error where its sentences could not be checked."""
        try:
            measured = [self._here(one) for one in tool.measure(self._field(tool.name), arguments)]
            result = {"measured": {one.name: amount_text(float(one.value), one.unit) for one in measured}}
            evidence = tuple(self._number(one, step) for one in measured)
            told = " ".join(quantity_sentences(result))
            if reasons := check_text(told, [Step(step, tool.name, {}, result, 0.0)], evidence)[1]:
                raise tool.plugin.wrong(f"{tool.name} names what it measures so that it cannot be told: {reasons[0]}")
        except SlidekickError as error:
            return Outcome({"error": str(error)}, warnings=(f"{tool.name} could not run: {error}",))
        drawn = {one.of: Finding(one.of, one.mask, 1.0, 1.0, prompt=one.of) for one in measured if one.mask is not None}
        return Outcome(result, evidence, tuple(drawn.values()))

    def _field(self, name: str) -> Field:
        """What another package's tool of this name looks at. Raises InputError where there is nothing for it."""
        pixels = self.roi.pixels.view()
        pixels.flags.writeable = False  # what is measured next is measured on the same pixels
        within = np.ones(pixels.shape[:2], bool) if self.within is None else self.within.copy()
        return Field(pixels, self.roi.mpp, within, self.finding)

    def _here(self, measured: Measured) -> Measured:
        """The same of the region, where only that was looked at."""
        if self.within is None:
            return measured
        mask = None if measured.mask is None else measured.mask & self.within
        return replace(measured, of=REGION if measured.of == PICTURE else measured.of, mask=mask)

    def _number(self, one: Measured, step: str) -> Evidence:
        from slidekick.grounding.export import to_rle

        self._made += 1
        rle = to_rle(one.mask) if one.mask is not None and one.mask.any() else None
        return Evidence(f"e{self._made}", one.what, one.of, float(one.value), one.unit, True, step, rle)

    def _measured(self, finding: Finding) -> Measurement:
        return measure(finding, self.roi.mpp)

    def _doubts(self, finding: Finding) -> tuple[str, ...]:
        """What else is to be said of a finding."""
        return ()

    def _tool(self, name: str) -> Callable[[str], dict] | None:
        return getattr(self, name) if isinstance(name, str) and name in TOOL_NAMES else None

    def _evidence(self, name: str, finding: Finding, step: str) -> tuple[Evidence, ...]:
        if not finding.known:
            return (self._item("presence", finding, None, "probability", step, None),)
        from slidekick.grounding.export import to_rle

        rle = to_rle(finding.mask) if finding.found else None
        items = [("presence", float(finding.presence), "probability")]
        if finding.found:
            items += _values(name, self._measured(finding))
        return tuple(self._item(kind, finding, value, unit, step, rle) for kind, value, unit in items)

    def _item(self, kind: str, finding: Finding, value: float | None, unit: str, step: str, rle) -> Evidence:
        self._made += 1
        return Evidence(f"e{self._made}", kind, finding.concept, value, unit, finding.found, step, rle)


def names_largest(concept: str) -> bool:
    """Whether words ask for the largest object of a kind."""
    return _LARGEST.fullmatch(" ".join(concept.split())) is not None


def known_words(segmentor) -> Mapping[str, str]:
    """Phrases that a segmentor knows, in plain words, and the concept of each; none where it has no vocabulary."""
    vocabulary = getattr(segmentor, "vocabulary", None)
    return {} if vocabulary is None else vocabulary.words


@cache
def tool_schemas() -> tuple[dict, ...]:
    """JSON schemas of the tools in transformers' form, for a chat template's `tools`.

    What `transformers.utils.get_json_schema` makes of their docstrings, which a test holds; made here, since importing
    it takes longer than an answer.
    """
    return tuple(_schema(name, inspect.getdoc(getattr(Toolbox, name))) for name in TOOL_NAMES)


def _schema(name: str, doc: str) -> dict:
    purpose, _, concept = (part.strip() for part in re.split(r"(Args:\s+concept:)", doc))
    argument = {"concept": {"type": "string", "description": concept}}
    parameters = {"type": "object", "properties": argument, "required": ["concept"]}
    return {"type": "function", "function": {"name": name, "description": purpose, "parameters": parameters}}


def compact_result(tool: str, measured: Measurement | Finding) -> dict:
    """The tool's answer to the model: few keys, values as they may be said.

    measured: a Measurement, or a Finding whose word is outside the vocabulary. Keys stand in a fixed order
    and are left out where there is nothing to say: `count` for regions, `diameter` where the scale is
    unknown, `of` where the whole picture was looked at.
    """
    if isinstance(measured, Finding):
        nearest = {"nearest": measured.nearest} if measured.nearest else {}
        return {"found": False, "known": False, **nearest}
    of = {} if measured.of == PICTURE else {"of": measured.of}
    if not measured.found:
        return {"found": False, **of}
    area, where = percent(measured.area_fraction), measured.place
    diameter = None if measured.mean_diameter_um is None else f"{measured.mean_diameter_um:.1f} um"
    keys = {
        "segment": {"area": area, "where": where},
        "count": {"count": measured.count} if measured.count is not None else {"area": area},
        "measure": {"count": measured.count, "area": area, "diameter": diameter},
    }[tool]
    return {"found": True, **{key: value for key, value in keys.items() if value is not None}, **of}


def percent(fraction: float) -> str:
    """0.314 -> "31%"; "<1%" for what is there but rounds to nothing."""
    whole = round(100 * fraction)
    return f"{whole}%" if whole or not fraction else "<1%"


def _key(concept: str) -> str:
    return " ".join(concept.split()).casefold()


def _values(name: str, m: Measurement) -> list[tuple[str, float, str]]:
    area = ("area", m.area_px, "px") if m.area_um2 is None else ("area", m.area_um2, "um2")
    diameter = ("diameter", m.mean_diameter_px, "px")
    if m.mean_diameter_um is not None:
        diameter = ("diameter", m.mean_diameter_um, "um")
    fraction = ("area_fraction", m.area_fraction, "fraction")
    count = ("count", m.count, "objects")
    kept = {
        "segment": [fraction, area],
        "count": [count] if m.count is not None else [fraction],
        "measure": [count, fraction, area, ("density", m.density_per_mm2, "1/mm2"), diameter],
    }[name]
    return [(kind, float(value), unit) for kind, value, unit in kept if value is not None]


def _complaint(name: str, arguments: object) -> str | None:
    concept = arguments.get("concept") if isinstance(arguments, dict) else None
    if not isinstance(concept, str) or not re.search(r"\w", concept):
        return f"{name} needs one argument, concept: one or two words"
    extra = sorted(str(key) for key in arguments if key != "concept")
    if extra:
        return f"{name} takes only concept, not {', '.join(extra)}"
    if len(concept.strip()) > MAX_CONCEPT:
        return f"concept has {len(concept.strip())} characters; give at most {MAX_CONCEPT}"
    return None


def _cautions(name: str, finding: Finding, concept: str, result: dict) -> tuple[str, ...]:
    if not finding.known:
        nearest = f"; nearest known: {finding.nearest}" if finding.nearest else ""
        return (f'"{concept}" is not in the segmentor\'s vocabulary, so it was not looked for{nearest}',)
    if name == "count" and finding.found and "count" not in result:
        return (f"{finding.concept} is a region, not objects: area given instead of a count",)
    return ()
