"""One colour per concept, the same in overlays, label legends and GeoJSON. Safe for colour-blind eyes."""

from __future__ import annotations

from collections.abc import Iterable

Colour = tuple[int, int, int]

# Okabe & Ito (2008), "Color universal design", without black; the brightest on pink and purple tissue come first.
PALETTE: tuple[Colour, ...] = (
    (240, 228, 66),  # yellow
    (86, 180, 233),  # sky blue
    (230, 159, 0),  # orange
    (0, 158, 115),  # bluish green
    (213, 94, 0),  # vermilion
    (0, 114, 178),  # blue
    (204, 121, 167),  # reddish purple
)


def concept_colours(concepts: Iterable[str]) -> dict[str, Colour]:
    """RGB of each concept, in order of first mention; the palette starts over when it is used up."""
    names = dict.fromkeys(concepts)
    return {name: PALETTE[index % len(PALETTE)] for index, name in enumerate(names)}
