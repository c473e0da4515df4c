"""`slidekick ask IMAGE "question"`: one answer, with its steps, its evidence and its warnings.

A slide without --region is surveyed first and answered as a whole. With --out, all or nothing: answer.json, overlay.png
and findings.geojson.
"""

from __future__ import annotations

import argparse
import io
import json
from pathlib import Path

from slidekick.apps.loading import add_model, load_copilot, tell
from slidekick.apps.options import add_picture, add_results, read_picture, read_slide
from slidekick.copilot.answer import KINDS, check_options, check_question
from slidekick.copilot.language import amount_text
from slidekick.data.files import check_writable, write_atomic


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `slidekick ask`."""
    add_picture(parser)
    parser.add_argument("question", metavar="QUESTION", help='such as "How many nuclei are there?"')
    parser.add_argument(
        "--among",
        metavar="ANSWERS",
        help='choose the likeliest of these, such as "benign; malignant", and tell how likely each is; no tool is used',
    )
    add_model(parser)
    add_results(parser, "answer.json, overlay.png and findings.geojson")


def run(args: argparse.Namespace) -> int:
    """Ask, print, and write where asked."""
    question = check_question(args.question)
    options = None if args.among is None else check_options(args.among.split(";"))
    if args.out:
        check_writable(args.out)
    slide = None if options else read_slide(args)
    roi = read_picture(args) if slide is None else None
    copilot = load_copilot(args.model, args.segmentor, runtime=args.runtime)
    if slide is not None:
        seen = copilot.survey(slide)
        tell(surveyed(seen))
        answer, findings = follow(copilot, seen, question)
        roi = seen.thumbnail
    elif options is None:
        answer, findings = follow(copilot, roi, question)
    else:
        answer, findings = copilot.choose(roi, question, options), []
    files = write_answer(args.out, roi, answer, findings) if args.out else []
    print(json.dumps(answer.to_dict(), indent=2) if args.json else as_text(answer))
    for path in files:
        tell(f"wrote {path}")
    return 0


def follow(copilot, roi, question: str, box=None) -> tuple:
    """Ask with the tool steps told on stderr as they come. Returns the answer and what the tools found."""
    findings = {}
    for event in copilot.stream(roi, question, box=box):
        if event.kind == "tool_start":
            tell(f"  {call_text(event.step)} ...")
        elif event.kind == "tool_end":
            tell(f"  {call_text(event.step)} -> {result_text(event.step.result)} ({event.step.seconds:.1f} s)")
            findings |= {finding.concept: finding for finding in event.findings}
        elif event.kind == "answer":
            answer = event.answer
    return answer, list(findings.values())


def surveyed(survey) -> str:
    """How much of a slide was looked at."""
    tiles = survey.tiles
    every = "all" if tiles.step == 1 else f"one in {tiles.step**2}"
    return f"surveyed {len(tiles)} tiles of {survey.slide.source} ({every} of its tissue)"


def as_text(answer) -> str:
    """The answer for people: text, confidence, steps, claims with their evidence, evidence table, warnings."""
    lines = [answer.text or "(no answer)", "", f"confidence  {answer.confidence:.2f}"]
    if answer.gates:
        lines.append(f"experts     {gates_text(answer.gates)}")
    for option, likely in sorted(answer.options.items(), key=lambda pair: -pair[1]):
        lines.append(f"option      {likely:.2f}  {option}")
    for claim in answer.claims:
        lines.append(f"claim       {claim_mark(claim)}  {claim.text}")
    for step in answer.steps:
        lines.append(f"step {step.id}     {call_text(step)} -> {result_text(step.result)}  {step.seconds:.2f} s")
    rows = [(e.id, e.concept, e.kind.replace("_", " "), value_text(e), f"by {e.step}") for e in answer.evidence]
    widths = [max((len(row[i]) for row in rows), default=0) for i in range(5)]
    for row in rows:
        cells = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        lines.append(f"evidence    {cells}".rstrip())
    lines += [f"looked at   {x},{y},{width},{height}" for x, y, width, height in answer.looked]
    lines += [f"warning     {warning}" for warning in answer.warnings]
    versions = ", ".join(f"{name} {version}" for name, version in answer.versions.items())
    return "\n".join([*lines, f"made with   {versions}", answer.notice])


def gates_text(gates: dict[str, float]) -> str:
    """Who answered, the weightiest first: "cells 71%, tissue 29%"."""
    return ", ".join(f"{name} {gate:.0%}" for name, gate in sorted(gates.items(), key=lambda pair: -pair[1]))


def claim_mark(claim) -> str:
    """[e1 e2] for what is backed, [not backed], or [reading]."""
    if not claim.supported:
        return "[not backed]"
    return f"[{' '.join(claim.evidence)}]" if claim.kind == "measured" else "[reading]"


def call_text(step) -> str:
    """count(nucleus)"""
    return f"{step.name}({', '.join(str(value) for value in step.arguments.values())})"


def result_text(result: dict) -> str:
    """A tool's result in a few words: "found, count 212"."""
    if "error" in result:
        return f"error: {result['error']}"
    if "measured" in result:
        return ", ".join(f"{name} {amount}" for name, amount in result["measured"].items())
    if result.get("known") is False:
        return f"not in the vocabulary{', nearest ' + result['nearest'] if 'nearest' in result else ''}"
    if not result.get("found"):
        return "not found"
    rest = [f"{key} {value}" for key, value in result.items() if key != "found"]
    return ", ".join(["found", *rest])


def value_text(evidence) -> str:
    """An evidence's value with its unit, for people."""
    if evidence.value is None:
        return "not looked for"
    value = evidence.value
    if evidence.kind not in KINDS:
        return amount_text(value, evidence.unit)
    if evidence.kind == "presence":
        return f"{'found' if evidence.found else 'not found'} (probability {value:.2f})"
    if evidence.unit == "fraction":
        return f"{100 * value:.1f} %"
    if evidence.unit == "objects":
        return f"{value:.0f}"
    unit = {"um": "µm", "um2": "µm²", "1/mm2": "per mm²"}.get(evidence.unit, evidence.unit)
    return f"{value:,.1f} {unit}" if value < 1000 else f"{value:,.0f} {unit}"


def write_answer(folder: Path, roi, answer, findings: list) -> list[Path]:
    """answer.json, and where a tool looked for anything overlay.png and findings.geojson. Returns the paths."""
    contents: dict[str, bytes | str] = {"answer.json": answer_json(answer)}
    if findings:
        contents["overlay.png"] = overlay_png(roi, findings)
        contents["findings.geojson"] = geojson(roi, findings)
    return [write_atomic(folder / name, content) for name, content in contents.items()]


def answer_json(answer) -> str:
    """An answer as the text of a JSON file."""
    return json.dumps(answer.to_dict(), indent=2) + "\n"


def geojson(roi, findings: list) -> str:
    """Findings as the text of a QuPath GeoJSON file."""
    from slidekick.grounding.export import to_geojson

    return json.dumps(to_geojson(findings, roi)) + "\n"


def overlay_png(roi, findings: list) -> bytes:
    """Findings drawn over the picture, as a PNG file."""
    from PIL import Image

    from slidekick.grounding.overlay import draw_overlay

    buffer = io.BytesIO()
    Image.fromarray(draw_overlay(roi.pixels, findings, roi.mpp)).save(buffer, format="PNG")
    return buffer.getvalue()
