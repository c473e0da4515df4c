"""What a model wrote in one turn: plain values that every engine gives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from slidekick.data.errors import InputError


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


def token_ids(encode: Callable[[str], list[int]], options: Sequence[str]) -> list[list[int]]:
    """Token ids of each option as a turn's text. Raises InputError where there is none, or one is empty."""
    if not options:
        raise InputError("there is no option to weigh; give at least one")
    ids = [encode(option) for option in options]
    if not all(ids):
        raise InputError(f"option {ids.index([]) + 1} is empty; give it words")
    return ids
