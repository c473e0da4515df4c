"""One conversation in chat-template form, and the two shapes of exchange that it is made of.

An exchange is a list of messages that begins with what the user says; `conversation` puts the pictures before the
first question, where the runtime shows them too. No wording here.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

Exchange = list[dict]


@dataclass(frozen=True)
class Instruction:
    """One conversation.

    task: its family. set: the set that its picture or its text is from. images: no, one or two pictures, in the order
    in which the messages show them as {"type": "image"}.
    """

    task: str
    set: str
    images: tuple[Path, ...]
    messages: list[dict]


@dataclass(frozen=True)
class Call:
    """A tool's name, the word that it is given and what it returns."""

    tool: str
    concept: str
    result: dict


def said(question: str, answer: str) -> Exchange:
    """A question and its answer in words."""
    return [_user(question), _assistant(answer)]


def called(question: str, calls: Sequence[Call], answer: str) -> Exchange:
    """A question, the tool calls made for it one after the other, and the answer in words."""
    return [_user(question), *(message for call in calls for message in _call_turns(call)), _assistant(answer)]


def conversation(task: str, name: str, images: Sequence[Path], *exchanges: Exchange) -> Instruction:
    """An instruction of family `task` from the set `name`: the exchanges after one another."""
    first, *rest = (message for exchange in exchanges for message in exchange)
    shown = {**first, "content": [*({"type": "image"} for _ in images), *first["content"]]}
    return Instruction(task, name, tuple(images), [shown, *rest])


def text_of(message: dict) -> str:
    """The words of a message, "" where it has none."""
    return "".join(part.get("text", "") for part in message["content"])


def _user(question: str) -> dict:
    return {"role": "user", "content": [{"type": "text", "text": question}]}


def _assistant(text: str) -> dict:
    return {"role": "assistant", "content": [{"type": "text", "text": text}]}


def _call_turns(call: Call) -> Exchange:
    function = {"name": call.tool, "arguments": {"concept": call.concept}}
    result = json.dumps(call.result)
    return [
        {"role": "assistant", "content": [], "tool_calls": [{"type": "function", "function": function}]},
        {"role": "tool", "name": call.tool, "content": [{"type": "text", "text": result}]},
    ]
