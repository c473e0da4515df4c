"""The vocabulary card for people: its concepts in the order of their hierarchy, and as a page that needs no network.

What a concept means to the segmentor is `vocabulary.py`'s; nothing is looked up here.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from pathlib import Path

from slidekick.data.errors import InputError
from slidekick.data.pages import page_environment
from slidekick.grounding.vocabulary import Concept, Vocabulary

TEMPLATES = Path(__file__).parent / "templates"
LEVELS = {  # level -> what it is called, and a word on it
    "region": ("Regions", "Kinds of tissue, measured by the area they cover."),
    "structure": ("Structures", "Parts of tissue, larger than a cell."),
    "cell": ("Cells", "Cells and their parts."),
}
_DEEPEST = 8  # steps of the hierarchy that are set in


@dataclass(frozen=True)
class Entry:
    """A concept at its place. depth: how many of its parents, one above the other, stand before it in its level."""

    concept: Concept
    depth: int


def read_card(folder: Path) -> Vocabulary:
    """The vocabulary of a segmentor's folder, without its weights. Raises InputError where there is none."""
    from slidekick.grounding.segmentor import CARD

    path = folder / CARD
    try:
        return Vocabulary.load(path)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; give a folder written by `slidekick train segmentor`") from error
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(
            f"{path}: no vocabulary card of this version ({type(error).__name__}); train it anew"
        ) from error


def in_order(vocabulary: Vocabulary) -> dict[str, list[Entry]]:
    """The concepts by level, regions first; each below the first of its parents that is of its level."""
    groups: dict[str, list[Concept]] = {level: [] for level in LEVELS}
    for concept in vocabulary.concepts.values():
        groups.setdefault(concept.level, []).append(concept)
    return {level: _nested(concepts) for level, concepts in groups.items() if concepts}


def scale_text(scale: tuple[float, float]) -> str:
    """A range of µm per pixel, as one number where it is none."""
    return " – ".join(f"{value:.3g}" for value in dict.fromkeys(scale))


def vocabulary_page(vocabulary: Vocabulary, name: str) -> str:
    """The card as a self-contained HTML page. name: which segmentor's it is.

    Everything from the card is escaped; the page loads nothing and runs the script written into it alone.
    """
    script = (TEMPLATES / "vocabulary.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    environment = page_environment(TEMPLATES)
    environment.filters["scale"] = scale_text
    titles = {level: LEVELS.get(level, (level.capitalize(), "")) for level in in_order(vocabulary)}
    return environment.get_template("vocabulary.html.jinja").render(
        name=name,
        groups=in_order(vocabulary),
        titles=titles,
        count=len(vocabulary.concepts),
        script=script,
        digest=digest,
    )


def _nested(concepts: list[Concept]) -> list[Entry]:
    names = {concept.name for concept in concepts}
    below: dict[str | None, list[Concept]] = {}
    for concept in concepts:
        parent = next((p for p in concept.parents if p in names and p != concept.name), None)
        below.setdefault(parent, []).append(concept)
    entries: list[Entry] = []
    left = [(concept, 0) for concept in reversed(below.get(None, []))]
    while left:
        concept, depth = left.pop()
        entries.append(Entry(concept, depth))
        left += [(child, min(depth + 1, _DEEPEST)) for child in reversed(below.pop(concept.name, []))]
    placed = {entry.concept.name for entry in entries}  # parents that go in a circle have no first one
    return entries + [Entry(concept, 0) for concept in concepts if concept.name not in placed]
