"""Which engine answers for a model's name. Nothing but the chosen one is imported: torch takes seconds, and mini on
CPUs does without it."""

from __future__ import annotations

from collections.abc import Mapping

from slidekick.copilot import mini
from slidekick.copilot.engine import Engine
from slidekick.copilot.pictures import MOST_PICTURES
from slidekick.data.errors import InputError

COMPILED, TORCH = "compiled", "torch"
RUNTIMES = (COMPILED, TORCH)


def load_engine(name: str, copies: Mapping[str, str], runtime: str = COMPILED) -> Engine:
    """The engine of a model that runs here.

    name: "mini", a folder or a hub id. copies: what the tools know, phrase -> concept. runtime: "compiled", for mini
    and what is trained on its base (other models take torch anyway), or "torch". Raises InputError for another runtime
    and a name that is no model, SourceError where base weights cannot be fetched, OutputError where the cache cannot be
    written.
    """
    if runtime not in RUNTIMES:
        raise InputError(f"runtime {runtime!r} is unknown; use {' or '.join(RUNTIMES)}")
    folder = mini.folder_of(name)
    shown = folder.name if folder.is_dir() and name != "mini" else name  # answers travel; paths stay here
    if runtime == COMPILED and (folder / mini.TOWER).is_file():
        from slidekick.copilot.compiled.engine import CompiledEngine

        return CompiledEngine.from_folder(folder, shown, copies)
    from slidekick.copilot.hub import over_gpus
    from slidekick.copilot.torch_engine import TorchEngine

    model, processor = mini.load_generalist(name, **over_gpus())
    if not (folder / mini.ADAPTER_CONFIG).is_file():
        return TorchEngine(model, processor, shown)
    from slidekick.copilot.experts import load_experts

    places, kin = folder / mini.EXPERTS, (folder / mini.TOWER).is_file()
    return TorchEngine(
        model,
        processor,
        shown,
        history=0,  # nearly all that we train on are single questions, so earlier turns would be new to it
        experts=load_experts(model, places, aside=mini.aside_of(folder)) if places.is_dir() else None,
        copies=copies,
        reads_slides=(folder / mini.SLIDES).is_dir(),
        pads=kin,
        most_pictures=1 if kin else MOST_PICTURES,  # what is trained on mini's base sees one, seldom two
        fixed_tools=True,
    )
