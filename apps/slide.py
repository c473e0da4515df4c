"""`slidekick slide ACTION FILE`: what a slide holds, and what is made of it before any model looks at it.

`info` tells size, scale, levels and stain; `thumbnail` and `tissue` write pictures; `tiles` writes where tiles over the
tissue lie, for CLAM, TRIDENT and ours; `quality` tells of pen and focus. Shows no identifiers and never the
label or macro picture.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
from pathlib import Path

from slidekick.apps.options import scale
from slidekick.data.errors import InputError, OutputError
from slidekick.data.files import check_writable, write_atomic

THUMBNAIL_PX = 1024


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `slidekick slide`."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    _action(actions, "info", "size, scale, levels and stain of a file")
    thumbnail = _action(actions, "thumbnail", "write a small picture of the whole slide")
    thumbnail.add_argument("--max", type=int, default=THUMBNAIL_PX, metavar="PX", help="longest side (default: 1024)")
    thumbnail.add_argument("--out", type=Path, required=True, metavar="PNG", help="file to write")
    thumbnail.add_argument("--icc", action="store_true", help="show colours as the file's ICC profile says (sRGB)")
    tissue = _action(actions, "tissue", "find the tissue: mask, overlay and QuPath GeoJSON")
    tissue.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the three files")
    tiles = _action(actions, "tiles", "write where tiles over the tissue lie, as CLAM and TRIDENT keep them")
    tiles.add_argument(
        "--mpp", type=scale, default=0.5, metavar="UM", help="µm per pixel of a tile, or of a picture that states none"
    )
    tiles.add_argument("--size", type=int, default=256, metavar="PX", help="side of a tile (default: 256)")
    tiles.add_argument("--overlap", type=int, default=0, metavar="PX", help="what neighbours share (default: 0)")
    tiles.add_argument(
        "--least-tissue", type=_share, default=0.1, metavar="SHARE", help="of a tile, from 0 to 1 (default: 0.1)"
    )
    tiles.add_argument("--out", type=Path, required=True, metavar="H5", help="file to write")
    quality = _action(actions, "quality", "share of tissue, of pen, and of what is out of focus")
    quality.add_argument("--mpp", type=scale, metavar="UM", help="µm per pixel of a file that states none")


def run(args: argparse.Namespace) -> int:
    """Do what is asked and print what came of it."""
    facts, text = {
        "info": _info,
        "thumbnail": _thumbnail,
        "tissue": _tissue,
        "tiles": _tiles,
        "quality": _quality,
    }[args.action](args)
    print(json.dumps(facts, indent=2) if args.json else text)
    return 0


def _info(args: argparse.Namespace) -> tuple[dict, str]:
    from slidekick.data.slide import open_slide

    with open_slide(args.file) as slide:
        facts = describe(slide)
    return facts, as_text(facts)


def _thumbnail(args: argparse.Namespace) -> tuple[dict, str]:
    from slidekick.data.slide import open_slide

    _check_file_out(args.out)
    with open_slide(args.file, colour="srgb" if args.icc else None) as slide:
        if args.icc and slide.header.icc is None:
            print(f"slidekick: {slide.source}: holds no ICC profile, so colours are as in the file", file=sys.stderr)
        pixels, profile = slide.thumbnail(args.max), slide.header.icc is not None
    write_atomic(args.out, _png(pixels))
    height, width = pixels.shape[:2]
    colours = "srgb" if args.icc and profile else "file"
    facts = {"slide": args.file.name, "file": str(args.out), "width": width, "height": height, "colours": colours}
    return facts, f"{args.out}: {width} x {height} pixels"


def _tissue(args: argparse.Namespace) -> tuple[dict, str]:
    from slidekick.data.slide import Region, Roi, open_slide
    from slidekick.data.tissue import tissue_mask
    from slidekick.grounding.export import write_geojson
    from slidekick.grounding.finding import Finding
    from slidekick.grounding.overlay import draw_overlay

    check_writable(args.out)
    with open_slide(args.file) as slide:
        found = tissue_mask(slide)
        pixels = slide.thumbnail(max(found.mask.shape))
        mpp = slide.mpp and (slide.mpp[0] * found.scale[0], slide.mpp[1] * found.scale[1])
        roi = Roi(pixels, mpp, Region(0, 0, *slide.dimensions), slide.source)
    stem, tissue = Path(roi.source).stem, Finding("tissue", found.mask, 1.0, 1.0)
    overlay = draw_overlay(pixels, [tissue], mpp)
    files = {
        "mask": write_atomic(args.out / f"{stem}.tissue.png", _png(found.mask.astype("uint8") * 255)),
        "overlay": write_atomic(args.out / f"{stem}.tissue.overlay.png", _png(overlay)),
        "geojson": write_geojson(args.out / f"{stem}.tissue.geojson", [tissue], roi),
    }
    facts = {
        "slide": roi.source,
        "tissue_share": round(found.share, 4),
        "tissue_mm2": None if mpp is None else round(float(found.mask.sum()) * mpp[0] * mpp[1] / 1e6, 4),
        "mask": {"width": found.mask.shape[1], "height": found.mask.shape[0], "downsample": list(found.scale)},
        "files": {kind: str(path) for kind, path in files.items()},
    }
    area = "" if mpp is None else f", {facts['tissue_mm2']:g} mm²"
    lines = [f"tissue: {100 * found.share:.1f} % of the slide{area}"]
    return facts, "\n".join(lines + [f"{kind}: {path}" for kind, path in files.items()])


def _tiles(args: argparse.Namespace) -> tuple[dict, str]:
    from slidekick.data.features import write_coords
    from slidekick.data.slide import open_slide
    from slidekick.data.tiles import tile_grid
    from slidekick.data.tissue import tissue_mask

    _check_file_out(args.out)
    with open_slide(args.file) as slide:
        slide.state_scale(args.mpp)
        whole = tile_grid(slide, args.size, args.mpp, args.overlap)
        grid = tile_grid(slide, args.size, args.mpp, args.overlap, tissue_mask(slide), args.least_tissue)
        write_coords(args.out, slide, grid)
    facts = {
        "slide": slide.source,
        "file": str(args.out),
        "tiles": len(grid),
        "of": len(whole),
        "size_px": grid.size_px,
        "size_level0": list(grid.size_level0),
        "overlap_px": grid.overlap_px,
        "mpp": grid.mpp,
    }
    return facts, f"{args.out}: {len(grid)} of {len(whole)} tiles hold tissue ({grid.size_px} px at {grid.mpp:g} µm)"


def _quality(args: argparse.Namespace) -> tuple[dict, str]:
    from slidekick.data.artefacts import pen_mask, pen_share
    from slidekick.data.focus import BLURRED_UM, focus_map
    from slidekick.data.slide import open_slide
    from slidekick.data.tissue import tissue_mask

    with open_slide(args.file) as slide:
        slide.state_scale(args.mpp)
        tissue = tissue_mask(slide)
        pen = pen_share(pen_mask(slide, tissue), tissue)
        focus = focus_map(slide, tissue)
        source, size = slide.source, slide.dimensions
    facts = {
        "slide": source,
        "width": size[0],
        "height": size[1],
        "tissue_share": round(tissue.share, 4),
        "pen_share": round(pen, 4),
        "tiles_looked_at": len(focus.grid),
        "tiles_judged": focus.judged,
        "blur_um_median": _rounded(focus.median_um),
        "blurred_share": _rounded(focus.blurred_share),
        "blurred_from_um": BLURRED_UM,
    }
    lines = [
        f"tissue     {100 * tissue.share:.1f} % of the slide",
        f"pen        {100 * pen:.1f} % of what lies on the glass, tissue and ink",
    ]
    if focus.median_um is None:
        lines.append("focus      cannot be judged: no tissue with edges, or coarser than a 20x scan")
    else:
        lines.append(f"focus      edges are soft by {focus.median_um:.2f} µm (median of {focus.judged} tiles)")
        lines.append(f"blurred    {100 * focus.blurred_share:.1f} % of them, softer than {BLURRED_UM:g} µm")
    return facts, "\n".join(lines)


def describe(slide) -> dict:
    """JSON-ready facts of an open `Slide`; sizes in pixels, mpp in µm per level-0 pixel.

    No picture beside the tissue's is read. stain: by the colours of some places.
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
        "stain": _stain(slide),
    }


def _stain(slide) -> dict | None:
    """JSON-ready kind of stain; None where the pixels cannot be read."""
    from slidekick.data.stain import stain_class

    try:
        return stain_class(slide).to_dict()
    except InputError:
        return None  # size and levels are told all the same


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
    stain = facts["stain"]
    if stain is None:
        rows.append(("stain", "cannot be judged: the pixels cannot be read"))
    elif stain["name"] != "unknown":
        rows.append(("stain", f"{stain['name']}, by its colours alone ({100 * stain['probability']:.0f} %)"))
    else:
        hint = f"; most like {stain['likeliest']}" if stain["likeliest"] else ""
        rows.append(("stain", f"unknown{hint}"))
    if facts["channels"]:
        rows.append(("shows", f"fluorescence, {len(facts['channels'])} channels: {', '.join(facts['channels'])}"))
    if facts["associated"]:
        rows.append(("holds", f"{', '.join(facts['associated'])}: not read"))
    return "\n".join(f"{name:<10} {value}" for name, value in rows)


def _action(actions, name: str, summary: str) -> argparse.ArgumentParser:
    parser = actions.add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
    parser.add_argument("file", metavar="FILE", type=Path, help="picture or slide")
    parser.add_argument("--json", action="store_true", help="print JSON in place of text")
    return parser


def _share(text: str) -> float:
    """A number from 0 to 1, out of an option's text."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no share; give a number from 0 to 1, such as 0.1")
    return value


def _check_file_out(path: Path) -> None:
    """Find out before the work whether the file can be written. Raises OutputError."""
    if path.is_dir():
        raise OutputError(f"{path}: is a folder; give a file to write")
    check_writable(path.parent)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _png(pixels) -> bytes:
    from PIL import Image

    held = io.BytesIO()
    Image.fromarray(pixels).save(held, format="PNG")
    return held.getvalue()
