"""Clicks and boxes on labelled pictures, with a segmentor that knows the truth but has to be told."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from slidekick.data.items import UNLABELLED, load_items
from slidekick.data.triples import pixels_of, triples, truth
from slidekick.grounding.finding import Finding
from slidekick.grounding.interaction import (
    AGAIN,
    CLICKS,
    MOST_CLICKED,
    MOST_OBJECTS,
    POINTED,
    _spread,
    count_clicks,
    point_at_objects,
)
from slidekick.grounding.prompts import SMALLEST_OBJECT

NAMES = ["nucleus", "tumour", "stroma", "gland"]


class Told:
    """Draws a concept after so many clicks, the object in a box, and a click's object with its words left out."""

    def __init__(self, items, clicks: int = 0) -> None:
        self.clicks = clicks
        self.asked: list[tuple] = []
        self.known = {(pixels_of(t.item.image).tobytes(), t.concept): truth(t) for t in triples(items, NAMES)}

    def segment(self, image, concepts, *, mpp=None, points=None, boxes=None):
        self.asked.append((list(concepts), list(points or []), list(boxes or [])))
        mask, ids = self.known[image.tobytes(), concepts[0] if concepts else "nucleus"]
        if boxes:
            ((x0, y0, x1, y1),) = boxes
            inside = np.zeros(mask.shape, bool)
            inside[y0:y1, x0:x1] = True
            mask = (mask & inside) if concepts else inside
        elif not concepts:
            x, y, _ = points[0]
            mask = ids == ids[int(y), int(x)] if len(points) == AGAIN else np.zeros_like(mask)
        elif len(points or ()) < self.clicks:
            mask = np.zeros_like(mask)
        return [Finding("object", mask, 1.0, 1.0)]


@pytest.fixture(scope="module")
def items(painted):
    return load_items(painted)


def test_clicks_are_counted_on_top_of_the_words(items):
    wanted = triples(items, NAMES)
    for needed in (0, 1, 4):
        rows = count_clicks(Told(items, clicks=needed), wanted)
        assert [one["needed"] for one in rows] == [needed] * len(rows)
        assert {one["concept"] for one in rows} == {"nucleus", "tumour"}, "what is nowhere drawn is not clicked"
        assert len(rows) == 2 * MOST_CLICKED
        for one in rows:
            scores = [one[f"dice_{number}"] for number in (0, 1, 3, 5)]
            assert scores == [float(number >= needed) for number in (0, 1, 3, 5)]
    (never, *_) = count_clicks(Told(items, clicks=CLICKS + 1), wanted)
    assert (never["needed"], never["dice_5"]) == (CLICKS, 0.0)


def test_what_is_drawn_where_nobody_judged_is_no_mistake(items, tmp_path):
    class Spilling(Told):
        def segment(self, image, concepts, **prompts):
            (finding,) = super().segment(image, concepts, **prompts)
            spilt = finding.mask.copy()
            spilt[85:] = True
            return [replace(finding, mask=spilt)]

    marked = next(item for item in items if item.mask)
    classes = np.asarray(Image.open(marked.mask)).copy()
    assert not classes[85:].any()
    classes[85:] = UNLABELLED
    Image.fromarray(classes).save(tmp_path / "mask.png")
    item = replace(marked, mask=tmp_path / "mask.png")
    (row,) = count_clicks(Spilling([item]), triples([item], ["nucleus"]))
    assert (row["needed"], row["dice_0"]) == (0, 1.0)
    (spilt,) = count_clicks(Spilling([marked]), triples([marked], ["nucleus"]))
    assert spilt["dice_0"] < 1
    assert [row["3_clicks"] for row in point_at_objects(Spilling([item]), triples([item], ["nucleus"]))] == [1.0] * 3


def test_objects_that_are_told_apart_are_pointed_at_in_every_way(items):
    segmentor = Told(items)
    rows = point_at_objects(segmentor, triples(items, NAMES))
    assert {one["concept"] for one in rows} == {"nucleus"}, "regions have no objects"
    assert len({one["item"] for one in rows}) == MOST_CLICKED
    assert {len(one) for one in rows} == {3 + len(POINTED)}
    means = {way: np.mean([one[way] for one in rows]) for way in POINTED}
    assert means["click"] == 0
    assert means["3_clicks"] == 1
    assert 0.7 < means["box"] < means["box_and_words"], "a disc fills four fifths of its box"
    labels = [label for words, points, _ in segmentor.asked if not words for *_, label in points]
    assert set(labels) == {1}, "nothing false was drawn, so nothing is taken back"


def test_objects_are_taken_from_the_smallest_to_the_largest():
    ids = np.zeros((60, 400), np.int32)
    for number in range(1, 13):
        ids[5 : 5 + 4 * number, 30 * number : 30 * number + 20] = number
    ids[:3, :3] = 13  # a speck
    assert SMALLEST_OBJECT > 9
    found = _spread(ids)
    assert len(found) == MOST_OBJECTS
    assert [number for number, _ in found] == sorted(number for number, _ in found)
    assert (found[0][0], found[-1][0]) == (1, 12)
    for number, (x0, y0, x1, y1) in found:
        assert (x0, y0, x1, y1) == (30 * number, 5, 30 * number + 20, 5 + 4 * number)
    assert _spread(np.zeros((5, 5), np.int32)) == []
