"""Answers as OpenAI's clients read them: whole completions, and chunks of a stream.

The copilot's own answer, with evidence, claims, steps and confidence, stands beside as `slidekick` (docs/serving.md);
clients that do not know the key pass over it.
"""

from __future__ import annotations

import json
import math
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field

from slidekick.copilot.answer import Answer
from slidekick.copilot.draft import Event
from slidekick.copilot.grammar import CallError, parse_turn
from slidekick.copilot.turn import Turn

LEAST = 1e-12  # probability below which a logarithm says nothing more


@dataclass(frozen=True)
class Reply:
    """What is told of one request. model: as it was asked for."""

    model: str
    logprobs: bool = False
    id: str = field(default_factory=lambda: f"chatcmpl-{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, last: Event, turns: Sequence[Turn]) -> dict:
        """The completion of an answer or a turn."""
        message, finish, logprobs = self._said(last, turns)
        choice = {"index": 0, "message": message, "finish_reason": finish, "logprobs": logprobs}
        told = {**self._head("chat.completion"), "choices": [choice], "usage": usage(turns)}
        return told | extra(last)

    def chunks(self, event: Event, turns: Sequence[Turn], spoken: bool) -> Iterator[dict]:
        """What a stream says of an event. spoken: whether the turn's text was passed on already.

        The copilot's text comes once it was checked against what was measured, since a stream cannot take back what it
        said; its steps come as they are taken.
        """
        if event.kind in ("tool_start", "tool_end"):
            yield self._chunk({}) | {"slidekick": {"event": event.kind, "step": asdict(event.step)}}
        elif event.kind == "text":
            yield self._chunk({"content": event.text})
        elif event.kind in ("answer", "turn"):
            message, finish, logprobs = self._said(event, turns)
            if calls := message.get("tool_calls"):
                yield self._chunk({"tool_calls": [{"index": 0, **calls[0]}]})
            elif not spoken or logprobs:
                yield self._chunk({"content": "" if spoken else message["content"]}, logprobs=logprobs)
            yield self._chunk({}, finish) | extra(event)

    def first(self) -> dict:
        """The chunk that begins a stream."""
        return self._chunk({"role": "assistant", "content": ""})

    def counted(self, turns: Sequence[Turn]) -> dict:
        """The chunk that counts tokens."""
        return {**self._head("chat.completion.chunk"), "choices": [], "usage": usage(turns)}

    def _head(self, kind: str) -> dict:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}

    def _chunk(self, delta: dict, finish: str | None = None, logprobs: dict | None = None) -> dict:
        choice = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": logprobs}
        return {**self._head("chat.completion.chunk"), "choices": [choice]}

    def _said(self, last: Event, turns: Sequence[Turn]) -> tuple[dict, str, dict | None]:
        """Message, reason of the end, and the tokens' log-probabilities where they are asked for and the message's."""
        turn = last.turn or (turns[-1] if turns else None)
        text = last.answer.text if last.answer else turn.text
        told = logs(turn) if self.logprobs and turn is not None and turn.text == text else None
        call = None if last.answer else _call(text)
        if call is not None:
            return {"role": "assistant", "content": None, "tool_calls": [call]}, "tool_calls", told
        cut = turn is not None and turn.text == text and not turn.complete
        return {"role": "assistant", "content": text}, "length" if cut else "stop", told


def extra(last: Event) -> dict:
    """The copilot's own answer, or who spoke in a turn by itself."""
    if isinstance(last.answer, Answer):
        return {"slidekick": last.answer.to_dict()}
    return {"slidekick": {"gates": last.turn.gates}} if last.turn and last.turn.gates else {}


def usage(turns: Sequence[Turn]) -> dict[str, int]:
    """Tokens read and written in all turns of an answer."""
    read, written = sum(turn.read for turn in turns), sum(len(turn.tokens) for turn in turns)
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}


def logs(turn: Turn) -> dict:
    """A turn's tokens with the logarithms of their probabilities; no alternatives are kept."""
    return {
        "content": [
            {
                "token": text,
                "logprob": math.log(max(p, LEAST)),
                "bytes": None if "\ufffd" in text else list(text.encode()),  # a part of a character
                "top_logprobs": [],
            }
            for text, p in turn.tokens
        ],
        "refusal": None,
    }


def sse(data: dict | str) -> str:
    """One event of a stream."""
    return f"data: {data if isinstance(data, str) else json.dumps(data, ensure_ascii=False)}\n\n"


def _call(text: str) -> dict | None:
    try:
        call = parse_turn(text)
    except CallError:
        return None
    if call is None:
        return None
    function = {"name": call.name, "arguments": json.dumps(call.arguments, ensure_ascii=False)}
    return {"id": f"call_{uuid.uuid4().hex[:24]}", "type": "function", "function": function}
