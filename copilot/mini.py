"""Loading a generalist: mini (base + what we trained), a folder, or a hub id. One code path after loading.

mini's trained part is an ordinary PEFT folder (LoRA and connector) with the adapted tower beside it.
"""

from __future__ import annotations

from pathlib import Path

from slidekick.copilot.base import base_folder, load_tower
from slidekick.copilot.engine import SLIDE
from slidekick.copilot.hub import ADAPTER_CONFIG, Base, load_adapter, load_hub
from slidekick.data.errors import InputError, first_line
from slidekick.data.files import files_hash

WEIGHTS = Path(__file__).parent / "weights" / "mini"
# What lies in a folder of mini's kind: a PEFT adapter, the tower, the experts and their router, and what reads slides.
ADAPTER_FILE, TOWER = "adapter_model.safetensors", "tower.safetensors"
EXPERTS, ROUTER, ABOUT = "experts", "router.safetensors", "experts.json"
SIGHT = "sight.safetensors"  # which pictures are like those that were taught
GUESSES = "guesses.safetensors"  # what follows what in answers that were taught
SLIDES = "slides"  # the slide encoder, and the expert that reads its tokens


def load_generalist(name: str = "mini", **placement):
    """(model, processor) of an image-text-to-text model, ready for inference.

    name: "mini", the folder of a PEFT adapter trained on mini's base or on a hub model, a Hugging Face folder, or a
    hub id. placement: of hub models, as for `load_hub`; mini stays on the CPU. Raises `InputError` when nothing is
    found under the name, `SourceError` when base weights cannot be fetched.
    """
    folder = folder_of(name)
    if (folder / ADAPTER_CONFIG).is_file():
        return load_mini(folder) if (folder / TOWER).is_file() else load_adapter(folder, **placement)
    return load_hub(Base(name), **placement)


def folder_of(name: str) -> Path:
    """Where a model of this name would lie: mini's own folder, or the path that the name is."""
    return WEIGHTS if name == "mini" else Path(name)


def load_mini(folder: Path):
    """(model, processor): the base with the trained tower, connector and LoRA of `folder` merged in.

    Raises InputError where a file of it is missing or does not fit, SourceError where the base cannot be fetched.
    """
    from peft import PeftModel
    from safetensors import SafetensorError

    model, processor = load_base(folder / TOWER)
    try:
        merged = PeftModel.from_pretrained(model, str(folder)).merge_and_unload()
    except (OSError, SafetensorError, RuntimeError, ValueError, TypeError, KeyError) as error:
        raise InputError(f"{folder}: no adapter of mini's ({first_line(error, 160)}); train it anew") from error
    return merged.eval(), processor


def load_base(tower: Path | None = None):
    """(model, processor): the untrained base, with the adapted tower in `tower` where given.

    Raises InputError for a tower that is missing or does not fit, SourceError where the base cannot be fetched.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file
    from transformers import AutoModelForImageTextToText, AutoProcessor
    from transformers.utils import logging

    logging.disable_progress_bar()
    folder = base_folder()
    model = AutoModelForImageTextToText.from_pretrained(folder)
    if tower is not None:
        try:
            load_tower(model, load_file(tower))
        except (OSError, SafetensorError, RuntimeError, ValueError, KeyError) as error:
            raise InputError(f"{tower}: not mini's tower ({first_line(error, 160)}); train it anew") from error
    return model.eval(), AutoProcessor.from_pretrained(folder)


def weights_hash(folder: Path = WEIGHTS) -> str:
    """First 12 hex digits of the sha256 over all weight files that read pictures, experts included, for
    `Answer.versions`."""
    return files_hash(
        file
        for file in folder.rglob("*.safetensors")
        if SLIDES not in file.relative_to(folder).parts and file.name not in (SIGHT, GUESSES)
    )


def tower_name(folder: Path) -> str:
    """Names what a tile's features depend on: the weights of tower and connector."""
    return files_hash((folder / TOWER, folder / ADAPTER_FILE))


def aside_of(folder: Path) -> dict[str, Path]:
    """The experts that the router does not choose, by name: the slides', where the folder has it."""
    place = folder / SLIDES / SLIDE
    return {SLIDE: place} if place.is_dir() else {}
