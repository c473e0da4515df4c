"""What is answered at which address."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import numpy as np
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import BaseModel, Field

from slidekick.apps.serving import slides
from slidekick.apps.serving.guard import error_json
from slidekick.apps.serving.replies import Reply, sse
from slidekick.apps.serving.requests import Completion, ImageUrl, SlidePart, template_messages
from slidekick.apps.serving.server import Refusal, Server, told_of
from slidekick.copilot.answer import RESEARCH_USE, Answer, check_question
from slidekick.copilot.copilot import Copilot
from slidekick.copilot.draft import Event, Wanted
from slidekick.copilot.pictures import Pictures, Shown
from slidekick.copilot.together import Making, spoken
from slidekick.copilot.turn import Turn
from slidekick.data.errors import InputError
from slidekick.data.slide import Roi

DAY_S = 86_400
BLANK = np.full((64, 64, 3), 255, np.uint8)  # stands where a conversation shows nothing, and is not looked at

router = APIRouter()


@router.get("/healthz")
async def health(request: Request) -> dict:
    """Whether it works, and how long the line is."""
    server: Server = request.app.state.server
    return {"status": "ok", "waiting": server.worker.waiting, "answering": server.worker.going, "notice": RESEARCH_USE}


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    """Prometheus' text format."""
    return plain(request.app.state.server.metrics.text(), "text/plain; version=0.0.4; charset=utf-8")


@router.get("/v1/models")
async def models(request: Request) -> dict:
    """The copilot, its base without experts, and each expert by itself."""
    server: Server = request.app.state.server
    kind = {"object": "model", "created": 0, "owned_by": "slidekick"}
    return {"object": "list", "data": [{"id": name, **kind} for name in server.models]}


@router.get("/v1/models/{name:path}")
async def model(request: Request, name: str) -> dict:
    """One of them."""
    request.app.state.server.expert(name)
    return {"id": name, "object": "model", "created": 0, "owned_by": "slidekick"}


# ---- chat completions


@router.post("/v1/chat/completions")
async def complete(request: Request, asked: Completion) -> Response:
    """An answer of the copilot, or, where the caller brings tools, a turn of the model by itself."""
    server: Server = request.app.state.server
    expert = server.expert(asked.model)
    asked.check()
    turns: list[Turn] = []
    if asked.tools:
        begin = await asyncio.to_thread(_turn, server, asked, expert, turns)
    else:
        begin = await asyncio.to_thread(_answer, server, asked, expert, turns)
    reply = Reply(asked.model, asked.logprobs)
    if asked.stream:
        job, heard = server.submit(begin)
        body = _streamed(server, server.events(job, heard), reply, asked, turns)
        return StreamingResponse(body, media_type="text/event-stream", headers={"Cache-Control": "no-store"})
    last = await server.last(begin, request)
    _count(server, turns)
    return JSONResponse(reply.whole(last, turns))


def _answer(server: Server, asked: Completion, expert: str | None, turns: list[Turn]):
    """What begins the copilot's answer. Raises InputError for a question without a picture, or with several."""
    question, earlier = asked.exchanges()
    question = check_question(question)
    if len(asked.messages[-1].pictures) > 1:
        raise InputError("several pictures in one question; ask about one at a time")
    if not asked.pictures:
        raise InputError("there is no picture; send one as image_url with a data URI, or a slide of an opened folder")
    picture = server.eyes.look(asked.pictures[-1])
    history = [Answer(words, text, text, 0.0) for words, text in earlier]

    def begin() -> Making:
        draft = server.copilot.draft(picture, question, history)
        draft.expert, draft.turns = expert, turns
        turns.clear()
        return server.copilot.answering(draft)

    return begin


def _turn(server: Server, asked: Completion, expert: str | None, turns: list[Turn]):
    """What begins a turn of the model by itself. Raises InputError for more pictures than the model takes."""
    messages, shown = template_messages(asked.messages), _shown(server, asked.pictures)
    wanted = Wanted(messages, shown, asked.schemas(), asked.tool_choice != "none", expert)

    def begin() -> Making:
        turn = yield from spoken(wanted)
        turns[:] = [turn]
        yield Event("turn", turn=turn)

    return begin


def _shown(server: Server, pictures: Sequence[ImageUrl | SlidePart]) -> Shown:
    most = max(1, getattr(server.copilot.engine, "pictures", 1))
    if len(pictures) > most:
        raise InputError(f"{len(pictures)} pictures; {server.copilot.engine.name} takes {most} in one prompt")
    seen = [server.eyes.look(one) for one in pictures]
    if any(not isinstance(one, Roi) for one in seen):
        raise InputError("a whole slide goes with no tools of your own; give a region, or leave the tools out")
    pixels = tuple(one.pixels for one in seen) or (BLANK,)
    return pixels[0] if len(pixels) == 1 else Pictures(pixels)


async def _streamed(server: Server, events, reply: Reply, asked: Completion, turns: list[Turn]) -> AsyncIterator[str]:
    """The chunks of a stream. What the copilot writes is held back until it was checked (`Reply.chunks`)."""
    yield sse(reply.first())
    said = False
    try:
        async for event in events:
            if event.kind == "text" and not asked.tools:
                continue
            said = said or event.kind == "text"
            for chunk in reply.chunks(event, turns, said):
                yield sse(chunk)
        _count(server, turns)
        if asked.stream_options and asked.stream_options.include_usage:
            yield sse(reply.counted(turns))
    except Exception as error:
        _, message, kind, _ = told_of(error)
        yield sse(error_json(message, kind))
    yield sse("[DONE]")


def _count(server: Server, turns: Sequence[Turn]) -> None:
    server.metrics.tokens.labels("read").inc(sum(turn.read for turn in turns))
    server.metrics.tokens.labels("written").inc(sum(len(turn.tokens) for turn in turns))


# ---- masks


class Sought(BaseModel):
    """A picture and what to find in it. format: masks as COCO run lengths, or as QuPath's GeoJSON."""

    image_url: ImageUrl | None = None
    slide: SlidePart | None = None
    concepts: list[str] = Field(min_length=1, max_length=64)
    format: str = Field("rle", pattern="^(rle|geojson)$")


@router.post("/v1/segment")
async def segment(request: Request, sought: Sought) -> JSONResponse:
    """Masks and measurements of each concept; what is not there is told as not found."""
    server: Server = request.app.state.server
    if (sought.image_url is None) == (sought.slide is None):
        raise InputError("give image_url or slide, one of the two")
    roi = await asyncio.to_thread(server.eyes.look, sought.image_url or sought.slide)
    if not isinstance(roi, Roi):
        raise InputError("a whole slide is too large for one request; give a region, or use `slidekick segment`")

    def begin() -> Making:
        yield Event("answer", answer=_found(server.copilot, roi, sought))

    last = await server.last(begin, request)
    return JSONResponse(last.answer)


def _found(copilot: Copilot, roi: Roi, sought: Sought) -> dict:
    from slidekick.grounding.export import to_geojson, to_rle
    from slidekick.grounding.measure import measure

    findings = copilot.segmentor.segment(roi.pixels, sought.concepts, mpp=roi.mpp)
    told = [
        {
            "concept": finding.concept,
            "prompt": finding.prompt,
            "known": finding.known,
            "found": finding.found,
            "presence": round(float(finding.presence), 4),
            "measurement": measure(finding, roi.mpp).to_dict() if finding.known else None,
            "rle": to_rle(finding.mask) if finding.found and sought.format == "rle" else None,
        }
        for finding in findings
    ]
    shapes = {"geojson": to_geojson(findings, roi)} if sought.format == "geojson" else {}
    region = roi.region
    return {
        "size": list(roi.pixels.shape[:2]),
        "region": [region.x, region.y, region.width, region.height],
        "mpp": roi.mpp,
        "findings": told,
        **shapes,
        "versions": copilot.versions,
        "notice": RESEARCH_USE,
    }


# ---- files and tiles


@router.get("/v1/files")
async def files(request: Request) -> dict:
    """Names of what lies in the opened folders."""
    server: Server = request.app.state.server
    return {"object": "list", "data": await asyncio.to_thread(server.folders.files)}


@router.get("/v1/slides/{name:path}/facts")
async def facts(request: Request, name: str) -> dict:
    """Size and scale of a slide."""
    return await asyncio.to_thread(_with_slide, request.app.state.server, name, slides.facts)


@router.get("/dzi/{name:path}.dzi")
async def descriptor(request: Request, name: str) -> Response:
    """The Deep Zoom descriptor of a slide."""
    told = await asyncio.to_thread(_with_slide, request.app.state.server, name, slides.descriptor)
    return plain(told.encode(), "application/xml")


@router.get("/dzi/{name:path}_files/{level:int}/{column:int}_{row:int}.jpeg")
async def tile(request: Request, name: str, level: int, column: int, row: int) -> Response:
    """One tile of it."""

    def made(slide) -> bytes:
        return slides.tile(slide, level, column, row)

    return plain(await asyncio.to_thread(_with_slide, request.app.state.server, name, made), "image/jpeg", DAY_S)


def _with_slide(server: Server, name: str, work):
    try:
        file = server.folders.find(name)
    except InputError as error:
        raise Refusal(404, str(error)) from None
    with server.shelf.open(file) as slide:
        try:
            return work(slide)
        except InputError as error:
            raise Refusal(404, str(error)) from None


def plain(content: bytes, kind: str, cached_s: int = 0) -> Response:
    """A response of bytes. cached_s: how long a browser may keep it, for itself."""
    headers = {"Cache-Control": f"private, max-age={cached_s}" if cached_s else "no-store"}
    return Response(content, media_type=kind, headers=headers)
