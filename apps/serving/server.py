"""What the server's routes share: the model's worker, the opened folders, open slides, counters, and how to wait."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from slidekick.apps.serving.folders import Folders
from slidekick.apps.serving.guard import Keys, Rates
from slidekick.apps.serving.metrics import Metrics
from slidekick.apps.serving.pictures import Eyes
from slidekick.apps.serving.slides import Shelf
from slidekick.apps.serving.work import ENDS, MOST_WAITING, Busy, Job, Worker
from slidekick.copilot.copilot import Copilot
from slidekick.copilot.draft import Event
from slidekick.copilot.together import Making
from slidekick.data.errors import InputError, PluginError, SourceError

log = logging.getLogger(__name__)

LOOK_S = 1.0  # how often a waiting request looks whether its caller is still there


@dataclass(frozen=True)
class Settings:
    """a_minute: requests of a caller, None: any number. waiting: in line. timeout_s: of one answer. body: bytes. hosts:
    names that the server answers to, "*" for any; others are refused, so that no page elsewhere can reach it under a
    name of its own (DNS rebinding)."""

    a_minute: int | None = None
    waiting: int = MOST_WAITING
    timeout_s: float = 120.0
    body: int = 80_000_000
    hosts: tuple[str, ...] = ("localhost", "127.0.0.1", "[::1]", "testserver")


class Refusal(Exception):
    """A request that is answered with an error. kind: OpenAI's `type`."""

    def __init__(self, status: int, message: str, kind: str = "invalid_request_error", wait_s: int = 0) -> None:
        super().__init__(message)
        self.status, self.kind, self.wait_s = status, kind, wait_s


class Server:
    """What the routes share: the model's worker, the opened folders, open slides, counters."""

    def __init__(self, copilot: Copilot, folders: Folders, keys: Keys, settings: Settings) -> None:
        self.copilot, self.folders, self.keys, self.settings = copilot, folders, keys, settings
        self.worker = Worker(copilot.engine, settings.waiting)
        self.shelf, self.eyes = Shelf(), Eyes(copilot, folders)
        self.metrics, self.rates = Metrics(self.worker), Rates(settings.a_minute)

    @property
    def models(self) -> dict[str, str | None]:
        """Names to ask for, and the expert that each means: None for those that picture and question ask for."""
        name = self.copilot.engine.name
        speakers = getattr(self.copilot.engine, "speakers", ())
        aside = {f"{name}/base": ""} | {f"{name}/{one}": one for one in speakers} if speakers else {}
        return {name: None, **aside}

    def expert(self, model: str) -> str | None:
        """The expert that a model's name means. Raises Refusal for a name that is none."""
        if model not in self.models:
            raise Refusal(404, f"model {model[:80]!r} is not served; there are {', '.join(self.models)}")
        return self.models[model]

    def submit(self, begin: Callable[[], Making]) -> tuple[Job, asyncio.Queue]:
        """Put a making in line; its events come in the queue. Raises Busy where the line is full."""
        loop, heard = asyncio.get_running_loop(), asyncio.Queue()
        job = Job(begin, lambda told: loop.call_soon_threadsafe(heard.put_nowait, told))
        self.worker.submit(job)
        return job, heard

    async def events(self, job: Job, heard: asyncio.Queue, request: Request | None = None) -> AsyncIterator[Event]:
        """Events of a job until its last. request: looked at now and then, whether its caller is still there.

        Raises what ended the job, and Refusal where it took too long.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + self.settings.timeout_s
        try:
            while True:
                try:
                    told = await asyncio.wait_for(heard.get(), max(0.01, min(LOOK_S, until - loop.time())))
                except TimeoutError:
                    if loop.time() >= until:
                        seconds = f"{self.settings.timeout_s:g}"
                        raise Refusal(504, f"no answer within {seconds} s; ask again later", "timeout_error") from None
                    if request is not None and await request.is_disconnected():
                        raise Refusal(499, "the caller left") from None
                    continue
                if isinstance(told, Exception):
                    raise told
                if told.kind == "tool_end":
                    self.metrics.steps.labels(told.step.name).inc()
                yield told
                if told.kind in ENDS:
                    return
        finally:
            job.left.set()

    async def last(self, begin: Callable[[], Making], request: Request) -> Event:
        """The last event of a making."""
        job, heard = self.submit(begin)
        async for event in self.events(job, heard, request):
            last = event
        return last


def told_of(error: Exception) -> tuple[int, str, str, int]:
    """Status, message, OpenAI's type of an error, and seconds to wait; what is our own fault is told to the log."""
    bad = "invalid_request_error"
    if isinstance(error, Refusal):
        return error.status, str(error), error.kind, error.wait_s
    if isinstance(error, Busy):
        return 429, str(error), "rate_limit_error", round(error.seconds)
    if isinstance(error, RequestValidationError):
        one = error.errors()[0]
        place = ".".join(str(part) for part in one["loc"][1:]) or "body"
        return 400, f"{place}: {one['msg']}"[:300], bad, 0
    if isinstance(error, HTTPException):
        return error.status_code, str(error.detail), bad, 0
    if isinstance(error, InputError):
        return 400, str(error), bad, 0
    if isinstance(error, SourceError | PluginError):
        return 502, str(error), "upstream_error", 0
    log.error("a request failed", exc_info=error)
    return 500, "the server failed at this; its log tells more", "server_error", 0
