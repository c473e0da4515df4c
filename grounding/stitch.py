"""Segmentation of whole slides: tile by tile, objects whole across the seams, in memory that does not grow with them.

First every tile with tissue is looked at, by several processes where wanted, and kept on disk (`tile_store.py`); then
the pieces of each concept's mask are found (`components.py`), told apart (`instances.py`) and written one by one. The
tiles lie where they lie whoever looks at them, and all that follows is counted in whole numbers: the same slide gives
the same bytes, in one go or in many, by one worker or by ten.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from scipy import ndimage

from slidekick.data.errors import InputError
from slidekick.data.files import check_writable, write_atomic
from slidekick.data.slide import Region, Slide
from slidekick.data.tissue import TissueMask, tissue_mask
from slidekick.grounding.components import Borders, Chunk, Scan
from slidekick.grounding.export import Place, area_numbers, object_numbers
from slidekick.grounding.instances import grow_components
from slidekick.grounding.label_pyramid import LabelCanvas
from slidekick.grounding.looking import Look, Progress, kept_looks, look_at_all
from slidekick.grounding.outline import Polygon, trace
from slidekick.grounding.segmentor import Segmentor, zoom_for
from slidekick.grounding.sizes import MASK_STRIDE
from slidekick.grounding.slide_output import slide_output
from slidekick.grounding.tile_store import SlideTiling, TileStore
from slidekick.grounding.tiles import OVERLAP, sigmoid
from slidekick.grounding.vocabulary import Concept

SCHEMA = "slidekick.slide-segment/1"
OBJECT = "object"


@dataclass
class Extent:
    """One concept on a slide, or on one piece of its tissue.

    tissue_um2: what it is a share of. count: objects, or pieces of a region. share: of the tissue, 0–1; as objects may
    reach over the tissue's edge it is 1 at most. density_per_mm2: objects per mm² of tissue; diameter: mean of circles
    as large; both None for regions. box: of the piece, (x, y, width, height) in level-0 pixels.
    """

    tissue_um2: float
    box: tuple[int, int, int, int]
    count: int = 0
    area_um2: float = 0.0
    share: float = 0.0
    density_per_mm2: float | None = None
    mean_diameter_um: float | None = None


@dataclass
class SlideFinding:
    """What was found of one concept on a slide.

    concept: the vocabulary's name, or the words where they are unknown. kind: "object" or "region". presence:
    probability in the tile that shows it best, 0 where no tissue was looked at. mpp: µm per pixel looked at. whole:
    the slide; pieces: each connected piece of its tissue, by its first pixel.
    """

    concept: str
    prompt: str
    known: bool = True
    nearest: str | None = None
    kind: str = OBJECT
    presence: float = 0.0
    mpp: float | None = None
    whole: Extent | None = None
    pieces: list[Extent] = field(default_factory=list)

    @property
    def found(self) -> bool:
        """Whether any of it was drawn."""
        return self.whole is not None and self.whole.count > 0

    def to_dict(self) -> dict:
        """JSON-ready form."""
        return asdict(self) | {"found": self.found}


@dataclass
class SlideFindings:
    """findings: one for each of the words, in their order. files: what each is -> its path. tiles: looked at."""

    source: str
    findings: list[SlideFinding]
    files: dict[str, Path]
    tiles: int

    def to_dict(self) -> dict:
        """JSON-ready form; files by their names."""
        files = {kind: path.name for kind, path in self.files.items()}
        findings = [finding.to_dict() for finding in self.findings]
        return {"schema": SCHEMA, "slide": self.source, "tiles": self.tiles, "findings": findings, "files": files}


def segment_slide(
    slide: Slide,
    segmentor: Segmentor,
    concepts: Sequence[str],
    out: Path,
    *,
    workers: int = 1,
    load: Callable[[], Segmentor] | None = None,
    progress: Progress = lambda what, done, total: None,
    tell: Callable[[str], None] = lambda line: None,
) -> SlideFindings:
    """Look for each of `concepts` (free words) on all of a slide's tissue and write what is found into `out`.

    Writes STEM.geojson (QuPath; an object is a detection, each connected piece of a region an annotation), the same
    features one a line in STEM.ndjson, STEM.CONCEPT.labels.ome.tif for each concept found, and STEM.statistics.json
    and .csv. What tiles show is kept in STEM.tiles until all is written: a run that was stopped goes on there.

    workers: processes that look at tiles, one thread each. load: gives a worker its segmentor, where it does not come
    from a folder of weights; must be importable. progress: told ("tiles" or a concept, done, total). tell: told what
    is worth a line. Raises InputError for a slide without scale, words that are none and a tile that cannot be read;
    OutputError where `out` cannot be written or another run is at work there.
    """
    if slide.mpp is None:
        raise InputError(f"{slide.source}: no scale (µm per pixel) in the file; state it with --mpp")
    if isinstance(concepts, str) or not concepts or not all(isinstance(one, str) and one.strip() for one in concepts):
        raise InputError(f"concepts are {concepts!r}; give a list of words, such as ['nucleus']")
    if workers < 1:
        raise InputError(f"{workers} workers; give 1 or more")
    if workers > 1 and load is None and segmentor.weights is None:
        raise InputError("a segmentor that comes from no folder cannot be loaded by workers; give load, or one worker")
    if not segmentor.network.config.knows_words:
        raise InputError(f"{segmentor.weights}: knows no words, and a whole slide is looked at by words; give another")
    out, stem = check_writable(out), Path(slide.source).stem
    meant = [segmentor.vocabulary.find(words) for words in concepts]
    tissue = tissue_mask(slide)
    with kept_looks(out / f"{stem}.tiles", _looks(slide, segmentor, meant, tissue), slide, segmentor, tell) as looks:
        look_at_all(looks, slide, segmentor, workers, load, progress, tell)
        findings = [_blank(words, concept, segmentor) for words, concept in zip(concepts, meant, strict=True)]
        first: dict[str, SlideFinding] = {}
        for finding in findings:
            if finding.known:
                first.setdefault(finding.concept, finding)
        with _stores(looks) as stores, slide_output(out, stem, slide, list(first)) as output:
            for finding in first.values():
                concept, store, index = stores[finding.concept]
                _draw(finding, concept, store, index, segmentor, slide, tissue, output, progress)
        for number, finding in enumerate(findings):
            if finding.known and finding is not first[finding.concept]:  # asked for twice in other words
                findings[number] = SlideFinding(**{**vars(first[finding.concept]), "prompt": finding.prompt})
        result = SlideFindings(slide.source, findings, output.files, sum(len(look.tiles) for look in looks))
        output.files["statistics"] = out / f"{stem}.statistics.json"
        output.files["table"] = write_atomic(out / f"{stem}.statistics.csv", _table(findings))
        write_atomic(output.files["statistics"], json.dumps(result.to_dict(), indent=1))
    return result


def _looks(slide: Slide, segmentor: Segmentor, meant: list[Concept | None], tissue: TissueMask) -> list[Look]:
    """One for each scale that is looked at; concepts that share it share its tiles."""
    groups: dict[SlideTiling, list[Concept]] = {}
    for concept in dict.fromkeys(concept for concept in meant if concept is not None):
        tiling = SlideTiling.over(slide, zoom_for(concept, slide.mpp, max(slide.dimensions)))
        groups.setdefault(tiling, []).append(concept)
    return [
        Look(tiling, concepts, [tile for tile in range(tiling.number) if tissue.share_in(tiling.region(tile)) > 0])
        for tiling, concepts in groups.items()
    ]


@contextlib.contextmanager
def _stores(looks: list[Look]) -> Iterator[dict[str, tuple[Concept, TileStore, int]]]:
    """Of each concept by name: itself, the store of its tiles and its place in that; a look's logs are read once."""
    with contextlib.ExitStack() as stack:
        found = {}
        for look in looks:
            store = stack.enter_context(contextlib.closing(look.store()))
            found |= {concept.name: (concept, store, index) for index, concept in enumerate(look.concepts)}
        yield found


def _blank(words: str, concept: Concept | None, segmentor: Segmentor) -> SlideFinding:
    if concept is None:
        nearest = segmentor.vocabulary.nearest(words) if segmentor.vocabulary.concepts else None
        return SlideFinding(words, words, known=False, nearest=nearest)
    return SlideFinding(concept.name, words, kind=concept.kind)


def _draw(finding, concept, store, index, segmentor, slide, tissue, output, progress) -> None:
    """Find, write and measure one concept; what is asked of the store is its `index`-th."""
    tiling = store.tiling
    px = tiling.unit / OVERLAP  # level-0 pixels of a pixel looked at
    finding.mpp = px * (slide.mpp[0] * slide.mpp[1]) ** 0.5
    best = np.nanmax(store.presence[:, index]) if store.done().any() else None
    if best is not None:
        finding.presence = float(sigmoid(segmentor.vocabulary.calibration.presence * best))
    tally = _Tally(slide, tissue, concept.kind, finding.mpp)
    scale = 1 if concept.kind == OBJECT else MASK_STRIDE  # px of a pixel of the label picture
    place = Place(Region(0, 0, *slide.dimensions), (px * scale, px * scale), (finding.mpp, finding.mpp))
    shape = tuple(-(-side * OVERLAP // (tiling.unit * scale)) for side in (tiling.height, tiling.width))
    said = {"Presence probability (0-1)": finding.presence}
    draw = _objects if concept.kind == OBJECT else _regions
    with LabelCanvas(shape, output.folder) as canvas:
        numbers = array("I")

        def read(rows: slice, columns: slice) -> np.ndarray:
            progress(concept.name, rows.start, tiling.shape[0])
            return store.window(index, rows, columns)[0]

        scan = Scan(read, tiling.shape, lambda rows, columns: store.shows(index, rows, columns))
        drawn = draw(scan, concept, store, index, canvas, numbers, tally, place)
        for number, (polygons, measured, score) in enumerate(drawn, 1):
            measured = measured | {"Mean probability (0-1)": score} | said
            kind = "detection" if concept.kind == OBJECT else "annotation"
            output.add(finding.concept, kind, polygons, place, measured, number)
        finding.whole, finding.pieces = tally.extents()
        if finding.found:
            lookup = int if concept.kind == OBJECT else numbers.__getitem__
            output.labels(finding.concept, canvas, finding.mpp * scale, lookup)
    progress(concept.name, tiling.shape[0], tiling.shape[0])


Drawn = tuple[list[Polygon], dict[str, float], float]  # polygons in pixels of the label picture, measurements, score


def _objects(scan: Scan, concept, store: TileStore, index: int, canvas, numbers, tally, place) -> Iterator[Drawn]:
    """Each object once its piece of the mask is whole."""
    number, whole = 0, store.tiling.shape
    read = lambda rows, columns: store.window(index, rows, columns)  # noqa: E731
    for grown in grow_components(scan.components(), scan, read, whole, concept.least):
        height, width = (side - at for side, at in zip(canvas.shape, grown.corner, strict=True))
        mask = grown.mask[:height, :width]  # the last cells may reach beyond the slide
        if not mask.any():
            continue
        number += 1
        canvas.add(number, grown.corner, mask)
        ys, xs = np.nonzero(mask)
        middle = ys.mean() + 0.5 + grown.corner[0], xs.mean() + 0.5 + grown.corner[1]
        tally.add_object(len(ys), middle[1] * place.downsample[0], middle[0] * place.downsample[1])
        polygons = [[ring + grown.corner[::-1] for ring in polygon] for polygon in trace(mask)]
        yield polygons, object_numbers(len(ys), place.mpp), grown.score


def _regions(scan: Scan, concept, store: TileStore, index: int, canvas, numbers, tally, place) -> Iterator[Drawn]:
    """Each connected piece, from what was noted of its parts in the chunks; those under `least` cells are left out."""
    borders = Borders()
    noted: dict[int, tuple[float, np.ndarray]] = {}  # piece of a chunk -> sum of drawn, cells on each tissue piece

    def visit(chunk: Chunk) -> None:
        borders.add(chunk)
        on = tally.piece_at(chunk.rows, chunk.columns, place.downsample)
        most = chunk.labels.max() + 1
        sums = np.bincount(chunk.labels.ravel(), chunk.drawn.ravel(), most)
        cells = np.bincount((chunk.labels * tally.number + on).ravel(), minlength=most * tally.number)
        for label, box in enumerate(ndimage.find_objects(chunk.labels), 1):
            piece = chunk.first + label - 1
            noted[piece] = sums[label], cells[label * tally.number : (label + 1) * tally.number]
            corner = chunk.rows.start + box[0].start, chunk.columns.start + box[1].start
            canvas.add(piece, corner, chunk.labels[box] == label)
            numbers.append(0)

    number = 0
    for component in scan.components(visit):
        polygon = borders.take(component)
        parts = [noted.pop(piece) for piece in component.pieces]
        if component.area < concept.least:
            continue
        number += 1
        for piece in component.pieces:
            numbers[piece] = number
        tally.add_region(np.sum([cells for _, cells in parts], axis=0) * MASK_STRIDE**2)
        score = sum(drawn for drawn, _ in parts) / component.area
        yield [polygon], area_numbers(component.area * MASK_STRIDE**2, place.mpp), score


class _Tally:
    """Counts and areas of one concept, by piece of tissue; what lies beside the tissue counts to the nearest piece."""

    def __init__(self, slide: Slide, tissue: TissueMask, kind: str, mpp: float) -> None:
        self._scale, self._kind, self._mpp = tissue.scale, kind, mpp
        labels, number = ndimage.label(tissue.mask, np.ones((3, 3)))
        self.number = max(number, 1)
        self._piece = np.zeros(labels.shape, np.int32)
        if number:
            near = ndimage.distance_transform_edt(labels == 0, return_distances=False, return_indices=True)
            self._piece = labels[tuple(near)] - 1
        um2 = slide.mpp[0] * slide.mpp[1] * tissue.scale[0] * tissue.scale[1]
        self._tissue = [int(size) * um2 for size in np.bincount(labels.ravel())[1:]] or [0.0]
        self._slide = slide.dimensions
        self._boxes = [self._box(box) for box in ndimage.find_objects(labels)] or [(0, 0, *slide.dimensions)]
        self._count, self._area = np.zeros(self.number, int), np.zeros(self.number)
        self._diameters = np.zeros(self.number)

    def piece_at(self, rows: slice, columns: slice, cell: tuple[float, float]) -> np.ndarray:
        """int32 (h, w): the piece of tissue that each cell of a window lies on or nearest to."""
        at = [
            np.minimum(((np.arange(cells.start, cells.stop) + 0.5) * side / scale).astype(int), length - 1)
            for cells, side, scale, length in zip(
                (rows, columns), cell[::-1], self._scale[::-1], self._piece.shape, strict=True
            )
        ]
        return self._piece[np.ix_(*at)]

    def add_object(self, area_px: int, x: float, y: float) -> None:
        """One object with its middle at x, y (level-0 pixels)."""
        height, width = self._piece.shape
        piece = self._piece[min(int(y / self._scale[1]), height - 1), min(int(x / self._scale[0]), width - 1)]
        self._count[piece] += 1
        self._area[piece] += area_px
        self._diameters[piece] += 2 * (area_px / np.pi) ** 0.5

    def add_region(self, areas_px: np.ndarray) -> None:
        """One piece of a region, with its area on each piece of tissue; it counts where most of it lies."""
        self._count[int(areas_px.argmax())] += 1
        self._area += areas_px

    def extents(self) -> tuple[Extent, list[Extent]]:
        """Of the slide, and of each piece of its tissue."""
        rows = zip(self._tissue, self._boxes, self._count, self._area, self._diameters, strict=True)
        pieces = [self._extent(*row) for row in rows]
        totals = self._count.sum(), self._area.sum(), self._diameters.sum()
        return self._extent(sum(self._tissue), (0, 0, *self._slide), *totals), pieces

    def _extent(self, tissue_um2: float, box, count, area_px, diameters) -> Extent:
        area = float(area_px) * self._mpp**2
        extent = Extent(tissue_um2, box, int(count), area, min(1.0, area / tissue_um2) if tissue_um2 else 0.0)
        if self._kind == OBJECT:
            extent.density_per_mm2 = extent.count / (tissue_um2 / 1e6) if tissue_um2 else None
            extent.mean_diameter_um = float(diameters) / extent.count * self._mpp if extent.count else None
        return extent

    def _box(self, box: tuple[slice, slice]) -> tuple[int, int, int, int]:
        left, top = (int(cells.start * scale) for cells, scale in zip(box[::-1], self._scale, strict=True))
        right, bottom = (
            min(side, int(np.ceil(cells.stop * scale)))
            for cells, scale, side in zip(box[::-1], self._scale, self._slide, strict=True)
        )
        return left, top, right - left, bottom - top


def _table(findings: list[SlideFinding]) -> str:
    """A row for each concept on the slide and on each piece of tissue; every column with its unit."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(
        ["concept", "piece", "x px", "y px", "width px", "height px", "tissue µm²", "count", "area µm²",
         "share of tissue", "density /mm²", "mean diameter µm", "presence"]
    )  # fmt: skip
    for finding in findings:
        extents = [finding.whole, *finding.pieces] if finding.whole else []
        for number, one in enumerate(extents):
            cells = (one.tissue_um2, one.count, one.area_um2, one.share, one.density_per_mm2, one.mean_diameter_um)
            rounded = ["" if value is None else round(value, 4) for value in cells]
            name = f"piece {number}" if number else "slide"
            writer.writerow([finding.concept, name, *one.box, *rounded, round(finding.presence, 4)])
    return stream.getvalue()
