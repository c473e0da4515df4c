"""Options that several subcommands share, checked as they are parsed. Standard library only at import."""

from __future__ import annotations

import argparse
import math
from pathlib import Path


def add_picture(parser: argparse.ArgumentParser, several: bool = False) -> None:
    """IMAGE, or one and more where `several`, --region and --mpp; `read_picture` reads what they say."""
    parser.add_argument(
        "image",
        metavar="IMAGE",
        type=Path,
        nargs="+" if several else None,
        help="picture or slide: PNG, JPEG, TIFF, SVS, ..." + ("; several slides are one patient's" if several else ""),
    )
    parser.add_argument(
        "--region",
        type=region,
        metavar="X,Y,W,H",
        help="part of it, in level-0 pixels from the upper left corner (default: all of it, a slide as a slide)",
    )
    parser.add_argument(
        "--mpp",
        type=scale,
        metavar="UM",
        help="µm per pixel: the scale to read a slide at, or the scale of a picture that states none",
    )


def add_results(parser: argparse.ArgumentParser, writes: str) -> None:
    """--out and --json. writes: what --out gets, for the help text."""
    parser.add_argument("--out", type=Path, metavar="DIR", help=f"folder for {writes}")
    parser.add_argument("--json", action="store_true", help="print JSON in place of text")


def read_picture(args: argparse.Namespace):
    """The `Roi` that the options of `add_picture` ask for. Raises InputError."""
    from slidekick.data.slide import read_roi

    return read_roi(args.image, args.region, args.mpp)


def read_slide(args: argparse.Namespace):
    """The open `Slide` where the options of `add_picture` name a whole slide (see `is_slide`), else None. Raises
    InputError."""
    if args.region is not None:
        return None
    from slidekick.apps.loading import is_slide
    from slidekick.data.slide import open_slide

    slide = open_slide(args.image)
    if is_slide(slide, args.mpp):
        slide.state_scale(args.mpp)
        return slide
    slide.close()
    return None


def region(text: str) -> tuple[int, int, int, int]:
    """x, y, width and height out of "x,y,w,h"; whether they lie inside is the slide's to say."""
    try:
        x, y, width, height = (int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not X,Y,W,H in whole pixels, such as 0,0,1024,1024") from None
    return x, y, width, height


def scale(text: str) -> float:
    """A positive, finite number of µm per pixel."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is no scale; give µm per pixel above 0, such as 0.5")
    return value
