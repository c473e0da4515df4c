"""Whole-slide work of ours, each piece measured in a process of its own: `python -m … TASK JOB` prints a line of JSON.

JOB is a JSON file that slides.py writes; what a task reads from it stands in its docstring.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from pathlib import Path

from slidekick.apps.bench.figures import peak_mb
from slidekick.apps.bench.smoke import seconds

MODEL = "mini"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one task and print what it measured; 2 where it could not."""
    from slidekick.data.errors import SlidekickError

    task, job = sys.argv[1:] if arguments is None else arguments
    try:
        with redirect_stdout(sys.stderr):  # libraries may print; the figures stand alone
            figures = TASKS[task](json.loads(Path(job).read_text(encoding="utf-8")))
    except SlidekickError as error:
        print(f"slidekick: {error}", file=sys.stderr)
        return 2
    print(json.dumps(figures))
    return 0


def tiles(job: dict) -> dict:
    """As `slide_peers.peer_tiles`: `read_tiles`, and the bare decoding of the file's own tiles below it ("raw").

    job: slide, places (x, y), size, scale (level-0 pixels per pixel), mpp, workers, compared.
    """
    import numpy as np

    from slidekick.data.slide import open_slide
    from slidekick.data.tiles import TileGrid, read_tiles

    extent = job["size"] * job["scale"]
    grid = TileGrid(np.array(job["places"], np.int64), job["size"], 0, job["mpp"], (extent, extent))

    def read(threads: int) -> float:
        with open_slide(job["slide"]) as slide:
            slide.read(grid.region(0), (grid.size_px, grid.size_px))
            counted: list[int] = []
            spent = seconds(lambda: counted.append(sum(1 for _ in read_tiles(slide, grid, threads))))
            return counted[0] / spent

    with open_slide(job["slide"]) as slide:
        chosen = range(0, len(grid), max(1, len(grid) // job["compared"]))
        shown = [slide.read(grid.region(index), (grid.size_px, grid.size_px)) for index in chosen]
    counts = sorted({1, job["workers"]})
    ways = {f"{threads} threads": read(threads) for threads in counts}
    raw = {f"{threads} threads": _raw(job, threads) for threads in counts}
    mean = float(np.mean([pixels.mean() for pixels in shown]))
    return {"mean": mean, "number": len(grid), "tiles_s": ways, "raw_s": raw}


def _raw(job: dict, threads: int) -> float:
    """Tiles a second where all of the file's tiles below them are fetched and decoded, and nothing is made of them."""
    from concurrent.futures import ThreadPoolExecutor

    import imagecodecs
    import tifffile

    with tifffile.TiffFile(job["slide"]) as file, open(job["slide"], "rb") as stream:
        page = file.pages.first
        across, per = -(-page.imagewidth // page.tilewidth), job["size"] * job["scale"] // page.tilewidth
        fetched = []
        for x, y in job["places"]:
            column, row = x // page.tilewidth, y // page.tilelength
            for index in ((row + j) * across + column + i for j in range(per) for i in range(per)):
                stream.seek(page.dataoffsets[index])
                fetched.append(stream.read(page.databytecounts[index]))

    def decode(data: bytes) -> None:
        imagecodecs.jpeg8_decode(data, colorspace="YCBCR", outcolorspace="RGB")

    def work() -> None:
        with ThreadPoolExecutor(threads) as pool:
            for _ in pool.map(decode, fetched):
                pass

    return len(job["places"]) / seconds(work)


def read_memory(job: dict) -> dict:
    """Peak memory of finding the tissue and reading all of its tiles. job: slide, size, mpp, workers."""
    from slidekick.data.slide import open_slide
    from slidekick.data.tiles import read_tiles, tile_grid
    from slidekick.data.tissue import tissue_mask

    with open_slide(job["slide"]) as slide:
        started = peak_mb()
        grid = tile_grid(slide, job["size"], job["mpp"], tissue=tissue_mask(slide), least_tissue=0.5)
        masked = peak_mb()
        number = sum(1 for _ in read_tiles(slide, grid, job["workers"]))
    return {"tiles": number, "start_mb": started, "mask_mb": masked, "peak_mb": peak_mb()}


def segment(job: dict) -> dict:
    """Seconds and peak memory of `segment_slide`. job: slide, workers, began, and cores (all where it does not say).

    start_s: from `began` (the epoch's seconds) until the first tile is looked at; tiles_s: until the last; rest_s:
    joining and writing.
    """
    from slidekick.data.slide import open_slide
    from slidekick.grounding import Segmentor, segment_slide

    if "cores" in job and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: job["cores"]])
    at: list[float] = []

    def progress(what: str, done: int, total: int) -> None:
        if what == "tiles" and done in (1, total):
            at.append(time.time())

    with tempfile.TemporaryDirectory() as out, open_slide(job["slide"]) as slide:
        segmentor = Segmentor.from_pretrained()
        found = segment_slide(
            slide, segmentor, ["nucleus"], Path(out), workers=job["workers"], progress=progress
        )  # fmt: skip
    first, last, end = at[0], at[-1], time.time()
    return {
        "tiles": found.tiles,
        "count": found.findings[0].whole.count,
        "start_s": first - job["began"],
        "tiles_s": last - first,
        "rest_s": end - last,
        "total_s": end - job["began"],
        "peak_mb": peak_mb(),
    }


def tissue(job: dict) -> dict:
    """Seconds of reading and encoding each slide's tiles, nothing kept. job: slides, rounds, workers."""
    from slidekick.copilot.slide_reader import load_slide_reader
    from slidekick.copilot.slide_tiles import slide_tiles
    from slidekick.data.slide import open_slide

    reader = load_slide_reader()

    def look(path: str) -> tuple[int, float]:
        with open_slide(path) as slide:
            begun = time.perf_counter()
            found = slide_tiles(slide, reader.tower, keep=False, threads=job["workers"])
            return len(found), time.perf_counter() - begun

    look(job["slides"][0])  # makes the graph where it is not there, and plans memory
    runs = [[look(path) for path in job["slides"]] for _ in range(job["rounds"])]
    best = [min(run[index] for run in runs) for index in range(len(job["slides"]))]
    return {"tiles": [number for number, _ in best], "seconds": [spent for _, spent in best]}


def question(job: dict) -> dict:
    """A question about a slide as `slidekick ask` answers it, then another to the same process.

    job: slide, questions (two), began. cold_s: from `began` on; warm_s: opening, surveying and answering once more.
    """
    from slidekick.apps.loading import load_copilot
    from slidekick.data.slide import open_slide

    copilot = load_copilot(MODEL)
    loaded = time.time()

    def ask(words: str) -> tuple[str, int]:
        with open_slide(job["slide"]) as slide:
            seen = copilot.survey(slide)
            return copilot.ask(seen, words).text, len(seen.tiles)

    text, number = ask(job["questions"][0])
    cold = time.time() - job["began"]
    warm = seconds(lambda: ask(job["questions"][1]))
    load_s = loaded - job["began"]
    return {"cold_s": cold, "load_s": load_s, "warm_s": warm, "peak_mb": peak_mb(), "tiles": number, "text": text}


TASKS: dict[str, Callable[[dict], dict]] = {
    "tiles": tiles,
    "read-memory": read_memory,
    "segment": segment,
    "tissue": tissue,
    "question": question,
}

if __name__ == "__main__":
    sys.exit(main())
