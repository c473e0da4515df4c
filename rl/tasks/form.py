"""Format and brevity, the small part that all rewards share: ended by itself, free of marks, not repeated, not long.

And loops, the one form of text that earns nothing whatever it says.
"""

from __future__ import annotations

import re
from collections import Counter

from slidekick.copilot.language import sentences
from slidekick.rl.parsing import plain

FORM = 0.1  # of every reward: enough to prefer the tidier of two right answers, too little to trade for being right
ROOM, LEAST = 2.0, 8  # times the words of a right answer, and words at least, that cost nothing
TIMES, PHRASE = 3, 40  # how often words stand in a row, or a sentence anywhere, to be a loop; words of a phrase at most
_MARK = re.compile(r"</?tool_call|<\|[^|<>]{0,40}\|>|\[/?INST\]", re.IGNORECASE)


def form(text: str, answer: str, complete: bool = True) -> float:
    """ended · clean · brevity, 0–1.

    ended: 1 where the text ended by itself. clean: 1 without control marks and without a sentence said twice. brevity:
    min(1, max(0, 2 − words / allowed)), allowed = max(`LEAST`, `ROOM` · words of the right `answer`), so that being
    twice too long costs all of it.
    """
    said = [sentence.casefold() for sentence in sentences(text)]
    clean = not _MARK.search(text) and len(set(said)) == len(said)
    return float(complete) * float(clean) * brevity(text, answer)


def loops(text: str) -> bool:
    """Whether the same words stand three times in a row, or a sentence three times anywhere. Numbers alone are none:
    neighbouring boxes share them."""
    said = Counter(sentence.casefold() for sentence in sentences(text) if re.search(r"[^\W\d_]", sentence))
    words = plain(text).split()
    return any(number >= TIMES for number in said.values()) or any(
        words[i : i + n] * TIMES == words[i : i + n * TIMES] and any(map(str.isalpha, words[i : i + n]))
        for n in range(1, min(PHRASE, len(words) // TIMES) + 1)
        for i in range(len(words) - n * TIMES + 1)
    )


def brevity(text: str, answer: str) -> float:
    """See `form`."""
    allowed = max(LEAST, ROOM * len(answer.split()))
    return min(1.0, max(0.0, 2 - len(text.split()) / allowed))
