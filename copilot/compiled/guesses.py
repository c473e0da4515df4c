"""Which tokens are likely to come next, told from what followed the same ones in answers that were taught: no model.

Some guesses are fed with a token whose successors are to be found anyway; those that turn out to be what the model
would have said are saved steps, the others are forgotten. What is written stays what the model says, token by token
(speculative decoding, Leviathan et al. 2023, arXiv 2211.17192; with a lookup in place of a draft model, Saxena 2023,
github.com/apoorvumang/prompt-lookup-decoding). Nothing is learnt in use, so that the same question is always worked out
in the same steps.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

import numpy as np

from slidekick.copilot.mini import GUESSES
from slidekick.data.errors import InputError, first_line
from slidekick.data.files import write_atomic

LONGEST = 4  # tokens of a context: the longest that was met tells
MOST = 5  # guesses at once: a step with five more takes about twice as long as one without
LEAST = 0.4  # share of all guesses together that would have been right
OFTEN = 3  # times that a context must have been met to be kept
START, NONE = -1, -2  # before the first token of a turn; in a file, before a shorter context

Context = tuple[int, ...]


class Guesses:
    """context of 1 to `LONGEST` tokens -> its commonest successor, and about how often it was the one."""

    def __init__(self, followed: dict[Context, tuple[int, float]] | None = None) -> None:
        self.followed = followed or {}

    @classmethod
    def of_turns(cls, turns: Iterable[Sequence[int]], often: int = OFTEN) -> Guesses:
        """What follows in turns, their end tokens included; shares as exact as a file holds them."""
        followed = _followed(([START, *turn] for turn in turns), range(1, LONGEST + 1), often)
        return cls({context: (token, float(np.float16(share))) for context, (token, share) in followed.items()})

    @classmethod
    def of_prompt(cls, ids: Sequence[int]) -> Guesses:
        """What follows in a prompt. One token alone tells too little there: answers repeat its names and numbers, not
        its order."""
        return cls(_followed([ids], range(2, LONGEST + 1), 1))

    def after(self, ids: Sequence[int], prompt: Guesses, ends: Collection[int], most: int = MOST) -> list[int]:
        """Up to `most` tokens that may follow the turn `ids` so far, none of `ends` among them. prompt: asked where
        what was taught does not tell."""
        said, sure = [START, *ids], 1.0
        made: list[int] = []
        while len(made) < most and (found := self._next(said, prompt)) is not None:
            token, share = found
            sure *= share
            if sure < LEAST or token in ends:
                break
            made.append(token)
            said.append(token)
        return made

    def _next(self, said: list[int], prompt: Guesses) -> tuple[int, float] | None:
        for length in range(min(LONGEST, len(said)), 0, -1):
            context = tuple(said[-length:])
            if (found := self.followed.get(context) or prompt.followed.get(context)) is not None:
                return found
        return None

    def save(self, folder: Path) -> Path:
        """Write `guesses.safetensors`. Raises OutputError."""
        from safetensors.numpy import save

        contexts = np.full((len(self.followed), LONGEST), NONE, np.int32)
        for row, context in zip(contexts, self.followed, strict=True):
            row[LONGEST - len(context) :] = context
        tokens, shares = zip(*self.followed.values(), strict=True) if self.followed else ((), ())
        arrays = {"context": contexts, "next": np.array(tokens, np.int32), "share": np.array(shares, np.float16)}
        return write_atomic(folder / GUESSES, save(arrays))


def load_guesses(folder: Path) -> Guesses:
    """What lies in a model's folder; none where nothing does. Raises InputError for a file that cannot be used."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    path = folder / GUESSES
    if not path.is_file():
        return Guesses()
    try:
        arrays = load_file(path)
        contexts, tokens, shares = arrays["context"], arrays["next"], arrays["share"].astype(float)
        if contexts.shape != (len(tokens), LONGEST) or shares.shape != tokens.shape or tokens.ndim != 1:
            raise ValueError("arrays of other shapes")
        rows = zip(contexts.tolist(), tokens.tolist(), shares.tolist(), strict=True)
        return Guesses({tuple(one for one in row if one != NONE): (int(token), share) for row, token, share in rows})
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path}: cannot be read ({first_line(error)}); remove it, answers stay the same without it"
        ) from error


def _followed(turns: Iterable[Sequence[int]], lengths: Sequence[int], often: int) -> dict[Context, tuple[int, float]]:
    counts: dict[Context, Counter[int]] = {}
    for turn in turns:
        for length in lengths:
            for start in range(len(turn) - length):
                counts.setdefault(tuple(turn[start : start + length]), Counter())[turn[start + length]] += 1
    told = ((context, after.most_common(1)[0], after.total()) for context, after in counts.items())
    return {context: (token, times / (met + 0.5)) for context, (token, times), met in told if met >= often}
