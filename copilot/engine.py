"""The interface of engines: one assistant turn from messages, a picture and tools.

An engine writes text; it runs no tool and judges no answer. mini has two: compiled for CPUs (`compiled/engine.py`), and
torch's, the reference, which serves every Hugging Face image-text-to-text model (`torch_engine.py`). A server's model
is the third (`endpoint.py`). What people typed is encoded as plain text, so it can never become an image or control
token.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from slidekick.copilot.pictures import Shown
from slidekick.copilot.turn import Turn

# The longest call the grammar admits is 265 tokens (48 letters of four bytes, a token each, and the JSON
# around them), so that no call is ever cut; as text it is some 200 words, longer than an answer should be.
MAX_NEW_TOKENS = 272
SLIDE = "slide"  # the expert that speaks about slides
MAX_HISTORY = 4  # earlier answers before a question: small models lose the question behind more


class Engine(Protocol):
    """What the copilot needs of a model. history: how many earlier answers it may be shown before a question.

    An engine may also have `turns` (several first turns at once), `options` (given answers weighed) and `likeness` (how
    alike picture and answers are), as `TorchEngine` has; they are used where they are. So are `pictures`, how many one
    prompt may show of a slide (else 1), `reads_slides`, whether it is shown a slide's tokens in their place,
    `speakers`, the experts that `turn` and `turns` take by name, `fixed_tools`, whether it can call the built-in tools
    alone, and `packages`, names of those that compute, for `Answer.versions`.
    """

    name: str
    history: int

    def turn(
        self, messages: Sequence[dict], image: Shown, tools: Sequence[dict], *, calls: bool = True
    ) -> Iterator[str | Turn]:
        """Write one assistant turn: pieces of text as they come, then the finished `Turn`, last and once.

        messages: chat messages; `{"type": "image"}` parts stand for `image`, uint8 (H, W, 3) RGB, for the `Pictures` of
        a slide in their order, or for a `SlidePicture` where the engine reads slides. tools: JSON schemas. calls: False
        when the turn must be text, with the tools still described to the model.
        """
        ...
