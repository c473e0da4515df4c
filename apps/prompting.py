"""What `slidekick segment` looks for: words, clicks and boxes, from its options or from a QuPath file.

Options give level-0 pixels, as --region does and as viewers show them; the segmentor gets pixels of the picture read.
Standard library only at import.
"""

from __future__ import annotations

import argparse
import math
import re
from dataclasses import dataclass, field
from pathlib import Path

from slidekick.data.errors import InputError

MAX_CONCEPT = 100  # characters; a concept is a word or a few
MOST_CONCEPTS = 200  # a picture holds fewer; each takes a mask of its size
MOST_CLICKS = 200  # each is one more look at what was drawn before it
NAMES_SHOWN = 3  # of concepts that share a warning


@dataclass
class Ask:
    """One look: words, clicks (x, y, label) and boxes (x0, y0, x1, y1) in pixels of the picture."""

    concepts: list[str] = field(default_factory=list)
    points: list[tuple[float, float, int]] = field(default_factory=list)
    boxes: list[tuple[float, float, float, float]] = field(default_factory=list)


def add_prompts(parser: argparse.ArgumentParser) -> None:
    """--concept, --point, --box and --prompts; each may be given several times but the last."""
    parser.add_argument(
        "--concept",
        action="append",
        default=[],
        metavar="WORDS",
        help="what to look for, such as nucleus or gland; may be given several times",
    )
    parser.add_argument(
        "--point",
        action="append",
        default=[],
        type=point,
        metavar="X,Y[,0|1]",
        help="a click in level-0 pixels: 1 (or nothing) belongs to it, 0 does not; may be given several times",
    )
    parser.add_argument(
        "--box",
        action="append",
        default=[],
        type=box,
        metavar="X0,Y0,X1,Y1",
        help="a box around one object, in level-0 pixels; may be given several times",
    )
    parser.add_argument(
        "--prompts",
        type=Path,
        metavar="FILE.geojson",
        help="annotations drawn in QuPath: areas as boxes, points as clicks (of a class Ignore* or Negative: does not "
        "belong), classes as words where no --concept is given",
    )


def point(text: str) -> tuple[float, float, int]:
    """x, y and label out of "x,y" or "x,y,label"."""
    numbers = _numbers(text)
    if len(numbers) == 2:
        numbers.append(1.0)
    if len(numbers) != 3 or numbers[2] not in (0, 1):
        raise argparse.ArgumentTypeError(f"{text!r} is not X,Y, X,Y,1 or X,Y,0 in pixels, such as 120,80,1")
    return numbers[0], numbers[1], int(numbers[2])


def box(text: str) -> tuple[float, float, float, float]:
    """The corners out of "x0,y0,x1,y1"."""
    numbers = _numbers(text)
    if len(numbers) != 4:
        raise argparse.ArgumentTypeError(f"{text!r} is not X0,Y0,X1,Y1 in pixels, such as 100,60,180,140")
    x0, y0, x1, y1 = numbers
    if x1 <= x0 or y1 <= y0:
        raise argparse.ArgumentTypeError(
            f"{text!r} is inverted or empty; give its upper left, then its lower right corner"
        )
    return x0, y0, x1, y1


def checked_concepts(concepts: list[str]) -> list[str]:
    """The concepts with single spaces, each once. Raises InputError for an empty or overlong one, or too many."""
    clean = [" ".join(concept.split()) for concept in concepts]
    for concept in clean:
        if not re.search(r"\w", concept):
            raise InputError(f"concept {concept!r} is empty; name a structure, such as --concept nucleus")
        if len(concept) > MAX_CONCEPT:
            raise InputError(
                f"concept {concept[:30]!r}… has {len(concept)} characters; give a word or a few, "
                f"{MAX_CONCEPT} characters at most"
            )
    clean = list(dict.fromkeys(clean))
    if len(clean) > MOST_CONCEPTS:
        raise InputError(f"{len(clean)} concepts; give {MOST_CONCEPTS} at most, and the others in a second run")
    return clean


def check_asked(args: argparse.Namespace) -> None:
    """Find out before anything is read whether anything was asked for. Raises InputError."""
    args.concept = checked_concepts(args.concept)
    if not (args.concept or args.point or args.box or args.prompts):
        raise InputError("nothing to look for; give --concept, --point, --box or --prompts, such as --concept nucleus")


def asks_of(args: argparse.Namespace, roi) -> list[Ask]:
    """What the options of `add_prompts` ask of a picture: one look for the concepts with every click and box; or,
    where no concept was given, one for each class of the file and one without a name for all else.

    Raises InputError for a click or box outside the picture, a file that cannot be read or has nothing on the
    picture, too many clicks, and clicks of which none says what belongs.
    """
    clicks = [_click(mark, roi) for mark in args.point]
    groups = _from_file(args.prompts, roi) if args.prompts else {}
    refused = [mark for mark in clicks if not mark[2]] + groups.pop(None, Ask()).points
    nameless = groups.pop("", Ask())
    nameless.points += [mark for mark in clicks if mark[2]]
    nameless.boxes += [_frame(corners, roi) for corners in args.box]
    asks = [ask for ask in (*groups.values(), nameless) if ask.points or ask.boxes]
    if args.concept:
        points, boxes = [mark for ask in asks for mark in ask.points], [mark for ask in asks for mark in ask.boxes]
        asks = [Ask(args.concept, points, boxes)]
    if not asks:
        raise InputError("the clicks only say what does not belong; add a --point X,Y that does, or a --concept")
    from slidekick.grounding.pointing import MOST_PROMPTS

    for ask in asks:
        ask.points += refused
        if len(ask.boxes) > MOST_PROMPTS:
            raise InputError(f"{len(ask.boxes)} boxes for one look; give {MOST_PROMPTS} at most, of a smaller region")
        if len(ask.points) > MOST_CLICKS:
            raise InputError(f"{len(ask.points)} clicks for one look; give {MOST_CLICKS} at most, or draw outlines")
    return asks


def named(asks: list[Ask], given: bool, vocabulary) -> tuple[list[Ask], list[str]]:
    """The same looks with each concept once, whatever the words for it; and a line for each class of a file that the
    vocabulary does not know: what lies there is outlined without a name.

    given: the words are the user's own, which are never dropped.
    """
    if given:
        once: dict[str, str] = {}
        for words in asks[0].concepts:
            concept = vocabulary.find(words)
            once.setdefault(concept.name if concept else words, words)
        return [Ask(list(once.values()), asks[0].points, asks[0].boxes)], []
    merged: dict[str, Ask] = {}
    lines = []
    for ask in asks:
        words = ask.concepts[0] if ask.concepts else ""
        concept = vocabulary.find(words) if words else None
        if words and concept is None:
            lines.append(f"class {words!r} is not in the segmentor's vocabulary: outlined without a name")
        into = merged.setdefault(concept.name if concept else "", Ask([words] if concept else []))
        into.points += [mark for mark in ask.points if mark not in into.points]
        into.boxes += ask.boxes
    return list(merged.values()), lines


def idle_clicks(asks: list[Ask]) -> list[str]:
    """A line where clicks lie in none of the boxes that they come with: they are not used then."""
    clicks, used = set(), set()
    for ask in asks:
        for x, y, label in ask.points:
            clicks.add((x, y, label))
            if not ask.boxes or any(x0 <= x < x1 and y0 <= y < y1 for x0, y0, x1, y1 in ask.boxes):
                used.add((x, y, label))
    idle = len(clicks - used)
    return [f"clicks that lie in no box are not used, here {idle}; give them in a run without boxes"] if idle else []


def scale_warnings(concepts: list[str], vocabulary, mpp: tuple[float, float] | None, whole: bool = False) -> list[str]:
    """A line for each range of scales that `mpp` (x, y; µm per pixel) is outside of, with the concepts taught there."""
    if mpp is None:
        return []
    own = math.sqrt(mpp[0] * mpp[1])
    outside: dict[tuple[float, float], list[str]] = {}
    for name in dict.fromkeys(concepts):
        concept = vocabulary.concepts.get(name)
        if concept and not concept.mpp_range[0] <= own <= concept.mpp_range[1]:
            outside.setdefault(concept.mpp_range, []).append(name)
    lines = []
    for (finest, coarsest), names in outside.items():
        more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
        told = ", ".join(names[:NAMES_SHOWN]) + more
        mend = f"--mpp {coarsest:g} or less" if own > coarsest else f"--mpp {finest:g} or more"
        reading = "" if whole else f"read the slide at {mend}, or "  # a whole slide is read at the concepts' own scale
        lines.append(
            f"{own:.3g} µm per pixel is outside {finest:g} to {coarsest:g}, where {told} can be told; "
            f"{reading}correct its scale"
        )
    return lines


def _from_file(path: Path, roi) -> dict[str | None, Ask]:
    from slidekick.grounding.annotations import prompts_by_class
    from slidekick.grounding.geojson import read_geojson

    groups = prompts_by_class(read_geojson(path), roi)
    if not groups:
        raise InputError(f"{path}: no area or point of it lies on the picture; export annotations of this very slide")
    if len(groups) > MOST_CONCEPTS:
        raise InputError(f"{path}: {len(groups)} classes; merge some in QuPath, {MOST_CONCEPTS} at most")
    return {name: Ask(*group) for name, group in groups.items()}


def _click(mark: tuple[float, float, int], roi) -> tuple[float, float, int]:
    x, y, label = mark
    region = roi.region
    if not (region.x <= x < region.x + region.width and region.y <= y < region.y + region.height):
        raise InputError(f"point {x:g},{y:g} is outside the picture{_extent(region)}")
    return (x - region.x) / roi.downsample[0], (y - region.y) / roi.downsample[1], label


def _frame(corners: tuple[float, float, float, float], roi) -> tuple[float, float, float, float]:
    region = roi.region
    said = "{:g},{:g},{:g},{:g}".format(*corners)
    x0, x1 = (min(max(x, region.x), region.x + region.width) - region.x for x in corners[::2])
    y0, y1 = (min(max(y, region.y), region.y + region.height) - region.y for y in corners[1::2])
    if x1 <= x0 or y1 <= y0:
        raise InputError(f"box {said} is outside the picture{_extent(region)}")
    across, down = roi.downsample
    if x1 - x0 < across or y1 - y0 < down:
        raise InputError(f"box {said} is under a pixel of the picture read; draw it larger, or read finer with --mpp")
    return x0 / across, y0 / down, x1 / across, y1 / down


def _extent(region) -> str:
    right, bottom = region.x + region.width, region.y + region.height
    return f"; give x from {region.x} to {right} and y from {region.y} to {bottom} (level-0 pixels)"


def _numbers(text: str) -> list[float]:
    """The finite numbers between commas; none where one is not."""
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        return []
    return numbers if all(map(math.isfinite, numbers)) else []
