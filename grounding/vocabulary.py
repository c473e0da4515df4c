"""Which words the segmentor knows, what they mean, and the nearest known word to any other.

The card (`vocabulary.json`) lies beside the weights and is written by training. No network here.
"""

from __future__ import annotations

import difflib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from slidekick.grounding.text import normalise


@dataclass(frozen=True)
class Concept:
    """One entry of the card.

    kind: "object" (counted) or "region". mpp: µm per window pixel at which it is looked at; zoom: window pixels per
    picture pixel where the picture's scale is unknown. diameter_um: usual diameter of the objects, where it is narrow
    enough to tell an unknown scale. presence_threshold: probability from which it counts as
    there, chosen on validation pictures. train: labelled pictures seen. dice: mean on held-out pictures that hold it.
    """

    name: str
    kind: str
    synonyms: tuple[str, ...]
    mpp: float
    zoom: float
    diameter_um: float | None = None
    presence_threshold: float = 0.5
    train: int = 0
    test: int = 0
    dice: float | None = None
    sets: tuple[str, ...] = field(default=())


class Vocabulary:
    """The known concepts, looked up by name, synonym or plural."""

    def __init__(self, concepts: list[Concept]) -> None:
        self.concepts = {concept.name: concept for concept in concepts}
        self._words = {normalise(word): c for c in concepts for word in (c.name, f"{c.name}s", *c.synonyms)}

    def find(self, words: str) -> Concept | None:
        """The concept meant by `words`, or None where they are outside the vocabulary."""
        return self._words.get(normalise(words))

    def nearest(self, words: str) -> str:
        """Name of the known concept whose spelling is nearest (Ratcliff–Obershelp, standard library)."""
        known = list(self._words)
        close = difflib.get_close_matches(normalise(words), known, n=1, cutoff=0.0)
        return self._words[close[0]].name

    @classmethod
    def load(cls, path: Path) -> Vocabulary:
        """Read a card written by `dumps`. Raises ValueError, TypeError or KeyError where it is none."""
        entries = json.loads(path.read_text())["concepts"]
        if not entries:
            raise ValueError("a card needs a concept")
        return cls([Concept(**{**e, "synonyms": tuple(e["synonyms"]), "sets": tuple(e["sets"])}) for e in entries])

    def dumps(self) -> str:
        """The card as JSON text."""
        return json.dumps({"concepts": [asdict(c) for c in self.concepts.values()]}, indent=1)
