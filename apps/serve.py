"""`slidekick serve`: an OpenAI-compatible server of the copilot, masks and tiles. The server is in `serving/`."""

from __future__ import annotations

import argparse
from pathlib import Path

from slidekick.apps.loading import add_model, load_copilot, tell
from slidekick.data.errors import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `slidekick serve`."""
    parser.add_argument(
        "--folder", type=Path, action="append", metavar="DIR", help="slides that may be asked about; may be repeated"
    )
    parser.add_argument("--host", default="127.0.0.1", help="default: 127.0.0.1, this machine only")
    parser.add_argument("--port", type=int, default=8000, help="default: 8000")
    parser.add_argument("--keys", type=Path, metavar="FILE", help="API keys, lines `name key`; one is then needed")
    parser.add_argument("--no-keys", action="store_true", help="serve beyond this machine without keys")
    parser.add_argument("--host-name", action="append", metavar="NAME", help="a name the server is reached under")
    parser.add_argument("--rate", type=int, metavar="N", help="requests a minute of each key or address")
    parser.add_argument("--waiting", type=int, default=64, metavar="N", help="questions in line at most (64)")
    parser.add_argument("--timeout", type=float, default=120.0, metavar="S", help="seconds an answer may take (120)")
    add_model(parser)


def run(args: argparse.Namespace) -> int:
    """Load the copilot and serve until stopped; answers in the making are finished first."""
    _check(args)
    try:
        from slidekick.apps.serving.app import build
        from slidekick.apps.serving.folders import Folders
        from slidekick.apps.serving.guard import Keys
        from slidekick.apps.serving.running import address_of, check_open, hosts_of, serve, taken
        from slidekick.apps.serving.server import Server, Settings
    except ImportError as error:
        raise InputError(f"{error.name} is not installed; pip install 'slidekick[serve]' brings it") from error
    check_open(args.host, "--keys FILE, or ", bool(args.keys) or args.no_keys)
    keys = Keys.read(args.keys) if args.keys else Keys({})
    folders = Folders(args.folder or ())
    settings = Settings(args.rate, args.waiting, args.timeout, hosts=hosts_of(args.host, tuple(args.host_name or ())))
    with taken(args.host, range(args.port, args.port + 1)) as place:
        server = Server(load_copilot(args.model, args.segmentor, runtime=args.runtime), folders, keys, settings)
        models = ", ".join(server.models)
        serve(build(server), place, lambda: tell(f"serving {models} at {address_of(place)}v1  (Ctrl+C ends it)"))
    return 0


def _check(args: argparse.Namespace) -> None:
    for name, least in (("rate", 1), ("waiting", 1), ("timeout", 1)):
        value = getattr(args, name)
        if value is not None and not value >= least:
            raise InputError(f"--{name} {value:g}: give {least} or more")
