"""How good the segmentor is on held-out pictures: Dice where a concept is, "not found" where it is not, counts.

Thresholds are chosen on the val split, figures are measured on the test split, and both go on the card. Negatives
stay in the denominator: a concept that is absent and left unmarked is a success that counts.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from slidekick.data.files import write_atomic
from slidekick.data.items import Item, load_items
from slidekick.data.statistics import mean_figure
from slidekick.grounding.model import SegmentorConfig, SegmentorModel
from slidekick.grounding.segmentor import Segmentor
from slidekick.grounding.train import CHECKPOINT, load_config
from slidekick.grounding.vocabulary import Concept, Vocabulary
from slidekick.grounding.windows import Source, concept_sources, pixels_of, truth_of

ABSENT_PROMPTS = 40  # per concept and split: enough for an interval of ±15 points, and minutes instead of hours
FIGURES = "figures.json"


def prompts(config: dict, items: Sequence[Item]) -> dict[str, list[Source]]:
    """Concept -> pictures to ask it of: all that hold it or are labelled for it, and a fixed draw of absent ones."""
    asked = {}
    for name, entry in config["concepts"].items():
        sources = concept_sources(entry, items)
        absent = sorted(
            (source for source in sources if source.mode == "absent"),
            key=lambda source: hashlib.sha256(f"{name} {source.item.set} {source.item.id}".encode()).digest(),
        )
        asked[name] = [source for source in sources if source.mode == "mask"] + absent[:ABSENT_PROMPTS]
    return asked


def dice(drawn: np.ndarray, truth: np.ndarray) -> float:
    """2 |A ∩ B| / (|A| + |B|) of two bool masks; 1 where both are empty."""
    total = int(drawn.sum()) + int(truth.sum())
    return 2 * int((drawn & truth).sum()) / total if total else 1.0


def ask_all(segmentor: Segmentor, asked: dict[str, list[Source]]) -> list[dict]:
    """One row a prompt: concept, picture, whether it is there, presence, found, Dice, objects drawn and true."""
    by_picture: dict[Path, list[tuple[str, Source]]] = defaultdict(list)
    for name, sources in asked.items():
        for source in sources:
            by_picture[source.item.image].append((name, source))
    rows = []
    for path, wanted in tqdm(by_picture.items(), desc="pictures", mininterval=5):
        mpp = wanted[0][1].item.mpp
        findings = segmentor.segment(pixels_of(path), [name for name, _ in wanted], mpp=(mpp, mpp) if mpp else None)
        for (name, source), finding in zip(wanted, findings, strict=True):
            truth, ids = truth_of(source)
            row = {
                "concept": name,
                "item": f"{source.item.set}/{source.item.id}",
                "set": source.item.set,
                "there": bool(truth.any()),
                "presence": finding.presence,
                "found": finding.found,
                "dice": dice(finding.mask, truth),
            }
            if ids is not None and finding.instances is not None and truth.any():
                row |= {"count": int(finding.instances.max()), "true_count": len(np.unique(ids)) - 1}
            rows.append(row)
    return rows


def summary(rows: Iterable[dict]) -> dict:
    """Figures over all, per concept, and per set where a concept is labelled in several ("nucleus in gbm40").

    Dice where it is, share found where it is, share not found where it is not, relative error of the count.
    """
    by_concept = defaultdict(list)
    for row in rows:
        by_concept[row["concept"]].append(row)
    everything = [row for group in by_concept.values() for row in group]
    figures = {"all": _figures(everything)}
    for name, group in sorted(by_concept.items()):
        figures[name] = _figures(group)
        sets = sorted({row["set"] for row in group if row["there"]})
        if len(sets) > 1:  # a mean over easy single cells and crowded tissue hides both
            figures |= {
                f"{name} in {one}": _figures([r for r in group if r["there"] and r["set"] == one]) for one in sets
            }
    return figures


def _figures(rows: list[dict]) -> dict:
    there = [row for row in rows if row["there"]]
    absent = [row for row in rows if not row["there"]]
    counted = [abs(row["count"] - row["true_count"]) / row["true_count"] for row in there if row.get("true_count")]
    return {
        "dice": mean_figure([row["dice"] for row in there]).to_dict(),
        "found": mean_figure([row["found"] for row in there]).to_dict(),
        "absent_not_found": mean_figure([not row["found"] for row in absent]).to_dict(),
        "count_relative_error": mean_figure(counted).to_dict(),
    }


def choose_thresholds(segmentor: Segmentor, rows: list[dict]) -> Vocabulary:
    """Presence threshold per concept that best separates val pictures with it from those without.

    Best: highest mean of the two shares of right answers; between equals the middle one. A concept with fewer than
    three val pictures on either side takes the threshold of all concepts together.
    """
    pooled = _threshold(rows)
    chosen = []
    for concept in segmentor.vocabulary.concepts.values():
        own = [row for row in rows if row["concept"] == concept.name]
        sides = [sum(row["there"] is side for row in own) for side in (True, False)]
        chosen.append(replace(concept, presence_threshold=_threshold(own) if min(sides) >= 3 else pooled))
    return Vocabulary(chosen)


def _threshold(rows: list[dict]) -> float:
    presence = np.array([row["presence"] for row in rows])
    there = np.array([row["there"] for row in rows])
    grid = np.linspace(0.1, 0.9, 81)
    if there.all() or not there.any():
        return 0.5
    right = [((presence >= t)[there].mean() + (presence < t)[~there].mean()) / 2 for t in grid]
    best = grid[np.isclose(right, max(right))]
    return round(float(best[len(best) // 2]), 3)


def untrained_vocabulary(config: dict, items: Sequence[Item]) -> Vocabulary:
    """The card as the configuration states it, with the number of training pictures, thresholds all zero."""
    concepts = []
    for name, entry in config["concepts"].items():
        labelled = [source for source in concept_sources(entry, items) if source.mode != "absent"]
        concepts.append(
            Concept(
                name=name,
                kind=entry["kind"],
                synonyms=tuple(entry["synonyms"]),
                mpp=entry["mpp"],
                zoom=entry["zoom"],
                diameter_um=entry.get("diameter"),
                presence_threshold=0.0,
                train=len(labelled),
                sets=tuple(sorted({source.item.set for source in labelled})),
            )
        )
    return Vocabulary(concepts)


def finish(out: Path, config_path: Path, data: Path) -> dict:
    """Turn a finished run into a folder that `from_pretrained` reads, with thresholds, card and test figures.

    Writes config.json, vocabulary.json, model.safetensors and figures.json into `out`; returns the figures.
    """
    config = load_config(config_path)
    model = SegmentorModel(SegmentorConfig(**config["model"]))
    model.load_state_dict(torch.load(out / CHECKPOINT, weights_only=True)["average"])
    segmentor = Segmentor(model, untrained_vocabulary(config, load_items(data, split="train")))
    val = ask_all(segmentor, prompts(config, load_items(data, split="val")))
    segmentor.vocabulary = choose_thresholds(segmentor, val)
    segmentor.save_pretrained(out)
    segmentor = Segmentor.from_pretrained(out)  # what is measured is what was written, in float16
    figures = summary(ask_all(segmentor, prompts(config, load_items(data, split="test"))))
    measured = [
        replace(c, test=figures[c.name]["dice"]["n"], dice=figures[c.name]["dice"]["value"]) if c.name in figures else c
        for c in segmentor.vocabulary.concepts.values()
    ]
    segmentor.vocabulary = Vocabulary(measured)
    segmentor.save_pretrained(out)
    write_atomic(out / FIGURES, json.dumps(figures, indent=1))
    return figures
