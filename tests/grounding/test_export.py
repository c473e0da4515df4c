import json
import tracemalloc
import uuid

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from pycocotools import mask as coco

from slidekick.data.errors import InputError, OutputError
from slidekick.data.slide import Region, Roi
from slidekick.grounding import jsontext
from slidekick.grounding.annotations import from_geojson
from slidekick.grounding.export import from_rle, to_geojson, to_rle, unique_slugs, write_geojson, write_label_png
from slidekick.grounding.finding import Finding
from slidekick.grounding.geojson import read_geojson
from slidekick.grounding.palette import concept_colours

SHAPES = hnp.array_shapes(min_dims=2, max_dims=2, max_side=12)
MASKS = hnp.arrays(bool, SHAPES)
LABELS = hnp.arrays(np.int32, SHAPES, elements=st.integers(0, 4))
# Level-0 pixels per pixel: as read, coarser, a fraction as pyramids have it, finer, and not the same both ways.
DOWNSAMPLES = st.sampled_from([(1, 1), (2, 2), (4.003, 3.9987), (0.25, 0.25), (3, 1.5)])


def picture(shape: tuple[int, int], downsample=(1.0, 1.0), corner=(0, 0), mpp=(0.5, 0.5)) -> Roi:
    """A picture of `shape` that shows a level-0 rectangle at `corner`."""
    height, width = shape
    region = Region(*corner, width * downsample[0], height * downsample[1])
    return Roi(np.zeros((height, width, 3), np.uint8), mpp, region, "slide.svs")


@pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")  # pycocotools on NumPy 2's copy keyword
@given(mask=MASKS)
def test_rle_is_what_pycocotools_reads_and_comes_back_the_same(mask):
    rle = json.loads(json.dumps(to_rle(mask)))
    assert rle["size"] == list(mask.shape)
    assert np.array_equal(coco.decode({**rle, "counts": rle["counts"].encode()}).astype(bool), mask)
    assert np.array_equal(from_rle(rle), mask)


@given(
    counts=st.text(st.characters(min_codepoint=32, max_codepoint=127), max_size=40),
    size=st.tuples(st.integers(-1, 300), st.integers(-1, 300)),
)
def test_any_text_as_counts_is_a_mask_of_its_size_or_told_to_be_none(counts, size):
    try:
        mask = from_rle({"size": list(size), "counts": counts})
    except InputError:
        return
    assert mask.shape == size
    assert np.array_equal(from_rle(to_rle(mask)), mask)


@pytest.mark.parametrize(
    "rle",
    [
        {},
        None,
        {"size": [2, 2]},
        {"size": [2], "counts": "04"},
        {"size": ["a", 2], "counts": "04"},
        {"size": [2, 2], "counts": "µ"},
        {"size": [2, 2], "counts": "oooooooo"},
        {"size": [2, 2], "counts": "09"},
        {"size": [-2, -2], "counts": "04"},
        {"size": [2, 2], "counts": [0, 4]},
        {"size": [10**6, 10**6], "counts": "04"},
        {"size": [2, 2], "counts": "0" * 1000},
        {"size": [2, 2], "counts": "PPPPPPPPPPPP1"},
    ],
)
def test_what_is_no_rle_is_told_so(rle):
    with pytest.raises(InputError, match="is no COCO run-length mask; give"):
        from_rle(rle)


@settings(deadline=None, max_examples=150)
@given(mask=MASKS, downsample=DOWNSAMPLES, x=st.integers(0, 90_000), y=st.integers(0, 90_000))
def test_a_region_comes_back_from_geojson_the_same(mask, downsample, x, y):
    roi = picture(mask.shape, downsample, (x, y))
    back = from_geojson(json.loads(json.dumps(to_geojson([Finding("gland", mask, 0.75, 0.5)], roi))), roi)
    if not mask.any():
        assert back == []
        return
    (finding,) = back
    assert (finding.concept, finding.score, finding.presence, finding.instances) == ("gland", 0.75, 0.5, None)
    assert np.array_equal(finding.mask, mask)


@settings(deadline=None, max_examples=150)
@given(labels=LABELS, downsample=DOWNSAMPLES)
def test_objects_come_back_from_geojson_the_same(labels, downsample):
    roi = picture(labels.shape, downsample, (1000, 7))
    data = to_geojson([Finding("nucleus", labels > 0, 0.9, 0.9, labels)], roi)
    numbers = np.unique(labels[labels > 0])
    assert len(data["features"]) == len(numbers)
    for finding in from_geojson(data, roi):
        assert np.array_equal(finding.mask, labels > 0)
        expected = np.searchsorted(numbers, labels) + 1  # numbered anew from 1, in order
        assert np.array_equal(finding.instances, np.where(labels > 0, expected, 0))


@settings(deadline=None, max_examples=100)
@given(labels=LABELS, downsample=DOWNSAMPLES)
def test_geojson_holds_to_qupaths_rules(labels, downsample):
    roi = picture(labels.shape, downsample, (50, 60))
    findings = [Finding("nucleus", labels > 0, 0.9, 0.8, labels), Finding("gland", labels > 1, 0.9, 0.8)]
    data = to_geojson(findings, roi)
    assert data["type"] == "FeatureCollection"
    ids = [uuid.UUID(feature["id"]) for feature in data["features"]]
    assert len(set(ids)) == len(ids)
    for feature in data["features"]:
        said = feature["properties"]
        concept = said["classification"]["name"]
        assert feature["type"] == "Feature"
        assert said["objectType"] == {"nucleus": "detection", "gland": "annotation"}[concept]
        assert said["classification"]["color"] == list(concept_colours(["nucleus", "gland"])[concept])
        assert all(isinstance(number, float) for number in said["measurements"].values())
        assert all(key.endswith((" px", " µm^2", " µm", " %", "(0-1)")) for key in said["measurements"]), (
            "every number carries its unit"
        )
        assert {"Area px", "Area µm^2"} <= said["measurements"].keys()
        kind, coordinates = feature["geometry"]["type"], feature["geometry"]["coordinates"]
        for polygon in {"Polygon": [coordinates], "MultiPolygon": coordinates}[kind]:
            for ring in polygon:
                points = np.array(ring)
                assert ring[0] == ring[-1]
                assert len(ring) >= 5
                end = np.array([50 + roi.region.width, 60 + roi.region.height])
                assert ((points >= (50, 60)) & (points <= end + 1e-3)).all()


def test_measurements_are_those_of_the_object_in_the_scale_of_the_picture():
    labels = np.zeros((20, 20), np.int32)
    labels[2:6, 3:8] = 1
    roi = picture((20, 20), (4, 4), mpp=(2.0, 2.0))
    (feature,) = to_geojson([Finding("nucleus", labels > 0, 0.9, 0.9, labels)], roi)["features"]
    numbers = feature["properties"]["measurements"]
    assert numbers["Area px"] == 20
    assert numbers["Area µm^2"] == 80
    assert numbers["Diameter µm"] == pytest.approx(2 * (80 / np.pi) ** 0.5, abs=1e-3)
    corners = {tuple(point) for ring in feature["geometry"]["coordinates"] for point in ring}
    assert corners == {(12, 8), (32, 8), (32, 24), (12, 24)}


def test_without_a_scale_no_micrometres_are_written():
    roi = picture((4, 4), mpp=None)
    (feature,) = to_geojson([Finding("gland", np.ones((4, 4), bool), 1, 1)], roi)["features"]
    assert not [name for name in feature["properties"]["measurements"] if "µm" in name]


def test_the_same_result_is_the_same_file_and_another_place_has_other_ids():
    findings = [Finding("gland", np.ones((4, 4), bool), 1, 1)]
    here, there = picture((4, 4)), picture((4, 4), corner=(8, 0))
    assert to_geojson(findings, here) == to_geojson(findings, here)
    assert to_geojson(findings, here)["features"][0]["id"] != to_geojson(findings, there)["features"][0]["id"]


@settings(deadline=None, max_examples=60)
@given(labels=LABELS, downsample=DOWNSAMPLES)
def test_the_streamed_file_is_the_very_text_and_comes_back_the_same(tmp_path_factory, labels, downsample):
    path = tmp_path_factory.mktemp("geojson") / "findings.geojson"
    roi = picture(labels.shape, downsample, (50, 60))
    findings = [Finding("nucleus", labels > 0, 0.9, 0.8, labels), Finding("gland", labels > 1, 0.9, 0.8)]
    assert write_geojson(path, findings, roi).read_text() == json.dumps(to_geojson(findings, roi))
    back = from_geojson(read_geojson(path), roi)
    assert [finding.concept for finding in back] == [finding.concept for finding in findings if finding.found]
    for finding in back:
        assert np.array_equal(finding.mask, labels > (0 if finding.concept == "nucleus" else 1))


def test_memory_does_not_grow_with_the_number_of_objects_written_and_read(tmp_path, monkeypatch):
    path = tmp_path / "many.geojson"

    def peak(action) -> int:
        tracemalloc.start()
        action()
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used

    def write(objects: int) -> int:
        labels = np.zeros((4, 4 * objects), np.int32)
        labels[1, 1::4] = np.arange(objects) + 1
        finding = Finding("nucleus", labels > 0, 0.9, 0.9, labels)
        return peak(lambda: write_geojson(path, [finding], picture(labels.shape)))

    write(10)  # what is loaded on first use
    used = write(3000)
    size = path.stat().st_size
    assert size > 1_300_000
    monkeypatch.setattr(jsontext, "CHUNK", 50_000)  # the one thing that a short file fills
    assert used < size, "features in memory take many times their text; where objects lie takes less than it"
    assert peak(lambda: sum(1 for _ in read_geojson(path))) < size


@settings(deadline=None, max_examples=30)
@given(labels=LABELS)
def test_a_label_picture_holds_the_very_numbers(tmp_path_factory, labels):
    path = tmp_path_factory.mktemp("labels") / "labels.png"
    write_label_png(path, Finding("nucleus", labels > 0, 1, 1, labels * 9999))
    with Image.open(path) as picture_file:
        assert np.array_equal(np.asarray(picture_file), labels * 9999)
    write_label_png(path, Finding("gland", labels > 0, 1, 1))
    with Image.open(path) as picture_file:
        assert np.array_equal(np.asarray(picture_file), labels > 0)


def test_a_label_picture_that_cannot_be_written_right_is_not_written(tmp_path):
    many = np.full((2, 2), 65536, np.int32)
    with pytest.raises(InputError, match="more than 65535 objects"):
        write_label_png(tmp_path / "many.png", Finding("nucleus", many > 0, 1, 1, many))
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        write_label_png(tmp_path / "file" / "out.png", Finding("gland", many > 0, 1, 1))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_concepts_that_differ_by_signs_alone_get_files_of_their_own():
    words = ["CD3+ cell", "CD3- cell", "cd3 cell", "nucleus", "Zelle µ", "/../etc", "??"]
    assert unique_slugs(words) == ["CD3-cell", "CD3-cell-2", "cd3-cell-3", "nucleus", "Zelle-µ", "etc", "unnamed"]
