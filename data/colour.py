"""Colours as a scanner's ICC profile means them, on request: sRGB, which looks alike on any screen.

Models are taught on the numbers that lie in files, so nothing is converted unless it is asked for. Little CMS does the
work (Pillow's ImageCms), with the intent that the profile itself names, as OpenSlide recommends.
"""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageCms

from slidekick.data.errors import InputError

LARGEST_PROFILE = 64 * 2**20  # bytes; scanners' own have 0.01 to 2 million


def srgb_from(icc: bytes, source: str) -> Callable[[np.ndarray], np.ndarray]:
    """What turns uint8 (H, W, 3) RGB pixels under the profile `icc` into sRGB of the same shape; threads may share it.

    source: the file's name, for messages. Raises InputError for a profile that is damaged or not of RGB colours.
    """
    space = ""
    try:
        if len(icc) <= LARGEST_PROFILE:
            profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
            space = profile.profile.xcolor_space.strip()
            if space == "RGB":
                intent = ImageCms.getDefaultIntent(profile)
                transform = ImageCms.buildTransform(profile, ImageCms.createProfile("sRGB"), "RGB", "RGB", intent)
                return lambda pixels: np.asarray(ImageCms.applyTransform(Image.fromarray(pixels), transform))
    except (ImageCms.PyCMSError, OSError, TypeError, ValueError) as error:
        raise InputError(_refused(source, "is damaged")) from error
    raise InputError(_refused(source, f"is of {space[:8]!r} colours" if space else "is damaged"))


def _refused(source: str, what: str) -> str:
    return f"{source}: its colour profile {what} and cannot be applied; read it without (no --icc)"
