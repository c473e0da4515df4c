"""Speed held by ratios: ours against a peer or against ourselves, on the same machine in the same minute.

Absolute times depend on the machine and are no test; see figures.py for those. Exit 1 where a ratio is beyond its
limit. `python -m slidekick.apps.bench.smoke [--json]` takes about a minute, most of it the peer's.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

from slidekick.apps.bench.table import Row, as_text, machine, versions

PACKAGES = ("slidekick", "torch", "openvino", "segment-anything", "numpy")
SIDE = 1024  # px; what SAM looks at, and a usual region
MPP = 0.25  # µm per px of that region: a scan at 40x
FIVE = ("nucleus", "gland", "tumour", "stroma", "blood vessel")  # cells and tissue: two scales


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the checks and print them; 0 where all hold, 1 where one does not, 2 where they could not run."""
    from slidekick.data.errors import SlidekickError

    parser = argparse.ArgumentParser(prog="slidekick.apps.bench.smoke", description="Check speed by ratios.")
    parser.add_argument("--json", action="store_true", help="print JSON in place of text")
    args = parser.parse_args(arguments)
    try:
        rows = [start_up(), *segmenting()]
    except SlidekickError as error:
        print(f"slidekick: {error}", file=sys.stderr)
        return 2
    facts = {"rows": [row.to_dict() for row in rows], "versions": versions(PACKAGES), "machine": machine()}
    print(json.dumps(facts, indent=2) if args.json else as_text(facts))
    return 0 if all(row.met for row in rows) else 1


def start_up() -> Row:
    """`slidekick --help` against an empty Python: what our imports cost."""
    ours = [sys.executable, "-m", "slidekick.apps.cli", "--help"]
    empty = [sys.executable, "-c", "pass"]

    def run(command: list[str]) -> None:
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True)

    pairs = [(seconds(lambda: run(ours)), seconds(lambda: run(empty))) for _ in range(7)]
    best = [min(column) for column in zip(*pairs, strict=True)]  # what is slower was other work's doing
    why = "1.5 measured; one heavy import passes it"
    return Row("smoke", "slidekick --help", "s", best[0], "python -c pass", best[1], most=4.0, why=why)


def segmenting() -> list[Row]:
    """Five concepts on 1024 x 1024 px against SAM ViT-B's encoder, against one concept, and once more on the same
    picture. All threads; the segmentor forgets the picture where it is to be new."""
    from slidekick.grounding import Segmentor

    segmentor, image = Segmentor.from_pretrained(), demo_picture(SIDE)

    def look(concepts: Sequence[str], new: bool = True) -> float:
        if new:
            segmentor.forget()
        return seconds(lambda: segmentor.segment(image, list(concepts), mpp=(MPP, MPP)))

    look(FIVE)  # the first call plans memory and kernels
    trios = [(look(FIVE), look(FIVE, new=False), look(FIVE[:1])) for _ in range(5)]
    new, again, single = (min(column) for column in zip(*trios, strict=True))  # as above
    five, sam = "segment 5 concepts", f"SAM ViT-B encoder, {SIDE} px"
    return [
        Row("smoke", f"{five}, {SIDE} px", "s", new, sam, sam_seconds(), most=0.08,
            why="0.03 to 0.05 by the processor; a compact encoder is the point, and SAM's masks would come on top"),
        Row("smoke", five, "s", new, "segment 1 concept", single, most=3.0,
            why="a picture is encoded once at each scale, whatever the number of concepts"),
        Row("smoke", f"{five} again", "s", again, five, new, most=0.95,
            why="features of the last picture are kept"),
    ]  # fmt: skip


def demo_picture(side: int):
    """uint8 (side, side, 3): the H&E sample, repeated until it fills the square."""
    import numpy as np

    from slidekick.data import read_roi, sample

    tile = read_roi(sample("he")).pixels
    rows, columns = (-(-side // length) for length in tile.shape[:2])
    return np.ascontiguousarray(np.tile(tile, (rows, columns, 1))[:side, :side])


def sam_seconds() -> float:
    """One forward of SAM ViT-B's image encoder. Random numbers in it: time does not hang on them."""
    import torch
    from segment_anything import sam_model_registry

    torch.manual_seed(0)
    encoder = sam_model_registry["vit_b"]().image_encoder.eval()
    pixels = torch.rand(1, 3, SIDE, SIDE)
    with torch.inference_mode():
        return seconds(lambda: encoder(pixels))


def seconds(work: Callable[[], object]) -> float:
    """Wall-clock seconds of one call."""
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


if __name__ == "__main__":
    sys.exit(main())
