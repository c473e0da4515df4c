"""What an answer in words says: yes or no, a choice, a number, boxes, a label of a set, or open text. Fixed rules.

`PARSER` names these rules; raise it when one changes, since figures parsed differently cannot be compared. An answer
that a rule cannot read is None: it is counted, and it is wrong. The rules read the whole answer and never look for the
right word in it, so that hedging, listing and repeating win nothing. No model, and nothing is known here of the truth.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence

from slidekick.copilot.language import quantities

PARSER = "slidekick.parse/1"
GRID = 999  # boxes are written on a grid of 0–999, whatever the picture's size
MOST_DIGITS = 16  # of a side, so that a row of thousands is read as any other
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

# What may stand before an answer without changing it: "The answer is:", "Answer:", "This is", "It shows".
_LEAD = re.compile(
    r"^(?:the\s+)?(?:(?:final|correct|best|right)\s+)?(?:answer|diagnosis|label|class|option|choice)\b\s*(?:is\b)?\s*:?\s*"
    r"|^(?:this|that|it|the\s+(?:picture|image))(?:\s+(?:is|shows|represents)\b|['’]s\b)\s*:?\s*",
    re.IGNORECASE,
)
_ARTICLE = re.compile(r"^(?:an?|the)\s+", re.IGNORECASE)
_MARK = r"\(?\b{}\s*[).:]"  # "A)", "(A)", "A.", "A:"
_MARKED = re.compile(r"^\(?\s*([A-Z])\s*[).:]+\s*(.*)$", re.DOTALL)
# "... so the answer is (B)." at the end of reasoning; "the answer is A tumour" names no letter.
_CONCLUDED = re.compile(r"\banswer\s*(?:is|:)\s*\(?([A-Z])\b(?=\s*(?:[).,;:]|\n|$))")
_YES_NO_RUN = re.compile(r"^(?:(?:yes|no|or|and)\b[\s,.;:/!–-]*)+", re.IGNORECASE)
_NOTHING = re.compile(r"^(?:there\s+(?:is|are)\s+(?:no|none|zero)\b|none\b|zero\b|no\s+\w)", re.IGNORECASE)
_BOX = re.compile(r"[\[(]\s*(-?\d+(?:\.\d+)?(?:\s*,\s*-?\d+(?:\.\d+)?)*)\s*[\])]")


def plain(text: str) -> str:
    """Lower case, letters and digits, single spaces: how words are compared. "Pattern 4." -> "pattern 4"."""
    return " ".join(re.findall(r"[^\W_]+", unicodedata.normalize("NFKC", text).casefold()))


def bare(text: str) -> str:
    """The answer without marks of emphasis, quotation or a lead such as "The answer is"; "" for nothing."""
    text = re.sub(r"[*`]+", "", text).strip().strip("\"'“”‘’").strip()
    return _LEAD.sub("", text, count=1).strip()


def yes_no(text: str) -> str | None:
    """ "yes" or "no" where the answer opens with it, once, as a word: "nodule" is not no, "yes or no" is neither."""
    run = _YES_NO_RUN.match(bare(text))
    words = re.findall(r"[a-z]+", run[0].lower()) if run else []
    return words[0] if len(words) == 1 and words[0] in ("yes", "no") else None


def choice(text: str, options: Sequence[str]) -> str | None:
    """The letter of the one option that is chosen, by its letter or by its own words.

    A letter counts alone ("B", "b") or marked ("B)", "(B)", "B. because ..."), never as an article: "A tumour" is not
    choice A. Two letters, or a letter before another option's words, choose nothing.
    """
    letters = LETTERS[: len(options)]
    said = bare(text)
    by_words = {plain(option): letter for letter, option in zip(letters, options, strict=True)}
    if len(by_words) == len(options) and (own := by_words.get(_words(said)) or by_words.get(plain(said))):
        return own
    alone = re.fullmatch(r"\(?\s*([A-Za-z])\s*[).:]*", said)
    if alone:
        return alone[1].upper() if alone[1].upper() in letters else None
    if marked := _MARKED.match(said):
        return _marked(marked[1], marked[2], letters, by_words)
    concluded = set(_CONCLUDED.findall(text))
    return concluded.pop() if len(concluded) == 1 and concluded <= set(letters) else None


def _marked(letter: str, rest: str, letters: str, by_words: dict[str, str]) -> str | None:
    others = [other for other in letters if other != letter]
    if letter not in letters or by_words.get(_words(rest), letter) != letter:
        return None
    return None if any(re.search(_MARK.format(other), rest) for other in others) else letter


def number(text: str) -> float | None:
    """The one amount that the answer states without a unit: "There are 212 nuclei." -> 212.0.

    "No nuclei were found" is 0. Ranges, limits ("more than 100"), negative numbers and two different amounts are no
    number. How numbers are written is `slidekick.copilot.language.quantities`' to say.
    """
    said = bare(text)
    if re.search(r"(?:^|\s)[-−]\s*\d", said):
        return None
    found = [one for one in quantities(said) if not one.unit]
    if not found:
        return 0.0 if _NOTHING.match(said) and not re.search(r"\d", said) else None
    values = {one.value for one in found}
    return float(values.pop()) if len(values) == 1 and not any(one.bound in "<>" for one in found) else None


def boxes(text: str) -> list[tuple[int, int, int, int]] | None:
    """Boxes (x0, y0, x1, y1) as whole numbers from 0 to 999, in the order given; [] for "none" or "[]".

    One bad box (not four whole numbers, outside the grid, without area) makes the answer unreadable.
    """
    said = bare(text)
    found = [[_side(side) for side in match[1].split(",")] for match in _BOX.finditer(said)]
    if not found:
        nothing = re.sub(r"\s", "", said) in ("[]", "[[]]") or (_NOTHING.match(said) and not re.search(r"\d", said))
        return [] if nothing else None
    return [tuple(box) for box in found] if all(map(_is_box, found)) else None


def _side(text: str) -> int | float:
    """A number as it is written, leading zeros or not; one with more digits than any side has is no whole one."""
    return float(text) if "." in text or len(text.strip()) > MOST_DIGITS else int(text)


def _is_box(box: list) -> bool:
    whole = len(box) == 4 and all(isinstance(side, int) and 0 <= side <= GRID for side in box)
    return whole and box[0] < box[2] and box[1] < box[3]


def label(text: str, labels: Sequence[str]) -> str | None:
    """The label that the answer is, as `labels` spell it; case, punctuation and an article do not matter.

    The whole answer must be the label: "neutrophil or monocyte" and "not a neutrophil" are none.
    """
    known = {plain(one): one for one in labels}
    said = bare(text)
    return known.get(plain(said)) or known.get(_words(said))


def open_text(text: str) -> str | None:
    """The answer's plain words; None for an answer without any."""
    return plain(bare(text)) or None


def _words(text: str) -> str:
    return plain(_ARTICLE.sub("", text.strip()))


_READERS: dict[str, Callable] = {
    "yes_no": lambda text, _: yes_no(text),
    "choice": choice,
    "number": lambda text, _: number(text),
    "boxes": lambda text, _: boxes(text),
    "label": label,
    "text": lambda text, _: open_text(text),
}


def parse(kind: str, text: str, options: Sequence[str] = ()):
    """What `text` says, read as one of the kinds above; None where it cannot be read. options: choices or labels."""
    return _READERS[kind](text, options)
