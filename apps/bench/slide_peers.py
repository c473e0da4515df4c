"""What others need for the same tiles of the same slide: their readers, each in a virtual environment of its own.

A peer's few lines say how it is asked for a tile, as its documentation has it; the loop around them is the same for
all: all are read by processes that hand nothing back and by threads, of which the faster counts; some once more without
the clock, to compare what they show.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from slidekick.apps.bench.peers import Peer, environment, last_line
from slidekick.data.errors import SourceError

PATIENCE_S = 1200.0  # for one measurement

OPENSLIDE = ("openslide-python==1.4.3", "openslide-bin==4.0.1.1")
FASTSLIDE = Peer(
    "fastslide",
    "0.8.1",
    ("fastslide==0.8.1", "numpy==2.4.3", "opencv-python-headless==4.14.0.94"),
    """
def opened(job):
    import cv2, fastslide
    slide = fastslide.FastSlide.from_file_path(job["slide"])
    side, extent = job["size"], job["size"] * job["scale"]
    def tile(index):
        pixels = slide.read_region(tuple(job["places"][index]), 0, (extent, extent)).numpy()
        return pixels if extent == side else cv2.resize(pixels, (side, side), interpolation=cv2.INTER_AREA)
    return tile
""",
)
TIATOOLBOX = Peer(
    "tiatoolbox",
    "2.1.3",
    (
        *OPENSLIDE,
        *("numpy==2.4.3", "pandas==3.0.2", "pillow==12.1.1", "scikit-image==0.26.0", "scipy==1.17.0", "shapely==2.1.2"),
        *("scikit-learn==1.8.0", "tifffile==2026.2.24", "imagecodecs==2026.1.14", "zarr==3.1.6", "dask==2026.7.0"),
        *("numba==0.65.1", "wsidicom==0.33.1", "pydicom==3.0.1", "simpleitk==2.5.4", "matplotlib==3.11.0"),
        *("opencv-python-headless==4.14.0.94", "defusedxml==0.7.1", "joblib==1.6.0", "click==8.4.1", "psutil==7.2.2"),
        *("pyyaml==6.0.4", "requests==2.34.2", "tqdm==4.70.1", "networkx==3.6.1", "sympy==1.14.0", "jinja2==3.1.6"),
        *("filelock==4.3.1", "fsspec==2026.9.0", "typing_extensions==4.16.0"),
    ),
    """
def opened(job):
    from tiatoolbox.wsicore.wsireader import WSIReader
    slide, side = WSIReader.open(job["slide"]), job["size"]
    return lambda index: slide.read_rect(job["places"][index], (side, side), resolution=job["mpp"], units="mpp")
""",
    bare=("tiatoolbox==2.1.3", "torch==2.13.0", "torchvision==0.28.0"),
)
LAZYSLIDE = Peer(
    "lazyslide",
    "0.13.0",
    ("lazyslide==0.13.0", "wsidata==0.12.0", "torch==2.13.0", "torchvision==0.28.0", "numpy==2.4.6"),
    """
def opened(job):
    import numpy as np
    from wsidata import TileSpec, open_wsi
    from wsidata.io import add_tiles
    slide = open_wsi(job["slide"], store=None)
    spec = TileSpec.from_wsidata(slide, tile_px=job["size"], mpp=job["mpp"])
    add_tiles(slide, "tiles", np.array(job["places"]), spec, np.zeros(len(job["places"]), int))
    tiles = slide.ds.tile_images(tile_key="tiles")
    return lambda index: tiles[index]["image"]
""",
)
HISTOLAB = Peer(
    "histolab",
    "0.7.0",
    (
        *("openslide-python==1.4.7", "openslide-bin==4.0.1.2", "numpy==1.26.4", "scikit-image==0.22.0"),
        *(
            "scipy==1.13.1",
            "pillow==12.1.1",
            "matplotlib==3.10.0",
            "certifi==2026.10.19.post1",
            "importlib-metadata==10.2.0",
            "requests==2.34.2",
        ),
    ),
    """
def opened(job):
    import tempfile
    import numpy as np
    from histolab.slide import Slide
    from histolab.types import CoordinatePair
    slide = Slide(job["slide"], tempfile.gettempdir())
    side, extent = job["size"], job["size"] * job["scale"]
    def tile(index):
        x, y = job["places"][index]
        found = slide.extract_tile(CoordinatePair(x, y, x + extent, y + extent), (extent, extent), level=0).image
        return np.asarray((found if extent == side else found.resize((side, side))).convert("RGB"))
    return tile
""",
    bare=("histolab==0.7.0",),
)
PEERS = (TIATOOLBOX, LAZYSLIDE, HISTOLAB)

LOOP = """
import json, multiprocessing, sys, time
from concurrent.futures import ThreadPoolExecutor

job = json.load(open(sys.argv[1]))
number, workers = len(job["places"]), job["workers"]

def threads(count):
    tile = opened(job)
    tile(0)
    with ThreadPoolExecutor(count) as pool:
        begun = time.perf_counter()
        for pixels in pool.map(tile, range(number)):
            assert pixels.shape == (job["size"], job["size"], 3), pixels.shape
        return number / (time.perf_counter() - begun)

def part(first, gate):
    tile = opened(job)
    tile(first)
    gate.wait()
    for index in range(first, number, workers):
        tile(index)
    gate.wait()

def processes():
    context = multiprocessing.get_context("fork")
    gate = context.Barrier(workers + 1)
    running = [context.Process(target=part, args=(first, gate), daemon=True) for first in range(workers)]
    for process in running:
        process.start()
    gate.wait(120)
    begun = time.perf_counter()
    gate.wait(600)
    return number / (time.perf_counter() - begun)

# Processes first: a reader with threads of its own does not live through a fork once it has been loaded.
paces = {f"{workers} processes": processes(), f"{workers} threads": threads(workers)}
tile = opened(job)
step = max(1, number // job["compared"])
mean = sum(float(tile(index).mean()) for index in range(0, number, step)) / len(range(0, number, step))
print(json.dumps({"mean": mean, "number": number, "tiles_s": paces}))
"""


def peer_tiles(peer: Peer, job: Path) -> dict:
    """{"mean", "number", "tiles_s": way of reading -> tiles a second} of a job (JSON: slide, places, size, scale, mpp,
    workers, compared). Raises SourceError, one line, where the peer cannot be installed or falls over."""
    python = environment(peer)
    command = [str(python), "-c", peer.code + LOOP, str(job)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
    except subprocess.TimeoutExpired as error:
        raise SourceError(f"{peer.told}: not done within {PATIENCE_S:g} s") from error
    if done.returncode:
        raise SourceError(f"{peer.told}: {last_line(done.stderr)}")
    return json.loads(done.stdout.splitlines()[-1])
