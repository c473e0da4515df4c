"""`slidekick vocabulary`: the words that the segmentor knows, as a table, as JSON (the card itself) or as a page.

Only the card is read, no weights; concepts of installed specialists stand beside its own.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

COLUMNS = ("level", "concept", "synonyms", "kind", "train", "test", "dice", "µm/px")
RIGHT = {"train", "test", "dice"}  # columns of numbers
NARROWEST = 12  # characters for the synonyms on a small terminal


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `slidekick vocabulary`."""
    parser.add_argument("--weights", type=Path, metavar="DIR", help="a segmentor of your own (default: ours)")
    parser.add_argument("--json", action="store_true", help="print the card as JSON in place of the table")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page to read and search in a browser")


def run(args: argparse.Namespace) -> int:
    """Read the card; print it, and write the page where asked."""
    from slidekick.data.files import write_atomic
    from slidekick.grounding.card import read_card, vocabulary_page
    from slidekick.grounding.segmentor import WEIGHTS
    from slidekick.grounding.specialists import extended, installed_specialists

    vocabulary = extended(read_card(args.weights or WEIGHTS), installed_specialists())
    if args.html:
        name = args.weights.resolve().name if args.weights else "Slidekick's segmentor"
        write_atomic(args.html, vocabulary_page(vocabulary, name))
    if args.json:
        print(json.dumps(json.loads(vocabulary.dumps()), indent=2))
    else:
        print(f"page: {args.html}" if args.html else as_text(vocabulary, shutil.get_terminal_size((120, 24)).columns))
    return 0


def as_text(vocabulary, width: int) -> str:
    """A table of `width` characters where that is enough; synonyms are shortened to fit."""
    from slidekick.grounding.card import in_order

    rows = [COLUMNS]
    for level, entries in in_order(vocabulary).items():
        rows += [_row(level if number == 0 else "", entry) for number, entry in enumerate(entries)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    words = COLUMNS.index("synonyms")
    widths[words] = min(widths[words], max(NARROWEST, width - sum(widths) + widths[words] - 2 * (len(COLUMNS) - 1)))
    lines = []
    for row in rows:
        cells = zip(COLUMNS, row, widths, strict=True)
        lines.append("  ".join(_set(name, cell, size) for name, cell, size in cells).rstrip())
    lines.append("train, test: pictures that show it; dice: on the held-out ones; µm/px: the scales it is looked at.")
    return "\n".join(lines)


def _row(level: str, entry) -> tuple[str, ...]:
    from slidekick.grounding.card import scale_text

    concept = entry.concept
    dice = "–" if concept.dice is None else f"{concept.dice:.2f}"
    return (
        level,
        "  " * entry.depth + concept.name,
        ", ".join(concept.synonyms),
        concept.kind,
        str(concept.train),
        str(concept.test),
        dice,
        scale_text(concept.scale),
    )


def _set(column: str, cell: str, size: int) -> str:
    if len(cell) > size:
        cell = cell[: size - 1].rstrip(" ,") + "…"
    return cell.rjust(size) if column in RIGHT else cell.ljust(size)
