"""`slidekick chat`: a chat page about one picture at a time, on this machine, in a browser. The page is page.py's."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from slidekick.apps.loading import add_model, load_copilot
from slidekick.data.errors import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `slidekick chat`."""
    parser.add_argument("--folder", type=Path, metavar="DIR", help="pictures and slides that the page may open by path")
    parser.add_argument("--port", type=int, help="default: the first free one from 7860")
    parser.add_argument("--host", default="127.0.0.1", help="default: 127.0.0.1, this machine only")
    parser.add_argument("--no-browser", action="store_true", help="do not open a browser")
    add_model(parser)


def run(args: argparse.Namespace) -> int:
    """Load the copilot, open the page, serve until interrupted."""
    if args.folder is not None and not args.folder.is_dir():
        raise InputError(f"{args.folder}: no such folder; give one with pictures or leave --folder out")
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    try:
        from slidekick.apps.page import build_page, launch
    except ImportError as error:
        raise InputError("the chat page needs gradio; install slidekick[chat]") from error
    copilot = load_copilot(args.model, args.segmentor)
    page = build_page(copilot, args.folder)
    try:
        launch(page, host=args.host, port=args.port, browser=not args.no_browser, block=True)
    except OSError as error:
        raise InputError(f"port {args.port or '7860 to 7959'}: not free; give another --port") from error
    return 0
