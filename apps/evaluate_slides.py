"""`slidekick evaluate slides COMPOSED`: whole slides whose truth is known, as `slidekick compose` wrote them.

With --train DATA the usual baseline stands beside it: mean features of a slide and linear models.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from importlib.util import find_spec
from pathlib import Path

from slidekick.apps.loading import add_model, load_copilot
from slidekick.data.errors import InputError
from slidekick.data.files import check_writable, write_atomic

PLANS, SEED, SIZES = 400, 1, {"rows": (14, 40), "columns": (14, 40)}  # training slides of the baseline


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `slidekick evaluate slides`."""
    parser.add_argument("folder", type=Path, metavar="COMPOSED", help="a folder that `slidekick compose` wrote")
    add_model(parser)
    parser.add_argument("--train", type=Path, metavar="DATA", help="folder of sets to train the baseline on (minutes)")
    parser.add_argument(
        "--ask",
        type=int,
        default=6,
        metavar="N",
        help="questions put to the language model for each slide (default: 6)",
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder for figures.json and samples.jsonl")
    parser.add_argument("--json", action="store_true", help="print JSON in place of a table")


def run(args: argparse.Namespace) -> int:
    """Evaluate, print, and write where asked."""
    from tqdm import tqdm

    if args.ask < 0:
        raise InputError(f"--ask {args.ask}: give 0 or more questions")
    if args.train and find_spec("sklearn") is None:
        raise InputError("sklearn is not installed; pip install 'slidekick[train]' brings it")
    if args.out:
        check_writable(args.out)
    from slidekick.rl.evaluation.slides import SCHEMA, composed_rows, judge_slides, slide_figures

    number, begun = len(composed_rows(args.folder)), time.perf_counter()
    copilot = load_copilot(args.model, args.segmentor, extended=False, runtime=args.runtime)
    judged = judge_slides(copilot, args.folder, args.ask, _baseline(args, copilot) if args.train else None)
    rows = list(tqdm(judged, total=number, desc="slides", disable=None, file=sys.stderr))
    figures = slide_figures(rows)
    seconds = round(time.perf_counter() - begun, 1)
    result = {"schema": SCHEMA, "slides": number, "seconds": seconds, "metrics": figures, "versions": copilot.versions}
    if args.out:
        write_atomic(args.out / "figures.json", json.dumps(result, indent=1))
        write_atomic(args.out / "samples.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    print(json.dumps(result, indent=1) if args.json else as_text(result))
    return 0


def _baseline(args: argparse.Namespace, copilot):
    from slidekick.data.items import load_items
    from slidekick.rl.evaluation.slides import Baseline
    from slidekick.rl.slide_bags import GLASS_NAME, Bags, tissue_pools

    items = load_items(args.train, split="train")
    kept = args.out / "pools-train.npz" if args.out else None
    pools = tissue_pools(items, copilot.reader.tower, SEED, kept)
    tissues = [name for name in pools if name != GLASS_NAME]
    bags = Bags(items, pools, tissues, **SIZES)
    return Baseline([bags.draw(number) for number in range(PLANS)], tissues)


def as_text(result: dict) -> str:
    """A table for people."""
    from slidekick.data.statistics import brief

    lines = [f"{name:24}{brief(one):>28} n={one['n']}" for name, one in result["metrics"].items()]
    lines.append(f"{result['slides']} slides; {result['seconds']} s; 95 % bootstrap intervals. Research use only.")
    return "\n".join(lines)
