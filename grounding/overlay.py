"""Findings drawn over the picture that they were found in, with a legend below it and a scale bar.

Nothing of the tissue is hidden: legend and bar stand in a strip under the picture. Nothing is measured here
beyond what the legend says.
"""

from __future__ import annotations

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from slidekick.grounding.finding import Finding
from slidekick.grounding.measure import measure
from slidekick.grounding.palette import Colour, concept_colours

FILL = 0.22  # opacity inside: colours of the stain must stay readable
LINE_SHARE = 1 / 600  # outline width as a share of the picture's shorter side, at least one pixel
TEXT_SHARE = 1 / 40  # letter height likewise
TEXT_PX = (13, 36)  # smallest and largest letters
BAR_SHARE = 0.25  # the scale bar takes at most this share of the width
BAR_STEPS_UM = [mantissa * 10**power for power in range(-1, 5) for mantissa in (1, 2, 5)]


def draw_overlay(
    pixels: np.ndarray, findings: list[Finding], mpp: tuple[float, float] | None = None, legend: bool = True
) -> np.ndarray:
    """A copy of `pixels` (uint8 (H, W, 3)) with each finding outlined and tinted in its concept's colour.

    Touching objects stay apart. legend: adds a strip below (the result is then taller) with counts or covered
    area and, where `mpp` (x, y; µm per pixel) is known, a scale bar. Returns uint8 (H + strip, W, 3) RGB.
    """
    colours = concept_colours(finding.concept for finding in findings)
    canvas = pixels.copy()
    for finding in findings:
        if finding.found:
            _paint(canvas, finding, colours[finding.concept])
    if not legend:
        return canvas
    strip = _legend(canvas.shape[1], _text_px(pixels), findings, colours, mpp)
    return np.concatenate([canvas, strip]) if strip is not None else canvas


def legend_text(finding: Finding) -> str:
    """What the legend says of a finding: a count, a share of the picture, or that it was not found."""
    if not finding.known:
        return f"{finding.concept}: not in the vocabulary"
    if not finding.found:
        return f"{finding.concept}: not found"
    measured = measure(finding, None)
    if measured.count is not None:
        return f"{finding.concept}: {measured.count}"
    share = 100 * measured.area_fraction
    return f"{finding.concept}: {'under 1' if share < 0.5 else round(share)} %"


def _paint(canvas: np.ndarray, finding: Finding, colour: Colour) -> None:
    mask = finding.mask
    tinted = canvas[mask].astype(np.float32)
    canvas[mask] = (tinted + FILL * (np.array(colour, np.float32) - tinted) + 0.5).astype(np.uint8)
    width = max(1, round(min(canvas.shape[:2]) * LINE_SHARE))
    canvas[edge_pixels(mask if finding.instances is None else finding.instances, width)] = colour


def edge_pixels(labels: np.ndarray, width: int) -> np.ndarray:
    """bool (H, W): the `width` pixels along the inside of every label's edge; the picture's own border is none.

    labels: bool or object ids (H, W), 0 = none.
    """
    labels = labels.astype(np.float32)  # exact up to 2^24 labels; what OpenCV can erode
    kernel = cv2.getStructuringElement(cv2.MORPH_CROSS, (2 * width + 1, 2 * width + 1))
    lowest, highest = cv2.erode(labels, kernel), cv2.dilate(labels, kernel)
    return (labels > 0) & (lowest != highest)


def _text_px(pixels: np.ndarray) -> int:
    return int(np.clip(min(pixels.shape[:2]) * TEXT_SHARE, *TEXT_PX))


def _legend(
    width: int, letter: int, findings: list[Finding], colours: dict[str, Colour], mpp: tuple[float, float] | None
) -> np.ndarray | None:
    """uint8 (strip, width, 3) on white, or None where there is nothing to say. Entries wrap to the width."""
    font = ImageFont.load_default(letter)
    said = [legend_text(finding).encode("ascii", "replace").decode() for finding in findings]  # all the font knows
    entries = [(text, colours[finding.concept]) for text, finding in zip(said, findings, strict=True)]
    bar = _bar(width, mpp) if mpp else None
    gap, line = letter // 2, int(letter * 1.7)
    sizes = [letter + gap + int(font.getlength(text)) for text, _ in entries]
    if bar:
        sizes.append(max(bar[0], int(font.getlength(bar[1]))))
    if not sizes:
        return None
    places, x, y = [], gap, 0
    for size in sizes:
        if x > gap and x + size > width - gap:
            x, y = gap, y + line
        places.append((x, y))
        x += size + 3 * gap
    strip = Image.new("RGB", (width, y + line + gap), "white")
    draw = ImageDraw.Draw(strip)
    for (text, colour), (x, y) in zip(entries, places, strict=False):
        top = y + gap
        draw.rectangle([x, top, x + letter - 1, top + letter - 1], fill=colour)
        draw.text((x + letter + gap, top + letter / 2), text, "black", font, anchor="lm")
    if bar:
        x, y = places[-1]
        draw.text((x, y + gap + letter * 0.4), bar[1], "black", font, anchor="lm")
        thick = max(2, letter // 6)
        draw.rectangle([x, y + line - thick + 1, x + bar[0] - 1, y + line], fill="black")
    return np.asarray(strip)


def _bar(width: int, mpp: tuple[float, float]) -> tuple[int, str] | None:
    """Length in pixels and label of the longest round bar that fits; None where not even the shortest does."""
    fitting = [um for um in BAR_STEPS_UM if 1 <= um / mpp[0] <= width * BAR_SHARE]
    if not fitting:
        return None
    um = fitting[-1]
    return round(um / mpp[0]), f"{um / 1000:g} mm" if um >= 1000 else f"{um:g} um"
