"""The segmentor as a user meets it: words and a picture in, findings out. It trains nothing and measures nothing.

A picture is looked at in overlapping windows at the concept's working scale; each window is encoded once, whatever
the number of concepts. A window where the concept is judged absent adds nothing to its mask.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np
import torch

from slidekick.data.errors import InputError
from slidekick.data.files import write_atomic
from slidekick.grounding.finding import Finding
from slidekick.grounding.instances import grow_instances, label_at_full_size
from slidekick.grounding.model import MASK_STRIDE, SegmentorConfig, SegmentorModel
from slidekick.grounding.tower import float16_bytes, to_tensor
from slidekick.grounding.vocabulary import Concept, Vocabulary

WEIGHTS = Path(__file__).parent / "weights"
MODEL, CONFIG, CARD = "model.safetensors", "config.json", "vocabulary.json"

OVERLAP = 48  # px of a window shared with its neighbour: a nucleus and its surround at the working scale
BATCH = 4  # windows encoded at once: enough to fill two cores, with little memory
ZOOM_LIMITS = (0.05, 4.0)  # beyond these a picture holds too little, or nothing, of what the concept looks like
ENOUGH_OBJECTS = 10  # for their median diameter to tell the scale
SAME_SCALE = (0.7, 1.25)  # usual over seen diameter for which a second look gains nothing
MAX_RATIO = 2.0  # between first and second look: beyond it the objects seen first are not to be trusted
DRAWN = 0.5  # probability from which a pixel belongs to the concept


@dataclass
class _Canvas:
    """Sums over windows at the mask's resolution: probability, interior, weight; and presence per window."""

    drawn: np.ndarray
    interior: np.ndarray
    weight: np.ndarray
    presence: float = 0.0

    @cached_property
    def objects(self) -> np.ndarray:
        """Labels of the objects, int32 at the mask's resolution; asked for once the sums have become means."""
        return grow_instances(self.drawn >= DRAWN, self.interior)

    @classmethod
    def empty(cls, height: int, width: int) -> _Canvas:
        return cls(*(np.zeros((height, width), np.float32) for _ in range(3)))


class Segmentor:
    """Text-prompted segmentation of one picture at a time.

    model: the network, in eval mode. vocabulary: what it was taught.
    """

    def __init__(self, model: SegmentorModel, vocabulary: Vocabulary) -> None:
        self.model = model.eval()
        self.vocabulary = vocabulary

    @classmethod
    def from_pretrained(cls, folder: str | Path | None = None) -> Segmentor:
        """Load a folder written by `save_pretrained`; None: the weights that ship with Slidekick.

        Raises InputError where the folder lacks a file or a file is not what it should be.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        folder = Path(folder) if folder is not None else WEIGHTS
        for name in (CONFIG, CARD, MODEL):
            if not (folder / name).is_file():
                raise InputError(f"{folder}: {name} is missing; give a folder written by `slidekick train segmentor`")
        try:
            config = SegmentorConfig(**json.loads((folder / CONFIG).read_text()))
            model = SegmentorModel(config)
            model.load_state_dict({name: t.float() for name, t in load_file(folder / MODEL).items()}, strict=True)
            vocabulary = Vocabulary.load(folder / CARD)
        except (
            ValueError, TypeError, KeyError, RuntimeError, OSError, SafetensorError,
            AssertionError, ArithmeticError,  # how SAM's modules refuse sizes that do not divide
        ) as error:  # fmt: skip
            raise InputError(
                f"{folder}: not a segmentor of this version ({type(error).__name__}); train it anew"
            ) from error
        return cls(model, vocabulary)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config.json, vocabulary.json and model.safetensors (float16), each atomically."""
        write_atomic(Path(folder) / CONFIG, json.dumps(self.model.config.to_dict(), indent=1))
        write_atomic(Path(folder) / CARD, self.vocabulary.dumps())
        write_atomic(Path(folder) / MODEL, float16_bytes(self.model.state_dict()))

    def segment(
        self, image: np.ndarray, concepts: Sequence[str], *, mpp: tuple[float, float] | None = None
    ) -> list[Finding]:
        """Look for each of `concepts` (free words) in `image`; one Finding each, in order.

        image: uint8 (H, W, 3) RGB. mpp: (x, y) µm per pixel of `image`, or None: then it is looked at at the zoom
        usual for the concept, and once more where the objects' size says that the scale is another.
        Words outside the vocabulary give an empty, `known=False` finding.
        Raises InputError for an image of another shape or type, and for one string in place of a list.
        """
        if not isinstance(image, np.ndarray):
            raise InputError(f"image is a {type(image).__name__}; give a NumPy array, uint8 (height, width, 3) RGB")
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
            raise InputError(f"image is {image.dtype} {image.shape}; give uint8 (height, width, 3) RGB")
        if isinstance(concepts, str):
            raise InputError(f"concepts is one string; give a list, such as [{concepts!r}]")
        meant = [self.vocabulary.find(words) for words in concepts]
        canvases: dict[str, _Canvas] = {}
        for zoom, group in self._by_zoom(meant, mpp).items():
            canvases |= self._look(image, group, zoom)
        for concept in {c.name: c for c in meant if c is not None and mpp is None and c.diameter_um}.values():
            if (zoom := _better_zoom(concept, canvases[concept.name])) != concept.zoom:
                canvases |= self._look(image, [concept], zoom)
        return [
            self._finding(words, concept, canvases, image.shape[:2])
            for words, concept in zip(concepts, meant, strict=True)
        ]

    def _by_zoom(self, meant: list[Concept | None], mpp: tuple[float, float] | None) -> dict[float, list[Concept]]:
        groups: dict[float, list[Concept]] = {}
        for concept in dict.fromkeys(c for c in meant if c is not None):
            zoom = concept.zoom if mpp is None else float(np.clip((mpp[0] * mpp[1]) ** 0.5 / concept.mpp, *ZOOM_LIMITS))
            groups.setdefault(round(zoom, 3), []).append(concept)
        return groups

    def _look(self, image: np.ndarray, concepts: list[Concept], zoom: float) -> dict[str, _Canvas]:
        side = self.model.config.window
        scaled = _rescale(image, zoom)
        height, width = scaled.shape[:2]
        starts = [(y, x) for y in _starts(height, side) for x in _starts(width, side)]
        bottom, right = max(0, side - height), max(0, side - width)
        padded = cv2.copyMakeBorder(scaled, 0, bottom, 0, right, cv2.BORDER_REFLECT)
        size = [length // MASK_STRIDE for length in padded.shape[:2]]
        canvases = {concept.name: _Canvas.empty(*size) for concept in concepts}
        taper = _taper(side // MASK_STRIDE)
        for first in range(0, len(starts), BATCH):
            places = starts[first : first + BATCH]
            windows = np.stack([padded[y : y + side, x : x + side] for y, x in places])
            for place, outputs in zip(places, self._windows(windows, concepts), strict=True):
                for concept, (drawn, interior, presence) in zip(concepts, outputs, strict=True):
                    _add(canvases[concept.name], concept, place, drawn, interior, presence, taper)
        for canvas in canvases.values():
            _crop(canvas, -(-height // MASK_STRIDE), -(-width // MASK_STRIDE))
        return canvases

    @torch.inference_mode()
    def _windows(self, windows: np.ndarray, concepts: list[Concept]):
        """Per window, per concept: probability (h, w), interior (h, w), presence."""
        for embedding in self.model.encode(to_tensor(windows).contiguous(memory_format=torch.channels_last)):
            masks, interiors, present = self.model.decode(embedding, [c.name for c in concepts])
            yield list(
                zip(masks.sigmoid().numpy(), interiors.sigmoid().numpy(), present.sigmoid().tolist(), strict=True)
            )

    def _finding(
        self, words: str, concept: Concept | None, canvases: dict[str, _Canvas], shape: tuple[int, int]
    ) -> Finding:
        if concept is None:
            empty = np.zeros(shape, bool)
            return Finding(words, empty, 0.0, 0.0, None, False, words, self.vocabulary.nearest(words))
        canvas = canvases[concept.name]
        drawn = _resize(canvas.drawn, shape)
        mask = drawn >= DRAWN
        instances = None
        if concept.kind == "object":
            instances = label_at_full_size(canvas.objects, mask)
            mask = instances > 0
        score = float(drawn[mask].mean()) if mask.any() else 0.0
        return Finding(concept.name, mask, score, canvas.presence, instances, True, words, None)


def _better_zoom(concept: Concept, canvas: _Canvas) -> float:
    """Zoom at which objects seen at the concept's usual zoom would have their usual size, where that is far off.

    For pictures of unknown scale: the size of the objects themselves tells it, as in Cellpose (Stringer et al. 2021).
    """
    areas = np.bincount(canvas.objects.ravel())[1:] * MASK_STRIDE**2
    if len(areas) < ENOUGH_OBJECTS:
        return concept.zoom
    seen = float(np.median(2 * np.sqrt(areas / np.pi)))
    ratio = concept.diameter_um / concept.mpp / seen
    if SAME_SCALE[0] <= ratio <= SAME_SCALE[1]:
        return concept.zoom
    return concept.zoom * float(np.clip(ratio, 1 / MAX_RATIO, MAX_RATIO))


def _starts(length: int, side: int) -> list[int]:
    """First pixels of windows that cover `length`, the last one flush with the end; even, for the mask's stride."""
    if length <= side:
        return [0]
    last = length - side
    steps = -(-last // (side - OVERLAP))
    return sorted({round(last * i / steps / MASK_STRIDE) * MASK_STRIDE for i in range(steps)} | {last // 2 * 2})


def _rescale(image: np.ndarray, zoom: float) -> np.ndarray:
    if abs(zoom - 1) < 0.02:
        height, width = image.shape[:2]
    else:
        height, width = (max(8, round(length * zoom)) for length in image.shape[:2])
    height, width = height + height % 2, width + width % 2  # whole mask cells
    if (height, width) == image.shape[:2]:
        return image
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if zoom < 1 else cv2.INTER_LINEAR)


def _resize(values: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    return cv2.resize(values, (shape[1], shape[0]), interpolation=cv2.INTER_LINEAR)


def _taper(size: int) -> np.ndarray:
    """Weight of a window's pixels, falling towards its rim, so that neighbours blend."""
    ramp = (
        np.minimum(np.arange(1, size + 1), np.arange(size, 0, -1)).clip(max=OVERLAP // MASK_STRIDE).astype(np.float32)
    )
    return np.outer(ramp, ramp)


def _add(canvas: _Canvas, concept: Concept, place, drawn, interior, presence: float, taper: np.ndarray) -> None:
    y, x = (start // MASK_STRIDE for start in place)
    area = np.s_[y : y + taper.shape[0], x : x + taper.shape[1]]
    canvas.weight[area] += taper
    canvas.presence = max(canvas.presence, presence)
    if presence >= concept.presence_threshold:
        canvas.drawn[area] += taper * drawn
        canvas.interior[area] += taper * interior


def _crop(canvas: _Canvas, height: int, width: int) -> None:
    """Drop the mirrored filling and turn sums into means."""
    weight = canvas.weight[:height, :width]
    canvas.drawn = canvas.drawn[:height, :width] / weight
    canvas.interior = canvas.interior[:height, :width] / weight
    canvas.weight = weight
