"""What a model is shown where it is asked about more than one plain picture: a slide, as its tokens or as pictures.

mini reads slide tokens. Any other model is shown the thumbnail and some places at full size, as pictures of one prompt
with a line of text each; where it takes one picture only, the thumbnail alone. Which places, `slide_tools.py` says.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import TYPE_CHECKING

import numpy as np

from slidekick.data.errors import SourceError

if TYPE_CHECKING:
    import torch

MOST_PICTURES = 5  # of a slide in one prompt: with 28 px a token, as Qwen's models have it, some 5500 tokens
ALONE = "the model was shown the slide's thumbnail alone: it takes no further pictures in one prompt"


class PicturesRefused(SourceError):
    """A server took no prompt with several pictures."""


@dataclass(frozen=True)
class SlidePicture:
    """A slide as mini is shown it. pixels: its thumbnail, uint8 (H, W, 3). tokens: float32 (T, D), as many as stand for
    a picture, which a slide encoder made of its tiles."""

    pixels: np.ndarray
    tokens: torch.Tensor


@dataclass(frozen=True)
class Pictures:
    """A slide as other models are shown it. pixels: uint8 (H, W, 3) each, the thumbnail first. captions: a line of text
    for each, none where the thumbnail stands alone. places: (x, y, width, height) at level 0 of all but the first."""

    pixels: tuple[np.ndarray, ...]
    captions: tuple[str, ...] = ()
    places: tuple[tuple[int, int, int, int], ...] = ()


Shown = np.ndarray | SlidePicture | Pictures


def pixels_of(shown: Shown) -> tuple[np.ndarray, ...]:
    """The pictures that stand for what is shown, uint8 (H, W, 3) each."""
    if isinstance(shown, Pictures):
        return shown.pixels
    return (shown.pixels if isinstance(shown, SlidePicture) else shown,)


def with_pictures(messages: Sequence[dict], pictures: Sequence[np.ndarray]) -> list[dict]:
    """Chat messages with `pictures` put where their image parts stand, in order; one alone stands at each of them."""
    left = iter(pictures) if len(pictures) > 1 else repeat(pictures[0])
    return [_with_pictures(message, left) for message in messages]


def _with_pictures(message: dict, left: Iterator[np.ndarray]) -> dict:
    if not isinstance(message.get("content"), list):
        return message
    parts = [{**part, "image": next(left)} if part.get("type") == "image" else part for part in message["content"]]
    return {**message, "content": parts}


def takes_several(processor) -> bool:
    """Whether a processor and its chat template take several pictures in one message: two make a longer prompt than
    one. Costs it three small pictures."""
    picture = np.full((64, 64, 3), 200, np.uint8)

    def length(number: int) -> int:
        parts = [{"type": "image", "image": picture}] * number + [{"type": "text", "text": "?"}]
        inputs = processor.apply_chat_template(
            [{"role": "user", "content": parts}], tokenize=True, return_dict=True, return_tensors="pt"
        )
        return inputs["input_ids"].shape[1]

    try:
        return length(2) > length(1)
    except Exception:  # each refuses in its own way: ValueError, IndexError, an error of the template, ...
        return False
