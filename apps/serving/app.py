"""The FastAPI application: its routes, who is let in, and errors in OpenAI's shape, one line each."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware

from slidekick.apps.serving import routes
from slidekick.apps.serving.guard import LimitedBodies, error_json
from slidekick.apps.serving.server import Refusal, Server, told_of
from slidekick.apps.serving.work import Busy
from slidekick.data.errors import SlidekickError

POLICY = "default-src 'none'; frame-ancestors 'none'"  # of what is no page
OPEN = ("/healthz", "/metrics")  # routes that ask for no key: they tell nothing of pictures or questions


def build(server: Server) -> FastAPI:
    """The application over a server."""

    @asynccontextmanager
    async def lifespan(_: FastAPI):
        yield
        await asyncio.to_thread(server.worker.end)
        server.shelf.close()

    app = FastAPI(title="Slidekick", docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)
    app.state.server = server
    app.include_router(routes.router)
    app.add_middleware(LimitedBodies, most=server.settings.body)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(server.settings.hosts), www_redirect=False)
    app.add_middleware(Watched)
    for kind in (Refusal, Busy, SlidekickError, RequestValidationError, HTTPException):
        app.add_exception_handler(kind, _told)
    return app


class Watched:
    """ASGI: asks for the key, holds the rate, adds headers, tells of what failed, counts and times. A caller who left
    before the answer began is counted as 499."""

    def __init__(self, app) -> None:
        self.app = app

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        state = scope["app"].state  # taken first: an application mounted below puts its own in this place
        server, request, status, begun = state.server, Request(scope), 499, time.perf_counter()

        async def told(message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Content-Type-Options"] = "nosniff"
                headers.setdefault("Content-Security-Policy", getattr(state, "policy", POLICY))
            await send(message)

        try:
            _admitted(server, request)
        except Refusal as refusal:
            await (await _told(request, refusal))(scope, receive, told)
        else:
            await self._answered(request, receive, told)
        finally:
            route = getattr(scope.get("route"), "path", "unknown")
            server.metrics.requests.labels(route, str(status)).inc()
            server.metrics.seconds.labels(route).observe(time.perf_counter() - begun)

    async def _answered(self, request: Request, receive, told) -> None:
        begun = False

        async def noted(message) -> None:
            nonlocal begun
            begun = True
            await told(message)

        try:
            await self.app(request.scope, receive, noted)
        except Exception as error:
            if begun:  # too late for another answer
                raise
            await (await _told(request, error))(request.scope, receive, told)


def _admitted(server: Server, request: Request) -> None:
    caller = request.client.host if request.client else "unknown"
    if server.keys and request.url.path not in OPEN:
        kind, _, given = request.headers.get("authorization", "").partition(" ")
        owner = server.keys.owner(given.strip()) if kind.lower() == "bearer" else None
        if owner is None:
            raise Refusal(401, "no valid API key; send Authorization: Bearer KEY", "authentication_error")
        caller = f"key {owner}"
    if request.url.path not in OPEN and request.method == "POST" and (wait := server.rates.wait(caller)):
        raise Refusal(429, f"more than {server.settings.a_minute} requests a minute", "rate_limit_error", wait)


async def _told(_: Request, error: Exception) -> JSONResponse:
    """An error as the caller is told of it."""
    status, message, kind, wait = told_of(error)
    return JSONResponse(error_json(message, kind), status, headers={"Retry-After": str(wait)} if wait else None)
