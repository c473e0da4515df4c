"""Image–mask–label triples: what each labelled picture says of each term of the hierarchy, and its truth as arrays.

A picture of a set that marks a term's classes says where it is, and also, where nothing is marked, that it is not
there. Sets whose labels rule a term out give further pictures without it. Pictures are decoded once and kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from scipy import ndimage
from skimage.morphology import h_maxima
from skimage.segmentation import watershed

from slidekick.data.items import UNLABELLED, Item
from slidekick.data.ontology import Ontology, SetKnowledge, Term, load_ontology
from slidekick.data.readers.pillow import read_picture

# Pictures held, and as many masks and objects: half a GB of pictures of 400 px a side, as most sets have them, 3 GB of
# such of 1000 px. What is no longer held is decoded again, in a few milliseconds.
KEPT = 1000
NECK = 1.75  # px by which two middles must stand out over the neck between them to be two objects


@dataclass(frozen=True)
class Triple:
    """One picture and what is known of one term in it.

    mode: "mask" (drawn, perhaps nowhere), "whole" (all of it) or "absent". values: mask values that are the term;
    None where instance ids are. objects: how objects are told apart without ids (see `ontology.yaml`).
    """

    item: Item
    concept: str
    mode: str
    values: tuple[int, ...] | None = None
    objects: str = "none"


def triples(items: Iterable[Item], concepts: Sequence[str] | None = None) -> list[Triple]:
    """What `items` say of `concepts` (None: of every term), in the items' order."""
    ontology = load_ontology()
    wanted = [ontology.terms[name] for name in (ontology.terms if concepts is None else concepts)]
    found = []
    for item in items:
        drawn = _drawn(item, ontology)
        for term in wanted:
            if triple := _triple(item, term, drawn.get(term.name, ()), ontology):
                found.append(triple)
    return found


def _drawn(item: Item, ontology: Ontology) -> dict[str, tuple[int, ...]]:
    """Term name -> the mask values that are it or a case of it."""
    values: dict[str, set[int]] = {}
    for value, name in item.classes.items():
        for term in ontology.of_class(name):
            for ancestor in ontology.lineage(term):
                values.setdefault(ancestor, set()).add(value)
    return {name: tuple(sorted(found)) for name, found in values.items()}


def _triple(item: Item, term: Term, values: tuple[int, ...], ontology: Ontology) -> Triple | None:
    known = ontology.knowledge(item.set)
    if term.name in known.skip:
        return None
    if values and item.mask:
        return Triple(item, term.name, "mask", values, known.objects if term.kind == "object" else "none")
    if values and item.instances:
        return Triple(item, term.name, "mask", None, "ids")
    if _labelled(item, (known.whole or {}).get(term.name, ())):
        return Triple(item, term.name, "whole")
    # what a term is a case of is missing here: so is the term
    if any(_ruled_out(item, ontology.terms[name], known) for name in ontology.lineage(term)):
        return Triple(item, term.name, "absent")
    return None


def _ruled_out(item: Item, term: Term, known: SetKnowledge) -> bool:
    elsewhere = term.organs and item.organ and not item.organ.startswith("not stated") and item.organ not in term.organs
    return bool(elsewhere) or _labelled(item, (known.absent or {}).get(term.name, ()))


def _labelled(item: Item, labels: object) -> bool:
    return labels == "all" or (item.label is not None and item.label in labels)


@lru_cache(maxsize=KEPT)
def pixels_of(path) -> np.ndarray:
    """uint8 (H, W, 3). Raises InputError where it cannot be read."""
    return np.asarray(read_picture(path).convert("RGB"))


@lru_cache(maxsize=KEPT)
def _raw(path) -> np.ndarray:
    return np.asarray(read_picture(path))


def judged(triple: Triple) -> np.ndarray | None:
    """Which pixels somebody judged, bool (H, W); None where all were."""
    if triple.mode != "mask" or triple.item.mask is None:
        return None
    unlabelled = _raw(triple.item.mask) == UNLABELLED
    return ~unlabelled if unlabelled.any() else None


def truth(triple: Triple) -> tuple[np.ndarray, np.ndarray | None]:
    """Mask (bool H, W) and object ids (int32 H, W, or None where objects are not told apart)."""
    item = triple.item
    if triple.mode != "mask":
        return np.full(pixels_of(item.image).shape[:2], triple.mode == "whole"), None
    if triple.values is None:
        ids = _raw(item.instances).astype(np.int32)
        return ids > 0, ids
    mask = np.isin(_raw(item.mask), triple.values)
    if item.instances and triple.objects != "none":
        return mask, _raw(item.instances).astype(np.int32) * mask
    return mask, _objects(item.mask, triple.values, triple.objects)


def shows(triple: Triple) -> bool:
    """Whether the picture holds the concept, drawn or by its label."""
    return triple.mode == "whole" or (triple.mode == "mask" and bool(truth(triple)[0].any()))


@lru_cache(maxsize=KEPT)
def _objects(path, values: tuple[int, ...], how: str) -> np.ndarray | None:
    """Object ids of a mask that has none, int32 (H, W); None for "none".

    necks: watershed of the distance map from its maxima that stand out by `NECK` (h-maxima, Soille 1999); a
    stand-in for outlines that the source lost, good enough to teach where middles are.
    """
    mask = np.isin(_raw(path), values)
    if how == "components":
        return ndimage.label(mask)[0].astype(np.int32)
    if how == "one":
        return mask.astype(np.int32)
    if how == "necks":
        distance = cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, 5)
        return watershed(-distance, ndimage.label(h_maxima(distance, NECK))[0], mask=mask).astype(np.int32)
    return None
