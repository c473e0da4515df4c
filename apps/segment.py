"""`slidekick segment IMAGE --concept WORDS ...`: find structures by name; numbers on screen, masks into --out.

Writes, all or nothing and only where --out is given: an overlay PNG, QuPath GeoJSON, COCO RLE as JSON, and a label
PNG for each concept that was found.
"""

from __future__ import annotations

import argparse
import io
import json
import re
import sys
from dataclasses import asdict
from pathlib import Path

from slidekick.apps.options import add_picture, add_results, read_picture
from slidekick.data.errors import InputError
from slidekick.data.files import check_writable, write_atomic

SCHEMA = "slidekick.segment/1"
MAX_CONCEPT = 100  # characters; a concept is a word or a few


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `slidekick segment`."""
    add_picture(parser)
    parser.add_argument(
        "--concept",
        action="append",
        required=True,
        metavar="WORDS",
        help="what to look for, such as nucleus or gland; may be given several times",
    )
    parser.add_argument("--weights", type=Path, metavar="DIR", help="a segmentor of your own (default: ours)")
    add_results(parser, "overlay PNG, GeoJSON, RLE JSON and label PNGs")


def run(args: argparse.Namespace) -> int:
    """Segment, print, and write where asked."""
    concepts = checked_concepts(args.concept)
    if args.out:
        check_writable(args.out)
    roi = read_picture(args)
    from slidekick.grounding import Segmentor

    segmentor = Segmentor.from_pretrained(args.weights)
    findings = segmentor.segment(roi.pixels, concepts, mpp=roi.mpp)
    _tell_unknown(findings)
    files = write_results(args.out, roi, findings) if args.out else {}
    facts = describe(roi, findings) | {"files": {kind: str(path) for kind, path in files.items()}}
    print(json.dumps(facts, indent=2) if args.json else as_text(facts))
    return 0


def checked_concepts(concepts: list[str]) -> list[str]:
    """The concepts with single spaces, each once. Raises InputError for an empty or overlong one."""
    clean = [" ".join(concept.split()) for concept in concepts]
    for concept in clean:
        if not re.search(r"\w", concept):
            raise InputError(f"concept {concept!r} is empty; name a structure, such as --concept nucleus")
        if len(concept) > MAX_CONCEPT:
            raise InputError(
                f"concept {concept[:30]!r}… has {len(concept)} characters; give a word or a few, "
                f"{MAX_CONCEPT} characters at most"
            )
    return list(dict.fromkeys(clean))


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


def write_results(folder: Path, roi, findings: list) -> dict[str, Path]:
    """Write the files into `folder`; what each is -> its path. All are made in memory before the first is written."""
    from PIL import Image

    from slidekick.grounding.export import label_png, to_geojson, to_rle
    from slidekick.grounding.overlay import draw_overlay

    stem = Path(roi.source).stem
    overlay = io.BytesIO()
    Image.fromarray(draw_overlay(roi.pixels, findings, roi.mpp)).save(overlay, format="PNG")
    found = [finding for finding in findings if finding.found]
    masks = {finding.concept: to_rle(finding.mask) for finding in found}
    contents = {
        "overlay": (f"{stem}.overlay.png", overlay.getvalue()),
        "geojson": (f"{stem}.geojson", json.dumps(to_geojson(findings, roi))),
        "masks": (f"{stem}.masks.json", json.dumps(masks, indent=1)),
    }
    for finding in found:
        slug = re.sub(r"\W+", "-", finding.concept).strip("-")
        contents[f"labels of {finding.concept}"] = (f"{stem}.{slug}.png", label_png(finding))
    return {kind: write_atomic(folder / name, content) for kind, (name, content) in contents.items()}


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


def _tell_unknown(findings: list) -> None:
    """A warning for each concept outside the vocabulary; InputError where there is no other."""
    lines = [
        f"concept {finding.prompt or finding.concept!r} is not in the segmentor's vocabulary"
        + (f"; nearest known: {finding.nearest}" if finding.nearest else "")
        for finding in findings
        if not finding.known
    ]
    if len(lines) == len(findings):
        raise InputError(lines[0])
    for line in lines:
        print(f"slidekick: {line}", file=sys.stderr)
