"""Segmentors as folders: what is saved is what is loaded, and what is broken is told."""

import json

import cv2
import numpy as np
import pytest
import torch

from slidekick.data.errors import InputError, OutputError, ShortError
from slidekick.grounding.runtime import TorchNetwork
from slidekick.grounding.segmentor import CARD, CONFIG, MODEL, PHRASES, Segmentor
from slidekick.grounding.vocabulary import Concept, Vocabulary

ALWAYS = -1000.0  # an offset below any presence
CONCEPTS = [
    Concept("nucleus", "object", ("nuclei",), (0.5, 0.5), 1.0, offset=ALWAYS),
    Concept("tumour", "region", ("cancer",), (1.0, 1.0), 0.6, offset=ALWAYS),
]


def vectors(concepts, encode) -> dict[str, np.ndarray]:
    names = [concept.name for concept in concepts]
    return dict(zip(names, encode(names), strict=True))


@pytest.fixture
def segmentor(small_model, encode):
    """One with the real network in small, run by torch."""
    return Segmentor(TorchNetwork(small_model), Vocabulary(CONCEPTS, vectors(CONCEPTS, encode)))


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(0, 256, (height // 6 + 1, width // 6 + 1, 3)).astype(np.uint8)
    return cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)


def equal(first, second) -> bool:
    same = (first.mask == second.mask).all() and (first.score, first.presence) == (second.score, second.presence)
    return (
        bool(same)
        and np.array_equal(first.instances, second.instances)
        and np.array_equal(first.probability, second.probability)
    )


# --- what comes back


def load(folder) -> Segmentor:
    return Segmentor.from_pretrained(folder, runtime="torch")


@pytest.fixture
def saved(segmentor, tmp_path):
    segmentor.save_pretrained(tmp_path / "mine")
    return tmp_path / "mine"


def test_saved_and_loaded_it_finds_the_same(segmentor, saved):
    loaded = load(saved)
    image = picture(70, 84)
    before, after = (one.segment(image, ["nucleus", "tumour"]) for one in (segmentor, loaded))
    assert any(finding.found and not finding.mask.all() for finding in before)  # else there is nothing to compare
    for one, other in zip(before, after, strict=True):  # the words' vectors are kept in half precision
        np.testing.assert_allclose(one.probability, other.probability, atol=1e-3)
        assert (one.mask == other.mask).mean() > 0.99
    assert loaded.vocabulary.concepts == segmentor.vocabulary.concepts
    assert loaded.vocabulary.calibration == segmentor.vocabulary.calibration
    assert loaded.network.config == segmentor.network.config
    again = load(saved)
    assert all(map(equal, after, again.segment(image, ["nucleus", "tumour"])))


def test_weights_are_kept_in_half_precision_as_safetensors(segmentor, saved):
    from safetensors.torch import load_file

    assert sorted(path.name for path in saved.iterdir()) == sorted([CONFIG, CARD, MODEL, PHRASES])
    tensors = load_file(saved / MODEL)
    assert {t.dtype for t in tensors.values()} <= {torch.float16, torch.int64}
    assert set(tensors) == set(segmentor.network.model.state_dict())
    assert {t.dtype for t in load_file(saved / PHRASES).values()} == {torch.float16}


@pytest.mark.parametrize("name", [CONFIG, CARD, MODEL, PHRASES])
def test_a_folder_that_lacks_a_file_is_named_with_the_file(saved, name):
    (saved / name).unlink()
    with pytest.raises(InputError, match=f"mine: {name} is missing"):
        Segmentor.from_pretrained(saved)


def test_another_runtime_is_told_with_those_there_are(saved):
    with pytest.raises(InputError, match="runtime 'tensorrt' is unknown; use openvino or torch"):
        Segmentor.from_pretrained(saved, runtime="tensorrt")


def sized(**sizes) -> bytes:
    return json.dumps({"window": 64, "width": 32, "heads": 2, "depth": 1, "mlp": 64, **sizes}).encode()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (CONFIG, b"{"),
        (CONFIG, b"[]"),
        (CONFIG, b"\xff\xfe"),
        (CONFIG, sized(width=16)),
        (CONFIG, sized(heads=3)),
        (CONFIG, sized(heads=0)),
        (CONFIG, sized(window="64")),
        (CONFIG, sized(encoder="unknown")),
        (CONFIG, b'{"colour": "red"}'),
        (CARD, b"{}"),
        (CARD, b'{"concepts": [{"name": "nucleus"}]}'),
        (CARD, b'{"concepts": [], "calibration": {}}'),
        (CARD, b'{"concepts": [1], "calibration": {}}'),
        (PHRASES, b""),
        (PHRASES, b"no tensors here, only text that goes on"),
        (MODEL, b""),
        (MODEL, b"no tensors here, only text that goes on"),
    ],
)
def test_a_broken_file_is_an_input_error_not_a_traceback(saved, name, content):
    (saved / name).write_bytes(content)
    with pytest.raises(InputError, match="mine: not a segmentor of this version"):
        load(saved)


@pytest.mark.parametrize("name", [MODEL, PHRASES])
def test_a_cut_file_is_an_input_error(saved, name):
    whole = (saved / name).read_bytes()
    (saved / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="not a segmentor of this version"):
        load(saved)


def test_a_concept_without_a_vector_of_its_name_is_an_input_error(saved):
    from safetensors.numpy import load_file, save_file

    kept = load_file(saved / PHRASES)
    save_file({name: row for name, row in kept.items() if name != "tumour"}, saved / PHRASES)
    with pytest.raises(InputError, match="not a segmentor of this version"):
        load(saved)


def test_a_vector_of_another_width_is_an_input_error(saved):
    from safetensors.numpy import load_file, save_file

    save_file({name: row[:5] for name, row in load_file(saved / PHRASES).items()}, saved / PHRASES)
    with pytest.raises(InputError, match="not a segmentor of this version"):
        load(saved)


@pytest.mark.parametrize("error", [OutputError("full"), ShortError("short"), MemoryError(), RuntimeError("bad_alloc")])
def test_what_is_no_fault_of_the_files_is_not_told_as_theirs(saved, monkeypatch, error):
    def refuse(*_):
        raise error

    monkeypatch.setattr("slidekick.grounding.loading.CompiledNetwork", refuse)
    with pytest.raises(type(error)) as caught:
        Segmentor.from_pretrained(saved)
    assert caught.value is error
