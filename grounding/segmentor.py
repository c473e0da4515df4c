"""The segmentor as a user meets it: words, points, boxes and a picture in, findings out. It trains nothing.

A picture is looked at in overlapping tiles at the concepts' working scale; each tile is encoded once, whatever the
number of concepts and questions. A tile where a concept is judged absent adds nothing to its mask.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from math import inf
from pathlib import Path

import cv2
import numpy as np

from slidekick.data.errors import InputError
from slidekick.data.files import write_atomic
from slidekick.grounding.finding import Finding
from slidekick.grounding.instances import label_at_full_size
from slidekick.grounding.pointing import NAMELESS, Clicks, checked_boxes, checked_points, outline_objects
from slidekick.grounding.runtime import Maps, Network
from slidekick.grounding.sizes import DRAWN, FILLED, MASK_STRIDE, PHRASE_WIDTH
from slidekick.grounding.tiles import SMALLEST, Canvas, Tiling, rescale, sigmoid
from slidekick.grounding.vocabulary import Concept, Vocabulary

WEIGHTS = Path(__file__).parent / "weights"
MODEL, CONFIG, CARD, PHRASES = "model.safetensors", "config.json", "vocabulary.json", "phrases.safetensors"

ZOOM_LIMITS = (0.05, 4.0)  # beyond these a picture holds too little, or nothing, of what the concept looks like
LARGEST_UNKNOWN = 1.4  # zoom of small pictures whose scale is unknown, as in training
ENOUGH_OBJECTS = 10  # for their median diameter to tell the scale
SAME_SCALE = (0.7, 1.25)  # usual over seen diameter for which a second look gains nothing
MAX_RATIO = 2.0  # between first and second look: beyond it the objects seen first are not to be trusted
THERE = 0.35  # probability from which a concept is in a tile; on val pictures 0.5 loses more masks than it saves
KEPT_TILES = 9  # of the last picture, whose features are kept for further prompts: 13 MB each
PROMPTS = 8  # decoded at once: more are no faster and take more memory
MOST_CONCEPTS = 1000  # a picture has fewer; a list that long is a mistake


class Segmentor:
    """Text-, point- and box-prompted segmentation of one picture at a time.

    network: runs the model (see `runtime.py`). vocabulary: what it was taught. weights: the file they came from.
    """

    def __init__(self, network: Network, vocabulary: Vocabulary, weights: Path | None = None) -> None:
        self.network = network
        self.vocabulary = vocabulary
        self.weights = weights
        self._kept: tuple[bytes, dict[float, list[Maps]]] = (b"", {})  # the last picture's name and features by zoom

    @classmethod
    def from_pretrained(cls, folder: str | Path | None = None, runtime: str = "openvino") -> Segmentor:
        """Load a folder written by `save_pretrained`; None: the weights that ship with Slidekick.

        runtime: "openvino" (CPU) or "torch" (the reference). Raises InputError where the folder lacks a file or a
        file is not what it should be, and for another runtime.
        """
        from slidekick.grounding.loading import load_segmentor

        return load_segmentor(Path(folder) if folder is not None else WEIGHTS, runtime)

    @classmethod
    def from_sam(cls, checkpoint: str | Path) -> Segmentor:
        """An official SAM checkpoint (ViT-B, -L or -H; `.pth` or safetensors) in this class.

        It knows no words: points and boxes only. Raises InputError for a file that is none.
        """
        from slidekick.grounding.loading import load_sam

        return load_sam(Path(checkpoint))

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config.json, vocabulary.json, phrases.safetensors and model.safetensors (float16), each atomically."""
        from slidekick.grounding.loading import vector_bytes, weight_bytes

        folder = Path(folder)
        write_atomic(folder / CONFIG, json.dumps(self.network.config.to_dict(), indent=1))
        write_atomic(folder / CARD, self.vocabulary.dumps())
        write_atomic(folder / PHRASES, vector_bytes(self.vocabulary.vectors))
        write_atomic(folder / MODEL, weight_bytes(self.network, self.weights))

    def forget(self) -> None:
        """Drop the features of the last picture, such as to measure what a new one costs."""
        self._kept = (b"", {})

    def segment(
        self,
        image: np.ndarray,
        concepts: Sequence[str],
        *,
        mpp: tuple[float, float] | None = None,
        points: Sequence[tuple[float, float, int]] | None = None,
        boxes: Sequence[tuple[float, float, float, float]] | None = None,
    ) -> list[Finding]:
        """Look for each of `concepts` (free words) in `image`; one Finding each, in order.

        image: uint8 (H, W, 3) RGB. mpp: (x, y) µm per pixel of `image`, or None: then it is looked at at the zoom
        usual for the concept, and once more where the objects' size says that the scale is another.
        points: (x, y, label) in pixels of `image`, label 1 for "belongs to it", 0 for "does not": they correct what
        the words alone would give. boxes: (x0, y0, x1, y1): each is outlined as one object, named by the words.
        Without any concept, points mean one object and each box one; the finding is called "object".
        Words outside the vocabulary give an empty, `known=False` finding that names the nearest known one.
        Raises InputError for an image of another shape or type, one string in place of a list, no prompt at all,
        points outside the picture and boxes that are inverted, empty or outside.
        """
        check_picture(image, concepts, mpp)
        clicks = checked_points(points, image.shape[:2])
        frames = checked_boxes(boxes, image.shape[:2])
        if not concepts and not clicks and not frames:
            raise InputError("no prompt; give a concept, a point or a box")
        meant = [self.vocabulary.find(words) for words in concepts] if self.network.config.knows_words else []
        if not concepts or frames:
            return self._outlined(image, list(concepts), meant, mpp, clicks, frames)
        canvases = self._seen(image, meant, mpp, clicks)
        return [
            self._finding(words, concept, canvases, image.shape[:2])
            for words, concept in zip(concepts, meant or [None] * len(concepts), strict=True)
        ]

    def _seen(self, image: np.ndarray, meant: list[Concept | None], mpp, clicks: Clicks) -> dict[str, Canvas]:
        canvases: dict[str, Canvas] = {}
        for zoom, group in self._by_zoom(meant, mpp, image.shape[:2]).items():
            canvases |= self._look(image, group, zoom, clicks)
        for concept in {c.name: c for c in meant if c is not None and mpp is None and c.diameter_um}.values():
            first = zoom_for(concept, None, max(image.shape[:2]))
            if (zoom := _better_zoom(concept, canvases[concept.name], first)) != first:
                canvases |= self._look(image, [concept], zoom, clicks)
        return canvases

    def _by_zoom(self, meant: list[Concept | None], mpp, shape: tuple[int, int]) -> dict[float, list[Concept]]:
        groups: dict[float, list[Concept]] = {}
        for concept in dict.fromkeys(c for c in meant if c is not None):
            groups.setdefault(round(zoom_for(concept, mpp, max(shape)), 3), []).append(concept)
        return groups

    def _look(self, image: np.ndarray, concepts: list[Concept], zoom: float, clicks: Clicks) -> dict[str, Canvas]:
        scaled = rescale(image, zoom)
        tiling = Tiling.over(*scaled.shape[:2])
        canvases = {concept.name: Canvas(tiling) for concept in concepts}
        taper = tiling.taper
        factor = scaled.shape[1] / image.shape[1], scaled.shape[0] / image.shape[0]
        for place, maps in zip(tiling.places, self._features(image, zoom, scaled, tiling), strict=True):
            near = _clicks_in(clicks, factor, place, tiling.tile)
            for concept, (seen, shown) in zip(concepts, self._shown(maps, concepts, near, bool(clicks)), strict=True):
                canvases[concept.name].add(place, taper, shown, seen)
        return canvases

    def see(self, tile: np.ndarray, concepts: list[Concept]) -> list[tuple[float, np.ndarray | None]]:
        """What one tile shows of each concept, for those who cut a picture themselves.

        tile: uint8 (H, W, 3) at the concepts' zoom, sides multiples of 32. Returns, in order, the presence logit above
        the concept's offset and drawn and interior, float32 (2, H / 2, W / 2), 0–1; None where it is judged absent.
        """
        return list(self._shown(self.network.encode(tile), concepts, [], False))

    def _shown(
        self, maps: Maps, concepts: list[Concept], clicks: Clicks, asked: bool
    ) -> Iterator[tuple[float, np.ndarray | None]]:
        """As `see`, of features; where it is `asked` for by clicks a concept is never judged absent."""
        slope = self.vocabulary.calibration
        for first in range(0, len(concepts), PROMPTS):
            group = concepts[first : first + PROMPTS]
            logits, present = self._decode(maps, group, clicks)
            for drawn, seen in zip(logits, present - [c.offset for c in group], strict=True):
                there = asked or sigmoid(slope.presence * seen) >= THERE
                shown = np.stack([sigmoid(slope.pixel * drawn[0]), sigmoid(drawn[1])]) if there else None
                yield float(seen), shown

    def _decode(self, maps: Maps, concepts: list[Concept], clicks: Clicks) -> tuple[np.ndarray, np.ndarray]:
        """Logits by words; then, click by click, corrected from what was drawn before (SAM's interactive use)."""
        phrases = np.stack([self.vocabulary.vectors[concept.name] for concept in concepts])
        logits, present = self.network.decode(maps, phrases)
        for number in range(1, len(clicks) + 1):
            points = np.array([[(x, y) for x, y, _ in clicks[:number]]] * len(concepts), np.float32)
            labels = np.array([[label for *_, label in clicks[:number]]] * len(concepts), np.int64)
            logits, _ = self.network.decode(maps, phrases, points, labels, logits[:, 0])
        return logits, present

    def _features(self, image: np.ndarray, zoom: float, scaled: np.ndarray, tiling: Tiling) -> Iterator[Maps]:
        """Of each tile; those of the last picture are kept, so that a further prompt costs no encoding."""
        if len(tiling.places) > KEPT_TILES:
            return (self.network.encode(tile) for tile in tiling.cut(scaled))
        name = hashlib.blake2b(np.ascontiguousarray(image), digest_size=16).digest() + bytes(str(image.shape), "ascii")
        if self._kept[0] != name:
            self._kept = (name, {})
        if zoom not in self._kept[1]:
            self._kept[1][zoom] = [self.network.encode(tile) for tile in tiling.cut(scaled)]
        return iter(self._kept[1][zoom])

    def _outlined(self, image, words: list[str], meant, mpp, clicks: Clicks, frames) -> list[Finding]:
        """Objects in boxes, or the one at the points; once for each concept, or once without a name."""
        findings = []
        for said, concept in (
            zip(words, meant, strict=True) if meant else [(said, None) for said in words] or [("", None)]
        ):
            if said and concept is None and self.network.config.knows_words:
                findings.append(self._unknown(said, image.shape[:2]))
                continue
            vector = self.vocabulary.vectors[concept.name] if concept else np.zeros(PHRASE_WIDTH, np.float32)
            zoom = zoom_for(concept, mpp, max(image.shape[:2])) if concept else None
            slope = self.vocabulary.calibration.pixel
            drawn, labels = outline_objects(self.network, image, vector, zoom, clicks, frames, slope)
            name = concept.name if concept else NAMELESS
            score = float(drawn[labels > 0].mean()) if labels.any() else 0.0
            findings.append(Finding(name, labels > 0, score, 1.0, labels, True, said or name, None, drawn))
        return findings

    def _unknown(self, words: str, shape: tuple[int, int]) -> Finding:
        nearest = self.vocabulary.nearest(words) if self.vocabulary.concepts else None
        return Finding(words, np.zeros(shape, bool), 0.0, 0.0, None, False, words, nearest)

    def _finding(
        self, words: str, concept: Concept | None, canvases: dict[str, Canvas], shape: tuple[int, int]
    ) -> Finding:
        if concept is None:
            return self._unknown(words, shape)
        canvas = canvases[concept.name]
        drawn = cv2.resize(canvas.drawn, (shape[1], shape[0]), interpolation=cv2.INTER_LINEAR)
        mask = drawn >= DRAWN
        instances = None
        if concept.kind == "object":
            instances = label_at_full_size(canvas.objects(concept.least), mask)
            mask = instances > 0
        score = float(drawn[mask].mean()) if mask.any() else 0.0
        presence = float(sigmoid(self.vocabulary.calibration.presence * canvas.presence))
        return Finding(concept.name, mask, score, presence, instances, True, words, None, drawn)


def zoom_for(concept: Concept, mpp: tuple[float, float] | None, longest: int) -> float:
    """Pixels looked at per picture pixel: none is made up or thrown away within the concept's range of scales.

    longest: the picture's longer side in px. Where the scale is unknown, a small picture is looked at larger, so that
    it fills a window as far as it did in training.
    """
    if mpp is None:
        return float(max(concept.zoom, min(FILLED * SMALLEST / longest, LARGEST_UNKNOWN)))
    own = (mpp[0] * mpp[1]) ** 0.5
    return float(np.clip(own / np.clip(own, *concept.scale), *ZOOM_LIMITS))


def check_picture(image: np.ndarray, concepts: Sequence[str], mpp) -> None:
    """Raises InputError for what `Segmentor.segment` cannot look at."""
    if not isinstance(image, np.ndarray):
        raise InputError(f"image is a {type(image).__name__}; give a NumPy array, uint8 (height, width, 3) RGB")
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        raise InputError(f"image is {image.dtype} {image.shape}; give uint8 (height, width, 3) RGB")
    if mpp is not None and not (
        isinstance(mpp, tuple | list | np.ndarray) and len(mpp) == 2 and all(_positive(value) for value in mpp)
    ):
        raise InputError(f"mpp is {mpp!r}; give (x, y) µm per pixel above 0, or None")
    if isinstance(concepts, str):
        raise InputError(f"concepts is one string; give a list, such as [{concepts!r}]")
    if len(concepts) > MOST_CONCEPTS:
        raise InputError(f"{len(concepts)} concepts; give {MOST_CONCEPTS} at most")
    for words in concepts:
        if not isinstance(words, str) or not words.strip():
            raise InputError(f"concept {words!r} is empty or no text; name a structure, such as 'nucleus'")


def _positive(value: object) -> bool:
    return isinstance(value, int | float | np.number) and 0 < value < inf


def _clicks_in(clicks: Clicks, factor: tuple[float, float], place: tuple[int, int], tile: tuple[int, int]) -> Clicks:
    """The clicks that fall into a tile, in its pixels."""
    moved = [(x * factor[0] - place[1], y * factor[1] - place[0], label) for x, y, label in clicks]
    return [(x, y, label) for x, y, label in moved if 0 <= x < tile[1] and 0 <= y < tile[0]]


def _better_zoom(concept: Concept, canvas: Canvas, first: float) -> float:
    """Zoom at which objects seen at the zoom `first` would have their usual size, where that is far off.

    For pictures of unknown scale: the size of the objects themselves tells it, as in Cellpose (Stringer et al. 2021).
    """
    areas = np.bincount(canvas.objects(concept.least).ravel())[1:] * MASK_STRIDE**2
    if len(areas) < ENOUGH_OBJECTS:
        return first
    seen = float(np.median(2 * np.sqrt(areas / np.pi)))
    ratio = concept.diameter_um / concept.scale[0] / seen
    if SAME_SCALE[0] <= ratio <= SAME_SCALE[1]:
        return first
    return round(first * float(np.clip(ratio, 1 / MAX_RATIO, MAX_RATIO)), 3)
