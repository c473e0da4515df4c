"""One hierarchy of names for what is marked in tissue: regions, structures, cells; and what data sets call them.

The names stand in `ontology.yaml`. No pictures and no model here: a segmentor's card says which of these it learnt.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

LEVELS = ("region", "structure", "cell")
_FILE = Path(__file__).parent / "ontology.yaml"


@dataclass(frozen=True)
class Term:
    """One name of the hierarchy.

    level: region, structure or cell. kind: "object" (counted) or "region". parents: the terms that it is a case of.
    classes: what data sets call exactly this, besides its name and synonyms. organs: where alone it can be. reported:
    organs in whose reports it is looked for unasked; all where empty.
    """

    name: str
    level: str
    kind: str
    parents: tuple[str, ...] = ()
    synonyms: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    organs: tuple[str, ...] = ()
    reported: tuple[str, ...] = ()

    def belongs(self, organ: str) -> bool:
        """Whether a report on `organ` (a person's words; "" where nobody said) looks for it unasked."""
        return not self.reported or any(f" {one} " in f" {plain(organ)} " for one in self.reported)


@dataclass(frozen=True)
class SetKnowledge:
    """What is known of one data set beyond its files; see the head of `ontology.yaml`."""

    objects: str = "components"
    skip: frozenset[str] = frozenset()
    whole: dict[str, object] | None = None
    absent: dict[str, object] | None = None


def plain(words: str) -> str:
    """Lower case, letters, digits and single spaces only: how names are compared."""
    return re.sub(r"[^a-z0-9]+", " ", words.lower()).strip()


class Ontology:
    """The terms by name, and the sets that speak of them."""

    def __init__(self, terms: list[Term], sets: dict[str, SetKnowledge]) -> None:
        self.terms = {term.name: term for term in terms}
        self.sets = sets
        self._called: dict[str, list[Term]] = {}
        for term in terms:
            for words in dict.fromkeys(plain(words) for words in (term.name, *term.synonyms, *term.classes)):
                self._called.setdefault(words, []).append(term)

    def of_class(self, name: str) -> tuple[Term, ...]:
        """The terms that a data set's class or label name means; none where the hierarchy does not know it."""
        return tuple(self._called.get(plain(name), ()))

    def lineage(self, term: Term) -> set[str]:
        """The term's name and those of everything that it is a case of."""
        found, left = set(), [term.name]
        while left:
            name = left.pop()
            found.add(name)
            left += self.terms[name].parents
        return found

    def knowledge(self, name: str) -> SetKnowledge:
        """What is known of the set `name`; the default for a set that is not listed."""
        return self.sets.get(name, SetKnowledge())


@cache
def load_ontology() -> Ontology:
    """The hierarchy that ships with Slidekick."""
    import yaml

    written = yaml.safe_load(_FILE.read_text())
    lists = ("parents", "synonyms", "classes", "organs", "reported")
    terms = [
        Term(name, entry["level"], entry["kind"], **{key: tuple(entry.get(key, ())) for key in lists})
        for name, entry in written["terms"].items()
    ]
    sets = {
        name: SetKnowledge(**{**entry, "skip": frozenset(entry.get("skip", ()))})
        for name, entry in written["sets"].items()
    }
    return Ontology(terms, sets)
