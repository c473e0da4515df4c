"""`slidekick ask`, `report` and `demo` with a scripted copilot; the real one is asked in test_end_to_end.py."""

import json
from importlib import resources

import jsonschema
import numpy as np
import pytest
from PIL import Image

import slidekick.copilot
from slidekick.apps.cli import main

SCHEMA = json.loads((resources.files(slidekick.copilot) / "answer.schema.json").read_text())
HOW_MANY = "How many nuclei are there?"


@pytest.fixture(autouse=True)
def _loaded(copilot, monkeypatch):
    for module in ("ask", "report", "demo"):
        monkeypatch.setattr(f"slidekick.apps.{module}.load_copilot", lambda *_, **__: copilot)


def test_the_answer_is_printed_with_its_step_evidence_and_notice(picture, capsys):
    assert main(["ask", str(picture), HOW_MANY, "--mpp", "0.5"]) == 0
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    assert lines[0] == "There are 2 nuclei."
    assert "claim       [e1 e2]  There are 2 nuclei." in lines
    assert any(line.startswith("step t1     count(nucleus) -> found, count 2") for line in lines)
    assert any(line.split() == ["evidence", "e2", "nucleus", "count", "2", "by", "t1"] for line in lines)
    assert lines[-1] == "Research use only. Not for diagnosis."
    assert "count(nucleus) ..." in printed.err


def test_json_on_stdout_is_the_answer_and_nothing_else(picture, capsys):
    assert main(["ask", str(picture), HOW_MANY, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    jsonschema.validate(answer, SCHEMA)
    assert answer["short"] == "2"


def test_out_gets_answer_overlay_and_geojson(picture, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["ask", str(picture), HOW_MANY, "--out", str(out)]) == 0
    assert sorted(path.name for path in out.iterdir()) == ["answer.json", "findings.geojson", "overlay.png"]
    jsonschema.validate(json.loads((out / "answer.json").read_text()), SCHEMA)
    assert len(json.loads((out / "findings.geojson").read_text())["features"]) == 2
    with Image.open(out / "overlay.png") as overlay, Image.open(picture) as plain:
        assert overlay.width == plain.width
        assert not np.array_equal(np.asarray(overlay)[: plain.height], np.asarray(plain))


def test_an_answer_without_tools_writes_no_empty_overlay(picture, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["ask", str(picture), "What is this?", "--out", str(out)]) == 0
    assert [path.name for path in out.iterdir()] == ["answer.json"]
    assert "[reading]  The picture shows colon." in capsys.readouterr().out


def test_a_number_that_was_not_measured_is_replaced_and_warned_of(picture, capsys, copilot):
    copilot.engine.number = 77
    assert main(["ask", str(picture), HOW_MANY]) == 0
    out = capsys.readouterr().out
    assert "There are 2 nuclei." in out
    assert "warning     the model's own words were replaced by what was measured; not backed by a measurement" in out
    assert "There are 77 nuclei." in out
    assert "(nucleus: 2)" in out


@pytest.mark.parametrize(("question", "told"), [("", "empty; ask"), ("x" * 100_000, "shorten it")])
def test_a_question_that_cannot_be_asked_is_one_line_and_exit_2(picture, tmp_path, capsys, question, told):
    out = tmp_path / "out"
    assert main(["ask", str(picture), question, "--out", str(out)]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert told in printed.err
    assert not out.exists()


def test_the_report_is_printed_and_written_as_page_and_json(picture, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["report", str(picture), "--out", str(out), "--mpp", "0.5", "--organ", "kidney"]) == 0
    printed = capsys.readouterr().out
    assert "There are 2 nuclei. [e" in printed
    assert "glomerulus: not found" in printed
    assert "Research use only" in printed
    assert "<!doctype html>" in (out / "report.html").read_text()
    assert json.loads((out / "report.json").read_text())["status"] == "DRAFT"


def test_the_report_can_be_json_on_stdout(picture, capsys):
    assert main(["report", str(picture), "--json", "--concept", "nucleus"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [fact["measurement"]["concept"] for fact in report["facts"]] == ["nucleus"]


def test_the_demo_writes_its_answers_a_report_and_an_overlay(tmp_path, capsys, monkeypatch, picture):
    monkeypatch.setattr("slidekick.data.samples.sample", lambda name: picture)
    out = tmp_path / "demo"
    assert main(["demo", "--out", str(out)]) == 0
    names = {path.name for path in out.iterdir()}
    assert names == {
        "answer-1.json",
        "answer-2.json",
        "answer-3.json",
        "answer-4.json",
        "findings.geojson",
        "overlay.png",
        "report.html",
        "report.json",
        "report.md",
        "report.docx",
        "report.fhir.json",
    }
    answers = [json.loads((out / f"answer-{i}.json").read_text()) for i in (1, 2, 3, 4)]
    for answer in answers:
        jsonschema.validate(answer, SCHEMA)
    assert [answer["short"] for answer in answers] == ["The picture shows colon", "2", "no", "The picture shows colon"]
    printed = capsys.readouterr().out
    assert str(out / "report.html") in printed
    assert "StarDist" in printed


def test_a_folder_that_cannot_be_written_is_told_before_any_work(picture, tmp_path, capsys):
    blocked = tmp_path / "file"
    blocked.touch()
    assert main(["ask", str(picture), HOW_MANY, "--out", str(blocked / "out")]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "folder" in printed.err


def test_the_likeliest_of_given_answers_is_told_first(picture, capsys, copilot):
    copilot.engine.options = lambda messages, image, tools, options: np.log([0.2, 0.7])
    copilot.engine.gates = lambda *_: {}
    assert main(["ask", str(picture), "Which is it?", "--among", "benign; malignant"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "malignant"
    assert [line for line in lines if line.startswith("option")] == [
        "option      0.78  malignant",
        "option      0.22  benign",
    ]


def test_one_answer_to_choose_from_is_an_input_error(picture, capsys):
    assert main(["ask", str(picture), "Which is it?", "--among", "benign"]) == 2
    assert "give 2 to" in capsys.readouterr().err
