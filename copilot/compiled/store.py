"""Where compiled graphs are kept: made once from mini's weights, under a name that follows from their content."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from slidekick.copilot.compiled.graph import GRAPH, write_graph
from slidekick.copilot.compiled.language import ABOUT
from slidekick.copilot.compiled.weights import read_language
from slidekick.copilot.hub import ADAPTER_CONFIG
from slidekick.copilot.mini import ABOUT as EXPERTS_ABOUT
from slidekick.copilot.mini import ADAPTER_FILE, EXPERTS
from slidekick.data.files import cache_dir, files_hash, folder_atomic, write_atomic

LAYOUT = 1  # of the graphs; raise it when what is written changes
KEPT = 4  # graphs, of 200 MB each
LONGEST = 4096  # positions; a question of 4000 characters with tools' results stays below


def language_graph(base: Path, folder: Path, aside: Mapping[str, Path]) -> Path:
    """The folder of the language model's graph, written on first use (some seconds, 200 MB of disk).

    base: the untrained base's folder; folder, aside: as `read_language`, which says what is raised. Raises OutputError
    where the cache cannot be written.
    """
    weights = [folder / ADAPTER_FILE, folder / ADAPTER_CONFIG]  # the latter tells the scale that is merged in
    weights += [folder / EXPERTS / EXPERTS_ABOUT, *(folder / EXPERTS).rglob("*.safetensors")]  # order, rank, scale
    weights += [place / ADAPTER_FILE for place in aside.values()]
    name = files_hash([one for one in weights if one.is_file()])
    target = cache_dir() / "graphs" / f"language-{base.name}-{name}-{LAYOUT}"
    if (target / GRAPH).is_file():
        with contextlib.suppress(OSError):  # a cache that only others may write to
            os.utime(target)
        return target
    print(f"Preparing mini for this machine (once; kept in {cache_dir()}) ...", file=sys.stderr, flush=True)
    language = read_language(base, folder, aside)
    with folder_atomic(target, lambda _: True) as scratch:
        write_graph(language, LONGEST, scratch)
        about = {"shape": asdict(language.shape), "experts": len(language.experts), "rank": language.rank}
        write_atomic(scratch / ABOUT, json.dumps(about | {"scaling": language.scaling, "longest": LONGEST}))
    _forget(target.parent)
    return target


def _forget(folder: Path) -> None:
    """Remove all but the graphs used last: whoever trains makes many. One in use elsewhere stays usable there."""
    times = {}
    for one in folder.glob("language-*"):
        with contextlib.suppress(OSError):  # removed meanwhile
            times[one] = one.stat().st_mtime
    for old in sorted(times, key=times.__getitem__, reverse=True)[KEPT:]:
        shutil.rmtree(old, ignore_errors=True)
