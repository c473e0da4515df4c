"""Checklists of synoptic reports: what is measured or read where a picture can tell it, and left open where it cannot.

A file of one checklist (YAML or JSON: `tumour`, and `elements` with `element` and `options`, each a text or an object
with `text`), or of several, one a line (JSONL), of which one is taken by its `tumour`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from slidekick.copilot.answer import MAX_OPTION, MAX_OPTIONS
from slidekick.data.errors import InputError

EXAMPLE = Path(__file__).parent / "checklists" / "tumour.yaml"
MOST_ELEMENTS = 200
# What a field of tissue can tell by its looks; all else (size, margins, nodes, stage) needs the specimen.
_READ = re.compile(r"(?:histologic(?:al)? |tumou?r |cell )?(?:type|grade|pattern|differentiation)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Checklist:
    """elements: name -> options to choose among, () for free text."""

    tumour: str
    elements: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Element:
    """A line of the synopsis. kind: "measured" (evidence names by what), "read" (confidence says how surely) or "open",
    to be filled in."""

    name: str
    text: str = ""
    kind: str = "open"
    evidence: tuple[str, ...] = ()
    confidence: float = 0.0


def load_checklist(path: str | Path | None = None, tumour: str | None = None) -> Checklist:
    """A checklist from a file; the short one that comes along where None is given.

    Raises InputError for a file that is none, and for a tumour that it does not hold.
    """
    path = Path(path or EXAMPLE)
    known = {str(one.get("tumour", "")): one for one in _read(path)}
    if len(known) > 1 and tumour not in known:
        raise InputError(f"{path}: which tumour? Give --tumour, one of {', '.join(sorted(known)[:12])} …")
    name = tumour if tumour in known else next(iter(known))
    if tumour not in (None, name):
        raise InputError(f"{path}: no checklist for {tumour!r}; it holds {name}")
    elements = known[name].get("elements")
    if not isinstance(elements, list) or not 0 < len(elements) <= MOST_ELEMENTS:
        raise InputError(f"{path}: checklist {name!r} has no list of 1 to {MOST_ELEMENTS} `elements`")
    return Checklist(name or "tumour", dict(_element(path, one) for one in elements))


def gone_through(checklist: Checklist, measured: Callable[[str], tuple | None], ask: Callable | None) -> list[Element]:
    """Each element with what can be said of it.

    measured: name -> (text, evidence ids) of what was measured under it, None where it is no concept. ask: (question,
    options) -> (option, confidence); None where options cannot be weighed.
    """
    filled = []
    for name, options in checklist.elements.items():
        if found := measured(name):
            filled.append(Element(name, found[0], "measured", found[1]))
        elif ask and _READ.match(name) and 2 <= len(options) <= MAX_OPTIONS:
            text, confidence = ask(f"What is the {name.lower()}?", options)
            filled.append(Element(name, text, "read", (), confidence))
        else:
            filled.append(Element(name))
    return filled


def _read(path: Path) -> list[dict]:
    import yaml

    try:
        text = path.read_text(encoding="utf-8")
        rows = [json.loads(line) for line in text.splitlines() if line.strip()] if path.suffix == ".jsonl" else None
        rows = [yaml.safe_load(text)] if rows is None else rows
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise InputError(
            f"{path}: cannot be read as a checklist ({type(error).__name__}); give YAML or JSON"
        ) from error
    if not rows or not all(isinstance(row, dict) for row in rows):
        raise InputError(f"{path}: holds no checklist; give an object with `tumour` and `elements`")
    return rows


def _element(path: Path, told: object) -> tuple[str, tuple[str, ...]]:
    name = told.get("element") if isinstance(told, dict) else None
    if not isinstance(name, str) or not name.strip():
        raise InputError(f"{path}: an element has no name; give each `element`")
    listed = told.get("options") or []
    if not isinstance(listed, list):
        raise InputError(f"{path}: element {name!r} has options {listed!r}, no list; give a line for each")
    options = [one.get("text") if isinstance(one, dict) else one for one in listed]
    words = [" ".join(str(one).split())[:MAX_OPTION] for one in options if one]
    return " ".join(name.split()), tuple(dict.fromkeys(words))
