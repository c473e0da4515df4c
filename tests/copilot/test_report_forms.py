"""Forms: what each asks and writes, forms of a user's own, checklists, and what is none of these."""

import json
import re
from pathlib import Path

import pytest
from scripted import MEASURED

from slidekick.copilot import Copilot
from slidekick.copilot.reports.checklist import EXAMPLE, gone_through, load_checklist
from slidekick.copilot.reports.forms import FORMS, check_details, load_form, tidy
from slidekick.copilot.reports.report import draft_report
from slidekick.data.errors import InputError

CONCEPTS = ("nucleus", "gland")
HEAD = "---\ntitle: Mine\nquestions:\n  what: What is it?\n---\n"


@pytest.fixture
def draft(scripted, segmentor, roi):
    def make(form, *read, **more):
        return draft_report(Copilot(scripted(*read, *MEASURED), segmentor), roi, CONCEPTS, form, **more)

    return make


def lines(report):
    return [line for line in report.text.split("\n") if line]


def test_the_general_form_parts_what_was_read_from_what_was_measured(draft):
    assert lines(draft("general", "The picture shows colon."))[:2] == [
        "## Impression (draft)",
        "- The picture shows colon. (read, not measured; confidence 0.90)",
    ]


def test_a_biopsy_is_worded_as_signed_out_ones_are(draft):
    report = draft("biopsy", "colon", "adenoma", details={"specimen": "forceps  biopsy"})
    said = lines(report)
    assert said[1].startswith("**Colon, forceps biopsy;** (organ read")
    assert said[2].startswith("1. adenoma (read, not measured")
    assert any(line.startswith("- There are 3 nuclei. [e") for line in said)
    assert report.title == "Draft biopsy report"


def test_what_the_user_states_is_not_asked(draft):
    report = draft("biopsy", "adenoma", details={"organ": "colon", "clinical": "polyp"})
    said = lines(report)
    assert said[1] == "**Colon, biopsy;**"
    assert "polyp" in said
    assert {sentence.question for sentence in report.reading} == {"What does this picture show?"}


def test_a_synopsis_measures_what_is_a_concept_and_leaves_open_what_needs_the_specimen(draft, segmentor, tmp_path):
    file = tmp_path / "glands.yaml"
    file.write_text(
        "tumour: polyp\nelements:\n- element: Margins\n- element: Glands\n- {element: Type, options: [a, b]}\n"
    )
    segmentor.vocabulary = type("Words", (), {"words": {"gland": "gland", "nucleus": "nucleus"}})()
    report = draft("synoptic", "adenoma", checklist=load_checklist(file))
    assert [(one.name, one.kind) for one in report.elements] == [
        ("Margins", "open"),
        ("Glands", "measured"),
        ("Type", "open"),  # this engine does not weigh options
    ]
    assert "- **Margins:** ______ (to be filled in)" in lines(report)
    glands = next(line for line in lines(report) if line.startswith("- **Glands:**"))
    assert "covers 25%" in glands
    assert set(report.elements[1].evidence) <= {item.id for item in report.evidence}


def test_a_cytology_report_leaves_adequacy_to_a_person(draft):
    said = lines(draft("cytology", "Pap", "squamous cell", details={"specimen": "smear"}))
    assert said[1].startswith("smear; stain: Pap (read")
    assert said[said.index("## Adequacy") + 1].startswith("______ (to be judged by a person")


@pytest.mark.parametrize("name", FORMS)
def test_each_form_is_whole_where_nothing_was_read_or_found(name):
    form = load_form(name)
    empty = type("Empty", (), {"short": "", "sentences": (), "confidence": 0.0})
    read, details = dict.fromkeys(form.questions, empty), check_details(None)
    text = form.write(read=read, findings=[], elements=[], details=details, checklist=load_checklist())
    assert "None." in text
    assert "undefined" not in text.lower()


def test_a_form_of_the_users_own_is_taken_from_its_file(draft, tmp_path):
    file = tmp_path / "short.md.jinja"
    file.write_text(HEAD + "## It\n{% for s in read.what.sentences %}\n- {{ s | cited }}\n{% endfor %}\n")
    report = draft(str(file), "colon")
    assert (report.form, report.title) == ("short", "Mine")
    assert lines(report) == ["## It", "- colon (read, not measured; confidence 0.90)"]


def test_the_form_in_the_documentation_works(draft, tmp_path):
    told = (Path(__file__).parents[2] / "docs" / "reports.md").read_text()
    (text,) = re.findall(r"```\n(---\n.*?)```", told, re.DOTALL)
    (file := tmp_path / "note.md.jinja").write_text(text)
    assert lines(draft(str(file), "colon"))[:2] == [
        "## What is seen",
        "- colon (read, not measured; confidence 0.90)",
    ]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("no head", "begin with `title` and `questions`"),
        ("---\ntitle: [\n---\n", "no YAML"),
        ("---\ntitle: A\nquestions: {a: 3}\n---\n", "question 'a' needs words"),
        ("---\ntitle: A\nquestions: {a: {picture: x}}\n---\n", "question 'a' needs words"),
        (HEAD + "{% for %}", "mend the template"),
        (HEAD + "{{ nothing.there }}", "mend the template"),
        (HEAD + "{{ ''.__class__.__mro__[1].__subclasses__() }}", "mend the template"),
        (HEAD + "{{ read.__init__.__globals__ }}", "mend the template"),
        (HEAD + "{% include '/etc/passwd' %}", "mend the template"),
    ],
)
def test_a_form_that_is_none_is_told_in_one_line_and_runs_nothing(draft, tmp_path, text, told):
    file = tmp_path / "own.md.jinja"
    file.write_text(text)
    with pytest.raises(InputError, match=told) as caught:
        draft(str(file), "colon")
    assert "\n" not in str(caught.value)


def test_unknown_forms_and_details_are_named():
    with pytest.raises(InputError, match="no form 'poem'; give one of general, biopsy"):
        load_form("poem")
    with pytest.raises(InputError, match="state organ, specimen, clinical"):
        check_details({"name": "Mustermann"})
    with pytest.raises(InputError, match="at most 400"):
        check_details({"organ": "x" * 401})


def test_checklists_come_from_lines_by_their_tumour(tmp_path):
    file = tmp_path / "items.jsonl"
    rows = [{"tumour": name, "elements": [{"element": "Type", "options": [{"text": "A"}, "B"]}]} for name in ("x", "y")]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert load_checklist(file, "y").elements == {"Type": ("A", "B")}
    with pytest.raises(InputError, match="which tumour"):
        load_checklist(file)
    with pytest.raises(InputError, match="no checklist for 'liver'"):
        load_checklist(EXAMPLE, "liver")


@pytest.mark.parametrize("text", ["", "[1, 2]", "tumour: x", "tumour: x\nelements: []", "elements: [{}]", "{", "\x00"])
def test_a_file_that_is_no_checklist_is_told(tmp_path, text):
    file = tmp_path / "broken.yaml"
    file.write_text(text)
    with pytest.raises(InputError, match=r"broken\.yaml"):
        load_checklist(file)


@pytest.mark.parametrize("options", ["5", "yes", "grade", "{text: G1}"])
def test_options_that_are_no_list_are_told(tmp_path, options):
    file = tmp_path / "lists.yaml"
    file.write_text(f"tumour: x\nelements:\n- element: Grade\n  options: {options}\n")
    with pytest.raises(InputError, match=r"lists.yaml: element 'Grade' has options .*, no list"):
        load_checklist(file)


def test_options_are_weighed_only_where_looks_can_tell():
    asked = []
    weigh = lambda question, options: (asked.append(question), (options[0], 0.7))[1]  # noqa: E731
    filled = gone_through(load_checklist(), lambda name: None, weigh)
    assert asked == ["What is the histologic type?", "What is the grade?"]
    assert {one.name for one in filled if one.kind == "open"} >= {"Size", "Margins", "Lymph nodes", "Procedure"}


def test_text_is_tidied_and_stays_tidy():
    once = tidy("a  \r\n\n\n\nb\t\n")
    assert once == "a\n\nb\n"
    assert tidy(once) == once
