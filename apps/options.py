"""Options that several subcommands share, checked as they are parsed. Standard library only at import."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

LEAST_SLIDE_PX = 2048  # of the shorter side: four fields of a 20x objective across


def add_picture(parser: argparse.ArgumentParser) -> None:
    """IMAGE, --region and --mpp; `read_picture` reads what they say."""
    parser.add_argument("image", metavar="IMAGE", type=Path, help="picture or slide: PNG, JPEG, TIFF, SVS, ...")
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
    """The open `Slide` where the options of `add_picture` name a whole slide, else None. Raises InputError.

    A slide is a file of several levels whose finest is larger than what a model is shown as one picture.
    """
    if args.region is not None:
        return None
    from slidekick.data.slide import open_slide

    slide = open_slide(args.image)
    if len(slide.levels) > 1 and min(slide.dimensions) >= LEAST_SLIDE_PX:
        if slide.mpp is None and args.mpp is not None:
            slide.mpp = (args.mpp, args.mpp)
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
