"""A session on disk: session.json, and the layers of each slide as QuPath GeoJSON beside it."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

from slidekick.apps.workbench import drafts
from slidekick.apps.workbench.layers import Layer, Layers
from slidekick.apps.workbench.sheets import Area, Sheet
from slidekick.copilot.answer import RESEARCH_USE, Answer
from slidekick.data.files import write_atomic

SCHEMA = "slidekick.session/2"


@dataclass(frozen=True)
class Exchange:
    """A question and its answer. sheet: number of the slide. places: evidence id -> x, y, width, height at level 0."""

    answer: Answer
    sheet: int
    area: Area | None
    places: dict[str, tuple[int, int, int, int]]


def save(session) -> None:
    """Write everything down; what was there stays whole until it is. Raises OutputError."""
    for number, sheet in enumerate(session.sheets):
        for layer in sheet.layers.by_concept.values():
            file = session.place / _layer_file(number, layer)
            if not file.is_file():
                write_atomic(file, json.dumps({"type": "FeatureCollection", "features": layer.features}))
    session.store.save(session.name, to_dict(session))


def to_dict(session) -> dict:
    """JSON-ready: what is kept, and the history that can be exported."""
    return {
        "schema": SCHEMA,
        "notice": RESEARCH_USE,
        "sheets": [_sheet_dict(sheet) for sheet in session.sheets],
        "current": session.current,
        "exchanges": [
            {"answer": one.answer.to_dict(), "sheet": one.sheet, "area": _area_dict(one.area), "places": one.places}
            for one in session.exchanges
        ],
        "messages": session.messages,
    }


def restore(session) -> None:
    """Give a new session what was kept under its name, where anything was."""
    kept = session.store.load(session.name)
    if kept is None or kept.get("schema") != SCHEMA:
        return
    session.sheets = [_sheet_of(one, session.place, number) for number, one in enumerate(kept["sheets"])]
    session.current = min(kept["current"], max(0, len(session.sheets) - 1))
    session.messages = kept["messages"]
    for one in kept["exchanges"]:
        places = {name: tuple(box) for name, box in one["places"].items()}
        answer, area = Answer.from_dict(one["answer"]), _area_of(one["area"])
        session.exchanges.append(Exchange(answer, one["sheet"], area, places))


def _layer_file(number: int, layer: Layer) -> str:
    return f"sheet-{number}/{layer.version}.geojson"


def _area_dict(area: Area | None) -> dict | None:
    return None if area is None else {"box": area.box, "polygon": area.polygon}


def _area_of(told: dict | None) -> Area | None:
    if told is None:
        return None
    return Area(tuple(told["box"]), tuple(tuple(corner) for corner in told["polygon"]))


def _sheet_dict(sheet: Sheet) -> dict:
    return {
        "source": sheet.source,
        "mpp": sheet.mpp,
        "area": _area_dict(sheet.area),
        "points": sheet.points,
        "by_hand": sheet.by_hand,
        "version": sheet.layers.version,
        "layers": [
            {"concept": one.concept, "told": one.told, "version": one.version, "quiet": one.quiet}
            for one in sheet.layers.by_concept.values()
        ],
    }


def _sheet_of(told: dict, place: Path, number: int) -> Sheet:
    layers = Layers(version=told["version"])
    for one in told["layers"]:
        empty = Layer(one["concept"], one["told"], (), one["version"], one["quiet"])
        try:
            data = json.loads((place / _layer_file(number, empty)).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        layers.by_concept[empty.concept] = replace(empty, features=tuple(data["features"]))
    points = {concept: [tuple(one) for one in clicks] for concept, clicks in told["points"].items()}
    by_hand = [concept for concept in told["by_hand"] if concept in layers.by_concept]
    draft = drafts.restore(drafts.folder_of(place, number))
    return Sheet(told["source"], told["mpp"], _area_of(told["area"]), layers, points, by_hand, draft)
