"""From a finished training run to a segmentor with a card: calibration on val pictures, figures on test pictures.

Presence becomes a probability by one slope for all concepts and an offset for each (Platt 1999; offsets are drawn
towards their mean where a concept has few pictures), mask pixels by one slope (temperature, Guo et al. 2017).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy.optimize import minimize

from slidekick.data.files import write_atomic
from slidekick.data.items import Item, load_items
from slidekick.data.triples import Triple, judged, pixels_of, shows, triples, truth
from slidekick.grounding.averaging import read_checkpoint
from slidekick.grounding.charts import curves_png
from slidekick.grounding.evaluate import ask_all, asked, evaluate_grounding, renderer
from slidekick.grounding.gallery import worst_and_best
from slidekick.grounding.model_card import model_card
from slidekick.grounding.runtime import TorchNetwork
from slidekick.grounding.segmentor import Segmentor
from slidekick.grounding.sizes import LEAST, MASK_STRIDE, SegmentorConfig
from slidekick.grounding.train import CHECKPOINT, LOG, load_config, phrase_vectors
from slidekick.grounding.vocabulary import Calibration, Concept, Vocabulary

FIGURES, CURVES, README = "figures.json", "curves.png", "README.md"
PIXELS = 2000  # drawn from each val picture for the pixels' slope
SHRINK = 1.0  # weight of an offset's distance from the common one against the log-likelihood


def finish(out: Path, config_path: Path, data: Path) -> dict:
    """Turn a finished run into a folder that `from_pretrained` reads; returns the test figures.

    Writes into `out` what `save_pretrained` does, README.md, figures.json, curves.png, best.png and worst.png.
    """
    from slidekick.grounding.model import SegmentorModel

    config = load_config(config_path)
    model = SegmentorModel(SegmentorConfig(**config["model"]))
    model.load_state_dict(read_checkpoint(out / CHECKPOINT)["average"])
    vectors = {words: row for words, row in phrase_vectors(config["concepts"]).items() if words is not None}
    apart = config.get("kept_apart", ())
    items = {
        split: [i for i in load_items(data, split=split) if i.set not in apart] for split in ("train", "val", "test")
    }
    Segmentor(TorchNetwork(model), Vocabulary(card(config, items["train"]), vectors)).save_pretrained(out)
    segmentor = Segmentor.from_pretrained(out)  # what is measured is what was written and will be run
    segmentor.vocabulary = calibrated(segmentor, asked(items["val"], list(config["concepts"])))
    figures = evaluate_grounding(segmentor, items["test"], clicks=True)
    rows = figures.pop("rows")
    dice = {name: figures["figures"].get(name, {}).get("dice") for name in segmentor.vocabulary.concepts}
    segmentor.vocabulary = segmentor.vocabulary.with_concepts(
        [
            replace(c, test=dice[c.name]["n"], dice=dice[c.name]["value"]) if dice[c.name] else c
            for c in segmentor.vocabulary.concepts.values()
        ]
    )
    segmentor.save_pretrained(out)
    write_atomic(out / FIGURES, json.dumps(figures, indent=1))
    parameters = sum(tensor.numel() for tensor in model.parameters())
    write_atomic(out / README, model_card(model.config, segmentor.vocabulary, figures, parameters))
    write_atomic(out / CURVES, curves_png([json.loads(line) for line in (out / LOG).read_text().splitlines()]))
    worst_and_best([row for row in rows if row["dice"] is not None], renderer(segmentor, items["test"]), out)
    return figures


def card(config: dict, items: Sequence[Item]) -> list[Concept]:
    """The card as the configuration and the hierarchy state it, with what the training pictures are of."""
    concepts = []
    for name, entry in config["concepts"].items():
        labelled = [triple for triple in triples(items, [name]) if shows(triple)]
        concepts.append(
            Concept(
                name=name,
                kind=entry["kind"],
                level=entry["level"],
                parents=tuple(entry["parents"]),
                synonyms=tuple(entry["synonyms"]),
                scale=tuple(entry["mpp"]),
                zoom=entry["zoom"],
                diameter_um=entry.get("diameter"),
                least=_least(labelled, entry["zoom"]) if entry["kind"] == "object" else LEAST,
                organs=_named(triple.item.organ for triple in labelled),
                stains=_named(triple.item.stain for triple in labelled),
                sets=_named(triple.item.set for triple in labelled),
                train=len(labelled),
            )
        )
    return concepts


def _least(labelled: Sequence[Triple], zoom: float) -> float:
    """Half the area that nine in ten labelled objects reach, in mask cells at `zoom`; `LEAST` at least."""
    areas = [np.bincount(ids.ravel())[1:] for ids in (truth(triple)[1] for triple in labelled) if ids is not None]
    areas = np.concatenate(areas) if areas else np.zeros(1)
    areas = areas[areas > 0]
    usual = np.percentile(areas, 10) * zoom**2 / MASK_STRIDE**2 if len(areas) else 0.0
    return round(float(max(LEAST, usual / 2)), 1)


def _named(names) -> tuple[str, ...]:
    return tuple(sorted({name for name in names if name and not name.startswith("not stated")}))


def calibrated(segmentor: Segmentor, wanted: Sequence[Triple]) -> Vocabulary:
    """The segmentor's vocabulary with slopes and offsets fitted to what it says of `wanted`."""
    plain = [replace(concept, offset=0.0) for concept in segmentor.vocabulary.concepts.values()]
    segmentor.vocabulary = segmentor.vocabulary.with_concepts(plain, Calibration())
    rows = ask_all(segmentor, wanted)
    logits = np.array([_logit(row["presence"]) for row in rows])
    there = np.array([row["there"] for row in rows])
    names = list(segmentor.vocabulary.concepts)
    slope, offsets = fit_presence(logits, there, np.array([names.index(row["concept"]) for row in rows]), len(names))
    concepts = [replace(concept, offset=round(float(o), 4)) for concept, o in zip(plain, offsets, strict=True)]
    return segmentor.vocabulary.with_concepts(
        concepts, Calibration(round(slope, 4), round(_pixel_slope(segmentor, wanted), 4))
    )


def fit_presence(logits: np.ndarray, there: np.ndarray, concept: np.ndarray, number: int) -> tuple[float, np.ndarray]:
    """Slope and offsets (number,) of σ(slope · (logit − offset)) by penalised maximum likelihood.

    logits: float (N,). there: bool (N,). concept: int (N,), which offset a row has. The penalty is `SHRINK` times the
    squared distance of an offset from the common one, in units of the probability's logit, and of the slope's logarithm
    from 0, so that pictures that are told apart without a fault make no certainty.
    """

    def loss(parameters: np.ndarray) -> float:
        slope, common, own = np.exp(parameters[0]), parameters[1], parameters[2:]
        said = slope * (logits - common) - own[concept]
        return float(
            np.logaddexp(0, np.where(there, -said, said)).sum() + SHRINK * ((own**2).sum() + parameters[0] ** 2)
        )

    best = minimize(loss, np.zeros(number + 2), method="L-BFGS-B").x
    slope = float(np.exp(best[0]))
    return slope, best[1] + best[2:] / slope


def _pixel_slope(segmentor: Segmentor, wanted: Sequence[Triple]) -> float:
    """Slope of the mask logits that makes judged pixels of concepts that are there most likely."""
    rng = np.random.default_rng(0)
    logits, marked = [], []
    for triple in wanted:
        mask = truth(triple)[0]
        if triple.mode != "mask" or not mask.any():
            continue
        (finding,) = segmentor.segment(pixels_of(triple.item.image), [triple.concept], mpp=triple.item.scale)
        if finding.probability is None or not finding.found:
            continue
        seen = judged(triple)
        places = np.arange(mask.size) if seen is None else np.flatnonzero(seen)
        pick = places[rng.integers(len(places), size=PIXELS)]
        logits.append(_logit(finding.probability.ravel()[pick]))
        marked.append(mask.ravel()[pick])
    if not logits:
        return 1.0
    said, there = np.concatenate(logits), np.concatenate(marked)
    slopes = np.exp(np.linspace(np.log(0.2), np.log(3), 80))
    losses = [np.logaddexp(0, np.where(there, -slope * said, slope * said)).mean() for slope in slopes]
    return float(slopes[int(np.argmin(losses))])


def _logit(probability) -> np.ndarray:
    sure = np.clip(np.asarray(probability, float), 1e-6, 1 - 1e-6)
    return np.log(sure / (1 - sure))
