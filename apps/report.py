"""`slidekick report IMAGE`: a draft report on a picture or a whole slide; the page and its JSON form go into --out."""

from __future__ import annotations

import argparse
import json

from slidekick.apps.ask import surveyed
from slidekick.apps.loading import add_model, load_copilot, tell
from slidekick.apps.options import add_picture, add_results, read_picture, read_slide
from slidekick.data.files import check_writable, write_atomic


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `slidekick report`."""
    add_picture(parser)
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
    slide = read_slide(args)
    picture = read_picture(args) if slide is None else None
    copilot = load_copilot(args.model, args.segmentor)
    from slidekick.copilot.report import draft_report, to_dict, to_html

    if slide is not None:
        picture = copilot.survey(slide)
        tell(surveyed(picture))
    tell("drafting ...")
    report = draft_report(copilot, picture, args.concept)
    data = to_dict(report)
    if args.out:
        for name, content in (("report.html", to_html(report)), ("report.json", json.dumps(data, indent=2))):
            tell(f"wrote {write_atomic(args.out / name, content)}")
    print(json.dumps(data, indent=2) if args.json else as_text(report))
    if not args.out and not args.json:
        tell("give --out DIR for the report as a page")
    return 0


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
