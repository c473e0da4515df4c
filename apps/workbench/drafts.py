"""A slide's draft report in a session: drafted over what was found and corrected, edited, and kept on disk."""

from __future__ import annotations

import html
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from slidekick.copilot.draft import Event
from slidekick.copilot.reports.edits import changes, edited
from slidekick.copilot.reports.files import OVERLAY, PICTURE, read_kept, to_json
from slidekick.copilot.reports.report import Report, drafting
from slidekick.copilot.reports.words import as_html
from slidekick.copilot.slide_tools import SlideToolbox
from slidekick.data.errors import InputError
from slidekick.data.files import write_atomic
from slidekick.grounding.annotations import from_geojson
from slidekick.grounding.geojson import read_geojson

PLACES = "places.json"


@dataclass(frozen=True)
class Draft:
    """report: as it stands. places: evidence id -> x, y, width, height at level 0. version: of the slide's layers when
    it was drafted, so that it can be told when they changed since."""

    report: Report
    places: Mapping[str, tuple[int, int, int, int]]
    version: int


def draft(session, form: str, details: Mapping[str, str]) -> Iterator[str]:
    """Draft a report on what is looked at; says what is being done. Masks that were corrected are measured as they are.

    Raises InputError as `draft_report`.
    """
    from slidekick.apps.workbench.session import placed

    sheet, number = session.sheet, session.current
    yield "looking at the slide …"
    box = session.toolbox(sheet)
    made: list[Report] = []

    def making():
        made.append((yield from drafting(session.server.copilot, box.roi, None, form, details, box=box)))
        yield Event("answer")

    for event in session.heard(making):
        if event.kind == "asked":
            yield event.text
    found = [box.finding(fact.measurement.concept) for fact in made[0].facts]
    sheet.layers.draw([one for one in found if one.found and not isinstance(box, SlideToolbox)], box, quiet=True)
    places = {item.id: placed(item.rle, box) for item in made[0].evidence if item.rle is not None}
    sheet.draft = Draft(made[0], places, sheet.layers.version)
    folder = folder_of(session.place, number)
    for name, png in ((PICTURE, made[0].image), (OVERLAY, made[0].overlay)):
        write_atomic(folder / name, png)
    keep(sheet.draft, folder)
    session.keep()


def rewrite(session, text: object) -> None:
    """Other words for the report. Raises InputError as `edits.edited`, and where none was drafted."""
    known = drafted(session.sheet)
    session.sheet.draft = Draft(edited(known.report, text), known.places, known.version)
    keep(session.sheet.draft, folder_of(session.place, session.current))
    session.keep()


def take_shapes(session, path: str | Path) -> None:
    """Take a QuPath file's shapes in place of what was found; concepts that it does not hold stay as they are.

    Raises InputError for a file that is none, and for a slide as a whole.
    """
    sheet = session.sheet
    box = session.toolbox(sheet)
    if isinstance(box, SlideToolbox):
        raise InputError("shapes are taken over one field; draw a region first")
    found = from_geojson(read_geojson(Path(path)), box.roi)
    if not found:
        raise InputError(f"{Path(path).name}: holds no shape; nothing was changed")
    names = box.take(found)
    sheet.layers.draw([box.finding(name) for name in names], box)
    sheet.points = {concept: clicks for concept, clicks in sheet.points.items() if concept not in names}
    sheet.by_hand = list(dict.fromkeys([*sheet.by_hand, *names]))
    session.keep()


def drafted(sheet) -> Draft:
    """The sheet's draft. Raises InputError where there is none."""
    if sheet.draft is None:
        raise InputError("there is no report on this slide yet; draft one")
    return sheet.draft


def words_html(sheet, number: int) -> str:
    """The report's words with marks that lead to the slide, and what is to be known of it; "" without one."""
    if sheet.draft is None:
        return ""
    report = sheet.draft.report
    prefix = f"mark-r{number}-"
    parts = [f'<div class="report-words">{as_html(report.text, report.drafted, 3, prefix)}</div>']
    notes = [f"{report.status}. {report.notice}", f"{len(changes(report))} changes by hand"]
    if sheet.draft.version != sheet.layers.version:
        notes.append("masks changed since this was drafted: draft it anew")
    parts += [f"<p class='report-note'>{html.escape(' · '.join(notes))}</p>"]
    for title, lines in (("Left out", report.left_out), ("Warnings", report.warnings)):
        items = "".join(f"<li>{html.escape(line)}</li>" for line in lines)
        parts += [f"<details><summary>{title} ({len(lines)})</summary><ul>{items}</ul></details>"] if lines else []
    return "".join(parts)


def folder_of(place: Path, number: int) -> Path:
    """Where the report on a session's slide lies."""
    return place / f"sheet-{number}" / "report"


def keep(known: Draft, folder: Path) -> None:
    """Write a draft down, whose pictures are there; what was there stays whole until it is. Raises OutputError."""
    write_atomic(folder / PLACES, json.dumps({"places": known.places, "version": known.version}))
    write_atomic(folder / "report.json", to_json(known.report))


def restore(folder: Path) -> Draft | None:
    """The draft that was kept; None where there is none, or it is of another version."""
    try:
        told = json.loads((folder / PLACES).read_text(encoding="utf-8"))
        report = read_kept(folder)
    except (OSError, ValueError, InputError):
        return None
    return Draft(report, {name: tuple(box) for name, box in told["places"].items()}, told["version"])
