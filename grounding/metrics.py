"""How well drawn masks and objects agree with the truth: Dice, PQ, AJI, and the SAM 3 family pmF1, MCC and cgF1.

Pure functions of arrays. Objects are label pictures: int (H, W), 0 = none, every other value one object; which value
makes no difference. Overlaps are counted once in a sparse table, so that a thousand nuclei cost milliseconds.
Where both sides are empty there was nothing to draw and nothing was drawn: 1. Calibration is in `calibration.py`,
clicks are in `clicks.py`, intervals come from `data/statistics.py`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

# 0.50, 0.55, … 0.95 as in COCO and SAM 3; rounded, so that an IoU of 3/5 reaches 0.6.
IOU_THRESHOLDS = tuple(float(value) for value in np.round(np.linspace(0.5, 0.95, 10), 2))
PANOPTIC_IOU = 0.5  # above it no object can match two others (Kirillov et al. 2019)


class PanopticQuality(NamedTuple):
    """pq = sq · dq. sq: mean IoU of the matched objects, 0 where none is. dq: F1 of finding them. All 0–1."""

    pq: float
    sq: float
    dq: float


def dice(drawn: np.ndarray, truth: np.ndarray) -> float:
    """2 |A ∩ B| / (|A| + |B|) of two bool (H, W) masks, 0–1; 1 where both are empty (Dice 1945).

    Raises ValueError where the shapes differ.
    """
    _same_shape(drawn, truth)
    total = int(np.count_nonzero(drawn)) + int(np.count_nonzero(truth))
    return 2 * int(np.count_nonzero(np.logical_and(drawn, truth))) / total if total else 1.0


def as_objects(
    drawn: np.ndarray, truth: np.ndarray, drawn_ids: np.ndarray | None = None, true_ids: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """What was drawn and what is true as label pictures (H, W), to be given to the functions of this file.

    drawn, truth: bool (H, W); ids: int (H, W), or None for a region. Where either side tells no objects apart, each
    mask is one whole object. Not its connected pieces: how many pieces a stroma or a tumour falls into hangs on
    necks, specks and the picture's edge, no question asks for it, and one bridge of pixels would turn a good
    outline into a miss.
    """
    if drawn_ids is None or true_ids is None:
        return drawn.astype(np.int32), truth.astype(np.int32)
    return drawn_ids, true_ids


def matched_ious(drawn_ids: np.ndarray, true_ids: np.ndarray) -> np.ndarray:
    """IoU of each pair in the one-to-one matching of the largest summed IoU: float64 (pairs,), each above 0, sorted.

    The matching of SAM 3 (§E.3, arXiv 2511.16719): found once, with no threshold in mind. Hungarian algorithm
    (scipy) within each group of objects that overlap one another. Raises ValueError as `panoptic_quality` does.
    """
    return _matched(_overlap(drawn_ids, true_ids))


def panoptic_quality(drawn_ids: np.ndarray, true_ids: np.ndarray) -> PanopticQuality:
    """PQ, SQ and DQ of one picture (Kirillov et al. 2019, "Panoptic segmentation"): objects match at IoU > 0.5.

    drawn_ids, true_ids: int or bool (H, W). Raises ValueError for other types, ids below 0 or unequal shapes.
    """
    overlap = _overlap(drawn_ids, true_ids)
    objects = len(overlap.drawn_areas) + len(overlap.true_areas)
    if not objects:
        return PanopticQuality(1.0, 1.0, 1.0)
    matched = overlap.iou[overlap.iou > PANOPTIC_IOU]
    # An exact sum, so that swapping the two pictures, and with them the order of the objects, changes no digit.
    quality = math.fsum(matched) / len(matched) if len(matched) else 0.0
    detection = 2 * len(matched) / objects
    return PanopticQuality(quality * detection, quality, detection)


def aggregated_jaccard(drawn_ids: np.ndarray, true_ids: np.ndarray) -> float:
    """AJI of one picture, 0–1 (Kumar et al. 2017, "A dataset and a technique for generalized nuclear segmentation").

    Each true object takes the drawn one of the largest IoU, which several may share; intersections and unions are
    summed, and every drawn object that none took adds its area to the unions, as does a true one that met nothing.
    Between equal IoUs the drawn object that comes first in reading order. Raises ValueError as `panoptic_quality`.
    """
    overlap = _overlap(drawn_ids, true_ids)
    if not len(overlap.drawn_areas) + len(overlap.true_areas):
        return 1.0
    order = np.lexsort((overlap.drawn, -overlap.iou, overlap.true))
    met, first = np.unique(overlap.true[order], return_index=True)
    taken = order[first]
    shared = overlap.shared[taken].sum()
    unions = overlap.union[taken].sum() + np.delete(overlap.true_areas, met).sum()
    unions += np.delete(overlap.drawn_areas, overlap.drawn[taken]).sum()
    return float(shared / unions)


def object_counts(
    drawn_ids: np.ndarray, true_ids: np.ndarray, thresholds: Sequence[float] = IOU_THRESHOLDS
) -> np.ndarray:
    """Objects found (TP), drawn in vain (FP) and missed (FN) at each IoU threshold: int64 (thresholds, 3).

    A pair of `matched_ious` is found where its IoU is at least the threshold; below it, it is one FP and one FN.
    Counts of pictures add up, so that `micro_f1` and `cgf1` can be resampled by picture. Raises ValueError as
    `panoptic_quality` does.
    """
    overlap = _overlap(drawn_ids, true_ids)
    found = (_matched(overlap) >= np.asarray(thresholds, float)[:, None]).sum(axis=1)
    return np.stack([found, len(overlap.drawn_areas) - found, len(overlap.true_areas) - found], axis=1)


def micro_f1(counts: np.ndarray) -> float:
    """pmF1 of SAM 3 (§E.3, arXiv 2511.16719), 0–1, from `object_counts` of pictures: int (pictures, thresholds, 3).

    At each threshold the counts of the pictures that hold the concept are summed to one F1; the F1s are averaged.
    Pictures without a true object are left out: what is drawn there is `presence_mcc`'s to punish. NaN where no
    picture holds it.
    """
    counts = np.asarray(counts)
    if not len(counts) or not (there := _there(counts)).any():
        return float("nan")
    found, vain, missed = counts[there].sum(axis=0).T
    return float(np.mean(2 * found / (2 * found + vain + missed)))


def presence_mcc(there: np.ndarray, said: np.ndarray) -> float:
    """Matthews' correlation (1975), −1–1, of what is there and what was said to be; 0 where it is undefined.

    there, said: bool (pictures,). SAM 3 calls it IL_MCC. Undefined means that all of either are the same: nothing
    was told apart. Raises ValueError where the lengths differ.
    """
    there, said = np.asarray(there, bool), np.asarray(said, bool)
    _same_shape(there, said)
    tp, tn = float((there & said).sum()), float((~there & ~said).sum())
    fp, fn = float((~there & said).sum()), float((there & ~said).sum())
    scale = (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)
    return (tp * tn - fp * fn) / scale**0.5 if scale else 0.0


def cgf1(counts: np.ndarray) -> float:
    """Classification-gated F1 of SAM 3: `micro_f1` · `presence_mcc`, here −1–1 where the paper gives it times 100.

    counts: int (pictures, thresholds, 3) of `object_counts`, of pictures with and without the concept. A picture
    says that the concept is there by holding any drawn object. NaN where no picture holds it.
    """
    counts = np.asarray(counts)
    if not len(counts):
        return float("nan")
    return micro_f1(counts) * presence_mcc(_there(counts), counts[:, 0, 0] + counts[:, 0, 1] > 0)


def _there(counts: np.ndarray) -> np.ndarray:
    return counts[:, 0, 0] + counts[:, 0, 2] > 0  # at every threshold TP + FN is the number of true objects


@dataclass(frozen=True)
class _Overlap:
    """Objects numbered from 0 in reading order; one entry a pair that shares pixels, sorted by true, then drawn."""

    drawn_areas: np.ndarray
    true_areas: np.ndarray
    drawn: np.ndarray
    true: np.ndarray
    shared: np.ndarray
    union: np.ndarray
    iou: np.ndarray


def _overlap(drawn_ids: np.ndarray, true_ids: np.ndarray) -> _Overlap:
    _same_shape(drawn_ids, true_ids)
    drawn, drawn_areas = _numbered(drawn_ids)
    true, true_areas = _numbered(true_ids)
    both = (drawn >= 0) & (true >= 0)
    pairs = true[both].astype(np.int64) * len(drawn_areas) + drawn[both]
    cells, shared = np.unique(pairs, return_counts=True)
    of_true, of_drawn = np.divmod(cells, max(1, len(drawn_areas)))
    union = drawn_areas[of_drawn] + true_areas[of_true] - shared
    return _Overlap(drawn_areas, true_areas, of_drawn, of_true, shared, union, shared / union)


def _numbered(ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Objects numbered 0, 1, … in reading order, −1 where none is: int32 (H·W,); and their areas, int64.

    Reading order, and not the order of the ids, settles ties, so that renaming objects changes no figure.
    """
    ids = np.asarray(ids)
    if ids.dtype.kind not in "bui" or (ids.size and ids.min() < 0):
        raise ValueError(f"object ids must be whole numbers from 0, not {ids.dtype} or below 0")
    flat = ids.ravel().astype(np.int64)
    if flat.size and flat.max() > flat.size:  # a table by id would be larger than the picture
        values, flat = np.unique(flat, return_inverse=True)
        flat += values[0] > 0
    areas = np.bincount(flat, minlength=1)
    first = np.zeros(len(areas), np.int64)
    first[flat[::-1]] = np.arange(len(flat) - 1, -1, -1)  # the last that is written stays: the first pixel
    present = np.flatnonzero(areas[1:]) + 1
    present = present[np.argsort(first[present])]
    number = np.full(len(areas), -1, np.int32)
    number[present] = np.arange(len(present))
    return number[flat], areas[present]


def _matched(overlap: _Overlap) -> np.ndarray:
    found = [overlap.iou[edges] if len(edges) == 1 else _best(overlap, edges) for edges in _groups(overlap)]
    return np.sort(np.concatenate(found)) if found else np.zeros(0)


def _groups(overlap: _Overlap) -> list[np.ndarray]:
    """Indices of the pairs, one array for each set of objects that overlap one another directly or by others."""
    if not len(overlap.shared):
        return []
    size = len(overlap.true_areas) + len(overlap.drawn_areas)
    ends = (overlap.true, overlap.drawn + len(overlap.true_areas))
    group = connected_components(coo_array((overlap.shared, ends), (size, size)), directed=False)[1][overlap.true]
    order = np.argsort(group, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(group[order])) + 1)


def _best(overlap: _Overlap, edges: np.ndarray) -> np.ndarray:
    """IoUs of the best one-to-one matching within one group."""
    rows, row = np.unique(overlap.true[edges], return_inverse=True)
    columns, column = np.unique(overlap.drawn[edges], return_inverse=True)
    ious = np.zeros((len(rows), len(columns)))
    ious[row, column] = overlap.iou[edges]
    chosen = ious[linear_sum_assignment(ious, maximize=True)]
    return chosen[chosen > 0]


def _same_shape(one: np.ndarray, other: np.ndarray) -> None:
    if np.shape(one) != np.shape(other):
        raise ValueError(f"shapes {np.shape(one)} and {np.shape(other)} differ; both must be of one picture")
