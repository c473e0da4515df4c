"""Loading the copilot and slides for a command, with a word on stderr while people wait. Loads nothing at import.

Here is also the one rule of what is a whole slide and what a picture (`is_slide`).
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

LEAST_SLIDE_PX = 2048  # of the shorter side: four fields of a 20x objective across


def load_copilot(model: str, segmentor: Path | None = None, *, extended: bool = True, runtime: str = "compiled"):
    """The copilot over `model` ("mini", a folder, a hub id or http://host/v1#model) and a segmentor (ours where None).

    extended: with the tools and specialists of other packages; without them figures can be compared. runtime, and what
    is raised: see `Copilot.from_pretrained`.
    """
    tell(f"loading {model} ...")
    begun = time.perf_counter()
    silence()
    from slidekick.copilot import Copilot
    from slidekick.grounding import Segmentor
    from slidekick.grounding.specialists import with_specialists

    own = Segmentor.from_pretrained(segmentor)
    team, tools = (with_specialists(own), None) if extended else (own, {})
    copilot = Copilot.from_pretrained(model, team, tools, runtime)
    tell(f"loaded in {time.perf_counter() - begun:.1f} s")
    return copilot


def is_slide(slide, mpp: float | None = None) -> bool:
    """Whether an open file is looked at as a whole slide, and not read as one picture.

    It is where it has several levels and `LEAST_SLIDE_PX` or more along its shorter side, or more pixels than one read
    allows. mpp: a scale in µm per pixel to read it at, where one was asked for; what counts is its size at that scale.
    """
    from slidekick.data.slide import NO_COARSER, READ_LIMIT_PX

    scale = mpp / min(slide.mpp) if slide.mpp and mpp else 1.0
    if len(slide.levels) > 1 and min(slide.dimensions) / scale >= LEAST_SLIDE_PX:
        return True
    read = [level for level in slide.levels if level.downsample <= max(scale, 1) * NO_COARSER][-1]
    width, height = slide.dimensions
    return max(read.width * read.height, width * height / scale**2) > READ_LIMIT_PX


def silence() -> None:
    """Keep libraries' remarks off the user's screen: none of them is about the picture or the question. Nothing is
    imported for it: mini does without transformers."""
    import logging
    import os
    import warnings

    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # generation flags that the grammar decides
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # 4-bit kernels that no CPU model here uses
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"transformers\..*")


def add_model(parser) -> None:
    """--model and --segmentor."""
    parser.add_argument(
        "--model",
        default="mini",
        metavar="NAME",
        help="mini, a folder or hub id of a vision-language model, or an OpenAI-compatible http://host/v1#model",
    )
    parser.add_argument(
        "--runtime",
        default="compiled",
        choices=("compiled", "torch"),
        help="mini on CPUs: compiled (the default), or by torch, the reference, which other models take anyway",
    )
    parser.add_argument("--segmentor", type=Path, metavar="DIR", help="a segmentor of your own (default: ours)")


def tell(text: str) -> None:
    """Progress, on stderr: results alone stand on stdout."""
    print(text, file=sys.stderr, flush=True)
