"""A reading held against its rivals. Words written greedily hang on how a question is put; how likely each of the
answers that exclude each other is hangs on it less. So a reading that was taught is settled among its rivals, and a
"yes" or "no" to such a reading by whether it is the likeliest: small models agree with most of what is put to them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from slidekick.copilot.confidence import Confidence
from slidekick.copilot.draft import Draft
from slidekick.copilot.messages import user_message
from slidekick.copilot.pictures import Shown
from slidekick.copilot.slide_tools import SlideToolbox
from slidekick.copilot.turn import Turn

OPEN = "What does this picture show?"  # asked in place of a question that puts an answer into the model's mouth
_YES_NO = re.compile(r"\s*(?:yes|no)\b", re.IGNORECASE)
_PRESENCE = re.compile(r"\b(?:there|any|contain\w*|present|where|many|much)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Settled:
    """text: the answer. sure: 0-1. likely: how likely each rival is."""

    text: str
    sure: float
    likely: dict[str, float]


def likely(
    engine, scale: Confidence | None, shown: Shown, asked: dict, schemas: Sequence[dict], options: Sequence[str]
) -> dict[str, float]:
    """How likely each of given answers is, as far as the confidence was fitted. shown, asked, schemas: as for an engine
    that weighs options."""
    scale = scale or Confidence()
    logits = engine.options([asked], shown, schemas, options)
    alike = engine.likeness(shown, options) if scale.likeness else None
    return {name: round(float(p), 4) for name, p in zip(options, scale.probabilities(logits, alike), strict=True)}


def settled(engine, scale: Confidence | None, draft: Draft, turn: Turn, schemas: Sequence[dict]) -> Settled | None:
    """What a turn's reading comes to among its rivals; None where it is no reading that has some, or was measured."""
    if draft.steps or not hasattr(engine, "options"):
        return None
    asked = user_message(draft.question, with_image=True, captions=draft.captions)
    if isinstance(draft.box, SlideToolbox):
        return _likeliest(_weighed(engine, draft, asked, schemas, draft.box.rivals(turn.text)))
    if scale is None:
        return None
    if _YES_NO.match(turn.text):
        return _agreed(engine, scale, draft, schemas)
    rivals = scale.rivals(turn.text)
    return _likeliest(likely(engine, scale, draft.shown, asked, schemas, rivals)) if len(rivals) > 1 else None


def _agreed(engine, scale: Confidence, draft: Draft, schemas: Sequence[dict]) -> Settled | None:
    """Yes or no to a question that names a reading: whether it is the likeliest of its rivals and of those of what the
    model says when nothing is put to it."""
    claimed = scale.named(draft.question)
    if not claimed or _PRESENCE.search(draft.question):
        return None
    asked = user_message(OPEN, with_image=True)
    *_, own = engine.turn([asked], draft.shown, schemas, calls=False)
    rivals = tuple(dict.fromkeys((*scale.rivals(claimed), *scale.rivals(own.text))))
    if len(rivals) < 2:
        return None
    odds = likely(engine, scale, draft.shown, asked, schemas, rivals)
    best = max(odds, key=odds.__getitem__)
    if best == claimed:
        return Settled("Yes.", odds[best], odds)
    return Settled(f"No: more likely {best}.", 1 - odds[claimed], odds)


def _likeliest(odds: dict[str, float]) -> Settled | None:
    if not odds:
        return None
    best = max(odds, key=odds.__getitem__)
    return Settled(best, odds[best], odds)


def _weighed(engine, draft: Draft, asked: dict, schemas: Sequence[dict], shares: dict[str, float]) -> dict[str, float]:
    """How likely each of some tissues of a slide is as the answer: the model's odds times its share of the tissue
    (a product of experts, Hinton 2002), so that what the survey did not see is not named. Empty for fewer than two."""
    if len(shares) < 2:
        return {}
    logits = engine.options([asked], draft.shown, schemas, list(shares)) + np.log([*shares.values()])
    odds = np.exp(logits - logits.max())
    return {name: round(float(p), 4) for name, p in zip(shares, odds / odds.sum(), strict=True)}
