"""`slidekick revise DIR`: a draft whose words were edited in DIR/report.md, held against its numbers and rewritten.

With --items the changed answers become lines of an items.jsonl beside the picture, to train on.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from slidekick.apps.loading import tell
from slidekick.data.files import check_writable, write_atomic


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
        check_writable(args.items)
    for path in write_report(report, args.folder):
        tell(f"wrote {path}")
    if args.items:
        items = training_items(report, image := f"{report.picture_id}.png")
        write_atomic(args.items / image, report.image)
        tell(f"wrote {len(items)} items to {add_lines(args.items / 'items.jsonl', items)}")
    print(to_json(report) if args.json else _told(changed, report.warnings))
    return 0


def add_lines(file: Path, items: list[dict]) -> Path:
    """A JSONL file with the lines that it did not hold yet, each known by its `id`."""
    old = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    known = {json.loads(line)["id"] for line in old if line.strip()}
    new = [json.dumps(item, ensure_ascii=False) for item in items if item["id"] not in known]
    return write_atomic(file, "".join(f"{line}\n" for line in (*old, *new)))


def _told(changed, warnings) -> str:
    lines = [f"{len(changed)} changes" if changed else "nothing was changed"]
    for one in changed:
        lines += [f"- {line}" for line in one.before] + [f"+ {line}" for line in one.after]
    return "\n".join([*lines, *(f"warning: {text}" for text in warnings)])
