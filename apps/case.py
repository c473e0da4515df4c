"""`slidekick case SLIDE ... --ask QUESTION`: one question to several slides of a patient, answered together and each.

With --out: case.json, and for each slide a folder with what `slidekick ask --out` writes.
"""

from __future__ import annotations

import argparse
import json
from contextlib import ExitStack
from pathlib import Path

from slidekick.apps.ask import as_text as answer_text
from slidekick.apps.ask import surveyed, write_answer
from slidekick.apps.loading import add_model, load_copilot, tell
from slidekick.apps.options import add_results
from slidekick.copilot.answer import check_question
from slidekick.data.files import check_writable, write_atomic


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `slidekick case`."""
    parser.add_argument("slides", metavar="SLIDE", nargs="+", type=Path, help="the slides of one patient")
    parser.add_argument("--ask", required=True, metavar="QUESTION", help='such as "Is there tumour?"')
    parser.add_argument("--mpp", type=float, metavar="UM", help="µm per pixel of slides whose files do not say")
    add_model(parser)
    add_results(parser, "case.json and a folder for each slide")


def run(args: argparse.Namespace) -> int:
    """Ask, print, and write where asked."""
    question = check_question(args.ask)
    if args.out:
        check_writable(args.out)
    from slidekick.data.slide import open_slide

    with ExitStack() as opened:
        slides = [opened.enter_context(open_slide(path)) for path in args.slides]
        for slide in slides:
            slide.state_scale(args.mpp)
        copilot = load_copilot(args.model, args.segmentor, runtime=args.runtime)
        from slidekick.copilot.case import ask_case

        surveys = []
        for slide in slides:
            surveys.append(copilot.survey(slide))
            tell(surveyed(surveys[-1]))
        result = ask_case(copilot, surveys, question)
        if args.out:
            _write(args.out, result, surveys)
    print(json.dumps(result.to_dict(), indent=2) if args.json else as_text(result))
    return 0


def _write(out: Path, result, surveys) -> None:
    from slidekick.copilot.survey import meant

    for number, ((name, answer), survey) in enumerate(zip(result.slides, surveys, strict=True), 1):
        named = {step.arguments["concept"] for step in answer.steps if "concept" in step.arguments}
        findings = [survey.find(words, tissues) for words in sorted(named) if (tissues := meant(words, survey.encoder))]
        for path in write_answer(out / f"{number:02d}-{Path(name).stem}", survey.thumbnail, answer, findings):
            tell(f"wrote {path}")
    tell(f"wrote {write_atomic(out / 'case.json', json.dumps(result.to_dict(), indent=2))}")


def as_text(result) -> str:
    """The case's answer, then each slide's."""
    parts = [result.text or "(no answer)"]
    for name, answer in result.slides:
        parts += ["", f"== {name}", answer_text(answer)]
    return "\n".join(parts)
