"""Who may ask, how often, and how much at once: API keys, a rate per key, and the size of a body."""

from __future__ import annotations

import hashlib
import hmac
import json
import math
import time
from collections.abc import Mapping
from pathlib import Path

from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter

from slidekick.data.errors import InputError

MINUTE_S = 60
LEAST_KEY = 16  # characters: shorter ones can be tried out


class Keys:
    """API keys by their owners' names; only digests are kept. Raises InputError for a key that is too short."""

    def __init__(self, keys: Mapping[str, str]) -> None:
        if short := [owner for owner, key in keys.items() if len(key) < LEAST_KEY]:
            raise InputError(f"the key of {short[0]} has fewer than {LEAST_KEY} characters; make a longer one")
        self._digests = {owner: _digest(key) for owner, key in keys.items()}

    def __bool__(self) -> bool:
        return bool(self._digests)

    @classmethod
    def read(cls, file: Path) -> Keys:
        """Keys of a file: a line each, the owner's name and the key. Raises InputError for a line that is none."""
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{file}: cannot be read as text; give a file of lines `name key`") from error
        told = [line.split() for line in lines if line.strip() and not line.startswith("#")]
        if odd := next((number for number, words in enumerate(told, 1) if len(words) != 2), None):
            raise InputError(f"{file}: entry {odd} is not `name key`; give two words a line")
        if len({owner for owner, _ in told}) < len(told) or not told:
            raise InputError(f"{file}: holds no key, or two of one owner; give each a name of its own")
        return cls({owner: key for owner, key in told})

    def owner(self, given: str) -> str | None:
        """Whose key it is; all keys are compared, each in constant time."""
        digest, found = _digest(given), None
        for owner, one in self._digests.items():
            if hmac.compare_digest(digest, one):
                found = owner
        return found


class Rates:
    """At most so many requests a minute of each caller; None: as many as come."""

    def __init__(self, a_minute: int | None) -> None:
        self._item = RateLimitItemPerMinute(a_minute) if a_minute else None
        self._limiter = MovingWindowRateLimiter(MemoryStorage())

    def wait(self, caller: str) -> int:
        """Whole seconds until the caller may come again; 0 where it may now, which is then counted."""
        if self._item is None or self._limiter.hit(self._item, caller):
            return 0
        seconds = math.ceil(self._limiter.get_window_stats(self._item, caller).reset_time - time.time())
        if seconds > MINUTE_S:  # the clock was set back: what was counted lies in the future, where it would stay
            self._limiter = MovingWindowRateLimiter(MemoryStorage())
            return self.wait(caller)
        return max(1, seconds)


class LimitedBodies:
    """ASGI: refuses a body of more than `most` bytes with 413, whether its length was stated or not."""

    def __init__(self, app, most: int) -> None:
        self.app, self.most = app, most

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        stated = dict(scope["headers"]).get(b"content-length", b"0")
        if not stated.isdigit() or int(stated) > self.most:
            await self._refuse(send)
            return
        read, refused = 0, False

        async def counted():
            nonlocal read, refused
            message = await receive()
            read += len(message.get("body", b""))
            if read > self.most:
                refused = True
                return {"type": "http.disconnect"}
            return message

        async def unless_refused(message) -> None:
            if not refused:
                await send(message)

        try:
            await self.app(scope, counted, unless_refused)
        except Exception:
            if not refused:
                raise
        if refused:
            await self._refuse(send)

    async def _refuse(self, send) -> None:
        told = error_json(f"the request has more than {self.most / 1e6:g} MB; send a smaller picture")
        body = json.dumps(told).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 413, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def error_json(message: str, kind: str = "invalid_request_error") -> dict:
    """An error in OpenAI's shape. kind: its `type`."""
    return {"error": {"message": message, "type": kind, "param": None, "code": None}}


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
