"""Segmentors from files: our folders (safetensors) and official SAM checkpoints. Nothing is run here."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from slidekick.data.errors import InputError
from slidekick.data.memory import is_refused
from slidekick.grounding.runtime import CompiledNetwork, Network, TorchNetwork
from slidekick.grounding.segmentor import CARD, CONFIG, MODEL, PHRASES, Segmentor
from slidekick.grounding.sizes import PHRASE_WIDTH, SegmentorConfig
from slidekick.grounding.text import encode_phrases
from slidekick.grounding.vocabulary import Vocabulary

RUNTIMES = ("openvino", "torch")
_SAM_SIZES = {768: "vit_b", 1024: "vit_l", 1280: "vit_h"}  # by the width of the patch embedding


def load_segmentor(folder: Path, runtime: str) -> Segmentor:
    """See `Segmentor.from_pretrained`."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    if runtime not in RUNTIMES:
        raise InputError(f"runtime {runtime!r} is unknown; use {' or '.join(RUNTIMES)}")
    for name in (CONFIG, CARD, PHRASES, MODEL):
        if not (folder / name).is_file():
            raise InputError(f"{folder}: {name} is missing; give a folder written by `slidekick train segmentor`")
    try:
        config = SegmentorConfig(**json.loads((folder / CONFIG).read_text()))
        vectors = {name: row.astype(np.float32) for name, row in load_file(folder / PHRASES).items()}
        vocabulary = Vocabulary.load(folder / CARD, vectors, encode_phrases)
        if missing := [name for name in vocabulary.concepts if name not in vectors]:
            raise ValueError(f"{missing[0]} has no vector")
        if any(row.shape != (PHRASE_WIDTH,) for row in vectors.values()):
            raise ValueError(f"vectors are not of {PHRASE_WIDTH} numbers")
        if runtime == "torch":
            network: Network = TorchNetwork(_model(config, folder / MODEL))
        else:
            network = CompiledNetwork(config, folder / MODEL, lambda: _model(config, folder / MODEL))
            network.prepare()
    except (
        ValueError, TypeError, KeyError, RuntimeError, OSError, SafetensorError, AttributeError,
        AssertionError, ArithmeticError,  # how SAM's modules refuse sizes that do not divide
    ) as error:  # fmt: skip
        if is_refused(error):
            raise
        raise InputError(
            f"{folder}: not a segmentor of this version ({type(error).__name__}); train it anew"
        ) from error
    return Segmentor(network, vocabulary, folder / MODEL)


def load_sam(checkpoint: Path) -> Segmentor:
    """See `Segmentor.from_sam`. `.pth` files are read with torch's restricted loader, which runs no code."""
    import torch
    from safetensors.torch import load_file

    from slidekick.grounding.model import SegmentorModel

    try:
        state = (
            load_file(checkpoint)
            if checkpoint.suffix == ".safetensors"
            else torch.load(checkpoint, map_location="cpu", weights_only=True)
        )
        size = _SAM_SIZES[state["image_encoder.patch_embed.proj.weight"].shape[0]]
        with torch.device("meta"):
            model = SegmentorModel(SegmentorConfig.sam(size))
        model.load_state_dict(state, strict=True, assign=True)
    except Exception as error:  # what a hostile file raises is anybody's guess
        reason = " ".join(str(error).split())[:120]
        raise InputError(
            f"{checkpoint}: no official SAM checkpoint ({type(error).__name__}: {reason}); give such as "
            "sam_vit_b_01ec64.pth"
        ) from error
    return Segmentor(TorchNetwork(model), Vocabulary([]))


def _model(config: SegmentorConfig, weights: Path):
    from safetensors.torch import load_file

    from slidekick.grounding.model import SegmentorModel

    model = SegmentorModel(config)
    model.load_state_dict({name: tensor.float() for name, tensor in load_file(weights).items()}, strict=True)
    return model.eval()


def vector_bytes(vectors: dict[str, np.ndarray]) -> bytes:
    """Words' vectors as safetensors, float16."""
    from safetensors.numpy import save

    return save({name: row.astype(np.float16) for name, row in vectors.items()})


def weight_bytes(network: Network, weights: Path | None) -> bytes:
    """The network's weights as safetensors, float16; a compiled one's are those it was made from."""
    from slidekick.grounding.tower import float16_bytes

    if isinstance(network, TorchNetwork):
        return float16_bytes(network.model.state_dict())
    return weights.read_bytes()
