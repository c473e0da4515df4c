"""The words of tool questions: every concept of the segmentor's card in all its phrasings, and words outside it.

Words are asked in the singular and the plural and always copied into the call, in the singular: what they mean is the
segmentor's vocabulary to find, which knows its synonyms (and, with another segmentor, other ones); to copy is one rule
for known words and strangers alike. Of words that the card does not know the tool answers that it does not know them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from slidekick.copilot.language import MASS, UNUSUAL, many_of, singular
from slidekick.grounding.segmentor import CARD, WEIGHTS
from slidekick.grounding.vocabulary import Vocabulary
from slidekick.rl.instructions.balance import one

UNKNOWN = 0.3  # share of words outside the vocabulary, so that copying does not end at its words
SYNONYM = 0.5  # of the known words: other phrasings than the concept's own name
ODD = frozenset({"nuclear", "all nuclei"})  # phrases of the card that no question can hold as a noun
# Words outside the vocabulary.
STRANGERS = (
    "mitosis, parasite, granuloma, neuron, hair follicle, keratin pearl, apoptotic body, plasma cell, eosinophil, "
    "giant cell, nerve, muscle fibre, bone spicule, megakaryocyte, adipocyte, tubule, psammoma body, cilium, fungus, "
    "bacterium, worm, crystal, pigment, foreign body, tree, house, car, dog, cat, boat, flower, star, lymph node, "
    "mast cell, goblet cell, islet, hepatocyte, podocyte, melanocyte, red blood cell, platelet, sinusoid, bile duct, "
    "sebaceous gland, thrombus, cyst, abscess, osteoclast, chondrocyte, keratinocyte, basal cell, mesangial cell, "
    "schistosome, amoeba, spore, asbestos body, calcification, ganglion cell, axon, villus, alveolus, bronchus, "
    "follicle, fibroblast, endothelial cell, osteoid, necrosis, melanin, amyloid, tonsil, ulcer, "
    "eccrine duct, cholesterol cleft, Barr body, Russell body, Call-Exner body, Charcot-Leyden crystal, plasmablast, "
    "dendritic cell, smooth muscle cell, ependymal cell, microglial cell, oxyntic cell, parafollicular cell, "
    "Hassall corpuscle, ghost cell, ring sideroblast, Howell-Jolly body, Heinz body, umbrella cell, decidual cell, "
    "syncytial knot, kettle, ladder, guitar, pencil, spoon, tractor, anthracosis, hair shaft, tooth bud, nail plate"
)


@dataclass(frozen=True)
class Word:
    """A word as asked, singular (the argument that tools are called with) and plural, and the concept that it means."""

    one: str
    many: str
    concept: str
    known: bool


@cache
def vocabulary() -> Vocabulary:
    """The shipped segmentor's card."""
    return Vocabulary.load(WEIGHTS / CARD)


@cache
def names() -> tuple[str, ...]:
    """The known concepts, in order."""
    return tuple(sorted(vocabulary().concepts))


def is_region(concept: str) -> bool:
    """Whether the tools measure the concept's area and do not count it. Unknown words are objects."""
    known = vocabulary().concepts.get(concept)
    return known is not None and known.kind == "region"


@cache
def phrasings(concept: str) -> tuple[Word, ...]:
    """All that a known concept is called, its own name first, each once."""
    phrases = [concept, *(phrase for phrase in vocabulary().concepts[concept].synonyms if phrase not in ODD)]
    singulars = dict.fromkeys(_one_of(phrase) for phrase in phrases)
    return tuple(Word(name, many_of(name), concept, True) for name in singulars)


@cache
def strangers() -> tuple[Word, ...]:
    """Words that the card does not know."""
    listed = [word.strip() for word in STRANGERS.split(",")]
    return tuple(Word(word, many_of(word), word, False) for word in listed if vocabulary().find(word) is None)


def draw_word(rng: np.random.Generator) -> Word:
    """A word to ask about: a stranger, or any concept under its own name or another."""
    if rng.random() < UNKNOWN:
        return one(rng, strangers())
    return draw_phrasing(rng, one(rng, names()))


def draw_phrasing(rng: np.random.Generator, concept: str) -> Word:
    """A known concept under its own name or another."""
    own, *others = phrasings(concept)
    return one(rng, others) if others and rng.random() < SYNONYM else own


def _one_of(phrase: str) -> str:
    *head, last = phrase.split()
    return " ".join([*head, last if last in MASS or last in UNUSUAL else singular(last)])
