"""Questions, answers and tool steps as the messages of a chat template."""

from __future__ import annotations

import json
from collections.abc import Sequence

from slidekick.copilot.answer import Answer, Step


def user_message(question: str, *, with_image: bool, captions: Sequence[str] = ()) -> dict:
    """A question; the picture before it where it is shown with it. captions: where several are, a line before each."""
    parts, line = [{"type": "image"}] if with_image and not captions else [], ""
    for caption in captions:
        parts += [{"type": "text", "text": f"{line}{caption}\n"}, {"type": "image"}]
        line = "\n"
    return {"role": "user", "content": [*parts, {"type": "text", "text": f"{line}{question}"}]}


def history_messages(history: Sequence[Answer], captions: Sequence[str] = ()) -> list[dict]:
    """Earlier answers as turns; the picture, or those of `captions`, stand once, in the first question shown."""
    messages = []
    for i, answer in enumerate(history):
        messages.append(user_message(answer.question, with_image=i == 0, captions=() if i else captions))
        for step in answer.steps:
            messages += step_messages(step)
        messages.append({"role": "assistant", "content": [{"type": "text", "text": answer.text}]})
    return messages


def step_messages(step: Step) -> list[dict]:
    """A tool call and its result."""
    call = {"type": "function", "function": {"name": step.name, "arguments": step.arguments}}
    content = json.dumps(step.result, ensure_ascii=False)
    return [
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "name": step.name, "content": content},
    ]


def questions(messages: Sequence[dict]) -> list[str]:
    """The text of each question asked, in their order."""
    asked = [message["content"] for message in messages if message["role"] == "user"]
    parts = [one if isinstance(one, list) else [{"type": "text", "text": one}] for one in asked]
    return [" ".join(part["text"] for part in some if part["type"] == "text") for some in parts]
