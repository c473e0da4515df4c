"""The real mini and the real segmentor on a public H&E picture: what `slidekick demo` promises."""

import json
from importlib import resources

import jsonschema
import pytest

import slidekick.copilot
from slidekick.copilot import Copilot
from slidekick.copilot.copilot import find_masks
from slidekick.copilot.reports.pages import to_html
from slidekick.copilot.reports.report import draft_report
from slidekick.data.samples import sample
from slidekick.data.slide import read_roi

# Counted twice by eye on enlarged fields of the picture: 318 and 326 nuclei, of which some thirty are faint, blurred
# or cut by the picture's edge.
HAND_COUNT = 322
TOLERANCE = 0.25


@pytest.fixture(scope="module")
def copilot():
    return Copilot.from_pretrained("mini")


@pytest.fixture(scope="module")
def roi():
    return read_roi(sample("he"))


@pytest.fixture(scope="module")
def counted(copilot, roi):
    return copilot.ask(roi, "How many nuclei are there?")


def test_nuclei_are_counted_by_the_tool_within_a_quarter_of_a_hand_count(counted):
    assert [(step.name, step.arguments) for step in counted.steps] == [("count", {"concept": "nucleus"})]
    count = next(item.value for item in counted.evidence if item.kind == "count")
    assert abs(count - HAND_COUNT) <= TOLERANCE * HAND_COUNT
    assert counted.short == f"{count:.0f}"


def test_the_sentence_about_the_count_is_backed_by_the_mask(counted):
    (claim,) = counted.claims
    assert claim.supported
    assert claim.kind == "measured"
    assert 0.1 < find_masks(counted)["nucleus"].mean() < 0.7


def test_an_absent_structure_is_answered_not_found(copilot, roi):
    answer = copilot.ask(roi, "Is there a glomerulus in this picture?")
    assert answer.steps[-1].result == {"found": False}
    assert answer.short == "no"
    assert "No glomerulus was found" in answer.text
    assert all(claim.supported for claim in answer.claims)


def test_a_word_outside_the_vocabulary_is_not_answered_as_if_it_were_known(copilot, roi):
    answer = copilot.ask(roi, "How many asbestos bodies are there?")
    assert answer.short == "unknown"
    assert any("vocabulary" in warning for warning in answer.warnings)


def test_what_the_picture_shows_is_a_reading(copilot, roi):
    answer = copilot.ask(roi, "What does this picture show?")
    assert answer.steps == ()
    assert answer.text
    assert {claim.kind for claim in answer.claims} == {"reading"}


def test_the_same_question_gets_the_same_answer(copilot, roi, counted):
    again = copilot.ask(roi, counted.question)
    assert (again.text, again.evidence, again.confidence) == (counted.text, counted.evidence, counted.confidence)


def test_answers_follow_the_public_schema_and_name_their_weights(counted):
    schema = json.loads((resources.files(slidekick.copilot) / "answer.schema.json").read_text())
    jsonschema.validate(json.loads(json.dumps(counted.to_dict())), schema)
    assert counted.versions["model"] == "mini"
    assert len(counted.versions["weights"]) == 12


def test_the_report_lists_nuclei_found_and_the_glomerulus_absent(copilot, roi):
    report = draft_report(copilot, roi, details={"organ": "kidney"})
    found = {fact.measurement.concept: fact.measurement.found for fact in report.facts}
    assert found["nucleus"]
    assert not found["glomerulus"]
    assert report.reading
    assert "DRAFT" in to_html(report)
