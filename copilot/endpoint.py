"""A model behind an OpenAI-compatible server (vLLM, llama.cpp, a hosted one) as an engine: `http://host/v1#model`.

Pictures travel as PNG data URIs, tools as JSON schemas, calls come back as the grammar writes them. The server
decodes as it likes: what is no call that parses is text, which `parse_turn` decides. Needs the `endpoint` extra. The
key is read from OPENAI_API_KEY and never shown.
"""

from __future__ import annotations

import base64
import io
import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from slidekick.copilot.engine import MAX_HISTORY, MAX_NEW_TOKENS
from slidekick.copilot.grammar import ToolCall
from slidekick.copilot.pictures import MOST_PICTURES, PicturesRefused, Shown, pixels_of, with_pictures
from slidekick.copilot.turn import Turn
from slidekick.data.errors import InputError, SourceError

AT_ONCE = 8  # questions on their way at a time; servers batch what arrives together
TIMEOUT_S = 300.0
REFUSALS = (400, 413, 422)  # statuses of a prompt that the server does not take, such as one with several pictures
NO_KEY = "none"  # servers of one's own want a key to be there and do not look at it


def is_endpoint(name: str) -> bool:
    """Whether a model's name is the address of a server."""
    return name.startswith(("http://", "https://"))


class EndpointEngine:
    """`Engine` over chat completions.

    address: "http(s)://host/v1#model". Turns come in one piece. `Turn.probability` is 0.0 where the server tells none.
    pictures: how many one prompt may show of a slide; 1 once the server has refused more.
    Raises InputError for an address without a model, or without the `openai` package.
    """

    history = MAX_HISTORY

    def __init__(self, address: str, max_new_tokens: int = MAX_NEW_TOKENS) -> None:
        base, _, self.name = address.partition("#")
        if not self.name:
            raise InputError(f"{address}: names no model; write http://host/v1#model")
        try:
            from openai import OpenAI
        except ImportError as error:
            raise InputError("openai is not installed; pip install 'slidekick[endpoint]' brings it") from error
        self.max_new_tokens, self.base, self.pictures = max_new_tokens, base, MOST_PICTURES
        self._client = OpenAI(base_url=base, api_key=os.environ.get("OPENAI_API_KEY") or NO_KEY, timeout=TIMEOUT_S)

    def turn(
        self, messages: Sequence[dict], image: Shown, tools: Sequence[dict], *, calls: bool = True
    ) -> Iterator[str | Turn]:
        """See `Engine.turn`. Raises SourceError where the server cannot be reached or refuses; it is `PicturesRefused`
        where that may be because there are several."""
        turn = self._ask(messages, image, tools, calls)
        if turn.text:
            yield turn.text
        yield turn

    def turns(
        self,
        asked: Sequence[tuple[Sequence[dict], Shown]],
        tools: Sequence[dict],
        calls: Sequence[bool] | None = None,
    ) -> list[Turn]:
        """One turn for each (messages, image), several on their way at a time. calls: as `TorchEngine.turns`."""
        allowed = [True] * len(asked) if calls is None else calls
        with ThreadPoolExecutor(AT_ONCE) as pool:
            return list(pool.map(lambda one, may: self._ask(*one, tools, may), asked, allowed))

    def _ask(self, messages: Sequence[dict], image: Shown, tools: Sequence[dict], calls: bool) -> Turn:
        from openai import OpenAIError

        offered = {"tools": list(tools), "tool_choice": "auto" if calls else "none"} if tools else {}
        try:
            reply = self._client.chat.completions.create(
                model=self.name,
                messages=chat_messages(messages, image),
                temperature=0.0,
                max_tokens=self.max_new_tokens,
                logprobs=True,
                **offered,
            )
        except OpenAIError as error:
            if len(pixels_of(image)) > 1 and getattr(error, "status_code", None) in REFUSALS:
                self.pictures = 1
                raise PicturesRefused(f"{self.base}: {_reason(error)} to several pictures; show it one") from error
            raise SourceError(f"{self.base}: {_reason(error)}; check the address, the model and the key") from error
        if not reply.choices:
            raise SourceError(f"{self.base}: the server gave no answer; see its log")
        return _turn(reply.choices[0])


def chat_messages(messages: Sequence[dict], image: Shown) -> list[dict]:
    """Our chat messages as the API takes them: pictures as data URIs, each tool result with the id of its call."""
    told, number = [], 0
    for message in with_pictures(messages, pixels_of(image)):
        role, content = message["role"], message.get("content")
        if message.get("tool_calls"):
            number += 1
            told.append({"role": role, "content": None, "tool_calls": [_call(message["tool_calls"][0], number)]})
        elif role == "tool":
            told.append({"role": role, "tool_call_id": f"call_{number}", "content": _text(content)})
        else:
            told.append({"role": role, "content": content if isinstance(content, str) else _parts(content)})
    return told


def _call(call: dict, number: int) -> dict:
    function = {"name": call["function"]["name"], "arguments": json.dumps(call["function"]["arguments"])}
    return {"id": f"call_{number}", "type": "function", "function": function}


def _text(content) -> str:
    return content if isinstance(content, str) else "".join(part["text"] for part in content)


def _parts(content: Sequence[dict]) -> list[dict]:
    return [
        {"type": "image_url", "image_url": {"url": data_uri(part["image"])}} if part["type"] == "image" else part
        for part in content
    ]


def data_uri(image: np.ndarray) -> str:
    """uint8 (H, W, 3) RGB as a PNG in a data URI."""
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(image).save(stream, format="PNG")
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"


def _turn(choice) -> Turn:
    told = choice.logprobs.content if choice.logprobs and choice.logprobs.content else []
    probability = float(np.mean([np.exp(token.logprob) for token in told])) if told else 0.0
    if choice.message.tool_calls:
        function = choice.message.tool_calls[0].function
        try:
            text = ToolCall(function.name, json.loads(function.arguments)).to_text()
        except ValueError:
            text = function.arguments  # no call that parses: it counts as text
    else:
        text = (choice.message.content or "").strip()
    return Turn(text, probability, complete=choice.finish_reason != "length")


def _reason(error: Exception) -> str:
    """The server's remark in one short line, without anything that could hold a key."""
    status = getattr(error, "status_code", None)
    return f"{type(error).__name__}{f' {status}' if status else ''}"
