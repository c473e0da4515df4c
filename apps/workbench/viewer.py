"""What the viewer in the page asks for: its own files, tiles, shapes, and what lies at a place. And what it is told.

Addresses begin with a session's name, which cannot be guessed; slides are those that the session has open, by number.
"""

from __future__ import annotations

import asyncio
import html
import json
import mimetypes
from pathlib import Path

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from slidekick.apps.serving import slides
from slidekick.apps.serving.routes import DAY_S, plain
from slidekick.apps.serving.server import Refusal
from slidekick.apps.workbench import drafts, keeping
from slidekick.apps.workbench.session import Session
from slidekick.apps.workbench.sheets import Sheet
from slidekick.copilot.reports.edits import training_items
from slidekick.copilot.reports.files import FILES, PICTURE
from slidekick.data.errors import InputError
from slidekick.grounding.palette import concept_colours

ASSETS = Path(__file__).parent / "assets"
TYPES = {".js": "text/javascript", ".css": "text/css"}

router = APIRouter()


@router.get("/workbench/{name}")
async def asset(name: str) -> Response:
    """A script or style of the page; Leaflet's come from its package."""
    from xstatic.pkg import leaflet

    places = {file.name: file for folder in (ASSETS, Path(leaflet.BASE_DIR)) for file in folder.glob("*.*s")}
    if name not in places or places[name].suffix not in TYPES:
        raise Refusal(404, "no such file")
    return plain(places[name].read_bytes(), TYPES[places[name].suffix], 3600)


@router.get("/view/{session}/{number:int}/tiles/{level:int}/{column:int}_{row:int}.jpeg")
async def tile(request: Request, session: str, number: int, level: int, column: int, row: int) -> Response:
    """One tile of an open slide."""

    def read() -> bytes:
        known, sheet = _sheet(request, session, number)
        with known.server.shelf.open(known.file(sheet)) as slide:
            return slides.tile(slide, level, column, row)

    return plain(await _found(read), "image/jpeg", DAY_S)


@router.get("/view/{session}/{number:int}/shapes/{layer:int}")
async def shapes(request: Request, session: str, number: int, layer: int) -> Response:
    """The objects of one layer, packed; see `Layer.packed`."""

    def packed() -> bytes:
        _, sheet = _sheet(request, session, number)
        try:
            return list(sheet.layers.by_concept.values())[layer].packed()
        except IndexError:
            raise InputError("no such layer") from None

    return plain(await _found(packed), "application/octet-stream", DAY_S)


@router.get("/view/{session}/{number:int}/at")
async def at(request: Request, session: str, number: int, x: float, y: float) -> JSONResponse:
    """What was measured of the object at a place, in lines; none where there is no object."""

    def lines() -> list[str]:
        _, sheet = _sheet(request, session, number)
        found = sheet.layers.at(x, y)
        return measured_lines(*found) if found else []

    return JSONResponse({"lines": await _found(lines)}, headers={"Cache-Control": "no-store"})


@router.get("/view/{session}/history.json")
async def history(request: Request, session: str) -> JSONResponse:
    """The whole session as it is kept, to be taken away."""
    told = await _found(lambda: keeping.to_dict(request.app.state.sessions.get(session)))
    return JSONResponse(told, headers=_taken("slidekick.json"))


@router.get("/view/{session}/{number:int}/shapes.geojson")
async def shapes_file(request: Request, session: str, number: int) -> JSONResponse:
    """All that is drawn on a slide, as QuPath reads it."""

    def features() -> list[dict]:
        _, sheet = _sheet(request, session, number)
        return [feature for layer in sheet.layers.by_concept.values() for feature in layer.features]

    told = {"type": "FeatureCollection", "features": await _found(features)}
    return JSONResponse(told, headers=_taken("shapes.geojson"))


@router.get("/view/{session}/{number:int}/report/{name}")
async def report_file(request: Request, session: str, number: int, name: str) -> Response:
    """A file of the draft report on a slide: see `reports.files.FILES`; and what was edited as training items."""

    def written() -> str | bytes:
        _, sheet = _sheet(request, session, number)
        report = drafts.drafted(sheet).report
        if name == "items.jsonl":
            return "".join(f"{json.dumps(one)}\n" for one in training_items(report, PICTURE))
        if name not in FILES:
            raise InputError("no such file of a report")
        return FILES[name](report)

    content = await _found(written)
    kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
    return Response(content, media_type=kind, headers=_taken(name))


def _taken(name: str) -> dict[str, str]:
    """Headers of a file to keep: never shown in the page's own place, where its words would count as the page's."""
    return {"Content-Disposition": f'attachment; filename="{name}"', "Cache-Control": "no-store"}


def measured_lines(layer, feature: dict) -> list[str]:
    """An object's name and measurements, as people read them."""
    told = feature["properties"].get("measurements", {})
    return [layer.concept, *(f"{name}: {value:,.4g}".replace(",", " ") for name, value in told.items())]


async def _found(work):
    try:
        return await asyncio.to_thread(work)
    except InputError as error:
        raise Refusal(404, str(error)) from None


def _sheet(request: Request, name: str, number: int) -> tuple[Session, Sheet]:
    known = request.app.state.sessions.get(name)
    if not 0 <= number < len(known.sheets):
        raise InputError("no such slide in this session")
    return known, known.sheets[number]


def state(session: Session, correcting: str | None = None) -> dict:
    """What the viewer is to show. correcting: the concept whose clicks are drawn."""
    empty = {"base": None, "number": session.changes, "history": f"view/{session.name}/history.json"}
    if not session.sheets:
        return empty
    sheet = session.sheet
    try:
        known = session.facts(sheet)
    except InputError:  # gone since: the conversation is still there
        return empty
    layers = list(sheet.layers.by_concept.values())
    colours = concept_colours(layer.concept for layer in layers if layer.found)
    return empty | {
        "base": f"view/{session.name}/{session.current}",
        "width": known["width"],
        "height": known["height"],
        "levels": known["levels"],
        "tile": known["tile"],
        "mpp": known["mpp"],
        "region": None if sheet.area is None else {"box": sheet.area.box, "polygon": sheet.area.polygon or None},
        "fly": session.fly,
        "points": sheet.points.get(correcting, []) if correcting else [],
        "concepts": [
            {
                "name": layer.concept,
                "told": layer.told,
                "found": layer.found,
                "quiet": layer.quiet,
                "colour": "#{:02x}{:02x}{:02x}".format(*colours[layer.concept]) if layer.found else None,
                "number": number,
                "version": layer.version,
            }
            for number, layer in enumerate(layers)
        ],
    }


def state_html(session: Session, correcting: str | None = None) -> str:
    """The same in an attribute that the viewer reads."""
    return f'<div data-state="{html.escape(json.dumps(state(session, correcting)), quote=True)}"></div>'
