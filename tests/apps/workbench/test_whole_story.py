"""The real program on real tissue, in a browser: open, zoom, box, ask, look, correct, report, take away; killed and
started anew, and all of it is there."""

import io
import json
import re
import signal

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("gradio")
pytest.importorskip("playwright.sync_api")

from browsing import ask, loaded, on_screen, press, settled

from slidekick.apps.bench.servers import running
from slidekick.apps.serving.running import taken

MODEL_MS = 300_000  # of mini on a busy machine
FILES = {"HTML": b"<!doctype html>", "Word": b"PK", "Markdown": b"# ", "JSON": b"{", "FHIR": b"{"}
# Where the middle of the largest object lies that the region does not cut, in level-0 pixels.
LARGEST = """() => { const boxes = slidekick.overlay.concepts[0].shapes.boxes, all = [];
  for (let at = 0; at < boxes.length; at += 4) all.push([...boxes.subarray(at, at + 4)]);
  const edge = [0, 1, 2, 3].map(i => Math[i < 2 ? "min" : "max"](...all.map(one => one[i])));
  const whole = all.filter(one => one.every((value, i) => value !== edge[i]));
  const area = one => (one[2] - one[0]) * (one[3] - one[1]);
  const one = whole.sort((a, b) => area(b) - area(a))[0];
  return [(one[0] + one[2]) / 2, (one[1] + one[3]) / 2]; }"""


def chatting(port, sessions):
    """`slidekick chat` in a process of its own, which is killed at the end as `kill -9` does it."""
    return running("chat", "--no-browser", "--sessions", sessions, port=port, end=signal.SIGKILL)


def seen(page):
    """What the viewer shows, uint8 (H, W, 3)."""
    return np.asarray(Image.open(io.BytesIO(page.locator("#viewer").screenshot())).convert("RGB"), np.int16)


def legend(page):
    return page.locator("#viewer-legend").get_by_text(re.compile(r"^\s*nucleus: \d+")).inner_text(timeout=MODEL_MS)


def without_mask(page, work):
    """`work()` while the mask of nuclei is hidden."""
    tick = page.locator("#viewer-legend input[type=checkbox]").first
    tick.uncheck()
    page.wait_for_timeout(400)
    told = work()
    tick.check()
    page.wait_for_timeout(400)
    return told


def test_from_a_slide_to_a_report_and_through_a_kill(browser, tmp_path):
    with taken("127.0.0.1", range(8700, 8800)) as place:
        port = place.getsockname()[1]
    page = browser.new_page(viewport={"width": 1280, "height": 1000})
    with chatting(port, tmp_path / "sessions"):
        page.goto(f"http://127.0.0.1:{port}/")
        loaded(page)
        count = look_and_ask(page)
        correct(page)
        words = report(page, count)
        page.reload()
        found_again(page, count, words)
        page.get_by_role("tab", name="Conversation").click()
        ask(page, "Is there a glomerulus?")
        page.wait_for_timeout(100)  # an answer is in the making
    page.goto("about:blank")  # the page left behind would load itself anew once the server is back, across our visit
    with chatting(port, tmp_path / "sessions"):
        page.goto(f"http://127.0.0.1:{port}/")
        found_again(page, count, words)
    page.close()


def look_and_ask(page):
    """Open, zoom, draw a box, ask, and find the mask on the nuclei in the box and nowhere else."""
    settled(page, lambda: page.locator("#sample-he").click())
    zoom = page.evaluate("slidekick.map.getZoom()")
    page.locator("#viewer").focus()
    page.keyboard.press("+")
    page.wait_for_function("zoom => slidekick.map.getZoom() > zoom", arg=zoom, timeout=MODEL_MS)
    page.wait_for_timeout(800)
    middle = page.evaluate("(one => [one.lng, one.lat])(slidekick.map.getCenter())")
    corners = [on_screen(page, middle[0] + way * 60, middle[1] + way * 45) for way in (-1, 1)]
    press(page, "box")
    page.mouse.move(*corners[0])
    page.mouse.down()
    page.mouse.move(*corners[1], steps=5)
    settled(page, page.mouse.up)
    ask(page, "How many nuclei are there?")
    page.locator("#chat").get_by_text("Evidence: ").first.wait_for(timeout=MODEL_MS)
    page.wait_for_timeout(800)
    count = int(legend(page).split()[-1])
    assert count > 3
    assert f"There are {count} nuclei." in page.locator("#chat").inner_text()

    box = page.locator("#viewer").bounding_box()
    (left, top), (right, bottom) = (np.array(one) - (box["x"], box["y"]) for one in corners)
    shown, bare = seen(page), without_mask(page, lambda: seen(page))
    changed = np.abs(shown - bare).max(2) > 20
    within = np.zeros(changed.shape, bool)
    within[round(top) - 4 : round(bottom) + 4, round(left) - 4 : round(right) + 4] = True
    assert not changed[~within].any(), "the mask lies in the box"
    assert 0.05 < changed[within].mean() < 0.8
    assert bare[changed].mean() < bare[within & ~changed].mean() - 10, "and on what is dark there"
    return count


def correct(page):
    """A click takes the largest object away; undone, it is back."""
    before, place = legend(page), page.evaluate(LARGEST)
    assert measured_at(page, place)[0] == "nucleus"
    press(page, "out")
    settled(page, lambda: page.mouse.click(*on_screen(page, *place)))
    assert measured_at(page, place) == []
    settled(page, lambda: page.locator("#undo").click())
    assert legend(page) == before
    assert measured_at(page, place)[0] == "nucleus"


def measured_at(page, place):
    """What is told of the object at a place; nothing where there is none."""
    asking = "([x, y]) => fetch(`${slidekick.state.base}/at?x=${x}&y=${y}`).then(reply => reply.json())"
    return page.evaluate(asking, place)["lines"]


def report(page, count):
    """Draft, and take every file away; the report's words."""
    page.get_by_role("tab", name="Report").click()
    page.locator("#draft").click()
    page.locator("#report .report-words").wait_for(timeout=MODEL_MS)
    words = page.locator("#report .report-words").inner_text()
    assert f"There are {count} nuclei" in words
    files = {}
    for name, start in FILES.items():
        with page.expect_download(timeout=MODEL_MS) as caught:
            page.get_by_role("link", name=name, exact=True).click()
        files[name] = caught.value.path().read_bytes()
        assert files[name].lstrip().lower().startswith(start.lower()), name
    assert f"There are {count} nuclei".encode() in files["Markdown"]
    assert json.loads(files["FHIR"])["status"] == "preliminary"
    return words


def found_again(page, count, words):
    """Conversation, mask and report are there."""
    loaded(page)
    page.locator("#chat").get_by_text(f"There are {count} nuclei.").first.wait_for(timeout=MODEL_MS)
    assert legend(page) == f"nucleus: {count}"
    page.get_by_role("tab", name="Report").click()
    page.locator("#report .report-words").wait_for(timeout=MODEL_MS)
    assert page.locator("#report .report-words").inner_text() == words
