"""`slidekick segment IMAGE --concept WORDS ...`: find structures by name, or outline what is clicked or boxed.

Numbers on screen, masks into --out: an overlay PNG, QuPath GeoJSON, COCO RLE as JSON, a label PNG for each concept that
was found and, with --zarr, OME-Zarr label images. Each file is written whole or not at all, and only into --out. A
whole slide (`loading.is_slide`) is looked at tile by tile: see `segment_slide.py`.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from slidekick.apps import segment_slide
from slidekick.apps.options import add_picture, add_results, read_picture
from slidekick.apps.prompting import add_prompts, asks_of, check_asked, idle_clicks, named, scale_warnings
from slidekick.data.errors import InputError
from slidekick.data.files import check_writable, write_atomic

SCHEMA = "slidekick.segment/1"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `slidekick segment`."""
    add_picture(parser)
    add_prompts(parser)
    parser.add_argument("--weights", type=Path, metavar="DIR", help="a segmentor of your own (default: ours)")
    add_results(parser, "overlay PNG, GeoJSON, RLE JSON and label PNGs")
    parser.add_argument("--zarr", action="store_true", help="write OME-Zarr label images into --out as well")
    segment_slide.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Segment, print, and write where asked."""
    check_asked(args)
    if args.out:
        check_writable(args.out)
    if segment_slide.is_slide(args):
        return segment_slide.run(args)
    if args.zarr:
        _check_zarr(args.out)
    roi = read_picture(args)
    asks = asks_of(args, roi)
    from slidekick.grounding import Segmentor
    from slidekick.grounding.specialists import with_specialists

    segmentor = with_specialists(Segmentor.from_pretrained(args.weights))
    vocabulary = segmentor.vocabulary
    asks, warnings = named(asks, bool(args.concept), vocabulary)
    findings = [
        finding
        for ask in asks
        for finding in segmentor.segment(
            roi.pixels, ask.concepts, mpp=roi.mpp, points=ask.points or None, boxes=ask.boxes or None
        )
    ]
    known = [finding.concept for finding in findings if finding.known]
    said = [(one.prompt or one.concept, one.known or None, one.nearest) for one in findings]
    warnings += unknown_lines(said) + idle_clicks(asks) + scale_warnings(known, vocabulary, roi.mpp)
    for line in warnings:
        print(f"slidekick: {line}", file=sys.stderr)
    files = write_results(args.out, roi, findings, args.zarr) if args.out else {}
    facts = describe(roi, findings) | {"warnings": warnings, "files": {kind: str(path) for kind, path in files.items()}}
    print(json.dumps(facts, indent=2) if args.json else as_text(facts))
    return 0


def describe(roi, findings: list) -> dict:
    """JSON-ready: the picture, and of each concept whether it was found, its numbers and its mask."""
    from slidekick.grounding.export import to_rle
    from slidekick.grounding.measure import measure

    height, width = roi.pixels.shape[:2]
    return {
        "schema": SCHEMA,
        "picture": {
            "source": roi.source,
            "width": width,
            "height": height,
            "mpp": list(roi.mpp) if roi.mpp else None,
            "region": asdict(roi.region),
        },
        "findings": [
            measure(finding, roi.mpp).to_dict()
            | {
                "prompt": finding.prompt,
                "known": finding.known,
                "nearest": finding.nearest,
                "presence": finding.presence,
                "score": finding.score,
                "rle": to_rle(finding.mask) if finding.found else None,
            }
            for finding in findings
        ],
    }


def as_text(facts: dict) -> str:
    """A table for people: one row a concept, then the files written."""
    head = ("concept", "found", "count", "area", "diameter", "where", "presence")
    rows = [head] + [_row(finding) for finding in facts["findings"]]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    if facts["picture"]["mpp"] is None:
        lines.append("The picture states no scale: sizes in µm need --mpp.")
    lines += [f"{kind}: {path}" for kind, path in facts["files"].items()]
    return "\n".join(lines)


def write_results(folder: Path, roi, findings: list, zarr: bool = False) -> dict[str, Path]:
    """Write the files into `folder`; what each is -> its path. Those that can fail for what they hold come first."""
    from slidekick.apps.ask import overlay_png
    from slidekick.grounding.export import label_png, to_rle, unique_slugs, write_geojson
    from slidekick.grounding.ome_zarr import write_ome_zarr

    stem = Path(roi.source).stem
    overlay = overlay_png(roi, findings)
    found = [finding for finding in findings if finding.found]
    masks = {finding.concept: to_rle(finding.mask) for finding in found}
    contents = {
        "overlay": (f"{stem}.overlay.png", overlay),
        "masks": (f"{stem}.masks.json", json.dumps(masks, indent=1)),
    }
    for finding, slug in zip(found, unique_slugs(finding.concept for finding in found), strict=True):
        contents[f"labels of {finding.concept}"] = (f"{stem}.{slug}.png", label_png(finding))
    files = {}
    if zarr:
        files["zarr"] = write_ome_zarr(folder / f"{stem}.ome.zarr", findings, roi)
    files["geojson"] = write_geojson(folder / f"{stem}.geojson", findings, roi)
    return files | {kind: write_atomic(folder / name, content) for kind, (name, content) in contents.items()}


def _row(finding: dict) -> tuple[str, ...]:
    presence = f"{finding['presence']:.2f}"
    if not finding["known"]:
        nearest = f" (nearest known: {finding['nearest']})" if finding["nearest"] else ""
        return finding["concept"], f"unknown{nearest}", "", "", "", "", ""
    if not finding["found"]:
        return finding["concept"], "no", "", "", "", "", presence
    count = "" if finding["count"] is None else str(finding["count"])
    area = f"{100 * finding['area_fraction']:.1f} %"
    if finding["area_um2"] is not None:
        area += f" = {finding['area_um2']:,.0f} µm²"
    diameter = ""
    if finding["mean_diameter_um"] is not None:
        diameter = f"{finding['mean_diameter_um']:.1f} µm"
    elif finding["mean_diameter_px"] is not None:
        diameter = f"{finding['mean_diameter_px']:.1f} px"
    return finding["concept"], "yes", count, area, diameter, finding["place"], presence


def unknown_lines(said: list[tuple]) -> list[str]:
    """A line for each concept outside the vocabulary; InputError where there is no other.

    said: of each, the words, what is known by them or None, and the nearest known concept or None.
    """
    lines = [
        f"concept {words!r} is not in the segmentor's vocabulary" + (f"; nearest known: {nearest}" if nearest else "")
        for words, known, nearest in said
        if known is None
    ]
    if len(lines) == len(said):
        raise InputError(lines[0])
    return lines


def _check_zarr(out: Path | None) -> None:
    if out is None:
        raise InputError("--zarr writes into a folder; give --out DIR")
    from slidekick.grounding.ome_zarr import need_zarr

    need_zarr()
