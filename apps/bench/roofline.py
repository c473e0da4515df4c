"""The segmentor's stages against what the machine gives at best: Williams et al. 2009, layer by layer.

A layer takes at least its operations at the pace of a large matrix product, and at least its tensors, in the number
format it runs in, at the pace of memory; the longer of the two counts, and layers add up. Norms and activations are
taken to ride along with the layers before them, and what stays in a cache is not known here: a stage may be quicker
than its limit. Operations are counted on the reference in torch, seconds taken on the compiled graphs.

`python -m slidekick.apps.bench.roofline [--json]`
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from slidekick.apps.bench.decode import read_rate
from slidekick.apps.bench.smoke import FIVE, demo_picture, seconds
from slidekick.apps.bench.table import Row, as_text, machine, versions
from slidekick.grounding.tiles import TILE

PACKAGES = ("slidekick", "openvino", "torch", "numpy", "opencv-python-headless")
PRODUCT = 2048  # side of the matrices by which the pace of operations is told
ROUNDS = 7
MOST = 2.0  # times the limit


@dataclass(frozen=True)
class Layer:
    """flops: operations, a multiplication and an addition being two. numbers: that it reads and writes."""

    flops: float
    numbers: float


@dataclass(frozen=True)
class Machine:
    """flops_s: operations a second in the format that graphs run in. bytes_s: of memory. size: bytes of a number."""

    flops_s: float
    bytes_s: float
    size: int

    def least(self, layers: Sequence[Layer]) -> float:
        """Seconds that layers take at least."""
        return sum(max(one.flops / self.flops_s, one.numbers * self.size / self.bytes_s) for one in layers)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; 1 where a stage takes more than twice its limit."""
    parser = argparse.ArgumentParser(prog="slidekick.apps.bench.roofline", description="Hold stages against limits.")
    parser.add_argument("--json", action="store_true", help="print JSON in place of text")
    args = parser.parse_args(arguments)
    rows = stages()
    facts = {"rows": [row.to_dict() for row in rows], "versions": versions(PACKAGES), "machine": machine()}
    print(json.dumps(facts, indent=1) if args.json else as_text(facts))
    return int(any(not row.met for row in rows))


def stages() -> list[Row]:
    """A tile encoded; five concepts drawn on it; what was drawn made into objects and kept."""
    import torch

    from slidekick.grounding import Segmentor
    from slidekick.grounding.model import Features, pixel_tensor

    ours, reference = Segmentor.from_pretrained(), Segmentor.from_pretrained(runtime="torch")
    tile = demo_picture(TILE)
    concepts = [ours.vocabulary.concepts[name] for name in FIVE]
    phrases = np.stack([ours.vocabulary.vectors[name] for name in FIVE])
    maps = ours.network.encode(tile)
    model, limits = reference.network.model, of_this_machine()
    with torch.no_grad():  # in inference mode products would come as whole layers
        encode = layers(lambda: model.encode(pixel_tensor(tile[None], model.config.encoder)))
        features = Features(*(torch.from_numpy(level) for level in maps))
        decode = layers(lambda: model.decode(features, torch.from_numpy(phrases)))
    return [
        _row(f"encode a tile of {TILE} px", encode, limits, quickest(lambda: ours.network.encode(tile))),
        _row(f"draw {len(FIVE)} concepts on it", decode, limits, quickest(lambda: ours.network.decode(maps, phrases))),
        _row("see: all of a tile", [*encode, *decode], limits, quickest(lambda: ours.see(tile, concepts))),
    ]


def _row(what: str, counted: Sequence[Layer], limits: Machine, spent: float) -> Row:
    flops, numbers = (sum(getattr(one, name) for one in counted) for name in ("flops", "numbers"))
    peer = f"{flops / 1e9:.1f} GFLOP, {numbers * limits.size / 1e6:.0f} MB"
    least = 1e3 * limits.least(counted)
    return Row("roofline", what, "ms", 1e3 * spent, peer, least, most=MOST, best=least)


def layers(work: Callable[[], object]) -> list[Layer]:
    """What matrix products and convolutions do during `work`; operations are torch's own count."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils.flop_counter import flop_registry

    counted = []

    class Noting(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            made = func(*args, **(kwargs or {}))
            if (count := flop_registry.get(func._overloadpacket)) is not None:
                tensors = [one for one in (*args, made) if isinstance(one, torch.Tensor)]
                # What is expanded is read once.
                numbers = sum(min(one.numel(), one.untyped_storage().nbytes() // one.itemsize) for one in tensors)
                counted.append(Layer(count(*args, **(kwargs or {}), out_val=made), numbers))
            return made

    with Noting():
        work()
    return counted


def of_this_machine() -> Machine:
    """Paces of OpenVINO's own matrix product, in the format it chooses, and of memory."""
    from slidekick.grounding.runtime import LATENCY, cores, openvino_package

    openvino = openvino_package()
    from openvino import opset8 as operators

    left, right = (operators.parameter([PRODUCT, PRODUCT], np.float32, name=name) for name in ("left", "right"))
    model = openvino.Model([operators.matmul(left, right, False, False)], [left, right], "product")
    ready = openvino.Core().compile_model(model, "CPU", {**LATENCY, "INFERENCE_NUM_THREADS": cores()})
    numbers = np.random.default_rng(0).random((PRODUCT, PRODUCT), np.float32)
    spent = quickest(lambda: ready([numbers, numbers], share_inputs=True))
    size = 2 if "16" in ready.get_property("INFERENCE_PRECISION_HINT").get_type_name() else 4
    return Machine(2 * PRODUCT**3 / spent, read_rate(), size)


def quickest(work: Callable[[], object]) -> float:
    """Seconds of the quickest of some calls, behind one that plans memory and kernels."""
    work()
    return min(seconds(work) for _ in range(ROUNDS))


if __name__ == "__main__":
    sys.exit(main())
