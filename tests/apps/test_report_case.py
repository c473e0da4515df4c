"""`slidekick report` on several slides of a case: one page, one JSON file."""

import json

import pytest
from painted_slides import ColourTower, TumourEngine, paint_case, taught_encoder
from scripted import DrawnSegmentor

import slidekick.apps.report as command
from slidekick.apps.cli import main
from slidekick.copilot import Copilot
from slidekick.copilot.slide_reader import SlideReader


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    """The file of a slide."""
    return paint_case(tmp_path_factory.mktemp("slide"))


@pytest.fixture
def copilot(monkeypatch, tmp_path_factory):
    monkeypatch.setenv("SLIDEKICK_CACHE", str(tmp_path_factory.mktemp("cache")))
    reader = SlideReader(ColourTower(), taught_encoder())
    made = Copilot(TumourEngine(), DrawnSegmentor(), reader=reader)
    monkeypatch.setattr(command, "load_copilot", lambda *_, **__: made)


def test_one_page_and_one_json_are_written(copilot, slide, tmp_path, capsys):
    files = [str(slide), str(slide)]
    assert main(["report", *files, "--out", str(tmp_path / "out"), "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["schema"] == "slidekick.case-report/1"
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"report.html", "report.json"}
    assert json.loads((tmp_path / "out" / "report.json").read_text()) == data
    assert main(["report", *files]) == 0
    said = capsys.readouterr().out
    assert said.startswith("DRAFT report on 2 slides of a case")
    assert "== case.tif (2)" in said


def test_a_region_of_several_slides_is_told(slide, capsys):
    assert main(["report", str(slide), str(slide), "--region", "0,0,100,100"]) == 2
    assert "--region is of one picture, and 2 are given" in capsys.readouterr().err
