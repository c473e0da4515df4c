"""`slidekick doctor`: what is installed, what the machine offers, what is cached, and what is wrong. Mends nothing.

It really imports the packages that break when their versions do not match, so it takes a few seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from slidekick.data.errors import OutputError, PluginError
from slidekick.data.files import cache_dir, check_writable

IMPORTED = (
    "numpy", "PIL", "openslide", "onnxruntime", "openvino", "torch", "torchvision", "transformers", "peft",
    "segment_anything",
)  # fmt: skip
# package -> the extra that brings it
OPTIONAL = {"trl": "train", "gradio": "chat", "fastapi": "serve", "openai": "endpoint", "ray": "batch", "zarr": "zarr"}
SUMS = "SHA256SUMS"  # in a folder of weights, as coreutils' sha256sum writes it
BASE_NEEDS_GB = 1.2  # base weights of mini as fetched, converted and compiled take 0.9 GB


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `slidekick doctor`."""
    parser.add_argument("--json", action="store_true", help="print JSON in place of text")


def run(args: argparse.Namespace) -> int:
    """Print the checks; 1 where something is wrong that keeps the commands from working."""
    found = {"versions": versions(), "machine": machine(), "weights": weights()}
    found["plugins"], wrong = plugins()
    found["problems"] = problems(found) + wrong
    found["notes"] = notes(found)
    print(json.dumps(found, indent=2) if args.json else as_text(found))
    return 1 if found["problems"] else 0


def versions() -> dict[str, str | None]:
    """Version of everything that matters; None where it is not installed."""
    names = ["slidekick", "onnxruntime", "openvino", "torch", "torchvision", "transformers", "peft", "timm"]
    names += ["openslide-python", *OPTIONAL]
    return {"python": platform.python_version()} | {name: _version(name) for name in names}


def machine() -> dict:
    """Cores this process may use, memory in GB, accelerator, and the cache folder with its free space in GB."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    place = cache_dir()
    while not place.exists() and place != place.parent:
        place = place.parent
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cores": cores,
        "memory_gb": _memory_gb(),
        "accelerator": _accelerator(),
        "cache": str(cache_dir()),
        "cache_used_gb": _used_gb(cache_dir()),
        "cache_free_gb": round(shutil.disk_usage(place).free / 1e9, 1),
    }


def weights() -> dict[str, bool]:
    """Which weights are there: ours come with the package, the base is fetched on first use."""
    from slidekick.copilot.base import base_path

    ours = {name: any(folder.rglob("*.safetensors")) for name, folder in weight_folders().items()}
    return {"base": (base_path() / "model.safetensors").is_file()} | ours


def weight_folders() -> dict[str, Path]:
    """The folders of weights that come with the package."""
    import slidekick.copilot
    import slidekick.grounding

    rooms = {"mini": slidekick.copilot, "segmentor": slidekick.grounding}
    return {name: Path(room.__file__).parent / "weights" for name, room in rooms.items()}


def changed_weights(folder: Path) -> list[str]:
    """Files that are not what `SHA256SUMS` in the folder names, those that are missing and those it does not name."""
    from slidekick.data.packages import sha256_of

    sums = folder / SUMS
    lines = sums.read_text(encoding="utf-8").splitlines() if sums.is_file() else []
    named = {name: digest for digest, name in (line.split(maxsplit=1) for line in lines)}
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*.safetensors")}
    same = {name for name in there & named.keys() if sha256_of(folder / name) == named[name]}
    return sorted((there | named.keys()) - same)


def plugins() -> tuple[list[dict], list[str]]:
    """The tools and specialists of other packages that can be used, and a line, with the mend, for each that cannot."""
    try:
        return _plugins()
    except Exception as error:  # what they rest on is broken; `problems` tells of what the commands need
        return [], [f"tools and specialists of other packages cannot be looked for ({type(error).__name__}: {error})"]


def _plugins() -> tuple[list[dict], list[str]]:
    from slidekick.copilot.extra_tools import gather_tools
    from slidekick.copilot.tools import TOOL_NAMES
    from slidekick.grounding.card import read_card
    from slidekick.grounding.segmentor import WEIGHTS
    from slidekick.grounding.specialists import extended, gather_specialists

    found, (specialists, errors), vocabulary = [], gather_specialists(), read_card(WEIGHTS)
    for plugin in specialists.values():
        try:
            vocabulary = extended(vocabulary, [plugin])
        except PluginError as error:
            errors.append(error)
            continue
        concepts = [concept.name for concept in plugin.made.concepts]
        found.append(_plugin("specialist", plugin) | {"concepts": concepts})
    tools, wrong = gather_tools(TOOL_NAMES, vocabulary.words)
    found += [_plugin("tool", tool.plugin) | {"asked_by": list(tool.plugin.made.asked_by)} for tool in tools.values()]
    return found, [str(error) for error in (*errors, *wrong)]


def problems(found: dict) -> list[str]:
    """One line, with the mend, for each thing that keeps the commands from working."""
    lines = [line for name in IMPORTED if (line := _import_problem(name))]
    for name in ("mini", "segmentor"):
        if not found["weights"][name]:
            lines.append(f"the trained weights of {name} are not in the package; install Slidekick again")
        elif changed := changed_weights(weight_folders()[name]):
            lines.append(
                f"weights of {name} are not as they were published: {', '.join(changed)}; install Slidekick again"
            )
    try:
        check_writable(cache_dir())
    except OutputError as error:
        lines.append(f"cache: {error}; or set SLIDEKICK_CACHE to a folder that can be written")
    if not found["weights"]["base"] and found["machine"]["cache_free_gb"] < BASE_NEEDS_GB:
        lines.append(f"the base weights need {BASE_NEEDS_GB:g} GB of cache; free some, or set SLIDEKICK_CACHE")
    return lines


def notes(found: dict) -> list[str]:
    """One line for each thing worth knowing that stops nothing."""
    lines = [
        f"{name} is not installed; pip install 'slidekick[{extra}]' brings it"
        for name, extra in OPTIONAL.items()
        if found["versions"][name] is None
    ]
    if not found["weights"]["base"]:
        lines.append("the base weights are fetched on first use (110 MB, once); until then a network is needed")
    return lines


def as_text(found: dict) -> str:
    """The checks for people."""
    there = {True: "there", False: "not there"}
    shown = found["machine"] | {f"{name} weights": there[here] for name, here in found["weights"].items()}
    rows = [(name, value or "not installed") for name, value in found["versions"].items()]
    rows += [(name.replace("_gb", " (GB)").replace("_", " "), value) for name, value in shown.items()]
    rows += [(f"{one['kind']} {one['name']}", f"{one['package']} {one['version']}") for one in found["plugins"]]
    lines = [f"{name:<20} {'unknown' if value is None else value}" for name, value in rows]
    lines += [f"note: {line}" for line in found["notes"]]
    lines += [f"PROBLEM: {line}" for line in found["problems"]] or ["all is well"]
    return "\n".join(lines)


def _plugin(kind: str, plugin) -> dict:
    return {"kind": kind, "name": plugin.name, "package": plugin.package, "version": plugin.version}


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _import_problem(name: str) -> str | None:
    try:
        if name == "openvino":  # kept from reporting its use
            from slidekick.grounding.runtime import openvino_package

            openvino_package()
        else:
            import_module(name)
    except Exception as error:  # a broken package may raise anything; the doctor is to name it, not to fall ill
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        return f"{name} cannot be imported ({reason}); install Slidekick again in a fresh environment"
    return None


def _memory_gb() -> float | None:
    try:
        return round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9, 1)
    except (ValueError, OSError, AttributeError):
        return None


def _accelerator() -> str:
    try:
        import torch
    except Exception:  # named by `problems`
        return "none"
    if torch.cuda.is_available():
        return f"CUDA: {torch.cuda.get_device_name(0)}"
    return "MPS" if torch.backends.mps.is_available() else "none (CPU)"


def _used_gb(folder: Path) -> float:
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    return round(sum(sizes) / 1e9, 2)
