"""What may not be learnt from: held-out pictures and questions, wherever else they stand; and what stands twice.

Pictures are compared by the hash of their pixels, so that a copy under another name, in another set or in another file
format without loss is found; texts by the hash of question and answer in lower case, letters and digits only.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from slidekick.data.items import Item
from slidekick.rl.instructions.texts import Text
from slidekick.rl.instructions.turns import Instruction, text_of


@dataclass
class Dropped:
    """How many training rows were left out, by set: `held` stand in a held-out split too, `twice` a second time."""

    held: Counter = field(default_factory=Counter)
    twice: Counter = field(default_factory=Counter)


@lru_cache(maxsize=100_000)
def pixel_hash(picture: Path | bytes) -> bytes:
    """Of the size and RGB pixels of a picture, a file or the bytes of one, whatever format they are kept in."""
    pixels = np.asarray(Image.open(io.BytesIO(picture) if isinstance(picture, bytes) else picture).convert("RGB"))
    return hashlib.sha256(str(pixels.shape).encode() + pixels.tobytes()).digest()


def text_hash(parts: Iterable[str]) -> bytes:
    """Of texts in their order, without regard to case, punctuation and spaces."""
    plain = (" ".join(re.findall(r"\w+", part.lower())) for part in parts)
    return hashlib.sha256("\n".join(plain).encode()).digest()


def unseen_items(train: Sequence[Item], held: Sequence[Item]) -> tuple[list[Item], Dropped]:
    """Training pictures that are no held-out picture, each once in its set, or once for each question of its own."""
    from tqdm import tqdm

    barred = {pixel_hash(item.image) for item in tqdm(held, desc="held-out pictures", mininterval=5)}
    kept, seen, dropped = [], set(), Dropped()
    for item in tqdm(train, desc="training pictures", mininterval=5):
        digest = pixel_hash(item.image)
        known = item.set, digest, str(item.extra.get("question"))
        if digest in barred:
            dropped.held[item.set] += 1
        elif known in seen:
            dropped.twice[item.set] += 1
        else:
            seen.add(known)
            kept.append(item)
    return kept, dropped


def barred_texts(texts: Iterable[Text]) -> set[bytes]:
    """Hashes of all that held-out rows say: their own words, and every question and answer made of them."""
    held = [text for text in texts if text.held]
    return {text_hash(text.source) for text in held} | {text_hash(form) for text in held for form in text.forms}


def unseen_texts(texts: Sequence[Text]) -> tuple[list[Text], Dropped]:
    """Training rows that can be asked and say nothing that a held-out row of any set says, each once."""
    barred, seen, kept, dropped = barred_texts(texts), set(), [], Dropped()
    for text in texts:
        if text.held or not text.forms:
            continue
        digest = text_hash(text.source)
        if digest in barred or any(text_hash(form) in barred for form in text.forms):
            dropped.held[text.set] += 1
        elif digest in seen:
            dropped.twice[text.set] += 1
        else:
            seen.add(digest)
            kept.append(text)
    return kept, dropped


def leaks(made: Sequence[Instruction], held: Sequence[Item], texts: Iterable[Text]) -> list[Instruction]:
    """Conversations that show a held-out picture or, without a picture, say what a held-out row says."""
    pictures, barred = {pixel_hash(item.image) for item in held}, barred_texts(texts)
    hashes = {path: pixel_hash(path) for path in {path for one in made for path in one.images}}
    return [
        one
        for one in made
        if any(hashes[path] in pictures for path in one.images)
        or (not one.images and text_hash((text_of(one.messages[0]), text_of(one.messages[-1]))) in barred)
    ]
