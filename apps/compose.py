"""`slidekick compose DATA --out DIR`: slides painted with labelled pictures, so that what is on them is known exactly.

For questions about whole slides, and for tests of scale, whose truth nobody has drawn by hand. Writes pyramidal TIFFs
and an items.jsonl that tells the tissues, their shares and places. Slides that are there already are kept.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from slidekick.data.errors import InputError
from slidekick.data.files import check_writable

SCHEMA = "slidekick.compose/1"
CELLS = (20, 60)
MOST_CELLS = 600  # a side; at 0.25 µm some 270 000 pixels


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `slidekick compose`."""
    parser.add_argument("data", metavar="DATA", type=Path, help="folder of sets in the items.jsonl layout")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder for the slides")
    parser.add_argument(
        "--split", default="test", choices=("train", "val", "test"), help="whose pictures (default: test)"
    )
    parser.add_argument("--n", type=int, default=10, metavar="N", help="how many slides (default: 10)")
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="other slides with another number (default: 0)"
    )
    parser.add_argument(
        "--cells",
        type=_cells,
        default=CELLS,
        metavar="LEAST,MOST",
        help=f"sides in cells of 112 µm (default: {CELLS[0]},{CELLS[1]})",
    )
    parser.add_argument("--json", action="store_true", help="print JSON in place of text")


def run(args: argparse.Namespace) -> int:
    """Paint the slides, then print what was written."""
    from slidekick.data.composed import compose_slides
    from slidekick.data.items import load_items

    if args.n < 1 or args.seed < 0:
        raise InputError(f"--n {args.n} --seed {args.seed}: give 1 or more slides and a seed of 0 or more")
    check_writable(args.out)
    items = load_items(args.data, split=args.split)
    file = compose_slides(items, args.out, args.n, args.seed, args.split, rows=args.cells, columns=args.cells)
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    facts = {"schema": SCHEMA, "items": str(file), "slides": rows}
    print(json.dumps(facts, indent=2) if args.json else as_text(rows, file))
    return 0


def as_text(rows: list[dict], file: Path) -> str:
    """One line a slide, for people."""
    lines = [
        f"{row['file']}  {row['width']} x {row['height']} px at {row['mpp']} µm  "
        + ", ".join(f"{name} {one['share']:.0%}" for name, one in row["tissues"].items())
        for row in rows
    ]
    return "\n".join([*lines, f"truth: {file}"])


def _cells(text: str) -> tuple[int, int]:
    try:
        least, most = (int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not LEAST,MOST in whole cells, such as 20,60") from None
    if not 8 <= least <= most <= MOST_CELLS:
        raise argparse.ArgumentTypeError(f"{text!r}: give 8 to {MOST_CELLS} cells, the smaller number first")
    return least, most
