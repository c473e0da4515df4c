"""What launchers start in each process (`accelerate launch -m slidekick.rl.sft`): a training command as a module."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from slidekick.data.errors import InputError, SlidekickError

CONFIGS = Path(__file__).parent / "configs"  # shipped


def launched(name: str, train: Callable[[Path, Path, Path, bool], object], arguments: Sequence[str] | None) -> int:
    """Run `train(config, data, out, resume)` as `slidekick train NAME` does; 2 for what a user can mend."""
    parser = argparse.ArgumentParser(
        prog=f"slidekick.rl.{name}", description=f"Train as `slidekick train {name}` does."
    )
    for option in ("--config", "--data", "--out"):
        parser.add_argument(option, required=True, type=Path)
    parser.add_argument("--resume", action="store_true")
    args = parser.parse_args(arguments)
    first = os.environ.get("RANK", "0") == "0"
    try:
        if first and not args.resume and args.out.is_dir() and any(args.out.iterdir()):
            raise InputError(f"{args.out}: not empty; add --resume to go on with the run in it, or give another folder")
        train(args.config, args.data, args.out, args.resume)
    except SlidekickError as error:
        print(f"slidekick: {error}", file=sys.stderr)
        return 2
    return 0
