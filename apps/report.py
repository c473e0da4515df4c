"""`slidekick report IMAGE ...`: a draft report on a picture or a whole slide, or on all slides of a case in one page.

The page and its JSON form go into --out.
"""

from __future__ import annotations

import argparse
import json
from contextlib import ExitStack

from slidekick.apps.ask import surveyed
from slidekick.apps.loading import add_model, load_copilot, state_scale, tell
from slidekick.apps.options import add_picture, add_results, read_picture, read_slide
from slidekick.data.errors import InputError
from slidekick.data.files import check_writable, write_atomic


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `slidekick report`."""
    add_picture(parser, several=True)
    parser.add_argument(
        "--concept",
        action="append",
        metavar="WORDS",
        help="what to measure; may be given several times (default: all that the segmentor knows)",
    )
    add_model(parser)
    add_results(parser, "report.html and report.json")


def run(args: argparse.Namespace) -> int:
    """Draft, print, and write where asked."""
    if args.out:
        check_writable(args.out)
    if len(args.image) > 1:
        return _case(args)
    (args.image,) = args.image
    slide = read_slide(args)
    picture = read_picture(args) if slide is None else None
    copilot = load_copilot(args.model, args.segmentor)
    from slidekick.copilot.report import draft_report, to_dict, to_html

    if slide is not None:
        picture = copilot.survey(slide)
        tell(surveyed(picture))
    tell("drafting ...")
    report = draft_report(copilot, picture, args.concept)
    return _told(args, to_html(report), to_dict(report), as_text(report))


def _case(args: argparse.Namespace) -> int:
    """The same for several slides of a patient."""
    if args.region is not None:
        raise InputError(f"--region is of one picture, and {len(args.image)} are given; name one, or leave it out")
    from slidekick.data.slide import open_slide

    with ExitStack() as opened:
        slides = [opened.enter_context(open_slide(path)) for path in args.image]
        for slide in slides:
            state_scale(slide, args.mpp)
        copilot = load_copilot(args.model, args.segmentor)
        from slidekick.copilot.case_report import case_dict, case_html, draft_case

        surveys = []
        for slide in slides:
            surveys.append(copilot.survey(slide))
            tell(surveyed(surveys[-1]))
        tell("drafting ...")
        case = draft_case(copilot, surveys, args.concept)
    return _told(args, case_html(case), case_dict(case), case_text(case))


def _told(args: argparse.Namespace, page: str, data: dict, text: str) -> int:
    """Write where asked, and print."""
    if args.out:
        for name, content in (("report.html", page), ("report.json", json.dumps(data, indent=2))):
            tell(f"wrote {write_atomic(args.out / name, content)}")
    print(json.dumps(data, indent=2) if args.json else text)
    if not args.out and not args.json:
        tell("give --out DIR for the report as a page")
    return 0


def case_text(case) -> str:
    """The report on a case for a terminal: what the slides say together, then each."""
    lines = [f"{case.status} report on {len(case.slides)} slides of a case", "", "Impression (not measured)"]
    lines += [f"  {case.reading or 'none'}", "", "Findings"]
    lines += [f"  {sentence.text}" for sentence in case.findings] or ["  none"]
    if case.absent:
        lines += ["", f"Found on no slide: {', '.join(case.absent)}"]
    for slide in case.slides:
        lines += ["", f"== {slide.name}", as_text(slide.report)]
    return "\n".join(lines)


def as_text(report) -> str:
    """The report for a terminal."""
    lines = [f"{report.status} report on {report.source or 'the picture'}", "", "Impression (not measured)"]
    lines += [f"  {sentence.text}" for sentence in report.reading] or ["  none"]
    lines += ["", "Findings"]
    lines += [f"  {s.text} [{' '.join(s.evidence)}]" for s in report.findings] or ["  none"]
    lines += ["", "Measured"]
    for fact in report.facts:
        m = fact.measurement
        if not m.found:
            lines.append(f"  {m.concept}: not found")
            continue
        count = "" if m.count is None else f"{m.count}, "
        lines.append(f"  {m.concept}: {count}{100 * m.area_fraction:.1f} % of the {m.of}, {m.place}")
    for title, texts in (("Left out", report.left_out), ("Warnings", report.warnings)):
        if texts:
            lines += ["", title, *(f"  {text}" for text in texts)]
    return "\n".join([*lines, "", report.notice])
