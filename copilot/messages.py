"""Questions, answers and tool steps as the messages of a chat template."""

from __future__ import annotations

import json
from collections.abc import Sequence

from slidekick.copilot.answer import Answer, Step


def user_message(question: str, *, with_image: bool) -> dict:
    """A question; the picture before it where it is shown with it."""
    image = [{"type": "image"}] if with_image else []
    return {"role": "user", "content": [*image, {"type": "text", "text": question}]}


def history_messages(history: Sequence[Answer]) -> list[dict]:
    """Earlier answers as turns; the picture stands once, in the first question shown."""
    messages = []
    for i, answer in enumerate(history):
        messages.append(user_message(answer.question, with_image=i == 0))
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
