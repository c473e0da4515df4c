"""The conversation behind the chat page, without a browser; and what direct requests past the page can reach."""

import json

import httpx
import numpy as np
import pytest
from PIL import Image

from slidekick.apps.session import Session
from slidekick.data.errors import InputError

HOW_MANY = "How many nuclei are there?"


@pytest.fixture
def session(copilot, picture, tmp_path):
    made = Session(copilot, tmp_path)
    made.open_picture(picture)
    return made


def ask(session, question):
    for _ in session.ask(question):
        pass
    return session.messages


def test_a_question_grows_user_tool_text_and_evidence_messages(session):
    user, tool, text, evidence = ask(session, HOW_MANY)
    assert user == {"role": "user", "content": HOW_MANY}
    assert tool["metadata"]["title"] == "count(nucleus)"
    assert tool["metadata"]["status"] == "done"
    assert tool["metadata"]["duration"] >= 0
    assert tool["content"] == "found, count 2"
    assert text == {"role": "assistant", "content": "There are 2 nuclei."}
    assert evidence["metadata"]["title"] == "Evidence: 1 of 1 backed"


def test_a_tool_step_is_pending_while_it_runs(session):
    states = [m["metadata"]["status"] for _ in session.ask(HOW_MANY) for m in session.messages if "metadata" in m]
    assert states[0] == "pending"
    assert states[-1] == "done"


def test_stopping_leaves_no_step_pending_and_the_next_question_works(session):
    running = session.ask(HOW_MANY)
    next(running)
    next(running)
    running.close()
    assert [m["metadata"]["status"] for m in session.messages if "metadata" in m] == ["done"]
    assert ask(session, HOW_MANY)[-1]["metadata"]["title"] == "Evidence: 1 of 1 backed"


def test_what_was_found_is_drawn_over_the_picture_at_the_same_size(session):
    plain, same = session.pictures()
    assert np.array_equal(plain, same)
    ask(session, HOW_MANY)
    plain, drawn = session.pictures()
    assert plain.shape == drawn.shape
    assert not np.array_equal(plain, drawn)
    assert [text for text, _ in session.legend()] == ["nucleus: 2"]


def test_a_new_picture_starts_anew_and_a_bad_one_changes_nothing(session, tmp_path, picture):
    ask(session, HOW_MANY)
    before = list(session.messages)
    with pytest.raises(InputError, match="no such file"):
        session.open_picture(tmp_path / "missing.png")
    assert session.messages == before
    session.open_picture(picture)
    assert (session.messages, session.findings, session.answers) == ([], {}, [])


def test_a_bad_question_adds_no_message(session):
    with pytest.raises(InputError):
        ask(session, "  ")
    assert session.messages == []


def test_a_question_needs_a_picture(copilot):
    with pytest.raises(InputError, match="no picture yet"):
        ask(Session(copilot), HOW_MANY)


@pytest.mark.parametrize("name", ["../outside.png", "/etc/hostname", "link.png", "", "  ", "sub/../../outside.png"])
def test_no_path_leads_out_of_the_opened_folder(copilot, tmp_path, name):
    opened = tmp_path / "opened"
    (opened / "sub").mkdir(parents=True)
    Image.new("RGB", (9, 9)).save(tmp_path / "outside.png")
    (opened / "link.png").symlink_to(tmp_path / "outside.png")
    session = Session(copilot, opened)
    with pytest.raises(InputError, match="opened folder"):
        session.open_in_folder(name)
    assert session.roi is None


def test_without_an_opened_folder_no_path_is_read(copilot, picture):
    with pytest.raises(InputError, match="--folder"):
        Session(copilot).open_in_folder(str(picture))


class TestDirectRequests:
    """Events are private on the page, yet HTTP reaches them: they must check what they are given."""

    @pytest.fixture
    def address(self, copilot):
        pytest.importorskip("gradio")
        from slidekick.apps.page import build_page, launch

        page = build_page(copilot)
        yield launch(page)
        page.close()

    def send(self, address, event, data):
        """One event sent past the page; its last message."""
        body = {"data": data, "fn_index": event, "session_hash": "direct"}
        assert httpx.post(f"{address}gradio_api/queue/join", json=body).status_code == 200
        with httpx.stream("GET", f"{address}gradio_api/queue/data?session_hash=direct", timeout=20) as stream:
            for line in stream.iter_lines():
                if line.startswith("data:") and '"process_completed"' in line:
                    return json.loads(line.removeprefix("data:"))
        raise AssertionError("no answer")

    def events(self, address):
        """Name of each event's function -> its number."""
        config = httpx.get(f"{address}config").json()
        return {part["api_name"]: part["id"] for part in config["dependencies"]}

    def test_the_upload_event_reads_no_file_of_the_server(self, address, picture):
        for path in ("/etc/hostname", str(picture)):
            file = {"path": path, "meta": {"_type": "gradio.FileData"}}
            done = self.send(address, self.events(address)["_open_upload"], [file, None, "", None])
            assert not done["success"]

    def test_the_path_event_refuses_where_no_folder_is_opened(self, address, picture):
        done = self.send(address, self.events(address)["_open_path"], [str(picture), None, "", None])
        assert not done["success"]
        assert "no folder is opened" in json.dumps(done)

    def test_a_huge_question_is_refused(self, address):
        done = self.send(address, self.events(address)["_answer"], ["x" * 100_000, None])
        assert not done["success"]
        assert "shorten it" in json.dumps(done)

    @pytest.mark.parametrize("path", ["/etc/hostname", "pyproject.toml", "../../etc/hostname"])
    def test_files_of_the_server_are_not_served(self, address, path):
        assert httpx.get(f"{address}gradio_api/file={path}").status_code in (403, 404)
