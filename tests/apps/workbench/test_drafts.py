"""A session's draft report: over corrected masks, edited, kept, told as stale; and shapes that come from QuPath."""

import json

import pytest

from slidekick.apps.workbench import drafts
from slidekick.data.errors import InputError


def draft(session, form="general", **details):
    return list(drafts.draft(session, form, details))


def sentences(session):
    return [sentence.text for sentence in session.sheet.draft.report.findings]


def shapes(session):
    """What is drawn on the slide, as QuPath would be given it."""
    features = [feature for layer in session.sheet.layers.by_concept.values() for feature in layer.features]
    return {"type": "FeatureCollection", "features": features}


def taken(session, tmp_path, data):
    file = tmp_path / "edited.geojson"
    file.write_text(json.dumps(data))
    drafts.take_shapes(session, file)


def test_a_draft_says_what_it_asks_and_draws_what_it_found(session):
    said = draft(session, "biopsy", organ="colon", specimen="forceps biopsy")
    assert said[1:] == ["What does this picture show?", "How many nuclei are there?", *said[3:]]
    assert session.sheet.layers.by_concept["nucleus"].found
    report = session.sheet.draft.report
    assert "**Colon, forceps biopsy;**" in report.text
    assert "There are 2 nuclei." in sentences(session)


def test_what_nobody_asked_for_is_drawn_when_it_is_wanted(bench, session):
    draft(session)
    layer = session.sheet.layers.by_concept["nucleus"]
    assert layer.quiet
    assert bench.sessions().get(session.name).sheet.layers.by_concept["nucleus"] == layer
    list(session.ask("How many nuclei are there?"))
    assert not session.sheet.layers.by_concept["nucleus"].quiet
    draft(session)
    assert not session.sheet.layers.by_concept["nucleus"].quiet


def test_a_corrected_mask_is_what_is_told_of(session):
    session.correct("nucleus", 60, 60, True)
    draft(session)
    assert "There are 3 nuclei." in sentences(session)


def test_each_mark_leads_to_its_place_and_no_other_does(session):
    draft(session)
    known = session.sheet.draft
    name = next(one.id for one in known.report.evidence if one.kind == "count")
    session.fly_to(f"r0-{name}")
    x, y, width, height = session.fly["box"]
    assert (x, y) == (4, 4)
    assert (width, height) == (20, 8)
    for mark in ("r0-e999", "r7-e1", "r-e1", "rx-e1"):
        with pytest.raises(InputError, match="leads to no place"):
            session.fly_to(mark)


def test_edits_are_kept_and_found_after_a_kill(bench, session):
    draft(session)
    drafts.rewrite(session, session.sheet.draft.report.text + "\nSeen with a colleague.\n")
    again = bench.sessions().get(session.name)
    assert again.sheet.draft == session.sheet.draft
    assert "Seen with a colleague." in again.sheet.draft.report.text
    assert "1 changes by hand" in drafts.words_html(again.sheet, 0)


def test_masks_that_change_after_the_draft_are_told(session):
    draft(session)
    assert "draft it anew" not in drafts.words_html(session.sheet, 0)
    session.correct("nucleus", 60, 60, True)
    assert "draft it anew" in drafts.words_html(session.sheet, 0)


def test_what_is_edited_cannot_become_markup(session):
    draft(session)
    drafts.rewrite(session, "- <img src=x onerror=alert(1)> [x](javascript:alert(1))")
    told = drafts.words_html(session.sheet, 0)
    assert "<img" not in told
    assert "href" not in told


def test_there_is_nothing_to_edit_before_a_draft(session):
    with pytest.raises(InputError, match="draft one"):
        drafts.rewrite(session, "words")
    with pytest.raises(InputError, match="no form"):
        draft(session, "poem")


def test_shapes_edited_in_qupath_are_measured_told_of_and_kept(bench, session, tmp_path):
    session_asked = list(session.ask("How many nuclei are there?"))
    assert session_asked
    edited = shapes(session)
    moved = json.loads(json.dumps(edited["features"][0]))
    moved["geometry"]["coordinates"] = [
        [[x + 100, y + 80] for x, y in ring] for ring in moved["geometry"]["coordinates"]
    ]
    moved["id"] = "00000000-0000-4000-8000-000000000000"
    edited["features"].append(moved)
    taken(session, tmp_path, edited)
    layer = session.sheet.layers.by_concept["nucleus"]
    assert len(layer.features) == 3
    assert layer.at(108, 88)
    list(session.ask("How many nuclei are there?"))
    assert "There are 3 nuclei." in session.exchanges[-1].answer.text
    draft(session)
    assert "There are 3 nuclei." in sentences(session)
    again = bench.sessions().get(session.name)
    list(again.ask("How many nuclei are there?"))
    assert "There are 3 nuclei." in again.exchanges[-1].answer.text


def test_a_removed_shape_is_gone_from_the_numbers(session, tmp_path):
    list(session.ask("How many nuclei are there?"))
    edited = shapes(session)
    edited["features"] = edited["features"][:1]
    taken(session, tmp_path, edited)
    list(session.ask("How many nuclei are there?"))
    assert "There is 1 nucleus." in session.exchanges[-1].answer.text


def test_another_region_is_looked_at_anew(session, tmp_path):
    list(session.ask("How many nuclei are there?"))
    edited = shapes(session)
    edited["features"] = edited["features"][:1]
    taken(session, tmp_path, edited)
    session.region({"box": [0, 0, 100, 100]})
    list(session.ask("How many nuclei are there?"))
    assert "There are 2 nuclei." in session.exchanges[-1].answer.text


@pytest.mark.parametrize("text", ["", "{", "[]", '{"type": "FeatureCollection", "features": []}', '"x"', "\x00"])
def test_a_file_that_holds_no_shapes_changes_nothing(session, tmp_path, text):
    list(session.ask("How many nuclei are there?"))
    before = session.sheet.layers.by_concept["nucleus"]
    file = tmp_path / "broken.geojson"
    file.write_text(text)
    with pytest.raises(InputError):
        drafts.take_shapes(session, file)
    assert session.sheet.layers.by_concept["nucleus"] is before
