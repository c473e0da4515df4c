"""Which words the segmentor knows, what they mean, and the nearest known word to any other.

The card (`vocabulary.json`) lies beside the weights and is written by training; vectors of its words lie in
`phrases.safetensors`. Words that are on the card are looked up; others are compared by meaning. No network here.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from slidekick.data.errors import SourceError
from slidekick.data.ontology import plain
from slidekick.grounding.sizes import LEAST

SAME_MEANING = 0.75  # cosine from which other words are taken for a known one; docs/experiments.md has the choice


@dataclass(frozen=True)
class Concept:
    """One entry of the card.

    level: region, structure or cell; kind: "object" (counted) or "region"; parents: what it is a case of. scale: µm per
    pixel it is looked at, finest and coarsest; mpp_range: µm per pixel of pictures that show it; zoom: pixels looked
    at per picture pixel where the picture's scale is unknown; diameter_um: usual diameter of the objects, where it is
    narrow enough to tell an unknown scale. least: mask cells (of 2 × 2 pixels looked at) below which an object, or a
    piece of a region on a slide, is left out. offset: presence logit from which it counts as there, chosen on
    validation pictures. organs, stains, sets: of the labelled training pictures, train their number. test: held-out
    pictures that hold it, dice: the mean over them.
    """

    name: str
    kind: str
    synonyms: tuple[str, ...]
    scale: tuple[float, float]
    zoom: float
    level: str = "structure"
    parents: tuple[str, ...] = ()
    diameter_um: float | None = None
    least: float = LEAST
    offset: float = 0.0
    organs: tuple[str, ...] = ()
    stains: tuple[str, ...] = ()
    sets: tuple[str, ...] = field(default=())
    train: int = 0
    test: int = 0
    dice: float | None = None

    @property
    def mpp_range(self) -> tuple[float, float]:
        """From a tenth of the finest scale (shrinking loses nothing, but no slide is scanned finer) to 2.5 times the
        coarsest, beyond which it is too small to be seen."""
        return round(self.scale[0] / 10, 4), round(self.scale[1] * 2.5, 4)


@dataclass(frozen=True)
class Calibration:
    """Slopes that turn logits into probabilities: σ(slope · (logit − offset)) (Platt 1999; Guo et al. 2017)."""

    presence: float = 1.0
    pixel: float = 1.0


NEGATIONS = {"no", "non", "not", "without", "free"}  # to which MiniLM's cosine is deaf: "non-cancerous gland"


class Match(NamedTuple):
    """What words mean: the known concept, or None; the nearest one; how near (cosine, 1 for a known word)."""

    concept: Concept | None
    nearest: str
    similarity: float


class Vocabulary:
    """The known concepts, looked up by name, synonym, plural or meaning.

    vectors: word -> float32 (PHRASE_WIDTH,) of length 1, at least for every concept's name. encode: phrases ->
    (P, PHRASE_WIDTH), for words that are not among them; None: words are compared by spelling alone.
    """

    def __init__(
        self,
        concepts: list[Concept],
        vectors: dict[str, np.ndarray] | None = None,
        encode: Callable[[list[str]], np.ndarray] | None = None,
        calibration: Calibration = Calibration(),
    ) -> None:
        self.concepts = {concept.name: concept for concept in concepts}
        self.vectors = vectors or {}
        self.calibration = calibration
        self._encode = encode
        self._words = {plain(word): c for c in concepts for word in (f"{c.name}s", *c.synonyms)}
        self._words |= {plain(c.name): c for c in concepts}  # a name goes before another's synonym
        self._said: dict[str, Match] = {}

    @property
    def words(self) -> dict[str, str]:
        """Every phrase of the card, in plain words, and the name of the concept that it means."""
        return {phrase: concept.name for phrase, concept in self._words.items()}

    def find(self, words: str) -> Concept | None:
        """The concept meant by `words`, or None where they are outside the vocabulary."""
        return self.match(words).concept

    def nearest(self, words: str) -> str:
        """Name of the known concept that is nearest to `words`."""
        return self.match(words).nearest

    def match(self, words: str) -> Match:
        """What `words` mean. Unknown words are compared by MiniLM's cosine with every word of the card, or, where
        the encoder cannot be had, by spelling (Ratcliff–Obershelp, standard library)."""
        key = plain(words)
        if (known := self._words.get(key)) is not None:
            return Match(known, known.name, 1.0)
        if key not in self._said:
            self._said[key] = self._by_meaning(key) or self._by_spelling(key)
        return self._said[key]

    def _by_meaning(self, words: str) -> Match | None:
        known = [word for word in self.vectors if plain(word) in self._words]
        if self._encode is None or not known or not words:
            return None
        try:
            asked = self._encode([words])[0]
        except SourceError:
            return None
        cosines = np.stack([self.vectors[word] for word in known]) @ asked
        best = self._words[plain(known[int(cosines.argmax())])]
        similarity = float(cosines.max())
        same = similarity >= SAME_MEANING and not NEGATIONS & set(words.split())
        return Match(best if same else None, best.name, similarity)

    def _by_spelling(self, words: str) -> Match:
        close = difflib.get_close_matches(words, list(self._words), n=1, cutoff=0.0)
        best = self._words[close[0]]
        return Match(None, best.name, 0.0)

    def with_concepts(self, concepts: list[Concept], calibration: Calibration | None = None) -> Vocabulary:
        """The same words and vectors with other entries."""
        return Vocabulary(concepts, self.vectors, self._encode, calibration or self.calibration)

    @classmethod
    def load(cls, path: Path, vectors: dict[str, np.ndarray] | None = None, encode=None) -> Vocabulary:
        """Read a card written by `dumps`. Raises ValueError, TypeError or KeyError where it is none."""
        card = json.loads(path.read_text())
        if not card["concepts"]:
            raise ValueError("a card needs a concept")
        lists = ("synonyms", "scale", "parents", "organs", "stains", "sets")
        concepts = [
            Concept(**{key: tuple(value) if key in lists else value for key, value in entry.items()})
            for entry in card["concepts"]
        ]
        return cls(concepts, vectors, encode, Calibration(**card["calibration"]))

    def dumps(self) -> str:
        """The card as JSON text."""
        card = {"calibration": asdict(self.calibration), "concepts": [asdict(c) for c in self.concepts.values()]}
        return json.dumps(card, indent=1)
