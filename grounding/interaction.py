"""How good masks get by pointing, on labelled pictures: clicks on what words missed, boxes and clicks for objects.

The simulated user is `clicks.py`'s. Each click costs a look, so a few pictures of a concept have to do.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from scipy import ndimage
from tqdm import tqdm

from slidekick.data.items import Item
from slidekick.data.triples import Triple, judged, pixels_of, truth
from slidekick.grounding.clicks import ENOUGH, clicks_to
from slidekick.grounding.metrics import dice
from slidekick.grounding.prompts import SMALLEST_OBJECT
from slidekick.grounding.segmentor import Segmentor

MOST_CLICKED = 3  # pictures a concept whose clicks are counted: each costs up to ten looks
CLICKS = 10
MOST_OBJECTS = 5  # of a picture that are pointed at
AGAIN = 3  # clicks in an object, each on what the ones before got wrong
POINTED = ("box", "box_and_words", "click", "3_clicks")  # columns of `point_at_objects`


def count_clicks(segmentor: Segmentor, wanted: Sequence[Triple]) -> list[dict]:
    """Clicks that a mask costs until its Dice is `ENOUGH`, starting from the words, for a few pictures a concept.

    One row a picture: needed: clicks on top of the words (0: the words sufficed, `CLICKS`: never reached), and the
    Dice by words alone and after up to 1, 3 and 5 clicks.
    """
    rows = []
    for concept, group in tqdm(_few(wanted).items(), desc="clicks", mininterval=5):
        for triple in group:
            image, (mask, _), seen = pixels_of(triple.item.image), truth(triple), judged(triple)

            def drawn(clicks, image=image, concept=concept, mpp=triple.item.scale, seen=seen):
                return _judged(segmentor.segment(image, [concept], mpp=mpp, points=clicks)[0].mask, seen)

            start = drawn([])
            first = dice(start, mask)
            session = clicks_to(mask, drawn, most=CLICKS, start=start) if first < ENOUGH else None
            after = [first, *(session.dice if session else ())]
            scores = {f"dice_{number}": after[min(number, len(after) - 1)] for number in (0, 1, 3, 5)}
            needed = session.needed if session else 0
            rows.append({"concept": concept, **place_of(triple.item), "needed": needed, **scores})
    return rows


def point_at_objects(segmentor: Segmentor, wanted: Sequence[Triple]) -> list[dict]:
    """Dice of single objects that are pointed at, for a few pictures of each concept whose objects are told apart.

    One row an object, from the smallest to the largest of a picture in even steps: by its box, by its box and the
    concept's name, by a click in its middle, and by `AGAIN` clicks, each on what is wrong (see `POINTED`).
    """
    rows = []
    for concept, group in tqdm(_few(wanted, with_objects=True).items(), desc="objects", mininterval=5):
        for triple in group:
            image, ids, seen = pixels_of(triple.item.image), truth(triple)[1], judged(triple)

            def drawn(words: list[str], image=image, mpp=triple.item.scale, seen=seen, **prompts) -> np.ndarray:
                return _judged(segmentor.segment(image, words, mpp=mpp, **prompts)[0].mask, seen)

            for number, box in _spread(ids):
                one = ids == number
                clicks = clicks_to(one, lambda clicks: drawn([], points=clicks), most=AGAIN, go_on=True).dice
                scores = (
                    dice(drawn([], boxes=[box]), one), dice(drawn([concept], boxes=[box]), one), clicks[0], clicks[-1],
                )  # fmt: skip
                scores = dict(zip(POINTED, scores, strict=True))
                rows.append({"concept": concept, **place_of(triple.item), **scores})
    return rows


def place_of(item: Item) -> dict[str, str]:
    """Columns of every row about a picture: which it is, and its patient or source, over which intervals are drawn."""
    return {"item": f"{item.set}/{item.id}", "group": f"{item.set} {item.group or item.id}"}


def _judged(drawn: np.ndarray, seen: np.ndarray | None) -> np.ndarray:
    """What is drawn on pixels that somebody judged; the truth holds no others."""
    return drawn if seen is None else drawn & seen


def _few(wanted: Sequence[Triple], with_objects: bool = False) -> dict[str, list[Triple]]:
    """Concept -> its first `MOST_CLICKED` pictures that mark it (with objects told apart)."""
    found: dict[str, list[Triple]] = defaultdict(list)
    for triple in wanted:
        if triple.mode != "mask" or len(found[triple.concept]) == MOST_CLICKED:
            continue
        mask, ids = truth(triple)
        if mask.any() and not (with_objects and ids is None):
            found[triple.concept].append(triple)
    return found


def _spread(ids: np.ndarray) -> list[tuple[int, tuple[int, int, int, int]]]:
    """Number and box (x0, y0, x1, y1) of up to `MOST_OBJECTS` objects, evenly by size."""
    areas = np.bincount(ids.ravel())
    places = ndimage.find_objects(ids)
    numbers = [n for n in np.argsort(areas[1:], kind="stable") + 1 if areas[n] >= SMALLEST_OBJECT]
    if len(numbers) > MOST_OBJECTS:
        numbers = [numbers[i] for i in np.linspace(0, len(numbers) - 1, MOST_OBJECTS).round().astype(int)]
    boxes = ((n, places[n - 1]) for n in numbers)
    return [(int(n), (box[1].start, box[0].start, box[1].stop, box[0].stop)) for n, box in boxes]
