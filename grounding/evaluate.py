"""How good the segmentor is on held-out pictures: what it draws, what it says is there, how sure it is.

Dice where a concept is, "not found" where it is not, objects matched one by one, and calibration. Negatives stay in
the denominator: a concept that is absent and left unmarked is a success that counts. `finish.py` makes the card.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from slidekick.data.errors import InputError
from slidekick.data.items import Item
from slidekick.data.statistics import Figure, bootstrap_figure, mean_figure
from slidekick.data.triples import Triple, judged, pixels_of, triples, truth
from slidekick.grounding.calibration import PixelCalibration, expected_calibration_error, reliability
from slidekick.grounding.interaction import POINTED, count_clicks, place_of, point_at_objects
from slidekick.grounding.metrics import (
    aggregated_jaccard,
    as_objects,
    cgf1,
    dice,
    micro_f1,
    object_counts,
    panoptic_quality,
    presence_mcc,
)
from slidekick.grounding.segmentor import Segmentor

ABSENT_PROMPTS = 40  # a concept: enough for an interval of ±15 points, and minutes instead of hours


def asked(items: Sequence[Item], concepts: Sequence[str]) -> list[Triple]:
    """What to ask: of every picture that marks a concept or is wholly it, and of a fixed draw of those without it."""
    found: list[Triple] = []
    absent: dict[str, list[Triple]] = defaultdict(list)
    for triple in triples(items, concepts):
        (absent[triple.concept] if triple.mode == "absent" else found).append(triple)
    for concept, rows in absent.items():
        rows.sort(key=lambda t: hashlib.sha256(f"{concept} {t.item.set} {t.item.id}".encode()).digest())
        found += rows[:ABSENT_PROMPTS]
    return found


def ask_all(segmentor: Segmentor, wanted: Iterable[Triple], pixels: PixelCalibration | None = None) -> list[dict]:
    """One row a prompt, JSON-ready but for `counts`: what was there, what was drawn, and how they agree.

    pixels: is given every probability map of a concept that is there.
    """
    by_picture: dict[Path, list[Triple]] = defaultdict(list)
    for triple in wanted:
        by_picture[triple.item.image].append(triple)
    rows = []
    for path, group in tqdm(by_picture.items(), desc="pictures", mininterval=5):
        findings = segmentor.segment(pixels_of(path), [t.concept for t in group], mpp=group[0].item.scale)
        for triple, finding in zip(group, findings, strict=True):
            mask, ids = truth(triple)
            seen = judged(triple)
            rows.append(_row(triple, finding, mask, ids, seen))
            if pixels is not None and mask.any() and finding.probability is not None and triple.mode == "mask":
                pixels.add(finding.probability, mask, seen)
    return rows


def _row(triple: Triple, finding, mask: np.ndarray, ids: np.ndarray | None, seen: np.ndarray | None) -> dict:
    drawn = finding.mask if seen is None else finding.mask & seen
    item = triple.item
    row = {
        "concept": triple.concept, "set": item.set, **place_of(item),
        "there": bool(mask.any()), "presence": finding.presence, "found": bool(drawn.any()), "dice": None,
    }  # fmt: skip
    if triple.mode == "whole":  # a tile with a label: says what is there, not where its edges are
        return row
    row["dice"] = dice(drawn, mask) if mask.any() else None
    own = item.instances is not None or triple.objects == "one"  # not parted by us: fit to be held against
    told = own and finding.instances is not None and ids is not None
    drawn_ids, true_ids = as_objects(drawn, mask, finding.instances if told else None, ids if told else None)
    if seen is not None:
        drawn_ids = drawn_ids * seen
    row["counts"] = object_counts(drawn_ids, true_ids)
    if told and mask.any():
        number = len(np.unique(true_ids)) - 1
        row |= {
            "aji": aggregated_jaccard(drawn_ids, true_ids), "pq": panoptic_quality(drawn_ids, true_ids).pq,
            "count": len(np.unique(drawn_ids)) - 1, "true_count": number,
        }  # fmt: skip
    return row


def evaluate_grounding(
    segmentor: Segmentor, items: Sequence[Item], clicks: bool = False, peers: dict[str, dict] | None = None
) -> dict:
    """Everything that is measured of a segmentor on labelled pictures, JSON-ready.

    metrics: numbers by name (dice_mean, dice.<concept>, cgf1, presence_mcc, absent_not_found, ece, aji.<concept>,
    pq.<concept>, ...). headline, figures: the same with n and intervals, over all, by concept and by set. apart: mean
    Dice on sets that the card does not name, where the others are there too. clicks: measure those and boxes as well
    (minutes; see `interaction.py`).
    peers: "concept in set" -> Dice of the U-Net of that set, for dice_mean_minus_unet. rows: one a prompt.
    Raises InputError where no picture says anything of a concept of the card.
    """
    wanted = asked(items, list(segmentor.vocabulary.concepts))
    if not any(triple.mode == "mask" for triple in wanted):
        raise InputError("no mask of any concept that the segmentor knows; give sets with masks and `classes`")
    pixels = PixelCalibration()
    rows = ask_all(segmentor, wanted, pixels)
    known = {name for concept in segmentor.vocabulary.concepts.values() for name in concept.sets}
    strange = {row["set"] for row in rows if row["dice"] is not None} - known
    apart = [row for row in rows if row["set"] in strange]
    if len(apart) < len([row for row in rows if row["dice"] is not None]):
        rows = [row for row in rows if row["set"] not in strange]
    else:
        apart = []
    result = {"headline": headline(rows, pixels), "figures": summary(rows)}
    if apart:
        result["apart"] = summary(apart)
    if clicks:
        result["clicks"] = count_clicks(segmentor, wanted)
        result["headline"]["clicks_to_dice_85"] = _mean(result["clicks"], "needed")
        result["objects"] = point_at_objects(segmentor, wanted)
        result["headline"] |= {f"object_by_{way}": _mean(result["objects"], way) for way in POINTED}
    metrics = {name: figure["value"] for name, figure in result["headline"].items()}
    for name, figures in result["figures"].items():
        if name in segmentor.vocabulary.concepts:
            metrics |= {f"{key}.{name}": figures[key]["value"] for key in ("dice", "aji", "pq") if figures[key]["n"]}
    metrics["dice_mean_minus_unet"] = minus_unet(rows, peers or {})
    charts = {
        "pixels": pixels.table(), "presence": _presence_table(rows)
    }  # fmt: skip
    return {"metrics": metrics, **result, "reliability": charts, "rows": [*rows, *apart]}


def _presence_table(rows: Sequence[dict]) -> list[dict]:
    return reliability(np.array([row["presence"] for row in rows]), np.array([row["there"] for row in rows]))


def minus_unet(rows: Sequence[dict], peers: dict[str, dict]) -> float | None:
    """Mean over concepts of our mean Dice less that of the sets' own U-Nets, over the sets that have one."""
    ours, theirs = defaultdict(list), defaultdict(list)
    for row in rows:
        peer = peers.get(f"{row['concept']} in {row['set']}")
        if row["dice"] is not None and peer:
            ours[row["concept"]].append(row["dice"])
            theirs[row["concept"]].append(peer["value"])
    if not ours:
        return None
    return float(np.mean([np.mean(ours[name]) - np.mean(theirs[name]) for name in ours]))


def summary(rows: Sequence[dict]) -> dict[str, dict]:
    """Figures over all, per concept, and per set where a concept is labelled in several ("nucleus in gbm40")."""
    by_concept = defaultdict(list)
    for row in rows:
        by_concept[row["concept"]].append(row)
    figures = {"all": _figures(list(rows))}
    for name, group in sorted(by_concept.items()):
        figures[name] = _figures(group)
        sets = sorted({row["set"] for row in group if row["dice"] is not None})
        if len(sets) > 1:  # a mean over easy single cells and crowded tissue hides both
            for one in sets:
                figures[f"{name} in {one}"] = _figures([r for r in group if r["dice"] is not None and r["set"] == one])
    return figures


def _figures(rows: list[dict]) -> dict[str, dict]:
    drawn = [row for row in rows if row["dice"] is not None]
    absent = [row for row in rows if not row["there"]]
    objects = [row for row in drawn if "aji" in row]
    counted = [
        row | {"off": abs(row["count"] - row["true_count"]) / row["true_count"]} for row in objects if row["true_count"]
    ]
    return {
        "dice": _mean(drawn, "dice"),
        "found": _mean([row for row in rows if row["there"]], "found"),
        "absent_not_found": _mean([row | {"quiet": not row["found"]} for row in absent], "quiet"),
        "aji": _mean(objects, "aji"),
        "pq": _mean(objects, "pq"),
        "count_relative_error": _mean(counted, "off"),
    }


def _mean(rows: Sequence[dict], key: str) -> dict:
    return mean_figure([row[key] for row in rows], [row["group"] for row in rows]).to_dict()


def headline(rows: Sequence[dict], pixels: PixelCalibration | None = None) -> dict[str, dict]:
    """The figures that stand for all: mean Dice over concepts, cgF1, presence, calibration; each with an interval.

    dice_mean: mean over concepts of the mean over pictures that hold it. cgf1, pmf1: micro over all prompts.
    presence_mcc: what is there against what was found. ece: of presence, 15 equal bins; pixel_ece: of the pixels
    of concepts that are there.
    """
    drawn = [row for row in rows if row["dice"] is not None]
    told = [row for row in rows if "counts" in row]
    there, found, presence = (np.array([row[key] for row in rows]) for key in ("there", "found", "presence"))
    counts = np.array([row["counts"] for row in told])

    def ece(chosen: np.ndarray) -> float:
        return expected_calibration_error(presence[chosen], there[chosen])

    every = np.arange(len(rows))
    groups = [row["group"] for row in rows]
    figures = {
        "dice_mean": bootstrap_figure(drawn, dice_mean, [row["group"] for row in drawn]),
        "cgf1": bootstrap_figure(counts, cgf1, [row["group"] for row in told]),
        "pmf1": bootstrap_figure(counts, micro_f1, [row["group"] for row in told]),
        "presence_mcc": bootstrap_figure(every, lambda i: presence_mcc(there[i], found[i]), groups),
        "absent_not_found": mean_figure(~found[~there], [row["group"] for row in rows if not row["there"]]),
        "ece": bootstrap_figure(every, ece, groups),
    }
    if pixels is not None:
        seen = int(sum(row["n"] for row in pixels.table()))
        figures["pixel_ece"] = Figure(pixels.error(), float("nan"), float("nan"), seen)
    return {name: figure.to_dict() for name, figure in figures.items()}


def dice_mean(rows: Sequence[dict]) -> float:
    """Mean over concepts of the mean Dice over pictures that hold them; NaN without any."""
    by_concept = defaultdict(list)
    for row in rows:
        by_concept[row["concept"]].append(row["dice"])
    return float(np.mean([np.mean(values) for values in by_concept.values()])) if by_concept else float("nan")


def renderer(segmentor: Segmentor, items: Sequence[Item]):
    """Row -> pixels, truth and what is drawn, for `gallery.worst_and_best`."""
    found = {(t.concept, f"{t.item.set}/{t.item.id}"): t for t in triples(items, list(segmentor.vocabulary.concepts))}

    def render(row: dict) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        triple = found[row["concept"], row["item"]]
        (finding,) = segmentor.segment(pixels_of(triple.item.image), [triple.concept], mpp=triple.item.scale)
        return pixels_of(triple.item.image), truth(triple)[0], finding.mask

    return render
