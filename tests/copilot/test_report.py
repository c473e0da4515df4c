"""Draft reports: every sentence backed or left out, the page safe, whole and marked as a draft."""

import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
from page_parts import Page
from scripted import call

from slidekick.copilot import Copilot
from slidekick.copilot.reports.pages import to_html
from slidekick.copilot.reports.report import draft_report, quantity, to_dict
from slidekick.data.slide import Roi

CONCEPTS = ("nucleus", "gland", "glomerulus")
OPENING = "What does this picture show?"
NASTY = '<script>alert(1)</script>"><img src=x onerror=alert(1)>'


LINES = (
    "The picture shows colon.",
    call("segment", "gland"),
    "Gland was found, in the upper left, covering 25% of the picture.",
    call("count", "nucleus"),
    "There are 4 nuclei.",  # three were measured
    call("segment", "glomerulus"),
    "No glomerulus was found in this picture.",
)


@pytest.fixture
def report(scripted, segmentor, roi):
    return draft_report(Copilot(scripted(*LINES), segmentor), roi, CONCEPTS)


def test_it_asks_what_is_shown_what_was_found_and_what_is_absent(scripted, segmentor, roi):
    engine = scripted(*LINES)
    draft_report(Copilot(engine, segmentor), roi, CONCEPTS)
    questions = [asked["messages"][0]["content"][-1]["text"] for asked in engine.asked]
    assert list(dict.fromkeys(questions)) == [
        OPENING,
        "Where is the gland?",
        "How many nuclei are there?",
        "Is there any glomerulus?",
    ]


def test_each_concept_is_looked_for_once_for_the_whole_report(report, segmentor):
    assert sorted(segmentor.calls) == sorted(CONCEPTS)


def test_every_finding_names_evidence_in_the_table(report):
    ids = {item.id for item in report.evidence}
    in_table = {name for fact in report.facts for name in fact.evidence}
    assert in_table == ids
    assert [sentence.text for sentence in report.findings] == [LINES[2], "There are 3 nuclei.", LINES[6]]
    for sentence in report.findings:
        assert sentence.evidence
        assert set(sentence.evidence) <= ids


def test_an_unsupported_sentence_gives_way_to_what_was_measured_and_is_listed(report):
    assert not any("4 nuclei" in sentence.text for sentence in report.findings)
    assert len(report.left_out) == 1
    assert "There are 4 nuclei." in report.left_out[0]
    assert "nucleus: 3" in report.left_out[0]
    nucleus = next(fact for fact in report.facts if fact.measurement.concept == "nucleus")
    assert nucleus.measurement.count == 3


def test_the_reading_is_kept_apart_from_what_was_measured(report):
    assert [(s.text, s.kind, s.evidence) for s in report.reading] == [("The picture shows colon.", "reading", ())]


def test_found_structures_come_first_and_only_they_have_a_colour(report):
    assert [fact.measurement.concept for fact in report.facts] == ["gland", "nucleus", "glomerulus"]
    assert [fact.colour is not None for fact in report.facts] == [True, True, False]


def test_the_page_is_whole_in_itself_and_runs_no_script(report):
    html = to_html(report)
    page = Page(html)
    assert "script" not in {tag for tag, _ in page.tags}
    sources = [attrs["src"] for tag, attrs in page.tags if tag == "img"]
    assert len(sources) == 2
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert not re.search(r"https?://|url\(", html)


def test_every_citation_on_the_page_leads_to_its_evidence(report):
    page = Page(to_html(report))
    assert page.links
    assert {link.removeprefix("#") for link in page.links} <= page.ids


def test_the_page_says_draft_and_research_use_only(report):
    words = " ".join(Page(to_html(report)).words)
    assert "Research use only. Not for diagnosis." in words
    assert "DRAFT" in words
    assert "Left out" in words


def test_text_from_models_and_files_cannot_become_markup(scripted, segmentor, roi):
    lines = (NASTY, call("segment", "gland"), NASTY, call("count", "nucleus"), "There are 3 nuclei.", NASTY)
    named = Roi(roi.pixels, roi.mpp, roi.region, f"{NASTY}.png")
    html = to_html(draft_report(Copilot(scripted(*lines), segmentor), named, CONCEPTS))
    assert "<script" not in html
    assert {tag for tag, attrs in Page(html).tags if any(key.startswith("on") for key in attrs)} == set()


def test_without_a_scale_the_report_says_so_and_gives_pixels(scripted, segmentor, bare_roi):
    report = draft_report(Copilot(scripted(*LINES), segmentor), bare_roi, CONCEPTS)
    html = to_html(report)
    assert "scale unknown" in html
    assert any("--mpp" in warning for warning in report.warnings)
    assert "µm²</td>" not in html


def test_the_json_form_holds_the_evidence_with_masks_and_no_pictures(report):
    data = json.loads(json.dumps(to_dict(report)))
    assert data["schema"] == "slidekick.report/2"
    assert data["status"] == "DRAFT"
    assert "image" not in data
    assert any(item["rle"] for item in data["evidence"])


def test_a_picture_with_nothing_in_it_still_makes_a_report(scripted, segmentor):
    from slidekick.data.slide import Region

    blank = Roi(np.full((40, 40, 3), 255, np.uint8), None, Region(0, 0, 40, 40))
    lines = ("background", call("segment", "glomerulus"), "No glomerulus was found in this picture.")
    report = draft_report(Copilot(scripted(*lines), segmentor), blank, ("glomerulus",))
    assert "not found" in to_html(report)


@pytest.mark.parametrize(
    ("value", "unit", "said"),
    [
        (12345.6, "µm²", "12 300 µm²"),
        (7.4321, "µm", "7.43 µm"),
        (0.314, "%", "31 %"),
        (0.004, "%", "under 1 %"),
        (0, "%", "0 %"),
        (212, "", "212"),
        (None, "µm", "–"),
    ],
)
def test_numbers_are_written_for_people(value, unit, said):
    assert quantity(value, unit) == said


def test_what_belongs_to_another_organ_waits_until_that_organ_is_stated(scripted, segmentor, roi):
    segmentor.vocabulary = SimpleNamespace(concepts=dict.fromkeys(CONCEPTS))

    def drafted(organ):
        report = draft_report(Copilot(scripted(*LINES), segmentor), roi, details={"organ": organ})
        return {fact.measurement.concept for fact in report.facts}, report.warnings

    told, warnings = drafted("")
    assert told == {"gland", "nucleus"}
    assert any("glomerulus (kidney)" in warning for warning in warnings)
    assert "glomerulus" in drafted("left kidney")[0]
    told, warnings = drafted("Prostate")
    assert "glomerulus" not in told
    assert not any("no organ" in warning for warning in warnings)
