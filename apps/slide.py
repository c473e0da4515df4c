"""`slidekick slide info FILE`: size, scale, objective and levels. Shows no identifiers and no label picture."""

from __future__ import annotations

import argparse
import json
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `slidekick slide`."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    info = actions.add_parser("info", help="size, scale and levels of a file")
    info.add_argument("file", metavar="FILE", type=Path, help="picture or slide")
    info.add_argument("--json", action="store_true", help="print JSON in place of text")


def run(args: argparse.Namespace) -> int:
    """Print what the file holds."""
    from slidekick.data.slide import open_slide

    with open_slide(args.file) as slide:
        facts = describe(slide)
    print(json.dumps(facts, indent=2) if args.json else as_text(facts))
    return 0


def describe(slide) -> dict:
    """JSON-ready facts of an open `Slide`; sizes in pixels, mpp in µm per level-0 pixel.

    No picture beside the tissue's is read.
    """
    return {
        "file": slide.source,
        "format": slide.vendor,
        "reader": slide.reader,
        "width": slide.dimensions[0],
        "height": slide.dimensions[1],
        "mpp": list(slide.mpp) if slide.mpp else None,
        "objective_power": slide.objective_power,
        "levels": [
            {"width": level.width, "height": level.height, "downsample": level.downsample, "tile": list(tile)}
            for level, tile in zip(slide.levels, slide.header.tiles, strict=True)
        ],
        "channels": list(slide.header.channels),
        "associated": list(slide.header.associated),
        "colour_profile": slide.header.icc is not None,
    }


def as_text(facts: dict) -> str:
    """The same for people."""
    mpp, power = facts["mpp"], facts["objective_power"]
    scale = "unknown; state it with --mpp" if mpp is None else f"{mpp[0]:.4g} x {mpp[1]:.4g} µm per pixel"
    rows = [
        ("file", facts["file"]),
        ("format", f"{facts['format']}, read by {facts['reader']}"),
        ("size", f"{facts['width']} x {facts['height']} pixels"),
        ("scale", scale),
        ("objective", "unknown" if power is None else f"{power:g}x"),
    ]
    if mpp is not None:
        width, height = facts["width"] * mpp[0] / 1000, facts["height"] * mpp[1] / 1000
        rows.append(("shows", f"{width:.3g} x {height:.3g} mm"))
    for number, level in enumerate(facts["levels"]):
        rows.append((f"level {number}", f"{level['width']} x {level['height']} (1/{level['downsample']:.4g})"))
    if facts["channels"]:
        rows.append(("shows", f"fluorescence, {len(facts['channels'])} channels: {', '.join(facts['channels'])}"))
    if facts["associated"]:
        rows.append(("holds", f"{', '.join(facts['associated'])}: not read"))
    return "\n".join(f"{name:<10} {value}" for name, value in rows)
