"""The public JSON form of an answer: described by its schema, read back without loss."""

import json
from importlib import resources

import jsonschema
import pytest
from scripted import call

import slidekick.copilot
from slidekick.copilot import Answer, Copilot

SCHEMA = json.loads((resources.files(slidekick.copilot) / "answer.schema.json").read_text())


@pytest.fixture(params=["counted", "absent", "unknown", "reading", "slipped", "without scale"])
def answer(request, segmentor, roi, bare_roi, scripted):
    lines = {
        "counted": [call("measure", "nucleus"), "There are 3 nuclei."],
        "absent": [call("segment", "glomerulus"), "No glomerulus was found in this picture."],
        "unknown": [call("count", "unicorn"), '"unicorn" is not in the vocabulary; nearest known: gland.'],
        "reading": ["colon"],
        "slipped": [call("count", "nucleus"), "There are 4 nuclei."],
        "without scale": [call("segment", "gland"), "Yes: gland was found, in the upper left."],
    }[request.param]
    picture = bare_roi if request.param == "without scale" else roi
    return Copilot(scripted(*lines), segmentor).ask(picture, "What is there?")


def test_real_answers_follow_the_public_schema(answer):
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.validate(json.loads(json.dumps(answer.to_dict())), SCHEMA)


def test_an_answer_reads_back_from_json_without_loss(answer):
    assert Answer.from_dict(json.loads(json.dumps(answer.to_dict()))) == answer


def test_every_claim_names_evidence_that_is_there_and_every_evidence_its_step(answer):
    ids = {item.id for item in answer.evidence}
    steps = {step.id for step in answer.steps}
    assert all(set(claim.evidence) <= ids for claim in answer.claims)
    assert {item.step for item in answer.evidence} <= steps


def test_the_schema_refuses_an_answer_without_its_notice(answer):
    data = answer.to_dict()
    del data["notice"]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(data, SCHEMA)


def test_every_answer_says_what_it_may_be_used_for(answer):
    assert answer.notice == "Research use only. Not for diagnosis."


def test_importing_the_room_does_not_import_torch():
    import subprocess
    import sys

    code = "import sys, slidekick.copilot; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
