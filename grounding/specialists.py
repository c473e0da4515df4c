"""Segmentors that other packages bring for further concepts, and the team they make with the built-in one.

A specialist is registered under the entry points `slidekick.specialists` (docs/extending.md). It may add concepts and
never take one over: a word that already means something is an error that names both sides. It looks at pictures by
words; clicks, boxes and the tiles of a whole slide stay with the built-in segmentor.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from math import inf
from typing import Protocol

import numpy as np

from slidekick.data.errors import InputError
from slidekick.data.ontology import plain
from slidekick.data.plugins import Gathered, Plugin, all_of, gather, texts, told
from slidekick.grounding.finding import Finding
from slidekick.grounding.vocabulary import Concept, Vocabulary

GROUP = "slidekick.specialists"
OURS = "Slidekick's segmentor"
KINDS = ("object", "region")
_NAME = re.compile(r"[^\W_][\w '()-]{0,47}")  # what a model can write in a tool call (`copilot/grammar.py`)

log = logging.getLogger(__name__)


class Specialist(Protocol):
    """What an entry point names: an object with the concepts that it knows, and the look at a picture.

    concepts: told without loading any weights; those are loaded when `segment` is first called.
    """

    concepts: Sequence[Concept]

    def segment(
        self, image: np.ndarray, concepts: Sequence[str], *, mpp: tuple[float, float] | None
    ) -> Sequence[Finding]:
        """One finding for each of `concepts`, in order.

        image: uint8 (H, W, 3) RGB, not to be written to. concepts: names out of its own. mpp: (x, y) µm per pixel,
        None where unknown. A finding has the name, a bool (H, W) mask (all False: not there), score and presence
        (0–1), and int32 (H, W) instances where the concept is of the kind "object", None for a "region".
        """
        ...


def gather_specialists() -> Gathered:
    """Specialists by name of their entry point, as `Plugin`, and an error for each that cannot be used."""
    return gather(GROUP, _checked)


def installed_specialists() -> tuple[Plugin, ...]:
    """All of them. Raises PluginError where one cannot be used."""
    return tuple(all_of(gather_specialists()).values())


def with_specialists(segmentor):
    """The segmentor and those installed as one; the segmentor itself where there are none.

    Raises PluginError where one cannot be used, or takes a word over.
    """
    specialists = installed_specialists()
    return Team(segmentor, specialists) if specialists else segmentor


def extended(vocabulary: Vocabulary, specialists: Iterable[Plugin]) -> Vocabulary:
    """The vocabulary with the specialists' concepts. Their words are looked up and not compared by meaning.

    Raises PluginError where a word means something already.
    """
    owners = {word: (OURS, name) for word, name in vocabulary.words.items()}
    concepts = list(vocabulary.concepts.values())
    for plugin in specialists:
        for concept in plugin.made.concepts:
            for word in (concept.name, *concept.synonyms, *Vocabulary([concept]).words):
                owner, name = owners.setdefault(plain(word), (plugin.package, concept.name))
                if (owner, name) != (plugin.package, concept.name):
                    raise plugin.wrong(f"its concept {concept.name!r} is called {word!r}, which is {name} of {owner}")
        concepts += plugin.made.concepts
    return vocabulary.with_concepts(concepts)


class Team:
    """A segmentor and specialists, to be used as a `Segmentor` is: words, points and boxes in, findings out.

    base: the built-in segmentor, which serves all that is no specialist's. packages: of the specialists, with versions.
    """

    def __init__(self, base, specialists: Sequence[Plugin]) -> None:
        self.base, self.vocabulary = base, extended(base.vocabulary, specialists)
        self.packages = {plugin.package: plugin.version for plugin in specialists}
        self._of = {concept.name: plugin for plugin in specialists for concept in plugin.made.concepts}

    def segment(
        self,
        image: np.ndarray,
        concepts: Sequence[str],
        *,
        mpp: tuple[float, float] | None = None,
        points: Sequence[tuple[float, float, int]] | None = None,
        boxes: Sequence[tuple[float, float, float, float]] | None = None,
    ) -> list[Finding]:
        """See `Segmentor.segment`. Raises also InputError for clicks or boxes with a specialist's concept, and
        PluginError where a specialist fails or gives what is no finding of this picture."""
        from slidekick.grounding.segmentor import check_picture

        check_picture(image, concepts, mpp)
        names = [concept.name if (concept := self.vocabulary.find(words)) else None for words in concepts]
        asked = {name: self._of[name] for name in names if name in self._of}
        if asked and (points or boxes):
            name, plugin = next(iter(asked.items()))
            raise InputError(f"{name} is found by {plugin.package}, by words alone; leave out the clicks and boxes")
        rest = [words for words, name in zip(concepts, names, strict=True) if name not in asked]
        if not asked:
            return self.base.segment(image, concepts, mpp=mpp, points=points, boxes=boxes)
        ours = iter(self.base.segment(image, rest, mpp=mpp) if rest else ())
        theirs: dict[str, Finding] = {}
        for plugin in {plugin.name: plugin for plugin in asked.values()}.values():
            theirs |= _found(plugin, image, [name for name, own in asked.items() if own is plugin], mpp)
        return [
            replace(theirs[name], prompt=words) if name in asked else next(ours)
            for words, name in zip(concepts, names, strict=True)
        ]


def _found(plugin: Plugin, image: np.ndarray, names: list[str], mpp) -> dict[str, Finding]:
    seen = image.view()
    seen.flags.writeable = False
    try:
        findings = list(plugin.made.segment(seen, list(names), mpp=mpp))
    except InputError:
        raise  # what is wrong with the picture, in the specialist's words
    except Exception as error:  # one specialist must not end the conversation; the log keeps the trace
        log.debug("%s failed", plugin.package, exc_info=True)
        raise plugin.wrong(f"{', '.join(names)} could not be looked for ({told(error)})") from error
    if len(findings) != len(names):
        raise plugin.wrong(f"gave {len(findings)} findings for {len(names)} concepts")
    concepts = {concept.name: concept for concept in plugin.made.concepts}
    return {name: _fitting(plugin, concepts[name], one, seen) for name, one in zip(names, findings, strict=True)}


def _fitting(plugin: Plugin, concept: Concept, finding: object, image: np.ndarray) -> Finding:
    """The finding where it is one of the concept in this picture."""
    if not isinstance(finding, Finding) or finding.concept != concept.name:
        raise plugin.wrong(f"gave {getattr(finding, 'concept', type(finding).__name__)!r} for {concept.name}")
    shape, mask, instances = image.shape[:2], finding.mask, finding.instances
    if not _is_array(mask, shape) or mask.dtype != bool:
        raise plugin.wrong(f"the mask of {concept.name} is no bool array {shape}")
    if not all(isinstance(one, int | float | np.number) and 0 <= one <= 1 for one in (finding.score, finding.presence)):
        raise plugin.wrong(f"score or presence of {concept.name} is no number from 0 to 1")
    if concept.kind == "region":
        if instances is not None:
            raise plugin.wrong(f"{concept.name} is a region and was given instances")
    elif not _is_array(instances, shape) or instances.dtype != np.int32 or not np.array_equal(instances > 0, mask):
        raise plugin.wrong(f"the instances of {concept.name} are no int32 array {shape} that is above 0 on the mask")
    return finding


def _is_array(value: object, shape: tuple[int, int]) -> bool:
    return isinstance(value, np.ndarray) and value.shape == shape


def _checked(plugin: Plugin) -> Plugin:
    """The plugin where it is a specialist."""
    concepts, what = getattr(plugin.made, "concepts", None), f"{plugin.name} is no specialist"
    if isinstance(plugin.made, type) or not callable(getattr(plugin.made, "segment", None)):
        raise plugin.wrong(f"{what}: the entry point must name an object with concepts and segment")
    if not isinstance(concepts, tuple | list) or not concepts:
        raise plugin.wrong(f"{what}: its concepts are no tuple of Concept with one or more in it")
    for concept in concepts:
        if complaint := _complaint(concept):
            raise plugin.wrong(f"{what}: {complaint}")
    return plugin


def _complaint(concept: object) -> str:
    """What is wrong with a concept, "" where nothing is."""
    if not isinstance(concept, Concept):
        return f"{concept!r:.60} is no slidekick.grounding.Concept"
    words = [concept.name, *concept.synonyms] if texts(concept.synonyms) else None
    if words is None:
        return f"the synonyms of {concept.name!r} are no tuple of words"
    if wrong := [one for one in words if not (isinstance(one, str) and _NAME.fullmatch(one) and plain(one))]:
        return f"{wrong[0]!r:.60} is no name; give a word or a few, of letters and digits, up to 48 characters"
    if concept.kind not in KINDS:
        return f"{concept.name} is of the kind {concept.kind!r}; give {' or '.join(KINDS)}"
    scale = concept.scale if isinstance(concept.scale, tuple | list) else ()
    numbers = all(isinstance(one, int | float) and 0 < one < inf for one in (*scale, concept.zoom))
    if not (numbers and len(scale) == 2 and scale[0] <= scale[1]):
        return f"{concept.name} needs a scale (finest, coarsest) in µm per pixel and a zoom, all above 0"
    return ""
