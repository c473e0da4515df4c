"""`slidekick report IMAGE ...`: a draft report on a picture or a whole slide, or on all slides of a case in one page.

In the words of a form, with findings of the segmentor or of an edited QuPath file; all its files go into --out.
"""

from __future__ import annotations

import argparse
import json
from contextlib import ExitStack
from pathlib import Path

from slidekick.apps.ask import surveyed
from slidekick.apps.loading import add_model, load_copilot, tell
from slidekick.apps.options import add_picture, add_results, read_picture, read_slide
from slidekick.copilot.reports.forms import FORMS
from slidekick.data.errors import InputError
from slidekick.data.files import check_writable, write_atomic


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `slidekick report`."""
    add_picture(parser, several=True)
    parser.add_argument(
        "--concept",
        action="append",
        metavar="WORDS",
        help="what to measure; may be given several times (default: all that is known of that organ)",
    )
    parser.add_argument("--form", default="general", metavar="NAME", help=f"{', '.join(FORMS)} or a file (general)")
    parser.add_argument(
        "--organ", default="", metavar="WORDS", help="the organ, where you know it; else the model reads"
    )
    parser.add_argument("--specimen", default="", metavar="WORDS", help="what was taken, such as core needle biopsy")
    parser.add_argument("--clinical", default="", metavar="WORDS", help="clinical details, repeated in the report")
    parser.add_argument("--checklist", type=Path, metavar="FILE", help="elements of a synoptic report, YAML or JSON")
    parser.add_argument("--tumour", metavar="WORDS", help="which checklist of a file that holds several")
    parser.add_argument(
        "--shapes",
        type=Path,
        metavar="FILE.geojson",
        help="annotations edited in QuPath: what they outline is measured and told of, in place of what would be found",
    )
    add_model(parser)
    add_results(parser, "the report: HTML, Word, Markdown, JSON, FHIR and two pictures")


def run(args: argparse.Namespace) -> int:
    """Draft, print, and write where asked."""
    if args.out:
        check_writable(args.out)
    if len(args.image) > 1:
        return _case(args)
    (args.image,) = args.image
    slide = read_slide(args)
    picture = read_picture(args) if slide is None else None
    if slide is not None and args.shapes:
        raise InputError("--shapes lie over one field; name it with --region")
    from slidekick.copilot.reports.checklist import load_checklist
    from slidekick.copilot.reports.files import to_json, write_report
    from slidekick.copilot.reports.forms import load_form
    from slidekick.copilot.reports.report import draft_report

    load_form(args.form)  # a mistake in it is told before the model is loaded
    checklist = load_checklist(args.checklist, args.tumour)
    details = {name: getattr(args, name) for name in ("organ", "specimen", "clinical")}
    copilot = load_copilot(args.model, args.segmentor, runtime=args.runtime)
    if slide is not None:
        picture = copilot.survey(slide)
        tell(surveyed(picture))
    box, concepts = (None, args.concept) if args.shapes is None else _drawn(args, copilot, picture)
    tell("drafting ...")
    report = draft_report(copilot, picture, concepts, args.form, details, checklist, box)
    if args.out:
        for path in write_report(report, args.out):
            tell(f"wrote {path}")
    print(to_json(report) if args.json else as_text(report))
    if not args.out and not args.json:
        tell("give --out DIR for the report as files")
    return 0


def _drawn(args: argparse.Namespace, copilot, roi):
    """Tools that hold what an edited file outlines, and the concepts to tell of."""
    from slidekick.grounding.annotations import from_geojson
    from slidekick.grounding.geojson import read_geojson

    box = copilot.toolbox(roi)
    names = box.take(from_geojson(read_geojson(args.shapes), roi))
    return box, args.concept or names


def _case(args: argparse.Namespace) -> int:
    """The same for several slides of a patient."""
    if args.region is not None:
        raise InputError(f"--region is of one picture, and {len(args.image)} are given; name one, or leave it out")
    for name in ("shapes", "organ", "specimen", "clinical", "checklist", "tumour"):
        if getattr(args, name):
            raise InputError(f"--{name} is for one picture, and {len(args.image)} are given; name one, or leave it out")
    if args.form != "general":
        raise InputError(f"--form is for one picture, and {len(args.image)} are given; name one, or leave it out")
    from slidekick.data.slide import open_slide

    with ExitStack() as opened:
        slides = [opened.enter_context(open_slide(path)) for path in args.image]
        for slide in slides:
            slide.state_scale(args.mpp)
        copilot = load_copilot(args.model, args.segmentor, runtime=args.runtime)
        from slidekick.copilot.reports.case import case_dict, case_html, draft_case

        surveys = []
        for slide in slides:
            surveys.append(copilot.survey(slide))
            tell(surveyed(surveys[-1]))
        tell("drafting ...")
        case = draft_case(copilot, surveys, args.concept)
    data = json.dumps(case_dict(case), indent=2)
    if args.out:
        for name, content in (("report.html", case_html(case)), ("report.json", data)):
            tell(f"wrote {write_atomic(args.out / name, content)}")
    print(data if args.json else case_text(case))
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
    lines = [f"{report.title} on {report.source or 'the picture'} ({report.status})", "", report.text.rstrip()]
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
