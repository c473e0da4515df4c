"""Makes `stain.json` out of labelled pictures and measures it: `python -m slidekick.data.stain_fit DATA [--out FILE]`.

Sets weigh alike within a kind, so that no large one speaks for its stain. Two figures are told: on the test split of
the sets learnt from, and on sources left out whole, which is what a new laboratory is to it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from slidekick.data.errors import InputError
from slidekick.data.files import write_atomic
from slidekick.data.items import Item, load_items
from slidekick.data.slide import open_slide
from slidekick.data.stain import KINDS, LEAST_PROBABILITY, judged, kind_of, softmax, stain_features
from slidekick.data.statistics import balanced_accuracy, clustered

MOST_OF_A_SET = 40  # pictures of a set, split and kind
SHRUNK = 0.1  # of the covariance, towards its diagonal
SHRINKS = (1, 4)  # pictures are shown as they are and smaller: slides are read at many scales
LIKE_NONE = 0.99  # share of pictures of unseen sources that are like one of the kinds
TEMPERATURES = np.geomspace(1, 60, 60)


@dataclass(frozen=True)
class Pictures:
    """Features (N, D) of pictures with kind (N,), as a number, and set, split and group of each, as texts (N,)."""

    features: np.ndarray
    kind: np.ndarray
    source: np.ndarray
    split: np.ndarray
    group: np.ndarray

    def __getitem__(self, index: np.ndarray) -> Pictures:
        return Pictures(*(getattr(self, name)[index] for name in self.__dataclass_fields__))


def read_pictures(root: Path) -> Pictures:
    """Features of the pictures under `root` whose `stain` is of a known kind; virtually stained ones are left out."""
    taken: Counter = Counter()
    rows = []
    for item in load_items(root):
        kind = kind_of(item.stain)
        key = (item.set, item.split, kind)
        if kind is None or item.extra.get("virtual") is True or taken[key] >= MOST_OF_A_SET:
            continue
        taken[key] += 1
        rows += [(found, list(KINDS).index(kind), item.set, item.split, item.group) for found in _features(item)]
    if not rows:
        raise InputError(f"{root}: no picture of a known stain; give a folder of sets with `stain`")
    return Pictures(*(np.array(column) for column in zip(*rows, strict=True)))


def _features(item: Item) -> list[np.ndarray]:
    with open_slide(item.image) as slide:
        shown = [slide.thumbnail(max(16, 256 // shrink)) for shrink in SHRINKS]
    return [found for found in map(stain_features, ([picture] for picture in shown)) if found is not None]


def fit(pictures: Pictures) -> dict:
    """scale (D,), means (K, D) and precision (D, D) of the discriminant; a kind that is not there is infinitely far."""
    scale = pictures.features.std(axis=0) + 1e-9
    features = pictures.features / scale
    weight = np.zeros(len(features))
    for kind in np.unique(pictures.kind):
        sources = np.unique(pictures.source[pictures.kind == kind])
        for source in sources:
            own = (pictures.kind == kind) & (pictures.source == source)
            weight[own] = 1 / len(sources) / own.sum()
    means = np.full((len(KINDS), features.shape[1]), 1e6)
    for kind in np.unique(pictures.kind):
        own = pictures.kind == kind
        means[kind] = np.average(features[own], axis=0, weights=weight[own])
    off = features - means[pictures.kind]
    covariance = (weight[:, None] * off).T @ off / weight.sum()
    covariance = (1 - SHRUNK) * covariance + SHRUNK * np.diag(np.diag(covariance))
    return {"scale": scale, "means": means, "precision": np.linalg.inv(covariance), "temperature": 1.0}


def left_out(pictures: Pictures) -> tuple[np.ndarray, np.ndarray]:
    """log score (N, K) and squared distance (N,) of every picture by a discriminant that saw none of its set."""
    score, distance = np.zeros((len(pictures.kind), len(KINDS))), np.zeros(len(pictures.kind))
    for source in np.unique(pictures.source):
        out = pictures.source == source
        likely, distance[out] = judged(fit(pictures[~out & (pictures.split == "train")]), pictures.features[out])
        score[out] = np.log(np.maximum(likely, 1e-300))
    return score, distance


def made(pictures: Pictures) -> dict:
    """The content of `stain.json`: coefficients from the train split, what was fitted on sources left out, figures."""
    score, distance = left_out(pictures)
    share = _shares(pictures)
    row = np.arange(len(share))

    def loss(temperature: float) -> float:
        return -float(share @ np.log(np.maximum(softmax(score / temperature)[row, pictures.kind], 1e-12)))

    model = fit(pictures[pictures.split == "train"])
    model |= {"temperature": float(min(TEMPERATURES, key=loss)), "farthest": float(np.quantile(distance, LIKE_NONE))}
    unseen = softmax(score / model["temperature"])
    test = pictures.split == "test"
    likely, _ = judged(model, pictures[test].features)
    figures = {"test split": figure(pictures[test], likely), "sources left out": figure(pictures, unseen)}
    plain = {key: np.round(value, 5).tolist() for key, value in model.items()}
    sources = {kind: sorted(set(pictures.source[pictures.kind == number])) for number, kind in enumerate(KINDS)}
    return {"kinds": list(KINDS), **plain, "sources": {k: [str(s) for s in v] for k, v in sources.items()}} | {
        "figures": figures
    }


def figure(pictures: Pictures, likely: np.ndarray) -> dict:
    """Balanced accuracy of the likeliest kind with its interval over groups, by kind, and of those that are named."""
    best = likely.argmax(axis=1)
    right, named = best == pictures.kind, likely.max(axis=1) >= LEAST_PROBABILITY
    groups = [f"{source}/{group}" for source, group in zip(pictures.source, pictures.group, strict=True)]

    def of(index: np.ndarray) -> float:
        return balanced_accuracy(pictures.kind[index], right[index])

    return {
        "balanced_accuracy": clustered(of, groups, pictures.kind.tolist(), resamples=500).to_dict(),
        "by_kind": {
            kind: [round(float(right[own].mean()), 3), int(own.sum())]
            for number, kind in enumerate(KINDS)
            if (own := pictures.kind == number).any()
        },
        "named": round(float(named.mean()), 3),
        "right_of_named": round(float(right[named].mean()), 3) if named.any() else None,
    }


def _shares(pictures: Pictures) -> np.ndarray:
    """(N,) weights under which kinds, and sets within them, weigh alike; they add up to 1."""
    keys = list(zip(pictures.kind.tolist(), pictures.source.tolist(), strict=True))
    count, sets = Counter(keys), Counter(kind for kind, _ in set(keys))
    return np.array([1 / len(sets) / sets[kind] / count[kind, source] for kind, source in keys])


def main(arguments: Sequence[str] | None = None) -> int:
    """Fit, measure, write and print the figures; 2 where there is nothing to fit on."""
    from slidekick.data.errors import SlidekickError

    parser = argparse.ArgumentParser(prog="slidekick.data.stain_fit", description="Fit the classifier of stains.")
    parser.add_argument("data", metavar="DATA", type=Path, help="folder of sets")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("stain.json"), help="file to write")
    args = parser.parse_args(arguments)
    try:
        found = made(read_pictures(args.data))
        write_atomic(args.out, json.dumps(found, indent=1) + "\n")
    except SlidekickError as error:
        print(f"slidekick: {error}", file=sys.stderr)
        return 2
    print(json.dumps(found["figures"], indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
