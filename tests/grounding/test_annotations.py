"""Annotations over pixels: findings, truth and prompts. What files hold is tested in `test_geojson.py`."""

import json
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from slidekick.data.errors import InputError
from slidekick.data.items import UNLABELLED, load_items
from slidekick.data.slide import Region, Roi
from slidekick.grounding import annotations
from slidekick.grounding.annotations import from_geojson, prompts_by_class, prompts_of, truth_of, write_item
from slidekick.grounding.export import to_geojson
from slidekick.grounding.finding import Finding
from slidekick.grounding.pointing import checked_boxes, checked_points

LABELS = hnp.arrays(np.int32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12), elements=st.integers(0, 4))


def picture(shape=(20, 20), downsample=(1.0, 1.0), corner=(0, 0), mpp=None) -> Roi:
    height, width = shape
    region = Region(*corner, round(width * downsample[0]), round(height * downsample[1]))
    return Roi(np.zeros((height, width, 3), np.uint8), mpp, region, "slide.svs")


def box(x0: float, y0: float, x1: float, y1: float) -> list:
    return [[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]]


def area(*rings: list, kind="annotation", name: object = "A", **more) -> dict:
    geometry = {"type": "Polygon", "coordinates": list(rings)}
    properties = {"objectType": kind, "classification": name}
    return {"type": "Feature", "geometry": geometry, "properties": properties} | more


def click(*places: list, name: object = None) -> dict:
    geometry = {"type": "MultiPoint", "coordinates": list(places)}
    if len(places) == 1:
        geometry = {"type": "Point", "coordinates": places[0]}
    return {"type": "Feature", "geometry": geometry, "properties": {"classification": name}}


def filled(mask: np.ndarray) -> set[tuple[int, int]]:
    return {(int(x), int(y)) for y, x in np.argwhere(mask)}


def test_a_hole_is_left_out_wherever_it_lies_and_overlapping_parts_are_one_area():
    rows, columns = np.mgrid[:20, :20]
    (finding,) = from_geojson([area(box(2, 2, 10, 10), box(8, 8, 15, 15))], picture())
    wanted = (rows >= 2) & (rows < 10) & (columns >= 2) & (columns < 10) & ~((rows >= 8) & (columns >= 8))
    assert np.array_equal(finding.mask, wanted), "what of a hole lies outside adds nothing"
    two = area()
    two["geometry"] = {"type": "MultiPolygon", "coordinates": [[box(2, 2, 10, 10)], [box(8, 8, 15, 15)]]}
    (finding,) = from_geojson([two], picture())
    assert finding.mask.sum() == 64 + 49 - 4


def test_a_polygon_that_crosses_itself_fills_both_its_lobes():
    bow = [[0, 0], [10, 10], [10, 0], [0, 10], [0, 0]]
    (finding,) = from_geojson([area(bow)], picture())
    assert finding.mask[5, 1]
    assert finding.mask[5, 8]
    assert not finding.mask[1, 5]
    assert not finding.mask[8, 5]
    star = [[10, 0], [16, 19], [0, 7], [19, 7], [4, 19], [10, 0]]
    (finding,) = from_geojson([area(star)], picture())
    assert not finding.mask[10, 10], "wound twice: even-odd"


def test_what_lies_outside_is_cut_off_and_what_lies_far_outside_is_nothing():
    data = [area(box(15, 15, 900, 900)), area(box(1e8, 1e8, 1e8 + 5, 1e8 + 5)), area(box(-1e9, -1e9, 3, 3), name="B")]
    a, b = from_geojson(data, picture())
    assert (a.mask.sum(), b.mask.sum()) == (25, 9)
    (nowhere,) = from_geojson(data[1:2], picture())
    assert (nowhere.concept, nowhere.found) == ("A", False)
    (everywhere,) = from_geojson([area(box(-1e9, -1e9, 1e9, 1e9))], picture())
    assert everywhere.mask.all()


def test_an_area_without_extent_marks_nothing():
    (finding,) = from_geojson([area([[1, 1], [9, 1], [5, 1]], kind="detection")], picture())
    assert (finding.found, finding.instances.max()) == (False, 0)


def test_annotations_are_regions_and_everything_else_objects_of_their_class():
    data = [
        area(box(0, 0, 4, 4), name="A"),
        area(box(2, 2, 6, 6), name="A"),
        area(box(0, 0, 3, 3), kind="cell", name="A"),
        area(box(2, 2, 6, 6), kind="detection", name="A"),
        area(box(50, 50, 60, 60), kind="detection", name="A"),
        area(box(9, 9, 11, 11), kind="tile", name="A"),
        area(box(0, 0, 1, 1), name=None),
    ]
    region, objects, nameless = from_geojson(data, picture())
    assert (region.concept, region.instances, region.mask.sum()) == ("A", None, 28)
    assert objects.concept == "A"
    assert np.unique(objects.instances).tolist() == [0, 1, 2, 3]
    assert objects.instances[2, 2] == 2, "the later one wins"
    assert np.array_equal(objects.mask, objects.instances > 0)
    assert (nameless.concept, nameless.score, nameless.presence) == ("unclassified", 1.0, 1.0)


def test_cells_are_drawn_by_their_nucleus_where_that_is_asked_for():
    nucleus = {"type": "Polygon", "coordinates": [box(4, 4, 6, 6)]}
    data = [area(box(2, 2, 8, 8), kind="cell", nucleusGeometry=nucleus), area(box(10, 10, 12, 12), kind="cell")]
    assert from_geojson(data, picture())[0].mask.sum() == 40
    assert from_geojson(data, picture(), nuclei=True)[0].mask.sum() == 8


def test_points_and_lines_are_passed_over_but_not_where_they_are_all_there_is():
    line = {"type": "Feature", "geometry": {"type": "LineString", "coordinates": [[1, 1], [5, 5]]}}
    (finding,) = from_geojson([line, click([3, 3]), area(box(0, 0, 2, 2))], picture())
    assert finding.mask.sum() == 4
    with pytest.raises(InputError, match="none of the 2 features has an area; points and lines can be prompts alone"):
        from_geojson([line, click([3, 3])], picture())
    assert from_geojson({"type": "FeatureCollection", "features": []}, picture()) == []


def test_level_0_pixels_become_pixels_of_the_picture():
    roi = picture((10, 10), (4, 2), (100, 200))
    (finding,) = from_geojson([area(box(104, 204, 120, 210))], roi)
    assert filled(finding.mask) == {(x, y) for x in range(1, 5) for y in range(2, 5)}


@settings(deadline=None, max_examples=100)
@given(labels=LABELS)
def test_truth_of_what_was_exported_is_what_was_found(labels):
    roi = picture(labels.shape, (2, 2), (10, 20))
    region = labels >= 3
    findings = [Finding("gland", region, 1, 1), Finding("nucleus", labels > 0, 1, 1, labels)]
    truth = truth_of(to_geojson(findings, roi), roi)
    values = {name: value for value, name in truth.classes.items()}
    nuclei = labels > 0
    assert np.array_equal(truth.mask == values.get("nucleus", -1), nuclei), "objects lie over regions"
    assert np.array_equal(truth.mask == values.get("gland", -1), region & ~nuclei)
    numbers = np.unique(labels[nuclei])
    assert np.array_equal(truth.instances, np.where(nuclei, np.searchsorted(numbers, labels) + 1, 0))


def test_truth_numbers_classes_as_they_come_and_leaves_ignored_areas_unjudged():
    data = [
        area(box(0, 0, 5, 5), kind="detection", name="nucleus"),
        area(box(0, 0, 20, 20), name="Tumor"),
        area(box(10, 10, 15, 15), name="Ignore*"),
        area(box(18, 18, 20, 20), name=None),
        area(box(17, 17, 19, 19), name="Tumor"),
    ]
    truth = truth_of(data, picture())
    assert truth.classes == {1: "nucleus", 2: "Tumor", 3: "unclassified"}
    assert (truth.mask[0, 0], truth.mask[7, 7], truth.mask[12, 12], truth.mask[19, 19]) == (1, 2, UNLABELLED, 3)
    assert truth.mask[18, 18] == 2, "the later one wins"
    assert truth.instances.sum() == 25


def test_truth_is_an_item_that_loads(tmp_path):
    roi = picture(mpp=(0.5, 0.5))
    data = [area(box(0, 0, 5, 5), kind="cell", name="nucleus"), area(box(8, 8, 12, 12), name="Tumor")]
    folder = tmp_path / "mine"
    folder.mkdir()
    lines = [
        write_item(folder, "a", roi, truth_of(data, roi)),
        write_item(folder, "b", roi, truth_of(data[1:], roi), "val"),
    ]
    (folder / "items.jsonl").write_text("\n".join(map(json.dumps, lines)))
    a, b = load_items(tmp_path)
    assert (a.set, a.id, a.split, a.group, a.mpp) == ("mine", "a", "train", "slide.svs", 0.5)
    assert (a.classes, b.classes, b.instances) == ({1: "nucleus", 2: "Tumor"}, {1: "Tumor"}, None)
    assert np.array_equal(np.asarray(Image.open(a.mask)), truth_of(data, roi).mask)
    assert np.asarray(Image.open(a.instances)).sum() == 25
    many = truth_of(data, roi)
    many.instances[0, 0] = 65536
    with pytest.raises(InputError, match="more than 65535 objects do not fit a label picture"):
        write_item(folder, "c", roi, many)


def test_classes_that_do_not_fit_a_mask_or_memory_are_told(monkeypatch):
    data = [area(box(0, 0, 2, 2), name=f"class {n}") for n in range(255)]
    with pytest.raises(InputError, match="more than 254 classes do not fit a mask; merge some"):
        truth_of(data, picture())
    assert len(from_geojson(data, picture())) == 255
    monkeypatch.setattr(annotations, "MOST_BYTES", 100 * 20 * 20)
    with pytest.raises(InputError, match="masks of so many classes for 20 × 20 pixels"):
        from_geojson(data, picture())


def test_annotations_that_would_take_minutes_are_told_in_seconds():
    height, width = 7000, 7000
    roi = picture((height, width))
    zigzag = np.stack([np.linspace(0, width, 1_000_000), np.arange(1_000_000) % 2 * float(height)], axis=1)
    begun = time.process_time()
    with pytest.raises(InputError, match="too many or too intricate to draw; simplify them or import fewer"):
        from_geojson([area(zigzag.tolist())], roi)
    whole = area(box(0, 0, width, height))
    with pytest.raises(InputError, match="too many or too intricate"):
        from_geojson([whole] * 100_000, roi)
    assert time.process_time() - begun < 30


def test_twenty_thousand_nuclei_are_drawn_in_seconds():
    rng = np.random.default_rng(0)
    angles = np.linspace(0, 2 * np.pi, 20)
    circle = 6 * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    places = rng.uniform(10, 3990, (20_000, 2))
    data = [area((circle + place).tolist(), kind="detection", name="nucleus") for place in places]
    begun = time.process_time()
    (finding,) = from_geojson(data, picture((4000, 4000)))
    assert time.process_time() - begun < 20
    assert finding.instances.max() == 20_000


def test_areas_become_boxes_points_clicks_and_classes_words():
    data = [
        area(box(2, 3, 8, 9), name="Tumor"),
        area([[12, 12], [18, 15], [14, 19], [12, 12]], kind="detection", name={"name": "Nucleus"}),
        click([1, 2], [5, 6], name="Tumor"),
        click([7, 7]),
        click([9, 9], name="Ignore*"),
        click([10, 10], name="Negative"),
        area(box(0, 0, 9, 9), name="Region*"),
        area(box(5, 5, 7, 7), name=None),
    ]
    prompts = prompts_of(data, picture())
    assert prompts.concepts == ["Tumor", "Nucleus"]
    assert prompts.boxes == [(2, 3, 8, 9), (12, 12, 18, 19), (5, 5, 7, 7)]
    assert prompts.points == [(1, 2, 1), (5, 6, 1), (7, 7, 1), (9, 9, 0), (10, 10, 0)]
    groups = prompts_by_class(data, picture())
    assert list(groups) == ["Tumor", "Nucleus", "", None]
    assert groups["Tumor"] == (["Tumor"], [(1, 2, 1), (5, 6, 1)], [(2, 3, 8, 9)])
    assert groups[""] == ([], [(7, 7, 1)], [(5, 5, 7, 7)])


def test_prompts_are_cut_to_the_picture_and_given_in_its_pixels():
    roi = picture((10, 10), (4, 4), (100, 100))
    data = [
        area(box(90, 104, 120, 112)),
        area(box(500, 500, 600, 600), name="B"),
        area(box(110, 110, 111, 140), name="C"),
        click([108, 120], [99, 120], [140, 120], name="D"),
    ]
    prompts = prompts_of(data, roi)
    assert prompts == (["A", "D"], [(2, 5, 1)], [(0, 1, 5, 3)]), "outside, or under a pixel wide: left out"
    assert prompts_of([], roi) == ([], [], [])


@settings(deadline=None, max_examples=100)
@given(
    boxes=st.lists(st.tuples(*[st.floats(-50, 150, width=32)] * 4), max_size=5),
    points=st.lists(st.tuples(*[st.floats(-50, 150, width=32)] * 2), max_size=5),
    downsample=st.sampled_from([(1, 1), (3, 3), (0.5, 0.5), (4, 2)]),
)
def test_whatever_is_drawn_the_prompts_are_ones_that_the_segmentor_takes(boxes, points, downsample):
    roi = picture((20, 24), downsample, (7, 9))
    prompts = prompts_of([area(box(*corners)) for corners in boxes] + [click(list(place)) for place in points], roi)
    assert len(checked_boxes(prompts.boxes, (20, 24))) == len(prompts.boxes)
    assert len(checked_points(prompts.points, (20, 24))) == len(prompts.points)
