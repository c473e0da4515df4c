"""One turn as it is written, token by token, under the grammar."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from slidekick.copilot.compiled.guesses import MOST, Guesses
from slidekick.copilot.compiled.language import Said
from slidekick.copilot.grammar import TurnMatcher
from slidekick.copilot.turn import Turn, turn_of

if TYPE_CHECKING:
    from slidekick.copilot.compiled.engine import CompiledEngine


class Writing:
    """One turn as it is written: what was chosen, and how likely the model held each token.

    prompt: what guesses are made of beside what was taught, for one that is written alone: tokens that are forced or
    guessed are then fed together. Rows of a batch go one token at a time.
    """

    def __init__(self, engine: CompiledEngine, matcher: TurnMatcher, said: Said, prompt: Guesses | None = None) -> None:
        self.engine, self.matcher, self.prompt = engine, matcher, prompt
        self.ids: list[int] = []
        self.kept: list[float] = []
        self.ended = False
        self._said = said
        self._waiting: list[int] = []  # tokens fed whose probability is still to be told
        self._guessed: list[int] = []  # tokens fed behind those, which may be wrong

    def choose(self) -> list[int] | None:
        """The tokens that come next, to be fed to the model, guesses behind them; None where the turn is over."""
        ends, longest = self.engine.end_tokens, self.engine.max_new_tokens
        token = self._likeliest()
        self._keep(self._said, token)
        if token in ends:
            self.ended = True
            return None
        self.matcher.take(token)
        fed = [token]
        if self.prompt is not None:
            forced = self.matcher.forced()
            fed += forced[: next((n for n, one in enumerate(forced) if one in ends), None)]
            for one in fed[1:]:
                self.matcher.take(one)
        fed = fed[: longest - len(self.ids)]
        self.ids += fed
        self._waiting = fed[1:]
        if len(self.ids) == longest:
            return None
        if self.prompt is not None:
            most = min(MOST, longest - 1 - len(self.ids))
            self._guessed = self.engine.guesses.after(self.ids, self.prompt, ends, most)
        return fed + self._guessed

    def hear(self, said: Sequence[Said]) -> None:
        """What the model holds behind each of the tokens that `choose` gave; guesses that it would have said as well
        are taken."""
        for one, token in zip(said, self._waiting, strict=False):
            self._keep(one, token)
        taken = len(said) - 1 - len(self._guessed)
        self._said = said[taken]
        for one, after in zip(self._guessed, said[taken + 1 :], strict=True):
            if self._likeliest() != one:
                break
            self._keep(self._said, one)
            self.matcher.take(one)
            self.ids.append(one)
            self._said = after

    def _likeliest(self) -> int:
        return self._said.likeliest(self.matcher.allowed(len(self._said.logits)))

    def _keep(self, said: Said, token: int) -> None:
        self.kept.append(float(np.exp(said.log_odds([token])[0])))

    def news(self, told: str) -> str:
        """What there is to say beyond what was told; "" while a character's other bytes are still to come."""
        text = self.engine.prompts.text(self.ids)
        return text[len(told) :] if text.startswith(told) and not text.endswith("\ufffd") else ""

    def text(self) -> str:
        """All that was written."""
        return self.engine.prompts.text(self.ids).rstrip("\ufffd")

    def turn(self, read: int) -> Turn:
        """The finished turn of a prompt of `read` tokens."""
        return turn_of(
            self.text().strip(), self.kept, [self.engine.prompts.text([one]) for one in self.ids], self.ended, read
        )
