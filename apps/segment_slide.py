"""`slidekick segment SLIDE --concept WORDS --out DIR` where the file is a whole slide: the words' way, tile by tile.

Progress and warnings go to stderr, numbers on screen, features, label pictures and statistics into --out. What tiles
show is kept there until all is written, so that a run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Iterator

from slidekick.apps import loading
from slidekick.data.errors import InputError
from slidekick.data.memory import fitting

MOST_WORKERS = 8  # by default
WORKER_BYTES = 400_000_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `slidekick segment` that only a whole slide has."""
    parser.add_argument(
        "--whole",
        action="store_true",
        help="look at all of the tissue tile by tile, as is done by itself for whole slides",
    )
    parser.add_argument(
        "--workers", type=int, metavar="N", help="processes that look at a whole slide's tiles (default: one a core)"
    )


def is_slide(args: argparse.Namespace) -> bool:
    """Whether the picture is to be looked at tile by tile. Raises InputError where it is and cannot be."""
    if not args.whole and (args.region is not None or _prompted(args)):
        return False
    if args.region is not None:
        raise InputError("--whole and --region exclude each other; give one of them")
    if not args.whole and not _is_slide(args):
        return False
    if _prompted(args) or not args.concept:
        raise InputError("a whole slide is looked at by words; give --concept, or a --region for clicks and boxes")
    if args.zarr:
        raise InputError("--zarr is for one picture; the labels of a whole slide are written as pyramidal OME-TIFF")
    if args.out is None:
        raise InputError("a whole slide is written piece by piece into a folder; give --out DIR, or a --region")
    if args.workers is not None and args.workers < 1:
        raise InputError(f"--workers {args.workers}: give 1 or more")
    return True


def run(args: argparse.Namespace) -> int:
    """Segment a whole slide, print, and write."""
    from slidekick.apps.prompting import scale_warnings
    from slidekick.apps.segment import unknown_lines
    from slidekick.data.slide import open_slide
    from slidekick.grounding import Segmentor, segment_slide
    from slidekick.grounding.specialists import with_specialists

    with open_slide(args.image) as slide, _bars() as progress:
        warnings = []
        if not slide.state_scale(args.mpp) and args.mpp is not None:
            warnings.append("--mpp is left aside: a whole slide is looked at at the scale of each concept")
        segmentor = Segmentor.from_pretrained(args.weights)
        vocabulary = with_specialists(segmentor).vocabulary
        matches = {words: vocabulary.match(words) for words in args.concept}
        for name in (match.concept.name for match in matches.values() if match.concept):
            if name not in segmentor.vocabulary.concepts:
                raise InputError(
                    f"{name} is a specialist's, which looks at pictures, not at whole slides; give --region"
                )
        warnings += unknown_lines([(words, match.concept, match.nearest) for words, match in matches.items()])
        known = {match.concept.name: words for words, match in reversed(matches.items()) if match.concept}
        warnings += scale_warnings(list(known), vocabulary, slide.mpp, whole=True)
        for line in warnings:
            _tell(line)
        words = [words for words, match in matches.items() if not match.concept or known[match.concept.name] == words]
        workers = args.workers or fitting(min(os.cpu_count() or 1, MOST_WORKERS), WORKER_BYTES)
        result = segment_slide(
            slide, segmentor, words, args.out, workers=workers, progress=progress, tell=_tell
        )  # fmt: skip
    files = {kind: str(path) for kind, path in result.files.items()}
    facts = result.to_dict() | {"files": files, "warnings": warnings}
    print(json.dumps(facts, indent=2) if args.json else as_text(facts))
    return 0


def as_text(facts: dict) -> str:
    """A table for people: one row a concept, then the files written."""
    head = ("concept", "found", "count", "area", "of tissue", "density", "diameter", "presence")
    rows = [head] + [_row(finding) for finding in facts["findings"]]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    if not facts["tiles"]:
        lines.append("No tissue was seen on the slide.")
    lines += [f"{kind}: {path}" for kind, path in facts["files"].items()]
    return "\n".join(lines)


def _row(finding: dict) -> tuple[str, ...]:
    if not finding["known"]:
        nearest = f" (nearest known: {finding['nearest']})" if finding["nearest"] else ""
        return finding["concept"], f"unknown{nearest}", "", "", "", "", "", ""
    presence = f"{finding['presence']:.2f}"
    if not finding["found"]:
        return finding["concept"], "no", "", "", "", "", "", presence
    whole = finding["whole"]
    area, share = f"{whole['area_um2'] / 1e6:,.4f} mm²", f"{100 * whole['share']:.1f} %"
    density = f"{whole['density_per_mm2']:,.0f} /mm²" if whole["density_per_mm2"] is not None else ""
    diameter = f"{whole['mean_diameter_um']:.1f} µm" if whole["mean_diameter_um"] is not None else ""
    return finding["concept"], "yes", f"{whole['count']:,}", area, share, density, diameter, presence


def _prompted(args: argparse.Namespace) -> bool:
    return bool(args.point or args.box or args.prompts)


def _is_slide(args: argparse.Namespace) -> bool:
    from slidekick.data.slide import open_slide

    with open_slide(args.image) as slide:
        return loading.is_slide(slide, args.mpp)


@contextlib.contextmanager
def _bars() -> Iterator:
    """A function that shows how far each stage is, on stderr where that is a terminal."""
    from tqdm import tqdm

    bars: dict[str, tqdm] = {}

    def progress(what: str, done: int, total: int) -> None:
        if what not in bars:
            unit = " tiles" if what == "tiles" else " rows"
            bars[what] = tqdm(desc=what, initial=done, total=total, unit=unit, disable=None, file=sys.stderr)
        bars[what].update(done - bars[what].n)

    try:
        yield progress
    finally:
        for bar in bars.values():
            bar.close()


def _tell(line: str) -> None:
    print(f"slidekick: {line}", file=sys.stderr)
