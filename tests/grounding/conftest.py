"""Painted pictures in the layout of items.jsonl, a small random segmentor model, words' vectors without MiniLM."""

import hashlib
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from slidekick.grounding.runtime import Maps
from slidekick.grounding.segmentor import Segmentor
from slidekick.grounding.sizes import CORNER_FIRST, MASK_STRIDE, NEGATIVE, PHRASE_WIDTH, POSITIVE, SegmentorConfig
from slidekick.grounding.vocabulary import Calibration, Concept, Vocabulary

SIDE = 96


def paint(folder: Path, name: str, seed: int, extra: dict) -> dict:
    """A pale picture with dark discs (nuclei 1..3) and one pink square (tumour); its items.jsonl entry."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(205, 235, (SIDE, SIDE, 3)).astype(np.uint8)
    classes = np.zeros((SIDE, SIDE), np.uint8)
    ids = np.zeros((SIDE, SIDE), np.uint16)
    ys, xs = np.mgrid[:SIDE, :SIDE]
    for index, (y, x) in enumerate(rng.integers(14, 50, (3, 2)), 1):
        disc = (ys - y) ** 2 + (xs - x) ** 2 < 64
        pixels[disc], classes[disc], ids[disc] = (90, 40, 120), 1, index
    pixels[60:84, 60:84], classes[60:84, 60:84] = (230, 120, 160), 2
    for kind, array in (("image", pixels), ("mask", classes), ("instances", ids)):
        Image.fromarray(array).save(folder / f"{name}.{kind}.png")
    entry = {"id": name, "group": name, "image": f"{name}.image.png", "mask": f"{name}.mask.png"}
    return entry | {"instances": f"{name}.instances.png", "classes": {"1": "nucleus", "2": "tumour"}} | extra


@pytest.fixture(scope="session")
def painted(tmp_path_factory) -> Path:
    """Folder of two sets: `gbm40` (masks and ids; no gland, no stroma), `kather2016_sample` (labels: stroma; no gland).

    What else they say of pictures is in data/ontology.yaml.
    """
    root = tmp_path_factory.mktemp("sets")
    for seed, name, splits in (
        (0, "gbm40", ["train"] * 5 + ["val", "test"]),
        (50, "kather2016_sample", ["train", "train", "val", "test"]),
    ):
        folder = root / name
        folder.mkdir()
        entries = []
        for i, split in enumerate(splits):
            extra = {"split": split, "label": ("simple stroma", "adipose tissue")[i % 2]}
            entry = paint(folder, f"p{i}", seed + i, extra)
            if name != "gbm40":
                entry = {key: entry[key] for key in ("id", "group", "image", "split", "label")}
            entries.append(json.dumps(entry))
        (folder / "items.jsonl").write_text("\n".join(entries))
    return root


def make_small_model():
    import torch

    from slidekick.grounding.model import SegmentorModel
    from slidekick.grounding.sizes import SegmentorConfig

    torch.manual_seed(1)
    model = SegmentorModel(SegmentorConfig(window=64, width=32, heads=2, depth=1, mlp=64)).eval()
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name.startswith(("encoder.fine.2", "encoder.finest.2")):  # zero at first: seen as no skip at all
                tensor.copy_(0.1 * torch.randn_like(tensor))
            if tensor.dtype.is_floating_point:
                tensor.copy_(tensor.half().float())
    return model


@pytest.fixture
def small_model():
    """A segmentor model with 64-px windows and numbers that survive being kept in half precision."""
    return make_small_model()


@pytest.fixture(scope="session")
def weights(tmp_path_factory) -> Path:
    """The small model as a folder of weights that knows nucleus, lymphocyte, gland and tumour; not to be changed."""
    from slidekick.grounding.runtime import TorchNetwork
    from slidekick.grounding.segmentor import Segmentor
    from slidekick.grounding.vocabulary import Concept, Vocabulary

    concepts = [
        Concept("nucleus", "object", ("nuclei",), (0.5, 0.5), 1.0, offset=-100.0),  # always there
        Concept("lymphocyte", "object", (), (0.5, 0.5), 1.0, offset=-100.0),
        Concept("gland", "object", ("crypt",), (1.0, 1.0), 0.6, offset=-100.0),
        Concept("tumour", "region", ("cancer",), (1.0, 1.0), 0.6, offset=-100.0),
    ]
    names = [concept.name for concept in concepts]
    vocabulary = Vocabulary(concepts, dict(zip(names, vectors_of(*names), strict=True)))
    folder = tmp_path_factory.mktemp("weights")
    Segmentor(TorchNetwork(make_small_model()), vocabulary).save_pretrained(folder)
    return folder


def vectors_of(*phrases: str) -> np.ndarray:
    """Stands in for `encode_phrases`: float32 (P, PHRASE_WIDTH), rows of length 1, as random as a hash of the words."""
    seeds = [int.from_bytes(hashlib.sha256(phrase.encode()).digest()[:8], "big") for phrase in phrases]
    rows = [np.random.default_rng(seed).normal(size=PHRASE_WIDTH) for seed in seeds]
    unit = [row / np.linalg.norm(row) for row in rows]
    return np.array(unit, np.float32).reshape(-1, PHRASE_WIDTH)


@pytest.fixture(scope="session")
def encode():
    """Phrases -> vectors, as `encode_phrases` but without MiniLM: different words have nothing in common."""
    return lambda phrases: vectors_of(*phrases)


SEEN = [
    Concept("nucleus", "object", ("nuclei",), (0.5, 0.5), 1.0, offset=-1000.0),  # below any presence
    Concept("lymphocyte", "object", (), (0.5, 0.5), 1.0, offset=-1000.0),
    Concept("gland", "object", ("crypt",), (1.0, 1.0), 0.6, offset=-1000.0),
    Concept("tumour", "region", ("cancer",), (1.0, 1.0), 0.6, offset=-1000.0),
]


class Bright:
    """Stands in for the network: marks what is bright, and judges a tile to hold it where a quarter is.

    Points draw or wipe discs on what was drawn before; a box is filled.
    """

    config = SegmentorConfig(window=64)

    def __init__(self) -> None:
        self.windows: list[tuple[int, int]] = []
        self.asked: list[dict] = []

    def encode(self, window):
        self.windows.append(window.shape[:2])
        grey = window.astype(np.float32).mean(2) / 127.5 - 1
        return Maps(cv2.resize(grey, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)[None, None], None, None)

    def decode(self, maps, phrases, points=None, labels=None, former=None):
        self.asked.append({"phrases": phrases, "points": points, "labels": labels, "former": former})
        cells = maps.embedding[0, 0]
        drawn = np.repeat(20 * cells[None], len(phrases), 0) if former is None else former.copy()
        ys, xs = np.mgrid[: cells.shape[0], : cells.shape[1]] * MASK_STRIDE
        if labels is not None and CORNER_FIRST in labels:
            (x0, y0), (x1, y1) = points[0, :2]
            drawn[:] = np.where((xs >= x0) & (xs < x1) & (ys >= y0) & (ys < y1), 20, -20)
        for row in range(len(phrases) if labels is not None else 0):
            for (x, y), label in zip(points[row], labels[row], strict=True):
                if label in (NEGATIVE, POSITIVE):
                    drawn[row][(xs - x) ** 2 + (ys - y) ** 2 < 64] = 20 if label else -20
        present = np.full(len(phrases), ((cells > 0).mean() - 0.25) * 100, np.float32)
        return np.stack([drawn, drawn], 1).astype(np.float32), present


@pytest.fixture(scope="module")
def bright(encode):
    """A function: concepts -> a segmentor that sees brightness."""

    def make(*concepts: Concept, calibration: Calibration | None = None) -> Segmentor:
        chosen = list(concepts) or SEEN
        names = [concept.name for concept in chosen]
        known = dict(zip(names, encode(names), strict=True))
        return Segmentor(Bright(), Vocabulary(chosen, known, calibration=calibration or Calibration()))

    return make
