"""OpenVINO's graphs against torch, the cache they are kept in, and what is not imported."""

import json
import subprocess
import sys

import numpy as np
import pytest

from slidekick.data.errors import OutputError
from slidekick.grounding.runtime import CompiledNetwork, TorchNetwork, compiled, openvino_package, torch_threads
from slidekick.grounding.segmentor import MODEL, Segmentor
from slidekick.grounding.sizes import CORNER_FIRST, CORNER_LAST, NEGATIVE, NO_POINT, POSITIVE

NEAR = 0.05  # of logits at most, and as a share of their spread: bfloat16 has eight bits
GRAPHS = ["clicks", "correct", "encode", "words"]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """A cache of our own."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLIDEKICK_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="module")
def networks(cache, weights):
    """The same weights run by OpenVINO and by torch."""
    return Segmentor.from_pretrained(weights).network, Segmentor.from_pretrained(weights, "torch").network


@pytest.fixture(scope="module")
def phrases(encode):
    return encode(["nucleus", "gland", "blood vessel", "nothing"]) * np.array([[1], [1], [1], [0]], np.float32)


def window(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def near(compiled, reference) -> None:
    """Logits of masks and presence."""
    for one, other in zip(compiled, reference, strict=True):
        assert (one.shape, one.dtype) == (other.shape, np.float32)
        np.testing.assert_allclose(one, other, rtol=0, atol=NEAR)
    alike(compiled[0], reference[0])


def alike(compiled: np.ndarray, reference: np.ndarray) -> None:
    assert np.std(compiled - reference) < NEAR * np.std(reference)


def test_the_default_is_compiled_and_the_reference_torch(networks):
    compiled, torch = networks
    assert isinstance(compiled, CompiledNetwork)
    assert isinstance(torch, TorchNetwork)
    assert compiled.config == torch.config


@pytest.mark.parametrize("size", [(64, 64), (256, 256), (288, 640), (32, 96)])
def test_graphs_give_what_torch_gives_at_any_size(networks, phrases, size):
    compiled, torch = networks
    maps = [network.encode(window(*size)) for network in networks]
    for one, other in zip(*maps, strict=True):
        assert (one.shape, one.dtype) == (other.shape, np.float32)
        alike(one, other)
    for number in (1, 4):
        near(compiled.decode(maps[0], phrases[:number]), torch.decode(maps[1], phrases[:number]))


@pytest.mark.parametrize(
    "clicks",
    [
        [(9, 9, POSITIVE), (50, 20, NEGATIVE)],
        [(5, 6, CORNER_FIRST), (40, 50, CORNER_LAST), (20, 20, NEGATIVE), (0, 0, NO_POINT)],
    ],
    ids=len,
)
@pytest.mark.parametrize("corrected", [False, True])
def test_clicks_boxes_and_corrections_give_what_torch_gives(networks, phrases, clicks, corrected):
    _, torch = networks
    maps = torch.encode(window(64, 96))
    points = np.array([[(x, y) for x, y, _ in clicks]] * 3, np.float32)
    labels = np.array([[label for *_, label in clicks]] * 3, np.int64)
    former = np.random.default_rng(1).normal(0, 4, (3, 32, 48)).astype(np.float32) if corrected else None
    results = [network.decode(maps, phrases[:3], points, labels, former) for network in networks]
    near(*results)
    (compiled, _), (reference, _) = results
    for others in (torch.decode(maps, phrases[:3]), torch.decode(maps, phrases[:3], points, labels[:, ::-1], former)):
        assert 2 * np.std(compiled - reference) < np.std(compiled - others[0]), "what was asked makes a difference"


def test_results_are_the_callers_own(networks, phrases):
    """Features are kept over many calls, which must not write into them."""
    compiled, _ = networks
    first = compiled.encode(window(64, 64, seed=1))
    kept = [level.copy() for level in first]
    masks, _ = compiled.decode(first, phrases)
    drawn = masks.copy()
    compiled.encode(window(64, 64, seed=2))
    compiled.decode(first, -phrases)
    for level, copy in zip(first, kept, strict=True):
        np.testing.assert_array_equal(level, copy)
    np.testing.assert_array_equal(masks, drawn)


def test_graphs_lie_in_the_cache_and_are_made_once(networks, cache, weights, capsys):
    (folder,) = (cache / "graphs").iterdir()
    files = {path.name: path.stat().st_mtime_ns for path in folder.iterdir() if path.suffix != ".blob"}
    assert sorted(files) == sorted(f"{name}{suffix}" for name in GRAPHS for suffix in (".bin", ".xml"))

    def build():
        raise AssertionError("made again")

    CompiledNetwork(networks[0].config, weights / MODEL, build)
    now = {path.name: path.stat().st_mtime_ns for path in folder.iterdir() if path.suffix != ".blob"}
    assert now == files
    assert capsys.readouterr().err == ""


def test_what_was_compiled_is_kept_and_made_anew_where_it_was_cut_off(networks, cache, monkeypatch):
    import openvino

    (folder,) = (cache / "graphs").iterdir()
    networks[0].encode(window(64, 64, seed=1))
    (kept,) = folder.glob("encode-*.blob")
    whole, before = kept.read_bytes(), compiled(folder / "encode.xml", networks[0]._settings)
    changed = whole[:-5000] + bytes(100) + whole[-4900:]
    read, import_model = [], openvino.Core.import_model
    monkeypatch.setattr(openvino.Core, "import_model", lambda *a: read.append(1) or import_model(*a))
    for broken in (b"", whole[:1000], whole[: len(whole) // 2], b"nothing", changed):
        kept.write_bytes(broken)
        again = compiled(folder / "encode.xml", networks[0]._settings)
        pixels = window(64, 64, seed=1)[None]
        np.testing.assert_array_equal(again([pixels])[0], before([pixels])[0])
        assert len(kept.read_bytes()) > 0.9 * len(whole), "and kept anew"
    assert not read, "OpenVINO never sees what it did not write"
    compiled(folder / "encode.xml", networks[0]._settings)
    assert read


class Asked(Exception):
    """The model was built, as it is where graphs are to be made."""


def ask() -> None:
    raise Asked


def test_other_weights_have_graphs_of_their_own(networks, cache, weights, tmp_path):
    before = set((cache / "graphs").iterdir())
    other = tmp_path / MODEL
    other.write_bytes((weights / MODEL).read_bytes()[:-4] + b"1234")
    with pytest.raises(Asked):
        CompiledNetwork(networks[0].config, other, ask)
    assert set((cache / "graphs").iterdir()) == before


def test_where_a_graph_is_missing_they_are_made_again(networks, cache, weights, tmp_path):
    (folder,) = (cache / "graphs").iterdir()
    (folder / "words.xml").rename(tmp_path / "words.xml")
    try:
        with pytest.raises(Asked):
            CompiledNetwork(networks[0].config, weights / MODEL, ask)
    finally:
        (tmp_path / "words.xml").rename(folder / "words.xml")


SCRIPT = """
import json, sys
import numpy as np
from slidekick.grounding import Segmentor
segmentor = Segmentor.from_pretrained(sys.argv[1])
(finding,) = segmentor.segment(np.full((40, 50, 3), 200, np.uint8), ["nucleus"], points=[(9, 9, 1)])
print(json.dumps({
    "telemetry": sys.modules.get("openvino_telemetry", "not asked for"),
    "of it": [name for name in sys.modules if name.startswith("openvino_telemetry.")],
    "torch": "torch" in sys.modules,
    "transformers": "transformers" in sys.modules,
    "shape": finding.mask.shape,
}))
"""


def test_telemetry_is_never_imported_nor_torch_once_the_graphs_are_there(networks, weights):
    done = subprocess.run([sys.executable, "-c", SCRIPT, str(weights)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["telemetry"] is None, "kept from being imported"
    assert told["of it"] == []
    assert (told["torch"], told["transformers"]) == (False, False)
    assert told["shape"] == [40, 50]
    assert done.stderr == ""


def test_what_is_saved_from_graphs_is_what_they_were_made_from(networks, weights, tmp_path):
    Segmentor.from_pretrained(weights).save_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path in weights.iterdir())
    for path in weights.iterdir():
        assert (tmp_path / path.name).read_bytes() == path.read_bytes(), path.name


def test_the_threads_of_torch_are_as_they_were_after_an_error():
    import torch

    before = torch.get_num_threads()

    def broken_off() -> None:
        with torch_threads(before + 1):
            assert torch.get_num_threads() == before + 1
            raise RuntimeError("broken off")

    with pytest.raises(RuntimeError, match="broken off"):
        broken_off()
    assert torch.get_num_threads() == before


def test_a_cache_that_is_full_is_told_as_that_and_not_as_broken_weights(weights, tmp_path, monkeypatch):
    def full(*_, **__):
        raise RuntimeError("Can't write to the file\nno space left")

    monkeypatch.setenv("SLIDEKICK_CACHE", str(tmp_path))
    monkeypatch.setattr(openvino_package(), "save_model", full)
    with pytest.raises(OutputError, match=r"cannot write \(can't write to the file\); set SLIDEKICK_CACHE to another"):
        Segmentor.from_pretrained(weights)
