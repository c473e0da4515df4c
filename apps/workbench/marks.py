"""Words of people and models as Markdown that shows them as they are, with marks that lead to their evidence.

The chat shows Markdown, so that a mark can be a link. Whatever else was said is no markup: every ASCII punctuation mark
is written as a character reference, which CommonMark never takes for structure (spec 0.31, 2.5) and HTML never for a
tag, so that a picture's name, a slide's metadata or a model can neither link, nor load, nor run anything.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from slidekick.copilot.answer import Answer, Claim

_MARKUP = re.compile(r"[!-/:-@\[-`{-~]")
MARK = "#mark-{}-{}"  # number of the answer, id of the evidence


def plain(text: str) -> str:
    """`text` as Markdown that shows just that."""
    lines = _MARKUP.sub(lambda match: f"&#{ord(match[0])};", text).splitlines()
    return "  \n".join(re.sub(r"^\s+", lambda match: "&nbsp;" * len(match[0]), line) for line in lines)


def marked(answer: Answer, number: int) -> str:
    """An answer's text as Markdown, each measured sentence followed by marks that lead to its evidence.

    number: of the answer in its conversation.
    """
    if not answer.claims or " ".join(claim.text for claim in answer.claims).split() != answer.text.split():
        return plain(answer.text)
    return " ".join(plain(claim.text) + _marks(claim, answer, number) for claim in answer.claims)


def _marks(claim: Claim, answer: Answer, number: int) -> str:
    placed = {item.id for item in answer.evidence if item.rle is not None}
    shown = [name for name in claim.evidence if name in placed][:1]  # one mark a sentence: it leads to one place
    told = "".join(f" [▸&#160;{name}]({MARK.format(number, name)})" for name in shown)
    return told if claim.supported else f"{told} (not backed)"


def bubble(title: str, lines: Sequence[str], status: str | None = "done") -> dict:
    """A bubble that folds away, as Gradio's chat has them."""
    metadata = {"title": plain(title), **({"status": status} if status else {})}
    return {"role": "assistant", "content": plain("\n".join(lines)), "metadata": metadata}
