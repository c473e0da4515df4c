"""A report taken away and brought back: formats, edits, what they are held against, and what they teach."""

import base64
import io
import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted import MEASURED, call

from slidekick.copilot import Copilot
from slidekick.copilot.reports.edits import changes, edited, training_items
from slidekick.copilot.reports.fhir import to_fhir
from slidekick.copilot.reports.files import FILES, read_report, to_docx, to_json, to_markdown, words_of, write_report
from slidekick.copilot.reports.pages import to_html
from slidekick.copilot.reports.report import draft_report
from slidekick.copilot.reports.words import as_html
from slidekick.data.errors import InputError

READ = "- The picture shows colon. (read, not measured; confidence 0.90)"


@pytest.fixture
def report(scripted, segmentor, roi):
    return draft_report(Copilot(scripted("The picture shows colon.", *MEASURED), segmentor), roi, ("nucleus", "gland"))


def test_every_format_is_written_and_the_report_comes_back_the_same(report, tmp_path):
    written = write_report(report, tmp_path)
    assert {path.name for path in written} == {
        "report.html", "report.docx", "report.md", "report.json", "report.fhir.json", "picture.png", "overlay.png"
    }  # fmt: skip
    assert read_report(tmp_path) == report


def test_each_format_says_draft_and_research_use_only(report):
    import docx

    word = docx.Document(io.BytesIO(to_docx(report)))
    texts = ["\n".join(p.text for p in word.paragraphs), to_html(report), to_markdown(report), to_json(report)]
    for text in [*texts, json.dumps(to_fhir(report))]:
        assert "DRAFT" in text
        assert "Research use only. Not for diagnosis." in text


def test_the_word_document_has_words_pictures_table_and_evidence(report):
    import docx

    word = docx.Document(io.BytesIO(to_docx(report)))
    said = [paragraph.text for paragraph in word.paragraphs]
    assert READ.removeprefix("- ") in said
    assert any(re.fullmatch(r"There are 3 nuclei\. \[e\d+ e\d+\]", text) for text in said)
    assert len(word.inline_shapes) == 2
    assert [[cell.text for cell in row.cells][:2] for row in word.tables[0].rows] == [
        ["Structure", "Number"],
        ["gland", "–"],
        ["nucleus", "3"],
    ]


def test_words_edited_in_the_markdown_are_read_back_and_marked_everywhere(report, tmp_path):
    write_report(report, tmp_path)
    file = tmp_path / "report.md"
    file.write_text(file.read_text().replace("shows colon.", "shows rectum, **inflamed**."))
    new = read_report(tmp_path)
    assert new.status == "DRAFT, EDITED"
    assert new.drafted == report.drafted
    assert [one.before for one in changes(new)] == [(READ,)]
    assert '<span class="cite hand">edited by hand</span>' in to_html(new)
    assert to_html(new).count("edited by hand") == 1
    assert "<strong>inflamed</strong>" in to_html(new)
    assert json.loads(to_json(new))["changes"][0]["before"] == [READ]
    write_report(new, tmp_path)
    assert read_report(tmp_path) == new


def test_a_persons_own_heading_and_emphasis_above_the_words_stay(report, tmp_path):
    write_report(report, tmp_path)
    file = tmp_path / "report.md"
    own = "# Biopsy 3\n\n*Seen twice.*\n\n**Final**"
    title, notice, rest = file.read_text().split("\n\n", 2)
    file.write_text("\n\n".join((title, notice, own, rest)))
    assert read_report(tmp_path).text.startswith(own)


def test_a_number_that_was_not_measured_is_warned_of_and_stays(report):
    line = next(line for line in report.text.split("\n") if "3 nuclei" in line)
    new = edited(report, report.text.replace(line, line.replace("3 nuclei", "7 nuclei")))
    assert "There are 7 nuclei." in new.text
    (warning,) = (one for one in new.warnings if one.startswith("edited, and not what was measured"))
    assert "nucleus: 3" in warning
    again = edited(new, report.text)
    assert again == report


def test_the_persons_own_reading_is_no_matter_of_measurement(report):
    new = edited(report, report.text + "\nTubular adenoma with low-grade dysplasia.\n")
    assert new.warnings == report.warnings


@pytest.mark.parametrize("text", ["", "  \n ", None, 3, "x" * 100_001])
def test_what_is_no_text_is_refused(report, text):
    with pytest.raises(InputError):
        edited(report, text)


def test_rewritten_answers_become_training_items_and_nothing_else_does(report):
    text = report.text.replace(READ, READ.replace("colon", "rectum")) + "\nAdded by hand.\n"
    (item,) = training_items(edited(report, text), "p.png")
    assert item["question"] == "What does this picture show?"
    assert item["answer"] == "The picture shows rectum."
    assert item["draft"] == "The picture shows colon."
    assert item["image"] == "p.png"
    assert item["mpp"] == 0.5
    assert training_items(report, "p.png") == []
    assert training_items(edited(report, report.text.replace(READ, "")), "p.png") == []


def test_the_fhir_report_holds_what_was_measured_in_ucum(report):
    told = to_fhir(report)
    assert (told["resourceType"], told["status"]) == ("DiagnosticReport", "preliminary")
    held = {one["id"]: one for one in told["contained"]}
    assert [held[one["reference"][1:]]["code"]["text"] for one in told["result"]] == ["gland", "nucleus"]
    nucleus = held[told["result"][1]["reference"][1:]]
    parts = {one["code"]["text"]: one["valueQuantity"] for one in nucleus["component"]}
    assert parts["count"]["value"] == 3
    assert parts["area"] | {"value": 0} == {
        "value": 0, "unit": "µm²", "system": "http://unitsofmeasure.org", "code": "um2"
    }  # fmt: skip
    assert parts["area"]["value"] == pytest.approx(300 * 0.25)
    page, words = told["presentedForm"]
    assert base64.b64decode(page["data"]).decode() == to_html(report)
    assert base64.b64decode(words["data"]).decode() == report.text
    assert "subject" not in told


def test_a_word_outside_the_vocabulary_is_absent_data_in_fhir(scripted, segmentor, roi):
    lines = ("colon", call("segment", "amyloid"), "no")
    told = to_fhir(draft_report(Copilot(scripted(*lines), segmentor), roi, ("amyloid",)))
    (one,) = (held for held in told["contained"] if held["resourceType"] == "Observation")
    assert "not in the segmentor's vocabulary" in one["dataAbsentReason"]["text"]
    assert "valueBoolean" not in one
    assert "component" not in one


@pytest.mark.parametrize("name", ["report.json", "report.md", "picture.png"])
def test_a_folder_that_lacks_a_file_is_told(report, tmp_path, name):
    write_report(report, tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(InputError, match=re.escape(name)):
        read_report(tmp_path)


@pytest.mark.parametrize("text", ["{}", "[]", "{", '{"schema": "slidekick.report/1"}', "3"])
def test_a_file_that_is_no_report_is_told(report, tmp_path, text):
    write_report(report, tmp_path)
    (tmp_path / "report.json").write_text(text)
    with pytest.raises(InputError):
        read_report(tmp_path)


def test_a_reports_words_run_and_load_nothing():
    nasty = '- <script>x</script> [a](javascript:x) ![b](http://h/p.png) <img src=x onerror=y> [e1"><b>] `c` http://h\n'
    page = as_html(nasty, "")
    tags = re.findall(r"<\s*(\w+)", page)
    assert set(tags) == {"ul", "li", "span"}


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=300))
def test_any_words_stay_words_and_come_back_from_every_format(text):
    import docx

    if not text.strip():
        return
    try:
        new = edited(BASE[0], text)
    except InputError:
        return
    assert set(re.findall(r"<\s*(\w+)", as_html(new.text, new.drafted))) <= {
        "ul", "ol", "li", "p", "h1", "h2", "h3", "h4", "h5", "h6", "span", "strong", "em", "br", "a"
    }  # fmt: skip
    docx.Document(io.BytesIO(to_docx(new)))
    json.loads(to_json(new))


BASE: list = []


@pytest.fixture(autouse=True)
def _base(report):
    BASE[:] = [report]


def test_the_words_come_out_of_the_markdown_as_they_went_in(report):
    assert words_of(to_markdown(report)).strip() == report.text.strip()
    assert set(FILES) >= {"report.html", "report.docx", "report.md", "report.json", "report.fhir.json"}
