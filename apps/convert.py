"""`slidekick convert SOURCE FOLDER --out DIR`: a public data set, as published, into a set to train and measure on.

Nothing is downloaded; docs/data.md tells where each data set is and how its folder looks.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from slidekick.data.sources import SOURCES

TILE = 1024


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `slidekick convert`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = "sources:\n" + "\n".join(f"  {name:<10} {what}" for name, what in SOURCES.items())
    parser.add_argument("source", metavar="SOURCE", choices=SOURCES, help="the data set; see below")
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="where its archives were unpacked")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="the set's folder, new or made by this")
    parser.add_argument(
        "--tile",
        type=int,
        metavar="PX",
        help=f"cut pictures above so many pixels a side, such as {TILE} for bcss (default: as published)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON in place of text")


def run(args: argparse.Namespace) -> int:
    """Convert, then print what was written."""
    from slidekick.data.sources import convert

    about = {**convert(args.source, args.folder, args.out, tile=args.tile), "out": str(args.out)}
    print(json.dumps(about, indent=2, ensure_ascii=False) if args.json else as_text(about))
    return 0


def as_text(about: dict) -> str:
    """What was written, for people."""
    parts = [f"{split} {n['items']} ({n['groups']} groups)" for split, n in about["splits"].items()]
    rows = [
        ("written", f"{about['out']}: {about['items']} pictures"),
        ("split", ", ".join(parts)),
        ("classes", ", ".join(about["classes"].values())),
        ("paper", about["paper"]),
        ("licence", about["licence"]),
    ]
    if about["without_labels"]:
        rows.insert(1, ("unlabelled", f"{about['without_labels']} pictures have no mask, their label only"))
    if about["unknown_classes"]:
        rows.append(("note", f"data/ontology.yaml does not know {', '.join(about['unknown_classes'])}"))
    return "\n".join(f"{name:<10} {value}" for name, value in rows)
