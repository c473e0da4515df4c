"""The workbench in a real browser, over a scripted copilot: open, zoom, draw, ask, see, correct, fly, reload."""

import json
import re
import time

import httpx
import numpy as np
import pytest
from browsing import WAIT_MS, answered, ask, colour_at, loaded, on_screen, open_file, press, settled


def test_a_question_is_answered_with_step_evidence_and_mask_in_place(page):
    open_file(page, "case/a.png")
    before = colour_at(page, 8, 8), colour_at(page, 200, 150)
    ask(page, "How many nuclei are there?")
    answered(page)
    chat = page.locator("#chat")
    chat.get_by_text("count(nucleus)").wait_for(timeout=WAIT_MS)
    page.locator("#viewer-legend").get_by_text("nucleus: 2").wait_for(timeout=WAIT_MS)
    assert np.abs(colour_at(page, 8, 8) - before[0]).max() > 20, "the mask lies on the nucleus"
    assert np.abs(colour_at(page, 200, 150) - before[1]).max() < 8, "and nowhere else"
    chat.get_by_text("Evidence: 1 of 1 backed").click()
    chat.get_by_text(re.compile("e2: nucleus, count: 2")).wait_for(timeout=WAIT_MS)
    page.locator("#viewer-legend input[type=checkbox]").uncheck()
    page.wait_for_timeout(200)
    assert np.abs(colour_at(page, 8, 8) - before[0]).max() < 8, "it can be put away"


def test_a_box_that_is_drawn_is_what_is_asked_about(page):
    open_file(page, "case/a.png")
    press(page, "box")
    page.mouse.move(*on_screen(page, 100, 60))
    page.mouse.down()
    page.mouse.move(*on_screen(page, 180, 120), steps=4)
    settled(page, page.mouse.up)
    region = page.locator("#region textarea, #region input").first.input_value()
    assert np.abs(np.array(region.split(","), int) - (100, 60, 80, 60)).max() <= 2
    ask(page, "How many nuclei are there?")
    answered(page)
    x, y = (int(one) for one in region.split(",")[:2])
    marked, beside = colour_at(page, x + 8, y + 8), colour_at(page, x + 40, y + 40)
    page.locator("#viewer-legend input[type=checkbox]").uncheck()
    page.wait_for_timeout(200)
    assert np.abs(colour_at(page, x + 8, y + 8) - marked).max() > 20
    assert np.abs(colour_at(page, x + 40, y + 40) - beside).max() < 8
    settled(page, lambda: page.locator(".viewer-tools [data-whole]").click())
    assert page.locator("#region textarea, #region input").first.input_value() == ""


def test_a_polygon_is_measured_by_itself(page):
    open_file(page, "case/a.png")
    press(page, "polygon")
    for corner in ((0, 0), (13, 0), (13, 200), (0, 200)):
        page.mouse.click(*on_screen(page, *corner))
    settled(page, lambda: page.locator("#viewer").press("Enter"))
    ask(page, "How many nuclei are there?")
    answered(page, "There is 1 nucleus in the region.")


def test_a_mask_is_corrected_by_clicks_and_an_object_tells_its_measurements(page):
    open_file(page, "case/a.png")
    ask(page, "How many nuclei are there?")
    answered(page)
    page.mouse.click(*on_screen(page, 8, 8))
    page.locator(".leaflet-popup").get_by_text("Area px: 64").wait_for(timeout=WAIT_MS)
    page.keyboard.press("Escape")
    press(page, "in")
    settled(page, lambda: page.mouse.click(*on_screen(page, 200, 150)))
    page.locator("#viewer-legend").get_by_text("nucleus: 3").wait_for(timeout=WAIT_MS)
    settled(page, lambda: page.locator("#undo").click())
    page.locator("#viewer-legend").get_by_text("nucleus: 2").wait_for(timeout=WAIT_MS)


def test_a_mark_in_the_text_leads_to_its_place_on_its_slide(page):
    open_file(page, "case/a.png")
    ask(page, "How many nuclei are there?")
    answered(page)
    open_file(page, "case/b <b>.png")
    settled(page, lambda: page.locator("#chat a[href='#mark-0-e1']").click())
    page.wait_for_function("slidekick.state.width === 400", timeout=WAIT_MS)
    page.wait_for_timeout(1200)
    assert page.evaluate("slidekick.map.getBounds().contains([8, 14])")
    assert page.evaluate("slidekick.map.getZoom() > slidekick.map.last"), "it flew there and came close"


def test_a_reload_and_a_restart_lose_nothing(page, bench, browser):
    open_file(page, "case/a.png")
    ask(page, "How many nuclei are there?")
    answered(page)
    page.reload()
    loaded(page)
    answered(page)
    page.locator("#viewer-legend").get_by_text("nucleus: 2").wait_for(timeout=WAIT_MS)
    kept = page.evaluate("localStorage['slidekick-session']")
    with bench.served() as other:
        anew = browser.new_page()
        anew.goto(other)
        loaded(anew)
        anew.evaluate("kept => { localStorage['slidekick-session'] = kept; }", kept)
        anew.reload()
        loaded(anew)
        answered(anew)
        anew.close()


def test_the_history_is_exported_and_a_new_case_is_empty(page):
    open_file(page, "case/a.png")
    ask(page, "How many nuclei are there?")
    answered(page)
    with page.expect_download(timeout=WAIT_MS) as download:
        page.locator("#export").click()
    told = json.loads(download.value.path().read_text())
    assert told["exchanges"][0]["answer"]["short"] == "2"
    page.locator("#fresh").click()
    page.locator("#chat").get_by_text("Open a slide or take a sample").wait_for(timeout=WAIT_MS)


def test_an_absent_structure_is_named_as_not_found(page):
    open_file(page, "case/a.png")
    ask(page, "Is there a glomerulus?")
    answered(page, "No glomerulus was found in this picture.")
    page.locator("#viewer-legend").get_by_text("glomerulus: not found").wait_for(timeout=WAIT_MS)


def test_a_number_that_was_not_measured_is_replaced_with_a_warning(page, copilot):
    copilot.engine.number = 77
    open_file(page, "case/a.png")
    ask(page, "How many nuclei are there?")
    answered(page)
    page.locator("#chat").get_by_text(re.compile("77 is not what was measured")).wait_for(timeout=WAIT_MS)


def test_an_example_question_is_asked_when_clicked(page):
    open_file(page, "case/a.png")
    page.locator("#chat").get_by_text("How many nuclei are there?").click()
    answered(page)


def test_what_is_missing_or_no_picture_is_told(page, tmp_path):
    ask(page, "How many nuclei are there?")
    page.get_by_text("there is no slide yet").wait_for(timeout=WAIT_MS)
    fake = tmp_path / "notes.png"
    fake.write_text("no picture")
    page.locator("#upload input[type=file]").set_input_files(str(fake))
    page.get_by_text("no picture or slide known here").wait_for(timeout=WAIT_MS)


def test_an_upload_is_shown_and_asked_about(page, opened):
    settled(page, lambda: page.locator("#upload input[type=file]").set_input_files(str(opened / "b <b>.png")))
    ask(page, "How many nuclei are there?")
    answered(page)
    assert page.evaluate("slidekick.state.width") == 90


def test_text_streams_in_and_stop_ends_it(page, copilot):
    copilot.engine.says, copilot.engine.pause = "The picture shows " + "very " * 200 + "much.", 0.1
    open_file(page, "case/a.png")
    ask(page, "What is this?")
    chat = page.locator("#chat")
    chat.get_by_text("The picture shows very").wait_for(timeout=WAIT_MS)
    page.locator("#stop").click()
    deadline = time.monotonic() + 5
    while not copilot.engine.ended:
        assert time.monotonic() < deadline, "the model was not stopped"
        page.wait_for_timeout(50)
    page.wait_for_timeout(500)  # until the page knows of it too
    copilot.engine.says, copilot.engine.pause = "It shows colon.", 0.0
    ask(page, "What is this?")
    answered(page, "It shows colon.")
    assert "much." not in chat.inner_text()


def test_markup_from_user_model_tools_and_file_names_stays_text(page, copilot):
    from slidekick.copilot.grammar import ToolCall

    nasty = (
        "<img src=x onerror=alert(document.title)> [link](https://example.org/x.png) ![i](https://example.org/y.png)"
    )
    copilot.engine.says = nasty
    page.on("dialog", lambda dialog: pytest.fail(f"script ran: {dialog.message}"))
    open_file(page, "case/b <b>.png")
    ask(page, f"what? {nasty}")
    page.locator("#chat").get_by_text("A reading, not measured").wait_for(timeout=WAIT_MS)
    call = "<img src=y onerror=alert(1)>"
    copilot.engine.says = ToolCall("count", {"concept": call}).to_text()
    ask(page, "what?")
    page.locator("#chat").get_by_text(f"count({call})").wait_for(timeout=WAIT_MS)
    assert page.locator("#chat img[src='x'], #chat img[src='y']").count() == 0
    assert page.locator("#chat a[href^='http']").count() == 0
    assert not any("example.org" in url for url in page.requests)


def test_the_page_fetches_nothing_from_elsewhere(page, address):
    open_file(page, "case/a.png")
    ask(page, "How many nuclei are there?")
    answered(page)
    elsewhere = {url for url in page.requests if not url.startswith((address, "data:", "blob:"))}
    assert elsewhere == set()


def test_the_keyboard_alone_moves_and_draws(page):
    open_file(page, "case/a.png")
    page.locator("#viewer").focus()
    zoom = page.evaluate("slidekick.map.getZoom()")
    page.keyboard.press("+")
    page.wait_for_function("zoom => slidekick.map.getZoom() > zoom", arg=zoom, timeout=WAIT_MS)
    field = page.locator("#region textarea, #region input").first
    field.fill("10,20,100,80")
    settled(page, lambda: field.press("Enter"))
    assert page.evaluate("slidekick.state.region.box.join()") == "10,20,100,80"


class TestDirectRequests:
    """Events are private on the page, yet HTTP reaches them: they must check what they are given."""

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

    @pytest.fixture
    def name(self, bench):
        return bench.sessions().begin().name

    def test_the_upload_event_reads_no_file_of_the_server(self, address, opened, name):
        for path in ("/etc/hostname", str(opened / "a.png")):
            file = {"path": path, "meta": {"_type": "gradio.FileData"}}
            done = self.send(address, self.events(address)["_open_upload"], [name, file, None])
            assert not done["success"]

    @pytest.mark.parametrize(
        "path", ["../outside.png", "case/link.png", "case/../outside.png", "/etc/hostname", None, 3]
    )
    def test_the_file_event_opens_nothing_outside(self, address, name, path):
        done = self.send(address, self.events(address)["_open_file"], [name, path, None])
        assert not done["success"]

    @pytest.mark.parametrize("name", ["", "x", "../../etc", "0" * 32 + "/..", None, 3, ["x"]])
    def test_a_session_is_not_guessed(self, address, name):
        done = self.send(address, self.events(address)["_choose"], [name, "1"])
        assert not done["success"]

    @pytest.mark.parametrize(
        "told", ["", "x", "[]", "{}", '{"kind": 3}', '{"kind": "point", "x": "a", "y": 0, "inside": 1}', "[" * 9999,
                 '{"kind": "point", "x": 1e999, "y": 0, "inside": 1}', '{"kind": "mark"}',
                 '{"kind": "mark", "id": {}}'],
    )  # fmt: skip
    def test_what_the_viewer_says_is_checked(self, address, name, told):
        done = self.send(address, self.events(address)["said"], [name, told, None])
        assert "Traceback" not in json.dumps(done)
        assert done["success"] == (told == '{"kind": 3}'), done

    def test_a_huge_question_is_refused(self, address, name):
        done = self.send(address, self.events(address)["answer"], ["x" * 100_000, name])
        assert not done["success"]
        assert "shorten it" in json.dumps(done)

    @pytest.mark.parametrize("path", ["/etc/hostname", "pyproject.toml", "../../etc/hostname"])
    def test_files_of_the_server_are_not_served(self, address, path):
        assert httpx.get(f"{address}gradio_api/file={path}").status_code in (403, 404)

    def test_the_viewers_addresses_serve_their_session_alone(self, address, name):
        for path in (
            f"view/{name}/0/tiles/0/0_0.jpeg",
            f"view/{'0' * 32}/0/tiles/0/0_0.jpeg",
            "view/x/0/shapes/0",
            f"view/{name}/0/at?x=1&y=1",
            "workbench/..%2fpage.py",
            "workbench/page.py",
            "workbench/none.js",
        ):
            assert httpx.get(f"{address}{path}").status_code in (400, 404), path
