"""The session behind the page: slides, questions, regions, corrections, marks, and what is there after a kill."""

import json

import numpy as np
import pytest

from slidekick.apps.workbench import keeping
from slidekick.apps.workbench.session import MOST_SHEETS
from slidekick.data.errors import InputError

HOW_MANY = "How many nuclei are there?"


def ask(session, question=HOW_MANY):
    for _ in session.ask(question):
        pass
    return session.messages


def test_a_question_grows_user_tool_text_and_evidence_messages(session):
    user, tool, text, evidence = ask(session)
    assert user == {"role": "user", "content": "How many nuclei are there&#63;"}
    assert tool["metadata"]["title"] == "count&#40;nucleus&#41;"
    assert tool["metadata"]["status"] == "done"
    assert tool["metadata"]["duration"] >= 0
    assert tool["content"] == "found&#44; count 2"
    assert text == {"role": "assistant", "content": "There are 2 nuclei&#46; [▸&#160;e1](#mark-0-e1)"}
    assert evidence["metadata"]["title"] == "Evidence&#58; 1 of 1 backed"


def test_a_tool_step_is_pending_while_it_runs(session):
    states = [m["metadata"]["status"] for _ in session.ask(HOW_MANY) for m in session.messages if "metadata" in m]
    assert states[0] == "pending"
    assert states[-1] == "done"


def test_stopping_leaves_no_step_pending_and_the_next_question_works(session, copilot):
    copilot.engine.pause = 0.01
    running = session.ask(HOW_MANY)
    while not any("metadata" in message for message in session.messages):
        next(running)
    running.close()
    assert [m["metadata"]["status"] for m in session.messages if "metadata" in m] == ["done"]
    assert ask(session)[-1]["metadata"]["title"] == "Evidence&#58; 1 of 1 backed"


def around(layer) -> list[int]:
    """x0, y0, x1, y1 of all that a layer outlines."""
    corners = np.concatenate([ring for _, ring in layer.rings])
    return [*corners.min(0), *corners.max(0)]


def test_what_was_found_is_a_layer_over_the_slide(session):
    ask(session)
    (layer,) = session.sheet.layers.by_concept.values()
    assert (layer.concept, layer.told, len(layer.features)) == ("nucleus", "nucleus: 2", 2)
    assert around(layer) == [4, 4, 24, 12]


def test_a_region_is_asked_about_and_found_things_lie_where_it_is(session):
    session.region({"box": [100, 50, 64, 32]})
    ask(session)
    assert around(session.sheet.layers.by_concept["nucleus"]) == [104, 54, 124, 62]
    assert session.exchanges[0].places["e2"] == (104, 54, 20, 8)
    session.region({"polygon": [[100, 50], [112, 50], [112, 90], [100, 90]]})
    assert "There is 1 nucleus in the region" in ask(session)[-2]["content"]
    session.region({"box": None})
    assert session.sheet.area is None


@pytest.mark.parametrize(
    "told",
    [{"box": [1, 2, 3]}, {"box": ["a", 0, 9, 9]}, {"box": [0, 0, 2, 2]}, {"box": [500, 0, 50, 50]},
     {"box": [-50, -50, 40, 40]}, {"box": 3}, {"polygon": [[1, 2]]}, {"polygon": "x"}, {"polygon": [[0, 0], [9, 9, 9]]},
     {"polygon": [[1e400, 0], [9, 9], [0, 9]]}, {"box": [0, 0, float("nan"), 9]}],
)  # fmt: skip
def test_what_is_no_region_is_told_in_one_line(session, told):
    with pytest.raises(InputError, match="region") as caught:
        session.region(told)
    assert "\n" not in str(caught.value)
    assert session.sheet.area is None


def test_a_region_that_reaches_out_is_cut_at_the_slides_edge(session):
    session.region({"box": [350, 250, 500, 500]})
    assert session.sheet.area.box == (350, 250, 50, 50)


def test_a_mask_is_corrected_by_clicks_and_questions_follow_it(session):
    ask(session)
    session.correct("nucleus", 200, 100, True)
    assert session.sheet.layers.by_concept["nucleus"].told == "nucleus: 3"
    session.correct("nucleus", 6, 6, False)
    session.correct("nucleus", 20, 6, False)
    assert "There is 1 nucleus" in ask(session)[-2]["content"]
    session.undo("nucleus")
    assert session.sheet.layers.by_concept["nucleus"].told == "nucleus: 2"
    with pytest.raises(InputError, match="not in the segmentor's vocabulary"):
        session.correct("unicorn", 1, 1, True)


def test_several_slides_lie_beside_each_other(session):
    ask(session)
    session.open("folder:case/b <b>.png")
    assert (session.current, session.sheet.name, dict(session.sheet.layers.by_concept)) == (1, "b <b>.png", {})
    ask(session, "Which organ?")
    session.fly_to("0-e1")
    assert (session.current, session.fly["box"]) == (0, [4, 4, 20, 8])
    session.open("folder:case/b <b>.png")
    assert len(session.sheets) == 2, "it is open already"
    with pytest.raises(InputError, match="no such slide"):
        session.choose(2)
    for mark in ("9-e1", "0-e9", "x", "", "0-", "-1-e1"):
        with pytest.raises(InputError, match="leads to no place"):
            session.fly_to(mark)


def test_nothing_is_lost_by_a_kill(bench, session):
    session.open("sample:he", 0.5)
    session.region({"polygon": [[0, 0], [90, 0], [90, 90]]})
    ask(session)
    session.correct("nucleus", 50, 20, True)
    again = bench.sessions().get(session.name)
    assert json.dumps(keeping.to_dict(again)) == json.dumps(keeping.to_dict(session))
    assert again.sheet.layers.by_concept["nucleus"].features == session.sheet.layers.by_concept["nucleus"].features
    assert (again.sheet.mpp, again.sheet.area.polygon[2]) == (0.5, (90, 90))
    ask(again)
    assert len(again.exchanges) == 2


def test_an_upload_of_a_known_name_lies_beside_the_other(session, opened, tmp_path):
    session.upload(opened / "b <b>.png")
    first = session.file(session.sheet).read_bytes()
    (again := tmp_path / "b <b>.png").write_bytes(first + b"more")
    session.upload(again)
    assert [sheet.source for sheet in session.sheets[-2:]] == ["upload:b <b>.png", "upload:b <b> (2).png"]
    assert [session.file(sheet).read_bytes() for sheet in session.sheets[-2:]] == [first, first + b"more"]
    again.write_bytes(b"no picture")
    with pytest.raises(InputError):
        session.upload(again)
    assert session.file(session.sheets[-2]).read_bytes() == first


def test_without_a_click_none_is_taken_back_and_what_was_drawn_stays(session):
    ask(session)
    before = session.sheet.layers.by_concept["nucleus"]
    with pytest.raises(InputError, match="nucleus: no click to take back"):
        session.undo("nucleus")
    assert session.sheet.layers.by_concept["nucleus"] is before
    assert session.sheet.by_hand == []


def test_a_scale_stated_later_counts_from_then_on(session):
    ask(session)
    box = session.toolbox(session.sheet)
    session.open(session.sheet.source, 0.25)
    assert session.sheet.mpp == 0.25
    assert session.toolbox(session.sheet) is not box


def test_a_conversation_cleared_during_an_answer_stays_clear(session):
    for number, _ in enumerate(session.ask(HOW_MANY)):
        if number == 1:
            session.clear()
    assert (session.messages, session.exchanges) == ([], [])
    ask(session)
    assert len(session.exchanges) == 1


def test_an_answer_tells_of_the_region_it_was_asked_about(session):
    session.region({"box": [100, 50, 64, 32]})
    asked = session.sheet.area
    for number, _ in enumerate(session.ask(HOW_MANY)):
        if number == 1:
            session.region({"box": [0, 0, 64, 32]})
    assert session.exchanges[-1].area == asked


def test_an_upload_lies_in_the_sessions_folder_and_nowhere_else(session, opened, tmp_path):
    session.upload(opened / "b <b>.png")
    assert session.sheet.source == "upload:b <b>.png"
    assert session.file(session.sheet).parent == session.place / "uploads"
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(InputError):
        session.upload(tmp_path / "text.png")
    assert [file.name for file in (session.place / "uploads").iterdir()] == ["b <b>.png"]
    assert len(session.sheets) == 2


@pytest.mark.parametrize(
    "source",
    ["folder:../outside.png", "folder:case/../outside.png", "folder:case/link.png", "folder:/etc/hostname", "folder:",
     "upload:../../../etc/hostname", "upload:none.png", "file:///etc/hostname", "", "http://localhost/x.png"],
)  # fmt: skip
def test_no_source_leads_out_of_the_opened_folders(session, source):
    with pytest.raises(InputError):
        session.open(source)
    assert len(session.sheets) == 1


def test_a_question_needs_a_slide_and_words(sessions, session):
    with pytest.raises(InputError, match="no slide yet"):
        ask(sessions.begin())
    with pytest.raises(InputError):
        ask(session, "  ")
    assert session.messages == []


def test_a_case_has_an_end(session, opened):
    for number in range(MOST_SHEETS - 1):
        (opened / f"{number}.png").write_bytes((opened / "a.png").read_bytes())
        session.open(f"folder:case/{number}.png")
    with pytest.raises(InputError, match="slides are open"):
        session.open("folder:case/b <b>.png")


@pytest.mark.parametrize(
    "name", ["", "x", "../x", "0" * 31, "0" * 33, "G" * 32, None, 3, "/etc/passwd", "0" * 31 + "\n"]
)
def test_a_session_is_found_by_its_own_name_alone(sessions, name):
    with pytest.raises(InputError, match="no such session"):
        sessions.get(name)


def test_sessions_are_for_their_owner_alone(sessions, session):
    assert sessions.store.root.stat().st_mode & 0o77 == 0
    assert session.place.stat().st_mode & 0o77 == 0
    assert (sessions.store.root / "secret").exists() or sessions.store.secret
    assert (sessions.store.root / "secret").stat().st_mode & 0o77 == 0
    assert sessions.begin().name != session.name


def test_layers_find_the_smallest_object_at_a_place(session):
    ask(session)
    layer, feature = session.sheet.layers.at(6.5, 6.5)
    assert layer.concept == "nucleus"
    assert feature["properties"]["measurements"]["Area px"] == 64
    assert session.sheet.layers.at(14, 6) is None


@pytest.mark.parametrize("place", [(float("nan"), 8), (float("inf"), 8), (-1e300, 1e300), (200, 150)])
def test_there_is_nothing_at_places_without_an_object(session, place):
    list(session.ask("How many nuclei are there?"))
    assert session.sheet.layers.at(*place) is None


def test_layers_are_packed_for_the_browser(session):
    ask(session)
    data = session.sheet.layers.by_concept["nucleus"].packed()
    rings, objects = np.frombuffer(data, "<u4", 2)
    assert (rings, objects) == (2, 2)
    ends = np.frombuffer(data, "<u4", rings, 8 + 4 * rings)
    points = np.frombuffer(data, "<i4", offset=8 + 8 * rings).reshape(-1, 2)
    assert ends[-1] == len(points)
    assert points.min(0).tolist() == [4, 4]
    assert points.max(0).tolist() == [24, 12]


def test_looking_at_a_slide_is_told_while_it_lasts_and_after_it_took_long(session, monkeypatch):
    asking = session.ask("How many nuclei are there?")
    next(asking)
    assert session.messages[-1]["metadata"]["status"] == "pending"
    list(asking)
    assert not any("looking" in one.get("metadata", {}).get("title", "") for one in session.messages)
    monkeypatch.setattr("slidekick.apps.workbench.session.LONG_S", 0)
    list(session.ask("How many nuclei are there?"))
    (looked,) = (one for one in session.messages if "looking" in one.get("metadata", {}).get("title", ""))
    assert looked["metadata"]["status"] == "done"
    assert looked["metadata"]["duration"] >= 0
