"""Tools: results the model can say, evidence the answer can show, errors as results."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slidekick.copilot.tools import MAX_CONCEPT, TOOL_NAMES, Toolbox, percent, tool_schemas
from slidekick.data.errors import InputError
from slidekick.grounding.export import from_rle


@pytest.fixture
def box(segmentor, roi):
    return Toolbox(segmentor, roi)


def test_schemas_are_what_transformers_makes_of_the_docstrings():
    from transformers.utils import get_json_schema

    made = [get_json_schema(getattr(Toolbox(None, None), name)) for name in TOOL_NAMES]
    for schema in made:
        schema["function"].pop("return")  # says only "object": tokens that every prompt would pay for
    assert list(tool_schemas()) == made


def test_schemas_name_every_tool_its_purpose_and_its_one_argument():
    schemas = [schema["function"] for schema in tool_schemas()]
    assert tuple(schema["name"] for schema in schemas) == TOOL_NAMES
    for schema in schemas:
        assert schema["description"]
        assert schema["parameters"]["required"] == ["concept"]
        assert schema["parameters"]["properties"]["concept"]["type"] == "string"


@pytest.mark.parametrize(
    ("name", "concept", "result"),
    [
        ("count", "nuclei", {"found": True, "count": 3}),
        ("segment", "gland", {"found": True, "area": "25%", "where": "upper left"}),
        ("measure", "nucleus", {"found": True, "count": 3, "area": "2%", "diameter": "5.6 um"}),
        ("measure", "gland", {"found": True, "area": "25%"}),
        ("count", "gland", {"found": True, "area": "25%"}),
        ("segment", "glomerulus", {"found": False}),
        ("count", "unicorn", {"found": False, "known": False, "nearest": "gland"}),
    ],
)
def test_results_are_short_and_their_keys_stand_in_order(box, name, concept, result):
    outcome = box.call(name, {"concept": concept}, "t1")
    assert json.dumps(outcome.result) == json.dumps(result)


def test_no_diameter_where_the_scale_is_unknown(segmentor, bare_roi):
    outcome = Toolbox(segmentor, bare_roi).call("measure", {"concept": "nucleus"}, "t1")
    assert outcome.result == {"found": True, "count": 3, "area": "2%"}
    assert {item.unit for item in outcome.evidence} == {"probability", "objects", "fraction", "px"}


def test_evidence_carries_value_unit_step_and_the_mask(box, roi):
    outcome = box.call("measure", {"concept": "nucleus"}, "t7")
    values = {item.kind: (item.value, item.unit) for item in outcome.evidence}
    assert values["count"] == (3.0, "objects")
    assert values["area"] == (75.0, "um2")
    assert values["area_fraction"] == (300 / 12000, "fraction")
    assert values["density"] == (pytest.approx(3 / (12000 * 0.25 / 1e6)), "1/mm2")
    assert {item.step for item in outcome.evidence} == {"t7"}
    masks = [from_rle(item.rle) for item in outcome.evidence]
    assert all(np.array_equal(mask, outcome.findings[0].mask) for mask in masks)


def test_absence_is_evidence_too(box):
    (item,) = box.call("count", {"concept": "glomerulus"}, "t1").evidence
    assert (item.kind, item.found, item.value, item.rle) == ("presence", False, 0.02, None)


def test_an_unknown_word_is_said_to_be_unknown(box):
    outcome = box.call("segment", {"concept": "unicorn"}, "t1")
    assert outcome.evidence[0].value is None
    assert "unicorn" in outcome.warnings[0]
    assert "gland" in outcome.warnings[0]


def test_a_region_cannot_be_counted_and_the_answer_says_so(box):
    assert "region" in box.call("count", {"concept": "gland"}, "t1").warnings[0]


def test_a_concept_is_looked_for_once(box, segmentor):
    for name in TOOL_NAMES:
        box.call(name, {"concept": "nucleus"}, "t1")
    box.call("count", {"concept": "  Nucleus "}, "t2")
    assert segmentor.calls == ["nucleus"]


def test_evidence_ids_are_unique_over_calls(box):
    ids = [item.id for name in TOOL_NAMES for item in box.call(name, {"concept": "nucleus"}, "t1").evidence]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize(
    ("name", "arguments", "says"),
    [
        ("zoom", {"concept": "gland"}, "no tool named 'zoom'"),
        ("finding", {"concept": "gland"}, "no tool named"),
        ("__init__", {"concept": "gland"}, "no tool named"),
        ("call", {}, "no tool named"),
        ("count", {}, "needs one argument"),
        ("count", {"concept": ""}, "needs one argument"),
        ("count", {"concept": " .. "}, "needs one argument"),
        ("count", {"concept": 3}, "needs one argument"),
        ("count", ["gland"], "needs one argument"),
        ("count", {"concept": "gland", "path": "/etc/passwd"}, "takes only concept"),
        ("count", {"concept": "g" * (MAX_CONCEPT + 1)}, "characters"),
    ],
)
def test_wrong_calls_are_answered_not_raised(box, segmentor, name, arguments, says):
    outcome = box.call(name, arguments, "t1")
    assert says in outcome.result["error"]
    assert outcome.evidence == ()
    assert segmentor.calls == []


def test_a_tool_that_breaks_answers_with_an_error(box):
    outcome = box.call("count", {"concept": "broken"}, "t1")
    assert outcome.result == {"error": "count failed (RuntimeError)"}
    assert outcome.warnings


def test_an_input_error_in_a_tool_keeps_its_words(roi):
    class Refusing:
        def segment(self, image, concepts, *, mpp=None):
            raise InputError("tissue.png: too small; give a larger region")

    outcome = Toolbox(Refusing(), roi).call("count", {"concept": "nucleus"}, "t1")
    assert outcome.result == {"error": "tissue.png: too small; give a larger region"}


@given(
    name=st.one_of(st.text(), st.none(), st.integers()),
    arguments=st.one_of(st.none(), st.dictionaries(st.text(), st.text())),
)
def test_no_call_that_a_model_can_write_raises(name, arguments):
    outcome = Toolbox(None, None).call(name, arguments, "t1")
    assert list(outcome.result) == ["error"]


@pytest.mark.parametrize(
    ("fraction", "said"),
    [(0.0, "0%"), (0.004, "<1%"), (0.0051, "1%"), (0.314, "31%"), (0.999, "100%"), (1.0, "100%")],
)
def test_percentages_are_whole_and_never_zero_for_what_is_there(fraction, said):
    assert percent(fraction) == said


def test_a_region_alone_is_measured_and_shown(segmentor, roi):
    within = np.zeros(roi.pixels.shape[:2], bool)
    within[:, :30] = True
    box = Toolbox(segmentor, roi, within)
    assert box.count("nucleus") == {"found": True, "count": 1, "of": "region"}
    assert box.segment("gland")["area"] == "50%"
    assert box.segment("glomerulus") == {"found": False, "of": "region"}
    assert box.shown.dtype == np.uint8
    assert (box.shown[:, 30:] == 255).all()
    assert np.array_equal(box.shown[:, :30], roi.pixels[:, :30])


def test_a_finding_that_was_corrected_stands_for_all_its_names(segmentor, roi):
    box = Toolbox(segmentor, roi)
    assert box.count("nuclei")["count"] == 3
    first = box.finding("nuclei")
    box.keep(replace(first, instances=np.where(first.instances == 1, 1, 0), mask=first.instances == 1))
    assert box.count("nuclei")["count"] == box.count("nucleus")["count"] == 1
    assert segmentor.calls == ["nuclei"]


def test_the_largest_object_is_one_of_those_that_are_found(segmentor, roi):
    box = Toolbox(segmentor, roi)
    assert box.measure("largest gland")["count"] == 1
    assert box.measure("the Biggest  gland")["area"] == box.measure("gland")["area"]
    assert box.count("largest nucleus")["count"] == 1
    assert segmentor.calls == ["gland", "nucleus"], "what is looked for is the concept"
    outcome = box.call("segment", {"concept": "largest nucleus"}, "t1")
    assert {item.concept for item in outcome.evidence} == {"largest nucleus"}
    assert box.call("segment", {"concept": "largest glomerulus"}, "t2").result == {"found": False}
    assert box.call("segment", {"concept": "largest unicorn"}, "t3").result["known"] is False
    first = box.finding("nucleus")
    box.keep(replace(first, instances=np.where(first.instances == 2, 1, 0), mask=first.instances == 2))
    assert np.array_equal(box.finding("largest nucleus").mask, first.instances == 2)
