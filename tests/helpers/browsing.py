"""What a person does on the workbench's page and looks at there, done to a page of a browser by playwright."""

import io
import re

import numpy as np
from PIL import Image

WAIT_MS = 20_000


def loaded(page):
    """Wait until the page stands and has a session."""
    page.get_by_text("Research use only. Not for diagnosis.").wait_for(timeout=WAIT_MS)
    page.wait_for_function("window.slidekick && localStorage['slidekick-session']", timeout=WAIT_MS)


def settled(page, work):
    """Do something that changes what the viewer shows, and wait until it does."""
    before = page.evaluate("document.getElementById('viewer').dataset.ready || ''")
    work()
    page.wait_for_function(
        "before => (document.getElementById('viewer').dataset.ready || '') !== before", arg=before, timeout=WAIT_MS
    )


def open_file(page, name):
    """A file of the opened folder, by its name in the list."""

    def choose():
        field = page.locator("#file input").first
        if not field.is_visible():
            page.locator("#open button").first.click()
        field.fill(name)
        page.get_by_role("option", name=name).first.click()

    settled(page, choose)
    page.wait_for_function(
        "(all => all.length && all.every(one => one.complete))([...document.querySelectorAll('.leaflet-tile')])",
        timeout=WAIT_MS,
    )
    page.wait_for_timeout(300)


def ask(page, question):
    """Type a question and send it."""
    box = page.locator("#question textarea, #question input").first
    box.fill(question)
    box.press("Enter")


def answered(page, text="There are 2 nuclei."):
    """Wait for an answer that says `text`, and for what it rests on."""
    page.locator("#chat").get_by_text(text).first.wait_for(timeout=WAIT_MS)
    page.locator("#chat").get_by_text(re.compile("Evidence: |A reading, not measured")).last.wait_for(timeout=WAIT_MS)
    page.wait_for_timeout(300)


def colour_at(page, x, y):
    """Mean colour of 3 x 3 px of the screen around a place of the slide (level-0 pixels)."""
    left, top = on_screen(page, x, y)
    shot = page.screenshot(clip={"x": left - 1, "y": top - 1, "width": 3, "height": 3})
    return np.asarray(Image.open(io.BytesIO(shot)).convert("RGB"), float).mean((0, 1))


def on_screen(page, x, y):
    """Where on the screen a place of the slide (level-0 pixels) lies."""
    return page.evaluate(
        "([x, y]) => { const p = slidekick.map.latLngToContainerPoint([y, x]);"
        "const box = document.getElementById('viewer').getBoundingClientRect(); return [p.x + box.x, p.y + box.y]; }",
        [x, y],
    )


def press(page, mode):
    """One of the buttons beside the viewer: box, polygon, in, out."""
    page.locator(f".viewer-tools [data-mode={mode}]").click()
