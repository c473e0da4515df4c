"""`slidekick chat`: the workbench, a chat beside the slide in a browser on this machine. See `workbench/`."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from slidekick.apps.loading import add_model, load_copilot, tell
from slidekick.data.errors import InputError

PORTS = range(7860, 7960)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `slidekick chat`."""
    parser.add_argument(
        "--folder", type=Path, action="append", metavar="DIR", help="slides that the page may open; may be repeated"
    )
    parser.add_argument("--port", type=int, help="default: the first free one from 7860")
    parser.add_argument("--host", default="127.0.0.1", help="default: 127.0.0.1, this machine only")
    parser.add_argument("--no-keys", action="store_true", help="let others in, who see the opened folders")
    parser.add_argument("--no-browser", action="store_true", help="do not open a browser")
    parser.add_argument("--sessions", type=Path, metavar="DIR", help="where sessions are kept (the user's data folder)")
    add_model(parser)


def run(args: argparse.Namespace) -> int:
    """Load the copilot, open the page, serve until interrupted."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    try:
        from slidekick.apps.serving.folders import Folders
        from slidekick.apps.serving.guard import Keys
        from slidekick.apps.serving.running import address_of, check_open, hosts_of, serve, taken
        from slidekick.apps.serving.server import Server, Settings
        from slidekick.apps.workbench.app import MAX_UPLOAD, build_workbench
        from slidekick.apps.workbench.store import Store, default_root
    except ImportError as error:
        raise InputError(f"{error.name} is not installed; pip install 'slidekick[chat]' brings it") from error
    check_open(args.host, "", args.no_keys)
    folders, store = Folders(args.folder or ()), Store(args.sessions or default_root())
    ports = PORTS if args.port is None else range(args.port, args.port + 1)
    with taken(args.host, ports) as place:
        copilot = load_copilot(args.model, args.segmentor, runtime=args.runtime)
        settings = Settings(hosts=hosts_of(args.host), body=MAX_UPLOAD + 1_000_000)
        app = build_workbench(Server(copilot, folders, Keys({}), settings), store)
        address = address_of(place)

        def started() -> None:
            tell(f"workbench: {address}  (Ctrl+C ends it)")
            if not args.no_browser:
                import webbrowser

                webbrowser.open(address)

        serve(app, place, started)
    return 0
