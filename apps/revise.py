"""`slidekick revise DIR`: a draft whose words were edited in DIR/report.md, held against its numbers and rewritten.

With --items the changed answers become lines of an items.jsonl beside the picture, to train on.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from slidekick.apps.loading import tell
from slidekick.data.errors import InputError
from slidekick.data.files import check_writable, write_atomic

ITEMS = "items.jsonl"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `slidekick revise`."""
    parser.add_argument(
        "folder", metavar="DIR", type=Path, help="what `slidekick report --out DIR` wrote; edit report.md"
    )
    parser.add_argument(
        "--items", type=Path, metavar="DIR", help="add what was changed to DIR/items.jsonl, to train on"
    )
    parser.add_argument("--json", action="store_true", help="print JSON in place of text")


def run(args: argparse.Namespace) -> int:
    """Read, check, write, and tell what was changed."""
    from slidekick.copilot.reports.edits import changes, training_items
    from slidekick.copilot.reports.files import read_report, to_json, write_report

    report = read_report(args.folder)
    changed = changes(report)
    if args.items:
        known = ids_of(check_writable(args.items) / ITEMS)
    for path in write_report(report, args.folder):
        tell(f"wrote {path}")
    if args.items:
        items = training_items(report, image := f"{report.picture_id}.png")
        write_atomic(args.items / image, report.image)
        new = [item for item in items if item["id"] not in known]
        tell(f"wrote {len(new)} items to {add_lines(args.items / ITEMS, new)}")
    print(to_json(report) if args.json else _told(changed, report.warnings))
    return 0


def ids_of(file: Path) -> set[str]:
    """The `id` of every line of a JSONL file; none where there is no file. Raises InputError (file:line)."""
    known = set()
    for number, line in enumerate(_lines(file), 1):
        try:
            known.add(json.loads(line)["id"])
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{file}:{number}: no item with an id; mend the line, or give another --items") from error
    return known


def add_lines(file: Path, items: list[dict]) -> Path:
    """A JSONL file with further lines."""
    new = [json.dumps(item, ensure_ascii=False) for item in items]
    return write_atomic(file, "".join(f"{line}\n" for line in (*_lines(file), *new)))


def _lines(file: Path) -> list[str]:
    try:
        text = file.read_text(encoding="utf-8") if file.is_file() else ""
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: cannot be read as text; give another --items") from error
    return [line for line in text.split("\n") if line.strip()]  # splitlines would cut within words


def _told(changed, warnings) -> str:
    lines = [f"{len(changed)} changes" if changed else "nothing was changed"]
    for one in changed:
        lines += [f"- {line}" for line in one.before] + [f"+ {line}" for line in one.after]
    return "\n".join([*lines, *(f"warning: {text}" for text in warnings)])
