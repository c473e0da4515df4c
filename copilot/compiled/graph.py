"""The language model as an ONNX graph for ONNX Runtime: weights in 8 bits, fused attention, experts beside them.

A step of decoding reads every weight once, so bytes are what it costs: 8 bits a weight by blocks (`MatMulNBits`, with
activations in 8 bits by the same blocks, which VNNI multiplies) take a quarter of float32's. Four bits rounded to
nearest break mini's answers. Keys and values lie in a buffer of fixed length which `GroupQueryAttention` extends in
place. The experts' LoRA parts, all of them, are two thin products a fused layer; which of them speak, and how loudly,
is an input (`gates1` … `gates3`, by how many layers are fused).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from slidekick.copilot.compiled.weights import Language

MS = "com.microsoft"  # the domain of ONNX Runtime's own operators
BLOCKS = (32, 16)  # weights that share a scale, if they divide a row; 64 are as fast and noisier by a quarter
BITS, HALF = 8, 128
LORA_BLOCK = 32
WORDS = "words.npy"  # the embedding, float16, mapped and not loaded
GRAPH, WEIGHTS = "language.onnx", "language.bin"


def quantized(weight: np.ndarray, block: int) -> tuple[np.ndarray, np.ndarray]:
    """float32 (N, K) -> uint8 (N, K / block, block) around 128, and float32 (N, K / block): scales of the blocks.

    The entry of largest size becomes 128 steps below the middle, so that the whole range of 8 bits is used.
    """
    rows = weight.reshape(weight.shape[0], -1, block)
    largest = np.take_along_axis(rows, np.abs(rows).argmax(-1, keepdims=True), -1)
    scales = np.where(largest == 0, 1.0, largest / -HALF).astype(np.float32)
    return np.clip(np.rint(rows / scales) + HALF, 0, 2 * HALF - 1).astype(np.uint8), scales[..., 0]


def fitting_block(length: int) -> int:
    """The largest block that divides rows of `length`. Raises ValueError where none does."""
    for block in BLOCKS:
        if length % block == 0:
            return block
    raise ValueError(f"rows of {length} numbers do not divide into blocks of {BLOCKS[-1]}")


def padded_rank(width: int) -> int:
    """Rank of fused experts, filled up to whole blocks."""
    return -(-width // LORA_BLOCK) * LORA_BLOCK


class _Graph:
    """Nodes and constants as they are added."""

    def __init__(self) -> None:
        self.nodes: list = []
        self.constants: list = []
        self.inputs: list = []
        self.outputs: list = []

    def constant(self, name: str, array: np.ndarray) -> str:
        from onnx import numpy_helper

        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def value(self, name: str, kind: str, shape: Sequence) -> object:
        from onnx import TensorProto, helper

        return helper.make_tensor_value_info(name, getattr(TensorProto, kind), list(shape))

    def add(self, operator: str, inputs: Sequence[str], outputs: Sequence[str] | str, domain: str = "", **settings):
        """One node; returns its first output's name."""
        from onnx import helper

        outputs = [outputs] if isinstance(outputs, str) else list(outputs)
        self.nodes.append(helper.make_node(operator, list(inputs), outputs, domain=domain, **settings))
        return outputs[0]

    def product(self, x: str, name: str, weight: np.ndarray, block: int, out: str | None = None) -> str:
        """x (…, K) times weight (N, K) in 8 bits."""
        values, scales = quantized(weight, block)
        parts = [x, self.constant(f"{name}.values", values), self.constant(f"{name}.scales", scales)]
        settings = {"K": weight.shape[1], "N": weight.shape[0], "bits": BITS, "block_size": block, "accuracy_level": 4}
        return self.add("MatMulNBits", parts, out or f"{name}.out", MS, **settings)


def write_graph(language: Language, longest: int, folder: Path) -> None:
    """Write `GRAPH`, `WEIGHTS` and `WORDS` into `folder`, an empty one.

    longest: positions that a cache may have at most. Inputs: embeds float32 (B, S, D); lengths int32 (B,), what each
    row's cache holds after this step less one; total int32 (1,), the longest of them; key0, value0, … float32
    (B, groups, room, head), and gates. Outputs: new_key0, … the same buffers; said float32 (B, T, D), the last norm's
    states at `chosen` int64 (B, T, 1), positions of S, and their logits float32 (B, T, words).
    """
    import onnx
    from onnx import helper

    graph = _Graph()
    body(graph, language, longest)
    model = helper.make_model(
        helper.make_graph(graph.nodes, "language", graph.inputs, graph.outputs, graph.constants),
        opset_imports=[helper.make_opsetid("", 21), helper.make_opsetid(MS, 1)],
        ir_version=10,
    )
    np.save(folder / WORDS, language.arrays["embed_tokens.weight"].astype(np.float16))
    onnx.save(model, folder / GRAPH, save_as_external_data=True, location=WEIGHTS, size_threshold=1024)


def body(graph: _Graph, language: Language, longest: int) -> None:
    """All nodes of the model."""
    shape, arrays = language.shape, language.arrays
    _inputs(graph, language, longest)
    state = "embeds"
    normed = graph.add(
        "SimplifiedLayerNormalization",
        [state, graph.constant("norm0", arrays["layers.0.input_layernorm.weight"])],
        "normed0",
        axis=-1,
        epsilon=shape.epsilon,
    )
    for layer in range(shape.layers):
        last = layer == shape.layers - 1
        following = arrays["norm.weight" if last else f"layers.{layer + 1}.input_layernorm.weight"]
        normed, state = _layer(graph, language, layer, normed, state, following)
    chosen = graph.add("GatherND", [normed, "chosen"], "said", batch_dims=1)
    head = arrays.get("lm_head.weight", arrays["embed_tokens.weight"])
    graph.product(chosen, "head", head, fitting_block(shape.width), "logits")


def _inputs(graph: _Graph, language: Language, longest: int) -> None:
    shape = language.shape
    graph.inputs += [
        graph.value("embeds", "FLOAT", ["batch", "steps", shape.width]),
        graph.value("lengths", "INT32", ["batch"]),
        graph.value("total", "INT32", [1]),
        graph.value("chosen", "INT64", ["batch", "told", 1]),
    ]
    room = ["batch", shape.groups, "room", shape.head]
    for layer in range(shape.layers):
        graph.inputs += [graph.value(f"{kind}{layer}", "FLOAT", room) for kind in ("key", "value")]
        graph.outputs += [graph.value(f"new_{kind}{layer}", "FLOAT", room) for kind in ("key", "value")]
    graph.outputs.append(graph.value("said", "FLOAT", ["batch", "told", shape.width]))
    graph.outputs.append(graph.value("logits", "FLOAT", ["batch", "told", shape.words]))
    turns = np.arange(longest)[:, None] / shape.theta ** (np.arange(0, shape.head, 2) / shape.head)
    graph.constant("cosines", np.cos(turns).astype(np.float32))
    graph.constant("sines", np.sin(turns).astype(np.float32))
    for fused in sorted({len(parts) for parts in FUSED if language.experts}):
        width = padded_rank(fused * language.rank * len(language.experts))
        graph.inputs.append(graph.value(f"gates{fused}", "FLOAT", ["batch", 1, width]))


ATTENTION = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
FUSED = (ATTENTION, ("self_attn.o_proj",), ("mlp.gate_proj", "mlp.up_proj"), ("mlp.down_proj",))


def _layer(graph: _Graph, language: Language, layer: int, normed: str, state: str, following: np.ndarray):
    """One layer: (normed, state) in and out."""
    shape, arrays, name = language.shape, language.arrays, f"layers.{layer}"
    packed = _linear(graph, language, layer, normed, FUSED[0])
    kept = [f"key{layer}", f"value{layer}"]
    seen = graph.add(
        "GroupQueryAttention",
        [packed, "", "", *kept, "lengths", "total", "cosines", "sines"],
        [f"{name}.seen", *(f"new_{one}" for one in kept)],
        MS,
        num_heads=shape.heads,
        kv_num_heads=shape.groups,
        do_rotary=1,
    )
    told = _linear(graph, language, layer, seen, FUSED[1])
    normed, state = _added(graph, f"{name}.a", state, told, arrays[f"{name}.post_attention_layernorm.weight"], shape)
    both = _linear(graph, language, layer, normed, FUSED[2])
    graph.add("Split", [both], [f"{name}.gate", f"{name}.value"], axis=-1, num_outputs=2)
    gate = graph.add("QuickGelu", [f"{name}.gate"], f"{name}.silu", MS, alpha=1.0)  # x · σ(x), which is SiLU
    inner = graph.add("Mul", [gate, f"{name}.value"], f"{name}.inner")
    told = _linear(graph, language, layer, inner, FUSED[3])
    return _added(graph, f"{name}.b", state, told, following, shape)


def _added(graph: _Graph, name: str, state: str, told: str, norm: np.ndarray, shape) -> tuple[str, str]:
    """state + told, and the same normalised: (normed, sum)."""
    outputs = [f"{name}.normed", "", "", f"{name}.state"]
    parts = [state, told, graph.constant(f"{name}.norm", norm)]
    graph.add("SkipSimplifiedLayerNormalization", parts, outputs, MS, epsilon=shape.epsilon)
    return outputs[0], outputs[3]


def _linear(graph: _Graph, language: Language, layer: int, x: str, parts: Sequence[str]) -> str:
    """Layers that read the same, as one product, with the experts' part added where they have one."""
    names = [f"layers.{layer}.{part}" for part in parts]
    weights = [language.arrays[f"{name}.weight"] for name in names]
    drawn = graph.product(x, names[0], np.concatenate(weights), fitting_block(weights[0].shape[1]))
    if not any(name in language.down for name in names):
        return drawn
    down, up = _fused_experts(language, names, [len(weight) for weight in weights])
    thin = graph.product(x, f"{names[0]}.down", down, fitting_block(down.shape[1]))
    weighed = graph.add("Mul", [thin, f"gates{len(parts)}"], f"{names[0]}.weighed")
    heard = graph.product(weighed, f"{names[0]}.up", up, LORA_BLOCK)
    return graph.add("Add", [drawn, heard], f"{names[0]}.sum")


def _fused_experts(language: Language, names: Sequence[str], heights: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """All experts' A of some layers, one below the other, and their B as blocks along the diagonal; zeros where a layer
    has none, and at the end, up to whole blocks."""
    width = language.rank * len(language.experts)
    inputs = next(language.down[name].shape[1] for name in names if name in language.down)
    down = np.zeros((padded_rank(width * len(names)), inputs), np.float32)
    up = np.zeros((sum(heights), len(down)), np.float32)
    top = 0
    for number, (name, height) in enumerate(zip(names, heights, strict=True)):
        columns = slice(number * width, (number + 1) * width)
        if name in language.down:
            down[columns] = language.down[name]
            up[top : top + height, columns] = language.up[name]
        top += height
    return down, up
