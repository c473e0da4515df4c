"""Labelled pictures, a tokenizer of a few hundred words and a small random mini, so that training needs no download."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_models import make_tokenizer, tiny_config, tiny_qwen25

from slidekick.data.items import load_items


@pytest.fixture(scope="session")
def labelled(tmp_path_factory) -> Path:
    """Two labelled sets with questions of their own, and one without labels; their colour tells the label."""
    root = tmp_path_factory.mktemp("labelled")
    rng = np.random.default_rng(0)
    sets = {
        "glas": ("colon", ["healthy gland", "malignant gland"]),
        "gbm40": ("brain", ["glioma", "necrosis", "oedema"]),
        "loose": ("liver", [None]),
    }
    for name, (organ, labels) in sets.items():
        folder = root / name
        folder.mkdir()
        entries = []
        for i in range(6):
            colour = 60 + 60 * (i % len(labels))
            pixels = (rng.normal(colour, 12, (40 + 7 * i, 50, 3))).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{i}.png")
            entry = {"id": str(i), "group": str(i), "image": f"{i}.png", "organ": organ, "stain": "H&E (frozen)"}
            label = labels[i % len(labels)]
            entry |= {"split": "train" if i < 5 else "test"} | ({"label": label} if label else {})
            entries.append(json.dumps(entry))
        (folder / "items.jsonl").write_text("\n".join(entries))
    return root


@pytest.fixture(scope="session")
def items(labelled) -> list:
    return load_items(labelled, split="train")


def write_set(root: Path, name: str, entries: list[dict], size: int = 60, seed: int = 0) -> Path:
    """A set of random pictures under `root`, one an entry; masks and ids are given as arrays."""
    rng, lines = np.random.default_rng([seed, *name.encode()]), []
    folder = root / name
    folder.mkdir(parents=True)
    for number, entry in enumerate(entries):
        line = {"id": str(number), "image": f"{number}.png", "group": str(number), "split": "train", **entry}
        if not (folder / line["image"]).exists():
            pixels = rng.integers(0, 256, (size, size, 3), np.uint8)
            Image.fromarray(pixels).save(folder / line["image"])
        for key, dtype in (("mask", np.uint8), ("instances", np.uint16)):
            if key in line:
                Image.fromarray(line[key].astype(dtype)).save(folder / f"{key}{number}.png")
                line[key] = f"{key}{number}.png"
        lines.append(json.dumps(line))
    (folder / "items.jsonl").write_text("\n".join(lines))
    return folder


def write_texts(root: Path, name: str, rows: list[dict]) -> Path:
    """A text set under `root`; rows are of the train split where they say no other."""
    file = root / "text" / name / "items.jsonl"
    file.parent.mkdir(parents=True)
    lines = [json.dumps({"id": str(i), "group": str(i), "split": "train", **row}) for i, row in enumerate(rows)]
    file.write_text("\n".join(lines))
    return file


def blobs(*corners: tuple[int, int], side: int = 12, size: int = 60) -> np.ndarray:
    """Ids 1, 2, ... of squares with these upper left corners (x, y); each is two pixels larger than the next."""
    ids = np.zeros((size, size), int)
    for number, (x, y) in enumerate(corners, 1):
        ids[y : y + side - 2 * number, x : x + side - 2 * number] = number
    return ids


@pytest.fixture(scope="session")
def rich(tmp_path_factory) -> Path:
    """A data folder with every kind of label that instructions are made from, and texts of every form."""
    root = tmp_path_factory.mktemp("rich")
    he = {"stain": "H&E"}
    glands = [blobs((2, 2), (40, 40)), blobs((30, 5)), blobs((2, 30), (30, 30), (44, 2), (20, 2))]
    labels = ("healthy colon gland (benign)", "poorly differentiated colorectal adenocarcinoma")
    classes = {"1": "benign gland", "2": "malignant gland"}
    write_set(
        root,
        "glas",
        [
            {
                "label": labels[i % 2],
                "organ": "colon",
                **he,
                "mask": (ids > 0) * (1 + i % 2),
                "instances": ids,
                "classes": classes,
            }
            for i, ids in enumerate(glands * 2)
        ],
    )
    cells = ["neutrophil", "eosinophil", "basophil"]
    noted = {"cell_size": "big", "granularity": "yes"}
    smear = {"organ": "blood (peripheral smear)", "stain": "May-Gruenwald-Giemsa"}
    write_set(root, "pbc_wbc_attributes", [{"label": cells[i % 3], **smear, "attributes": noted} for i in range(6)])
    boxes = [[3, 6, 30, 33, "white blood cell"], [40, 40, 50, 52, "platelet"]]
    write_set(root, "bccd_blood_cells", [{"boxes": boxes, "organ": "blood"}, {"boxes": boxes[:1], "organ": "blood"}])
    write_set(root, "chula_rbc12", [{"points": [[30, 15, "target cell"], [6, 6, "ovalocyte"]], "organ": "blood"}])
    stains = ("H&E", "PAS", "Jones silver")
    write_set(
        root,
        "kidney_stain_pairs",
        [{"organ": "kidney", "stain": s, "pair": f"case_{c}"} for s in stains for c in (1, 2)],
    )
    write_set(root, "osteosarcoma", [{"label": "viable osteosarcoma", "organ": "bone", **he, "magnification": 10}] * 2)
    write_set(root, "ihc_lymph", [{"organ": "not stated (breast, colon)", "stain": "IHC"}] * 2)
    painted = {"organ": "lung", "stain": "groundtruth", "made_by": "annotation"}
    write_set(
        root, "deepliif_pairs", [painted, {**painted, "stain": "fluorescence DAPI", "made_by": "network (virtual)"}]
    )
    write_texts(
        root,
        "pathvqa",
        [
            {
                "question": "What causes the swelling ?",
                "answer": "oedema",
                "answer_type": "open",
                "source_split": "train",
            },
            {"question": "Is amyloid blue?", "answer": "no", "answer_type": "yes/no", "source_split": "train"},
            {"question": "What is shown in this image?", "answer": "liver", "source_split": "train"},
        ],
    )
    choices = ["A) Whorled pattern", "B) Rosettes", "C) Palisades"]
    question = {"question": "Which pattern do the cells exhibit?", "options": choices, "answer": "A) Whorled pattern"}
    write_texts(root, "pathmmu_socialpath", [{**question, "source_split": "val"}, {**question, "source_split": "test"}])
    report = "Breast, core-needle biopsy;\n Invasive carcinoma of no special type, grade I (Mitoses: 1)"
    write_texts(root, "reg2025_reports", [{"report": report, "organ": "breast", "source_split": "train"}])
    readings = [{"given": "H&E only", "diagnosis": "Possible MN", "chronicity": "minimal", "comment": None}]
    case = {"case": 1, "original_diagnosis": "Membranous nephropathy", "readings": readings, "group": "case_1"}
    write_texts(root, "kidney_diagnoses", [case])
    return root


@pytest.fixture(scope="session")
def processor():
    from slidekick.copilot.base import make_processor

    return make_processor(make_tokenizer("text"))


@pytest.fixture
def make_model(processor, random_tower):
    """Makes mini in small: the real tower at random, a language model of two thin layers; equal each time."""
    import torch
    from transformers import FastVlmForConditionalGeneration

    from slidekick.copilot.base import load_tower, vision_config

    def make(tower: Path | None = None):
        from safetensors.torch import load_file

        torch.manual_seed(3)
        config = tiny_config(processor, vision_config(), len(processor.tokenizer))
        model = FastVlmForConditionalGeneration(config)
        state = {k: v for k, v in random_tower.items() if not k.startswith("classifier.")}
        load_tower(model, state if tower is None else load_file(tower))
        return model.eval()

    return make


@pytest.fixture(scope="session")
def hub_folder(tmp_path_factory) -> Path:
    """A folder as the hub would give it: Qwen2.5-VL in small with random numbers, and its processor."""
    model, processor = tiny_qwen25()
    folder = tmp_path_factory.mktemp("hub") / "tiny-qwen"
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
