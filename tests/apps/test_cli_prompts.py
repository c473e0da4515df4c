"""Clicks, boxes, QuPath prompts, scale warnings and OME-Zarr of `slidekick segment`, with a segmentor that tells
what it was asked."""

import json
import sys
from types import ModuleType
from typing import ClassVar

import numpy as np
import pytest

from slidekick.apps.cli import main
from slidekick.grounding.annotations import from_geojson
from slidekick.grounding.finding import Finding
from slidekick.grounding.geojson import read_geojson
from slidekick.grounding.vocabulary import Concept, Vocabulary


class Recorder:
    """Knows nuclei and tumour; finds each box, or a square in the middle; keeps what it was asked."""

    asked: ClassVar[list] = []
    vocabulary = Vocabulary(
        [
            Concept("nucleus", "object", ("nuclei",), (0.25, 0.5), 1.0),
            Concept("tumour", "region", ("tumor", "cancer"), (0.5, 2.0), 1.0),
            *(Concept(f"cell {n}", "object", (), (0.25, 0.5), 1.0) for n in range(250)),
        ]
    )

    @classmethod
    def from_pretrained(cls, folder=None):
        return cls()

    def segment(self, image, concepts, *, mpp=None, points=None, boxes=None):
        self.asked.append((list(concepts), points, boxes))
        labels = np.zeros(image.shape[:2], np.int32)
        for number, (x0, y0, x1, y1) in enumerate(boxes or [(20, 20, 30, 30)], 1):
            labels[round(y0) : round(y1), round(x0) : round(x1)] = number
        concepts = concepts or ["object"]
        meant = [(words, self.vocabulary.find(words)) for words in concepts]
        return [
            Finding(c.name if c else w, labels > 0, 0.9, 0.9, labels, c is not None or w == "object", w, "nucleus")
            for w, c in meant
        ]


@pytest.fixture(autouse=True)
def asked(monkeypatch) -> list:
    """What the segmentor was asked: (concepts, points, boxes) a call."""
    module = ModuleType("slidekick.grounding.segmentor")
    module.Segmentor = Recorder
    monkeypatch.setitem(sys.modules, "slidekick.grounding.segmentor", module)
    Recorder.asked.clear()
    return Recorder.asked


@pytest.fixture
def qupath(tmp_path):
    """Features -> the path of a GeoJSON file of them."""

    def write(*features: tuple[str | None, str, list]) -> str:
        path = tmp_path / "drawn.geojson"
        entries = [
            {
                "type": "Feature",
                "geometry": {"type": kind, "coordinates": places},
                "properties": {"classification": name},
            }
            for name, kind, places in features
        ]
        path.write_text(json.dumps({"type": "FeatureCollection", "features": entries}))
        return str(path)

    return write


def square(x: float, y: float, side: float = 10) -> list:
    return [[[x, y], [x + side, y], [x + side, y + side], [x, y + side], [x, y]]]


def test_clicks_and_boxes_need_no_concept(picture, asked, capsys):
    assert main(["segment", str(picture), "--point", "10,20", "--point", "30.5,40,0", "--point", "5,5,1"]) == 0
    assert main(["segment", str(picture), "--box", "1,2,30,40", "--box", "50,50,60,60.5"]) == 0
    assert asked == [
        ([], [(10, 20, 1), (5, 5, 1), (30.5, 40, 0)], None),
        ([], None, [(1, 2, 30, 40), (50, 50, 60, 60.5)]),
    ]
    assert capsys.readouterr().out.count("object") == 2


def test_clicks_and_boxes_go_with_the_concept(picture, asked):
    assert main(["segment", str(picture), "--concept", "nucleus", "--box", "1,2,30,40", "--point", "5,5,0"]) == 0
    assert asked == [(["nucleus"], [(5, 5, 0)], [(1, 2, 30, 40)])]


def test_level_0_pixels_are_told_to_the_segmentor_in_those_of_the_region(picture, asked, tmp_path):
    arguments = ["segment", str(picture), "--region", "10,20,40,30", "--point", "12,25", "--box", "10,20,20,30"]
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 0
    assert asked == [([], [(2, 5, 1)], [(0, 0, 10, 10)])]
    features = json.loads((tmp_path / "out" / "tissue.geojson").read_text())["features"]
    assert features[0]["geometry"]["coordinates"][0][0] in [[10, 20], [20, 20], [20, 30], [10, 30]]


def test_a_box_is_cut_to_the_picture(picture, asked):
    assert main(["segment", str(picture), "--box=-5,-5,30,500"]) == 0
    assert asked == [([], None, [(0, 0, 30, 64)])]


def told(capsys) -> str:
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1, captured.err
    return captured.err


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ([], "nothing to look for; give --concept, --point, --box or --prompts, such as --concept nucleus"),
        (["--point", "96,5"], "point 96,5 is outside the picture; give x from 0 to 96 and y from 0 to 64 (level-0"),
        (["--point=-1,5"], "point -1,5 is outside the picture"),
        (["--region", "10,10,20,20", "--point", "5,5"], "give x from 10 to 30 and y from 10 to 30"),
        (["--box", "100,5,110,9"], "box 100,5,110,9 is outside the picture; give x from 0 to 96"),
        (["--box", "5,5,5.5,9"], "box 5,5,5.5,9 is under a pixel of the picture read; draw it larger"),
        (["--point", "5,5,0"], "the clicks only say what does not belong; add a --point X,Y that does"),
        (["--concept", ""], "concept '' is empty; name a structure, such as --concept nucleus"),
        (["--concept", "nucleus", *["--point", "5,5"] * 201], "201 clicks for one look; give 200 at most"),
        ([f"--concept=cell {n}" for n in range(201)], "201 concepts; give 200 at most, and the others in a second run"),
        (["--concept", "nucleus", "--zarr"], "--zarr writes into a folder; give --out DIR"),
        (["--prompts", "missing.geojson"], "missing.geojson: cannot read (no such file or directory); check the path"),
    ],
)
def test_prompts_that_cannot_be_meant_are_told_before_the_segmentor_is_asked(picture, asked, capsys, options, line):
    assert main(["segment", str(picture), *options]) == 2
    assert line in told(capsys)
    assert asked == []


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--point", "5"], "'5' is not X,Y, X,Y,1 or X,Y,0 in pixels, such as 120,80,1"),
        (["--point", "a,b"], "'a,b' is not X,Y"),
        (["--point", "5,5,2"], "'5,5,2' is not X,Y"),
        (["--point", "5,nan"], "'5,nan' is not X,Y"),
        (["--point", "5,inf,1"], "'5,inf,1' is not X,Y"),
        (["--point", "1e999,5"], "'1e999,5' is not X,Y"),
        (["--box", "1,2,3"], "'1,2,3' is not X0,Y0,X1,Y1 in pixels, such as 100,60,180,140"),
        (["--box", "1,2,3,x"], "'1,2,3,x' is not X0,Y0,X1,Y1"),
        (["--box", "30,2,3,40"], "'30,2,3,40' is inverted or empty; give its upper left, then its lower right corner"),
        (["--box", "3,2,3,40"], "is inverted or empty"),
    ],
)
def test_what_is_no_point_or_box_is_told_in_one_line(picture, capsys, options, line):
    with pytest.raises(SystemExit) as left:
        main(["segment", str(picture), *options])
    assert left.value.code == 2
    assert line in told(capsys)


def test_two_hundred_concepts_are_looked_for_at_once(picture, asked):
    assert main(["segment", str(picture), *[f"--concept=cell {n}" for n in range(200)]]) == 0
    assert len(asked[0][0]) == 200


def test_two_words_for_one_concept_are_looked_for_once(picture, asked, capsys):
    words = ["cancer", "nucleus", "tumor", "nuclei", "unicorn"]
    assert main(["segment", str(picture), *[f"--concept={word}" for word in words]]) == 0
    assert asked[0][0] == ["cancer", "nucleus", "unicorn"]
    assert "concept 'unicorn' is not in the segmentor's vocabulary; nearest known: nucleus" in capsys.readouterr().err


def test_a_qupath_file_is_looked_at_class_by_class(picture, asked, qupath, capsys):
    path = qupath(
        ("Tumor", "Polygon", square(5, 5)),
        ("Stroma thing", "Polygon", square(30, 30)),
        ("cancer", "MultiPoint", [[6, 6], [7, 7]]),
        (None, "Polygon", square(50, 20)),
        ("Ignore*", "Point", [8, 8]),
    )
    assert main(["segment", str(picture), "--prompts", path, "--box", "70,40,80,50", "--json"]) == 0
    assert asked == [
        (["Tumor"], [(8, 8, 0), (6, 6, 1), (7, 7, 1)], [(5, 5, 15, 15)]),
        ([], [(8, 8, 0)], [(30, 30, 40, 40), (50, 20, 60, 30), (70, 40, 80, 50)]),
    ]
    captured = capsys.readouterr()
    said = json.loads(captured.out)
    assert [finding["concept"] for finding in said["findings"]] == ["tumour", "object"]
    assert said["warnings"] == ["class 'Stroma thing' is not in the segmentor's vocabulary: outlined without a name"]
    assert captured.err == f"slidekick: {said['warnings'][0]}\n"


def test_with_a_concept_of_ones_own_all_that_was_drawn_is_that(picture, asked, qupath):
    path = qupath(("Tumor", "Polygon", square(5, 5)), ("B", "Polygon", square(30, 30)), ("Negative", "Point", [8, 8]))
    assert main(["segment", str(picture), "--prompts", path, "--concept", "nucleus"]) == 0
    assert asked == [(["nucleus"], [(8, 8, 0)], [(5, 5, 15, 15), (30, 30, 40, 40)])]


def test_a_qupath_file_of_another_slide_or_a_broken_one_is_told(picture, asked, qupath, tmp_path, capsys):
    assert main(["segment", str(picture), "--prompts", qupath(("Tumor", "Polygon", square(5000, 5000)))]) == 2
    assert "drawn.geojson: no area or point of it lies on the picture; export annotations of this" in told(capsys)
    assert (
        main(["segment", str(picture), "--prompts", qupath(*[(f"{n}", "Point", [n % 90, 1]) for n in range(201)])]) == 2
    )
    assert "drawn.geojson: 201 classes; merge some in QuPath, 200 at most" in told(capsys)
    boxes = [("A", "Polygon", square(n % 80, n % 50)) for n in range(10_001)]
    assert main(["segment", str(picture), "--prompts", qupath(*boxes)]) == 2
    assert "10001 boxes for one look; give 10000 at most" in told(capsys)
    (tmp_path / "half.geojson").write_text('{"features": [{"type": "Feature"')
    assert main(["segment", str(picture), "--prompts", str(tmp_path / "half.geojson")]) == 2
    assert "half.geojson: cut short; copy or export it again" in told(capsys)
    assert asked == []


def test_clicks_that_no_box_holds_are_told(picture, capsys):
    assert main(["segment", str(picture), "--box", "5,5,15,15", "--point", "50,50", "--point", "6,6"]) == 0
    assert "clicks that lie in no box are not used, here 1; give them in a run without boxes" in capsys.readouterr().err
    assert main(["segment", str(picture), "--concept", "nucleus", "--point", "50,50"]) == 0
    assert capsys.readouterr().err == ""


def test_a_scale_outside_the_card_is_told_with_its_mend(picture, capsys):
    finest, coarsest = Recorder.vocabulary.concepts["nucleus"].mpp_range
    assert main(["segment", str(picture), "--concept", "nucleus", "--concept", "tumor", "--mpp", "4", "--json"]) == 0
    captured = capsys.readouterr()
    (line,) = json.loads(captured.out)["warnings"]
    assert captured.err == f"slidekick: {line}\n"
    assert line.startswith(f"4 µm per pixel is outside {finest:g} to {coarsest:g}, where nucleus can be told; ")
    assert line.endswith(f"read the slide at --mpp {coarsest:g} or less, or correct its scale")
    assert main(["segment", str(picture), *[f"--concept=cell {n}" for n in range(9)], "--mpp", "0.001"]) == 0
    line = capsys.readouterr().err
    assert "where cell 0, cell 1, cell 2 and 6 more can be told" in line
    assert f"--mpp {finest:g} or more" in line
    for scale in (["--mpp", "0.5"], []):
        assert main(["segment", str(picture), "--concept", "nucleus", *scale, "--json"]) == 0
        captured = capsys.readouterr()
        assert (json.loads(captured.out)["warnings"], captured.err) == ([], "")


def test_zarr_is_written_beside_the_other_files(picture, tmp_path, capsys):
    import zarr

    out = tmp_path / "out"
    arguments = ["segment", str(picture), "--concept", "nucleus", "--mpp", "0.5", "--out", str(out), "--zarr"]
    for _ in range(2):  # and replaced
        assert main(arguments) == 0
    names = ["tissue.geojson", "tissue.masks.json", "tissue.nucleus.png", "tissue.ome.zarr", "tissue.overlay.png"]
    assert sorted(path.name for path in out.iterdir()) == names
    assert zarr.open_group(out / "tissue.ome.zarr", mode="r")["labels/nucleus/0"][:].sum() == 100
    assert str(out / "tissue.ome.zarr") in capsys.readouterr().out


def test_what_was_segmented_comes_back_as_a_prompt(picture, tmp_path, asked):
    out = tmp_path / "out"
    assert main(["segment", str(picture), "--concept", "nucleus", "--out", str(out)]) == 0
    assert main(["segment", str(picture), "--prompts", str(out / "tissue.geojson")]) == 0
    assert asked[1] == (["nucleus"], None, [(20, 20, 30, 30)])
    from slidekick.data.slide import read_roi

    (finding,) = from_geojson(read_geojson(out / "tissue.geojson"), read_roi(picture))
    assert finding.mask.sum() == 100
