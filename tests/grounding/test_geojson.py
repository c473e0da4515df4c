"""What GeoJSON of other tools, and of nobody's tool, is read as. Pixels come in `test_annotations.py`."""

import json
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slidekick.data.errors import InputError
from slidekick.grounding import geojson, jsontext
from slidekick.grounding.geojson import Shape, read_geojson, shapes

SQUARE = [[1, 1], [5, 1], [5, 5], [1, 5], [1, 1]]
POINT = {"type": "Point", "coordinates": [3, 4]}
HOLE = [[2, 2], [3, 2], [3, 3], [2, 3], [2, 2]]


def feature(geometry: object, **properties) -> dict:
    return {"type": "Feature", "id": "any", "geometry": geometry, "properties": properties}


def polygon(*rings: list) -> dict:
    return {"type": "Polygon", "coordinates": list(rings)}


def collection(*features: object) -> dict:
    return {"type": "FeatureCollection", "features": list(features)}


def only(feature: dict) -> Shape:
    (shape,) = shapes(collection(feature))
    return shape


@pytest.fixture
def read(tmp_path):
    """Text or bytes -> the shapes of a file of it."""

    def shapes_of_file(content: str | bytes) -> list[Shape]:
        path = tmp_path / "notes.geojson"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return list(read_geojson(path))

    return shapes_of_file


def test_a_polygon_and_its_holes_are_read_without_the_repeated_corner():
    shape = only(feature(polygon(SQUARE, HOLE), objectType="annotation"))
    assert [ring.tolist() for ring in shape.polygons[0]] == [SQUARE[:-1], HOLE[:-1]]
    assert (shape.number, shape.kind, shape.name, len(shape.points)) == (1, "annotation", "", 0)


def test_a_multipolygon_is_several_areas_and_heights_are_dropped():
    high = [[x, y, 7] for x, y in SQUARE]
    shape = only(feature({"type": "MultiPolygon", "coordinates": [[SQUARE, HOLE], [high]]}))
    assert [len(rings) for rings in shape.polygons] == [2, 1]
    assert shape.polygons[1][0].tolist() == SQUARE[:-1]


@pytest.mark.parametrize(
    ("classification", "name"),
    [
        ({"name": "Tumor", "color": [200, 0, 0]}, "Tumor"),
        ({"names": ["Tumor", "Positive"], "color": [200, 0, 0]}, "Tumor: Positive"),
        (
            {"name": "Positive", "colorRGB": -3670016, "parentClass": {"name": "Tumor", "colorRGB": -1}},
            "Tumor: Positive",
        ),
        ("Tumor: Positive", "Tumor: Positive"),
        (" Immune  cells\n", "Immune cells"),
        ({}, ""),
        ({"name": None}, ""),
        (None, ""),
    ],
)
def test_a_classification_is_read_as_every_qupath_has_written_it(classification, name):
    assert only(feature(polygon(SQUARE), classification=classification)).name == name


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ({"objectType": "cell"}, "cell"),
        ({"object_type": "detection"}, "detection"),
        ({"type": "tile"}, "tile"),
        ({"objectType": "tma_core"}, "tmaCore"),
        ({"objectType": "drawing"}, "annotation"),
        ({"objectType": 7}, "annotation"),
        ({}, "annotation"),
    ],
)
def test_the_kind_of_object_is_read_and_what_is_unknown_is_an_annotation(said, kind):
    assert only(feature(polygon(SQUARE), **said)).kind == kind
    old = {"type": "Feature", "id": "PathCellObject", "geometry": polygon(SQUARE), "properties": {}}
    assert only(old).kind == "cell"


def test_what_people_change_in_qupath_is_no_hindrance():
    edited = feature(
        polygon(SQUARE),
        objectType="annotation",
        name="my favourite gland",
        isLocked=True,
        classification={"name": "Tumor", "color": [200, 0, 0]},
        color=[1, 2, 3],
        metadata={"ANNOTATION_DESCRIPTION": "see me"},
    ) | {"id": "6d1f0a62-0000-4000-8000-2d9f5a1f7c11"}
    shape = only(edited)
    assert (shape.name, shape.kind, shape.measurements) == ("Tumor", "annotation", {})
    assert shape.measured("Area px", 5.0) == 5.0
    bare = {"type": "Feature", "geometry": polygon(SQUARE)}
    assert only(bare).polygons
    assert only(bare | {"properties": None}).polygons


def test_measurements_are_read_in_both_forms_and_only_numbers_count():
    assert only(feature(polygon(SQUARE), measurements={"Area px": 16})).measured("Area px", 0) == 16
    old = [{"name": "Area px", "value": 16.5}, {"name": ["?"]}, 3]
    assert only(feature(polygon(SQUARE), measurements=old)).measured("Area px", 0) == 16.5
    for wrong in ("big", None, [1], float("nan"), float("inf"), 10**400):
        assert only(feature(polygon(SQUARE), measurements={"Area px": wrong})).measured("Area px", 4) == 4
    assert only(feature(polygon(SQUARE), measurements="none")).measurements == {}


def test_not_a_number_as_a_measurement_is_read_as_qupath_writes_it(read):
    text = json.dumps(collection(feature(polygon(SQUARE), measurements={"Nucleus: Area": float("nan"), "b": 2})))
    assert "NaN" in text
    (shape,) = read(text)
    assert (shape.measured("Nucleus: Area", 1.5), shape.measured("b", 0)) == (1.5, 2)


def test_the_nucleus_of_a_cell_is_read():
    cell = feature(polygon(SQUARE), objectType="cell") | {"nucleusGeometry": polygon(HOLE)}
    assert only(cell).nucleus[0][0].tolist() == HOLE[:-1]
    assert only(cell | {"nucleusGeometry": None}).nucleus == []


def test_child_objects_follow_their_parent_and_the_root_is_left_out():
    child, grandchild = feature(polygon(HOLE), classification="B"), feature(polygon(HOLE), classification="C")
    child["properties"]["children"] = [grandchild]
    parent = feature(
        polygon(SQUARE), classification="A", childObjects=[child, feature(polygon(HOLE), classification="D")]
    )
    root = feature(None, objectType="root", childObjects=[parent])
    assert [shape.name for shape in shapes(collection(root))] == ["A", "B", "C", "D"]


@pytest.mark.parametrize(
    ("geometry", "areas", "points"),
    [
        (None, 0, 0),
        (POINT, 0, 1),
        ({"type": "MultiPoint", "coordinates": [[3, 4], [5, 6]]}, 0, 2),
        ({"type": "MultiPoint", "coordinates": []}, 0, 0),
        ({"type": "LineString", "coordinates": [[3, 4], [5, 6]]}, 0, 0),
        ({"type": "MultiLineString", "coordinates": [[[3, 4], [5, 6]]]}, 0, 0),
        ({"type": "Polygon", "coordinates": []}, 0, 0),
        ({"type": "Polygon", "coordinates": [[]]}, 0, 0),
        ({"type": "Polygon", "coordinates": [[[1, 1], [9, 1], [5, 1]]]}, 1, 0),
        ({"type": "GeometryCollection", "geometries": []}, 0, 0),
        (
            {"type": "GeometryCollection", "geometries": [polygon(SQUARE), POINT]},
            1,
            0,
        ),
        (
            {
                "type": "GeometryCollection",
                "geometries": [
                    POINT,
                    {"type": "GeometryCollection", "geometries": [POINT]},
                ],
            },
            0,
            2,
        ),
    ],
)
def test_every_geometry_of_the_standard_is_read_areas_before_lines_before_points(geometry, areas, points):
    shape = only(feature(geometry))
    assert (len(shape.polygons), len(shape.points)) == (areas, points)


def nested(depth: int) -> dict:
    inner: dict = polygon(SQUARE)
    for _ in range(depth):
        inner = {"type": "GeometryCollection", "geometries": [inner]}
    return inner


@pytest.mark.parametrize(
    ("geometry", "told"),
    [
        (polygon([[1, 1], [2, 2]]), "a ring of 2 points, where an area needs 3"),
        (polygon([[1, 1], [2, 2], [1, 1]]), "a ring of 2 points"),
        (polygon(SQUARE, [[1, 1]]), "a ring of 1 points"),
        (polygon([[float("nan"), 1], *SQUARE]), "a coordinate that is no finite number"),
        (polygon([[float("inf"), 1], *SQUARE]), "a coordinate that is no finite number"),
        (polygon([[None, 1], *SQUARE]), "a coordinate that is no finite number"),
        (polygon([[1e300, 1], *SQUARE]), "beyond 1e+09 pixels, where no slide reaches"),
        (polygon([[10**400, 1], *SQUARE]), "a coordinate that is no number"),
        (polygon([["a", 1], *SQUARE]), "a coordinate that is no number"),
        (polygon([[{}, 1], *SQUARE]), "a coordinate that is no number"),
        (polygon([[1, 2, 3], *SQUARE]), "positions of unequal length"),
        (polygon([[[1, 2], [1, 2]]]), "positions that are not x, y"),
        (polygon([[1], [2], [3]]), "positions that are not x, y"),
        (polygon([1, 2, 3]), "positions that are not x, y"),
        (polygon("ring"), "a position list that is text"),
        ({"type": "Polygon", "coordinates": "all"}, "coordinates that are text, not a list"),
        ({"type": "Polygon"}, "coordinates that are null, not a list"),
        ({"type": "MultiPolygon", "coordinates": [3]}, "a polygon that is a number, not a list of rings"),
        ({"type": "Point", "coordinates": []}, "positions that are not x, y"),
        ({"type": "Circle", "coordinates": [1, 2]}, "a geometry of no known type"),
        ({"type": ["Polygon"], "coordinates": [1, 2]}, "a geometry of no known type"),
        ({}, "a geometry of no known type"),
        ("POLYGON((1 1))", "a geometry of no known type"),
        ({"type": "GeometryCollection", "geometries": 3}, "a geometry collection that is no list"),
        (nested(17), "nested too deeply"),
    ],
)
def test_a_geometry_that_cannot_be_meant_is_told_with_its_place(geometry, told):
    with pytest.raises(InputError, match="GeoJSON: feature 2 has ") as caught:
        list(shapes(collection(feature(None), feature(geometry))))
    assert told in str(caught.value)
    assert str(caught.value).endswith("; draw it again in QuPath, or export without it")


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        (None, "is null, not an object"),
        ([], "is a list, not an object"),
        ({}, "is no GeoJSON Feature"),
        ({"type": "feature"}, "is no GeoJSON Feature"),
        ({"type": {}}, "is no GeoJSON Feature"),
        (feature(None) | {"properties": "none"}, "has properties that are text"),
        (feature(None, classification=3), "has a classification that is a number, not text"),
        (feature(None, classification={"names": [{}]}), "has a classification that is an object, not text"),
        (feature(None, classification={"names": ["Tumor", 5]}), "has a classification that is a number, not text"),
        (feature(None, classification={"names": 5}), "has class names that are a number, not a list"),
        (feature(None, classification={"names": {"a": 1}}), "has class names that are an object, not a list"),
        (feature(None, classification="x" * 201), "has a classification of 201 characters (200 at most)"),
        (feature(None, childObjects=[3]), "is a number, not an object"),
    ],
)
def test_a_feature_that_is_none_is_told_with_its_place(entry, told):
    with pytest.raises(InputError) as caught:
        list(shapes(collection(entry)))
    assert f"GeoJSON: feature 1 {told}" in str(caught.value)


@pytest.mark.parametrize("data", [None, "FeatureCollection", 3, {"type": "FeatureCollection", "features": {}}, b"[]"])
def test_what_is_no_collection_is_told_so(data):
    with pytest.raises(InputError, match="no GeoJSON FeatureCollection; export the objects from QuPath as one"):
        list(shapes(data))


def test_a_list_a_single_feature_and_a_geometry_alone_are_read_as_qupath_does(read):
    entry = feature(polygon(SQUARE), classification="A")
    for data in (
        [entry],
        entry,
        collection(entry),
        {"features": [entry], "type": "FeatureCollection", "bbox": [1, 12]},
    ):
        for found in (list(shapes(data)), read(json.dumps(data)), read("\ufeff \n" + json.dumps(data, indent=3))):
            assert [shape.name for shape in found] == ["A"]
    for data in (polygon(SQUARE), [polygon(SQUARE)]):
        assert len(next(shapes(data)).polygons) == len(read(json.dumps(data))[0].polygons) == 1
    assert read(json.dumps(collection())) == read("[]") == list(shapes([])) == []
    found = read(json.dumps(collection(entry, entry)))
    assert list(shapes(found)) == found


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "is empty; copy or export it again"),
        ("no json", "no GeoJSON FeatureCollection"),
        ("12", "no GeoJSON FeatureCollection"),
        ('{"type": "FeatureCollection"}', "no GeoJSON FeatureCollection"),
        ('{"features": {"item": {"type": "Feature"}}}', "no GeoJSON FeatureCollection"),
        ("{}", "feature 1 is no GeoJSON Feature"),
        ('{"features": [', "cut short; copy or export it again"),
        ('{"features": [{"type": "Feature", "na', "cut short"),
        ('{"features": []', "cut short"),
        ('{"features": [], ', "cut short"),
        ('{"features": [{} {}]}', "feature 1 is no GeoJSON Feature"),
        ('{"features": [{"type": "Feature"} {}]}', "no JSON at character 35 (, or ] is missing)"),
        (
            '{"features": [{"type": "Feature", geometry: 1}' + " " * 99,
            "no JSON at character 35 (Expecting property name",
        ),
        ('{"features": [], features: 3}', "a key in quotes is missing"),
        ('{"features": []} {}', "something follows the end"),
        ('{"features": [{"type": 1' + "0" * 5000 + "}]}", "a number of thousands of digits"),
        ('{"a": ' + "[" * 100_000, "nested too deeply"),
        ('{"features": [' + '{"a": ' * 100_000, "nested too deeply"),
        ('{"features": [' + "[" * 200 + "]" * 200 + "]}", "feature 1 is a list, not an object"),
        ('{"features": [{"type": "é"}]}'.encode("latin-1"), "not UTF-8 text; save it as UTF-8"),
        (json.dumps(collection()).encode("utf-16"), "not UTF-8 text"),
        (b"PK\x03\x04...", "is compressed; unpack it first"),
        (b"\x1f\x8b...", "is compressed; unpack it first"),
    ],
)
def test_a_file_that_cannot_be_read_is_told_in_one_line(read, content, told):
    with pytest.raises(InputError) as caught:
        read(content)
    assert told in str(caught.value)
    assert "notes.geojson: " in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_or_a_folder_is_told(tmp_path):
    with pytest.raises(InputError, match="cannot read \\(no such file or directory\\); check the path"):
        list(read_geojson(tmp_path / "missing.geojson"))
    with pytest.raises(InputError, match="is a folder; give one GeoJSON file"):
        list(read_geojson(tmp_path))


def test_a_file_cut_anywhere_is_told_to_be_cut(read):
    text = json.dumps(collection(feature(polygon(SQUARE), measurements={"é": 1.5})), ensure_ascii=False).encode()
    for end in range(1, len(text)):
        with pytest.raises(InputError, match=r"cut short|not UTF-8"):
            read(text[:end])


@settings(deadline=None, max_examples=60)
@given(size=st.integers(1, 40), space=st.sampled_from(["", " ", "\n\t"]), bom=st.booleans())
def test_where_the_reader_pauses_makes_no_difference(tmp_path_factory, size, space, bom):
    path = tmp_path_factory.mktemp("geojson") / "notes.geojson"
    entries = [feature(polygon(SQUARE), classification=f"ä{n}", measurements={"a": n / 7}) for n in range(3)]
    text = json.dumps(collection(*entries) | {"bbox": 12.5}, ensure_ascii=False)
    path.write_text(("\ufeff" if bom else "") + text.replace(" ", space), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jsontext, "CHUNK", size)
        found = list(read_geojson(path))
    assert [shape.name for shape in found] == ["ä0", "ä1", "ä2"]
    assert [shape.measured("a", 9) for shape in found] == [0, 1 / 7, 2 / 7]


KEYS = st.sampled_from(["type", "geometry", "coordinates", "name", "names", "geometries"])
WORDS = st.text(max_size=5) | st.sampled_from(["Polygon", "GeometryCollection", "Feature"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=8,
)
ODD_FEATURES = st.fixed_dictionaries(
    {"type": st.just("Feature"), "geometry": JSON, "nucleusGeometry": JSON},
    optional={
        "id": JSON,
        "properties": JSON
        | st.dictionaries(
            st.sampled_from(["objectType", "classification", "measurements", "childObjects", "children"]), JSON
        ),
    },
)


@settings(deadline=None, max_examples=400)
@given(data=JSON | st.lists(ODD_FEATURES, max_size=2) | ODD_FEATURES)
def test_whatever_json_holds_there_are_shapes_or_one_line_and_the_file_says_the_same(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "odd.geojson"
    path.write_text(json.dumps(data))

    def outcome(action) -> object:
        try:
            return [(shape.kind, shape.name, len(shape.polygons), len(shape.points)) for shape in action()]
        except InputError as error:
            return str(error).split(": ", 1)[1]

    assert outcome(lambda: shapes(data)) == outcome(lambda: read_geojson(path))


def test_limits_hold(monkeypatch, read):
    entries = json.dumps(collection(*[feature(polygon(SQUARE))] * 4))
    monkeypatch.setattr(geojson, "MOST_FEATURES", 3)
    with pytest.raises(InputError, match="more than 3 features; export a part of them"):
        read(entries)
    monkeypatch.setattr(jsontext, "MOST_CHARACTERS", 2_000_000)
    ring = json.dumps(np.arange(800_000).reshape(-1, 2).tolist())
    with pytest.raises(InputError, match="one value of more than 2 million characters; simplify the largest"):
        read('{"features": [{"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [' + ring + "]}}]}")


def test_a_million_corners_and_a_hundred_thousand_features_take_seconds(read):
    angles = np.linspace(0, 2 * np.pi, 1_000_000)
    ring = np.stack([np.cos(angles), np.sin(angles)], axis=1).round(6).tolist()
    begun = time.process_time()
    (shape,) = read(json.dumps(collection(feature(polygon(ring)))))
    assert len(shape.polygons[0][0]) == 999_999
    entry = json.dumps(feature(polygon(SQUARE), classification="A"))
    assert len(read('{"features": [' + ",".join([entry] * 100_000) + "]}")) == 100_000
    assert time.process_time() - begun < 30
