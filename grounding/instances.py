"""Single objects out of a mask and an interior map, by seeded watershed: of a picture, or piece by piece of a slide.

Pure array functions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby

import cv2
import numpy as np
from scipy import ndimage
from skimage.segmentation import watershed

from slidekick.grounding.components import Component, Scan
from slidekick.grounding.sizes import DRAWN, LEAST, MASK_STRIDE

SMOOTH = 1.0  # mask cells; the decoder's last upsampling leaves a chequered pattern that would split nuclei
REACH = 4  # mask cells over which that smoothing looks: four times SMOOTH
STEPS = 65535  # the interior is counted in so many while it is smoothed
LARGE = 16.0  # mask cells from outline to middle; from here on an object's own ripples would split it
LARGE_SMOOTH = 0.2  # of that depth: smoothing of large objects
SEED = 0.4  # smoothed interior from which a pixel seeds an object; with SMOOTH chosen by the counts on val pictures
SHEET = 1 << 21  # mask cells of a piece's box, 0.3 GB while it is grown; larger ones are grown chunk by chunk
DENSE = 2500  # mask cells of box for each piece of a chunk up to which growing all at once is quicker
HALO = 160  # mask cells around such a chunk: 64 µm at the cells' finest scale, 10 nuclei

Read = Callable[[slice, slice], tuple[np.ndarray, np.ndarray]]  # rows, columns -> drawn, interior, float32 (h, w)


@dataclass(frozen=True)
class Grown:
    """One object, in px looked at, of which `MASK_STRIDE` squared make a cell.

    corner: (row, column) of the mask's first. mask: bool (h, w). score: mean of what is drawn inside.
    """

    corner: tuple[int, int]
    mask: np.ndarray
    score: float


def grow_instances(mask: np.ndarray, interior: np.ndarray, least: float = LEAST) -> np.ndarray:
    """Label the objects of `mask` (bool H, W), told apart by `interior` (float32 H, W, 1 in an object's middle).

    Pieces of the interior above `SEED` are seeds; a piece of mask without a seed is an object by itself. Objects of
    fewer than `least` pixels are left out. Returns
    int32 (H, W), 0 outside, 1..n without gaps. Method: marker-controlled watershed (Meyer 1994) in scikit-image.
    What a piece of mask becomes depends only on itself and on the interior up to `REACH` cells around it, to the bit:
    a part of a picture gives the same objects as the whole.
    """
    return _renumber(grow_from_seeds(mask, interior)[0], least)


def grow_from_seeds(mask: np.ndarray, interior: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The objects of any size and the seeds that they grew from, int32 (H, W) each, with the same numbers.

    An object without a seed is its own.
    """
    if not mask.any():
        return np.zeros(mask.shape, np.int32), np.zeros(mask.shape, np.int32)
    pieces, number = ndimage.label(mask)
    smooth = _smoothed(interior, mask, pieces, number)
    seeds, seed_number = ndimage.label((smooth > SEED) & mask)
    owners = np.zeros(seed_number + 1, np.int64)
    owners[seeds[seeds > 0]] = pieces[seeds > 0]
    held = np.bincount(owners[1:], minlength=number + 1)
    whole = np.zeros(number + 1, np.int32)  # of each piece that is one object, its number
    whole[owners[1:]] = np.arange(1, seed_number + 1)
    lonely = np.flatnonzero(held[1:] == 0) + 1
    whole[lonely] = seed_number + np.arange(1, len(lonely) + 1)
    labels = whole[pieces]
    # Piece by piece: a watershed takes equally high seeds in an order that depends on all that it is given.
    boxes = ndimage.find_objects(pieces)
    for piece in np.flatnonzero(held > 1):
        box = boxes[piece - 1]
        own = pieces[box] == piece
        labels[box][own] = watershed(-smooth[box], seeds[box] * own, mask=own)[own]
    return labels, np.where(labels > seed_number, labels, seeds)


def _smoothed(interior: np.ndarray, mask: np.ndarray, pieces: np.ndarray, number: int) -> np.ndarray:
    """The interior smoothed, more so in large pieces, by a share of their depth."""
    # In whole numbers, which OpenCV sums to the same anywhere; floats are rounded otherwise at a row's end.
    steps = np.round(interior.clip(0, 1) * STEPS).astype(np.uint16)
    smooth = cv2.GaussianBlur(steps, (2 * REACH + 1, 2 * REACH + 1), SMOOTH).astype(np.float32) / STEPS
    depth = cv2.distanceTransform(np.pad(mask, 1).astype(np.uint8), cv2.DIST_L2, 3)[1:-1, 1:-1]
    deepest = np.zeros(number + 1, np.float32)
    np.maximum.at(deepest, pieces[mask], depth[mask])
    boxes = ndimage.find_objects(pieces)
    for piece in np.flatnonzero(deepest[1:] >= LARGE) + 1:
        box = boxes[piece - 1]
        own = pieces[box] == piece
        blurred = cv2.GaussianBlur(interior[box] * own, (0, 0), LARGE_SMOOTH * float(deepest[piece]))
        smooth[box][own] = blurred[own]
    return smooth


def refine(labels: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """`labels` (int32 h, w) in px looked at, int32 (2h, 2w), cut where what is `drawn` crosses `DRAWN` between cells.

    A pixel beside the mask's cells belongs to the most certain of the cells that make it one. What becomes of a cell
    depends on its neighbours alone; beyond the window its rim goes on.
    """
    fine = np.zeros((labels.shape[0] * MASK_STRIDE, labels.shape[1] * MASK_STRIDE), np.int32)
    high, owner = np.pad(drawn, 1, mode="edge"), np.pad(labels, 1)
    height, width = labels.shape
    for down in (0, 1):
        for right in (0, 1):
            up, left = slice(2 * down, 2 * down + height), slice(2 * right, 2 * right + width)
            near = [np.s_[up, 1:-1], np.s_[1:-1, left], np.s_[up, left]]
            one, two, three = (high[place] for place in near)
            best, value = owner[near[0]], one
            for place, other in ((near[1], two), (near[2], three)):
                best, value = np.where(other > value, owner[place], best), np.maximum(other, value)
            own = np.where(drawn >= DRAWN, labels, best)
            # Bilinear: the four pixels of a cell lie a quarter of a cell from its middle.
            inside = 9 * drawn + 3 * (one + two) + three >= 16 * DRAWN
            fine[down::MASK_STRIDE, right::MASK_STRIDE] = np.where(inside, own, 0)
    return fine


def grow_components(
    components: Iterable[Component], scan: Scan, read: Read, shape: tuple[int, int], least: float
) -> Iterator[Grown]:
    """The objects of connected pieces of a slide's mask: as `grow_instances` and `refine` give them for all of it.

    components: as `scan` tells them; those under `least` cells are passed over. shape: (rows, columns) of the slide.
    A piece whose box is beyond `SHEET`, such as cells that all touch, is grown chunk by chunk with a `HALO`: its
    objects are whole across the seams where they are smaller than that, else they may be cut there.
    """
    large = (component for component in components if component.area >= least)
    for _, group in groupby(large, key=lambda component: scan.chunk_of(component.pieces[0])):
        inside, crossing = [], []
        for component in group:
            (inside if len(component.pieces) == 1 else crossing).append([component])
        if inside and _cells(_around([one for [one] in inside])) <= DENSE * len(inside):
            inside = [[one for [one] in inside]]
        for some in inside + crossing:
            if _cells(box := _around(some)) > SHEET:
                yield from _grow_sheet(some[0], scan, read, shape, least)
            else:
                yield from _grow(some, box, read, shape, least)


def _grow(components: list[Component], box: tuple[slice, slice], read: Read, shape, least: float) -> Iterator[Grown]:
    """The objects of components that lie in a box."""
    window = _widened(box, REACH + 1, shape)
    drawn, interior = read(*window)
    inner = _within(box, window)
    pieces, number = ndimage.label(drawn[inner] >= DRAWN)
    ours = np.zeros(number + 1, bool)
    rows, columns = np.transpose([component.seed for component in components])
    ours[pieces[rows - box[0].start, columns - box[1].start]] = True
    own = np.zeros(drawn.shape, bool)
    own[inner] = ours[pieces]
    labels = grow_instances(own, interior, least)
    fine = refine(labels, drawn)
    scores = ndimage.mean(drawn, labels, np.arange(1, labels.max() + 1))
    for label, cut in enumerate(ndimage.find_objects(fine), 1):
        if cut is not None:
            corner = tuple(MASK_STRIDE * at.start + side.start for at, side in zip(window, cut, strict=True))
            yield Grown(corner, fine[cut] == label, float(scores[label - 1]))


def _grow_sheet(component: Component, scan: Scan, read: Read, shape: tuple[int, int], least: float) -> Iterator[Grown]:
    """An object is known by its seed's first cell, which neighbouring chunks see alike; its parts are joined."""
    chunks: dict[tuple[int, int], list[int]] = {}
    for piece in component.pieces:
        rows, columns = scan.chunk_of(piece)
        chunks.setdefault((rows.start, columns.start), []).append(piece)
    waiting: dict[tuple[int, int], list] = {}  # seed -> parts
    for top, row in groupby(sorted(chunks), lambda corner: corner[0]):
        # A seed that this row of chunks and those below cannot see has all its parts.
        for seed in sorted(seed for seed in waiting if seed[0] < top - HALO):
            yield from _joined(waiting.pop(seed), least)
        for pieces in map(chunks.__getitem__, row):
            members = [scan.label_of(piece) for piece in pieces]
            for seed, part in _parts(scan.chunk_of(pieces[0]), members, read, shape):
                waiting.setdefault(seed, []).append(part)
    for seed in sorted(waiting):
        yield from _joined(waiting[seed], least)


def _parts(core: tuple[slice, slice], members: list[int], read: Read, shape: tuple[int, int]) -> Iterator[tuple]:
    """What a chunk's core holds of each object: its seed, and (corner, mask in px, cells, sum of what is drawn)."""
    window = _widened(core, HALO, shape)
    drawn, interior = read(*window)
    mask = drawn >= DRAWN
    labels, seeds = grow_from_seeds(mask, interior)
    values, firsts = np.unique(seeds, return_index=True)
    seed_of = dict(zip(values.tolist(), firsts.tolist(), strict=True))
    inner = _within(core, window)
    member = np.isin(ndimage.label(mask[inner])[0], members)
    ours = np.unique(labels[inner][member])
    cells = np.where(member, labels[inner], 0)
    counts, sums = np.bincount(cells.ravel()), np.bincount(cells.ravel(), drawn[inner].ravel())
    fine = refine(np.where(np.isin(labels, ours), labels, 0), drawn)
    fine = fine[tuple(slice(MASK_STRIDE * cut.start, MASK_STRIDE * cut.stop) for cut in inner)]
    for label, box in enumerate(ndimage.find_objects(fine), 1):
        if box is not None and label < len(counts):
            row, column = divmod(seed_of[label], labels.shape[1])
            corner = tuple(MASK_STRIDE * at.start + cut.start for at, cut in zip(core, box, strict=True))
            part = (corner, fine[box] == label, int(counts[label]), float(sums[label]))
            yield (row + window[0].start, column + window[1].start), part


def _joined(parts: list[tuple], least: float) -> Iterator[Grown]:
    if (cells := sum(part[2] for part in parts)) < max(least, 1):
        return
    low = np.min([corner for corner, *_ in parts], axis=0)
    high = np.max([np.add(corner, mask.shape) for corner, mask, *_ in parts], axis=0)
    whole = np.zeros(high - low, bool)
    for corner, mask, *_ in parts:
        row, column = corner - low
        whole[row : row + mask.shape[0], column : column + mask.shape[1]] |= mask
    yield Grown((int(low[0]), int(low[1])), whole, sum(part[3] for part in parts) / cells)


def _around(components: list[Component]) -> tuple[slice, slice]:
    """The box of several."""
    return tuple(
        slice(min(one.box[axis].start for one in components), max(one.box[axis].stop for one in components))
        for axis in (0, 1)
    )


def _cells(box: tuple[slice, slice]) -> int:
    return (box[0].stop - box[0].start) * (box[1].stop - box[1].start)


def _widened(box: tuple[slice, slice], by: int, shape: tuple[int, int]) -> tuple[slice, slice]:
    return tuple(
        slice(max(0, cells.start - by), min(side, cells.stop + by)) for cells, side in zip(box, shape, strict=True)
    )


def _within(box: tuple[slice, slice], window: tuple[slice, slice]) -> tuple[slice, slice]:
    return tuple(
        slice(own.start - all_of.start, own.stop - all_of.start) for own, all_of in zip(box, window, strict=True)
    )


def label_at_full_size(labels: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """`labels` (int32 h, w) brought to the size of `mask` (bool H, W) and cut to it, its rim filled from neighbours."""
    height, width = mask.shape
    large = cv2.resize(labels.astype(np.float32), (width, height), interpolation=cv2.INTER_NEAREST)
    rim = cv2.dilate(large, np.ones((3, 3), np.uint8), iterations=2)
    return _renumber(np.where(mask, np.where(large > 0, large, rim), 0).astype(np.int32), 1)


def _renumber(labels: np.ndarray, min_area: float) -> np.ndarray:
    areas = np.bincount(labels.ravel())
    keep = areas >= min_area
    keep[0] = False
    new = np.zeros(len(areas), np.int32)
    new[keep] = np.arange(1, keep.sum() + 1)
    return new[labels]
