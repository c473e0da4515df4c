"""The chat page in a real browser, over a scripted copilot: upload, ask, see steps, evidence and overlay."""

import re
import shutil
import time

import numpy as np
import pytest
from PIL import Image

gradio = pytest.importorskip("gradio")
playwright = pytest.importorskip("playwright.sync_api")

from slidekick.apps.page import build_page, launch  # noqa: E402

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
WAIT_MS = 20_000


@pytest.fixture(scope="module")
def browser():
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip("NO BROWSER: the chat page was not tested; install chromium")
    with playwright.sync_playwright() as tool:
        opened = tool.chromium.launch(executable_path=path, args=FLAGS)
        yield opened
        opened.close()


@pytest.fixture
def address(copilot, tmp_path):
    folder = tmp_path / "opened"
    folder.mkdir()
    Image.fromarray(np.full((64, 96, 3), 150, np.uint8)).save(folder / "inside.png")
    Image.fromarray(np.full((64, 96, 3), 20, np.uint8)).save(tmp_path / "outside.png")
    (folder / "link.png").symlink_to(tmp_path / "outside.png")
    page = build_page(copilot, folder)
    yield launch(page)
    page.close()


@pytest.fixture
def page(browser, address):
    """The page, opened; `page.requests` holds every address that it fetched."""
    page = browser.new_page(viewport={"width": 1280, "height": 1000})
    page.requests = []
    page.on("request", lambda request: page.requests.append(request.url))
    page.goto(address)
    page.get_by_text("Research use only. Not for diagnosis.").wait_for(timeout=WAIT_MS)
    yield page
    page.close()


def upload(page, path):
    page.locator("#upload input[type=file]").set_input_files(str(path))


def shown(page):
    """Waits until the picture is shown."""
    page.locator("#picture img").first.wait_for(timeout=WAIT_MS)


def ask(page, question):
    box = page.locator("#question textarea, #question input").first
    box.fill(question)
    box.press("Enter")


def test_a_question_is_answered_with_step_evidence_and_overlay(page, picture):
    upload(page, picture)
    shown(page)
    plain = [image.get_attribute("src") for image in page.locator("#picture img").all()]
    ask(page, "How many nuclei are there?")
    chat = page.locator("#chat")
    chat.get_by_text("There are 2 nuclei.").first.wait_for(timeout=WAIT_MS)
    chat.get_by_text("count(nucleus)").wait_for(timeout=WAIT_MS)
    chat.get_by_text("Evidence: 1 of 1 backed").wait_for(timeout=WAIT_MS)
    page.locator("#legend").get_by_text("nucleus: 2").wait_for(timeout=WAIT_MS)
    drawn = [image.get_attribute("src") for image in page.locator("#picture img").all()]
    assert drawn != plain
    chat.get_by_text("Evidence: 1 of 1 backed").click()
    chat.get_by_text(re.compile("e2: nucleus, count: 2")).wait_for(timeout=WAIT_MS)


def test_an_absent_structure_is_named_as_not_found(page, picture):
    upload(page, picture)
    shown(page)
    ask(page, "Is there a glomerulus?")
    page.locator("#chat").get_by_text("No glomerulus was found in this picture.").first.wait_for(timeout=WAIT_MS)
    page.locator("#legend").get_by_text("glomerulus: not found").wait_for(timeout=WAIT_MS)


def test_a_number_that_was_not_measured_is_replaced_with_a_warning(page, picture, copilot):
    copilot.engine.number = 77
    upload(page, picture)
    shown(page)
    ask(page, "How many nuclei are there?")
    page.locator("#chat").get_by_text("There are 2 nuclei.").first.wait_for(timeout=WAIT_MS)
    page.locator("#chat").get_by_text(re.compile("77 is not what was measured")).wait_for(timeout=WAIT_MS)


def test_an_example_question_is_asked_when_clicked(page, picture):
    upload(page, picture)
    shown(page)
    page.locator("#chat").get_by_text("How many nuclei are there?").click()
    page.locator("#chat").get_by_text("There are 2 nuclei.").first.wait_for(timeout=WAIT_MS)


def test_a_question_without_a_picture_is_told_what_is_missing(page):
    ask(page, "How many nuclei are there?")
    page.get_by_text("there is no picture yet").wait_for(timeout=WAIT_MS)


def test_a_file_that_is_no_picture_is_told_in_one_line(page, tmp_path):
    fake = tmp_path / "notes.png"
    fake.write_text("no picture")
    upload(page, fake)
    page.get_by_text("no picture or slide known here").wait_for(timeout=WAIT_MS)


def test_text_streams_in_and_stop_ends_it(page, picture, copilot):
    copilot.engine.says, copilot.engine.pause = "The picture shows " + "very " * 200 + "much.", 0.1
    upload(page, picture)
    shown(page)
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
    chat.get_by_text("It shows colon.").first.wait_for(timeout=WAIT_MS)
    assert "much." not in chat.inner_text()


def test_markup_from_user_and_model_stays_text(page, picture, copilot):
    nasty = (
        "<img src=x onerror=alert(document.title)> [link](https://example.org/x.png) ![i](https://example.org/y.png)"
    )
    copilot.engine.says = nasty
    page.on("dialog", lambda dialog: pytest.fail(f"script ran: {dialog.message}"))
    upload(page, picture)
    shown(page)
    ask(page, f"what? {nasty}")
    page.locator("#chat").get_by_text("A reading, not measured").wait_for(timeout=WAIT_MS)
    assert page.locator("#chat img[src='x']").count() == 0
    assert not any("example.org" in url for url in page.requests)


def test_markup_in_a_tool_call_stays_text(page, picture, copilot):
    from slidekick.copilot.grammar import ToolCall

    nasty = "<img src=y onerror=alert(document.title)>"
    copilot.engine.says = ToolCall("count", {"concept": nasty}).to_text()
    upload(page, picture)
    shown(page)
    ask(page, "what?")
    page.locator("#chat").get_by_text(f"count({nasty})").wait_for(timeout=WAIT_MS)
    assert page.locator("#chat img[src='y']").count() == 0


def test_the_page_fetches_nothing_from_elsewhere(page, picture, address):
    upload(page, picture)
    shown(page)
    ask(page, "How many nuclei are there?")
    page.locator("#chat").get_by_text("There are 2 nuclei.").first.wait_for(timeout=WAIT_MS)
    elsewhere = {url for url in page.requests if not url.startswith((address, "data:", "blob:"))}
    assert elsewhere == set()


def test_a_path_under_the_opened_folder_is_opened_and_none_outside(page):
    box = page.locator("#path textarea, #path input").first
    box.fill("inside.png")
    page.locator("#open").click()
    shown(page)
    for bad in ("../outside.png", "link.png", "/etc/hostname"):
        box.fill(bad)
        page.locator("#open").click()
        page.get_by_text(f"{bad}: not in the opened folder").wait_for(timeout=WAIT_MS)


def test_a_new_conversation_keeps_the_picture(page, picture):
    upload(page, picture)
    shown(page)
    ask(page, "How many nuclei are there?")
    page.locator("#chat").get_by_text("There are 2 nuclei.").first.wait_for(timeout=WAIT_MS)
    page.locator("#clear").click()
    page.locator("#chat").get_by_text("Upload a picture or take a sample").wait_for(timeout=WAIT_MS)
    shown(page)
