"""mini's language model as NumPy arrays: the base with the LoRA merged in, and every expert's matrices beside it.

Read from safetensors alone, so that neither torch nor transformers is needed to write a graph.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from slidekick.copilot.mini import ABOUT, ADAPTER_FILE, EXPERTS
from slidekick.data.errors import InputError, first_line

PREFIX = "model.language_model."  # of names in the base's file
PEFT = "base_model.model."  # before them in adapters' files
BASE, CONFIG = "model.safetensors", "config.json"


@dataclass(frozen=True)
class Shape:
    """Of a Llama model (config.json of transformers): widths in numbers, `theta` of the rotary positions."""

    layers: int
    width: int
    heads: int
    groups: int  # heads of keys and values
    head: int  # width of one head
    inner: int  # width within the MLP
    words: int
    theta: float
    epsilon: float

    @classmethod
    def read(cls, config: Mapping) -> Shape:
        """Of the base's config.json. Raises InputError for a language model that is no plain Llama."""
        text = config["text_config"]
        rope = text.get("rope_parameters") or {}
        plain = text["model_type"] == "llama" and rope.get("rope_type", "default") == "default"
        if not plain or text["hidden_act"] != "silu" or text["attention_bias"] or text["mlp_bias"]:
            raise InputError(f"a {text['model_type']} language model cannot be compiled; use the torch runtime")
        width, heads = text["hidden_size"], text["num_attention_heads"]
        return cls(
            text["num_hidden_layers"], width, heads, text["num_key_value_heads"],
            text.get("head_dim") or width // heads, text["intermediate_size"], text["vocab_size"],
            float(rope.get("rope_theta", text.get("rope_theta", 10000.0))), float(text["rms_norm_eps"]),
        )  # fmt: skip


@dataclass(frozen=True)
class Language:
    """shape; arrays: float32 by their name without `PREFIX`, such as "layers.0.mlp.up_proj.weight". experts: names of
    all, those that the router does not choose last. rank: of each expert. down, up: layer's name -> all experts' A
    (rank · K, in) and B (out, rank · K), one below, beside the other; scaling: what their products are times."""

    shape: Shape
    arrays: Mapping[str, np.ndarray]
    experts: tuple[str, ...] = ()
    rank: int = 0
    scaling: float = 0.0
    down: Mapping[str, np.ndarray] = field(default_factory=dict)
    up: Mapping[str, np.ndarray] = field(default_factory=dict)


def read_language(base: Path, folder: Path, aside: Mapping[str, Path]) -> Language:
    """Read the base's folder with the adapter in `folder` merged in and the experts in `folder`/experts, if any.

    aside: name -> folder of experts that no router chooses. Raises InputError where a file is missing, is not what it
    should be, or does not fit.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        shape = Shape.read(json.loads((base / CONFIG).read_text(encoding="utf-8")))
        arrays = _language_of(load_file(base / BASE))
        _merge(arrays, load_file(folder / ADAPTER_FILE), json.loads((folder / "adapter_config.json").read_text()))
        if not (folder / EXPERTS).is_dir():
            return Language(shape, arrays)
        about = json.loads((folder / EXPERTS / ABOUT).read_text(encoding="utf-8"))
        places = {name: folder / EXPERTS / name for name in about["names"]} | dict(aside)
        down, up = _side_by_side([load_file(place / ADAPTER_FILE) for place in places.values()])
        rank, scaling = about["rank"], about["alpha"] / about["rank"]
        if any(len(rows) != rank * len(places) for rows in down.values()):
            raise ValueError(f"experts are not of rank {rank}")
        return Language(shape, arrays, tuple(places), rank, scaling, down, up)
    except (
        OSError, SafetensorError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError,
    ) as error:  # fmt: skip
        reason = first_line(error, 160)
        raise InputError(f"{folder}: not mini's weights ({type(error).__name__}: {reason}); train them anew") from error


def _language_of(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {
        name.removeprefix(PREFIX): array.astype(np.float32) for name, array in state.items() if name.startswith(PREFIX)
    }


def _merge(arrays: dict[str, np.ndarray], adapter: Mapping[str, np.ndarray], config: Mapping) -> None:
    """W + α/r · B A (Hu et al. 2021) for every layer of the language model that the adapter holds."""
    if config.get("use_rslora") or config.get("use_dora") or config.get("rank_pattern") or config.get("alpha_pattern"):
        raise ValueError("the adapter is no plain LoRA")
    scaling = config["lora_alpha"] / config["r"]
    for layer, (a, b) in _pairs(adapter).items():
        arrays[f"{layer}.weight"] += scaling * (b @ a)


def _pairs(adapter: Mapping[str, np.ndarray]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Layer's name -> its A and B, float32."""
    found = {}
    for name, array in adapter.items():
        match = re.fullmatch(rf"{re.escape(PEFT + PREFIX)}(.+)\.lora_A\.weight", name)
        if match:
            other = adapter[name.replace("lora_A", "lora_B")]
            found[match[1]] = array.astype(np.float32), other.astype(np.float32)
    return found


def _side_by_side(states: Sequence[Mapping[str, np.ndarray]]) -> tuple[dict, dict]:
    every = [_pairs(state) for state in states]
    if any(one.keys() != every[0].keys() for one in every):
        raise ValueError("experts are of different layers")
    down = {layer: np.concatenate([one[layer][0] for one in every]) for layer in every[0]}
    return down, {layer: np.concatenate([one[layer][1] for one in every], axis=1) for layer in every[0]}
