"""The workbench in a browser: first paint, how long its thread stands still, frames a second over many objects.

A browser draws in software on these processors, so frames are what a machine without a GPU shows; the rest of what the
page does is the same everywhere. `python -m slidekick.apps.bench.page [--objects 50000] [--json] [--shots DIR]`.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from slidekick.apps.bench.table import Row, as_text, machine, versions

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run"]
SIDE = 8192  # px of the slide that objects are drawn over
LOADS, PANS = 5, 8
PAINT, STALL = "first paint, median of new visits", "longest stall while answering"
PANNING, SLOWEST, LONGEST = (
    "panning over objects",
    "panning, slowest twentieth of frames",
    "longest frame while panning",
)
# name, unit, what it is held against, least and most of the ratio
GOALS = (
    (PAINT, "ms", 2000.0, None, 1.0),
    (STALL, "ms", 200.0, None, 1.0),
    (PANNING, "frames/s", 20.0, 1.0, None),
    (SLOWEST, "frames/s", 20.0, 1.0, None),
    (LONGEST, "ms", 200.0, None, 1.0),
)
PACKAGES = ("slidekick", "gradio", "xstatic-leaflet", "playwright")
QUESTION = "How many nuclei are there?"
PAINTED = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime"
WATCH = """() => { window.stalls = [];
  new PerformanceObserver(all => all.getEntries().forEach(one => window.stalls.push(one.duration)))
    .observe({ type: 'longtask', buffered: false }); }"""
PAN = """async () => { const times = []; let last = performance.now(), going = true;
  const frame = now => { times.push(now - last); last = now; if (going) requestAnimationFrame(frame); };
  requestAnimationFrame(frame);
  for (let i = 0; i < %d; i++) {
    slidekick.map.panBy([i %% 2 ? 420 : -420, i %% 3 ? 160 : -160], { animate: true, duration: 0.5, easeLinearity: 1 });
    await new Promise(done => setTimeout(done, 620)); }
  going = false; return times.slice(2); }"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; 2 where there is no browser."""
    parser = argparse.ArgumentParser(
        prog="slidekick.apps.bench.page", description="Measure the workbench in a browser."
    )
    parser.add_argument("--objects", type=int, default=50_000, metavar="N", help="objects drawn over a slide (50000)")
    parser.add_argument("--shots", type=Path, metavar="DIR", help="folder for pictures of the page")
    parser.add_argument("--json", action="store_true", help="print JSON in place of text")
    args = parser.parse_args(arguments)
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        print(f"slidekick: no browser; install one of {', '.join(BROWSERS)}", file=sys.stderr)
        return 2
    told = measured(browser, args.objects, args.shots)
    facts = {"rows": rows_of(told), "figures": told, "versions": versions(PACKAGES), "machine": machine()}
    print(json.dumps(facts, indent=1) if args.json else as_text(facts))
    return 0


def rows_of(told: dict[str, float]) -> list[dict]:
    """The figures that have a goal."""
    return [
        Row("page", name, unit, told[name], "goal", goal, least=least, most=most).to_dict()
        for name, unit, goal, least, most in GOALS
    ]


def measured(browser: str, objects: int, shots: Path | None) -> dict[str, float]:
    """Figures of the page, in milliseconds and frames a second."""
    from playwright.sync_api import sync_playwright

    with _served() as (address, sessions), sync_playwright() as tool:
        opened = tool.chromium.launch(executable_path=browser, args=FLAGS)
        told = {PAINT: statistics.median(first_paint(opened, address) for _ in range(LOADS))}
        page = opened.new_page(viewport={"width": 1440, "height": 900})
        page.goto(address)
        page.wait_for_function("window.slidekick && localStorage['slidekick-session']")
        told |= {STALL: answering(page)}
        if shots:
            page.screenshot(path=shots / "answered.png")
        told |= over_objects(page, sessions, objects)
        if shots:
            page.screenshot(path=shots / "objects.png")
        opened.close()
    return {name: round(value, 1) for name, value in told.items()}


def first_paint(browser, address: str) -> float:
    """Milliseconds until the page shows something, nothing being cached."""
    with browser.new_context(viewport={"width": 1440, "height": 900}) as visit:
        page = visit.new_page()
        page.goto(address)
        page.wait_for_function(PAINTED)
        return page.evaluate(PAINTED)


def answering(page) -> float:
    """The longest time that the page's thread stood still while a sample was opened before, and a question answered."""
    page.locator("#sample-he").click()
    page.wait_for_function("(document.getElementById('viewer').dataset.ready || '') !== ''", timeout=60_000)
    page.wait_for_timeout(1500)
    page.evaluate(WATCH)
    box = page.locator("#question textarea, #question input").first
    box.fill(QUESTION)
    box.press("Enter")
    page.locator("#chat").get_by_text("Evidence: ").first.wait_for(timeout=120_000)
    page.wait_for_timeout(1000)
    return max(page.evaluate("window.stalls"), default=0.0)


def over_objects(page, sessions, objects: int) -> dict[str, float]:
    """Frames a second while a slide with many objects is panned: mean, and the slowest twentieth."""
    session = sessions.get(next(iter(sessions._open)))
    session.open("folder:slides/large.tif")
    _strew(session.sheet.layers, objects)
    session.keep()
    page.reload()
    page.wait_for_function("window.slidekick?.overlay?.concepts?.[0]?.shapes", timeout=60_000)
    page.evaluate("slidekick.map.setView([4096, 4096], slidekick.map.last - 2, { animate: false })")
    page.wait_for_timeout(2500)
    seen = page.evaluate("[...slidekick.overlay.concepts[0].shapes.within(0, 0, 8192, 8192)].length")
    times = sorted(page.evaluate(PAN % PANS))
    slow = times[-max(1, len(times) // 20) :]
    return {
        "objects drawn": seen,
        PANNING: 1000 * len(times) / sum(times),
        SLOWEST: 1000 * len(slow) / sum(slow),
        LONGEST: times[-1],
    }


def _strew(layers, count: int) -> None:
    """Octagons of 12 px, evenly strewn, as a layer named nucleus."""
    import numpy as np

    from slidekick.apps.workbench.layers import Layer

    turns = np.linspace(0, 2 * np.pi, 9)
    ring = np.stack([6 * np.cos(turns), 6 * np.sin(turns)], 1)
    places = np.random.default_rng(0).uniform(10, SIDE - 10, (count, 2))
    kind = {"objectType": "detection", "classification": {"name": "nucleus"}}
    features = tuple(
        {
            "type": "Feature",
            "geometry": {"type": "Polygon", "coordinates": [(ring + place).tolist()]},
            "properties": kind,
        }
        for place in places
    )
    layers.version += 1
    layers.by_concept = {"nucleus": Layer("nucleus", f"nucleus: {count}", features, layers.version)}


@contextmanager
def _served() -> Iterator[tuple]:
    """The workbench with mini, over a folder with one large slide: its address and sessions."""
    from slidekick.apps.serving.folders import Folders
    from slidekick.apps.serving.guard import Keys
    from slidekick.apps.serving.running import serving
    from slidekick.apps.serving.server import Server, Settings
    from slidekick.apps.workbench.app import build_workbench
    from slidekick.apps.workbench.store import Store
    from slidekick.copilot import Copilot

    with tempfile.TemporaryDirectory() as place:
        (slides := Path(place) / "slides").mkdir()
        _paint(slides / "large.tif")
        server = Server(Copilot.from_pretrained("mini"), Folders([slides]), Keys({}), Settings(body=10_000_000))
        app = build_workbench(server, Store(Path(place) / "sessions"))
        with serving(app) as address:
            yield address, app.state.sessions
        server.worker.end()


def _paint(file: Path) -> None:
    """A tiled pyramid of a sample repeated."""
    import numpy as np
    import tifffile

    from slidekick.data import read_roi
    from slidekick.data.samples import sample

    field = read_roi(sample("he")).pixels[:512, :512]
    whole = np.tile(field, (-(-SIDE // field.shape[0]), -(-SIDE // field.shape[1]), 1))[:SIDE, :SIDE]
    options = {"tile": (256, 256), "photometric": "rgb", "compression": "jpeg"}
    with tifffile.TiffWriter(file) as writer:
        writer.write(whole, subifds=4, **options)
        for level in range(1, 5):
            writer.write(whole[:: 2**level, :: 2**level], subfiletype=1, **options)


if __name__ == "__main__":
    raise SystemExit(main())
