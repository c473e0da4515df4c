"""A report as files: HTML, Word, Markdown, JSON and FHIR, and back again from the JSON and the Markdown.

Every file says that it is a draft and for research use only.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path

from slidekick.copilot.reports.edits import changes, edited
from slidekick.copilot.reports.fhir import to_fhir
from slidekick.copilot.reports.pages import to_html
from slidekick.copilot.reports.report import LIMITS, SCHEMA, Report, quantity, to_dict
from slidekick.copilot.reports.words import into_docx, printable
from slidekick.data.errors import InputError
from slidekick.data.files import write_atomic

BELOW = "<!-- below this line nothing is read back: it is what was measured -->"
PICTURE, OVERLAY = "picture.png", "overlay.png"


def to_json(report: Report) -> str:
    """All of a report but its pictures, with what was changed in it."""
    told = [{"before": one.before, "after": one.after, "evidence": one.evidence} for one in changes(report)]
    return json.dumps(to_dict(report) | {"changes": told}, indent=2, ensure_ascii=False)


def to_markdown(report: Report) -> str:
    """The words, which may be edited and read back, and below them what was measured."""
    head, *rest = _table(report)
    rows = [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rest)]
    parts = [
        f"# {report.title}: {report.source or 'picture'}",
        f"*{report.status}. {report.notice}*",
        report.text.strip(),
    ]
    parts += [BELOW, "## Measurements", "\n".join(rows)]
    for title, lines in _notes(report):
        parts += [f"## {title}", "\n".join(f"- {' '.join(line.split())}" for line in lines)] if lines else []
    made = "; ".join(f"{name} {version}" for name, version in report.versions.items())
    return "\n\n".join([*parts, f"Made {report.created} with {made}"]) + "\n"


def to_docx(report: Report) -> bytes:
    """A Word document: words, pictures, measurements, limits."""
    import docx
    from docx.shared import Cm

    document = docx.Document()
    document.core_properties.title, document.core_properties.author = printable(report.title), "Slidekick"
    document.core_properties.comments = f"{report.status}. {report.notice}"
    document.add_heading(printable(f"{report.title}: {report.source or 'picture'}"), 0)
    document.add_paragraph(f"{report.status}. {report.notice}", style="Intense Quote")
    into_docx(report.text, report.drafted, document)
    for title, png in (("As given", report.image), ("What was found, outlined", report.overlay)):
        document.add_picture(io.BytesIO(png), width=Cm(12))
        document.add_paragraph(title, style="Caption")
    document.add_heading("Measurements", 2)
    head, *rows = _table(report)
    table = document.add_table(1, len(head), style="Light Grid Accent 1")
    for cells, row in [(table.rows[0].cells, head), *((table.add_row().cells, row) for row in rows)]:
        for cell, text in zip(cells, row, strict=True):
            cell.text = printable(text)
    for title, lines in _notes(report):
        if lines:
            document.add_heading(title, 2)
        for line in lines:
            document.add_paragraph(printable(line), style="List Bullet")
    buffer = io.BytesIO()
    document.save(buffer)
    return buffer.getvalue()


FILES: dict[str, Callable[[Report], str | bytes]] = {
    "report.html": to_html,
    "report.docx": to_docx,
    "report.md": to_markdown,
    "report.json": to_json,
    "report.fhir.json": lambda report: json.dumps(to_fhir(report), indent=2, ensure_ascii=False),
    PICTURE: lambda report: report.image,
    OVERLAY: lambda report: report.overlay,
}


def write_report(report: Report, folder: Path) -> list[Path]:
    """Every file of `FILES`, each whole or not at all. Raises OutputError."""
    return [write_atomic(folder / name, write(report)) for name, write in FILES.items()]


def read_report(folder: Path) -> Report:
    """The report of a folder as it was written, with the words of its report.md where those were edited since.

    Raises InputError where a file is missing or is no report's.
    """
    return edited(
        read_kept(folder), words_of(_read(folder, lambda: (folder / "report.md").read_text(encoding="utf-8")))
    )


def read_kept(folder: Path) -> Report:
    """The report of a folder's report.json and pictures, as they were written. Raises InputError as `read_report`."""
    data = _read(folder, lambda: json.loads((folder / "report.json").read_text(encoding="utf-8")))
    return from_dict(data, *(_read(folder, (folder / name).read_bytes) for name in (PICTURE, OVERLAY)))


def _read(folder: Path, read: Callable):
    """What a file of a report's folder holds. Raises InputError as `read_report`."""
    try:
        return read()
    except OSError as error:
        told = f"{error.filename}: {error.strerror}; give a folder that `slidekick report --out` wrote"
        raise InputError(told) from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{folder}: not a report's files ({type(error).__name__}); draft it anew") from error


def words_of(markdown: str) -> str:
    """The words that may be edited in what `to_markdown` wrote: all but the title and the notice above them."""
    words = markdown.partition(BELOW)[0]
    lines, above = words.replace("\r\n", "\n").split("\n"), {"title", "notice", ""}
    while lines and (kind := _kind(lines[0].strip())) in above:
        lines.pop(0)
        above -= {kind} - {""}
    return "\n".join(lines)


def _kind(line: str) -> str:
    """What a line above the words may be: the title, the notice, "" for an empty one, or words already."""
    if line.startswith("# "):
        return "title"
    if len(line) > 1 and line[0] == line[-1] == "*":
        return "notice"
    return "words" if line else ""


def from_dict(data: object, image: bytes, overlay: bytes) -> Report:
    """The reverse of `to_dict`. Raises InputError for what is none."""
    import msgspec

    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        said = data.get("schema") if isinstance(data, dict) else data
        raise InputError(f"a report of {str(said)[:40]!r}, and {SCHEMA} is read; draft it anew")
    kept = {key: value for key, value in data.items() if key != "changes"} | {"image": image, "overlay": overlay}
    try:
        return msgspec.convert(kept, Report, builtin_types=(bytes,))
    except (msgspec.ValidationError, ValueError, RecursionError) as error:
        raise InputError(f"not a report: {error}; draft it anew") from error


def _notes(report: Report) -> tuple[tuple[str, Sequence[str]], ...]:
    """What stands below the measurements: titles and lines."""
    return ("Left out", report.left_out), ("Warnings", report.warnings), ("Limits", LIMITS)


def _table(report: Report) -> list[list[str]]:
    """Measurements as rows of words, the first being the head."""
    rows = [["Structure", "Number", "Share", "Area", "Density", "Mean diameter", "Presence", "Evidence"]]
    for fact in report.facts:
        m = fact.measurement
        told = ["not found", "", "", "", ""]
        if m.found:
            area = quantity(m.area_px, "px") if m.area_um2 is None else quantity(m.area_um2, "µm²")
            um = m.mean_diameter_um
            across = quantity(m.mean_diameter_px, "px") if um is None else quantity(um, "µm")
            count = "–" if m.count is None else str(m.count)
            told = [count, quantity(m.area_fraction, "%"), area, quantity(m.density_per_mm2, "/mm²"), across]
        rows.append([m.concept, *told, f"{fact.presence:.2f}", " ".join(fact.evidence)])
    return rows
