"""What a model wrote in one turn: plain values that every engine gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Turn:
    """A finished turn. text: without end tokens. probability: mean probability that the model gave its tokens, 0–1.

    complete: False when the token budget cut it. gates: weight of each expert that spoke, by name. likelihood:
    probability of the whole turn, end token included; 0 where the engine does not tell. tokens: text and probability of
    each, without the end token; read: tokens of the prompt; none and 0 where the engine does not tell.
    """

    text: str
    probability: float
    complete: bool = True
    gates: dict[str, float] = field(default_factory=dict)
    likelihood: float = 0.0
    tokens: tuple[tuple[str, float], ...] = ()
    read: int = 0


def turn_of(text: str, kept: Sequence[float], tokens: Sequence[str], complete: bool, read: int) -> Turn:
    """A turn of its text, the probabilities of its tokens, the end token's among them, and the tokens' texts."""
    mean, product = (float(np.mean(kept)), float(np.prod(kept))) if kept else (0.0, 0.0)
    told = tuple((one, float(p)) for one, p in zip(tokens, kept, strict=False))
    return Turn(text, mean, complete, likelihood=product, tokens=told, read=read)
