"""Taking an address and serving an application at it, in this thread or beside it."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn

from slidekick.data.errors import InputError

HERE = ("127.0.0.1", "localhost", "::1")
STOP_S = 30  # seconds that a stop waits for answers in the making


def taken(host: str, ports: range) -> socket.socket:
    """A socket at the first free of some ports, taken before minutes go into loading. Raises InputError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for port in ports:
        try:
            return socket.create_server((host, port), family=family)
        except (OSError, OverflowError) as error:
            reason = error
    told = f"{ports.start} to {ports.stop - 1}" if len(ports) > 1 else f"{ports.start}"
    raise InputError(f"{host}, port {told}: cannot be served at ({reason}); give another --port or --host")


def hosts_of(host: str, names: tuple[str, ...] = ()) -> tuple[str, ...]:
    """The names that a server at `host` answers to: its own, and any where it is open to others and names none."""
    own = f"[{host}]" if ":" in host else host
    return ("*",) if host not in HERE and not names else tuple(dict.fromkeys((*HERE[:2], "[::1]", own, *names)))


def check_open(host: str, keys: str, without: bool) -> None:
    """Raises InputError for a host that lets others in with no word on how. keys: how they are told apart, if they can
    be. without: whether all may come."""
    if host not in HERE and not without:
        raise InputError(f"--host {host} lets others in; give {keys}--no-keys to do without keys")


def address_of(place: socket.socket) -> str:
    """http://host:port/ of a socket."""
    host, port = place.getsockname()[:2]
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


def _server(app):
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    return uvicorn.Server(
        uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=STOP_S, server_header=False, lifespan="on")
    )


def serve(app, place: socket.socket, started: Callable[[], None] | None = None) -> None:
    """Serve until stopped (SIGINT, SIGTERM); answers in the making are finished first. started: called once it does."""
    server = _server(app)
    if started:
        threading.Thread(target=_when_started, args=(server, started), daemon=True).start()
    server.run(sockets=[place])


def _when_started(server, started: Callable[[], None]) -> None:
    while not server.started:
        time.sleep(0.05)
    started()


@contextmanager
def serving(app, host: str = "127.0.0.1") -> Iterator[str]:
    """Within it the application is served beside this thread at a free port; gives its address."""
    with taken(host, range(0, 1)) as place:
        server = _server(app)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [place]}, daemon=True)
        thread.start()
        while not server.started and thread.is_alive():
            time.sleep(0.01)
        try:
            yield address_of(place)
        finally:
            server.should_exit = True
            thread.join(STOP_S)
