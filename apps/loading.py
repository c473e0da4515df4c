"""Loading the copilot for a command, with a word about it on stderr while people wait. Loads nothing at import."""

from __future__ import annotations

import sys
import time
from pathlib import Path


def load_copilot(model: str, segmentor: Path | None = None):
    """The copilot over `model` ("mini", a folder, a hub id or http://host/v1#model) and a segmentor (ours where None).

    Raises InputError, SourceError or OutputError, see `Copilot.from_pretrained`.
    """
    tell(f"loading {model} ...")
    begun = time.perf_counter()
    silence()
    from slidekick.copilot import Copilot
    from slidekick.grounding import Segmentor

    copilot = Copilot.from_pretrained(model, Segmentor.from_pretrained(segmentor))
    tell(f"loaded in {time.perf_counter() - begun:.1f} s")
    return copilot


def silence() -> None:
    """Keep libraries' remarks off the user's screen: none of them is about the picture or the question."""
    import logging
    import warnings

    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()  # generation flags that the grammar decides
    transformers_logging.disable_progress_bar()
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
    parser.add_argument("--segmentor", type=Path, metavar="DIR", help="a segmentor of your own (default: ours)")


def tell(text: str) -> None:
    """Progress, on stderr: results alone stand on stdout."""
    print(text, file=sys.stderr, flush=True)
