"""Contact sheets of an evaluation: the best and the worst pictures, what is true and what was drawn, side by side.

Figures hide how a model fails; these sheets show it. Each panel holds the picture as it is, and again with the true
outline in blue under the drawn one in orange. Nothing is measured here; charts of figures are in `charts.py`.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from slidekick.data.files import write_atomic
from slidekick.grounding.overlay import edge_pixels
from slidekick.grounding.palette import PALETTE

# Sky blue and orange: told apart by all common kinds of colour blindness, and both lighter than a stained nucleus.
TRUTH, DRAWN = PALETTE[1], PALETTE[2]
TILE = 384  # px, the side of the square that a picture is fitted into
SHOWN = 10  # panels of a sheet
COLUMNS = 2  # panels in a row, two tiles each: a sheet of ten fits a screen's width without shrinking
LINE = 1  # px of the drawn outline; the true one is twice as wide, so that it shows where they meet
BROAD = 40  # px, the usual side of a piece in the tile from which lines are twice as wide: glands, not nuclei
TEXT, HEAD = 20, 26  # px, letters of captions and of the head; readable at half the sheet's size
GAP = 12  # px
PAPER, INK, FAINT = (255, 255, 255), (20, 20, 20), (232, 232, 232)

Render = Callable[[dict], tuple[np.ndarray, np.ndarray, np.ndarray]]


def worst_and_best(rows: Sequence[dict], render: Render, folder: Path) -> list[Path]:
    """Write `worst.png` and `best.png` into `folder`: the `SHOWN` rows of lowest and highest Dice; returns both paths.

    rows: as evaluation gives them, with concept, set, item ("set/picture id"), dice, presence and there. Rows whose
    concept is not there are left out: they have no outline to compare. Between equals: by set, item and concept.
    render: row -> pixels uint8 (H, W, 3), truth and drawn, bool or object ids (H, W); called for shown rows only.
    Without such a row nothing is written and the list is empty. Files appear whole or not at all; raises OutputError
    where they cannot.
    """
    there = [row for row in rows if row["there"]]
    worst = sorted(there, key=lambda row: (row["dice"], row["set"], row["item"], row["concept"]))[:SHOWN]
    best = sorted(there, key=lambda row: (-row["dice"], row["set"], row["item"], row["concept"]))[:SHOWN]
    paths = []
    for which, chosen in (("worst", worst), ("best", best)):
        if not chosen:
            continue
        head = f"{len(chosen)} {which} of {len(there)} by Dice"
        sheet = contact_sheet([(caption(row), *render(row)) for row in chosen], head)
        paths.append(write_atomic(Path(folder) / f"{which}.png", png_bytes(sheet)))
    return paths


def caption(row: dict) -> tuple[str, str]:
    """Two lines: concept and measures; set and picture id."""
    return f"{row['concept']}   Dice {row['dice']:.3f}   presence {row['presence']:.2f}", row["item"]


def contact_sheet(
    panels: Sequence[tuple[tuple[str, str], np.ndarray, np.ndarray, np.ndarray]], head: str
) -> np.ndarray:
    """uint8 (H, W, 3): panels of (two caption lines, pixels, truth, drawn), two in a row, under a head and a legend."""
    line = int(TEXT * 1.35)
    width, height = 2 * TILE + GAP // 2, TILE + 2 * line + GAP
    top = int(HEAD * 2.2)
    rows = -(-len(panels) // COLUMNS)
    size = (COLUMNS * width + (COLUMNS + 1) * 2 * GAP, top + rows * (height + GAP) + GAP)
    sheet = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    _legend(draw, head, size[0], top)
    font = ImageFont.load_default(TEXT)
    for index, (lines, pixels, truth, drawn) in enumerate(panels):
        x = 2 * GAP + index % COLUMNS * (width + 2 * GAP)
        y = top + index // COLUMNS * (height + GAP)
        for text, colour in zip(lines, (INK, (90, 90, 90)), strict=True):
            draw.text((x, y), fitted(text, font, width), colour, font)
            y += line
        for place, tile in enumerate(panel(pixels, truth, drawn)):
            sheet.paste(Image.fromarray(tile), (x + place * (TILE + GAP // 2), y))
    return np.asarray(sheet)


def panel(pixels: np.ndarray, truth: np.ndarray, drawn: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The picture, and the picture with both outlines: uint8 (TILE, TILE, 3) each, fitted in and centred.

    pixels: uint8 (H, W, 3); truth, drawn: bool (a region), or object ids to outline one by one (H, W). Outlines are
    drawn at the tile's own size, so that they are as wide in a large picture as in a small one.
    """
    scale = TILE / max(pixels.shape[:2])
    size = tuple(max(1, round(side * scale)) for side in pixels.shape[1::-1])
    plain = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    marked = plain.copy()
    # float32 is exact up to 2^24 labels, and what OpenCV can resize
    true, found = (
        cv2.resize(labels.astype(np.float32), size, interpolation=cv2.INTER_NEAREST) for labels in (truth, drawn)
    )
    line = 2 * LINE if _usual_side(true) >= BROAD else LINE
    marked[edge_pixels(true, 2 * line)] = TRUTH
    marked[edge_pixels(found, line)] = DRAWN
    return _centred(plain), _centred(marked)


def fitted(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """`text` cut in its middle to `width` px, where ids of pictures differ least."""
    text = text.encode("ascii", "replace").decode()  # all that Pillow's own font knows
    keep = len(text)
    while font.getlength(text) > width and keep > 5:
        keep -= 1
        text = f"{text[: keep // 2 - 1]}...{text[-(keep // 2 - 1) :]}"
    return text


def png_bytes(pixels: np.ndarray) -> bytes:
    """uint8 (H, W, 3) as a PNG file."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", optimize=True)
    return stream.getvalue()


def _usual_side(labels: np.ndarray) -> float:
    """Square root of the median area of the connected pieces, px; 0 without any. Pieces: a mask of nuclei is fine."""
    stats = cv2.connectedComponentsWithStats((labels > 0).astype(np.uint8))[2]
    areas = stats[1:, cv2.CC_STAT_AREA]
    return float(np.median(areas) ** 0.5) if len(areas) else 0.0


def _centred(tile: np.ndarray) -> np.ndarray:
    square = np.full((TILE, TILE, 3), FAINT, np.uint8)
    y, x = ((TILE - side) // 2 for side in tile.shape[:2])
    square[y : y + tile.shape[0], x : x + tile.shape[1]] = tile
    return square


def _legend(draw: ImageDraw.ImageDraw, head: str, width: int, height: int) -> None:
    """The head at the left, a sample of each line with its meaning at the right, on the middle of the strip."""
    large, small = ImageFont.load_default(HEAD), ImageFont.load_default(TEXT)
    middle, x = height // 2, width - 2 * GAP
    for text, colour in (("drawn", DRAWN), ("truth", TRUTH)):
        x -= int(small.getlength(text))
        draw.text((x, middle), text, INK, small, anchor="lm")
        x -= 2 * TEXT + GAP // 2
        draw.rectangle([x, middle - 3, x + 2 * TEXT - GAP // 2, middle + 3], colour)
        x -= 2 * GAP
    draw.text((2 * GAP, middle), fitted(head, large, x - 2 * GAP), INK, large, anchor="lm")
