"""What paces of writing are measured with: workers in turns, and the file of our weights for llama.cpp."""

import sys

import numpy as np
import pytest

from slidekick.apps.bench import decode
from slidekick.apps.bench.decode import Worker
from slidekick.apps.bench.llama_file import folded, gguf_source, write_gguf
from slidekick.copilot.compiled.weights import Language, Shape
from slidekick.data.errors import SourceError

SHAPE = Shape(layers=1, width=64, heads=2, groups=1, head=32, inner=96, words=40, theta=1e4, epsilon=1e-5)


@pytest.fixture
def language():
    rng = np.random.default_rng(4)
    shapes = {
        "embed_tokens.weight": (40, 64), "norm.weight": (64,), "layers.0.input_layernorm.weight": (64,),
        "layers.0.post_attention_layernorm.weight": (64,), "layers.0.self_attn.q_proj.weight": (64, 64),
        "layers.0.self_attn.k_proj.weight": (32, 64), "layers.0.self_attn.v_proj.weight": (32, 64),
        "layers.0.self_attn.o_proj.weight": (64, 64), "layers.0.mlp.gate_proj.weight": (96, 64),
        "layers.0.mlp.up_proj.weight": (96, 64), "layers.0.mlp.down_proj.weight": (64, 96),
    }  # fmt: skip
    arrays = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    down = {"layers.0.self_attn.q_proj": rng.normal(size=(4, 64)).astype(np.float32)}
    up = {"layers.0.self_attn.q_proj": rng.normal(size=(64, 4)).astype(np.float32)}
    return Language(SHAPE, arrays, ("first", "second"), 2, 3.0, down, up)


def test_workers_measure_when_they_are_asked_and_say_why_they_fell_over():
    code = "import sys\nprint('ready', flush=True)\nfor n, _ in enumerate(sys.stdin): print(n, flush=True)"
    worker = Worker([sys.executable, "-c", code])
    assert [worker.turn(), worker.turn()] == [0, 1]
    worker.close()
    with pytest.raises(SourceError, match="a peer fell over: OSError: no such engine"):
        Worker([sys.executable, "-c", "raise OSError('no such engine')"])


def test_experts_are_folded_in_as_they_are_weighed(language):
    layer = "layers.0.self_attn.q_proj"
    gates = np.array([0.25, 0.75])
    whole = folded(language, np.repeat(gates, 2) * 3.0, layer)
    by_hand = language.arrays[f"{layer}.weight"] + sum(
        gate * 3.0 * language.up[layer][:, part] @ language.down[layer][part]
        for gate, part in zip(gates, (slice(0, 2), slice(2, 4)), strict=True)
    )
    np.testing.assert_allclose(whole, by_hand, atol=1e-4)
    assert folded(language, np.zeros(4), "layers.0.mlp.up_proj") is language.arrays["layers.0.mlp.up_proj.weight"]


def test_the_file_for_llama_cpp_holds_the_same_weights(language, tmp_path):
    import gguf

    names = ["token_embd", "output_norm", *(f"blk.0.{one}" for one in ("attn_q", "attn_k", "ffn_down", "attn_norm"))]
    like = tmp_path / "like.gguf"
    writer = gguf.GGUFWriter(like, "llama")
    writer.add_context_length(77)
    writer.add_token_list(["a", "b"])
    for name in names:
        writer.add_tensor(f"{name}.weight", language.arrays[f"{gguf_source(name)}.weight"])
    for write in (
        writer.write_header_to_file,
        writer.write_kv_data_to_file,
        writer.write_tensors_to_file,
        writer.close,
    ):
        write()
    write_gguf(language, np.array([1.0, 0.0]), like, tmp_path / "made.gguf")
    read = gguf.GGUFReader(tmp_path / "made.gguf")
    assert read.fields["llama.context_length"].contents() == 77
    assert read.fields["tokenizer.ggml.tokens"].contents() == ["a", "b"]
    made = {one.name: gguf.quants.dequantize(one.data, one.tensor_type) for one in read.tensors}
    assert set(made) == {f"{name}.weight" for name in names}
    np.testing.assert_allclose(made["token_embd.weight"], language.arrays["embed_tokens.weight"], atol=0.02)
    np.testing.assert_array_equal(made["output_norm.weight"], language.arrays["norm.weight"])
    whole = folded(language, np.array([3.0, 3.0, 0, 0]), "layers.0.self_attn.q_proj")
    # Row 2 i of a head is row i of its first half, row 2 i + 1 that of its second.
    for row, source in ((0, 0), (1, 16), (2, 1), (33, 48)):
        np.testing.assert_allclose(made["blk.0.attn_q.weight"][row], whole[source], atol=0.15)
    key = language.arrays["layers.0.self_attn.k_proj.weight"]
    np.testing.assert_allclose(made["blk.0.attn_k.weight"][1], key[16], atol=0.02)


def test_ours_is_held_against_each_peer_and_against_what_memory_gives():
    pace = {
        name: {"tokens_s": rate} for name, rate in ((decode.OURS, 90.0), (decode.CALL, 225.0), (decode.WORDS, 180.0))
    }
    pace |= {decode.TORCH: {"tokens_s": 11.25}, decode.LLAMA_OURS: {"tokens_s": 100.0}}
    rows = decode.rows_of(pace, best=120.0)
    assert [(row["ratio"], row["met"], row["best"]) for row in rows] == [
        (8.0, True, 120.0), (0.9, False, 120.0), (20.0, None, None), (2.25, None, None), (16.0, None, None),
        (1.8, None, None),
    ]  # fmt: skip
    agree = {"logits_correlate": 0.9995, "probability_differs": 0.03, "same_turns": "5 of 5"}
    facts = {"rows": rows, "agree": agree, "versions": {"numpy": "2"}, "machine": "m"}
    text = decode.table(facts)
    assert "NOT MET" in text
    assert "the same turn for 5 of 5 questions" in text
    assert "correlate" not in decode.table(facts | {"agree": None})


def test_memory_is_read_faster_than_a_disk_gives():
    assert 5e8 < decode.read_rate() < 1e12
