"""`slidekick report` and `slidekick revise`: forms, edited shapes, files, and what is told of mistakes."""

import json

import numpy as np
import pytest
from PIL import Image
from talking import DrawnSegmentor, KeywordEngine

import slidekick.apps.report as command
from slidekick.apps.cli import main
from slidekick.copilot.copilot import Copilot
from slidekick.copilot.reports.forms import FORMS


@pytest.fixture
def picture(tmp_path, monkeypatch):
    monkeypatch.setattr(command, "load_copilot", lambda *_, **__: Copilot(KeywordEngine(), DrawnSegmentor()))
    file = tmp_path / "field.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)).save(file)
    return file


def report(picture, *options):
    return main(["report", str(picture), *options])


def test_a_report_is_written_in_every_format_and_edited_by_hand(picture, tmp_path, capsys):
    out = tmp_path / "report"
    assert report(picture, "--form", "biopsy", "--organ", "colon", "--specimen", "polyp", "--out", str(out)) == 0
    assert "**Colon, polyp;**" in capsys.readouterr().out
    assert {file.name for file in out.iterdir()} == {
        "report.html", "report.docx", "report.md", "report.json", "report.fhir.json", "picture.png", "overlay.png"
    }  # fmt: skip
    words = (out / "report.md").read_text()
    (out / "report.md").write_text(words.replace("There are 2 nuclei.", "There are 2 large nuclei."))
    items = tmp_path / "items"
    for _ in range(2):  # the second time the line is known
        assert main(["revise", str(out), "--items", str(items)]) == 0
        said = capsys.readouterr()
        assert "1 changes" in said.out
        assert "+ - There are 2 large nuclei." in said.out
        assert "warning: edited, and not what was measured" in said.out
    (item,) = (json.loads(line) for line in (items / "items.jsonl").read_text().splitlines())
    assert (items / item["image"]).is_file()
    assert item["answer"] == "There are 2 large nuclei."
    assert "2 large nuclei" in (out / "report.html").read_text()
    assert main(["revise", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["status"] == "DRAFT, EDITED"


def test_forms_are_those_of_the_library():
    assert command.FORMS == FORMS


def test_edited_shapes_are_what_is_told_of(picture, tmp_path, capsys):
    ring = [[10, 10], [30, 10], [30, 30], [10, 30], [10, 10]]
    feature = {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "properties": {"objectType": "detection", "classification": {"name": "nucleus"}},
    }
    file = tmp_path / "edited.geojson"
    file.write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
    assert report(picture, "--shapes", str(file), "--json") == 0
    data = json.loads(capsys.readouterr().out)
    (fact,) = data["facts"]
    assert (fact["measurement"]["concept"], fact["measurement"]["count"]) == ("nucleus", 1)
    assert fact["measurement"]["area_px"] == 400
    assert "There is 1 nucleus." in data["text"]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--form", "poem"], "no form 'poem'"),
        (["--form", "synoptic", "--checklist", "missing.yaml"], "cannot be read as a checklist"),
        (["--organ", "x" * 500], "at most 400 characters"),
        (["--shapes", "missing.geojson"], "missing.geojson"),
    ],
)
def test_mistakes_are_told_in_one_line(picture, capsys, options, told):
    assert report(picture, *options) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert told in said


def test_a_folder_that_holds_no_report_is_told(tmp_path, capsys):
    assert main(["revise", str(tmp_path)]) == 2
    assert "give a folder that `slidekick report --out` wrote" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--organ", "--specimen", "--clinical", "--tumour"])
def test_what_is_for_one_picture_is_refused_for_several(picture, option, capsys):
    assert main(["report", str(picture), str(picture), option, "colon"]) == 2
    assert f"{option} is for one picture, and 2 are given" in capsys.readouterr().err


def test_a_broken_line_among_items_is_named_before_anything_is_written(picture, tmp_path, capsys):
    assert report(picture, "--out", str(tmp_path / "report")) == 0
    before = {file.name: file.read_bytes() for file in (tmp_path / "report").iterdir()}
    (tmp_path / "items.jsonl").write_text('{"id": "a"}\n{"no": "id"}\n')
    capsys.readouterr()
    assert main(["revise", str(tmp_path / "report"), "--items", str(tmp_path)]) == 2
    assert "items.jsonl:2: no item with an id" in capsys.readouterr().err
    assert {file.name: file.read_bytes() for file in (tmp_path / "report").iterdir()} == before
